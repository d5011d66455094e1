"""The header of one raw file: from its bytes to procedure class, parameters, metadata and column labels.

Format, as PyMeasure 0.11 to 0.16 writes it (one line each, LF or CRLF):

    #Procedure: <package.module.Class>
    #Parameters:
    #<tab>name: value            value in Python's unicode_escape
    #Metadata:                   absent while the run is queued
    #<tab>name: value
    #Data:
    label,label,...              never quoted
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ingestd.errors import Reject, RejectCode
from ingestd.raw.foreign import BOM, MARK, refuse_foreign, starts_like_pymeasure
from ingestd.raw.lines import (
    AS_WRITTEN,
    SAVE_WITH_COMMAS,
    WITHOUT_QUOTES,
    Tally,
    count_rows,
    decode,
    find_lone_carriage_return,
    line_number,
    parse_field,
    refuse_lone_carriage_return,
    refuse_nul,
    text_end,
)
from ingestd.words import shown

MAX_FILE_BYTES: Final = 1 << 30
"""Largest file that is read: hundreds of day-long runs, small enough for 32-bit offsets in the table."""

MAX_HEADER_BYTES: Final = 4 << 20
"""Largest header, and largest sum of comment lines after it.

Parquet readers refuse metadata of 100 MB. As JSON in the manifest row, a control character takes 7 bytes, and 6 more in
a procedure version.
"""

MAX_HEADER: Final = f"{MAX_HEADER_BYTES >> 20} MiB"
"""The same, as people read it."""

MAX_COLUMNS: Final = 10_000
MAX_LABEL_LENGTH: Final = 200

START_TIME_LABEL: Final = "Start time"

_UNCOMMENTED: Final = re.compile(rb"^[^#\r\n]", re.MULTILINE)
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_SECTIONS: Final = ("Parameters", "Metadata", "Data")


@dataclass(frozen=True, slots=True)
class Header:
    """One raw file's header as values.

    `parameters` and `metadata` map names to texts, decoded from PyMeasure's `unicode_escape`; the first of two equal
    names counts. `columns` are the labels as written. `text` is lossless: every line up to and including the
    column line, decoded, joined by newlines. `body_start` is the byte offset just after the column line, `body_line`
    the 1-based line number there. `warnings` are sentences for people.
    """

    procedure_class: str
    parameters: Mapping[str, str]
    metadata: Mapping[str, str]
    columns: tuple[str, ...]
    text: str
    body_start: int
    body_line: int
    warnings: tuple[str, ...]

    @property
    def start_text(self) -> str | None:
        """The start time as written; None if there is none."""
        return start_text(self.parameters, self.metadata)

    def line_of(self, name: str) -> int | None:
        """Return the 1-based number of the first header line with a value of this name; None if none has."""
        for number, line in enumerate(self.text.split("\n")[: self.body_line - 1], start=1):
            field = parse_field(line)
            if field is not None and field[0] == name:
                return number
        return None

    def spoiled_line(self, name: str) -> tuple[int, str] | None:
        """Return number and text of the first header line that has this name but is no field; None without one."""
        for number, line in enumerate(self.text.split("\n")[: self.body_line - 1], start=1):
            if name in line and parse_field(line) is None:
                return number, line
        return None


def start_text(parameters: Mapping[str, str], metadata: Mapping[str, str]) -> str | None:
    """Return a header's start time as written; None if it has none."""
    return metadata.get(START_TIME_LABEL, parameters.get(START_TIME_LABEL))


@dataclass(frozen=True, slots=True)
class Glance:
    """What a quick look shows of a file that may still be written.

    `plausible`: the bytes are a PyMeasure file or the beginning of one (an empty file, a cut header). `rows`: the
    number of data rows that have their line end (comment lines and blank lines do not count). `incomplete_tail`: bytes,
    perhaps NUL bytes, follow the last line end.
    """

    incomplete_tail: bool
    plausible: bool
    rows: int


def glance(data: bytes) -> Glance:
    """Look at the bytes of a file without judging its content; never raises, linear in the size of `data`."""
    tail = bool(data) and not data.endswith(b"\n")
    rows = 0
    plausible = starts_like_pymeasure(data)
    if plausible and (start := _uncommented(data, max(data.find(b"\n#Data:", 0, MAX_HEADER_BYTES), 0))) >= 0:
        body_start = data.find(b"\n", start) + 1
        rows = count_rows(data, body_start, data.rfind(b"\n") + 1) if body_start else 0
    elif len(data) > MAX_HEADER_BYTES:
        plausible = False
    if plausible and not rows:
        plausible = find_lone_carriage_return(data, 0, text_end(data)) < 0
    return Glance(incomplete_tail=tail, plausible=plausible, rows=rows)


def parse_header(data: bytes) -> Header:
    """Parse the header of a raw file from its bytes (the body may follow).

    Time and memory are linear in the header's size. Raises `Reject`, and nothing else, for any bytes: NOT_PYMEASURE,
    BAD_ENCODING, NUL_BYTES, LONE_CARRIAGE_RETURN, MISSING_COLUMN_LINE, BAD_HEADER_LINE, BAD_COLUMN_NAME,
    DUPLICATE_COLUMN, TOO_LARGE. Format: `pymeasure.experiment.results.Results`.
    """
    refuse_foreign(data)
    if len(data) > MAX_FILE_BYTES:
        raise _too_large(f"the file has {len(data)} bytes", f"at most {MAX_FILE_BYTES} bytes", None)
    start, body_start = _column_line(data)
    refuse_nul(data, 0, body_start)
    refuse_lone_carriage_return(data, 0, body_start)
    decoded, warning = decode(data[:body_start].removeprefix(BOM), first_line=1, what="header")
    lines = decoded.replace("\r\n", "\n").removesuffix("\n").split("\n")
    sections = _Sections()
    procedure_class = _procedure_class(lines[0])
    sections.read(lines[1:-1])
    column_line = line_number(data, start)
    return Header(
        procedure_class=procedure_class,
        parameters=sections.parameters,
        metadata=sections.metadata,
        columns=_columns(lines[-1], column_line),
        text="\n".join(lines),
        body_start=body_start,
        body_line=column_line + 1,
        warnings=(*filter(None, [warning]), *sections.warnings()),
    )


class _Sections:
    """The header's lines between procedure and column line, sorted into parameters and metadata."""

    def __init__(self) -> None:
        self.parameters: dict[str, str] = {}
        self.metadata: dict[str, str] = {}
        self._seen: set[str] = set()
        self._unknown = Tally("not a line PyMeasure writes; kept in the header text only")
        self._twice = Tally("name given twice, the first value counts")
        self._written = Tally(AS_WRITTEN)

    def read(self, lines: Iterable[str]) -> None:
        section = ""
        for number, line in enumerate(lines, start=2):
            opened = line[1:].rstrip().removesuffix(":")
            if line.startswith("#") and opened in _SECTIONS:
                section = opened
                self._seen.add(section)
            elif (field := parse_field(line)) is not None:
                self._take(self.metadata if section in {"Metadata", "Data"} else self.parameters, field, number)
            elif line:
                self._unknown.add(line, number)

    def _take(self, into: dict[str, str], field: tuple[str, str, str], number: int) -> None:
        name, value, warning = field
        if warning:
            self._written.add(warning, number)
        if name in into:
            self._twice.add(f"{name}: {value}", number)
        else:
            into[name] = value

    def warnings(self) -> list[str]:
        missing = [f"the header has no line #{name}:" for name in ("Parameters", "Data") if name not in self._seen]
        return [*missing, *self._unknown.sentences(), *self._twice.sentences(), *self._written.sentences()]


def _uncommented(data: bytes, start: int) -> int:
    """Return where the first line after `start` begins that is neither comment nor blank, else -1."""
    first_line_end = data.find(b"\n") + 1 or len(data)
    found = _UNCOMMENTED.search(data, max(start, first_line_end), MAX_HEADER_BYTES)
    return found.start() if found else -1


def _column_line(data: bytes) -> tuple[int, int]:
    """Return where the column line begins and where the body does."""
    start = _uncommented(data, 0)
    if start < 0 and len(data) > MAX_HEADER_BYTES:
        raise _too_large(f"no column line in the file's first {MAX_HEADER}", f"a header of at most {MAX_HEADER}", None)
    body_start = data.find(b"\n", start) + 1 if start >= 0 else 0
    if not body_start:
        refuse_lone_carriage_return(data, 0, text_end(data))
        raise Reject(
            RejectCode.MISSING_COLUMN_LINE,
            "the file is empty"
            if not data
            else "the file ends inside its header, before the line of column names ends",
            line=line_number(data, len(data)),
            expected="the column names after #Data:, such as Vg (V),I (A)",
            found=shown(data[data.rfind(b"\n") + 1 :][:80].decode("utf-8", "replace")),
            next_step="wait if the run is still queued; else take the file from a backup, or delete it",
        )
    if body_start > MAX_HEADER_BYTES:
        expected = f"a header of at most {MAX_HEADER}"
        raise _too_large(f"the header has {body_start} bytes", expected, line_number(data, start))
    _refuse_uncommented_header_line(data, start)
    return start, body_start


def _refuse_uncommented_header_line(data: bytes, start: int) -> None:
    if data.find(b"\n#Data:", 0, start) >= 0:
        return
    data_mark = data.find(b"\n#Data:", start, MAX_HEADER_BYTES)
    if data_mark < 0 or data.find(b"\n#Procedure", start, data_mark) >= 0:
        return
    raise Reject(
        RejectCode.BAD_HEADER_LINE,
        "a line inside the header does not begin with #, perhaps the rest of a multi-line text",
        line=line_number(data, start),
        expected="# and a tab at the beginning of every header line before #Data:",
        found=shown(data[start : start + 80].partition(b"\n")[0].decode("utf-8", "replace")),
        next_step="join the line to the one above it, or put # and a tab before it",
    )


def _procedure_class(line: str) -> str:
    """Return the class in `#Procedure: <class>`; the angle brackets may be missing."""
    text = line[len(MARK) :].strip()
    if text.endswith((",", ";")):
        raise Reject(
            RejectCode.NOT_PYMEASURE,
            "the file was saved again by a spreadsheet program, which may have changed its numbers",
            line=1,
            expected="#Procedure: <class>",
            found=shown(line),
            next_step="put the file back as the instrument program wrote it",
        )
    name = text.removeprefix("<").removesuffix(">").strip()
    if not name:
        raise Reject(
            RejectCode.BAD_HEADER_LINE,
            "the first line names no procedure",
            line=1,
            expected="#Procedure: <class>",
            found=shown(line),
            next_step="write the procedure's class after #Procedure:, such as <laser_setup.procedures.It.It>",
        )
    return name


def _columns(line: str, number: int) -> tuple[str, ...]:
    count = line.count(",") + 1
    if count > MAX_COLUMNS:
        raise _too_large(f"the column line has {count} columns", f"at most {MAX_COLUMNS} columns", number)
    labels = tuple(line.split(","))
    filled = [label for label in labels if label.strip()]
    if filled and all(_is_number(label) for label in filled):
        raise Reject(
            RejectCode.MISSING_COLUMN_LINE,
            "the first line after the header holds numbers where the column names belong",
            line=number,
            expected="the column names, such as Vg (V),I (A)",
            found=shown(line),
            next_step="put the line of column names back, between #Data: and the first row",
        )
    seen: set[str] = set()
    for position, label in enumerate(labels, start=1):
        if problem := _label_problem(label, count):
            raise Reject(
                RejectCode.BAD_COLUMN_NAME,
                f"column {position} {problem}",
                line=number,
                expected="a name for every column, separated by commas",
                found=shown(label or line),
                next_step=_label_step(label, count),
            )
        if label in seen:
            raise Reject(
                RejectCode.DUPLICATE_COLUMN,
                f"two columns have the same name, {shown(label)!r}; it is unclear which one is meant",
                line=number,
                expected="every column name once",
                found=shown(line),
                next_step="rename one of the two columns in the line of column names",
            )
        seen.add(label)
    return labels


def _label_problem(label: str, count: int) -> str:
    if not label.strip():
        return "has no name"
    if len(label) > MAX_LABEL_LENGTH:
        return f"has a name of {len(label)} characters; at most {MAX_LABEL_LENGTH} are allowed"
    if _other_separator(label, count):
        return "holds semicolons or tabs where PyMeasure writes commas, as a spreadsheet program saves a table"
    if _is_quoted(label):
        return "has its name in quotes; PyMeasure never quotes, a spreadsheet program does"
    if _CONTROL.search(label):
        return "has a control character in its name"
    return ""


def _label_step(label: str, count: int) -> str:
    if _other_separator(label, count):
        return SAVE_WITH_COMMAS
    return WITHOUT_QUOTES if _is_quoted(label) else "correct the line of column names"


def _is_quoted(label: str) -> bool:
    return label.startswith('"') or label.endswith('"')


def _other_separator(label: str, count: int) -> bool:
    return count == 1 and (";" in label or "\t" in label)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _too_large(message: str, expected: str, line: int | None) -> Reject:
    return Reject(
        RejectCode.TOO_LARGE,
        f"{message}, more than ingestd reads",
        line=line,
        expected=expected,
        next_step="check whether this is a measurement; if it is, split the file",
    )
