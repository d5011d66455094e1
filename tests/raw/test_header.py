"""The header as values, and the glance that tells a queued file from a settled one."""

from __future__ import annotations

import csv
import importlib.util
import pickle
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.errors import Reject, RejectCode
from ingestd.raw import header as header_module
from ingestd.raw.header import MAX_COLUMNS, MAX_HEADER_BYTES, Glance, glance, parse_header

HEAD = b"#Procedure: <a.IVg>\n#Parameters:\n#\tVG: 1 V\n#Data:\n"
WHOLE = HEAD + b"Vg (V),I (A)\n"

names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters=":#,"), min_size=1)
values = st.text(st.characters(codec="utf-8"))
label = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters=',"#;'), max_size=99)
labels = st.lists(label.map("U{} (V)".format), min_size=1, max_size=8, unique=True)


def rejected(data: bytes) -> Reject:
    """Return the reject that parsing the header of `data` raises."""
    with pytest.raises(Reject) as caught:
        parse_header(data)
    return caught.value


def test_every_part_of_a_header_is_a_value() -> None:
    """Class, parameters, metadata, labels, text and the place of the body are read from a header."""
    data = b"#Procedure: <p.It>\n#Parameters:\n#\tVG: 1 V\n#Metadata:\n#\tStart time: 2.5\n#Data:\nt (s),I (A)\n0,1\n"
    parsed = parse_header(data)
    assert parsed.procedure_class == "p.It"
    assert parsed.parameters == {"VG": "1 V"}
    assert parsed.metadata == {"Start time": "2.5"}
    assert parsed.columns == ("t (s)", "I (A)")
    assert parsed.text.encode() == data[: parsed.body_start - 1]
    assert (data[parsed.body_start :], parsed.body_line, parsed.warnings) == (b"0,1\n", 8, ())


@given(
    parameters=st.dictionaries(names, values, max_size=6),
    metadata=st.none() | st.dictionaries(names, values, max_size=3),
    columns=labels,
    end=st.sampled_from(["\n", "\r\n"]),
    bom=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_what_pymeasure_writes_is_read_back(
    write_raw: Callable[..., bytes],
    parameters: dict[str, str],
    metadata: dict[str, str] | None,
    columns: list[str],
    end: str,
    bom: bytes,
) -> None:
    """Any parameters, metadata and labels come back as they were, with LF or CRLF, with or without BOM."""
    data = bom + write_raw(columns, parameters=parameters, metadata=metadata, end=end)
    parsed = parse_header(data)
    assert dict(parsed.parameters) == parameters
    assert dict(parsed.metadata) == (metadata or {})
    assert parsed.columns == tuple(columns)
    assert parsed.text == data.removeprefix(bom).decode().replace("\r\n", "\n")[:-1]
    assert (parsed.body_start, parsed.warnings) == (len(data), ())
    assert parsed.body_line == data.count(b"\n") + 1


@pytest.mark.skipif(importlib.util.find_spec("pymeasure") is None, reason="pymeasure (dev group) is not installed")
def test_pymeasures_own_writer_is_understood(tmp_path: Path) -> None:
    """A file made by PyMeasure's `Results`, metadata inserted in place, is read back with its odd letters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyMeasure's imports, which are not ours to mend
        from pymeasure.experiment import FloatParameter, Metadata, Parameter, Procedure
        from pymeasure.experiment.results import Results

    class IVg(Procedure):  # type: ignore[misc]  # PyMeasure ships no types
        vds = FloatParameter("VDS", units="V", default=0.1)
        information = Parameter("Information", default="µ-chip\nC:\\x41 \t💡")
        start = Metadata("Start time", fget=lambda: 1.5)
        DATA_COLUMNS = ("Vg (V)", "I (µA)")

    procedure = IVg()
    results = Results(procedure, str(tmp_path / "IVg_1.csv"))
    queued = parse_header((tmp_path / "IVg_1.csv").read_bytes())
    assert (queued.metadata, queued.columns) == ({}, ("Vg (V)", "I (µA)"))
    procedure.evaluate_metadata()
    results.store_metadata()
    started = parse_header((tmp_path / "IVg_1.csv").read_bytes())
    assert started.parameters == {"Information": "µ-chip\nC:\\x41 \t💡", "VDS": "0.1 V"}
    assert (started.metadata, started.warnings) == ({"Start time": "1.5"}, ())
    assert started.procedure_class.endswith("IVg")


@pytest.mark.parametrize(
    ("written", "value", "warned"),
    [
        (r"\xb5-chip", "µ-chip", False),
        (r"C:\\data\\x41", r"C:\data\x41", False),
        (r"\u03bb \U0001f4a1 \t\n\r", "λ \U0001f4a1 \t\n\r", False),
        (r"C:\data", r"C:\data", True),
        ("µ \\n", "µ \\n", True),
        (r"\ud800", r"\ud800", True),
        (r"\U00110000", r"\U00110000", True),
        ("ends in \\", "ends in \\", True),
        ("plain µ", "plain µ", False),
        (" blanks kept ", " blanks kept ", False),
        ("", "", False),
    ],
)
def test_values_are_unescaped_or_taken_as_written(written: str, value: str, warned: bool) -> None:
    """A value in PyMeasure's escape code is decoded; text it cannot have written so stays, with a warning."""
    data = f"#Procedure: <a.IVg>\n#Parameters:\n#\tNote: {written}\n#Data:\na,b\n".encode()
    parsed = parse_header(data)
    assert parsed.parameters == {"Note": value}
    assert bool(parsed.warnings) is warned
    assert written in parsed.text


@pytest.mark.parametrize(
    ("line", "parameters", "warning"),
    [
        ("#\tVG: 2 V", {"VG": "1 V"}, "line 4: name given twice, the first value counts: VG: 2 V"),
        ("#\tno colon here", {"VG": "1 V"}, "line 4: not a line PyMeasure writes; kept in the header text only"),
        ("#a remark", {"VG": "1 V"}, "#a remark"),
        ("# one blank: remark", {"VG": "1 V"}, "one blank"),
        ("#\t: 3", {"VG": "1 V"}, "not a line PyMeasure writes"),
        ("#    VDS: 3 V", {"VG": "1 V", "VDS": "3 V"}, ""),
        ("#\tVDS:", {"VG": "1 V", "VDS": ""}, ""),
        ("#\tVDS:3", {"VG": "1 V", "VDS": "3"}, ""),
        ("#\tratio a:b: 3", {"VG": "1 V", "ratio a:b": "3"}, ""),
        ("", {"VG": "1 V"}, ""),
    ],
)
def test_odd_header_lines_are_kept_and_warned_about(line: str, parameters: dict[str, str], warning: str) -> None:
    """A line PyMeasure does not write stays in the header's text, costs no run, and is named with its number."""
    data = f"#Procedure: <a.IVg>\n#Parameters:\n#\tVG: 1 V\n{line}\n#Data:\na,b\n".encode()
    parsed = parse_header(data)
    assert parsed.parameters == parameters
    assert parsed.text.split("\n")[3] == line
    assert warning in "".join(parsed.warnings)
    assert bool(parsed.warnings) is bool(warning)


def test_a_million_odd_lines_make_one_warning() -> None:
    """Findings of one kind are counted in one sentence, and a header of a million lines takes seconds at most."""
    data = b"#Procedure: <a.IVg>\n#Parameters:\n" + b"#o\n" * 1_000_000 + b"#Data:\na,b\n"
    before = time.process_time()
    parsed = parse_header(data)
    assert time.process_time() - before < 20
    assert len(parsed.warnings) == 1
    assert "(and 999999 more)" in parsed.warnings[0]


def test_fields_below_the_data_mark_are_metadata() -> None:
    """Between #Data: and the column line stands what was written late."""
    parsed = parse_header(b"#Procedure: <a.IVg>\n#Parameters:\n#\tVG: 1 V\n#Data:\n#\tOperator: x\na,b\n")
    assert (parsed.parameters, parsed.metadata) == ({"VG": "1 V"}, {"Operator": "x"})


def test_a_file_joined_to_one_without_a_data_mark_has_its_own_column_line() -> None:
    """The mark below belongs to the second header: nothing is wrong with the first one's lines."""
    parsed = parse_header(b"#Procedure: <a.IVg>\n#Parameters:\na,b\n1,2\n" + HEAD + b"a,b\n")
    assert (parsed.columns, parsed.body_line) == (("a", "b"), 4)


def test_a_field_whose_name_holds_another_is_not_that_one_spoiled() -> None:
    """Only a line that is no field may be what is left of one."""
    parsed = parse_header(b"#Procedure: <a.IVg>\n#\tOld VG: 1 V\n#VG: 2 V\n#Data:\na,b\n")
    assert parsed.spoiled_line("VG") == (3, "#VG: 2 V")
    assert parsed.spoiled_line("Old VG") is None


def test_missing_section_lines_are_warned_about() -> None:
    """A header without #Parameters: and #Data: is read, fields before a section count as parameters."""
    parsed = parse_header(b"#Procedure: <a.IVg>\n#\tVG: 1 V\na,b\n")
    assert parsed.parameters == {"VG": "1 V"}
    assert parsed.warnings == ("the header has no line #Parameters:", "the header has no line #Data:")


@pytest.mark.parametrize("written", ["<a.b.IVg>", "a.b.IVg", " <a.b.IVg> ", "<a.b.IVg"])
def test_angle_brackets_around_the_class_may_be_missing(written: str) -> None:
    """The procedure class is the text between < and >, or what stands there without them."""
    assert parse_header(f"#Procedure:{written}\n#Data:\na,b\n".encode()).procedure_class == "a.b.IVg"


def test_cp1252_header_is_read_with_a_warning() -> None:
    """A header saved in the Windows code page is read, and the warning names the line."""
    parsed = parse_header(HEAD + "T (°C),I (µA)\n".encode("cp1252"))
    assert parsed.columns == ("T (°C)", "I (µA)")
    assert parsed.warnings == ("line 5: the header is not UTF-8; read as Windows-1252",)


def test_a_header_can_be_sent_to_another_process() -> None:
    """A parsed header survives pickling: files are parsed in worker processes."""
    parsed = parse_header(WHOLE)
    assert pickle.loads(pickle.dumps(parsed)) == parsed


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PK\x03\x04rest", "Excel workbook (.xlsx)"),
        (b"\xd0\xcf\x11\xe0rest", "(.xls)"),
        (b"\x89PNG\r\n\x1a\n", "PNG image"),
        (b"%PDF-1.7\n", "PDF document"),
        (b"\x1f\x8b\x08", "gzip archive"),
        (b"<html>", "web page"),
        (b'{"a": 1}', "JSON"),
        (b"abc\0\1\2", "binary data"),
        (b'"#Procedure: <a>"\n', "spreadsheet"),
        (b"#Parameters:\n#\tVG: 1\n", "first lines deleted"),
        (b"Vg (V);I (A)\n1,5;2\n", "semicolon-separated"),
        (b"Vg (V),I (A)\n1,2\n", "plain CSV table"),
        (b"\xef\xbb\xbfhello\n", "does not begin with #Procedure:"),
        (b"\n" + WHOLE, "does not begin with #Procedure:"),
        (b"#Procedure: <a.IVg>;;;\n#Data:;;;\na;b\n", "spreadsheet program"),
    ],
)
def test_foreign_content_is_named(data: bytes, words: str) -> None:
    """A file that is no measurement is rejected in words that say what it seems to be."""
    reject = rejected(data)
    assert (reject.code, reject.line) == (RejectCode.NOT_PYMEASURE, 1)
    assert words in reject.message
    assert reject.next_step


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-be", "utf-32-le", "utf-32"])
def test_utf16_is_named(codec: str) -> None:
    """A file saved as UTF-16 or UTF-32, with BOM or without, is told from garbage and the way out is named."""
    reject = rejected(WHOLE.decode().encode(codec))
    assert reject.code is RejectCode.BAD_ENCODING
    assert "UTF-16" in reject.message
    assert "save it as UTF-8" in reject.next_step


@pytest.mark.parametrize(
    ("data", "code", "line", "words"),
    [
        (b"", RejectCode.MISSING_COLUMN_LINE, 1, "the file is empty"),
        (b"#Proc", RejectCode.MISSING_COLUMN_LINE, 1, "ends inside its header"),
        (HEAD, RejectCode.MISSING_COLUMN_LINE, 5, "ends inside its header"),
        (HEAD + b"Vg (V),I", RejectCode.MISSING_COLUMN_LINE, 5, "ends inside its header"),
        (HEAD + b"0.0,1e-5\n", RejectCode.MISSING_COLUMN_LINE, 5, "holds numbers"),
        (b"#Procedure: <>\n#Data:\na,b\n", RejectCode.BAD_HEADER_LINE, 1, "names no procedure"),
        (
            b"#Procedure: <a.IVg>\n#Parameters:\n#\tInformation: one\ntwo\n#Data:\na,b\n",
            RejectCode.BAD_HEADER_LINE, 4, "does not begin with #",
        ),
        (HEAD + b"a,,b\n", RejectCode.BAD_COLUMN_NAME, 5, "column 2 has no name"),
        (HEAD + b"a,b,\n", RejectCode.BAD_COLUMN_NAME, 5, "column 3 has no name"),
        (HEAD + b"a,\x1bb\n", RejectCode.BAD_COLUMN_NAME, 5, "control character"),
        (HEAD + b"a;b\n", RejectCode.BAD_COLUMN_NAME, 5, "semicolons or tabs"),
        (HEAD + b'"a",b\n', RejectCode.BAD_COLUMN_NAME, 5, "in quotes"),
        (HEAD + b"a," + b"x" * 201 + b"\n", RejectCode.BAD_COLUMN_NAME, 5, "201 characters"),
        (HEAD + b"a,b,a\n", RejectCode.DUPLICATE_COLUMN, 5, "'a'"),
        (HEAD + b"a\x81,b\n", RejectCode.BAD_ENCODING, 5, "0x81"),
        (b"#Procedure: <a.IVg>\r#Data:\ra,b\r1,2\r", RejectCode.LONE_CARRIAGE_RETURN, 1, "carriage return"),
        (HEAD[:-1] + b"\ra,b\r1,2\r", RejectCode.LONE_CARRIAGE_RETURN, 4, "carriage return"),
        (HEAD + b"a,\rb\n", RejectCode.LONE_CARRIAGE_RETURN, 5, "carriage return"),
        (HEAD + b"a\0\0,b\n", RejectCode.NUL_BYTES, 5, "2 NUL bytes"),
        (b"\0" * 9, RejectCode.NUL_BYTES, 1, "9 NUL bytes and nothing else"),
    ],
)  # fmt: skip
def test_faults_are_named_with_their_line(data: bytes, code: RejectCode, line: int, words: str) -> None:
    """Every fault of a header has its own code, its line and plain words."""
    reject = rejected(data)
    assert (reject.code, reject.line) == (code, line)
    assert words in reject.message
    assert reject.next_step


def test_limits_hold_at_their_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    """The most columns are taken and one more is not; so for the header's and the file's bytes."""
    most = ",".join(map("c{}".format, range(MAX_COLUMNS))).encode()
    assert len(parse_header(HEAD + most + b"\n").columns) == MAX_COLUMNS
    assert rejected(HEAD + most + b",c\n").code is RejectCode.TOO_LARGE
    filler = MAX_HEADER_BYTES - len(HEAD + b"#\na,b\n")
    longest = HEAD + b"#" + b"x" * filler + b"\na,b\n"
    assert parse_header(longest).body_start == MAX_HEADER_BYTES
    assert rejected(HEAD + b"#x" + longest[len(HEAD) + 1 :]).code is RejectCode.TOO_LARGE
    assert rejected(HEAD + b"#" * (MAX_HEADER_BYTES + 1)).code is RejectCode.TOO_LARGE
    monkeypatch.setattr(header_module, "MAX_FILE_BYTES", len(WHOLE))
    assert parse_header(WHOLE).columns
    assert rejected(WHOLE + b"\n").code is RejectCode.TOO_LARGE


pieces = st.sampled_from(
    [b"#Procedure: <a.IVg>", b"#Data:", b"#Parameters:", b"#\ta: b", b"\n", b"\r\n", b"\r", b"\0", b"a,b", b",", b"1,2",
     b"\xff", b"\x81", b"\xef\xbb\xbf", b"\\x", b"#", b"\t", b"\xc2\x85", b"\xe2\x80\xa8"]
)  # fmt: skip
some_bytes = (
    st.binary()
    | st.binary().map(lambda tail: b"#Procedure:" + tail)
    | st.lists(pieces | st.binary(max_size=3)).map(b"".join)
    | st.lists(pieces).map(lambda parts: HEAD + b"".join(parts))
)


@given(some_bytes)
def test_any_bytes_give_a_header_or_a_reject(data: bytes) -> None:
    """Whatever the bytes, parsing ends in a header or a Reject, printable both, and the glance never raises."""
    look = glance(data)
    try:
        parsed = parse_header(data)
    except Reject as reject:
        words = str(reject).replace("\n  next: ", "")
    else:
        words = "".join(parsed.warnings)
        assert look.plausible or b"\r" in data[parsed.body_start :]
        assert data[: parsed.body_start].endswith(b"\n")
        assert parsed.text.encode("utf-8")
    assert words.isprintable()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", (False, True, 0)),
        (b"\xef\xbb", (True, True, 0)),
        (b"#Proc", (True, True, 0)),
        (b"#Proc\0\0\0", (True, True, 0)),
        (HEAD, (False, True, 0)),
        (HEAD + b"Vg (V),I", (True, True, 0)),
        (WHOLE, (False, True, 0)),
        (WHOLE + b"1.0,2.", (True, True, 0)),
        (WHOLE + b"\0\0\0\0", (True, True, 0)),
        (WHOLE + b"#\ta: b\n\n\r\n", (False, True, 0)),
        (WHOLE + b"1.0,2.0\n", (False, True, 1)),
        (WHOLE + b"1.0,2.0\r\n3.0,", (True, True, 1)),
        (WHOLE + b"1.0,2.0\n\n#\ta: b\n3.0,4.0\n\0\0", (True, True, 2)),
        (WHOLE + b"\n\n\n1,2\n\r\n\r\n", (False, True, 1)),
        (b"#Procedure: <a>\n#\tInfo: one\ntwo\n#Data:\na,b\n", (False, True, 0)),
        (b"#Procedure: <a>\r", (True, True, 0)),
        (b"#Procedure: <a>\r#Data:\ra,b\r", (True, False, 0)),
        (HEAD[:-1] + b"\ra,b\r1,2\r", (True, False, 0)),
        (WHOLE + b"1,2\r3,4\r", (True, False, 0)),
        (WHOLE + b"1,2\r", (True, True, 0)),
        (WHOLE + b"1,2\r\0\0", (True, True, 0)),
        (b"\0\0\0", (True, False, 0)),
        (b"a,b\n1,2\n", (False, False, 0)),
        (b"#Procedures\n1,2\n", (False, False, 0)),
        (b"#Procedure:" + b"x" * MAX_HEADER_BYTES, (True, False, 0)),
    ],
)
def test_glance_tells_what_may_still_grow(data: bytes, expected: tuple[bool, bool, int]) -> None:
    """(incomplete tail, plausible, rows) of files in every state of their life."""
    assert glance(data) == Glance(*expected)


@given(st.binary(max_size=40), st.integers(0, 200))
def test_every_beginning_of_a_file_is_plausible(tail: bytes, cut: int) -> None:
    """A file cut anywhere, even inside its first line, may still be written: the glance says so."""
    data = (WHOLE + b"0.0,1.0\r\n2.0,3.0\n" + tail)[:cut]
    assert glance(data).plausible


def test_headers_of_the_lab_are_read_without_a_warning(lab: Path) -> None:
    """Each of the lab's 153 files gives the names and values an independent reading of its lines gives."""
    files = sorted((lab / "01_raw").rglob("*.csv"))
    assert len(files) == 153
    for path in files:
        data = path.read_bytes()
        parsed = parse_header(data)
        lines = data.decode().splitlines()
        fields = dict(line[2:].split(": ", 1) for line in lines if line.startswith("#\t"))
        assert {**parsed.parameters, **parsed.metadata} == fields, path
        assert list(parsed.columns) == next(csv.reader(line for line in lines if line[0] != "#")), path
        assert parsed.warnings == ()
        assert glance(data).rows == sum(line[0] != "#" for line in lines) - 1
