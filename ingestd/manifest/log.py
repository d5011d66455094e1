"""The write-ahead log on disk: numbered segments, appended under the manifest's lock, read by anyone.

The package docstring gives the format. Only the last segment may have a torn end; damage anywhere is reported, and
nothing is guessed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ingestd import files
from ingestd.errors import Corrupt, Damaged, InDoubt, NewerVersion
from ingestd.manifest.record import (
    Damage,
    Frames,
    Record,
    SegmentHead,
    decode_head,
    decode_records,
    encode,
    split,
)

_SEGMENT = re.compile(r"([0-9]{8})\.log")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the log: everything before it is known. `next_seq` is the number the next record carries."""

    segment: int
    offset: int
    next_seq: int


class SegmentGoneError(Exception):
    """A compaction deleted a segment between listing and reading it."""


@dataclass(slots=True)
class Replay:
    """Records read in order, and the position after the last one.

    `heads` are those of the segments that were read from their beginning; `before_latest` counts the records before the
    last of them.
    """

    position: Position
    records: list[Record] = field(default_factory=list)
    heads: list[SegmentHead] = field(default_factory=list)
    before_latest: int = 0


RESERVED = 2**20
"""Bytes of the disk reserved for a segment when it begins: room for some thousand decisions."""

_NO_HEAD = "@0: the segment's head is missing or damaged"

_UNKNOWN = 0
"""Stands for the number of a first record that only the segment's head tells: records are numbered from 1."""

LAST_SEGMENT = 99_999_999
"""The largest segment number that a name has room for."""


def segment_path(directory: Path, number: int) -> Path:
    """Name segment `number`."""
    return directory / _name(number)


def _name(number: int) -> str:
    return f"{number:08d}.log"


def segment_number(name: str) -> int | None:
    """Read the number in a segment's name; None for any other name."""
    found = _SEGMENT.fullmatch(name)
    return int(found[1]) if found else None


def segments_there(directory: Path) -> list[int]:
    """List in order the segment numbers of a log that may be damaged; none if it is no folder.

    Raises:
        Retry: the folder cannot be read; it is not taken for empty.
    """
    with files.as_retry(directory):
        names = [path.name for path in directory.iterdir()] if files.is_dir(directory) else []
    return sorted(number for name in names if (number := segment_number(name)) is not None)


def segments(directory: Path) -> list[int]:
    """List the segment numbers in order.

    Raises:
        Corrupt: one is missing between two others.
    """
    numbers = segments_there(directory)
    if not numbers and files.is_file(directory):
        raise damaged(directory, "a file stands in the place of the log's folder")
    for number, following in itertools.pairwise(numbers):
        if following != number + 1:
            raise damaged(segment_path(directory, number + 1), "this segment of the log is missing")
    return numbers


def create(directory: Path, head: SegmentHead) -> Position:
    """Start segment `head.segment`, durably; return the position of its first record."""
    line, path = encode(head), segment_path(directory, head.segment)
    files.remove_leftovers(directory)
    files.write_atomic(path, line)
    files.reserve(path, RESERVED)
    return Position(head.segment, len(line), head.next_seq)


def ends_at(directory: Path, position: Position) -> bool:
    """Tell, opening nothing, whether the log certainly ends at `position`: nothing was appended, torn or removed since.

    A next segment that is out of reach may be there: what is appended to this one, or begins that one, would be lost.
    """
    folder = os.fspath(directory)  # without making a Path: called in every transaction
    try:
        size = os.stat(f"{folder}/{_name(position.segment)}").st_size  # noqa: PTH116
    except OSError:
        return False
    try:
        os.stat(f"{folder}/{_name(position.segment + 1)}")  # noqa: PTH116
    except FileNotFoundError:
        return size == position.offset
    except OSError:
        return False
    return False


def replay(directory: Path) -> Replay | None:
    """Read the whole log; None when there is none.

    Raises:
        SegmentGoneError: a compaction took a segment away meanwhile; read table and log again.
        Corrupt: a damaged or missing record, or a newer format; the message names segment and offset.
    """
    numbers = segments(directory)
    if not numbers:
        return None
    return _read_on(directory, numbers, Replay(Position(numbers[0], 0, _UNKNOWN)))


def follow(directory: Path, position: Position) -> Replay | None:
    """Read what was appended after `position`; None when the whole log must be read again.

    That is when its segment was compacted away, or when what was read before `position` is not in the log any more: a
    write that another process could not finish and took back.

    Raises:
        Retry: the disk refused.
    """
    path = segment_path(directory, position.segment)
    numbers = [number for number in segments(directory) if number >= position.segment]
    if not numbers or numbers[0] != position.segment:
        return None
    try:
        if path.stat().st_size < position.offset:
            return None
        return _read_on(directory, numbers, Replay(position))
    except (SegmentGoneError, FileNotFoundError, Corrupt):
        return None
    except OSError as error:
        raise files.retry_from(error, path) from error


def _read_on(directory: Path, numbers: Sequence[int], found: Replay) -> Replay:
    for number in numbers:
        offset = found.position.offset if number == found.position.segment else 0
        first, path = found.position.next_seq, segment_path(directory, number)
        with _opened(path) as file:
            file.seek(offset)
            frames = split(file.read())
        payloads = frames.payloads
        if offset == 0:  # the head first: what follows that of a newer format may look damaged
            if not payloads or payloads[0][0]:
                raise damaged(path, _NO_HEAD)
            head = check_head(path, payloads[0][1], number, None if first == _UNKNOWN else first)
            found.heads.append(head)
            found.before_latest, first, payloads = len(found.records), head.next_seq, payloads[1:]
        if frames.torn_at is not None and number != numbers[-1]:
            frames.damages.append(Damage(frames.torn_at, 0, "the segment ends in the middle of a record"))
        _refuse_damage(path, frames, offset)
        records = _decode(path, payloads)
        _check_sequence(path, payloads, records, first)
        found.records += records
        found.position = Position(number, offset + frames.end, first + len(records))
    return found


def _refuse_damage(path: Path, frames: Frames, offset: int) -> None:
    if frames.damages:
        raise damaged(
            path,
            "; ".join(
                f"@{offset + damage.offset} ({damage.length} bytes): {damage.cause}" for damage in frames.damages
            ),
        )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with files.as_retry(path):
        try:
            file = path.open("rb")
        except FileNotFoundError as error:
            raise SegmentGoneError(str(path)) from error
        with file:
            yield file


def check_head(path: Path, payload: bytes, number: int, next_seq: int | None) -> SegmentHead:
    """Read the head of segment `number`, which begins with record `next_seq`; None: with any.

    Raises:
        Damaged: it is damaged, or another segment's.
        NewerVersion: it was written by a newer ingestd.
    """
    try:
        head = decode_head(payload)
    except NewerVersion as error:
        raise NewerVersion(error.versions, place=str(path)) from error
    except ValueError as error:
        raise damaged(path, _NO_HEAD) from error
    if head.segment != number:
        raise damaged(path, f"@0: the head names segment {head.segment}, not {number}")
    if next_seq is not None and head.next_seq != next_seq:
        raise damaged(path, f"@0: the head names record {head.next_seq} as the next, not {next_seq}")
    return head


def _decode(path: Path, payloads: Sequence[tuple[int, bytes]]) -> list[Record]:
    try:
        return decode_records([payload for _, payload in payloads])
    except ValueError as error:
        raise damaged(path, f"a record with a correct checksum cannot be understood: {error}") from error


def _check_sequence(path: Path, payloads: Sequence[tuple[int, bytes]], records: Sequence[Record], first: int) -> None:
    for expected, ((offset, _), record) in enumerate(zip(payloads, records, strict=True), start=first):
        if record.seq != expected:
            raise damaged(path, f"@{offset}: record {record.seq} stands where {expected} belongs")


def torn_segment(directory: Path) -> Path | None:
    """Name the last segment if its end is torn, and change nothing. A write under way looks the same."""
    numbers = segments(directory)
    if not numbers:
        return None
    path = segment_path(directory, numbers[-1])
    with files.as_retry(path):
        return path if split(path.read_bytes()).torn_at is not None else None


def mend(directory: Path, known: Position | None = None) -> Path | None:
    """Set the torn end of the last segment aside and cut it; return where it was kept, None when nothing was torn.

    A segment that ends at the `known` position is not read again. Call it only under the manifest's lock: without it,
    what another process is still writing would look torn.

    Raises:
        Corrupt: the segment is damaged; nothing was changed.
    """
    numbers = segments(directory)
    if not numbers:
        return None
    path = segment_path(directory, numbers[-1])
    with files.as_retry(path):
        if known is not None and known.segment == numbers[-1] and _is_whole_up_to(path, known.offset):
            return None
        data = path.read_bytes()
        frames = split(data)
        _refuse_damage(path, frames, 0)
        if frames.unterminated:
            _rewrite_end(path, len(data.rstrip(b"\0")), b"\n")
        if frames.torn_at is None or frames.unterminated:
            return None
        torn = data[frames.torn_at :]
        aside = files.free_path(path.with_name(f"{path.stem}.torn-{frames.torn_at}"), holding=torn)
        files.write_atomic(aside, torn)
        _rewrite_end(path, frames.torn_at, b"")
    return aside


def _is_whole_up_to(path: Path, offset: int) -> bool:
    with path.open("rb") as file:
        file.seek(offset - 1)
        return file.read(2) == b"\n"


def _rewrite_end(path: Path, size: int, end: bytes) -> None:
    with path.open("r+b") as file:
        file.truncate(size)
        file.seek(size)
        file.write(end)
        file.flush()
        os.fsync(file.fileno())


def append(directory: Path, position: Position, records: Sequence[Record]) -> Position:
    """Append a batch in one write and one flush; return the position after it. Call it under the manifest's lock.

    Raises:
        Retry: the disk refused; the segment is cut back to where it was, so nothing of the batch is there.
        InDoubt: the disk refused that as well.
    """
    path = f"{os.fspath(directory)}/{_name(position.segment)}"
    data = b"".join(map(encode, records))
    with files.as_retry(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            _write_all(descriptor, data, position.offset)
        except OSError as error:
            _cut_back(descriptor, position.offset, error, path)
            raise
        finally:
            os.close(descriptor)
    return Position(position.segment, position.offset + len(data), position.next_seq + len(records))


def _cut_back(descriptor: int, size: int, why: OSError, path: str) -> None:
    try:
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
    except OSError:
        found = files.retry_from(why, path)
        raise InDoubt(found.message, place=found.place, next_step=found.next_step) from why


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
    os.fsync(descriptor)


def drop(directory: Path, before: int) -> None:
    """Delete the sealed segments below number `before`, oldest first, each durably: a power cut must leave no gap."""
    with files.as_retry(directory):
        for number in segments(directory):
            if number < before:
                segment_path(directory, number).unlink()
                files.flush_path(directory)


def damaged(path: Path, cause: str) -> Damaged:
    """Return the error for damage of the log; nothing was changed."""
    return Damaged(
        cause, place=str(path), next_step="`ingestd repair` (nothing was overwritten; the raw files are untouched)"
    )
