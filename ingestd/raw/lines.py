"""Lines of a raw file, header and body alike: decoding, line ends, comment fields, row counts, findings."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from ingestd.errors import Reject, RejectCode
from ingestd.words import count, shown

_SKIPPED_LINE: Final = re.compile(rb"^(?:#[^\n]*|\r?)\n", re.MULTILINE)
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
_LONE_CR: Final = re.compile(rb"\r(?!\n)")
_ESCAPE: Final = re.compile(
    r"\\(?:[\\tnr]|x[0-9a-fA-F]{2}|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}|U00(?:0[1-9a-fA-F]|10)[0-9a-fA-F]{4})"
)
"""What Python's unicode_escape writes, except lone surrogates, which cannot be stored as UTF-8."""


_USUAL_LINE: Final = 200
"""Header lines up to this length are cached: most are the same in run after run."""

SAVE_WITH_COMMAS: Final = (
    "save it with commas between the cells and decimal points, or put it back as the instrument program wrote it"
)
"""What to do with a file that a spreadsheet program saved with its locale's separators."""

WITHOUT_QUOTES: Final = (
    "delete the quotes, here and in every row, in an editor, or put the file back as the instrument program wrote it"
)
"""What to do with a file in which a spreadsheet program put cells or whole lines in quotes."""

AS_WRITTEN: Final = "not escaped as PyMeasure does, taken as written"
"""The warning about a value that `parse_field` could not decode."""


def line_number(data: bytes, offset: int) -> int:
    """Return the 1-based number of the line that holds `data[offset]`."""
    return data.count(b"\n", 0, offset) + 1


def _around(data: bytes, at: int) -> str:
    """Return the text around `data[at]` in its line, safe to print."""
    start = max(data.rfind(b"\n", 0, at) + 1, at - 20)
    return shown(data[start : at + 20].partition(b"\n")[0].decode("latin-1"))


def count_rows(data: bytes, start: int, end: int) -> int:
    """Count the data rows of `data[start:end]`: complete lines that are neither blank nor comments.

    `data[start - 1]` and `data[end - 1]` must be line feeds.
    """
    lines = data.count(b"\n", start, end)
    if data.find(b"#", start, end) >= 0 or _BLANK_LINE.search(data, start - 1, end):
        lines -= sum(1 for _ in _SKIPPED_LINE.finditer(data, start, end))
    return lines


def has_blank_line(data: bytes) -> bool:
    """Tell whether a line of `data` after its first line feed is blank."""
    return _BLANK_LINE.search(data) is not None


def decode(data: bytes, *, first_line: int, what: str) -> tuple[str, str]:
    """Decode strict UTF-8, else Windows-1252; return the text and a warning (empty for UTF-8).

    `first_line` is the line number of `data[0]`. Raises `Reject` (BAD_ENCODING) where a byte is neither.
    """
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
    try:
        return data.decode("cp1252"), f"line {line}: the {what} is not UTF-8; read as Windows-1252"
    except UnicodeDecodeError as error:
        at = error.start
    raise Reject(
        RejectCode.BAD_ENCODING,
        f"the byte 0x{data[at]:02x} in the {what} is neither UTF-8 nor Windows-1252 text",
        line=first_line + data.count(b"\n", 0, at),
        expected="UTF-8 text",
        found=_around(data, at),
        next_step="open the file in an editor, correct the letter there, and save the file as UTF-8",
    )


def text_end(data: bytes) -> int:
    """Return where to stop looking for lone carriage returns: a last one may be half of a CRLF still being written.

    NUL bytes at the end, as a power loss leaves them, count as not written.
    """
    text = data.rstrip(b"\0") if data.endswith(b"\0") else data
    return len(text) - text.endswith(b"\r")


def find_lone_carriage_return(data: bytes, start: int, end: int) -> int:
    """Return the offset of the first carriage return in `data[start:end]` without a line feed after it, else -1."""
    if data.find(b"\r", start, end) < 0 or data.count(b"\r", start, end) == data.count(b"\r\n", start, end):
        return -1
    found = _LONE_CR.search(data, start, end)
    return found.start() if found else -1


def refuse_lone_carriage_return(data: bytes, start: int, end: int) -> None:
    """Raise `Reject` (LONE_CARRIAGE_RETURN) when `data[start:end]` holds a carriage return without a line feed."""
    at = find_lone_carriage_return(data, start, end)
    if at < 0:
        return
    raise Reject(
        RejectCode.LONE_CARRIAGE_RETURN,
        "a carriage return without a line feed: two lines look like one",
        line=line_number(data, at),
        expected="line ends LF or CRLF",
        found=_around(data, at),
        next_step="convert the file's line ends to LF or CRLF in an editor",
    )


def refuse_nul(data: bytes, start: int, end: int) -> None:
    """Raise `Reject` (NUL_BYTES) when `data[start:end]` holds a NUL byte."""
    at = data.find(b"\0", start, end)
    if at < 0:
        return
    length = len(data[at:end]) - len(data[at:end].lstrip(b"\0"))
    raise Reject(
        RejectCode.NUL_BYTES,
        f"{count(length, 'NUL byte')} inside the text, as a power loss or a broken copy leaves them",
        line=line_number(data, at),
        expected="text",
        found=_around(data, at),
        next_step="take the file from a backup, or delete the damaged lines in an editor",
    )


def parse_field(line: str) -> tuple[str, str, str] | None:
    """Split a comment line `#<tab>name: value` into name, decoded value and warning (or "").

    The value is decoded from `unicode_escape`; text that PyMeasure cannot have written is taken as it is. Two or
    more blanks count as the tab (editors swap them). Returns None if the line is not such a field.
    """
    return _parse_field(line) if len(line) <= _USUAL_LINE else _parse_field.__wrapped__(line)


@lru_cache(maxsize=4096)
def _parse_field(line: str) -> tuple[str, str, str] | None:
    inner = line[1:].rstrip("\r\n")
    if not inner.startswith(("\t", "  ")):
        return None
    name, separator, value = inner.lstrip(" \t").partition(": ")
    if not separator:
        name, separator, value = name.partition(":")
    if not separator or not name.strip():
        return None
    if "\\" not in value:
        return name, value, ""
    if value.isascii() and "\\" not in _ESCAPE.sub("", value):
        return name, value.encode("ascii").decode("unicode_escape"), ""
    return name, value, f"{name}: {value}"


class Tally:
    """Findings of one kind: the first is quoted, the others counted, so that no file makes a million warnings."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._count = 0
        self._first = ""

    def add(self, text: str, line: int | None = None) -> None:
        """Count a finding, in `line` where that is known; `text` is quoted, shortened, when it is the first."""
        if not self._count:
            place = "" if line is None else f"line {line}: "
            self._first = f"{place}{self._what}: {shown(text)}"
        self._count += 1

    def sentences(self) -> list[str]:
        """Return no sentence, or one that quotes the first finding and counts the others."""
        if self._count > 1:
            return [f"{self._first} (and {self._count - 1} more)"]
        return [self._first] if self._count else []
