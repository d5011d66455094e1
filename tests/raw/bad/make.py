"""Write the bad raw files of this folder, each with one fault that its name tells: `python tests/raw/bad/make.py`.

A script, because many of the files hold bytes that an editor or a checkout would change. A name begins with the reject
code of its fault; `expected.toml` tells the line and the words.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

HEADER = {
    "#Procedure": "<laser_setup.procedures.IVg.IVg>",
    "#Parameters": None,
    "Chip group name": "Alisson",
    "Chip number": "67",
    "Laser voltage": "0 V",
    "Laser wavelength": "455",
    "VDS": "0.1 V",
    "VG end": "5 V",
    "VG start": "-5 V",
    "VG step": "0.05 V",
    "#Metadata": None,
    "Start time": "1758632155.2821116",
    "#Data": None,
}
LABELS = "Vg (V),I (A),Plate T (degC)"
ROWS = ("-5.0,-1.25e-09,nan", "0.0,3.5e-12,nan", "5.0,1.5e-09,nan")
EMPTY_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def raw(*rows: str, labels: str = LABELS, end: str = "\n", without: str = "", **changed: str) -> bytes:
    """Return a file of PyMeasure's kind; keywords replace header values, `_` for a blank."""
    values = HEADER | {name.replace("_", " "): value for name, value in changed.items()}
    lines = []
    for name, value in values.items():
        if name != without:
            lines.append(f"#\t{name}: {value}" if name[0] != "#" else f"{name}:{'' if value is None else ' ' + value}")
    return "".join(line + end for line in (*lines, labels, *(rows or ROWS))).encode("utf-8")


def procedure(written: str) -> bytes:
    """Return a good file with another text after `#Procedure:`."""
    return raw().replace(b"<laser_setup.procedures.IVg.IVg>", written.encode())


def workbook() -> bytes:
    """Return the smallest thing that begins as an Excel workbook does."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(zipfile.ZipInfo("[Content_Types].xml", EMPTY_ZIP_TIME), "<Types/>")
    return content.getvalue()


def spreadsheet(separator: str) -> bytes:
    """Return a good file as a spreadsheet program saves it: every line filled up with separators."""
    lines = raw().decode().splitlines()
    width = LABELS.count(",")
    rows = [line.replace(",", separator) if line[0] != "#" else line + separator * width for line in lines]
    return "".join(row + "\r\n" for row in rows).encode()


def cell(text: str) -> bytes:
    """Return a file whose second row has `text` for the current."""
    return raw(ROWS[0], f"0.0,{text},nan", ROWS[2])


GOOD = raw()
WITH_NOTES = LABELS + ",Comment"

FILES = {
    "bad-cell-arabic-digits": cell("\u0661\u0662"),
    "bad-cell-blanks-only": cell("  "),
    "bad-cell-clock-time": cell("12:00:01"),
    "bad-cell-cut-exponent": cell("1.5e"),
    "bad-cell-digit-groups": cell("1_000"),
    "bad-cell-hexadecimal": cell("0x1F"),
    "bad-cell-nan-with-payload": cell("nan(7)"),
    "bad-cell-overflow-word": cell("OVERFLOW"),
    "bad-cell-quoted-number": cell('"1.5e-09"'),
    "bad-cell-true": cell("True"),
    "bad-cell-two-points": cell("1.2.3"),
    "bad-cell-typographic-minus": cell("\u22121.0"),
    "bad-cell-with-unit": cell("1.5 nA"),
    "bad-chip-group-empty": raw(Chip_group_name=""),
    "bad-chip-group-escape-character": raw(Chip_group_name="Alisson\\x1b[31m"),
    "bad-chip-group-of-a-novel": raw(Chip_group_name="A" * 300),
    "bad-chip-number-fraction": raw(Chip_number="67.5"),
    "bad-chip-number-word": raw(Chip_number="sixty-seven"),
    "bad-column-name-control-character": raw(labels="Vg (V),I\x07 (A),Plate T (degC)"),
    "bad-column-name-empty": raw(labels="Vg (V),,Plate T (degC)"),
    "bad-column-name-endless": raw(labels="Vg (V),I (A)," + "T" * 500),
    "bad-column-name-quoted": raw(labels='"Vg (V)","I (A)","Plate T (degC)"'),
    "bad-column-name-quoted-line": raw(*(f'"{row}"' for row in ROWS), labels=f'"{LABELS}"'),
    "bad-column-name-semicolons": raw(labels=LABELS.replace(",", ";")),
    "bad-column-name-tabs": raw(labels=LABELS.replace(",", "\t")),
    "bad-column-name-trailing-comma": raw(labels=LABELS + ","),
    "bad-encoding-in-comment": GOOD + b"#\tNote: \x81\n",
    "bad-encoding-in-header": GOOD.replace(b"#Data:", b"#\tNote: \x8d\n#Data:"),
    "bad-encoding-in-row": raw(ROWS[0] + ",x", labels=WITH_NOTES).replace(b"x\n", b"\x90\n"),
    "bad-encoding-utf-16": GOOD.decode().encode("utf-16"),
    "bad-encoding-utf-16-without-bom": GOOD.decode().encode("utf-16-le"),
    "bad-encoding-utf-32": GOOD.decode().encode("utf-32-be"),
    "bad-header-line-no-class": procedure(""),
    "bad-header-line-text-of-two-lines": raw(Laser_wavelength="455\nthen 365"),
    "bad-parameter-decimal-comma": raw(VDS="0,1 V"),
    "bad-parameter-word": raw(VDS="low"),
    "bad-start-time-milliseconds": raw(Start_time="1758632155282"),
    "bad-start-time-no-such-day": raw(Start_time="2025-02-30T10:00:00"),
    "bad-start-time-word": raw(Start_time="yesterday"),
    "bad-unit-other-dimension": raw(VDS="0.1 A"),
    "bad-unit-unheard-of": raw(VDS="0.1 voltz"),
    "duplicate-column-same-label": raw(labels="Vg (V),I (A),I (A)"),
    "duplicate-column-two-spellings": raw(labels="Vg (V),I (A),VG (V)"),
    "lone-carriage-return-doubled": raw(end="\n").replace(b"-09,nan\n", b"-09,nan\r\r\n", 1),
    "lone-carriage-return-everywhere": raw(end="\r"),
    "lone-carriage-return-in-header": GOOD.replace(b"#\tVDS", b"#\tNote: a\rb\n#\tVDS"),
    "lone-carriage-return-in-rows": raw(end="\n").replace(b"nan\n", b"nan\r"),
    "missing-chip-lost-its-tab": GOOD.replace(b"#\tChip group name", b"#Chip group name"),
    "missing-chip-no-group-line": raw(without="Chip group name"),
    "missing-column-line-cut-header": GOOD[:150],
    "missing-column-line-cut-labels": GOOD[: GOOD.index(b"(A),Plate")],
    "missing-column-line-empty-file": b"",
    "missing-column-line-rows-only": GOOD.replace(LABELS.encode() + b"\n", b""),
    "missing-column-current": raw("-5.0,nan", labels="Vg (V),Plate T (degC)"),
    "missing-column-in-other-unit": raw(labels="Vg (V),I (uA),Plate T (degC)"),
    "not-pymeasure-binary": bytes(range(256)),
    "not-pymeasure-excel-workbook": workbook(),
    "not-pymeasure-git-conflict": b"<<<<<<< HEAD\n" + GOOD + b"=======\n" + GOOD + b">>>>>>> other\n",
    "not-pymeasure-git-lfs-pointer": f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\n".encode(),
    "not-pymeasure-header-in-quotes": b'"#Procedure: <laser_setup.procedures.IVg.IVg>"\n' + GOOD,
    "not-pymeasure-image": b"\x89PNG\r\n\x1a\n" + bytes(32),
    "not-pymeasure-lost-first-line": GOOD.partition(b"\n")[2],
    "not-pymeasure-parquet": b"PAR1" + bytes(16) + b"PAR1",
    "not-pymeasure-plain-csv": b"Vg (V),I (A)\n0.0,1.0\n",
    "not-pymeasure-prose": b"Measured with Ana, sample looked dirty.\n",
    "not-pymeasure-saved-by-spreadsheet": spreadsheet(","),
    "not-pymeasure-saved-by-spreadsheet-semicolons": spreadsheet(";"),
    "not-pymeasure-semicolons": b"Vg (V);I (A)\n0,0;1,0\n",
    "not-pymeasure-web-page": b"<!doctype html><title>Sign in</title>\n",
    "nul-bytes-file-of-nothing-else": bytes(512),
    "nul-bytes-in-header": GOOD.replace(b"Laser wavelength", bytes(16)),
    "nul-bytes-in-row": GOOD.replace(b"3.5e-12", bytes(7)),
    "row-too-long-comma-in-text": raw(ROWS[0] + ",ok", ROWS[1] + ",dirty, again", labels=WITH_NOTES),
    "row-too-long-decimal-comma": cell("1,5"),
    "row-too-long-decimal-commas-everywhere": raw(*(row.replace(".", ",") for row in ROWS)),
    "row-too-long-trailing-comma": raw(ROWS[0], ROWS[1] + ","),
    "row-too-long-two-rows-in-one": raw(ROWS[0] + ROWS[1], ROWS[2]),
    "row-too-short-cut-in-the-middle": raw(ROWS[0], "0.0,3.5e", ROWS[2]),
    "row-too-short-line-break-in-text": raw(ROWS[0] + ",ok", ROWS[1] + ",dirty\nagain", labels=WITH_NOTES),
    "row-too-short-semicolons": raw(ROWS[0], ROWS[1].replace(",", ";")),
    "row-too-short-tabs": raw(ROWS[0], ROWS[1].replace(",", "\t")),
    "second-header-column-line-again": raw(*ROWS, LABELS, *ROWS),
    "second-header-two-files-joined": GOOD + GOOD,
    "too-large-ten-thousand-columns": raw(labels=LABELS + ",a" * 10_000),
    "unknown-procedure-misspelt": procedure("<laser_setup.procedures.IVg.IVgg>"),
    "unknown-procedure-never-heard-of": procedure("<other_lab.procedures.Hall.HallBar>"),
}


def main(folder: Path) -> None:
    """Write every bad file into `folder`."""
    for name, content in FILES.items():
        (folder / f"{name}.csv").write_bytes(content)


if __name__ == "__main__":
    main(Path(__file__).parent)
