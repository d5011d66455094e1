"""The floor of a backfill with nothing to do: list a tree with `os.scandir` and stat every file."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Scan the folder named on the command line; print how many files it has."""
    pending, found = [sys.argv[1]], 0
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    entry.stat(follow_symlinks=False)
                    found += 1
    print(found)


if __name__ == "__main__":
    main()
