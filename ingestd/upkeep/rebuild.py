"""Rebuild the manifest from the stage, or from the raw files: `ingestd rebuild-manifest`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ingestd import files
from ingestd.backfill.report import Report
from ingestd.backfill.run import EngineOf, Options, backfill, engine_of
from ingestd.errors import Damaged, UsageError
from ingestd.histories.blocked import problem_of
from ingestd.ingest.commit import Clock, opened, utc_now
from ingestd.lookup import require_raw_root
from ingestd.manifest.store import gone_stage
from ingestd.settings import Settings
from ingestd.upkeep.aside import Aside
from ingestd.upkeep.events import read_events
from ingestd.upkeep.half_done import end_half_done, locked
from ingestd.upkeep.restore import keep_unstaged, recorded_rows, restored_notes, write_manifest
from ingestd.upkeep.salvage import salvage
from ingestd.upkeep.staged import StageContent, read_stage, rows_of_stage


class Rebuilt(NamedTuple):
    """What a rebuild did: how many `rows` it wrote, where the old manifest is kept, the backfill that followed."""

    rows: int
    aside: Path
    report: Report | None = None


def rebuild_manifest(
    settings: Settings, *, from_raw: bool, clock: Clock = utc_now, engine: EngineOf = engine_of
) -> Rebuilt:
    """Rebuild the manifest from the stage alone; with `from_raw`, then stage every raw file again over it.

    The rows are those of before, except for the ingest time; runs whose raw file is gone keep their staged row, and
    those whose Parquet is gone keep the row they had. The old table and log are kept aside, and so are the reject JSONs
    of which the new manifest knows nothing: the next start rejects what is still there again. `engine` opens what
    stages.

    Raises:
        Corrupt: a staged Parquet is damaged, so its run would be lost; nothing was changed.
        UsageError: there is no stage, or no raw root to stage from.
        LockHeld: another process held the manifest's lock for too long.
        Retry: the disk refused; or the folder of staged runs is gone, and with `from_raw` there would be a new one.
    """
    layout = settings.layout
    if not files.is_dir(layout.stage_root):
        raise UsageError(
            "there is no stage here to rebuild a manifest from",
            place=str(layout.stage_root),
            next_step="check the data root (`ingestd config show` lists the paths), or make one: `ingestd backfill`",
        )
    if from_raw:
        require_raw_root(layout)
    aside = Aside(layout, clock())
    with locked(layout, settings.manifest.lock_timeout_s):
        _refuse_damaged(read_stage(layout))
        events, found = read_events(layout), salvage(layout)
        if from_raw and found.rows and files.is_gone(layout.staged_root):
            raise gone_stage(layout)
        end_half_done(layout, recorded_rows(layout, found, events), aside.move)
        rows = rows_of_stage(read_stage(layout), events)
        keep_unstaged(rows, found, events)
        write_manifest(settings, found, events, rows, aside)
        rejects = (note for note in restored_notes(found, events) if note.outcome == "rejected")
        rejected = {layout.reject_file(note.source_file) for note in rejects}
        aside.move(*sorted({*files.all_below(layout.rejects_dir, ".json")} - rejected))
    if from_raw:
        return Rebuilt(len(rows), aside.folder, backfill(settings, Options(force=True, clock=clock, engine=engine)))
    with opened(settings, clock) as ingest:
        problem = problem_of(ingest.refresh_histories())
    if problem is not None:
        raise problem
    return Rebuilt(len(rows), aside.folder)


def _refuse_damaged(stage: StageContent) -> None:
    for path, error in stage.damaged.items():
        others = f" (and {len(stage.damaged) - 1} more)" if len(stage.damaged) > 1 else ""
        raise Damaged(
            f"{error.message}{others}; its run would be lost",
            place=str(path),
            next_step="run `ingestd repair --apply` first: it stages the run again from its raw file",
        )
