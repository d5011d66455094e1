"""A lab's days, one change after another, with everything that can go wrong; seeded, so that each run can be repeated.

The program itself only changes raw files and forks a child for whatever ingestd does, because it may be killed there.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import crash
import lived
from archive import Archive
from measurement import BROKEN, Measurement

from ingestd.manifest import log

SAME = {"run_id", "ingested_at_utc", "superseded_by"}
"""What may differ between a manifest that grew with the days and one made from raw alone: a moved run keeps its id."""

OF_THE_PATH = {"source_file", "source_mtime_ns", "file_idx", "summary"}
"""What may differ as well where several files hold, or held, the same bytes: which counts depends on the order."""


@dataclass(slots=True)
class Lab:
    """The raw files as they should be, and what ingestd told of runs so far."""

    archive: Archive
    chance: random.Random
    runs: dict[str, Measurement] = field(default_factory=dict)
    bad: set[str] = field(default_factory=set)
    busy: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    made: int = 0

    # ---- what people and instruments do ----------------------------------------------------------------------------

    def change(self) -> None:
        """Do one thing to the raw files."""
        name = self.chance.choices(list(CHANGES), weights=list(CHANGES.values()))[0]
        if name == "measure" or self._idle():
            getattr(self, name)()
            self.counts[name] += 1

    def _idle(self) -> list[str]:
        """Name the files nothing was done to since ingestd last looked: it sees one change of a file at a time."""
        return sorted(self.runs.keys() - self.busy)

    def _pick(self) -> str:
        name = self.chance.choice(self._idle())
        self.busy.add(name)
        return name

    def _put(self, name: str, run: Measurement) -> None:
        self.runs[name] = run
        self.busy.add(name)
        self.archive.put(name, run.data)

    def measure(self) -> None:
        """A new run: queued, or over."""
        self.made += 1
        day = f"2025-{1 + self.made // 80 % 9:02d}-{1 + self.made // 4 % 28:02d}"
        rows = self.chance.choice([0, 1, 3, 3, 8])
        run = lived.number(self.made, chip=self.chance.randrange(60, 66), rows=rows)
        self._put(f"{day}/It{day}_{self.made}.csv", run)

    def grow(self) -> None:
        """More rows."""
        name = self._pick()
        self._put(name, self.runs[name].but(rows=self.runs[name].rows + self.chance.randint(1, 3)))

    def edit(self) -> None:
        """A corrected chip number."""
        name = self._pick()
        self._put(name, self.runs[name].but(chip=self.chance.randrange(60, 66)))

    def restart(self) -> None:
        """A corrected start time."""
        name = self._pick()
        self.made += 1
        self._put(name, self.runs[name].but(start=1758632155.25 + 60 * self.made))

    def touch(self) -> None:
        """The same bytes, another mtime."""
        self.archive.touch(self._pick())

    def copy(self) -> None:
        """A copy beside it."""
        name = self._pick()
        self.made += 1
        to = f"copies/{self.made}/{Path(name).name}"
        self._put(to, self.runs[name])

    def move(self) -> None:
        """A file moved."""
        name = self._pick()
        self.made += 1
        to = f"moved/{self.made}/{Path(name).name}"
        self.archive.move(name, to)
        self.runs[to] = self.runs.pop(name)
        self.busy.add(to)

    def move_folder(self) -> None:
        """A folder renamed, with all that is in it."""
        folder = Path(self._pick()).parts[0]
        inside = [name for name in self.runs if name.startswith(folder + "/")]
        if self.busy.intersection(inside) - {self.chance.choice(inside)} or any(
            n.startswith(folder + "/") for n in self.bad
        ):
            return
        self.made += 1
        to = f"renamed-{self.made}"
        self.archive.move(folder, to)
        for name in inside:
            moved = to + name.removeprefix(folder)
            self.runs[moved] = self.runs.pop(name)
            self.busy.add(moved)

    def delete(self) -> None:
        """A file deleted."""
        name = self._pick()
        self.archive.delete(name)
        del self.runs[name]

    def spoil(self) -> None:
        """A file that is no measurement."""
        self.made += 1
        name = f"bad/{self.made}.csv"
        self.bad.add(name)
        self.archive.put(name, BROKEN + str(self.made).encode())

    # ---- what befalls ingestd ---------------------------------------------------------------------------------------

    def befall(self) -> None:
        """Kill a start, fill the disk, tear or damage a file, or nothing of it; then start."""
        root, kind = self.archive.root.parent, self.chance.choice(FAULTS)
        self.counts[kind] += 1
        number = self.chance.randrange(1, 160)
        if kind == "kill":
            assert crash.forked(crash.killed_at(root, number)) in {0, -9}
        elif kind in {"full", "broken"}:
            code = errno.ENOSPC if kind == "full" else errno.EIO
            assert crash.forked(crash.refused_from(root, number, code)) == 0
        elif kind == "uncompacted":
            assert crash.forked(self._uncompacted) == 0
        elif kind in {"torn", "nul"}:
            self._tear(kind)
        elif kind != "nothing":
            assert crash.forked(self._start) == 0
            assert crash.forked(lambda: self._damage(kind, number)) == 0, kind
            assert crash.forked(lambda: self._mend(f"{kind} {number}")) == 0, kind
        told = root / "told"
        assert crash.forked(lambda: self._start(told)) == 0
        now = set(json.loads(told.read_text()))
        assert self.known <= now, f"runs are lost: {self.known - now}"
        self.known = now
        self.busy.clear()

    def _again(self) -> Archive:
        archive = lived.reopened(self.archive.root.parent)
        archive._ticks += self.archive._ticks
        return archive

    def _start(self, told: Path | None = None) -> None:
        archive = self._again()
        lived.plain_start(archive)
        lived.check_sound(archive)
        lived.check_traces(archive)
        if told is not None:
            told.write_text(json.dumps([row.run_id for row in archive.rows()]))

    def _uncompacted(self) -> None:
        lived.backfill_without_compaction(self._again())

    def _tear(self, kind: str) -> None:
        """Leave the beginning of a record, or NUL bytes, at the end of the log, as a power cut does."""
        numbers = log.segments(self.archive.layout.wal_dir)
        if numbers:
            with log.segment_path(self.archive.layout.wal_dir, numbers[-1]).open("ab") as file:
                file.write(b"00000247 398409" if kind == "torn" else bytes(100))

    def _damage(self, kind: str, position: int) -> None:
        archive = self._again()
        self._want().write_bytes(pickle.dumps(lived.manifest(archive)))
        paths = {
            "table": [archive.layout.manifest_path],
            "notes": [archive.layout.known_files_path],
            "log": sorted(archive.layout.wal_dir.glob("*.log")),
            "parquet": [archive.staged(row) for row in archive.rows() if row.live and row.source_file in self.runs],
            "history": sorted(archive.layout.histories_dir.glob("*.csv")),
        }[kind]
        if paths:
            path = paths[position % len(paths)]
            if position % 3 and path.stat().st_size:
                lived.flip(path, position * 7 % path.stat().st_size, position % 8)
            else:
                path.unlink()

    def _want(self) -> Path:
        return self.archive.root.parent / "want"

    def _mend(self, what: str) -> None:
        """Repair in a process that read nothing before the damage."""
        archive = self._again()
        left = lived.mend(archive, deep=True).left
        assert not left, f"{what}: {left}"
        archive._ticks += 60
        lived.plain_start(archive)
        want, now = pickle.loads(self._want().read_bytes()), lived.manifest(archive)
        differing = {run: (want.get(run), now.get(run)) for run in want.keys() | now if want.get(run) != now.get(run)}
        assert not differing, f"{what}: {differing}"

    # ---- the end ----------------------------------------------------------------------------------------------------

    def compare_with_raw_alone(self) -> None:
        """Compare the manifest with one that a new data root makes of the raw files as they are now."""
        archive = self._again()
        fresh = Archive(archive.root.parent / "fresh")
        fresh.raw.rmdir()
        archive.raw.rename(fresh.raw)
        fresh._ticks = archive._ticks
        lived.plain_start(fresh)
        fresh.raw.rename(archive.raw)
        ours = {row.source_sha256: row for row in archive.rows() if row.live}
        notes = archive.notes()
        bytes_at = {name: sha256((archive.raw / name).read_bytes()).hexdigest() for name in archive.files()}
        holders = Counter(bytes_at.values())
        for row in fresh.rows():
            mine = ours.get(row.source_sha256)
            if mine is None:
                # A copy made before its original was edited stays a copy; from raw alone it is a run of its own.
                note = notes[row.source_file]
                assert (note.outcome, note.source_sha256) == ("duplicate", row.source_sha256)
                continue
            several = holders[row.source_sha256] > 1 or mine.source_file not in bytes_at
            left_out = SAME | (OF_THE_PATH if several else set())
            assert mine.model_dump(exclude=left_out) == row.model_dump(exclude=left_out), f"{mine} {row}"
        theirs = {row.source_sha256 for row in fresh.rows()}
        assert {digest for digest, row in ours.items() if bytes_at.get(row.source_file) == digest} <= theirs
        kinds = {"rejected", "queued"}
        assert {name: note.outcome for name, note in notes.items() if note.outcome in kinds and name in bytes_at} == {
            name: note.outcome for name, note in fresh.notes().items() if note.outcome in kinds
        }
        print(json.dumps({"runs": len(archive.rows()), "fresh": len(theirs)}))
        sys.stdout.flush()


CHANGES = {
    "measure": 10,
    "grow": 5,
    "edit": 2,
    "restart": 1,
    "touch": 2,
    "copy": 2,
    "move": 2,
    "move_folder": 1,
    "delete": 1,
    "spoil": 1,
}
FAULTS = (
    *("nothing", "kill", "kill", "kill", "kill", "full", "broken", "uncompacted", "torn", "nul"),
    *("table", "notes", "log", "parquet", "history"),
)


def main(root: Path, seed: int, turns: int) -> None:
    """Live through `turns` days."""
    lab = Lab(Archive(root), random.Random(seed))
    (root / "config.toml").write_text("[stage]\nbatch_files = 5\n")
    for turn in range(turns):
        for _ in range(lab.chance.randrange(1, 12)):
            lab.change()
        try:
            lab.befall()
        except AssertionError:
            print(f"seed {seed}, turn {turn}: {dict(lab.counts)}", file=sys.stderr)
            raise
    assert crash.forked(lab.compare_with_raw_alone) == 0
    print(json.dumps(lab.counts))


Body = Callable[[], None]

if __name__ == "__main__":
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
