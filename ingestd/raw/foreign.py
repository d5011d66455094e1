"""What a file not written by PyMeasure seems to be, in words for the person who put it there."""

from __future__ import annotations

from typing import Final

from ingestd.errors import Reject, RejectCode
from ingestd.words import count, shown

BOM: Final = b"\xef\xbb\xbf"
MARK: Final = b"#Procedure:"
"""The first bytes of every file PyMeasure writes (after an optional UTF-8 byte order mark)."""

_HEAD_BYTES: Final = 4096
_NEXT: Final = "move the file out of the raw folder, or replace it with the one the instrument program wrote"

_UTF16_STARTS: Final = (b"\xff\xfe", b"\xfe\xff", b"#\x00P", b"\x00#\x00P", b"#\x00\x00\x00P", b"\x00\x00\x00#")

_MAGIC: Final[dict[bytes, str]] = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook (.xlsx)",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls) or another Office document",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF document",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    b"PAR1": "a Parquet file",
    b"<<<<<<<": "a file in which git left a conflict between two versions",
    b"version https://git-lfs": "a Git LFS pointer, in whose place `git lfs pull` puts the file",
    b"<": "a web page or an XML file",
    b"{": "a JSON file",
}


def starts_like_pymeasure(data: bytes) -> bool:
    """Tell whether `data` begins as PyMeasure's files do, or is so short that it still could."""
    head = data[: len(BOM) + len(MARK)]
    if BOM.startswith(head):
        return True
    head = head.removeprefix(BOM)[: len(MARK)]
    return MARK.startswith(head.rstrip(b"\0")) and not head.startswith(b"\0")


def refuse_foreign(data: bytes) -> None:
    """Raise `Reject` when `data` does not begin as PyMeasure's files do; say what it seems to be instead."""
    if data.startswith(_UTF16_STARTS):
        raise Reject(
            RejectCode.BAD_ENCODING,
            "the file was saved as UTF-16 or UTF-32 text; PyMeasure writes UTF-8",
            line=1,
            expected="UTF-8 text",
            found=shown(data[:12].decode("latin-1")),
            next_step="open the file in an editor and save it as UTF-8",
        )
    if starts_like_pymeasure(data):
        return
    if not data.strip(b"\0"):
        raise Reject(
            RejectCode.NUL_BYTES,
            f"the file holds {count(len(data), 'NUL byte')} and nothing else, as a power loss leaves it",
            line=1,
            expected="#Procedure: <class>",
            found=shown(data[:4].decode("latin-1")),
            next_step="take the file from a backup, or delete it",
        )
    first = data[:_HEAD_BYTES].removeprefix(BOM).partition(b"\n")[0].rstrip(b"\r")
    raise Reject(
        RejectCode.NOT_PYMEASURE,
        f"not a PyMeasure measurement file: {_seems(data, first)}",
        line=1,
        expected="#Procedure: <class>",
        found=shown(first.decode("utf-8", "replace")),
        next_step=_NEXT,
    )


def _seems(data: bytes, first: bytes) -> str:
    for magic, words in _MAGIC.items():
        if data.startswith(magic):
            return f"it looks like {words}"
    for found, words in (
        (b"\0" in data[:_HEAD_BYTES], "it holds binary data"),
        (first.lstrip(b"\"' ").startswith(MARK), "its first line is in quotes or indented, as a spreadsheet saves it"),
        (first.startswith(b"#"), "it begins with a comment other than #Procedure:; were its first lines deleted?"),
        (b";" in first, "it looks like a semicolon-separated table saved by a spreadsheet program"),
        (b"," in first, "it looks like a plain CSV table or text, without PyMeasure's header"),
    ):
        if found:
            return words
    return "it does not begin with #Procedure:"
