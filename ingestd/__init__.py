"""ingestd stages a measurement lab's raw CSV runs and keeps their manifest and chip histories.

The way of one run:

    01_raw/2026-03-12/IVg2026-03-12_1.csv        the instrument program writes it; ingestd only reads it
      -> settled?          raw.settling          at least one row, nobody writes to it, unchanged for a while
      -> header and table  raw                   bytes become values, or a reject with line and reason
      -> Parquet           stage                 02_stage/raw_measurements/proc=IVg/date=2026-03-12/run_id=.../
      -> decision          ingest                new, grown, edited, moved, a copy: one measurement, one row
      -> log record        manifest              durable: now the run is ingested
      -> event JSON        ingest.traces         what was decided, and why
      -> history           histories             Biotite3_history.csv, one line per run
      -> compaction        manifest              manifest.parquet, the one table that other programs read

`ingestd backfill` does this for an archive, `ingestd run` as a service. The same from Python, where a failure
raises an `IngestdError` (`Reject`, `Retry`, `Corrupt` or `UsageError`) that names its place and what to do next:

    import ingestd
    runs = ingestd.load_manifest("data")
    frame = ingestd.load_run(runs["run_id"][0], "data")
    history = ingestd.load_history("Biotite3", "data")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingestd.api import (
        build_chip_history,
        load_history,
        load_manifest,
        load_run,
        read_and_normalize,
        stage_run,
    )
    from ingestd.errors import Corrupt, IngestdError, LockHeld, Reject, RejectCode, Retry, UsageError
    from ingestd.manifest.row import ManifestRow
    from ingestd.raw.start_time import ensure_start_time_utc
    from ingestd.stage.identity import compute_run_id

__version__ = "0.1.0"

__all__ = [
    "Corrupt",
    "IngestdError",
    "LockHeld",
    "ManifestRow",
    "Reject",
    "RejectCode",
    "Retry",
    "UsageError",
    "__version__",
    "build_chip_history",
    "compute_run_id",
    "ensure_start_time_utc",
    "load_history",
    "load_manifest",
    "load_run",
    "read_and_normalize",
    "stage_run",
]

_ROOMS = {
    "ManifestRow": "ingestd.manifest.row",
    "compute_run_id": "ingestd.stage.identity",
    "ensure_start_time_utc": "ingestd.raw.start_time",
    **dict.fromkeys(
        ("Corrupt", "IngestdError", "LockHeld", "Reject", "RejectCode", "Retry", "UsageError"), "ingestd.errors"
    ),
}
"""Where a name of the API lives, unless in `ingestd.api`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'ingestd' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_ROOMS.get(name, "ingestd.api")), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
