"""One record of the write-ahead log: its model, its line, and what counts as torn or damaged.

Pure: bytes in, records out. The grammar of a line is in the package docstring; writer and reader share the
constants below.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from ingestd.errors import NewerVersion
from ingestd.manifest.row import SCHEMA_VERSION, Int64, ManifestRow, UtcDatetime

FORMAT_VERSION = 1
"""Version of the line grammar. A newer one is refused."""

HEAD_LENGTH = 27
"""Bytes before the payload: three groups of 8 hex digits, each followed by one space."""

_HEAD = re.compile(rb"([0-9a-f]{8}) ([0-9a-f]{8}) ([0-9a-f]{8}) ")
_UNPRINTED = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What JSON leaves as it is although a terminal obeys it: DEL, C1 controls, line separators, writing direction."""


class Event(StrEnum):
    """What was decided about a raw file; `histories` and `forgotten` are decisions about ingestd's own state."""

    INGESTED = "ingested"
    UNCHANGED = "unchanged"
    UPDATED = "updated"
    EDITED = "edited"
    SUPERSEDED = "superseded"
    MOVED = "moved"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    RESTAGED = "restaged"
    QUEUED = "queued"
    FORGOTTEN = "forgotten"
    HISTORIES = "histories"

    @property
    def stages(self) -> bool:
        """Whether it puts a file's content into the stage."""
        return self in {Event.INGESTED, Event.UPDATED, Event.EDITED, Event.SUPERSEDED, Event.RESTAGED}


NoteOutcome = Literal["rejected", "queued", "duplicate", "occupied", "forgotten"]


class FileNote(BaseModel):
    """A raw file that is known without being the source of a live row of its own.

    `rejected`: its content was refused with `code`. `queued`: it has no complete row yet, `code` tells why.
    `duplicate`: its bytes are those of run `run_id`, or were before an edit. `occupied`: it is run `run_id`, which was
    moved over a file that another live row was made from, or measured under its name. `forgotten`: no note any more. A
    rejected or queued file that was a run before names it in `run_id`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source_file: str
    source_size: Annotated[Int64, Field(ge=0)]
    source_mtime_ns: Int64
    source_sha256: str
    outcome: NoteOutcome
    run_id: str | None = None
    code: str | None = None

    @property
    def stamp(self) -> tuple[int, int]:
        """Size and mtime (ns) of the file when it was noted."""
        return self.source_size, self.source_mtime_ns

    @property
    def names_occupant(self) -> bool:
        """Whether the bytes at the path are those of run `run_id`, whatever other run was made from it."""
        return self.outcome in {"duplicate", "occupied"}


FILE_NOTES = TypeAdapter(list[FileNote])


class Reason(BaseModel):
    """Why a file was rejected, as people read it: what, which line, what was expected and found, what to do next."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: str
    message: str
    line: int | None = None
    expected: str = ""
    found: str = ""
    next_step: str = ""


class Record(BaseModel):
    """One decision. `rows` and `files` replace what was known under their run id or path, all of them or none.

    `superseded_parquet` names (relative to the stage) where replaced data was kept. `chips` and `through` belong to
    `histories`: the histories of these chips are written up to and including record `through`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seq: Annotated[int, Field(ge=1)]
    at: UtcDatetime
    event: Event
    source_file: str = ""
    run_id: str | None = None
    rows: list[ManifestRow] = []
    files: list[FileNote] = []
    reason: Reason | None = None
    note: str = ""
    superseded_parquet: list[str] = []
    chips: list[str] = []
    through: int = 0


class SegmentHead(BaseModel):
    """The first record of a segment: everything a reader must know before the next one.

    Its versions are those of every record that follows, so an older ingestd is told so before it reads any of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Annotated[int, Field(ge=1)] = FORMAT_VERSION
    schema_version: Annotated[int, Field(ge=1)] = SCHEMA_VERSION
    segment: Annotated[int, Field(ge=1)]
    next_seq: Annotated[int, Field(ge=1)]
    compacted_rows: int = 0
    compacted_files: int = 0
    stale_chips: dict[str, int] = {}

    @property
    def is_current(self) -> bool:
        """Whether records as they are written now may follow it."""
        return (self.format, self.schema_version) == (FORMAT_VERSION, SCHEMA_VERSION)

    def renewed(self, next_seq: int, stale_chips: dict[str, int]) -> SegmentHead:
        """Return the head of the next segment, with the versions written now; nothing is compacted in between."""
        new = {"format": FORMAT_VERSION, "schema_version": SCHEMA_VERSION, "segment": self.segment + 1}
        return self.model_copy(update={**new, "next_seq": next_seq, "stale_chips": stale_chips})


def encode_payload(payload: bytes) -> bytes:
    """Frame one payload as a line of the log."""
    length = b"%08x" % len(payload)
    return b"%s %08x %08x %s\n" % (length, zlib.crc32(length), zlib.crc32(payload), payload)


def encode(record: Record | SegmentHead) -> bytes:
    """Write a record as one line, newline included; what is null or empty is left out, versions never are."""
    empty = {name for name, value in record.__dict__.items() if not value}
    text = record.model_dump_json(exclude=empty, exclude_none=True)
    if not text.isascii() or "\x7f" in text:
        text = _UNPRINTED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return encode_payload(text.encode("utf-8"))


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch of a segment that is not what was written: byte offset, length, and what is wrong with it."""

    offset: int
    length: int
    cause: str


@dataclass(slots=True)
class Frames:
    """What a segment's bytes hold: payloads with their offsets, damaged stretches, and where a torn end begins.

    `end` is where the next record belongs; after an `unterminated` record that is after the newline it lacks.
    """

    payloads: list[tuple[int, bytes]] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    end: int = 0
    torn_at: int | None = None
    unterminated: bool = False


def split(data: bytes) -> Frames:
    """Split a segment's bytes, or those from a record on, into payloads.

    Torn (the end of a write that was never acknowledged): a head that is cut, a payload shorter than its head says, or
    NUL bytes up to the end. A record that only lacks its newline is whole. Anything else that is wrong is damage;
    reading goes on at the next line with a sound head.
    """
    frames = Frames()
    limit = len(data.rstrip(b"\0"))
    position = 0
    while position < limit:
        head = _HEAD.match(data, position, limit)
        sound = head is not None and int(head[2], 16) == zlib.crc32(head[1])
        if head is None and limit - position < HEAD_LENGTH:
            break
        if head is None or not sound:
            position = _skip(data, position, limit, "its head is damaged", frames)
            continue
        start, size = head.end(), int(head[1], 16)
        if start + size > limit:
            break
        payload = data[start : start + size]
        if zlib.crc32(payload) != int(head[3], 16):
            position = _skip(data, position, limit, "its checksum does not match", frames)
            continue
        frames.payloads.append((position, payload))
        position = start + size
        if position == limit:
            frames.unterminated = True
        elif data[position : position + 1] != b"\n":
            frames.damages.append(Damage(position, 1, "the byte after the record is no newline"))
        position += 1
        frames.end = position
    if position < limit or limit < len(data):
        frames.torn_at = frames.end if not frames.unterminated else limit
    return frames


def _skip(data: bytes, position: int, limit: int, cause: str, frames: Frames) -> int:
    """Note damage at `position`; return where the next sound head begins, or the end."""
    following = position
    while True:
        newline = data.find(b"\n", following, limit)
        following = limit if newline < 0 else newline + 1
        head = _HEAD.match(data, following, limit)
        if following >= limit or (head is not None and int(head[2], 16) == zlib.crc32(head[1])):
            break
    frames.damages.append(Damage(position, following - position, cause))
    frames.end = following
    return following


def decode_head(payload: bytes) -> SegmentHead:
    """Read a segment's first payload.

    Raises:
        NewerVersion: it was written by a newer ingestd.
        ValueError: it is not a segment head.
    """
    fields = _json_object(payload)
    format_, schema = fields.get("format", FORMAT_VERSION), fields.get("schema_version", SCHEMA_VERSION)
    if isinstance(format_, int) and isinstance(schema, int) and (format_ > FORMAT_VERSION or schema > SCHEMA_VERSION):
        raise NewerVersion(f"format {format_}, schema {schema}; this one knows {FORMAT_VERSION}, {SCHEMA_VERSION}")
    return SegmentHead.model_validate(fields)


def decode_records(payloads: Sequence[bytes]) -> list[Record]:
    """Read record payloads.

    Raises:
        ValueError: one is not a record; the message names its position among `payloads` as `#n`.
    """
    try:
        records = _RECORDS.validate_json(b"[" + b",".join(payloads) + b"]")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"#{first['loc'][0] if first['loc'] else 0} {first['loc'][1:]}: {first['msg']}") from error
    if len(records) != len(payloads):
        raise ValueError(f"#0: {len(payloads)} payloads hold {len(records)} records")
    return records


_RECORDS = TypeAdapter(list[Record])


def _json_object(payload: bytes) -> dict[str, Any]:
    value = from_json(payload)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
