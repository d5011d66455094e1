"""Cases of `crash.py`: run in programs of their own, two at once."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lived
from archive import Archive
from lived import FULL

HERE = Path(__file__).parent
PYTHONPATH = ":".join(map(str, (HERE, HERE.parent, HERE.parents[1])))


def make_template(lived_in: Archive, folder: Path) -> Path:
    """Make an archive with everything to do, settings of small batches: `root` in `folder`.

    Beside it, `expected` is what an undisturbed cycle makes, `before` the raw files when nothing was to do.
    """
    root, undisturbed = folder / "root", folder / "undisturbed"
    archive = lived.clone(lived_in, root)
    shutil.copytree(archive.raw, folder / "before")
    lived.change_everything(archive)
    (root / "config.toml").write_text("[stage]\nbatch_files = 5\n")
    shutil.copytree(root, undisturbed, symlinks=True)
    done = lived.reopened(undisturbed)
    lived.plain_start(done)
    lived.check_sound(done)
    want = {"rows": lived.manifest(done), "histories": lived.histories(done), "raw": lived.tree(done.raw)}
    (folder / "expected").write_bytes(pickle.dumps(want))
    return root


def crash(
    template: Path, work: Path, cases: list[str], fault: str = "kill", raw: Path | None = None
) -> list[dict[str, Any]]:
    """Run cases in two programs at once; return what became of each. After it, `raw` replaces the raw files."""
    paths = map(str, (template, work, template.parent / "expected"))
    command = [sys.executable, str(HERE / "crash.py"), "--fault", fault, *(["--raw", str(raw)] if raw else []), *paths]
    halves = [half for half in (cases[::2], cases[1::2]) if half]
    programs = [
        subprocess.Popen(
            [*command, *half],
            env={"PYTHONPATH": PYTHONPATH, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for half in halves
    ]
    found: list[dict[str, Any]] = []
    for program in programs:
        out, errors = program.communicate()
        found += [json.loads(line) for line in out.splitlines()]
        assert program.returncode == 0, errors
        if errors:
            print(errors)
    return found


def chosen(count: int, wanted: int, *, every: bool = FULL) -> list[int]:
    """Numbers from 1 to `count`: all of them in a full run, else evenly spread."""
    return (
        list(range(1, count + 1))
        if every or count <= wanted
        else [1 + round(i * (count - 1) / (wanted - 1)) for i in range(wanted)]
    )
