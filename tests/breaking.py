"""An interpreter for worker processes that can be broken and mended while others use it."""

from __future__ import annotations

import os
import sys
from multiprocessing import resource_tracker, spawn
from pathlib import Path


class Breakable:
    """A program in a folder that is Python, or, while it is broken, ends at once; it notes each of its lives."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "python-of-workers"
        self._broken, self._lives = folder / "broken", folder / "lives"
        broken = f'[ -e "{self._broken}" ] && [ "$(wc -l < "{self._lives}")" -le "$(cat "{self._broken}")" ]'
        life = f'echo . >> "{self._lives}"\n{broken} && exit 1'
        self.path.write_text(f'#!/bin/sh\n{life}\nexec "{sys.executable}" "$@"\n')
        self.path.chmod(0o755)

    def lives(self) -> int:
        """Count the processes that were begun."""
        return len(self._lives.read_text().split()) if self._lives.exists() else 0

    def break_it(self, lives: int = 10**6) -> None:
        """Have every further process, or so many, end before it does anything."""
        self._broken.write_text(str(self.lives() + lives))

    def mend(self) -> None:
        """Have further processes run again."""
        self._broken.unlink()


def run_service() -> None:
    """Run the command of this process's arguments with workers of the interpreter named first."""
    from ingestd.__main__ import main  # a child process need not load it

    resource_tracker.ensure_running()  # multiprocessing's own helper is no worker
    spawn.set_executable(os.fspath(sys.argv[1]))
    sys.argv[:] = ["ingestd", *sys.argv[5:]]
    main()


if __name__ == "__main__":
    run_service()
