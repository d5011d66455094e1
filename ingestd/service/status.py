"""What `ingestd status` shows: the service, every waiting file, the last runs, rejects, troubles. Read-only.

Files are looked at afresh by the rules of the service, so the answer is the same whether the service is up or down.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from ingestd import files
from ingestd.errors import IngestdError, Retry, UsageError
from ingestd.files import FileStat, Scan
from ingestd.ingest.lost import lost_files
from ingestd.layout import Layout
from ingestd.lookup import require_raw_root
from ingestd.manifest.record import FileNote
from ingestd.manifest.store import ManifestStore
from ingestd.manifest.table import LIVE
from ingestd.manifest.view import read_view
from ingestd.raw.header import MAX_HEADER_BYTES, Glance, glance
from ingestd.raw.settling import (
    Observation,
    State,
    Verdict,
    judge,
    judge_outside,
    queued,
)
from ingestd.service.state import SERVICE, RetryingFile, ServiceState, Trouble, check_space, read_state
from ingestd.service.status_report import (
    PENDING,
    RETRYING,
    RejectPart,
    RunPart,
    ServicePart,
    StatusReport,
    WaitingPart,
)
from ingestd.settings import Settings
from ingestd.words import count
from ingestd.writers import read_writers

LAST_RUNS = 5
ROWS_LIMIT = 64 * 2**20
"""Largest file that is looked into, in bytes; a larger one is judged from outside, and its rows are not counted."""

FILES_READ = 1000
"""Beyond this many waiting files, only those that are running are looked into.

Before the first backfill of an archive, all files wait.
"""


def read_status(settings: Settings, now: datetime) -> StatusReport:
    """Look at the data root and the service.

    Raises:
        Corrupt: manifest or log is damaged.
        Retry: the disk of the manifest refused.
    """
    layout = settings.layout
    store = ManifestStore(layout)
    gone_part = _gone(store)  # before a first backfill can begin both
    service, troubles, retrying = _service(layout)
    scan, blind = Scan(), ""
    try:
        require_raw_root(layout)
        scan = files.scan_csvs(layout.raw_root, known=store.catalog.run_files())
    except (Retry, UsageError) as error:
        service = _perhaps_unseen(service, layout)
        blind = f"{layout.raw_root} cannot be looked at: a measurement may be running"
        troubles = _with(troubles, error, now)
    troubles += hidden(scan, layout.raw_root, now)
    if (refused := _refused_disk(settings, service) or gone_part) is not None:
        troubles = _with(troubles, refused, now)
    waiting, lost = _waiting_and_lost(settings, store, scan, retrying, now)
    view = read_view(layout, columns=["superseded_by", *RunPart.model_fields])
    live = view.filter(LIVE)
    # A path that was not known before the scan was decided since: its file came, or was moved there, after the scan.
    gone = [name for name in live["source_file"] if not scan.saw(name) and store.catalog.is_known(name)]
    rejected = [note for note in store.catalog.noted_as("rejected") if scan.saw(note.source_file)]
    rejected.sort(key=lambda note: (-note.source_mtime_ns, note.source_file))  # what is years old hides no new one
    safe_reason = blind or _why_not_power_off(waiting, service)
    return StatusReport(
        service=service,
        safe_to_power_off=not safe_reason,
        safe_reason=safe_reason or "no measurement is running, and nothing is being staged",
        runs=live.height,
        runs_without_raw_file=None if blind or scan.unreadable else len(gone),
        waiting=waiting,
        last_runs=_last_runs(live, now),
        rejects=[_reject(store, note) for note in rejected],
        troubles=troubles + lost,
        log_records=store.pending,
        free_bytes=_free(layout),
    )


def _gone(store: ManifestStore) -> IngestdError | None:
    """Return why nothing will be staged: the manifest is gone beside staged runs, or these beside it."""
    try:
        store.refuse_filled_stage()
        store.refuse_gone_stage()
    except IngestdError as error:
        return error
    return None


def _with(troubles: list[Trouble], error: IngestdError, now: datetime) -> list[Trouble]:
    """Add what was just seen to the service's troubles unless it is among them; it replaces others at its place."""
    seen = Trouble.of(error, now)
    if (seen.message, seen.place) in {(trouble.message, trouble.place) for trouble in troubles}:
        return troubles
    return [*(trouble for trouble in troubles if trouble.place != seen.place), seen]


def hidden(scan: Scan, raw_root: Path, now: datetime) -> list[Trouble]:
    """List what may hide a measurement: what cannot be looked at, and names that no table can hold."""
    unseen = [
        Trouble(
            message=f"cannot be looked at, and may hide a measurement: {why}",
            place=str(raw_root / name),
            next_step=files.to_see(why),
            since=now,
        )
        for name, why in scan.unreadable
    ]
    unnamed = [
        Trouble(
            message="the name of this file is not UTF-8, so it cannot be staged",
            place=str(raw_root / name),
            next_step="rename it",
            since=now,
        )
        for name in scan.undecodable
    ]
    return unseen + unnamed


def _service(layout: Layout) -> tuple[ServicePart, list[Trouble], dict[str, RetryingFile]]:
    state, holder = read_state(layout)
    if holder is None:
        return ServicePart(phase="down"), [], {}
    if holder.work not in {SERVICE, ""}:
        doing = f"{holder.work} ({holder}) holds the data root; no service can run beside it"
        return ServicePart(phase="down", doing=doing), [], {}
    if state is None:
        doing = "it has not written its state yet"
        return ServicePart(phase="starting", doing=doing, pid=holder.pid, host=holder.host), [], {}
    part = ServicePart(
        phase="stopping" if state.phase == "stopped" else state.phase,
        doing=state.doing,
        watching=state.watching,
        pid=state.pid,
        host=state.host,
        started_at=state.started_at,
        changed_config=_changed_config(state),
        backlog=state.backlog,
    )
    return part, _causes(state.troubles), {retry.source_file: retry for retry in state.retrying}


def _causes(troubles: Sequence[Trouble]) -> list[Trouble]:
    """Leave out what is there already: the service has a trouble for each job that a cause prevents."""
    met: dict[tuple[str, str], Trouble] = {}
    for trouble in troubles:
        met.setdefault((trouble.message, trouble.place), trouble)
    return list(met.values())


def _changed_config(state: ServiceState) -> str:
    if state.config_file is None or state.host != socket.gethostname():
        return ""
    try:
        content = state.config_file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        content = b""
    except OSError:  # it may be closed to whoever asks
        return ""
    return "" if hashlib.sha256(content).hexdigest() == state.config_sha256 else str(state.config_file)


def _perhaps_unseen(service: ServicePart, layout: Layout) -> ServicePart:
    """Say when a service that waits for the raw root cannot be told from none: there is no folder for its lock yet."""
    if service.phase != "down" or not files.is_gone(layout.service_lock_path.parent):
        return service
    doing = f"none is seen, but one that waits for {layout.raw_root} would leave no trace until that is there"
    return ServicePart(phase="down", doing=doing)


def _refused_disk(settings: Settings, service: ServicePart) -> Retry | None:
    """Return what a disk here refuses: a service that runs here may have none to write its trouble to."""
    if service.host != socket.gethostname():
        return None
    try:
        files.try_disk(settings.layout.stage_root)
        check_space(settings)
    except Retry as error:
        return error
    return None


def _waiting_and_lost(
    settings: Settings, store: ManifestStore, scan: Scan, retrying: dict[str, RetryingFile], now: datetime
) -> tuple[list[WaitingPart], list[Trouble]]:
    """List the files that wait, and as troubles those that no longer hold the measurement of their run."""
    undecided = store.catalog.undecided(scan.files)
    waiting = _waiting(settings, store, scan.files, undecided, retrying=retrying, now=now)
    rowless = {file.source_file: file.code for file in waiting if file.state == State.QUEUED}
    lost = lost_files(store, rowless, scan.saw, moving={status.size for status in undecided.values()})
    told = {one.source_file for one in lost}
    troubles = [
        Trouble(
            message=one.message,
            place=str(store.layout.raw_file(one.source_file)),
            next_step=one.next_step,
            since=now,
        )
        for one in lost
    ]
    return [file for file in waiting if file.source_file not in told], troubles


def _waiting(
    settings: Settings,
    store: ManifestStore,
    found: dict[str, FileStat],
    undecided: dict[str, FileStat],
    *,
    retrying: dict[str, RetryingFile],
    now: datetime,
) -> list[WaitingPart]:
    notes = {note.source_file: note for note in store.catalog.noted_as("queued")}
    rowless = {name: notes[name].code for name in (notes.keys() & found.keys()) - undecided.keys()}
    asked = undecided | {name: found[name] for name in rowless}
    writers = read_writers(asked.values(), visible=settings.settle.writers_visible)
    waiting = []
    for name, status in sorted(asked.items()):
        age = status.age_s(now)
        seen = Observation(abs(age), writers.writer_of(status))
        if name in rowless:
            waiting.append(_part(name, _rowless(settings, seen, rowless[name]), age, rows=0))
            continue
        part = _undecided(settings, name, status, seen, age, many=len(waiting) >= FILES_READ)
        retry = retrying.get(name)
        if retry is not None and part.state != State.RUNNING:  # one being written is not over, whatever its problem
            part = _retrying(name, age, f"{retry.message} (tried {count(retry.tries, 'time')})", retry.next_step)
        waiting.append(part)
    return waiting


def _rowless(settings: Settings, seen: Observation, code: str | None) -> Verdict:
    """Judge a file decided to be queued: if it is open, the run has begun, perhaps long before its first row."""
    return judge_outside(seen, settings.patience) if seen.writer else queued(code)


def _undecided(
    settings: Settings, name: str, status: FileStat, seen: Observation, age: float, *, many: bool
) -> WaitingPart:
    patience = settings.patience
    verdict = judge_outside(seen, patience)
    may_be_queued, may_be_cut = status.size <= MAX_HEADER_BYTES, seen.unchanged_s < patience.quiet_s
    running = verdict.state is State.RUNNING
    try:
        worth = running or may_be_queued or may_be_cut
        found = None if many and not running else _glance(settings.layout.raw_file(name), status, worth=worth)
    except Retry as error:
        if not running:
            return _retrying(name, age, error.message, error.next_step)
        found = None
    if found is not None:
        verdict = judge(seen, found, status.size, patience)
    rows = None if found is None else found.rows
    if verdict.state is not State.SETTLED:
        return _part(name, verdict, age, rows)
    reason = "over, and not staged yet: the service or the next `ingestd backfill` takes it"
    return WaitingPart(source_file=name, state=PENDING, age_s=age, reason=reason, rows=rows)


def _part(name: str, verdict: Verdict, age: float, rows: int | None) -> WaitingPart:
    return WaitingPart(
        source_file=name, state=verdict.state, age_s=age, reason=verdict.reason, code=verdict.code, rows=rows
    )


def _retrying(name: str, age: float, reason: str, next_step: str) -> WaitingPart:
    return WaitingPart(source_file=name, state=RETRYING, age_s=age, reason=reason, next_step=next_step)


def _glance(path: Path, status: FileStat, *, worth: bool) -> Glance | None:
    """Look into a file if that is worthwhile and it is not too large; else only open it, to see whether we may.

    Raises:
        Retry: it cannot be read.
    """
    try:
        if not worth or status.size > ROWS_LIMIT:
            os.close(files.open_raw(path))
            return None
        read = files.read_raw(path, ROWS_LIMIT)
    except OSError as error:
        if files.is_gone(path):
            return None
        raise files.retry_from(error, path) from error
    return None if read is None else glance(read.data)


def _reject(store: ManifestStore, note: FileNote) -> RejectPart:
    earlier = store.catalog.occupant(note.source_file)
    return RejectPart(source_file=note.source_file, code=note.code or "", run_id=earlier and earlier.run_id)


def _last_runs(live: pl.DataFrame, now: datetime) -> list[RunPart]:
    """List the runs measured last, but none from the future: a wrong clock's would stay the last for years."""
    order = ["start_time_utc", "ingested_at_utc"]
    begun = live.filter(pl.col("start_time_utc") <= now + timedelta(days=1))
    last = begun.top_k(LAST_RUNS, by=order).sort(order, descending=True)
    return [RunPart.model_validate(row) for row in last.select(list(RunPart.model_fields)).to_dicts()]


def _why_not_power_off(waiting: Sequence[WaitingPart], service: ServicePart) -> str:
    running = [file for file in waiting if file.state == State.RUNNING]
    running.sort(key=lambda file: file.code != "writer")  # what is certain comes first
    if running:
        first = running[0]
        if first.code == "writer":
            return f"a measurement is running: {first.source_file}{_and_more(running)}"
        return f"a measurement may be running: {first.source_file}: {first.reason}{_and_more(running)}"
    pending = [file for file in waiting if file.state == PENDING]
    if service.phase != "down" and pending:
        return f"the service has still to stage {pending[0].source_file}{_and_more(pending)}"
    if service.phase == "down" and service.doing:
        return service.doing
    return ""


def _and_more(of: Sequence[WaitingPart]) -> str:
    return f", and {len(of) - 1} more" if len(of) > 1 else ""


def _free(layout: Layout) -> int | None:
    try:
        return files.free_bytes(layout.stage_root)
    except OSError:
        return None
