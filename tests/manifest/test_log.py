"""The log on disk: replay, following, mending, appending on a full disk, and what is refused unchanged."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples_of_rows import NOON, a_note, a_record

from ingestd import files
from ingestd.errors import Corrupt, Retry
from ingestd.manifest import log
from ingestd.manifest.record import FORMAT_VERSION, Event, Record, SegmentHead, encode


@pytest.fixture
def wal(tmp_path: Path) -> Path:
    """The folder of a log with three records in one segment."""
    wal = tmp_path / "wal"
    log.append(wal, log.create(wal, SegmentHead(segment=1, next_seq=1)), [a_record(seq) for seq in (1, 2, 3)])
    return wal


def _contents(wal: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in wal.iterdir()}


def _seqs(found: log.Replay | None) -> list[int]:
    assert found is not None
    return [record.seq for record in found.records]


def _replayed(wal: Path) -> list[Record]:
    found = log.replay(wal)
    assert found is not None
    return found.records


def test_no_folder_is_no_log(tmp_path: Path) -> None:
    """Without a folder, or with an empty one, there is no log, nothing to mend, and nothing is created."""
    assert log.replay(tmp_path / "wal") is None
    assert log.mend(tmp_path / "wal") is None
    assert list(tmp_path.iterdir()) == []
    assert log.replay(tmp_path) is None


def test_a_new_segment_has_room_on_the_disk(tmp_path: Path) -> None:
    """Disk is kept for the records to come; a reader sees the head and no more."""
    position = log.create(tmp_path, SegmentHead(segment=1, next_seq=1))
    path = log.segment_path(tmp_path, 1)
    beside = tmp_path / "beside"
    beside.touch()
    files.reserve(beside, log.RESERVED)
    if beside.stat().st_blocks == 0:
        pytest.skip("this file system cannot keep disk for a file, or has little")
    assert path.stat().st_blocks * 512 >= log.RESERVED
    assert path.stat().st_size == position.offset
    assert _replayed(tmp_path) == []


def test_a_torn_end_is_kept_aside_and_cut_and_the_next_record_follows(wal: Path) -> None:
    """Cut anywhere in the last record: earlier ones are read, the torn bytes are kept, and the next append fits.

    However often it is cut there, each end is kept; one that was kept and not cut, for a kill, is kept once.
    """
    path = log.segment_path(wal, 1)
    data = path.read_bytes()
    begin = len(data) - len(encode(a_record(3)))
    names = [f"00000001.torn-{begin}{number}" for number in ("", ".2", ".3", ".4", ".5")]
    lengths = (begin + 1, begin + 26, begin + 27, begin + 28, len(data) - 2)
    for name, length in zip(names, lengths, strict=True):
        path.write_bytes(data[:length])
        found = log.replay(wal)
        assert _seqs(found) == [1, 2]
        assert log.mend(wal, found.position if found else None) == wal / name
        path.write_bytes(data[:length])
        assert log.mend(wal) == wal / name
        assert path.read_bytes() == data[:begin]
        position = log.append(wal, log.Position(1, begin, 3), [a_record(3)])
        assert position == log.Position(1, len(data), 4)
        assert path.read_bytes() == data
    assert [(wal / name).read_bytes() for name in names] == [data[begin:length] for length in lengths]


def test_a_record_without_its_newline_gets_it(wal: Path) -> None:
    """A last record that only lacks its newline is read, mended, and followed by the next one, by every reader."""
    path = log.segment_path(wal, 1)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes(5))
    early = log.replay(wal)
    assert _seqs(early) == [1, 2, 3]
    assert early is not None
    assert _seqs(log.follow(wal, early.position)) == []
    assert log.mend(wal, early.position) is None
    assert path.read_bytes() == data
    log.append(wal, early.position, [a_record(4)])
    assert _seqs(log.follow(wal, early.position)) == [4]


@pytest.mark.parametrize("position", [None, log.Position(1, 10**6, 9), log.Position(2, 100, 4)])
def test_mending_what_is_whole_changes_nothing(wal: Path, position: log.Position | None) -> None:
    """A whole segment is left as it is, whatever is believed to be known of it."""
    before = _contents(wal)
    assert log.mend(wal, position) is None
    assert _contents(wal) == before


def test_a_damaged_segment_is_not_mended(wal: Path) -> None:
    """Damage before a torn end: nothing is cut or completed, and the message names segment, offset and next step."""
    path = log.segment_path(wal, 1)
    data = bytearray(path.read_bytes())
    begin = len(encode(SegmentHead(segment=1, next_seq=1)))
    data[begin + 40] ^= 1
    for end in (b"", b"0000", b"\0\0"):
        path.write_bytes(data + end)
        for attempt in (log.mend, log.replay):
            with pytest.raises(Corrupt, match=f"00000001.log: @{begin} .*its checksum does not match") as caught:
                attempt(wal)
            assert "`ingestd repair`" in caught.value.next_step
        assert _contents(wal) == {path.name: bytes(data + end)}


def _damage(wal: Path) -> Corrupt | None:
    try:
        log.replay(wal)
    except Corrupt as error:
        return error
    return None


def test_every_flipped_byte_on_disk_is_named_or_changes_nothing(tmp_path: Path) -> None:
    """With any byte changed, replay gives the same records, or names the damage and nothing is cut or completed."""
    records = [Record(seq=seq, at=NOON, event=Event.FORGOTTEN, files=[a_note("x.csv")]) for seq in (1, 2)]
    log.append(tmp_path, log.create(tmp_path, SegmentHead(segment=1, next_seq=1)), records)
    path = log.segment_path(tmp_path, 1)
    data, harmless = path.read_bytes(), []
    for place in range(len(data)):
        for value in (data[place] ^ 0x10, 0):
            changed = data[:place] + bytes([value]) + data[place + 1 :]
            path.write_bytes(changed)
            if (damage := _damage(tmp_path)) is None:
                harmless.append((place, value))
                assert _replayed(tmp_path) == records
                log.mend(tmp_path)
                assert path.read_bytes() == data
            else:
                assert damage.place.endswith("00000001.log")
                assert "@" in damage.message
                with pytest.raises(Corrupt):
                    log.mend(tmp_path)
                assert path.read_bytes() == changed
    assert harmless == [(len(data) - 1, 0)]
    assert [path.name for path in tmp_path.iterdir()] == ["00000001.log"]


def test_a_missing_segment_is_named(wal: Path) -> None:
    """Segments 1 and 3 without 2 are damage, named by the missing file."""
    log.create(wal, SegmentHead(segment=3, next_seq=4))
    for attempt in (log.replay, log.mend):
        with pytest.raises(Corrupt, match=r"00000002\.log: this segment of the log is missing"):
            attempt(wal)


def test_a_sealed_segment_may_not_be_torn(wal: Path) -> None:
    """Only the last segment may end in the middle of a record."""
    log.create(wal, SegmentHead(segment=2, next_seq=4))
    path = log.segment_path(wal, 1)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(Corrupt, match=r"00000001\.log: @\d+ .*ends in the middle of a record"):
        log.replay(wal)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([a_record(5)], "record 5 stands where 4 belongs"),
        ([a_record(4), a_record(4)], "record 4 stands where 5 belongs"),
    ],
)
def test_a_gap_or_repetition_of_numbers_is_named(wal: Path, records: list[Record], message: str) -> None:
    """Records carry consecutive numbers; a missing or repeated one is damage, named with its place."""
    path = log.segment_path(wal, 1)
    path.write_bytes(path.read_bytes() + b"".join(map(encode, records)))
    with pytest.raises(Corrupt, match=rf"00000001\.log: @\d+: {message}"):
        log.replay(wal)


def test_a_segment_that_does_not_follow_its_predecessor_is_named(wal: Path) -> None:
    """The head of a segment says its number and its first record; another is damage."""
    log.create(wal, SegmentHead(segment=2, next_seq=9))
    with pytest.raises(Corrupt, match=r"00000002\.log: @0: the head names record 9 as the next, not 4"):
        log.replay(wal)
    log.segment_path(wal, 2).write_bytes(encode(SegmentHead(segment=7, next_seq=4)))
    with pytest.raises(Corrupt, match="the head names segment 7"):
        log.replay(wal)


@pytest.mark.parametrize("number", [1, 2])
def test_a_newer_format_is_refused_unchanged(wal: Path, number: int) -> None:
    """A segment of a newer format is refused by name, whether it is the first or a later one; no byte changes.

    What follows its head may be no line that this version can read.
    """
    newer = SegmentHead(segment=number, next_seq=1 if number == 1 else 4, format=FORMAT_VERSION + 1)
    log.segment_path(wal, number).write_bytes(encode(newer) + b"a record of another grammar\n" * 3)
    before = _contents(wal)
    with pytest.raises(Corrupt, match=rf"0000000{number}\.log: written by a newer ingestd \(format 2") as caught:
        log.replay(wal)
    assert "install that version" in caught.value.next_step
    assert _contents(wal) == before


@pytest.mark.parametrize("number", [1, 2])
def test_a_segment_without_a_head_is_named(wal: Path, number: int) -> None:
    """An empty segment, or one that begins with a record, is damage, whether it is the first or a later one."""
    path = log.segment_path(wal, number)
    for data in (b"", b"\n", encode(a_record(1))):
        path.write_bytes(data)
        with pytest.raises(Corrupt, match=rf"0000000{number}\.log: @0: the segment's head is missing or damaged"):
            log.replay(wal)


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_in_a_segment_give_only_the_documented_errors(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, headed: bool
) -> None:
    """Whatever stands in a segment, replay gives records or `Corrupt`, and reading changes nothing."""
    wal = tmp_path_factory.mktemp("wal")
    path = log.segment_path(wal, 1)
    path.write_bytes((encode(SegmentHead(segment=1, next_seq=1)) if headed else b"") + data)
    before = path.read_bytes()
    damage = _damage(wal)
    assert damage is None or "`ingestd repair`" in damage.next_step
    assert path.read_bytes() == before


def test_names_that_are_no_segments_are_passed_over(wal: Path) -> None:
    """Torn ends, temporary files and files of people in the folder are no segments."""
    for name in ("00000001.torn-17", ".00000002.log.77-abcd.tmp", "00000002.log.bak", "notes.txt", "2.log"):
        (wal / name).write_bytes(b"rubbish")
    assert log.segments(wal) == [1]
    assert len(_replayed(wal)) == 3


# ---- following ------------------------------------------------------------------------------------------------------


def test_following_reads_only_what_came_after(wal: Path) -> None:
    """A follower gets the records behind its position, through any number of later segments, each once."""
    found = log.replay(wal)
    assert found is not None
    here = found.position
    assert _seqs(log.follow(wal, here)) == []
    after = log.append(wal, here, [a_record(4)])
    later = log.create(wal, SegmentHead(segment=2, next_seq=after.next_seq))
    end = log.append(wal, later, [a_record(5)])
    followed = log.follow(wal, here)
    assert _seqs(followed) == [4, 5]
    assert followed is not None
    assert followed.position == end


def test_following_a_compacted_segment_says_so(wal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the followed segment, or a later one, was deleted, the follower is told to read everything again."""
    found = log.replay(wal)
    assert found is not None
    log.create(wal, SegmentHead(segment=2, next_seq=4))
    log.drop(wal, 2)
    assert log.segments(wal) == [2]
    assert log.follow(wal, found.position) is None
    monkeypatch.setattr(log, "segments", lambda _: [2, 3])
    assert log.follow(wal, log.Position(2, 0, 4)) is None


def test_segments_are_deleted_durably_one_by_one(wal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes first, and the folder is flushed before the next: no power cut leaves one before a gap."""
    for number in (2, 3):
        log.create(wal, SegmentHead(segment=number, next_seq=4))
    flushed: list[list[int]] = []
    monkeypatch.setattr(files, "flush_path", lambda folder: flushed.append(log.segments(folder)))
    log.drop(wal, 3)
    assert flushed == [[2, 3], [3]]


def test_following_past_a_write_that_was_taken_back_says_so(wal: Path) -> None:
    """A follower that saw records which their writer then took back is told to read everything again."""
    found = log.replay(wal)
    assert found is not None
    size = found.position.offset - len(encode(a_record(3)))
    os.truncate(log.segment_path(wal, 1), size)
    assert log.follow(wal, found.position) is None
    log.append(wal, log.Position(1, size, 3), [a_record(3, note="another"), a_record(4)])
    assert log.follow(wal, found.position) is None
    assert _seqs(log.replay(wal)) == [1, 2, 3, 4]


# ---- a disk that refuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["pwrite", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_refused_append_leaves_the_segment_as_it_was(
    wal: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    """When the disk refuses part way through the write, or the flush, nothing of the batch stays in the segment.

    Nor does the segment stay open, whether it took the batch or not.
    """
    found, before = log.replay(wal), _contents(wal)
    assert found is not None
    opened = len(list(Path("/proc/self/fd").iterdir()))
    real, calls = getattr(os, step), itertools.count()
    refused = 1 if step == "pwrite" else 0  # the first write is a short one

    def failing(descriptor: int, *rest: Any) -> Any:
        call = next(calls)
        if call == refused:
            raise OSError(number, os.strerror(number))
        return real(descriptor, rest[0][:100], rest[1]) if rest else real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, step, failing)
        with pytest.raises(Retry, match=os.strerror(number)) as caught:
            log.append(wal, found.position, [a_record(4), a_record(5)])
    assert caught.value.place.endswith("00000001.log")
    assert _contents(wal) == before
    assert len(list(Path("/proc/self/fd").iterdir())) == opened
    log.append(wal, found.position, [a_record(4)])
    assert len(list(Path("/proc/self/fd").iterdir())) == opened
    assert _seqs(log.replay(wal)) == [1, 2, 3, 4]


FULL_DISK = """
import resource, sys
from pathlib import Path
from samples_of_rows import a_record
from ingestd.errors import Retry
from ingestd.manifest import log
wal = Path(sys.argv[1])
found = log.replay(wal)
limit = found.position.offset + 200
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    log.append(wal, found.position, [a_record(seq) for seq in range(4, 9)])
except Retry as error:
    print(error.message)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="the system cannot limit a file's size")
def test_an_append_that_the_system_cuts_short_leaves_the_segment_as_it_was(wal: Path) -> None:
    """A real short write (the size limit of the process) is taken back whole and reported as `Retry`."""
    before = _contents(wal)
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, wal],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "File too large\n"
    assert _contents(wal) == before


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 42, log.LAST_SEGMENT])
def test_the_name_of_a_segment_tells_its_number(tmp_path: Path, number: int) -> None:
    """What `segment_path` writes `segment_number` reads."""
    assert log.segment_number(log.segment_path(tmp_path, number).name) == number


@pytest.mark.parametrize(
    "name",
    ["1.log", "000000001.log", "0000001a.log", "00000001.log\n", "00000001.LOG", "00000001.log.torn-1", "٠٠٠٠٠٠٠١.log"],
)
def test_other_names_are_no_segments(tmp_path: Path, name: str) -> None:
    """Neither reading nor salvaging the log takes such a file for a part of it."""
    (tmp_path / name).touch()
    assert log.segment_number(name) is None
    assert log.segments(tmp_path) == log.segments_there(tmp_path) == []
