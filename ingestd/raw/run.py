"""One raw file as values: header, procedure and table, with late comment lines moved into the header."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from ingestd.errors import Reject
from ingestd.raw.header import Header, parse_header
from ingestd.raw.lines import AS_WRITTEN, Tally, parse_field
from ingestd.raw.procedure import Procedure
from ingestd.raw.procedures import Registry
from ingestd.raw.table import Body, Table, parse_tables
from ingestd.words import count


@dataclass(frozen=True, slots=True)
class RawRun:
    """One raw file's content.

    `table` has the procedure's schema (no rows while the run is queued). `header` holds the comment lines found after
    the column line too. `warnings` are sentences for people, the header's first.
    """

    header: Header
    procedure: Procedure
    table: pa.Table
    warnings: tuple[str, ...]


def parse_run(data: bytes, registry: Registry) -> RawRun:
    """Parse a raw file's bytes: header, then the procedure of its class, then the table.

    Raises `Reject`, and nothing else, for any bytes: whatever `parse_head` and `parse_tables` find.
    """
    (run,) = parse_bodies([parse_head(data, registry)])
    if isinstance(run, Reject):
        raise run
    return run


def parse_head(data: bytes, registry: Registry) -> Body:
    """Parse the header of a raw file's bytes and find the procedure of its class.

    Raises `Reject`: whatever `parse_header` and `Registry.procedure_for` find.
    """
    header = parse_header(data)
    try:
        return Body(data, header, registry.procedure_for(header.procedure_class, header.columns, header.parameters))
    except Reject as reject:
        raise reject.at(1) from None


def parse_bodies(bodies: Sequence[Body]) -> list[RawRun | Reject]:
    """Parse the rows of several files whose headers are parsed: for each, the run or why its table is refused."""
    return [
        table if isinstance(table, Reject) else _run(body, table)
        for body, table in zip(bodies, parse_tables(bodies), strict=True)
    ]


def _run(body: Body, table: Table) -> RawRun:
    header = _with_late_comments(body.header, table.late_comments)
    return RawRun(header, body.procedure, table.table, (*header.warnings, *table.warnings))


def _with_late_comments(header: Header, comments: Sequence[str]) -> Header:
    """Return `header` with the fields of late comment lines in its metadata; the first of two equal names counts.

    PyMeasure writes a second `#Metadata:` block after the column line when a run is recorded into an existing file.
    """
    if not comments:
        return header
    metadata = dict(header.metadata)
    other = Tally("value given again after the column line, the first counts")
    written = Tally(AS_WRITTEN)
    for comment in comments:
        field = parse_field(comment)
        if field is None:
            continue
        name, value, warning = field
        if warning:
            written.add(warning)
        if metadata.setdefault(name, value) != value:
            other.add(f"{name}: {value}")
    late = f"{count(len(comments), 'comment line')} after the column line, taken into the header"
    return replace(
        header,
        metadata=metadata,
        text="\n".join((header.text, *comments)),
        warnings=(*header.warnings, late, *other.sentences(), *written.sentences()),
    )
