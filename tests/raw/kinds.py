"""Tables of a procedure with every kind of column: what the tests of tables share."""

from __future__ import annotations

from typing import Any

import pytest

from ingestd.errors import Reject
from ingestd.raw.header import Header, parse_header
from ingestd.raw.procedure import Procedure
from ingestd.raw.table import Body, Table, parse_tables

KINDS = Procedure.model_validate(
    {
        "name": "Kinds",
        "classes": ["Kinds"],
        "columns": {
            "a_v": {"accepts": ["A (V)"], "required": True},
            "count": {"accepts": ["N"], "dtype": "int64"},
            "note": {"accepts": ["Note"], "dtype": "string"},
            "b_a": {"accepts": ["B (A)"]},
        },
        "summary": "Kinds",
        "chip": "none",
        "light": "none",
    }
)
HEAD = "#Procedure: <Kinds>\n#Parameters:\n#Data:\n"
INT64_MAX = 2**63 - 1


def parse_table(data: bytes, header: Header, procedure: Procedure) -> Table:
    """Parse the rows of one file, or raise its reject."""
    (found,) = parse_tables([Body(data, header, procedure)])
    if isinstance(found, Reject):
        raise found
    return found


def parsed(body: str | bytes, columns: str = "A (V),N,Note") -> Table:
    """Parse `body` below a header with `columns`."""
    data = f"{HEAD}{columns}\n".encode() + (body.encode() if isinstance(body, str) else body)
    return parse_table(data, parse_header(data), KINDS)


def rejected(body: str | bytes, columns: str = "A (V),N,Note") -> Reject:
    """Return the reject that parsing `body` raises. Line 5 is its first."""
    with pytest.raises(Reject) as caught:
        parsed(body, columns)
    return caught.value


def cells(table: Table, name: str) -> list[Any]:
    """Return one column as Python values."""
    return list(table.table.column(name).to_pylist())
