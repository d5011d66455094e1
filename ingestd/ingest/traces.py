"""What people read about single decisions: one event JSON each, and one reject JSON per rejected file.

Both follow from the log and can be made again from it, so they are written after it and flushed at compaction.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pydantic_core import to_json

from ingestd import files
from ingestd.errors import Damaged, RejectCode, Retry, UsageError
from ingestd.layout import Layout
from ingestd.manifest.record import Event, FileNote, Reason, Record
from ingestd.raw_guard import check_outside_raw
from ingestd.words import quoted, shown, utc_text

TOGETHER = 256
"""How many records' traces are held in memory at a time."""

JSON_S = 1.0
"""How long a reject JSON that is not there yet is waited for, in seconds."""

_LOOK_S = 0.01


def write_traces(
    layout: Layout,
    zone: ZoneInfo,
    records: Sequence[Record],
    notes: Mapping[str, FileNote],
    *,
    durable: bool = False,
) -> list[tuple[Record, Retry]]:
    """Write the event JSON of each record and bring the reject JSONs of their files up to date.

    `notes` are the files known now: a reject JSON exists exactly while its file is noted as rejected. With `durable`,
    all traces are flushed, including earlier ones, and what a killed process left half-written is removed.

    Returns the records whose reject JSON could not be written or removed, and why: a folder is in its place, say.

    Raises:
        Retry: the disk refused; calling it again completes what is missing.
    """
    written: list[Path] = []
    blocked: list[tuple[Record, Retry]] = []
    told = [record for record in records if record.event is not Event.HISTORIES]
    for start in range(0, len(told), TOGETHER):
        part = told[start : start + TOGETHER]
        with files.as_retry(layout.events_dir):
            places = [_event_place(layout, zone, record, again=durable) for record in part]
        # First all texts are made, then all files are written, which is faster than in turns.
        events = {place: _json(_event(layout, record)) for place, record in zip(places, part, strict=True)}
        files.write_all_atomic(events, flush=False)
        written += events
        for record in part:
            written += _write_rejects(layout, record, notes, blocked)
    if durable:
        with files.as_retry(layout.events_dir):
            for folder in {path.parent for path in written}:
                files.remove_leftovers(folder)
            files.flush_file_systems([layout.events_dir, layout.rejects_dir])
    return blocked


def _event_place(layout: Layout, zone: ZoneInfo, record: Record, *, again: bool) -> Path:
    """Locate the event JSON of a record; one that may be written `again` stays on the day of the zone of its time."""
    day = record.at.astimezone(zone).date()
    near = (day + timedelta(days=shift) for shift in ((0, -1, 1) if again else ()))
    places = (layout.event_file(one, record.seq, record.event.value) for one in near)
    return next(filter(files.exists, places), None) or layout.event_file(day, record.seq, record.event.value)


_APART = frozenset({"rows", "files", "chips", "through"})
"""Fields of a record that its event JSON gives in another form, or not at all."""


def _event(layout: Layout, record: Record) -> dict[str, Any]:
    content = {name: value for name, value in vars(record).items() if name not in _APART and value}
    if record.reason is not None:
        content["reason"] = record.reason.model_dump(exclude_defaults=True)
    if record.files:
        content["files"] = [note.model_dump(exclude_none=True) for note in record.files]
    content["rows"] = []
    for row in record.rows:
        values = dict(vars(row))
        values["parameters"] = json.loads(row.parameters)
        if row.live:
            values["parquet"] = layout.staged_name(row)
        content["rows"].append(values)
    return content


def _write_rejects(
    layout: Layout, record: Record, notes: Mapping[str, FileNote], blocked: list[tuple[Record, Retry]]
) -> Iterator[Path]:
    """Bring the reject JSONs of a record's files up to date; yield the paths written, and note what is `blocked`."""
    for source_file in {note.source_file for note in record.files}:
        path = layout.reject_file(source_file)
        try:
            if _write_reject(layout, path, record, notes.get(source_file)):
                yield path
        except Retry as error:
            if not files.is_of_one_place(error):
                raise
            blocked.append((record, error))


def _write_reject(layout: Layout, path: Path, record: Record, note: FileNote | None) -> bool:
    """Write the reject JSON of a file, or remove it if the file is not rejected now; tell whether it was written."""
    if note is None or note.outcome != "rejected":
        with files.as_retry(path):
            if files.is_taken(path):
                check_outside_raw(path, layout)
                path.unlink(missing_ok=True)
        return False
    if record.reason is None or not _same_bytes(note, record):
        return False
    check_outside_raw(path, layout)
    files.write_atomic(path, _json(_reject(record, record.reason, note)), flush=False)
    return True


def _same_bytes(note: FileNote, record: Record) -> bool:
    """Tell whether a record is about the bytes that a file is noted with now; it may have been touched since."""
    return (note.source_file, note.source_sha256) in {(one.source_file, one.source_sha256) for one in record.files}


def _reject(record: Record, reason: Reason, note: FileNote) -> dict[str, Any]:
    return {
        "source_file": note.source_file,
        **reason.model_dump(mode="json"),
        "rejected_at": utc_text(record.at),
        "event": record.seq,
        "source_size": note.source_size,
        "source_mtime_ns": note.source_mtime_ns,
        "source_sha256": note.source_sha256,
        "after_the_fix": "the service, or the next `ingestd backfill`, looks at the file again when it has changed",
        "after_a_change_of_settings": f"ingestd rejects retry {quoted(note.source_file)}",
    }


def soon() -> float:
    """Return until when to wait for the JSON of a reject that the log has: it is written a moment after the record."""
    return time.monotonic() + JSON_S


def read_reject(layout: Layout, source_file: str, *, until: float = 0.0) -> dict[str, Any]:
    """Read the reject JSON of a raw file; one that is missing is waited for, `until` then in monotonic seconds.

    Raises:
        UsageError: the file is not rejected.
        Corrupt: the JSON is torn, was edited into something else, or is a folder.
        Retry: the disk refused.
    """
    path = layout.reject_file(source_file)
    with files.as_retry(path):
        while not files.exists(path) and time.monotonic() < until:
            time.sleep(_LOOK_S)
        try:
            content = parse_trace(path.read_bytes())
            _check_reject(content)
            return content
        except (ValueError, IsADirectoryError) as error:
            cause = "a folder is in its place" if isinstance(error, IsADirectoryError) else error
            raise Damaged(
                f"this reject JSON is damaged: {cause}",
                place=str(path),
                next_step="run `ingestd repair`, which makes it again",
            ) from error
        except FileNotFoundError:
            raise UsageError(
                f"{shown(source_file, 200)} is not among the rejects", next_step="`ingestd rejects list` shows them all"
            ) from None


def _check_reject(content: dict[str, Any]) -> None:
    """Raise `ValueError` unless a reject JSON says which file was rejected, why, and when, and what to do."""
    RejectCode(Reason.model_validate({key: content[key] for key in Reason.model_fields if key in content}).code)
    texts = all(isinstance(content.get(key), str) for key in ("source_file", "rejected_at", "next_step"))
    if not texts or not isinstance(content.get("source_size"), int):
        raise ValueError("it does not say which file was rejected, and when, and what to do")


def parse_event(data: bytes) -> dict[str, Any]:
    """Read an event JSON.

    Raises:
        ValueError: it is torn by a power cut, was edited into something else, or is not from ingestd.
    """
    content = parse_trace(data)
    kept = content.get("superseded_parquet", [])
    is_event = (
        isinstance(content.get("seq"), int)
        and all(isinstance(content.get(key), str) for key in ("event", "at", "source_file"))
        and isinstance(content.get("reason") or {}, dict)
        and isinstance(kept, list)
        and all(isinstance(name, str) for name in kept)
        and all(_are_objects(content.get(key, [])) for key in ("rows", "files"))
    )
    if not is_event or datetime.fromisoformat(content["at"]).tzinfo is None:
        raise ValueError("it is no event of ingestd's")
    return content


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def parse_trace(data: bytes) -> dict[str, Any]:
    """Read an event or reject JSON, which must at least be an object.

    Raises:
        ValueError: it is torn by a power cut, or was edited into something else.
    """
    try:
        content = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def _json(content: Mapping[str, Any]) -> bytes:
    # json.dumps with an indent runs in Python, eight times slower; an infinity is written as in the log.
    return to_json(content, indent=2, inf_nan_mode="strings") + b"\n"
