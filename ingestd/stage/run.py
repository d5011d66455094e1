"""Stage one raw file: read it once; hash, judge, parse and write those bytes as Parquet.

It may run in worker processes, so it decides nothing: it answers with an outcome, and whoever holds the manifest
decides. What needs pyarrow is loaded with the first file: a command with nothing to stage need not wait for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from ingestd import files
from ingestd.errors import Reject, RejectCode, Retry
from ingestd.files import FileStat
from ingestd.manifest.record import Reason
from ingestd.manifest.row import ManifestRow, StartTimeOrigin
from ingestd.raw.header import MAX_FILE_BYTES, START_TIME_LABEL, glance
from ingestd.raw.header_json import header_json
from ingestd.raw.procedures import Registry
from ingestd.raw.settling import Observation, Patience, State, Verdict, judge, judge_outside
from ingestd.raw.start_time import StartTime, start_time
from ingestd.stage.identity import compute_run_id
from ingestd.stage.in_step import Staging, in_step
from ingestd.words import AFTER_CONFIG, CONFIG_FILE

if TYPE_CHECKING:
    from ingestd.raw.run import RawRun


@dataclass(frozen=True, slots=True)
class Prior:
    """What is known of the run that a path already belongs to; `digest` is the SHA-256 of `size` bytes."""

    run_id: str
    digest: str
    size: int
    start_time_utc: datetime
    origin: StartTimeOrigin


@dataclass(frozen=True, slots=True)
class StageTask:
    """One raw file to stage, in the state it was seen in.

    `known` are hashes whose bytes need no parsing: the answer is `Same`. `run_id` sets the id of a run that moved or
    whose plain id is taken. `force` stages again what is staged already. `now` becomes `ingested_at_utc`.
    """

    source_file: str
    status: FileStat
    seen: Observation
    now: datetime
    known: frozenset[str] = frozenset()
    prior: Prior | None = None
    run_id: str | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class StageContext:
    """What every task of a process shares.

    `temporary` is the folder that Parquet is first written to; a raw file of more than `max_file_bytes` is refused.
    """

    raw_root: Path
    temporary: Path
    registry: Registry
    zone: ZoneInfo
    patience: Patience
    max_file_bytes: int


@dataclass(frozen=True, slots=True)
class Staged:
    """The file is staged under a temporary name, not yet decided. `grown`: the prior bytes are a prefix of these."""

    task: StageTask
    row: ManifestRow
    temporary: Path
    grown: bool


@dataclass(frozen=True, slots=True)
class Same:
    """The bytes are known; they were not parsed."""

    task: StageTask
    digest: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The content is at fault."""

    task: StageTask
    digest: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Waiting:
    """The run is not over, or its file is gone; look again later. `digest` is set if its bytes were read."""

    task: StageTask
    verdict: Verdict
    rows: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The world is at fault. `ours`: writing failed, or a thread was refused, so other files will fail as well."""

    task: StageTask
    retry: Retry
    ours: bool = False


Outcome = Staged | Same | Rejected | Waiting | Failed


@dataclass(frozen=True, slots=True)
class _Reading:
    """A file's bytes on their way, and their SHA-256."""

    task: StageTask
    data: bytes
    digest: str


def preload() -> None:
    """Load what staging needs now, so that the first file does not wait for it."""
    from ingestd.raw import run, values  # noqa: F401, PLC0415
    from ingestd.stage import parquet  # noqa: F401, PLC0415


def in_batches(tasks: Iterable[StageTask], *, limit_files: int, limit_mib: float) -> Iterator[list[StageTask]]:
    """Cut tasks into batches of at most so many files and MiB of raw bytes, and at least one file."""
    batch: list[StageTask] = []
    size = 0
    for task in tasks:
        if batch and (len(batch) >= limit_files or size + task.status.size > limit_mib * 2**20):
            yield batch
            batch, size = [], 0
        batch.append(task)
        size += task.status.size
    if batch:
        yield batch


def stage_batch(tasks: Sequence[StageTask], context: StageContext) -> list[Outcome]:
    """Stage several files and flush what was written, together; return outcomes in the tasks' order. Never raises."""
    outcomes = in_step([_staging(task, context) for task in tasks])
    written = [outcome.temporary for outcome in outcomes if isinstance(outcome, Staged)]
    if not written:
        return outcomes
    try:
        files.flush_paths(written)
    except OSError as error:
        retry = files.retry_from(error, context.temporary)
        _unlink(written)
        return [
            Failed(outcome.task, retry, ours=True) if isinstance(outcome, Staged) else outcome for outcome in outcomes
        ]
    return outcomes


def _staging(task: StageTask, context: StageContext) -> Staging:
    """Stage one file: `Staged` (written, not flushed), `Same`, `Rejected`, `Waiting` or `Failed`. Never raises."""
    try:
        return (yield from _steps(task, context))
    except OSError as error:
        return Failed(task, files.retry_from(error, context.raw_root / task.source_file))
    except MemoryError:
        return Failed(task, Retry("not enough memory to read it", next_step="free some memory, or lower stage.workers"))
    except Exception as error:  # a fault of ours must cost one file, never the run
        if _NO_THREAD.match(str(error)):
            return Failed(task, Retry(f"no thread can be started: {error}", next_step=ALLOW_MORE), ours=True)
        return failed_by_fault(task, error)


_NO_THREAD = re.compile(r"(Unknown error: )?Failed to launch worker thread|can't start new thread")
"""How Arrow (`arrow/util/thread_pool.cc`) and CPython say that the system refused a thread."""

ALLOW_MORE = (
    "see that `ulimit -u` and `ulimit -n`, or TasksMax of the unit, allow more processes, threads and open files, or "
    "lower stage.workers"
)
"""What to do if the system refuses a process or a thread."""


def _steps(task: StageTask, context: StageContext) -> Staging:
    from ingestd.raw.run import parse_head  # noqa: PLC0415  # loads pyarrow

    path = context.raw_root / task.source_file
    if task.status.size > context.max_file_bytes:
        return _too_large(task, path, context.max_file_bytes)
    try:
        read = files.read_raw(path, context.max_file_bytes)
    except (FileNotFoundError, NotADirectoryError):
        return _overtaken(task, "it was moved or deleted while ingestd looked at it")
    if read is None:
        return _overtaken(task, "it is no longer a regular file")
    if not (read.before == read.after == task.status and len(read.data) == task.status.size):
        return _overtaken(task, "it changed while it was read")
    yield None
    reading = _Reading(task, read.data, hashlib.sha256(read.data).hexdigest())
    if reading.digest in task.known:
        return Same(task, reading.digest)
    try:
        yield None
        run: RawRun = yield parse_head(read.data, context.registry)
        if (waiting := _waiting(reading, run, context)) is not None:
            return waiting
        row = _row(reading, run, context)
    except Reject as reject:
        return _waiting(reading, None, context) or Rejected(task, reading.digest, reason_of(reject))
    yield None
    return _write(reading, run, row, context)


def _overtaken(task: StageTask, reason: str) -> Waiting:
    return Waiting(task, Verdict(State.RUNNING, reason, "changed"))


def _waiting(reading: _Reading, run: RawRun | None, context: StageContext) -> Waiting | None:
    """Answer `Waiting` for a file that is not settled; `run` is what its bytes were parsed into, None for a reject."""
    task = reading.task
    whole = run is not None and run.table.num_rows > 0 and reading.data.endswith(b"\n")
    if whole and judge_outside(task.seen, context.patience).state is State.SETTLED:
        return None  # another look at the bytes would show nothing new
    look = glance(reading.data)
    verdict = judge(task.seen, look, len(reading.data), context.patience)
    if verdict.state is State.SETTLED:
        return None
    return Waiting(task, verdict, look.rows, reading.digest)


def _write(reading: _Reading, run: RawRun, row: ManifestRow, context: StageContext) -> Outcome:
    from ingestd.stage.parquet import write_run  # noqa: PLC0415  # loads pyarrow

    task, prior = reading.task, reading.task.prior
    temporary = context.temporary / f"{secrets.token_hex(8)}.parquet"
    try:
        write_run(temporary, run.table, row, run.header.text)
    except OSError as error:
        _unlink([temporary])
        return Failed(task, files.retry_from(error, temporary), ours=True)
    grown = (
        prior is not None
        and len(reading.data) > prior.size
        and hashlib.sha256(memoryview(reading.data)[: prior.size]).hexdigest() == prior.digest
    )
    return Staged(task, row, temporary, grown)


def _row(reading: _Reading, run: RawRun, context: StageContext) -> ManifestRow:
    from ingestd.raw.values import interpret  # noqa: PLC0415  # loads pyarrow

    task = reading.task
    values = interpret(run.header, run.procedure, run.table, task.source_file)
    start = _start(reading, run, context.zone)
    same_start = task.prior is not None and task.prior.start_time_utc == start.utc
    prior_id = task.prior.run_id if task.prior is not None and same_start else None
    return ManifestRow(
        run_id=task.run_id or prior_id or compute_run_id(task.source_file, start.utc),
        source_file=task.source_file,
        proc=run.procedure.name,
        date_local=start.utc.astimezone(context.zone).date(),
        start_time_utc=start.utc,
        **values.fields,
        rows=run.table.num_rows,
        start_time_origin=start.origin,
        parameters=header_json(run.header),
        source_size=len(reading.data),
        source_mtime_ns=task.status.mtime_ns,
        source_sha256=reading.digest,
        warnings=[*run.warnings, *values.warnings, *start.warnings],
        ingested_at_utc=task.now,
    )


def _start(reading: _Reading, run: RawRun, zone: ZoneInfo) -> StartTime:
    """Find the start of a run; one taken from path or mtime never changes for a path that already has a row.

    Nor does the start of unchanged bytes, unless forced: the zone may be another one now.
    """
    task = reading.task
    try:
        start = start_time(run.header.start_text, task.source_file, task.status.mtime_ns, zone, task.now)
    except Reject as reject:
        raise reject.at(run.header.line_of(START_TIME_LABEL)) from None
    moved = task.prior is not None and task.prior.digest == reading.digest and not task.force
    if task.prior is not None and (moved or start.origin != "header"):
        warnings = start.warnings if start.origin == task.prior.origin else ()
        return StartTime(task.prior.start_time_utc, task.prior.origin, warnings)
    return start


def _too_large(task: StageTask, path: Path, limit: int) -> Outcome:
    reject = Reject(
        RejectCode.TOO_LARGE,
        f"the file has {task.status.size:,} bytes, more than stage.max_file_mib allows",
        expected=f"at most {limit:,} bytes",
        found=f"{task.status.size:,} bytes",
        next_step=f"check that it is a measurement; if so, raise stage.max_file_mib in {CONFIG_FILE}; {AFTER_CONFIG}",
    )
    # It may have any size, and hashing it would keep all others waiting: only a file that became a run under a larger
    # limit can be known by its bytes.
    digest = files.sha256_of(path) if any(task.known) and task.status.size <= MAX_FILE_BYTES else ""
    if digest is None:
        return _overtaken(task, "it was moved or deleted while ingestd looked at it")
    return Same(task, digest) if digest and digest in task.known else Rejected(task, digest, reason_of(reject))


def reason_of(reject: Reject) -> Reason:
    """Put a reject's texts into the form that is recorded."""
    return Reason(
        code=reject.code.value,
        message=reject.message,
        line=reject.line,
        expected=reject.expected,
        found=reject.found,
        next_step=reject.next_step,
    )


def failed_by_fault(task: StageTask, error: Exception) -> Failed:
    """Answer for a file on which ingestd itself failed, so that the others go on."""
    retry = Retry(
        f"ingestd itself failed on this file: {type(error).__name__}: {error}",
        next_step="please report it with the file; the other files are not affected",
    )
    return Failed(task, retry)


def discard(outcomes: Iterable[Outcome]) -> None:
    """Delete what undecided outcomes wrote; what the disk keeps goes with the process's folder. Never raises."""
    _unlink(outcome.temporary for outcome in outcomes if isinstance(outcome, Staged))


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
