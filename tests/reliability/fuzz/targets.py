"""What the coverage-guided fuzzer feeds: one function a reader, each with the errors it documents, and its seeds.

A target takes any bytes. Documented errors end inside it; whatever else comes out of it is a finding. Where the answer
can be had in a second, simpler way, the target compares: a cell with `float`, a record with what it was written from.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from itertools import pairwise
from zoneinfo import ZoneInfo

import pyarrow as pa
import seeds
from seeds import INPUT, NOW, REGISTRY

from ingestd.errors import Corrupt, NewerVersion, Reject, UsageError
from ingestd.histories.cells import read_cells
from ingestd.histories.chip import EMPTY_HISTORY, read_history
from ingestd.manifest.record import (
    decode_head,
    decode_records,
    encode,
    encode_payload,
    split,
)
from ingestd.manifest.row import PARAMETER_FIELDS
from ingestd.raw.header import Header, glance, parse_header
from ingestd.raw.header_json import header_json
from ingestd.raw.procedure import Procedure
from ingestd.raw.run import parse_run
from ingestd.raw.start_time import start_time
from ingestd.raw.table import Body, parse_tables
from ingestd.raw.units import to_unit, unit_of
from ingestd.raw.values import interpret
from ingestd.service.logline import json_line, parse_line
from ingestd.settings import load_settings
from ingestd.stage.parquet import read_header, read_row, read_run

KINDS = Procedure.model_validate(
    {
        "name": "Kinds",
        "classes": ["Kinds"],
        "columns": {
            "a_v": {"accepts": ["A (V)"]},
            "count": {"accepts": ["N"], "dtype": "int64"},
            "note": {"accepts": ["Note"], "dtype": "string"},
        },
        "summary": "Kinds",
        "chip": "none",
        "light": "none",
    }
)
KINDS_HEAD = b"#Procedure: <Kinds>\n#Parameters:\n#Data:\nA (V),N,Note,Other\n"
ZONE = ZoneInfo("America/Santiago")
UNITS = sorted({unit_of(name) or "" for name in PARAMETER_FIELDS})

OBEYED = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What a terminal obeys: controls, line separators, writing direction."""

# ---- raw files -------------------------------------------------------------------------------------------------------


def header(data: bytes) -> None:
    """Read a raw file's header: a `Header` or a `Reject` whose line is in the file; a glance never fails."""
    seen = glance(data)
    try:
        found = parse_header(data)
    except Reject as reject:
        _check_reject(reject, data)
        return
    assert seen.plausible or b"\r" in data, "a glance calls a file with a sound header implausible"
    assert data[found.body_start - 1 : found.body_start] == b"\n"
    assert found.body_line == data.count(b"\n", 0, found.body_start) + 1
    assert found.text.split("\n")[-1] == ",".join(found.columns)
    assert len(set(found.columns)) == len(found.columns)
    _check_printable(found.warnings)
    header_json(found).encode("utf-8")


def run(data: bytes) -> None:
    """Read a whole raw file and its manifest values: a run whose cells are those of `float`, or a `Reject`."""
    try:
        found = parse_run(data, REGISTRY)
    except Reject as reject:
        _check_reject(reject, data)
        return
    assert found.table.num_rows == glance(data).rows
    assert found.table.schema.equals(found.procedure.arrow_schema)
    _check_printable(found.warnings)
    _check_cells(data, found.header, found.procedure, found.table)
    with suppress(Reject):
        values = interpret(found.header, found.procedure, found.table, "2025-09-23/It_1.csv")
        values.fields["summary"].encode("utf-8")
        _check_printable(values.warnings)


def table(data: bytes) -> None:
    """Read rows of numbers, whole numbers, text and an unknown column: cells as `float` and `int`, or a `Reject`."""
    whole = KINDS_HEAD + data
    head = parse_header(whole)
    (found,) = parse_tables([Body(whole, head, KINDS)])
    if isinstance(found, Reject):
        _check_reject(found, whole)
        return
    found.table.validate(full=True)
    assert found.table.num_rows == glance(whole).rows
    _check_printable(found.warnings)
    _check_cells(whole, head, KINDS, found.table)


def _check_reject(reject: Reject, data: bytes) -> None:
    if reject.line is not None:
        assert 1 <= reject.line <= data.count(b"\n") + 1, f"line {reject.line} is not in the file"
    assert reject.found.isprintable(), f"found can move a terminal's cursor: {reject.found!r}"
    assert reject.message.isprintable(), f"the message can move a terminal's cursor: {reject.message!r}"
    assert len(reject.message) + len(reject.found) < 5000, "a message as long as the file"


def _check_printable(warnings: Iterable[str]) -> None:
    for warning in warnings:
        assert warning.isprintable(), f"a warning can move a terminal's cursor: {warning!r}"


def _check_cells(data: bytes, head: Header, procedure: Procedure, staged: pa.Table) -> None:
    """Compare every number with what Python reads in the same place of the file."""
    body = data[head.body_start : data.rfind(b"\n") + 1]
    lines = [line.removesuffix(b"\r") for line in body.split(b"\n")]
    rows = [line.split(b",") for line in lines if line and not line.startswith(b"#")]
    for position, name in procedure.match_columns(head.columns).items():
        kind, column = procedure.columns[name].dtype, staged.column(name).to_pylist()
        assert len(column) == len(rows)
        if kind == "string":
            continue
        for cells, value in zip(rows, column, strict=True):
            _check_number(_decoded(cells[position]), value, kind)


def _decoded(cell: bytes) -> str:
    """Decode a cell as the reader does: an odd blank beside a number is all that can stand there beyond ASCII."""
    try:
        return cell.decode("utf-8")
    except UnicodeDecodeError:
        return cell.decode("cp1252")


def _check_number(text: str, value: float | None, kind: str) -> None:
    if kind == "int64":
        want = None if not text or text.strip().lower() in {"nan", "+nan"} else int(text.partition(".")[0])
        assert value == want, f"{text!r} was read as {value!r}"
    elif not text:
        assert value is None, f"an empty cell was read as {value!r}"
    else:
        wanted = float(text)
        same = value is not None and (
            struct.pack("<d", value) == struct.pack("<d", wanted) or wanted != wanted != value
        )
        assert same, f"{text!r} was read as {value!r}"


def parameters(data: bytes) -> None:
    """Read a quantity and a start time: a finite number, a time between 1900 and 9998, or a `Reject`."""
    text = data.decode("utf-8", "surrogateescape")
    for unit in UNITS:
        with suppress(Reject):
            value = to_unit(text, unit)
            assert value is None or abs(value) < float("inf")
            with suppress(ValueError):
                plain = float(text)
                assert value in {plain, None}, f"{text!r} in {unit} was read as {value!r}"
    stem, _, name = text.partition("\n")
    for written, path in ((text, "It_1.csv"), (None, text), (stem, name)):
        with suppress(Reject):
            found = start_time(written, path, 1758632155_000_000_000, ZONE, NOW)
            assert 1900 <= found.utc.year <= 9998
            assert found.utc.utcoffset() == NOW.utcoffset()


# ---- our own files ---------------------------------------------------------------------------------------------------


def segment(data: bytes) -> None:
    """Split a segment: payloads, damage and torn end lie in it, in order; a payload is what a writer would frame."""
    found = split(data)
    for offset, payload in found.payloads:
        assert encode_payload(payload)[:-1] == data[offset:].removesuffix(b"\n")[: len(payload) + 27]
    stretches = sorted(
        [(at, at + 27 + len(payload)) for at, payload in found.payloads]
        + [(one.offset, one.offset + one.length) for one in found.damages]
    )
    assert all(before[1] <= after[0] for before, after in pairwise(stretches)), "two stretches overlap"
    assert 0 <= found.end <= len(data) + found.unterminated
    assert found.torn_at is None or 0 <= found.torn_at <= len(data)
    payloads = data.split(b"\n")
    written = b"".join(map(encode_payload, payloads))
    again = split(written)
    assert [payload for _, payload in again.payloads] == payloads
    assert (again.damages, again.torn_at, again.end) == ([], None, len(written))
    whole = split(written + data[: len(data) // 2])
    assert [payload for _, payload in whole.payloads][: len(payloads)] == payloads, "what follows a record changes it"


def record(data: bytes) -> None:
    """Read a payload as segment head and record: a `ValueError`, a newer version, or what comes back when written."""
    with suppress(ValueError, NewerVersion):
        head = decode_head(data)
        assert decode_head(split(encode(head)).payloads[0][1]) == head
    with suppress(ValueError):
        (found,) = decode_records([data])
        line = encode(found)
        assert line.count(b"\n") == 1
        assert not OBEYED.search(line.decode("utf-8")[:-1]), "a line of the log can move a terminal's cursor"
        (again,) = decode_records([split(line).payloads[0][1]])
        assert repr(again) == repr(found), "a record changed on its way through the log"


def config(data: bytes) -> None:
    """Load a config file: settings whose paths and procedures can be had, or a `UsageError` that can be printed."""
    INPUT.write_bytes(data)
    try:
        settings = load_settings(INPUT)
    except UsageError as refused:
        str(refused).encode("utf-8")
        return
    assert settings.layout.raw_root.is_absolute()
    assert settings.zone.key
    assert settings.workers >= 1


def history(data: bytes) -> None:
    """Read a chip history and any CSV of people: cells, or a `UsageError`."""
    for content in (data, EMPTY_HISTORY + data):
        INPUT.write_bytes(content)
        for read in (read_history, read_cells):
            with suppress(UsageError):
                read(INPUT)


def parquet(data: bytes) -> None:
    """Read a staged file's row, header and cells: each a value, or `Corrupt`."""
    INPUT.write_bytes(data)
    for read in (read_row, read_header, read_run):
        with suppress(Corrupt):
            read(INPUT)


def logline(data: bytes) -> None:
    """Read a line of the service's log, any bytes; write one with them as a value, and read it again."""
    found = parse_line(data)
    assert (found.time is None) == (not found.level)
    assert found.time is None or found.time.tzinfo is UTC
    text = data.decode("utf-8", "surrogateescape")
    entry = {"time": "2026-03-13T09:00:00Z", "level": "info", "event": "staged", "value": text}
    line = json_line(entry)
    assert line.isprintable(), f"a line can move a terminal's cursor: {line!r}"
    again = parse_line(line.encode())
    assert again.event == "staged"
    assert again.fields == entry or not _encodable(text)


def _encodable(text: str) -> bool:
    try:
        return bool(text.encode()) or not text
    except UnicodeEncodeError:
        return False


def planted(data: bytes) -> None:
    """Fail at the end of a path that only coverage finds; proves that the fuzzer is guided and that it reports."""
    if data[:1] == b"d" and data[1:2] == b"p" and data[2:3] == b"g" and data[3:4] == b"#":
        raise KeyError("planted")


@dataclass(frozen=True, slots=True)
class Target:
    """One reader to fuzz: what takes the bytes, what makes its first ones, and how long an input may be."""

    feed: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    longest: int = 1 << 14


TARGETS = {
    "header": Target(header, seeds.raw_files),
    "run": Target(run, seeds.raw_files),
    "table": Target(table, seeds.bodies, 1 << 12),
    "parameters": Target(parameters, seeds.parameters, 1 << 10),
    "segment": Target(segment, lambda: [seeds.SEGMENT]),
    "record": Target(record, lambda: [payload for _, payload in split(seeds.SEGMENT).payloads], 1 << 12),
    "config": Target(config, seeds.configs),
    "history": Target(history, seeds.histories, 1 << 12),
    "parquet": Target(parquet, seeds.parquets),
    "logline": Target(logline, lambda: [b'{"event": "x", "level": "info"}', b"<6>text"], 1 << 12),
}
PLANTED = Target(planted, lambda: [b"a"], 16)
