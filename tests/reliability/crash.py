"""One cycle of ingest, histories and compaction in a process of its own, killed at its n-th change of the disk.

Run as a program: it forks a child for every cycle and every start after it. It never uses polars itself, because a
child forked after that would hang.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import pickle
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import lived
from hooks import Hooks

WATCHED = 120
"""Seconds after which a child that hangs is ended."""


def killed_at(root: Path, number: int) -> Callable[[], None]:
    """A cycle that SIGKILL ends just before its change `number`."""

    def body() -> None:
        seen = 0

        def count(name: str, about: tuple[object, ...]) -> None:
            nonlocal seen
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

        archive = lived.reopened(root)
        Hooks(root, count).install()
        lived.plain_start(archive)
        (root.parent / f"{root.name}.calls").write_text(str(seen))

    return body


def refused_from(root: Path, number: int, code: int) -> Callable[[], None]:
    """A cycle whose disk refuses change `number` and all after it with the error `code`; nothing may be rejected.

    What makes room is allowed, unless the disk has become read-only.
    """
    allowed = set() if code == errno.EROFS else {"unlink", "remove", "rmdir", "ftruncate"}

    def body() -> None:
        seen = 0

        def refuse(name: str, about: tuple[object, ...]) -> None:
            nonlocal seen
            seen += 1
            if seen >= number and name not in allowed:
                raise OSError(code, os.strerror(code), str(about[0]))

        archive = lived.reopened(root)
        before = set(lived.manifest(archive))
        Hooks(root, refuse).install()
        lived.start_on_a_bad_disk(archive)
        assert before <= set(lived.manifest(archive))

    return body


def limited(root: Path, size: int) -> Callable[[], None]:
    """A cycle that may write no file larger than `size` bytes."""

    def body() -> None:
        archive = lived.reopened(root)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        lived.start_on_a_bad_disk(archive)

    return body


def starts_well(root: Path, expected: Path) -> Callable[[], None]:
    """A plain start, and what must hold after it."""

    def body() -> None:
        archive = lived.reopened(root)
        want = pickle.loads(expected.read_bytes())  # our own
        acknowledged = set(lived.manifest(archive))
        lived.plain_start(archive)
        assert acknowledged <= set(lived.manifest(archive)), "a run that was ingested is lost"
        lived.check_sound(archive)
        assert lived.manifest(archive) == want["rows"], "another manifest than without the kill"
        assert lived.histories(archive) == want["histories"], "other histories than without the kill"
        assert lived.tree(archive.raw) == want["raw"], "something in 01_raw changed"

    return body


def is_sound(root: Path) -> Callable[[], None]:
    """A plain start over raw files that went back to what they were before the cycle, and what must hold after it."""

    def body() -> None:
        archive = lived.reopened(root)
        raw = lived.tree(archive.raw)
        acknowledged = set(lived.manifest(archive))
        lived.plain_start(archive)
        assert acknowledged <= set(lived.manifest(archive)), "a run that was ingested is lost"
        lived.check_sound(archive)
        assert lived.tree(archive.raw) == raw, "something in 01_raw changed"

    return body


def forked(body: Callable[[], None]) -> int:
    """Run `body` in a child; return 0, the number of the signal that ended it (negative), or 1 for an exception."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(WATCHED)
            body()
        except BaseException:  # the child ends here, whatever it was
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def fault(kind: str, root: Path, number: int) -> Callable[[], None]:
    """Pick what happens to a cycle."""
    if kind == "kill":
        return killed_at(root, number)
    return limited(root, number) if kind == "limit" else refused_from(root, number, int(kind))


def main() -> None:
    """Kill at every change named on the command line; write one JSON line a case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("template", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("expected", type=Path)
    parser.add_argument("cases", nargs="*", help="N, or N,M: at change N, and at change M of the start after it")
    parser.add_argument("--raw", type=Path, help="put these raw files in the place of the others after the kill")
    parser.add_argument("--fault", default="kill", help="kill, limit (N is bytes a file), or an error number")
    given = parser.parse_args()
    for case in given.cases:
        root = given.work / f"case-{case.replace(',', '-')}"
        shutil.copytree(given.template, root)
        ended = [forked(fault(given.fault, root, int(number))) for number in case.split(",")]
        calls = root.parent / f"{root.name}.calls"
        if given.raw is not None:
            shutil.rmtree(root / "data" / "01_raw")
            shutil.copytree(given.raw, root / "data" / "01_raw")
        well = forked(is_sound(root) if given.raw is not None else starts_well(root, given.expected))
        seen = int(calls.read_text()) if calls.exists() else None
        print(json.dumps({"case": case, "ended": ended, "well": well, "calls": seen}), flush=True)
        if well == 0:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
