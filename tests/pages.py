"""The documents, by section: `from pages import section`."""

from __future__ import annotations

from pathlib import Path


def section(page: Path, title: str) -> str:
    """Return what stands in a page below the heading `## <title>`, up to the next heading of that level."""
    _, heading, rest = page.read_text("utf-8").partition(f"\n## {title}\n")
    assert heading, f"{page.name} has no heading {title}"
    return rest.partition("\n## ")[0]
