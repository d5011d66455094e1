"""The command line as a person uses it: real processes in a folder with a data root `data`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENTRY = "from ingestd.__main__ import main; main()"
"""What the console script `ingestd` does (`[project.scripts]`)."""

REPOSITORY = Path(__file__).resolve().parents[1]
LONG_AGO = 1_773_446_400
"""An mtime (2026-03-14) after every sample run was over."""


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed on stdout, which must be one JSON value and nothing else."""
        return json.loads(self.out)


class Folder:
    """A folder with a data root `data`, and the commands run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.raw = path / "data" / "01_raw"

    def put(self, name: str | bytes, data: bytes) -> Path:
        """Write a raw file that has been over for long."""
        path = self.raw / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (LONG_AGO, LONG_AGO))
        return path

    def take(self, samples: Path) -> Folder:
        """Copy the sample runs in."""
        shutil.copytree(samples, self.raw, copy_function=shutil.copyfile)
        for path in self.raw.rglob("*.csv"):
            os.utime(path, (LONG_AGO, LONG_AGO))
        return self

    def run(self, *arguments: str, environment: dict[str, str] | None = None) -> Done:
        """Run `ingestd ARGUMENTS` in the folder to its end."""
        done = subprocess.run(
            [sys.executable, "-c", ENTRY, *arguments],
            cwd=self.path,
            env=_environment(environment),
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=100,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str, **streams: Any) -> subprocess.Popen[str]:
        """Begin `ingestd ARGUMENTS` in a process group of its own, as a shell does."""
        given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        return subprocess.Popen(
            [sys.executable, "-c", ENTRY, *arguments],
            cwd=self.path,
            env=_environment(None),
            encoding="utf-8",
            start_new_session=True,
            **given,
        )

    def tree(self) -> dict[str, bytes]:
        """Return every file of the folder with its bytes."""
        return {
            path.relative_to(self.path).as_posix(): path.read_bytes()
            for path in self.path.rglob("*")
            if path.is_file() and not path.is_symlink()
        }


def _environment(more: dict[str, str] | None) -> dict[str, str]:
    # Output is buffered, as it is for everybody: a variable of the caller must not hide what that leads to.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**inherited, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "100", **(more or {})}
