"""What the fuzzer starts from: sound and spoiled inputs of every reader, and pieces that parsers trip over."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import evil
from measurement import Measurement

from ingestd.histories.chip import EMPTY_HISTORY
from ingestd.manifest.record import FileNote, Reason, Record, SegmentHead, encode
from ingestd.manifest.row import ManifestRow
from ingestd.raw.procedures import Registry
from ingestd.raw.run import parse_run
from ingestd.stage.parquet import write_run

REPOSITORY = Path(__file__).resolve().parents[3]
REGISTRY = Registry.load()
NOW = datetime(2026, 1, 1, tzinfo=UTC)

INPUT = Path(f"/proc/self/fd/{os.memfd_create('input')}")
"""Where readers that take a path find their bytes: in memory, gone with this process."""


ROW = ManifestRow(
    run_id="0" * 20,
    source_file="2025-09-23/It_1.csv",
    proc="It",
    date_local="2025-09-23",
    start_time_utc=NOW,
    chip_group="Alisson",
    chip_number=72,
    vg_v=float("nan"),
    rows=3,
    summary="It",
    start_time_origin="header",
    parameters="{}",
    source_size=1,
    source_mtime_ns=1,
    source_sha256="0" * 64,
    ingested_at_utc=NOW,
)
NOTE = FileNote(source_file="a.csv", source_size=1, source_mtime_ns=-1, source_sha256="", outcome="rejected", code="x")
RECORDS = [
    Record(seq=1, at=NOW, event="ingested", source_file="a.csv", rows=[ROW]),
    Record(seq=2, at=NOW, event="rejected", files=[NOTE], reason=Reason(code="bad-cell", message="no", line=3)),
    Record(seq=3, at=NOW, event="histories", chips=["Alisson72"], through=2),
]
HEAD = SegmentHead(segment=1, next_seq=1, stale_chips={"Alisson72": 3})
SEGMENT = encode(HEAD) + b"".join(map(encode, RECORDS))


def raw_files() -> list[bytes]:
    paths = [*(REPOSITORY / "tests" / "raw" / "bad").glob("*.csv"), *(REPOSITORY / "data" / "01_raw").rglob("*.csv")]
    return [Measurement().data, *(path.read_bytes() for path in sorted(paths))]


def bodies() -> list[bytes]:
    found = [data[data.find(b"\n", data.find(b"#Data:") + 8) + 1 :][:2000] for data in raw_files()]
    return [b"1.5,2,x,y\r\n", b"nan,nan,,\n#late: 1\n\n-1e-7,+3.0,a,\n", *found]


def parameters() -> list[bytes]:
    texts = ["100 mV", "5.19e-3 V", "1758632155.25", "2025-09-23T09:55:55-03:00", "20250923/It_1", "-1 °C", "nan"]
    return [text.encode() for text in texts] + [value.encode("utf-8", "surrogatepass")[:500] for value in evil.VALUES]


def configs() -> list[bytes]:
    text = (REPOSITORY / "config.toml").read_bytes()
    new = b'[procedures.New]\nclasses = ["N"]\nuses = ["its"]\ncolumns.a_v = {accepts = ["A (V)"]}\nsummary = "N"\n'
    sections = [b"[" + part for part in b"\n".join(_uncommented(text)).split(b"\n[")]
    return [text, (REPOSITORY / "ingestd" / "raw" / "procedures.toml").read_bytes()[:16000], new, *sections]


def _uncommented(text: bytes) -> list[bytes]:
    return [line.removeprefix(b"# ") for line in text.splitlines()]


def parquets() -> list[bytes]:
    run_ = parse_run(Measurement().data, REGISTRY)
    with TemporaryDirectory() as folder:
        path = Path(folder, "part-000.parquet")
        write_run(path, run_.table, ROW, run_.header.text)
        return [path.read_bytes()]


def histories() -> list[bytes]:
    cells = b'1,2025-09-23,09:55:55,1758632155.25,It,"a ""b""",\n'
    return [EMPTY_HISTORY, cells, b"a,b\r\n1,'=2\r\n"]


WORDS = [
    *(
        b"#",
        b"\n",
        b"\r\n",
        b"\r",
        b"\t",
        b",",
        b": ",
        b"#Data:\n",
        b"#Procedure: <",
        b"#Metadata:\n",
        b"#Parameters:\n",
    ),
    *(b"\0\0\0\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x81", b"\\x00", b"\\ud800", b"\xe2\x80\xae", b"\x1b[31m"),
    *(b"1e999", b"-0", b"nan", b"nan(1)", b"0x1F", b"inf", b"1_0", b"9223372036854775808", b"+3.0", b" 1"),
    *(b" mV", b" degC", b"\xc2\xb5A", b"1758632155.28", b"2025-09-23", b"T09:55:55", b"-03:00", b"00000001 "),
    *(
        b'{"',
        b"}\n",
        b"[[[[[[[[",
        b"{a={a={a=",
        b'"rows":[',
        b'"seq":1',
        b'"NaN"',
        b"PAR1",
        b'""',
        b"'=",
        b'"""',
        b"a.a.a.",
    ),
    *(
        b"[procedures.",
        b"uses=[",
        b"columns.",
        b"accepts=[",
        b"[time]\nlocal_tz='",
        b"[paths]\n",
        b"data_root='~",
        b"1979-05-27",
    ),
]
"""Pieces that parsers trip over; the fuzzer puts them in beside what it finds itself."""
