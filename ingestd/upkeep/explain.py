"""The whole story of one raw file or run: raw file -> decisions -> Parquet -> manifest row -> history line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

import polars as pl

from ingestd import files
from ingestd.errors import Corrupt, Retry, UsageError
from ingestd.histories.chip import read_history
from ingestd.ingest.deciding import moved_from
from ingestd.ingest.lost import LostFile, emptied, lost_at
from ingestd.ingest.traces import parse_event, read_reject, soon
from ingestd.layout import Layout
from ingestd.lookup import is_run_id, near_files, refuse_folder, require_raw_root, run_id_of, source_file_of
from ingestd.manifest.record import Event, FileNote
from ingestd.manifest.row import ManifestRow
from ingestd.manifest.store import ManifestStore
from ingestd.manifest.table import rows_of
from ingestd.manifest.view import read_view
from ingestd.raw.header import glance
from ingestd.raw.settling import Observation, State, judge, judge_outside
from ingestd.settings import Settings
from ingestd.stage.parquet import read_row
from ingestd.upkeep.findings import fate_of_copy
from ingestd.upkeep.staged import UNKNOWN_RUN
from ingestd.words import count, quoted, shown
from ingestd.writers import read_writers

_NAMES = ("source_file", "run_id", "superseded_by", "note")
"""Keys of an event, its rows and files that name a file or run; the note of a `moved` event names the old path."""

_MADE_RUNS = {Event.MOVED, *(event for event in Event if event.stages)}


@dataclass(frozen=True, slots=True)
class Content:
    """What a raw file holds now, and whether it is over; `age_s` is the time since its last change, in seconds.

    `rows` is None for a file too large to be staged: it is not looked into.
    """

    size: int
    mtime_ns: int
    age_s: float
    sha256: str | None
    rows: int | None
    state: str
    reason: str
    code: str


@dataclass(frozen=True, slots=True)
class RawFile:
    """A raw file as it is now: its content, or the problem with it.

    `passed_over` tells whether scans skip it because of the problem; `next_step` says what to do about a problem that
    keeps it from being read.
    """

    path: Path
    exists: bool = True
    problem: str = ""
    next_step: str = ""
    passed_over: bool = False
    content: Content | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as values for `json.dumps`, those of the content among them."""
        keys = ("problem", "next_step", "passed_over") if self.problem else ()
        problem = {key: getattr(self, key) for key in keys}
        content = asdict(self.content) if self.content else {}
        return {"exists": self.exists, "path": str(self.path), **problem, **content}


@dataclass(slots=True)
class Story:
    """What is known of one file: `verdict` sums it up; the rest are the facts behind it, oldest event first."""

    source_file: str
    verdict: str
    raw: RawFile
    note: FileNote | None = None
    reject: dict[str, Any] | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    rows: list[ManifestRow] = field(default_factory=list)
    staged: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)


def explain(settings: Settings, asked: str, now: datetime) -> Story:
    """Tell the story of a raw file (its path, also relative to the raw root) or of a run (its id, or 6 digits of it).

    Raises:
        UsageError: there is no such run; or no file is at that path, and nothing is known of it; or it is a folder.
        Corrupt: manifest or log is damaged.
    """
    layout = settings.layout
    store = ManifestStore(layout)
    view = read_view(layout)
    run_id = run_id_of(asked, view["run_id"]) if is_run_id(asked) else None
    known = {*view["source_file"], *store.catalog.notes}
    source_file = _file_of(run_id, view) if run_id else source_file_of(layout, asked, known, anyway=True)
    rows = list(rows_of(view.filter(pl.col("source_file") == source_file)))
    note = store.catalog.notes.get(source_file)
    run_ids = {row.run_id for row in rows} | ({note.run_id} if note and note.run_id else set())
    story = Story(source_file, "", raw=_raw(settings, source_file, now), note=note, rows=rows)
    story.events = sorted(_events(layout, source_file, run_ids), key=itemgetter("seq"))
    if source_file not in known:
        if story.raw.exists:
            refuse_folder(layout, source_file)
        elif not story.events:
            raise _unknown(layout, known, source_file)
    story.staged = [_staged(layout, row) for row in rows if row.live]
    story.history = [line for row in rows if row.live and (line := _history_line(layout, row)) is not None]
    if note is not None and note.outcome == "rejected":
        story.reject = _reject(layout, source_file)
    asked_for = next((row for row in rows if row.run_id == run_id), None)
    lost = {file.run_id: file for file in lost_at(store, source_file)} if story.raw.exists else {}
    if asked_for is not None and (not asked_for.live or run_id in lost):
        story.verdict = _is_run(asked_for, story.raw, lost.get(asked_for.run_id))
        return story
    story.verdict = _verdict(store, story)
    if asked_for is None and (note is None or note.outcome != "queued"):
        story.verdict += "".join(f" {_and_lost(file)}" for file in lost.values())
    return story


def _file_of(run_id: str, view: pl.DataFrame) -> str:
    return str(view.row(by_predicate=pl.col("run_id") == run_id, named=True)["source_file"])


def _reject(layout: Layout, source_file: str) -> dict[str, Any] | None:
    """Read a reject; None if its JSON is gone or torn: `ingestd repair` makes it again."""
    try:
        return read_reject(layout, source_file, until=soon())
    except (UsageError, Corrupt):
        return None


def _unknown(layout: Layout, known: Iterable[str], source_file: str) -> UsageError:
    near = near_files(source_file, known)
    return UsageError(
        "there is no such raw file, and nothing is known of it" + (f"; did you mean {near}?" if near else ""),
        place=shown(str(layout.raw_file(source_file)), 300),
        next_step="give its path below the raw root, or a run id, or at least the first 6 digits of one",
    )


def _raw(settings: Settings, source_file: str, now: datetime) -> RawFile:
    """Look at the raw file as it is now."""
    layout = settings.layout
    path = layout.raw_file(source_file)
    if os.path.lexists(path) and (why := files.why_passed_over(layout.raw_root, source_file)):
        return RawFile(path, problem=why, passed_over=True)
    try:
        read = files.read_raw(path, settings.max_file_bytes)
    except (FileNotFoundError, NotADirectoryError):
        return _not_there(layout, path, source_file)
    except OSError as error:
        retry = files.retry_from(error, path)
        exists = error.errno != errno.ENAMETOOLONG
        return RawFile(path, exists=exists, problem=retry.message, next_step=retry.next_step)
    if read is None:
        return RawFile(path, problem="no regular file", passed_over=True)
    age = read.before.age_s(now)
    whole = len(read.data) <= settings.max_file_bytes
    looked = glance(read.data) if whole else None
    writers = read_writers([read.before], visible=settings.settle.writers_visible)
    seen = Observation(abs(age), writers.writer_of(read.before))
    patience = settings.patience
    verdict = judge(seen, looked, len(read.data), patience) if looked else judge_outside(seen, patience)
    content = Content(
        size=read.before.size,
        mtime_ns=read.before.mtime_ns,
        age_s=round(age, 1),
        sha256=hashlib.sha256(read.data).hexdigest() if whole else files.sha256_of(path),
        rows=looked.rows if looked else None,
        state=verdict.state.value,
        reason=verdict.reason,
        code=verdict.code,
    )
    return RawFile(path, content=content)


def _not_there(layout: Layout, path: Path, source_file: str) -> RawFile:
    """Describe a raw file that is not there; it may exist after all, out of reach or under a name that is not UTF-8."""
    try:
        require_raw_root(layout)
    except (Retry, UsageError) as error:
        return RawFile(path, problem=error.message, next_step=error.next_step)
    odd = re.sub(rb"\\x([89a-f][0-9a-f])", lambda match: bytes([int(match[1], 16)]), os.fsencode(source_file))
    if odd != os.fsencode(source_file) and os.path.lexists(layout.raw_root / os.fsdecode(odd)):
        return RawFile(path, problem="its name is not UTF-8: rename it", passed_over=True)
    return RawFile(path, exists=False)


def _events(layout: Layout, source_file: str, run_ids: set[str]) -> Iterator[dict[str, Any]]:
    """Find the events of a file and its runs, and of runs that moved away from it.

    Only event files whose text names one of them are parsed; a JSON that is not an event of ingestd is skipped. `kept`
    lists where the data that an edit replaced was put.
    """
    names = {source_file, moved_from(source_file), *run_ids}
    wanted = [json.dumps(name, ensure_ascii=False).encode() for name in sorted(names)]
    for path in files.all_below(layout.events_dir, ".json"):
        with files.as_retry(path):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue  # deleted as old while we looked
        if any(text in data for text in wanted):
            try:
                event = parse_event(data)
            except ValueError:
                continue  # torn by a power cut: the next compaction writes it again
            if names.isdisjoint(_named(event)):
                continue  # only another value is the same, such as a procedure or a date
            kept = [layout.relative(layout.stage_root / name) for name in event.get("superseded_parquet", [])]
            yield {**event, "file": layout.relative(path), **({"kept": kept} if kept else {})}


def _named(event: dict[str, Any]) -> Iterator[Any]:
    """List the files and runs that an event names."""
    for part in (event, *event.get("rows", []), *event.get("files", [])):
        yield from (value for key in _NAMES if isinstance(value := part.get(key), str))


def _staged(layout: Layout, row: ManifestRow) -> dict[str, Any]:
    path = layout.staged_file(row)
    try:
        same = read_row(path).source_sha256 == row.source_sha256
        with files.as_retry(path):  # the service may replace it at any time
            size = path.stat().st_size
    except (Corrupt, Retry) as error:
        return {"path": layout.relative(path), "problem": error.message}
    return {"path": layout.relative(path), "size": size, "of_these_bytes": same}


def _history_line(layout: Layout, row: ManifestRow) -> dict[str, Any] | None:
    if row.chip_name is None:
        return None
    path = layout.history_file(row.chip_name)
    try:
        lines = read_history(path).filter(pl.col("run_id") == row.run_id).to_dicts()
    except (UsageError, Retry) as error:
        return {"file": layout.relative(path), "problem": error.message}
    line = lines[0] if lines else {"problem": "it lacks this run: `ingestd chip-histories` writes it again"}
    return {"file": layout.relative(path), **line}


def _moved_away(store: ManifestStore, story: Story) -> str:
    """Say where the run went that was once at a path which now has no file, row or note."""
    here = story.source_file
    for event in reversed(story.events):
        run = store.catalog.run(event.get("run_id") or "")
        left = event.get("event") == Event.MOVED and event.get("note") == moved_from(here)
        was_here = event.get("source_file") == here and event.get("event") in _MADE_RUNS
        if run is not None and run.source_file != here and (left or was_here):
            return f"It is no longer at this path: run {run.run_id} was moved to {run.source_file}."
    return "Its raw file is gone, and it never became a run."


def _verdict(store: ManifestStore, story: Story) -> str:
    raw, note = story.raw, story.note
    before = store.catalog.occupant(story.source_file)
    run = next((row for row in story.rows if before is not None and row.run_id == before.run_id), None)
    now = raw.content
    if now is not None and not store.catalog.is_current(story.source_file, (now.size, now.mtime_ns)):
        return _undecided(store, now, run, known=bool(note or run))
    if raw.problem and not story.rows and note is None:
        return _unread(raw)
    if note is not None and note.outcome == "rejected":
        return _rejected(note, raw, run)
    if note is not None and note.outcome == "queued":
        return _queued(store, note, raw, run)
    if note is not None and note.outcome == "duplicate":
        fate = fate_of_copy(store.catalog, note)
        return f"It is {fate}." if raw.exists else f"It is gone, and was {fate}."
    if not story.rows:
        return _moved_away(store, story)
    live = [row for row in story.rows if row.live]
    if not live:
        return "It was superseded: another run counts in its place."
    return _is_run(run or live[0], raw)


def _unread(raw: RawFile) -> str:
    """Say why a file of which nothing is known cannot be looked into."""
    if raw.passed_over:
        return f"It is passed over: {raw.problem}."
    told = f"It cannot be read: {raw.problem}{f'; {raw.next_step}' if raw.next_step else ''}"
    return told if told.endswith("?") else f"{told}."


def _undecided(store: ManifestStore, now: Content, run: ManifestRow | None, *, known: bool) -> str:
    """Say what comes next for a file whose present state is not decided; `run` is the live run it was."""
    if now.state == State.QUEUED and run is not None:
        file = emptied(store, run, now.code)
        moved = ", unless it was moved, which the next `ingestd backfill` sees"
        return f"{_sentence(file)}{moved if file.copy is None else ''}."
    if now.state != State.SETTLED:
        return f"It is {now.state}: {now.reason}."
    changed = " again, because it changed" if known else ""
    return f"It is over and not staged yet: the service or the next `ingestd backfill` takes it{changed}."


def _rejected(note: FileNote, raw: RawFile, run: ManifestRow | None) -> str:
    """Say why a file is rejected, and what is left of the run it was."""
    retry = f"`ingestd rejects retry {quoted(note.source_file)}`"
    until = f"it stays rejected until its bytes change or {retry} succeeds" if raw.exists else "the file is gone now"
    if raw.passed_over:
        until = f"it is passed over now ({raw.problem}), and {retry} forgets the reject"
    stays = f" Run {run.run_id}, staged from its earlier bytes ({count(run.rows, 'row')}), stays live." if run else ""
    return f"It was rejected ({note.code}); {until}.{stays}"


def _queued(store: ManifestStore, note: FileNote, raw: RawFile, run: ManifestRow | None) -> str:
    """Say what a file without a complete row waits for, or what became of the run it was."""
    if run is not None and not raw.exists:
        return _is_run(run, raw)
    if run is not None:
        return f"{_sentence(emptied(store, run, note.code))}."
    if not raw.exists:
        return "It was queued, and is gone now: it never became a run."
    return f"It is queued: {raw.content.reason if raw.content else 'no complete row yet'}."


def _is_run(row: ManifestRow, raw: RawFile, lost: LostFile | None = None) -> str:
    if row.superseded_by == UNKNOWN_RUN:
        return f"It was run {row.run_id}, superseded by a run that is not known any more."
    if not row.live:
        return f"It was run {row.run_id}, superseded by {row.superseded_by}, which counts in its place."
    where = ""
    if lost is not None:
        where = f" {_and_lost(lost)}"
    elif not raw.exists:
        where = " Its raw file is gone; the staged data stays."
    elif raw.problem:
        where = f" Its raw file cannot be read: {raw.problem}; the staged data stays."
    return f"It is run {row.run_id}: {count(row.rows, 'row')}.{where}"


def _sentence(file: LostFile) -> str:
    return f"{file.message[:1].upper()}{file.message[1:]}: {file.next_step}"


def _and_lost(file: LostFile) -> str:
    return f"{file.source_file}: {file.message}: {file.next_step}."
