"""The Python API: frames of the manifest, runs and histories; one file staged or read."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from commands import LONG_AGO, Folder
from measurement import BROKEN, Measurement
from pages import section
from powerless import powerless

import ingestd
from ingestd.errors import Corrupt, Reject, Retry, UsageError
from ingestd.histories.chip import HISTORY_SCHEMA
from ingestd.ingest.commit import opened
from ingestd.manifest.record import Event, Record
from ingestd.manifest.row import ManifestRow
from ingestd.settings import load_settings


@pytest.fixture
def lab_folder(tmp_path: Path) -> Folder:
    """A data root with two staged runs of chip Alisson72 and one rejected file."""
    folder = Folder(tmp_path)
    folder.put("day/It_1.csv", Measurement().data)
    folder.put("day/It_2.csv", Measurement(start=1758632200.5, sample=1, rows=5).data)
    for name in ("It_1.csv", "It_2.csv"):
        ingestd.stage_run(f"day/{name}", tmp_path / "data")
    return folder


def root(folder: Folder) -> Path:
    return folder.path / "data"


def test_load_manifest_has_live_rows_and_on_demand_all(lab_folder: Folder) -> None:
    """Columns are ManifestRow's; a row that a new start time superseded is left out unless asked for."""
    assert ingestd.load_manifest(root(lab_folder)).columns == list(ManifestRow.model_fields)
    lab_folder.put("day/It_1.csv", Measurement(start=1758632000.0).data)
    ingestd.stage_run("day/It_1.csv", root(lab_folder))
    live = ingestd.load_manifest(str(root(lab_folder)))
    assert (live.height, live["superseded_by"].null_count()) == (2, 2)
    assert ingestd.load_manifest(root(lab_folder), all_versions=True).height == 3


def test_load_run_equals_the_raw_file(lab_folder: Folder) -> None:
    """A run's frame has the cells of its CSV, as `read_and_normalize` gives them; the id's beginning is enough."""
    row = ingestd.load_manifest(root(lab_folder)).row(1, named=True)
    frame = ingestd.load_run(row["run_id"], root(lab_folder))
    path = lab_folder.raw / row["source_file"]
    with path.open(newline="") as file:
        cells = list(csv.DictReader(line for line in file if not line.startswith("#")))
    assert frame["t_s"].to_list() == [float(cell["t (s)"]) for cell in cells]
    assert frame["i_a"].to_list() == [float(cell["I (A)"]) for cell in cells]
    assert frame.equals(ingestd.read_and_normalize(path))
    assert ingestd.load_run(row["run_id"][:8].upper(), root(lab_folder)).equals(frame)


def test_load_run_never_gives_a_value_that_rotted(lab_folder: Folder) -> None:
    """One bit turned over anywhere in the data of a Parquet is an error, or changes no cell."""
    row = ingestd.load_manifest(root(lab_folder)).row(0, named=True)
    frame = ingestd.load_run(row["run_id"], root(lab_folder))
    (path,) = (lab_folder.path / "data/02_stage/raw_measurements").glob(f"*/*/run_id={row['run_id']}/*.parquet")
    whole = path.read_bytes()
    end = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    refused = 0
    for at in range(4, end, 5):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            assert ingestd.load_run(row["run_id"], root(lab_folder)).equals(frame)
        except Corrupt:
            refused += 1
    assert refused > (end - 4) // 5 // 2


def test_load_run_blames_no_edit_for_a_part_that_became_whole(lab_folder: Folder) -> None:
    """A copy that was broken off is superseded by the run it is a copy of: nobody edited a start time."""
    whole = Measurement(sample=5, rows=4)
    lab_folder.put("a/It_5.csv", whole.data)
    lab_folder.put("b/It_5.csv", whole.but(rows=2).data)
    run, part = (ingestd.stage_run(f"{folder}/It_5.csv", root(lab_folder)) for folder in "ab")
    lab_folder.put("b/It_5.csv", whole.data)
    assert ingestd.stage_run("b/It_5.csv", root(lab_folder)).run_id == run.run_id
    with pytest.raises(UsageError, match="another run stands for what was in b/It_5") as raised:
        ingestd.load_run(part.run_id, root(lab_folder))
    assert raised.value.next_step == f"load run {run.run_id}"


def test_load_run_names_near_ids_and_successors(lab_folder: Folder) -> None:
    """An unknown id names near ones, a superseded one its successor, a lost Parquet the way to get it back."""
    row = ingestd.load_manifest(root(lab_folder)).row(0, named=True)
    wrong = row["run_id"][:-1] + ("0" if row["run_id"][-1] != "0" else "1")
    with pytest.raises(UsageError, match=f"did you mean {row['run_id']}"):
        ingestd.load_run(wrong, root(lab_folder))
    with pytest.raises(UsageError, match="no run of id abcabc"):
        ingestd.load_run("abcabc", root(lab_folder))
    lab_folder.put("day/It_1.csv", Measurement(start=1758632000.0).data)
    newer = ingestd.stage_run("day/It_1.csv", root(lab_folder))
    with pytest.raises(UsageError, match=f"load run {newer.run_id}"):
        ingestd.load_run(row["run_id"], root(lab_folder))
    shutil.rmtree(root(lab_folder) / "02_stage" / "raw_measurements")
    with pytest.raises(Corrupt, match="is gone"):
        ingestd.load_run(newer.run_id, root(lab_folder))


def test_histories_are_loaded_from_the_csv_and_built_from_the_manifest(lab_folder: Folder) -> None:
    """Both have the contract's columns and the same runs; `start_time` is a number in one, as written in the other."""
    loaded = ingestd.load_history("Alisson72", root(lab_folder))
    built = ingestd.build_chip_history("Alisson72", root(lab_folder))
    assert loaded.columns == built.columns == list(HISTORY_SCHEMA)
    assert loaded["start_time"].to_list() == [1758632155.25, 1758632200.5]
    assert built["start_time"].to_list() == ["1758632155.25", "1758632200.5"]
    assert loaded["run_id"].to_list() == built["run_id"].to_list()
    assert all((root(lab_folder) / path).is_file() for path in built["parquet_path"])


def test_unknown_chips_name_near_ones(lab_folder: Folder) -> None:
    """A slip in the chip's name is told with the name that was meant; a missing CSV with the command that writes it."""
    for function in (ingestd.load_history, ingestd.build_chip_history):
        with pytest.raises(UsageError, match="did you mean Alisson72"):
            function("Allison72", root(lab_folder))
    (root(lab_folder) / "histories" / "Alisson72_history.csv").unlink()
    with pytest.raises(UsageError, match="if the service is running; else write it: `ingestd chip-histories`"):
        ingestd.load_history("Alisson72", root(lab_folder))


def test_without_a_manifest_everything_says_so(tmp_path: Path) -> None:
    """An empty data root is an error that names the place, never an empty table."""
    for function in (ingestd.load_manifest, lambda place: ingestd.load_run("abcdef", place)):
        with pytest.raises(UsageError, match="there is no manifest here") as caught:
            function(tmp_path)
        assert str(tmp_path) in caught.value.place


def test_stage_run_gives_the_row_and_stages_once(lab_folder: Folder) -> None:
    """A staged file gives its row again; a copy gives the row of its original; a moved file keeps its run."""
    row = ingestd.load_manifest(root(lab_folder)).row(0, named=True)
    again = ingestd.stage_run(lab_folder.raw / "day" / "It_1.csv", root(lab_folder))
    assert (again.run_id, again.ingested_at_utc) == (row["run_id"], row["ingested_at_utc"])
    lab_folder.put("copy/It_1.csv", Measurement().data)
    assert ingestd.stage_run("copy/It_1.csv", root(lab_folder)).run_id == row["run_id"]
    (lab_folder.raw / "day" / "It_1.csv").rename(lab_folder.raw / "It_1.csv")
    moved = ingestd.stage_run("It_1.csv", root(lab_folder))
    assert (moved.run_id, moved.source_file) == (row["run_id"], "It_1.csv")
    assert ingestd.load_manifest(root(lab_folder)).height == 2


def test_stage_run_of_a_copy_whose_original_is_not_known_any_more(lab_folder: Folder) -> None:
    """The manifest was rebuilt without it, say: the error names what makes the copy count, and that does."""
    copy = lab_folder.put("copy/It_1.csv", Measurement().data)
    ingestd.stage_run("copy/It_1.csv", root(lab_folder))
    with opened(load_settings(flags={"paths": {"data_root": root(lab_folder)}})) as ingest, ingest.store.transaction():
        note = ingest.store.catalog.notes["copy/It_1.csv"].model_copy(update={"run_id": "0" * 20})
        lost = Record(seq=ingest.store.next_seq, at=ingest.clock(), event=Event.DUPLICATE, files=[note])
        ingest.store.append([lost])
    with pytest.raises(Corrupt, match="which is not known any more") as caught:
        ingestd.stage_run("copy/It_1.csv", root(lab_folder))
    assert "touch" in caught.value.next_step
    os.utime(copy, (1764547200, 1764547200))
    assert ingestd.stage_run("copy/It_1.csv", root(lab_folder)).source_file == "day/It_1.csv"


def test_stage_run_of_a_bad_file_is_the_reject_each_time(lab_folder: Folder) -> None:
    """The reject has code, message and place, also when the file is known already; nothing is staged."""
    lab_folder.put("bad.csv", BROKEN)
    for _ in range(2):
        with pytest.raises(Reject) as caught:
            ingestd.stage_run("bad.csv", root(lab_folder))
        assert caught.value.code == "not-pymeasure"
        assert caught.value.message
        assert caught.value.place == f"{lab_folder.raw / 'bad.csv'}:1"
    assert ingestd.load_manifest(root(lab_folder)).height == 2


@pytest.mark.parametrize("left", [None, b"{}", b"a code", b"torn"])
def test_a_reject_that_nothing_is_left_of_is_damage(lab_folder: Folder, left: bytes | None) -> None:
    """What is remembered of the file is gone, or no code of ours: the error names what makes it anew."""
    lab_folder.put("bad.csv", BROKEN)
    with pytest.raises(Reject):
        ingestd.stage_run("bad.csv", root(lab_folder))
    (path,) = (lab_folder.path / "data" / "02_stage" / "_rejects").rglob("bad.csv.json")
    whole = path.read_bytes()
    path.unlink()
    if left is not None:
        path.write_bytes(whole.replace(b"not-pymeasure", b"of-tomorrow") if left == b"a code" else left)
    with pytest.raises(Corrupt, match="this reject JSON is") as caught:
        ingestd.stage_run("bad.csv", root(lab_folder))
    assert caught.value.next_step.startswith("run `ingestd repair`")


def test_stage_run_of_a_run_that_is_not_over_asks_for_patience(lab_folder: Folder) -> None:
    """A queued file, and one that somebody writes to, are a Retry with the reason, each time."""
    lab_folder.put("queued.csv", Measurement(rows=0).data)
    for _ in range(2):
        with pytest.raises(Retry, match="header only"):
            ingestd.stage_run("queued.csv", root(lab_folder))
    with lab_folder.put("open.csv", Measurement(sample=7).data).open("ab") as file:
        file.flush()
        os.utime(file.fileno(), (LONG_AGO, LONG_AGO))
        with pytest.raises(Retry, match="open for writing"):
            ingestd.stage_run("open.csv", root(lab_folder))


@pytest.mark.parametrize("name", ["nowhere.csv", "../elsewhere.csv", "/etc/hostname"])
def test_stage_run_takes_files_below_the_raw_root_only(lab_folder: Folder, name: str) -> None:
    """A path that leads elsewhere, or to nothing, is a UsageError."""
    (lab_folder.raw.parent / "elsewhere.csv").write_bytes(Measurement().data)
    with pytest.raises(UsageError, match="not a file below the raw root"):
        ingestd.stage_run(name, root(lab_folder))


@pytest.mark.parametrize("name", ["day/It_1.csv.bak", ".hidden/It_1.csv", "day"])
def test_stage_run_takes_what_a_scan_takes(lab_folder: Folder, name: str) -> None:
    """A backup copy, a hidden file, a folder: what no scan would find again is no run, and nothing is staged."""
    if name != "day":
        lab_folder.put(name, Measurement(sample=9).data)
    with pytest.raises(UsageError, match="ingestd passes over this file: "):
        ingestd.stage_run(name, root(lab_folder))
    assert ingestd.load_manifest(root(lab_folder)).height == 2


def test_read_and_normalize_reads_any_file_and_remembers_nothing(tmp_path: Path) -> None:
    """The frame is typed as it would be staged; a bad file is a Reject, a missing one a Retry; nothing is written."""
    good, bad = tmp_path / "It_1.csv", tmp_path / "bad.csv"
    good.write_bytes(Measurement(rows=4).data)
    bad.write_bytes(BROKEN)
    frame = ingestd.read_and_normalize(good)
    assert (frame.height, frame.schema["t_s"]) == (4, pl.Float64())
    with pytest.raises(Reject) as caught:
        ingestd.read_and_normalize(bad)
    assert str(caught.value).startswith(f"{bad}:1: ")
    with pytest.raises(Retry, match="No such file"):
        ingestd.read_and_normalize(tmp_path / "none.csv")
    with pytest.raises(UsageError, match="not a regular file"):
        ingestd.read_and_normalize(tmp_path)
    small = tmp_path / "small.toml"
    small.write_text("[stage]\nmax_file_mib = 0.0001\n")
    with pytest.raises(UsageError, match="more than"):
        ingestd.read_and_normalize(good, config=small)
    small.unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["It_1.csv", "bad.csv"]


def test_read_and_normalize_follows_links(tmp_path: Path) -> None:
    """The caller's own file is read, however it is named; a link that leads to itself, or to nothing, is none."""
    good, link, loop, dangling = (tmp_path / name for name in ("It_1.csv", "link.csv", "loop.csv", "dangling.csv"))
    good.write_bytes(Measurement().data)
    link.symlink_to(good.name)
    loop.symlink_to(loop.name)
    dangling.symlink_to("none.csv")
    assert ingestd.read_and_normalize(link).equals(ingestd.read_and_normalize(good))
    with pytest.raises(UsageError, match="not a regular file"):
        ingestd.read_and_normalize(loop)
    with pytest.raises(Retry, match="No such file"):
        ingestd.read_and_normalize(dangling)


CLOSED = """
import sys, ingestd
from ingestd.errors import IngestdError
root, run_id, config = sys.argv[1:]
for call in (
    lambda: ingestd.load_manifest(root),
    lambda: ingestd.load_run(run_id, root),
    lambda: ingestd.load_history("Alisson72", root),
    lambda: ingestd.build_chip_history("Alisson72", root),
    lambda: ingestd.stage_run("day/It_3.csv", root),
    lambda: ingestd.stage_run("bad.csv", root),
    lambda: ingestd.load_manifest(config=config),
):
    try:
        call()
        print("fine")
    except IngestdError as error:
        print(type(error).__name__, error.message)
"""

FINE, DENIED = "fine", "Retry Permission denied"
UNWRITTEN = "Retry this history could not be written: Permission denied"


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("data/02_stage", [DENIED, DENIED, FINE, DENIED, DENIED, DENIED, DENIED]),
        ("data/02_stage/_manifest", [DENIED, DENIED, FINE, DENIED, DENIED, DENIED, DENIED]),
        ("data/02_stage/_rejects", [FINE, FINE, FINE, FINE, FINE, DENIED, FINE]),
        ("data/01_raw/day", [*[FINE] * 4, DENIED, "Reject ", FINE]),
        ("data/01_raw", [*[FINE] * 4, DENIED, DENIED, FINE]),
        ("data/histories", [FINE, FINE, DENIED, FINE, UNWRITTEN, "Reject ", FINE]),
        ("data/histories/Alisson72_history.csv", [FINE, FINE, DENIED, FINE, FINE, "Reject ", FINE]),
        ("config", [*[FINE] * 5, "Reject ", "UsageError Permission denied"]),
    ],
)
def test_a_closed_folder_is_an_error_of_ingestd(lab_folder: Folder, part: str, expected: list[str]) -> None:
    """Whatever folder may not be looked into, each function that needs it says so as an `IngestdError`."""
    lab_folder.put("day/It_3.csv", Measurement(start=1758632300.5, sample=2).data)
    lab_folder.put("bad.csv", BROKEN)
    with pytest.raises(Reject):
        ingestd.stage_run("bad.csv", root(lab_folder))
    config = lab_folder.path / "config" / "config.toml"
    config.parent.mkdir()
    config.write_text(f"[paths]\ndata_root = '{root(lab_folder)}'\n")
    run_id = ingestd.load_manifest(root(lab_folder))["run_id"][0]
    folder = lab_folder.path / part
    folder.chmod(0)
    done = subprocess.run(
        [*powerless(), sys.executable, "-c", CLOSED, root(lab_folder), run_id, config],
        cwd=lab_folder.path,
        env={**os.environ, "PYTHONPATH": str(Path(ingestd.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    folder.chmod(0o755)
    assert done.stderr == ""
    said = done.stdout.splitlines()
    assert [line[: len(begin)] for line, begin in zip(said, expected, strict=True)] == expected


def test_a_file_in_the_place_of_the_stage_is_an_error_of_ingestd(lab_folder: Folder) -> None:
    """Nothing can be looked up below it: the error says that a folder belongs there, and the file is left alone."""
    stage = root(lab_folder) / "02_stage"
    shutil.rmtree(stage)
    stage.write_text("a file")
    with pytest.raises(Retry) as caught:
        ingestd.stage_run("day/It_1.csv", root(lab_folder))
    assert "a file stands where a folder belongs" in caught.value.next_step
    with pytest.raises(UsageError, match="there is no manifest here"):
        ingestd.load_manifest(root(lab_folder))
    assert stage.read_text() == "a file"


def test_identity_and_start_time_are_part_of_the_api() -> None:
    """`ensure_start_time_utc` and `compute_run_id` give what the manifest holds for a run."""
    start = ingestd.ensure_start_time_utc("2025-09-23T09:55:55", "America/Santiago")
    assert start == datetime(2025, 9, 23, 12, 55, 55, tzinfo=UTC)
    assert ingestd.compute_run_id("A/b.csv", start) == ingestd.compute_run_id("a/B.csv", start)
    with pytest.raises(UsageError, match="no time zone named Mars/Base"):
        ingestd.ensure_start_time_utc("2025-09-23", "Mars/Base")
    with pytest.raises(UsageError, match="has no zone"):
        ingestd.compute_run_id("A/b.csv", start.replace(tzinfo=None))


def test_every_name_of_the_api_is_there() -> None:
    """Each name in `__all__` can be had and has a docstring; a wrong name is an AttributeError."""
    for name in ingestd.__all__:
        assert getattr(ingestd, name).__doc__
    assert set(ingestd.__all__) <= set(dir(ingestd))
    with pytest.raises(AttributeError, match="load_everything"):
        ingestd.load_everything  # noqa: B018


def test_the_lines_in_the_package_s_docstring_run(lab_folder: Folder) -> None:
    """The Python example that `help(ingestd)` shows runs as it stands, with a chip that is there."""
    assert ingestd.__doc__
    code = "\n".join(line.strip() for line in ingestd.__doc__.partition("what to do next:")[2].splitlines())
    assert "load_run" in code
    subprocess.run(
        [sys.executable, "-c", code.replace("Biotite3", "Alisson72")],
        cwd=lab_folder.path,
        env={**os.environ, "PYTHONPATH": str(Path(ingestd.__file__).parents[1])},
        check=True,
    )


def test_the_formats_name_every_function_and_their_example_runs(
    repository: Path, samples: Path, tmp_path: Path
) -> None:
    """docs/formats.md lists the functions of the API, and no other; its lines of Python hold on the sample data."""
    page = section(repository / "docs" / "formats.md", "From Python")
    functions = {name for name in ingestd.__all__ if not isinstance(getattr(ingestd, name), (type, str))}
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == functions
    folder = Folder(tmp_path).take(samples)
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert {name for name in functions if f"ingestd.{name}(" not in example} == {"load_manifest", "load_history"}
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=folder.path,
        env={**os.environ, "PYTHONPATH": str(Path(ingestd.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "IVg Biotite3" in done.stdout
