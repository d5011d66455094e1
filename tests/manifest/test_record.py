"""The line grammar of the log: what is written comes back, a cut is an end, a changed byte is named."""

from __future__ import annotations

import itertools
import re
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from samples_of_rows import NOON, RECORDS, a_note, a_record, a_row

from ingestd.errors import NewerVersion
from ingestd.manifest.record import (
    FORMAT_VERSION,
    Event,
    Frames,
    Record,
    SegmentHead,
    decode_head,
    decode_records,
    encode,
    encode_payload,
    split,
)
from ingestd.manifest.row import SCHEMA_VERSION

HOSTILE = 'a\nb\rc\0d\x1b[31m\x7f\x85\x9b\u2028\u202e\t"\\ 💡 é'


def _payloads(frames: Frames) -> list[bytes]:
    return [payload for _, payload in frames.payloads]


def _log() -> list[bytes]:
    """Make the lines of a short log: a head and three records, with awkward text among them."""
    return [
        encode(SegmentHead(segment=1, next_seq=1)),
        encode(a_record(1, a_row(1, summary=HOSTILE))),
        encode(Record(seq=2, at=NOON, event=Event.REJECTED, files=[a_note("x.csv")])),
        encode(Record(seq=3, at=NOON, event=Event.FORGOTTEN, files=[a_note("x.csv", outcome="forgotten")])),
    ]


@given(st.lists(RECORDS, max_size=4))
@example([a_record(1, a_row(1, summary=HOSTILE, source_file=HOSTILE, warnings=[HOSTILE]))])
@example([a_record(1, a_row(1, vg_v=float("inf"), vds_v=-0.0))])
def test_what_is_written_comes_back(records: list[Record]) -> None:
    """Any records (any text, NaN and infinity among the numbers) are the same after encoding and decoding."""
    data = b"".join(map(encode, records))
    frames = split(data)
    assert (frames.damages, frames.torn_at, frames.end) == ([], None, len(data))
    # repr, because NaN differs from itself
    assert repr(decode_records(_payloads(frames))) == repr(records)


@given(RECORDS)
@example(a_record(1, a_row(1, summary=HOSTILE, source_file=HOSTILE, warnings=[HOSTILE])))
def test_a_record_is_one_line_that_a_terminal_can_show(record: Record) -> None:
    """A record is one line of UTF-8 without control characters, line separators or changes of writing direction."""
    text = encode(record).decode("utf-8")
    assert text.splitlines() == [text[:-1]]
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", text[:-1])


def test_the_line_is_what_the_package_says() -> None:
    """`LENGTH LENGTH-CRC PAYLOAD-CRC PAYLOAD`, the first three as 8 hex digits, as written down in the docs."""
    line = encode_payload(b"{}")
    assert line == b"00000002 %08x %08x {}\n" % (zlib.crc32(b"00000002"), zlib.crc32(b"{}"))


def test_a_cut_at_every_byte_of_the_last_record_is_a_torn_end() -> None:
    """Cut anywhere in its last record, a log keeps all earlier records, names no damage, and tells where to cut."""
    *earlier, last = _log()
    whole = b"".join(earlier)
    expected = _payloads(split(whole))
    for length in range(1, len(last) - 1):
        frames = split(whole + last[:length])
        assert (_payloads(frames), frames.damages, frames.torn_at) == (expected, [], len(whole)), length


def test_a_record_that_only_lacks_its_newline_is_whole() -> None:
    """Without its final newline the last record is kept; the next one belongs behind the newline to come."""
    data = b"".join(_log())
    frames = split(data[:-1])
    assert (_payloads(frames), frames.damages) == (_payloads(split(data)), [])
    assert (frames.unterminated, frames.end) == (True, len(data))


@pytest.mark.parametrize("zeros", [1, 26, 27, 28, 4096])
def test_zeros_at_the_end_are_a_torn_end(zeros: int) -> None:
    """A file that the file system lengthened with NUL bytes before the data came ends where its last record ends."""
    data = b"".join(_log())
    for length in (len(data), len(data) - 30):
        frames = split(data[:length] + bytes(zeros))
        whole = split(data[:length])
        assert (_payloads(frames), frames.damages) == (_payloads(whole), [])
        assert frames.torn_at == (whole.end if whole.torn_at is None else whole.torn_at)


def test_no_flipped_byte_loses_a_record_silently() -> None:
    """Whatever a byte of the log is changed to, the other records are read, and a lost one is named with its place."""
    lines = _log()
    data = b"".join(lines)
    starts = [0, *itertools.accumulate(map(len, lines))]
    originals = _payloads(split(data))
    for place, byte in enumerate(data):
        hit = next(number for number, end in enumerate(starts[1:]) if place < end)
        others = [payload for number, payload in enumerate(originals) if number != hit]
        for value in {byte ^ 1, byte ^ 0x20, byte ^ 0x80, byte ^ 0xFF, 0, ord("\n"), ord(" "), ord("0")} - {byte}:
            frames = split(data[:place] + bytes([value]) + data[place + 1 :])
            found = _payloads(frames)
            if frames.damages:
                assert found in (others, originals), (place, value)
                assert any(d.offset <= place < d.offset + max(d.length, 1) for d in frames.damages), (place, value)
            else:
                assert found == originals, (place, value)


def test_no_flipped_byte_before_a_torn_end_is_taken_for_it() -> None:
    """In a log with a torn end, a byte changed before that end is still named, and no whole record is lost."""
    *earlier, last = _log()
    whole, torn = b"".join(earlier), last[:40]
    originals = _payloads(split(whole))
    for place in range(len(whole) - len(earlier[-1]), len(whole)):
        for mask in (1, 0x80, 0xFF):
            flipped = bytearray(whole + torn)
            flipped[place] ^= mask
            frames = split(bytes(flipped))
            assert frames.damages, place
            assert _payloads(frames) in (originals, originals[:-1]), place


@given(st.binary(max_size=200) | st.lists(st.sampled_from([*_log(), b"\n", b"\0", b"00000002 "])).map(b"".join))
def test_any_bytes_can_be_split(data: bytes) -> None:
    """Splitting any bytes raises nothing; every stretch it names lies inside them and every payload checks."""
    frames = split(data)
    for damage in frames.damages:
        assert 0 <= damage.offset < damage.offset + damage.length <= len(data)
    for offset, payload in frames.payloads:
        assert data[offset : offset + 27 + len(payload)] == encode_payload(payload)[:-1]
    assert frames.torn_at is None or 0 <= frames.torn_at < len(data)


@given(
    st.binary(max_size=60) | st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"{}", b"{},{}", b"1],[2", b"null"])
)
def test_any_payload_gives_only_the_documented_errors(payload: bytes) -> None:
    """A payload that checks but is no record or head is a ValueError, whatever it is."""
    with pytest.raises(ValueError, match=r".+"):
        decode_head(payload)
    with pytest.raises(ValueError, match=r".+"):
        decode_records([payload])


def test_two_records_in_one_payload_are_refused() -> None:
    """A payload holds exactly one record: two with a comma between them are not read as two."""
    one, two = (encode(a_record(seq))[27:-1] for seq in (1, 2))
    with pytest.raises(ValueError, match="1 payloads hold 2 records"):
        decode_records([one + b"," + two])


def test_the_error_names_which_record_cannot_be_understood() -> None:
    """The position of the faulty payload, its field and the fault stand in the message."""
    good = encode(a_record(1))[27:-1]
    with pytest.raises(ValueError, match=r"#1 \('seq',\).*greater than or equal to 1"):
        decode_records([good, good.replace(b'"seq":1', b'"seq":0')])


@pytest.mark.parametrize("newer", [{"format": FORMAT_VERSION + 1}, {"schema_version": SCHEMA_VERSION + 1}])
def test_a_newer_head_is_told_from_a_damaged_one(newer: dict[str, int]) -> None:
    """A head of a newer format is its own error, even when it has fields that this version does not know."""
    head = SegmentHead(segment=1, next_seq=1).model_copy(update=newer)
    payload = encode(head)[27:-1].replace(b"{", b'{"unheard_of":1,', 1)
    with pytest.raises(NewerVersion, match="this one knows"):
        decode_head(payload)


@pytest.mark.parametrize("name", ["format", "schema_version"])
def test_a_head_of_no_version_is_refused(name: str) -> None:
    """Versions count from 1: a 0 is nothing that was written, and would be left out when written again."""
    payload = b'{"%s":0,"segment":1,"next_seq":1}' % name.encode()
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        decode_head(payload)


@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.integers(1, 2**40), max_size=3)
)
def test_a_head_comes_back(stale: dict[str, int]) -> None:
    """A segment's head is the same after encoding and decoding; its versions are always written."""
    head = SegmentHead(segment=3, next_seq=7, compacted_rows=5, compacted_files=2, stale_chips=stale)
    (payload,) = _payloads(split(encode(head)))
    assert decode_head(payload) == head
    assert b'"format":1' in payload
    assert b'"schema_version":1' in payload
