"""Names and values that mean harm: to paths, terminals, spreadsheets, JSON, markup, parsers and memory."""

from __future__ import annotations

from measurement import COLUMNS

NAMES: list[bytes] = [
    b"..csv",
    b"...csv",
    b"a..b.csv",
    b"..%2f..%2fetc%2fpasswd.csv",
    b"..\\..\\windows.csv",
    b"C:\\run.csv",
    b"CON.csv",
    b"nul.csv",
    b"aux.csv/inner.csv",
    b"x.csv/y.csv",
    b"line\nbreak.csv",
    b"carriage\rreturn.csv",
    b"tab\there.csv",
    b"bell\x07.csv",
    b"\x1b[31mred\x1b[0m.csv",
    b"\x1b]0;title\x07.csv",
    b"\xc2\x9b31m.csv",
    "left\u202eto\u202cright.csv".encode(),
    "mark\u200f\u061c.csv".encode(),
    "zero\u200bwidth\ufeff.csv".encode(),
    "line\u2028sep\u2029.csv".encode(),
    "nfc-é.csv".encode(),
    "nfd-e\u0301.csv".encode(),
    "😀.csv".encode(),
    b"not-utf8-\xff\xfe.csv",
    b"surrogate-\xed\xa0\x80.csv",
    b"[bold red]markup[/bold red].csv",
    b"[link=file:///etc/passwd]x[/link].csv",
    b"{{7*7}}{0}%s%n.csv",
    b'"quoted",comma.csv',
    b"'; rm -rf ~; '.csv",
    b"$(touch owned)`touch owned`.csv",
    b"=cmd|' /C calc'!A0.csv",
    b"@SUM(1).csv",
    b"-rf.csv",
    b"--json.csv",
    b" .csv",
    b" space .csv",
    b"dot./x.csv",
    b"*.csv",
    b"~.csv",
    b"Case.csv",
    b"case.csv",
    b"n" * 251 + b".csv",
    "ü".encode() * 125 + b".csv",
    b"/".join([b"d" * 200] * 10) + b"/deep.csv",
    b"00000000000000000000.csv",
    b"manifest.parquet/run.csv",
]

VALUES: list[str] = [
    "../../../../tmp/owned",
    "/tmp/owned",
    "..",
    ".",
    "a/b",
    "a\\b",
    "%2e%2e%2f",
    "CON",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-1+1",
    "@SUM(1)",
    "\ttab",
    "\x1b[2J\x1b[31mred",
    "\x9b31m",
    "\x07\x08\x7f",
    "\\x1b[2J",
    "\\n\\r\\x00",
    "\\ud800\\udfff",
    "\\u202egpj",
    "\u202egpj.exe",
    "\u2028\u2029",
    "\\N{BELL}\\777",
    "\\",
    "\\x",
    "[bold]x[/bold][/]",
    "[link=file:///etc/passwd]x",
    '{"a": [1, {"b": "',
    '"},"event":"ingested"}\\n',
    "{0}{self.__class__}%s%(x)s",
    "{{7*7}}${7*7}#{7*7}",
    "<script>alert(1)</script>",
    "'; DROP TABLE runs; --",
    "__import__('os').system('touch owned')",
    "x" * 3000,
    "é" * 200,
    "😀",
    "nan",
    "1e999999999",
    "10**10**10",
    "9" * 5000,
    "((((" * 2000,
    "1 " + "m" * 5000,
    "-0",
    "0x10",
    "1_000",
    "١٢",
    "",
    " ",
]

LABELS = ("Chip group name", "Chip number", "VG", "Laser voltage", "Information", "Procedure version", "Start time")


def run(sample: int, label: str = "", value: str = "") -> bytes:
    """A measurement whose header says `value` for `label`; `sample` sets its currents apart."""
    header = {"Chip group name": "Alisson", "Chip number": "72", "Laser voltage": "1.4 V", "VG": "-5.19 V"}
    procedure = value if label == "Procedure" else "<laser_setup.procedures.It.It>"
    start = value if label == "Start time" else f"{1758632155.25 + sample}"
    header |= {label: value} if label not in {"", "Procedure", "Start time"} else {}
    lines = [
        f"#Procedure: {procedure}",
        "#Parameters:",
        *(f"#\t{name}: {text}" for name, text in header.items()),
        "#Metadata:",
        f"#\tStart time: {start}",
        "#Data:",
        COLUMNS,
        f"0.0,{sample + 1}e-9,1.4,nan,nan,nan",
    ]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def giants(size: int) -> dict[str, bytes]:
    """Files of about `size` bytes, each a burden of another kind."""
    head, columns, _ = run(1).partition(COLUMNS.encode())
    procedure = b"#Procedure: <laser_setup.procedures.It.It>\n#Parameters:\n"
    row = b"0.0,1e-9,1.4,nan,nan,nan\n"
    wide = b",".join(b"c%d" % number for number in range(100_000))
    return {
        "one line": b"x" * size,
        "one header line": procedure + b"#\tInformation: " + b"y" * size,
        "one header line, escapes": procedure + b"#\tInformation: " + b"\\x41" * (size // 4) + b"\n" + columns,
        "header lines": procedure + b"#\tA: 1\n" * (size // 7),
        "header names": procedure + b"".join(b"#\tN%d: 1\n" % number for number in range(size // 12)),
        "comments": head + columns + b"\n" + b"#\n" * (size // 2),
        "columns": head + wide + b"\n" + b",".join([b"1"] * 100_000) + b"\n",
        "columns, all empty": head + b"," * size + b"\n",
        "one cell": head + columns + b"\n0.0," + b"1" * size + b",1,1,1,1\n",
        "one exponent": head + columns + b"\n0.0,1e" + b"9" * size + b",1,1,1,1\n",
        "line ends": head + columns + b"\n" + b"\n" * size,
        "carriage returns": head + columns + b"\r" * size,
        "NUL": head + columns + b"\n" + bytes(size),
        "quotes": head + columns + b"\n" + b'"' * size,
        "good rows": head + columns + b"\n" + row * (size // len(row)),
        "bad row at the end": head + columns + b"\n" + row * (size // len(row)) + b"1,2\n",
        "unknown column": head + columns + b",Note\n" + (row[:-1] + b"," + b"z" * 100 + b"\n") * (size // 125),
        "high bytes": b"\xff" * size,
        "braces": procedure + b"#\tVG: " + b"(" * (size // 16) + b"\n" + columns,
        "exponent of a unit": procedure + b"#\tVG: 1 V**999999999\n#\tChip number: 1\n#Data:\n" + columns,
    }
