"""Repair what `verify` or a start reports: a plan first, then the same plan carried out. Nothing is deleted.

What is damaged or out of place is moved to `_manifest/aside/<time>/`; table and log are restored from what is left of
them and from the rows inside the staged Parquet; Parquet that is missing is staged again from its raw file.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ingestd import files
from ingestd.backfill.run import EngineOf, Options, backfill, engine_of
from ingestd.errors import Damaged, IngestdError
from ingestd.histories.blocked import problem_of
from ingestd.histories.chip import update_histories
from ingestd.ingest.commit import Clock, opened, utc_now
from ingestd.layout import Layout
from ingestd.lookup import raw_file_is_gone, require_raw_root
from ingestd.manifest import log
from ingestd.manifest.catalog import Catalog, KnownRun
from ingestd.manifest.record import Event, Record
from ingestd.manifest.store import ManifestStore, manifest_lock
from ingestd.settings import Settings
from ingestd.stage.parquet import read_row
from ingestd.upkeep.aside import Aside
from ingestd.upkeep.events import read_events
from ingestd.upkeep.findings import Finding
from ingestd.upkeep.half_done import end_half_done, leftovers, locked, places_half_done
from ingestd.upkeep.packed import PackedRows
from ingestd.upkeep.restore import checked_state, lost_rows, recorded_rows, restored_rows, write_manifest
from ingestd.upkeep.salvage import salvage
from ingestd.upkeep.staged import StageContent, places_in, read_stage
from ingestd.upkeep.verify import is_at_its_path, missing, verify

OUT_OF_PLACE = frozenset({"parquet-damaged", "parquet-stray", "parquet-orphan"})
"""Findings for which Parquet is set aside."""

STAGE_KINDS = frozenset({"parquet-missing", "parquet-differs", "parquet-cells", "raw-bytes"})
"""Findings for which a run's raw file is staged again."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing a repair does or would do: in words, with the files it concerns, relative to the data root."""

    kind: str
    message: str
    paths: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Repair:
    """What a repair did or would do; `aside` is where things were moved, `left` what it could not repair.

    `undecided` are the raw files that are not decided once the repair is done, including those whose run was lost with
    row and Parquet. `more_may_follow` marks a plan that ends with the manifest, because other damage shows only when
    that is restored. `stopped_by` is the error that ended the repair early: the last of `steps` may not be done, and
    what is left is not known.
    """

    steps: list[Step] = field(default_factory=list)
    applied: bool = False
    aside: Path | None = None
    left: list[Finding] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    more_may_follow: bool = False
    stopped_by: IngestdError | None = None


def repair(
    settings: Settings, *, apply: bool, deep: bool = False, clock: Clock = utc_now, engine: EngineOf = engine_of
) -> Repair:
    """Plan the repair of everything that `verify` calls damage; with `apply`, carry it out.

    `deep` also repairs what only `verify(deep=True)` sees; `engine` opens what stages again.

    Raises:
        NewerVersion: a file was written by a newer ingestd.
        UsageError: there is neither a stage nor a raw root.
        LockHeld: another process held the manifest's lock for too long.
        Retry: the disk refused.

    After the first step of an `apply` these are no longer raised but returned as `stopped_by`. What was done until then
    is sound, and another repair continues from there.
    """
    if not files.exists(settings.layout.stage_root):
        require_raw_root(settings.layout)
    job = _Job(settings, Options(clock=clock, engine=engine), apply=apply, deep=deep)
    try:
        broken = job.mend_manifest()
        if apply or not broken:
            job.mend_stage()
        else:
            job.done.more_may_follow = True
        if apply:
            job.finish()
    except (IngestdError, OSError) as error:
        if not apply or not job.done.steps:
            raise
        told = error if isinstance(error, IngestdError) else files.retry_from(error, settings.layout.data_root)
        job.done.stopped_by = told
    job.done.aside = None if files.is_gone(job.aside.folder) else job.aside.folder
    return job.done


class _Job:
    """One repair: every step is noted, and carried out if `apply` is set."""

    def __init__(self, settings: Settings, options: Options, *, apply: bool, deep: bool) -> None:
        self.settings = settings
        self.layout = settings.layout
        self.options = options
        self.apply = apply
        self.deep = deep
        self.aside = Aside(self.layout, options.clock())
        self.done = Repair(applied=apply)

    def _step(self, kind: str, message: str, paths: Iterable[Path | str]) -> bool:
        """Note a step about these files, if there are any; return whether to carry it out."""
        named = [self.layout.relative(path) if isinstance(path, Path) else path for path in paths]
        if named:
            self.done.steps.append(Step(kind, message, named))
        return bool(named) and self.apply

    # ---- table and log ----------------------------------------------------------------------------------------------

    def mend_manifest(self) -> bool:
        """Restore table and log if they cannot be opened, which is returned; note that a torn end will be cut."""
        found = salvage(self.layout)
        damages = found.damages or _refusals(self.layout)
        if damages:
            causes = "; ".join(f"{Path(error.place).name}: {error.message}" for error in damages)
            rows = restored_rows(found, read_stage(self.layout), read_events(self.layout))
            message = (
                f"restore the manifest ({causes}): {len(found.rows)} runs from the sound "
                f"part of table and log, {len(rows)} with those from the stage"
            )
            if self._step("manifest", message, [self.layout.manifest_path, self.layout.wal_dir]):
                self._restore_manifest()
        elif (torn := log.torn_segment(self.layout.wal_dir)) is not None:
            self._step("log-torn", "cut the incomplete end of the log (kept beside it)", [torn])
        return bool(damages)

    def _restore_manifest(self) -> None:
        layout = self.layout
        with locked(layout, self.settings.manifest.lock_timeout_s):
            found = salvage(layout)
            events = read_events(layout)
            end_half_done(layout, recorded_rows(layout, found, events), self.aside.move)
            rows = restored_rows(found, read_stage(layout), events)
            write_manifest(self.settings, found, events, rows, self.aside)

    # ---- stage, rejects and histories -------------------------------------------------------------------------------

    def mend_stage(self) -> None:
        """Bring stage, rejects and histories into line with a manifest that opens."""
        if self.apply:
            with locked(self.layout, self.settings.manifest.lock_timeout_s):
                end_half_done(self.layout, ManifestStore(self.layout).full_rows, self.aside.move)
        half_done = places_half_done(self.layout)
        store = ManifestStore(self.layout)
        stage = read_stage(self.layout, places_in(self.layout, store.catalog))
        self._adopt(lost_rows(store, stage, half_done))
        self._move("leftovers", "set leftover temporary files aside", leftovers(self.layout))
        found = verify(self.settings, deep=self.deep).findings
        damages = [finding for finding in found if finding.level == "damage"]
        store.refresh()
        adopted = set(lost_rows(store, stage, half_done))
        astray = self._astray(store.catalog, stage)
        out_of_place = [
            self.layout.data_root / finding.path
            for finding in damages
            if finding.kind in OUT_OF_PLACE and finding.run_id not in adopted
        ]
        self._move_parquet(store, out_of_place, {path: place for path, (_, place) in astray.items()})
        gone = [self.layout.staged_root] if store.stage_is_gone else []
        if self._step("stage-folder", "make the folder of the staged runs again, which is gone", gone):
            files.make_folders(self.layout.staged_root)
        self._stage_again(store, damages, adopted | {run_id for run_id, _ in astray.values()})
        self._retry_rejects(store, damages)
        histories = [finding.path for finding in damages if finding.kind.startswith("history")]
        if self._step("histories", "write these histories again", histories):
            self.aside.keep([self.layout.data_root / path for path in histories])

    def _adopt(self, rows: PackedRows) -> None:
        message = "add these runs to the manifest again from their staged Parquet"
        if not self._step("adopt", message, [row.source_file for row in rows.values()]):
            return
        with opened(self.settings, self.options.clock) as ingest, ingest.store.transaction():
            place_of = places_in(self.layout, ingest.store.catalog)
            for row in lost_rows(ingest.store, read_stage(self.layout, place_of)).values():
                known = ingest.store.catalog.run(row.run_id)
                record = Record(
                    seq=ingest.store.next_seq,
                    at=self.options.clock(),
                    event=Event.RESTAGED if known else Event.INGESTED,
                    source_file=row.source_file,
                    run_id=row.run_id,
                    rows=[checked_state(self.layout, row)],
                    note="the manifest had lost it; it was restored from its staged Parquet",
                )
                ingest.store.decide(record)
            ingest.store.commit()

    def _move(self, kind: str, message: str, paths: Sequence[Path]) -> None:
        if self._step(kind, message, paths):
            self.aside.move(*paths)

    def _move_parquet(self, store: ManifestStore, paths: Sequence[Path], astray: Mapping[Path, Path]) -> None:
        """Set aside the Parquet that is still out of place, and put back what is `astray` (path -> its place).

        That is done under the manifest's lock, when nobody else decides. What is put back is first linked beside its
        place: however the repair ends, it is in the stage, where the next one finds it.
        """
        move = self._step("parquet", "set aside Parquet that is damaged or belongs to no run", paths)
        put_back = self._step("put-back", "put moved Parquet back in its place", astray.values())
        if not move and not put_back:
            return
        with manifest_lock(self.layout).held(self.settings.manifest.lock_timeout_s):
            store.refresh()
            place_of = places_in(self.layout, store.catalog)
            stage = read_stage(self.layout, place_of, [path for path in paths if files.exists(path)])
            orphans = (self.layout.staged_file(row) for row in stage.live.values() if place_of(row.run_id) is None)
            wrong = {*stage.damaged, *stage.strays, *orphans}
            with files.as_retry(self.layout.staged_root):
                waiting, made = dict[Path, Path](), list[Path]()
                for path, place in astray.items():
                    if path in wrong and (place in wrong or not files.exists(place)):
                        beside = _free_beside(place)
                        made += files.preserve(path, beside)
                        waiting[beside] = place
                files.flush_paths([*(place.parent for place in waiting), *made])
                self.aside.move(*sorted(wrong))
                for beside, place in waiting.items():
                    beside.rename(place)
                files.flush_paths([place.parent for place in waiting])

    def _astray(self, catalog: Catalog, stage: StageContent) -> dict[Path, tuple[str, Path]]:
        """Find Parquet that was moved by hand: path -> the run whose Parquet is gone, and the place it belongs in."""
        found: dict[str, tuple[Path, Path]] = {}
        for path in stage.strays:
            row = read_row(path)
            run = catalog.run(row.run_id)
            if run is None or not run.live or row.run_id in stage.live:
                continue
            place = self.layout.staged_file(row)
            if row.source_sha256 == run.source_sha256 and place == self.layout.staged_file(run):
                found[row.run_id] = (path, place)
        return {path: (run_id, place) for run_id, (path, place) in found.items()}

    def _stage_again(self, store: ManifestStore, damages: Sequence[Finding], adopted: set[str]) -> None:
        catalog = store.catalog
        wrong = {finding.run_id for finding in damages if finding.kind in STAGE_KINDS and finding.run_id}
        damaged = {self.layout.data_root / finding.path for finding in damages if finding.kind == "parquet-damaged"}
        wrong |= {run_id for path in damaged if (run_id := self.layout.run_of(path))}
        wrong -= adopted
        runs = [run for run_id in wrong if (run := catalog.run(run_id)) is not None and run.live]
        lost = {run for run in runs if not self._has_raw_file(catalog, run)}
        sources = sorted({run.source_file for run in runs if run not in lost})
        if not self.apply:
            self._leave(store, sorted(lost), damages, damaged)
        if self._step("stage-again", "stage again from the raw files", sources):
            staged = [self.layout.staged_file(run) for run in runs]
            self.aside.keep(staged)
            self._backfill(replace(self.options, force=True, only=frozenset(sources)))

    def _leave(
        self, store: ManifestStore, lost: Sequence[KnownRun], damages: Sequence[Finding], damaged: Collection[Path]
    ) -> None:
        """Note what will be left of the damage: runs that have no raw file, with what their Parquet will be then."""
        ids = {run.run_id for run in lost}
        left = [finding for finding in damages if finding.run_id in ids]
        named = {finding.run_id for finding in left}
        for run in lost:
            place = self.layout.staged_file(run)
            if run.run_id not in named and (place in damaged or not files.exists(place)):
                left.append(missing(store, run))
        self.done.left += left

    def _has_raw_file(self, catalog: Catalog, run: KnownRun) -> bool:
        """Tell whether a run's raw file is there, within reach, and was last decided to be that run."""
        if not is_at_its_path(catalog, run):
            return False
        try:
            return files.state_below(self.layout.raw_root, run.source_file) is not None
        except OSError:
            return False

    def _retry_rejects(self, store: ManifestStore, damages: Sequence[Finding]) -> None:
        strays = [self.layout.data_root / finding.path for finding in damages if finding.kind == "reject-stray"]
        self._move("rejects", "set aside reject JSONs whose file is not rejected", strays)
        missing = {finding.path for finding in damages if finding.kind in {"reject-missing", "reject-damaged"}}
        store.refresh()
        notes = store.catalog.notes
        rejected = sorted(name for name in notes if self.layout.relative(self.layout.reject_file(name)) in missing)
        if self._step("rejects", "look at these rejected files again, to record the reason", rejected):
            self.aside.move(*map(self.layout.reject_file, rejected))
            with opened(self.settings, self.options.clock) as ingest:
                ingest.forget([name for name in rejected if raw_file_is_gone(self.layout, name)])
            self._backfill(replace(self.options, force=True, only=frozenset(rejected)))

    def _backfill(self, options: Options) -> None:
        """Stage again; histories and compaction wait until all that may be in their way is set aside (`finish`)."""
        stopped_by = backfill(self.settings, replace(options, histories=False, compact=False)).stopped_by
        if stopped_by is not None:
            raise stopped_by

    def finish(self) -> None:
        """Cut what is torn, write every history, compact, and look at what is left."""
        with opened(self.settings, self.options.clock) as ingest:
            with ingest.store.transaction():
                pass  # a torn end of the log is set aside and cut
            ingest.refresh_histories()
            problem = problem_of(update_histories(self.settings))
            ingest.compact()
            problem = problem or ingest.reject_problem
        if problem is not None:
            raise problem
        found = verify(self.settings, deep=self.deep).findings
        self.done.left = [finding for finding in found if finding.level == "damage"]
        self.done.undecided = [finding.path for finding in found if finding.kind == "raw-undecided"]


def _free_beside(place: Path) -> Path:
    """Name a free place in the same folder for Parquet that waits until its own is free."""
    names = (place.with_name(f"put-back-{number}.parquet") for number in itertools.count(1))
    return next(path for path in names if not files.is_taken(path))


def _refusals(layout: Layout) -> list[Damaged]:
    """Return why the manifest cannot be opened although each of its files reads well: a segment is missing, say."""
    try:
        ManifestStore(layout)
    except Damaged as error:
        return [error]
    return []
