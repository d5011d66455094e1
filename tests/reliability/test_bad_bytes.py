"""Any bytes: readers answer with a value or with the errors they document, and with nothing else."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import evil
import hypothesis.strategies as st
import lived
import pyarrow.parquet as pq
import pytest
from archive import Archive
from hypothesis import HealthCheck, example, given, settings
from lived import FULL
from measurement import Measurement

from ingestd.errors import Corrupt, Reject, UsageError
from ingestd.histories.chip import read_history
from ingestd.manifest.record import decode_records, split
from ingestd.manifest.table import read_manifest
from ingestd.raw.header import glance
from ingestd.raw.procedures import Registry
from ingestd.raw.run import parse_run
from ingestd.settings import load_settings
from ingestd.stage.parquet import read_header, read_row, read_run

REGISTRY = Registry.load()
BOUNDED = settings(
    max_examples=5000 if FULL else 150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
PIECES = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [b"#", b"\n", b"\r\n", b"\r", b"\t", b",", b": ", b"#Data:\n", b"#Procedure: <a.It>\n", b"\0" * 9, b"\xff\xfe"]
    ),
    st.sampled_from([b"1e999", b"nan", b"-", b"0x1F", b"\\x00", b"\xef\xbb\xbf", b"00000001 ", b'{"', b"}\n", b"PAR1"]),
    st.sampled_from(evil.VALUES).map(lambda text: text.encode("utf-8", "surrogatepass")[:200]),
)


@pytest.fixture(autouse=True)
def counted(figure: Callable[[str, int], None]) -> None:
    """Count the examples of each test."""
    figure("random bytes", BOUNDED.max_examples)


def spoiled(good: bytes) -> st.SearchStrategy[bytes]:
    """Make good bytes with a few pieces cut out, put in or written over; its repr does not hold the bytes."""

    @st.composite
    def pieces(draw: st.DrawFn) -> bytes:
        data = bytearray(good)
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, len(data)))
            piece = draw(PIECES)
            gone = draw(st.sampled_from([0, 1, len(piece), 20, 10_000]))
            data[at : at + gone] = piece
        return bytes(data)

    return pieces()


@BOUNDED
@given(spoiled(Measurement().data))
@example(b"")
def test_raw_files(data: bytes) -> None:
    """A measurement file becomes a run or a `Reject`; looking at it never fails."""
    glance(data)
    with contextlib.suppress(Reject):
        run = parse_run(data, REGISTRY)
        assert run.table.num_rows == glance(data).rows


@pytest.fixture(scope="module")
def segment(lived_in: Archive, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A log segment with records of several kinds."""
    archive = lived.clone(lived_in, tmp_path_factory.mktemp("logged"))
    lived.change_everything(archive)
    lived.backfill_without_compaction(archive)
    return max(archive.layout.wal_dir.glob("*.log")).read_bytes()


@BOUNDED
@given(data=st.data())
def test_log_segments(segment: bytes, data: st.DataObject) -> None:
    """A segment splits into payloads, damage and a torn end that cover it; a record reads or is a `ValueError`."""
    found = split(data.draw(spoiled(segment)))
    for offset, payload in found.payloads:
        assert offset >= 0
        with contextlib.suppress(ValueError):
            decode_records([payload])


@BOUNDED
@given(data=st.data())
def test_tables_and_histories(lived_in: Archive, data: st.DataObject, tmp_path: Path) -> None:
    """A manifest table reads or is `Corrupt`; a history reads or is a `UsageError`."""
    path = tmp_path / "table"
    path.write_bytes(data.draw(spoiled(lived_in.layout.manifest_path.read_bytes())))
    with contextlib.suppress(Corrupt):
        read_manifest(path)
    path.write_bytes(data.draw(spoiled(lived_in.layout.history_file("Alisson72").read_bytes())))
    with contextlib.suppress(UsageError):
        read_history(path)


@BOUNDED
@given(data=st.data())
def test_staged_parquet(lived_in: Archive, data: st.DataObject, tmp_path: Path) -> None:
    """A staged file reads or is `Corrupt`: row, header and cells."""
    path = tmp_path / "part.parquet"
    row = next(iter(lived_in.live().values()))
    path.write_bytes(data.draw(spoiled(lived_in.staged(row).read_bytes())))
    for read in (read_row, read_header, read_run):
        with contextlib.suppress(Corrupt):
            read(path)


def test_a_footer_that_counts_too_many_rows_takes_no_memory(lived_in: Archive, tmp_path: Path) -> None:
    """One number of the footer claims 10^11 rows: the file is `Corrupt`, and no memory is taken for them."""
    row = next(iter(lived_in.live().values()))
    good = lived_in.staged(row).read_bytes()
    group = pq.read_metadata(lived_in.staged(row)).row_group(0)
    # Thrift's compact protocol: a row group's size, then its rows, each the next field (0x16: an i64) as a varint.
    before = b"\x16" + varint(group.total_byte_size) + b"\x16"
    assert good.count(before + varint(group.num_rows)) == 1
    spoilt = good.replace(before + varint(group.num_rows), before + varint(10**11))
    length = int.from_bytes(good[-8:-4], "little") + len(spoilt) - len(good)
    path = tmp_path / "part.parquet"
    path.write_bytes(spoilt[:-8] + length.to_bytes(4, "little") + b"PAR1")
    assert pq.read_metadata(path).row_group(0).num_rows == 10**11
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before_mb = peak_mb()
    with pytest.raises(Corrupt, match="its footer counts"):
        read_run(path)
    assert peak_mb() - before_mb < 100


def peak_mb() -> float:
    """Return the peak resident memory of this process, in MiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def varint(number: int) -> bytes:
    """Write a number as Thrift does: zigzag, 7 bits a byte, the lowest first."""
    rest, written = number << 1, b""
    while rest > 0x7F:
        written += bytes([rest & 0x7F | 0x80])
        rest >>= 7
    return written + bytes([rest])


@BOUNDED
@given(data=st.data())
def test_config_files(repository: Path, data: st.DataObject, tmp_path: Path) -> None:
    """A config file is taken or is a `UsageError`."""
    path = tmp_path / "config.toml"
    path.write_bytes(data.draw(spoiled((repository / "config.toml").read_bytes())))
    with contextlib.suppress(UsageError):
        load_settings(path, {})
