"""What compares a staged file with the runs that it may be: by their rows, or by a version that was kept."""

from __future__ import annotations

from pathlib import Path

from ingestd.errors import Damaged, OutOfReach, Retry
from ingestd.files import is_gone
from ingestd.layout import Layout
from ingestd.manifest.catalog import KnownRun
from ingestd.manifest.row import ManifestRow
from ingestd.manifest.store import ManifestStore
from ingestd.raw.start_time import tells_start
from ingestd.stage.run import Staged


def has_other_rows(layout: Layout, old: KnownRun, outcome: Staged) -> bool:
    """Tell whether a file at a run's path is another measurement: an edit leaves most rows as they are.

    If the run's Parquet is gone, the version kept aside tells (an older manifest was put back, say); if nothing of it
    can be read, nothing tells that it is the same measurement.

    Raises:
        OutOfReach: the run's Parquet cannot be read now.
        NewerVersion: a newer ingestd wrote it.
    """
    from ingestd.stage.parquet import read_run, share_rows  # noqa: PLC0415  # loads pyarrow

    if old.source_sha256 == outcome.row.source_sha256:
        return False
    if old.proc != outcome.row.proc:
        return True
    staged, aside = layout.staged_file(old), layout.superseded_file(old, old.source_sha256)
    try:
        return not share_rows(read_run(aside if is_gone(staged) else staged), read_run(outcome.temporary))
    except Damaged:
        return True


def begins_as(layout: Layout, old: KnownRun, parquet: Path) -> bool:
    """Tell whether what is staged begins with all rows of a run.

    Raises:
        OutOfReach: one of the two cannot be read now.
        NewerVersion: a newer ingestd wrote one of them.
    """
    from ingestd.stage.parquet import begins_with, read_run  # noqa: PLC0415  # loads pyarrow

    try:
        return begins_with(read_run(parquet), read_run(layout.staged_file(old)))
    except Damaged:
        return False


def edited_original_of(store: ManifestStore, row: ManifestRow) -> KnownRun | None:
    """Find the live run whose raw file had these bytes and was edited since.

    Its known copies tell, or the version of it that was kept. The latter counts only if both headers give the start:
    otherwise another measurement may have taken the run's path, and so its id.

    Raises:
        OutOfReach: the versions that were kept cannot be looked at now.
    """
    catalog = store.catalog
    if (known := catalog.edited_original_of(row.source_sha256)) is not None:
        return known
    try:
        kept = store.layout.superseded_runs(row.proc, row.date_local, row.source_sha256)
    except Retry as error:
        raise OutOfReach(error.message, place=error.place, next_step=error.next_step) from error
    if not kept or not tells_start(row.parameters):
        return None
    heirs = {run.run_id: run for run in map(catalog.heir_of, kept) if run is not None}
    rows = store.full_rows(list(heirs)).values()
    return next((heirs[one.run_id] for one in rows if tells_start(one.parameters)), None)
