"""Put what the demo prints into README.md, between its marks; a test compares the two."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- demo: begin -->\n```console\n).*?(```\n<!-- demo: end -->)", re.DOTALL)


def demo_output(repository: Path) -> str:
    """Run the demo with this Python's `ingestd` and return what it prints."""
    inherited = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL"}}
    path = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)])
    done = subprocess.run(
        ["sh", "tools/demo.sh"], cwd=repository, env={**inherited, "PATH": path}, capture_output=True, check=True
    )
    return done.stdout.decode("utf-8").strip("\n") + "\n"


def shown_output(readme: str) -> str:
    """Return what README.md says the demo prints."""
    found = BLOCK.search(readme)
    if found is None:
        raise ValueError("README.md has no demo block")
    return found[0][len(found[1]) : -len(found[2])]


if __name__ == "__main__":
    readme = REPOSITORY / "README.md"
    output = demo_output(REPOSITORY)
    readme.write_text(BLOCK.sub(lambda found: found[1] + output + found[2], readme.read_text("utf-8")), "utf-8")
