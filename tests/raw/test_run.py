"""One raw file as one value: header, procedure, table, and what was written late."""

from __future__ import annotations

import importlib.util
import logging
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.errors import Reject, RejectCode
from ingestd.raw.header import glance
from ingestd.raw.procedures import Registry
from ingestd.raw.run import parse_run

WriteRaw = Callable[..., bytes]


def test_a_file_becomes_header_procedure_and_table(write_raw: WriteRaw, registry: Registry) -> None:
    """The class in the header finds the procedure, whose schema the table has."""
    run = parse_run(write_raw(rows=[("-5.0", "1e-9"), ("5.0", "nan")], parameters={"VDS": "0.1 V"}), registry)
    assert run.procedure.name == "IVg"
    assert run.header.parameters == {"VDS": "0.1 V"}
    assert run.table.schema.equals(run.procedure.arrow_schema, check_metadata=True)
    assert run.table.column("vg_v").to_pylist() == [-5.0, 5.0]
    assert (run.table.num_rows, run.warnings) == (2, ())


def test_a_queued_file_is_a_run_without_rows(write_raw: WriteRaw, registry: Registry) -> None:
    """A header with no row yet parses to zero rows: judging it is another's work."""
    assert parse_run(write_raw(), registry).table.num_rows == 0


def test_a_second_metadata_block_goes_into_the_header(write_raw: WriteRaw, registry: Registry) -> None:
    """Fields of comment lines after the column line join the metadata, the first value counts, the text keeps all."""
    late = b"#Metadata:\n#\tStart time: 2.0\n#\tOperator: \\xb5\n#a remark\n"
    data = write_raw(metadata={"Start time": "1.0"}) + b"1,2\n" + late + b"3,4\n"
    run = parse_run(data, registry)
    assert run.header.metadata == {"Start time": "1.0", "Operator": "µ"}
    assert run.header.text.encode() == data.split(b"\n1,2\n", maxsplit=1)[0] + b"\n" + late[:-1]
    assert run.table.num_rows == 2
    assert run.warnings == (
        "4 comment lines after the column line, taken into the header",
        "value given again after the column line, the first counts: Start time: 2.0",
    )


def test_the_same_late_metadata_is_no_contradiction(write_raw: WriteRaw, registry: Registry) -> None:
    """A late block that repeats what the header says makes no warning about two values."""
    run = parse_run(write_raw(metadata={"Start time": "1.0"}) + b"#\tStart time: 1.0\n1,2\n", registry)
    assert run.warnings == ("1 comment line after the column line, taken into the header",)


def test_late_metadata_in_another_code_is_warned_about(write_raw: WriteRaw, registry: Registry) -> None:
    """A late value that is not in PyMeasure's escape code is taken as written, and said, as in the header."""
    run = parse_run(write_raw(metadata={}) + b"#\tFolder: C:\\data\n1,2\n", registry)
    assert run.header.metadata == {"Folder": r"C:\data"}
    assert r"not escaped as PyMeasure does, taken as written: Folder: C:\data" in run.warnings


def test_warnings_of_header_and_table_are_joined(write_raw: WriteRaw, registry: Registry) -> None:
    """A run's warnings are the header's, then the table's."""
    data = write_raw(("Vg (V)", "I (A)", "Odd"), [("1", "2", "x")]).replace(b"#Data:", b"#remark\n#Data:") + b"3,"
    assert [sentence.split(":")[0] for sentence in parse_run(data, registry).warnings] == [
        "line 3",
        "line 7",
        "columns that procedure IVg does not know are kept in 'extra'",
    ]


@pytest.mark.parametrize(
    ("columns", "procedure", "code", "line"),
    [
        (("Vg (V)", "I (A)"), "lab.Unheard", RejectCode.UNKNOWN_PROCEDURE, 1),
        (("Vg (V)", "J (A)"), "lab.IVg", RejectCode.MISSING_COLUMN, 4),
        (("Vg (V)", "I (A)", "VG (V)"), "lab.IVg", RejectCode.DUPLICATE_COLUMN, 4),
    ],
)
def test_faults_that_the_procedure_finds_have_a_line(
    write_raw: WriteRaw, registry: Registry, columns: tuple[str, ...], procedure: str, code: RejectCode, line: int
) -> None:
    """An unknown procedure is on the first line, a wrong column on the column line; nothing else of it is lost."""
    with pytest.raises(Reject) as caught:
        parse_run(write_raw(columns, procedure=procedure), registry)
    assert (caught.value.code, caught.value.line) == (code, line)
    assert caught.value.expected
    assert caught.value.found
    assert caught.value.next_step


def test_a_reject_can_be_sent_to_another_process(registry: Registry) -> None:
    """A reject keeps code, line and words when it is pickled: files are parsed in worker processes."""
    with pytest.raises(Reject) as caught:
        parse_run(b"PK\x03\x04", registry)
    revived = pickle.loads(pickle.dumps(caught.value))
    assert (revived.code, revived.line, str(revived)) == (caught.value.code, caught.value.line, str(caught.value))


@given(st.data())
def test_a_damaged_file_gives_a_run_or_a_reject(write_raw: WriteRaw, registry: Registry, data: st.DataObject) -> None:
    """Bytes overwritten, cut out or put in anywhere in a file never end in another exception than Reject."""
    whole = write_raw(rows=[("1.0", "2.0"), ("3.0", "nan")], metadata={"Start time": "1.0"}, parameters={"VG": "1 V"})
    start, end = sorted((data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, len(whole)))))
    damaged = whole[:start] + data.draw(st.binary(max_size=8)) + whole[end:]
    try:
        run = parse_run(damaged, registry)
    except Reject as reject:
        outcome = reject.line
    else:
        outcome = run.table.num_rows
        assert outcome == glance(damaged).rows
    assert outcome is not None


@pytest.mark.skipif(importlib.util.find_spec("pymeasure") is None, reason="pymeasure (dev group) is not installed")
def test_a_run_recorded_twice_into_one_file_by_pymeasure_is_read(tmp_path: Path, registry: Registry) -> None:
    """PyMeasure's own recorder, run twice on one file, leaves late metadata and more rows: every row is read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyMeasure's imports, which are not ours to mend
        from pymeasure.experiment import Metadata, Procedure
        from pymeasure.experiment.results import CSVFormatter, Results

    class IVg(Procedure):  # type: ignore[misc]  # PyMeasure ships no types
        start = Metadata("Start time", fget=lambda: 1.5)
        DATA_COLUMNS = ("Vg (V)", "I (A)")

    path = tmp_path / "IVg_1.csv"
    for _ in range(2):
        procedure = IVg()
        results = Results(procedure, str(path))
        recorder = logging.FileHandler(path)
        recorder.setFormatter(CSVFormatter(columns=IVg.DATA_COLUMNS))
        procedure.evaluate_metadata()
        results.store_metadata()
        recorder.emit({"Vg (V)": 0.5, "I (A)": 1e-9})  # type: ignore[arg-type]  # PyMeasure's records are dicts
        recorder.close()
    run = parse_run(path.read_bytes(), registry)
    assert run.table.num_rows == 2
    assert run.table.column("vg_v").to_pylist() == [0.5, 0.5]
    assert run.header.metadata == {"Start time": "1.5"}


def test_every_file_of_the_lab_is_a_run_without_warnings(lab: Path, registry: Registry) -> None:
    """The lab's 153 files parse with the packaged procedures; the one that never ran has no row."""
    runs = {path.name: parse_run(path.read_bytes(), registry) for path in (lab / "01_raw").rglob("*.csv")}
    assert {warning for run in runs.values() for warning in run.warnings} == set()
    assert [name for name, run in runs.items() if not run.table.num_rows] == ["It2025-09-25_10.csv"]
