"""The per-day metadata.csv: one row a run, one column a header line, nothing hidden, nothing run as a formula."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd import files
from ingestd.errors import Corrupt, Retry, UsageError
from ingestd.files import durable
from ingestd.histories.cells import render_csv
from ingestd.histories.metadata import export_metadata, metadata_frame

TZ = "America/Santiago"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)

MakeManifest = Callable[..., pl.DataFrame]


def header(parameters: dict[str, str], **metadata: str) -> str:
    lines = {name.replace("_", " "): value for name, value in metadata.items()}
    return json.dumps({"procedure": "p.It", "parameters": parameters, "metadata": lines})


def run(name: str, parameters: dict[str, str], **given: Any) -> dict[str, Any]:
    return {"source_file": f"d/{name}.csv", "parameters": header(parameters, Start_time="1758632155.2821116"), **given}


def test_the_file_to_the_letter(manifest_of: MakeManifest) -> None:
    """Header values stand as written, a missing one is empty, columns come in order of first appearance."""
    rows = manifest_of(
        run("b", {"VG": "-5.19 V", "Information": "=1+1"}, file_idx=2),
        run("a", {"Chip number": "72", "VG": "0.1 V"}, file_idx=1, has_light=None),
    )
    assert render_csv(metadata_frame(rows, TZ)).decode() == (
        "Chip number,VG,Information,has_light,source_file,start_time,time_hms\n"
        "72,0.1 V,,,d/a.csv,1758632155.2821116,09:55:55\n"
        ",-5.19 V,'=1+1,true,d/b.csv,1758632155.2821116,09:55:55\n"
    )


def test_superseded_runs_are_left_out(manifest_of: MakeManifest) -> None:
    """A row that another superseded is no row of a day's table."""
    rows = manifest_of(run("a", {}, superseded_by="f" * 20), run("b", {}))
    assert metadata_frame(rows, TZ)["source_file"].to_list() == ["d/b.csv"]


def test_metadata_lines_are_columns_too(manifest_of: MakeManifest) -> None:
    """Lines of the header's metadata block follow the parameters; `Start time` is the column start_time."""
    text = header({"VG": "1 V"}, Start_time="1758632155.2821116", Sensor_model="S120VC")
    frame = metadata_frame(manifest_of({"parameters": text}), TZ)
    assert frame.columns == ["VG", "Sensor model", "has_light", "source_file", "start_time", "time_hms"]
    assert frame["Sensor model"].item() == "S120VC"


def test_no_header_line_hides_a_fixed_column(manifest_of: MakeManifest) -> None:
    """A parameter or metadata line named like another column gets a name of its own; every value is there."""
    parameters = {"source_file": "x", "source_file (header)": "y", "VG": "1 V", "VG (metadata)": "3 V"}
    text = header(parameters, VG="2 V", has__light="no").replace("has  light", "has_light")
    frame = metadata_frame(manifest_of({"parameters": text}), TZ)
    assert frame.row(0, named=True) == {
        "source_file (header)": "x",
        "source_file (header) (header)": "y",
        "VG": "1 V",
        "VG (metadata)": "3 V",
        "VG (metadata) (metadata)": "2 V",
        "has_light (metadata)": "no",
        "has_light": True,
        "source_file": "2025-09-23/It2025-09-23_19.csv",
        "start_time": "1758632155.282112",
        "time_hms": "09:55:55",
    }


@given(st.lists(st.dictionaries(TEXT, TEXT, max_size=4), min_size=1, max_size=4))
def test_every_value_of_every_header_is_there(manifest_of: MakeManifest, headers: list[dict[str, str]]) -> None:
    """One row a run, and each run's parameters are found in its row, whatever their names and texts."""
    rows = manifest_of(*(run(str(index), given, file_idx=index) for index, given in enumerate(headers)))
    data = render_csv(metadata_frame(rows, TZ))
    names, *table = csv.reader(io.StringIO(data.decode(), newline=""))
    assert len(table) == len(headers)
    assert len(data.decode().splitlines()) == len(headers) + 1
    assert len(set(names)) == len(names)
    frame = metadata_frame(rows, TZ)
    fixed = {"has_light", "source_file", "start_time", "time_hms"}
    for given_values, row in zip(headers, frame.drop(fixed).iter_rows(), strict=True):
        assert sorted(value for value in row if value is not None) == sorted(given_values.values())


def test_a_day_is_a_file(manifest_of: MakeManifest, tmp_path: Path) -> None:
    """Runs go to the folder of their local date; runs without a chip too; a second export changes nothing."""
    rows = manifest_of(
        run("a", {}, start="1758682799.0"),
        run("b", {}, start="1758682800.0", chip_name=None, proc="LaserCalibration"),
        run("c", {}, start="1758682801.0", superseded_by="f" * 20),
    )
    (tmp_path / "2025-09-23").mkdir()
    leftover = tmp_path / "2025-09-23" / f".metadata.csv.{2**22 + 1}-0123456789abcdef.tmp"  # of a killed process
    leftover.write_bytes(b"half")
    done = export_metadata(rows, tz=TZ, directory=tmp_path)
    assert not leftover.exists()
    assert [(export.path.relative_to(tmp_path).as_posix(), export.runs, export.changed) for export in done] == [
        ("2025-09-23/metadata.csv", 1, True),
        ("2025-09-24/metadata.csv", 1, True),
    ]
    assert [export.changed for export in export_metadata(rows.lazy(), tz=TZ, directory=tmp_path)] == [False, False]
    (only,) = export_metadata(rows, tz=TZ, directory=tmp_path / "one", date=date(2025, 9, 24))
    assert only.path.read_bytes() == done[1].path.read_bytes()


def test_a_day_that_lost_its_last_run_says_so(manifest_of: MakeManifest, tmp_path: Path) -> None:
    """A run whose start was corrected stands under its new day only; files of days that never had a run stay."""
    before, after = run("a", {"VG": "1 V"}, start="1758682799.0"), run("a", {"VG": "1 V"}, start="1758682800.0")
    export_metadata(manifest_of(before), tz=TZ, directory=tmp_path)
    other = tmp_path / "2025-09-22" / "metadata.csv"
    other.parent.mkdir()
    other.write_text("not ours\n", "utf-8")
    corrected = manifest_of({**before, "superseded_by": "f" * 20}, after)
    done = export_metadata(corrected, tz=TZ, directory=tmp_path)
    assert [(export.path.parent.name, export.runs, export.changed) for export in done] == [
        ("2025-09-24", 1, True),
        ("2025-09-23", 0, True),
    ]
    assert done[1].path.read_bytes() == b"has_light,source_file,start_time,time_hms\n"
    (again,) = export_metadata(corrected, tz=TZ, directory=tmp_path)
    assert (again.path, again.changed, other.read_text("utf-8")) == (done[0].path, False, "not ours\n")


def test_a_day_whose_place_is_blocked_keeps_back_no_other(manifest_of: MakeManifest, tmp_path: Path) -> None:
    """Its export says why it could not be written; a disk that refuses everywhere is raised."""
    rows = manifest_of(run("a", {}, start="1758682799.0"), run("b", {}, start="1758682800.0"))
    blocked = tmp_path / "2025-09-23" / "metadata.csv"
    blocked.mkdir(parents=True)
    first, second = export_metadata(rows, tz=TZ, directory=tmp_path)
    assert (first.path, first.changed, first.problem and first.problem.place) == (blocked, False, str(blocked))
    assert (second.changed, second.problem, second.path.is_file()) == (True, None, True)
    with pytest.raises(Retry):
        export_metadata(rows, tz=TZ, directory=tmp_path, out_csv=blocked)
    corrected = manifest_of(run("a", {}, start="1758682799.0", superseded_by="f" * 20))  # the day is without runs now
    (emptied,) = export_metadata(corrected, tz=TZ, directory=tmp_path)
    assert (emptied.runs, emptied.problem and emptied.problem.place) == (0, str(blocked))


def test_days_are_flushed_together(manifest_of: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush for each of the thousands of days of an old archive takes minutes, also when none has changed."""
    rows = manifest_of(*(run(str(day), {}, start=f"{1758682799 + day * 86400}.0") for day in range(5)))
    writes: list[int] = []
    write = files.write_all_atomic

    def noted(contents: dict[Path, bytes], **given: Any) -> set[Path]:
        writes.append(len(contents))
        return write(contents, **given)

    monkeypatch.setattr(files, "write_all_atomic", noted)
    monkeypatch.setattr(durable, "write_all_atomic", noted)
    for changed in (5, 0):
        assert sum(export.changed for export in export_metadata(rows, tz=TZ, directory=tmp_path)) == changed
    assert writes == [5, 5]


def test_a_day_that_was_never_exported_gets_no_file_without_runs(manifest_of: MakeManifest, tmp_path: Path) -> None:
    """Where there is no old file to correct, none is made."""
    corrected = manifest_of(
        run("a", {}, start="1758682799.0", superseded_by="f" * 20), run("a", {}, start="1758682800.0")
    )
    export_metadata(corrected, tz=TZ, directory=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["2025-09-24"]


def test_filters_together_make_one_file(manifest_of: MakeManifest, tmp_path: Path) -> None:
    """`out_csv` holds the runs that match date, procedure and chip, in run order."""
    rows = manifest_of(
        run("a", {}, start="1758700000.0"),
        run("b", {}, file_idx=2),
        run("c", {}, file_idx=1),
        run("d", {}, proc="IVg"),
        run("e", {}, chip_name="Berta3"),
    )
    (done,) = export_metadata(
        rows,
        tz=TZ,
        directory=tmp_path,
        date=date(2025, 9, 23),
        proc="ITS",
        chip="Alisson72",
        out_csv=tmp_path / "sub" / "out.csv",
    )
    assert done.runs == 2
    assert [row["source_file"] for row in csv.DictReader(io.StringIO(done.path.read_text("utf-8")))] == [
        "d/c.csv",
        "d/b.csv",
    ]


@pytest.mark.parametrize(
    ("asked", "words", "step"),
    [
        ({"chip": "Alison72"}, "no run of chip Alison72", "did you mean Alisson72"),
        ({"proc": "IT"}, "no run of procedure IT", "did you mean ITS"),
        ({"chip": "ALISSON72"}, "no run of chip ALISSON72", "did you mean Alisson72?"),
        ({"date": date(2025, 9, 24)}, "no run of date 2025-09-24", "the nearest days with runs: 2025-09-23"),
    ],
)
def test_a_filter_nothing_matches_is_named(
    manifest_of: MakeManifest, tmp_path: Path, asked: dict[str, Any], words: str, step: str
) -> None:
    """A chip, procedure or date without runs is a usage error with the nearest that have some, and no file."""
    with pytest.raises(UsageError, match=words) as caught:
        export_metadata(manifest_of({}), tz=TZ, directory=tmp_path, out_csv=tmp_path / "out.csv", **asked)
    assert step in caught.value.next_step
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [{}, {"date": date(2025, 9, 23)}])
def test_filters_that_only_together_match_nothing_are_all_named(
    manifest_of: MakeManifest, tmp_path: Path, more: dict[str, Any]
) -> None:
    """No one of them is at fault, so none is called unknown, and nothing is offered in its place."""
    rows = manifest_of(run("a", {}), run("b", {}, proc="IVg", chip_name="Berta3"))
    with pytest.raises(UsageError) as caught:
        export_metadata(
            rows, tz=TZ, directory=tmp_path, out_csv=tmp_path / "x.csv", proc="IVg", chip="Alisson72", **more
        )
    day = "date 2025-09-23, " if more else ""
    assert f"no run of {day}procedure IVg, chip Alisson72 together" in caught.value.message
    assert caught.value.next_step == "leave one of them out"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("asked", [{"proc": "ITS"}, {"chip": "Alisson72"}])
def test_a_day_file_is_never_partial(manifest_of: MakeManifest, tmp_path: Path, asked: dict[str, Any]) -> None:
    """A filter that would leave runs of a day out of its metadata.csv is refused."""
    with pytest.raises(UsageError, match="all runs of the day"):
        export_metadata(manifest_of({}), tz=TZ, directory=tmp_path, **asked)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_manifest_exports_nothing(manifest_of: MakeManifest, tmp_path: Path) -> None:
    """Without runs there are no days; a file asked for has the fixed columns only."""
    assert export_metadata(manifest_of(), tz=TZ, directory=tmp_path) == []
    (done,) = export_metadata(manifest_of(), tz=TZ, directory=tmp_path, out_csv=tmp_path / "out.csv")
    assert done.path.read_bytes() == b"has_light,source_file,start_time,time_hms\n"


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"parameters": 3}'])
def test_a_damaged_header_is_corrupt(manifest_of: MakeManifest, text: str) -> None:
    """A manifest cell that is not the header's JSON names the run and the repair."""
    rows = manifest_of({"parameters": text})
    with pytest.raises(Corrupt, match=rows["run_id"].item()) as caught:
        metadata_frame(rows, TZ)
    assert "`ingestd repair`" in caught.value.next_step
