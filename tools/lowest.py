"""Print the lower bound of every requirement in pyproject.toml as a pip constraint, one `name==bound` per line.

A requirement whose lower bound is not a plain `>=` (perhaps with an upper `<`) ends the script with its name, so that
`make test-lowest` tests nothing rather than something else.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

LOWER_BOUND = re.compile(r"(?P<name>[A-Za-z0-9._-]+)>=(?P<bound>[0-9][0-9.]*)(,<[0-9.]+)?(; .+)?")


def constraints(pyproject: Path) -> list[str]:
    """Return the sorted constraints of the build system, the package and its `dev` group."""
    with pyproject.open("rb") as file:
        project = tomllib.load(file)
    requirements = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["dependency-groups"]["dev"],
    ]
    return sorted(constraint(requirement) for requirement in requirements)


def constraint(requirement: str) -> str:
    match = LOWER_BOUND.fullmatch(requirement)
    if match is None:
        sys.exit(
            f"pyproject.toml: {requirement!r} has no plain lower bound; write it as name>=version[,<limit][; marker]"
        )
    return f"{match['name']}=={match['bound']}"


if __name__ == "__main__":
    print("\n".join(constraints(Path(__file__).resolve().parents[1] / "pyproject.toml")))
