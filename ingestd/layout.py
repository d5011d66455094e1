"""The one grammar of names below the data root; only the log names its segments itself (`manifest.log`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Protocol

from ingestd import files

PART_NAME = "part-000.parquet"
STAGED_FOLDER = "raw_measurements"
HISTORY_SUFFIX = "_history.csv"
METADATA_NAME = "metadata.csv"
EVENTS_PER_FOLDER = 1000
LONGEST_REJECT = 1500
"""Maximum bytes of a reject's path below `_rejects`; Linux allows 4,095 for the whole path."""

_ANY_RUN = "0" * 20
_STAGED = re.compile(rf"proc=[^/]+/date=\d{{4}}-\d\d-\d\d/run_id=([0-9a-f]{{20}})/{re.escape(PART_NAME)}")


class StagedRun(Protocol):
    """The fields that locate a run's Parquet: a manifest row has them."""

    @property
    def proc(self) -> str: ...
    @property
    def date_local(self) -> date: ...
    @property
    def run_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is, as absolute paths; see "The data root" in `docs/formats.md`."""

    data_root: Path
    raw_root: Path
    stage_root: Path
    manifest_path: Path
    wal_dir: Path
    events_dir: Path
    rejects_dir: Path
    histories_dir: Path
    metadata_dir: Path
    log_file: Path

    @property
    def known_files_path(self) -> Path:
        """The compacted notes about files without a row of their own."""
        return self.manifest_path.with_name("known_files.parquet")

    @property
    def lock_path(self) -> Path:
        """The lock held for an append or a compaction."""
        return self.manifest_path.with_name("lock")

    @property
    def service_lock_path(self) -> Path:
        """The lock a service holds while it runs."""
        return self.manifest_path.with_name("service.lock")

    @property
    def histories_lock_path(self) -> Path:
        """The lock held while histories are written."""
        return self.manifest_path.with_name("histories.lock")

    @property
    def service_state_path(self) -> Path:
        """The state that the service last reported."""
        return self.manifest_path.with_name("service.json")

    @property
    def staged_root(self) -> Path:
        """The root of the live staged Parquet, partitioned Hive style."""
        return self.stage_root / STAGED_FOLDER

    @property
    def superseded_root(self) -> Path:
        """Where staged data that a later edit replaced is kept."""
        return self.stage_root / "_superseded"

    @property
    def temporary_root(self) -> Path:
        """Where each process writes Parquet before it is decided; the next start sweeps what a killed process left."""
        return self.stage_root / "_tmp"

    @property
    def aside_root(self) -> Path:
        """Where repairs keep what they replaced."""
        return self.manifest_path.parent / "aside"

    def raw_file(self, source_file: str) -> Path:
        """Locate a raw file by its path relative to the raw root."""
        return self.raw_root / source_file

    def staged_file(self, run: StagedRun) -> Path:
        """Locate the Parquet of a run."""
        return Path(self._staged(run.proc, run.date_local, run.run_id))

    def staged_name(self, run: StagedRun) -> str:
        """Name the Parquet of a run as people read it: relative to the data root."""
        return self.relative(self._staged(run.proc, run.date_local, run.run_id))

    def staged_name_around_id(self, proc: str, day: date) -> tuple[str, str]:
        """Return the text before and after the run id in the `staged_name` of a procedure's runs of a day."""
        before, _, after = self.relative(self._staged(proc, day, _ANY_RUN)).rpartition(_ANY_RUN)
        return before, after

    def _staged(self, proc: str, day: date, run_id: str) -> str:
        return f"{self.stage_root}/{STAGED_FOLDER}/{partition(proc, day, run_id)}/{PART_NAME}"

    def run_of(self, path: Path) -> str | None:
        """Return the run id in a path that `staged_file` makes; None for any other path."""
        if not path.is_relative_to(self.staged_root):
            return None
        found = _STAGED.fullmatch(path.relative_to(self.staged_root).as_posix())
        return found and found[1]

    def superseded_file(self, run: StagedRun, digest: str) -> Path:
        """Locate the kept Parquet of a replaced version of a run, identified by its raw file's SHA-256."""
        return self.superseded_root / partition(run.proc, run.date_local, run.run_id) / f"{digest[:16]}.parquet"

    def superseded_runs(self, proc: str, day: date, digest: str) -> list[str]:
        """List the runs of a procedure that have a replaced version of this day with this SHA-256.

        Versions of the days next to it count too: they may have been kept when the settings named another time zone.

        Raises:
            Retry: the folder they are in cannot be read; it is not taken for empty.
        """
        days = (day + timedelta(days=shift) for shift in (-1, 0, 1))
        folders = [(self.superseded_root / partition(proc, one, "x")).parent for one in days]
        with files.as_retry(self.superseded_root):
            if not files.exists(folders[0].parent):  # asked for every new file, and of most procedures none is kept
                return []
        kept = (path for folder in folders for path in files.all_below(folder, f"{digest[:16]}.parquet"))
        return [path.parent.name.partition("=")[2] for path in kept]

    def event_file(self, day: date, seq: int, name: str) -> Path:
        """Locate the event JSON of record `seq`: at most `EVENTS_PER_FOLDER` in a folder."""
        block = f"{seq // EVENTS_PER_FOLDER * EVENTS_PER_FOLDER:09d}"
        return self.events_dir / f"{day.isoformat()}/{block}/{seq:09d}-{files.safe_name(name)}.json"

    def reject_file(self, source_file: str) -> Path:
        """Locate the reject JSON of a raw file: its path below `_rejects`, components made safe.

        A folder `x.csv.json` would take the place of the reject of `x.csv`, so its `.json` is written `%2Ejson`. A
        path made safe may be three times as long; beyond `LONGEST_REJECT` bytes, a hash replaces it.
        """
        *folders, name = [files.safe_name(part) for part in PurePosixPath(source_file).parts] or [files.safe_name("")]
        parts = [folder[:-5] + "%2Ejson" if folder.endswith(".json") else folder for folder in folders]
        below = "/".join([*parts, name + ".json"])
        if len(below.encode()) > LONGEST_REJECT:
            below = f"%long/{sha256(source_file.encode('utf-8', 'surrogatepass')).hexdigest()}.json"
        return self.rejects_dir / below

    def history_file(self, chip_name: str) -> Path:
        """Locate the history of a chip; no chip name leads out of the histories folder."""
        return self.histories_dir / (files.safe_name(chip_name) + HISTORY_SUFFIX)

    def relative(self, path: Path | str) -> str:
        """Return a path relative to the data root if it lies below it, else unchanged."""
        return str(path).removeprefix(f"{self.data_root}/")


def is_day(name: str) -> bool:
    """Tell whether a folder's name is a day as the exports write it: `2025-09-23`."""
    return re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", name) is not None


def partition(proc: str, day: date, run_id: str) -> str:
    """Name the Hive partition of a run below the staged root."""
    return f"proc={files.safe_name(proc)}/date={day.isoformat()}/run_id={run_id}"
