"""Names on disk: whatever a raw file, chip or procedure is called, what is made of it stays below its folder."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from layouts import Run, layout_of

from ingestd.layout import EVENTS_PER_FOLDER

ROOT = Path("/data")
LAYOUT = layout_of(ROOT)
DAY = date(2025, 9, 23)
REFUSED = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/../../b",
    "~/x",
    "a\\..\\b",
    "x\0y",
    "con",
    " ",
    "./x",
    "a//b",
]
HOSTILE = st.text(max_size=20) | st.lists(st.sampled_from(["..", ".", "", "~", "a", "/", "\0", "\n"])).map("/".join)


def _inside(path: Path, root: Path) -> bool:
    """Tell whether the path, as the kernel would walk it, is a file below `root`."""
    walked = Path(os.path.normpath(path))
    return "\0" not in str(path) and ".." not in path.parts and walked != root and walked.is_relative_to(root)


@given(HOSTILE | st.sampled_from(REFUSED))
@example("x" * 5000)
def test_no_name_leads_out(name: str) -> None:
    """Rejects, histories, events, staged and superseded files of any name lie below their own folders."""
    assert _inside(LAYOUT.reject_file(name), LAYOUT.rejects_dir)
    assert _inside(LAYOUT.history_file(name), LAYOUT.histories_dir)
    assert LAYOUT.history_file(name).parent == LAYOUT.histories_dir
    assert _inside(LAYOUT.event_file(DAY, 7, name), LAYOUT.events_dir)
    run = Run(name, DAY, "0123456789abcdef0123")
    staged = LAYOUT.staged_file(run)
    assert _inside(staged, LAYOUT.staged_root)
    assert len(staged.relative_to(LAYOUT.staged_root).parts) == 4
    assert _inside(LAYOUT.superseded_file(run, "f" * 64), LAYOUT.superseded_root)
    for path in (LAYOUT.reject_file(name), LAYOUT.history_file(name), staged):
        assert all(len(os.fsencode(part)) <= 255 for part in path.parts)


@given(st.lists(st.from_regex(r"(?:[a-c.]{1,3}/){0,2}[a-c.]{1,3}(?:\.csv)?(?:\.json)?", fullmatch=True), unique=True))
@example(["x.csv", "x.csv.json/y.csv"])
@example(["x.csv", "x.csv.json/y.csv", "x.csv%2Ejson/y.csv"])
@example(["x.csv.json", "x.csv.json.json/y"])
def test_rejects_of_different_files_have_different_places(names: list[str]) -> None:
    """No two raw files share a reject, and none is a folder where another's reject belongs."""
    names = list({str(Path(name)): name for name in names if ".." not in Path(name).parts and name != "."}.values())
    places = [LAYOUT.reject_file(name) for name in names]
    assert len(set(places)) == len(places)
    folders = {folder for place in places for folder in place.parents}
    assert not folders & set(places)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (
            LAYOUT.staged_file(Run("ITS", DAY, "0a" * 10)),
            f"02_stage/raw_measurements/proc=ITS/date=2025-09-23/run_id={'0a' * 10}/part-000.parquet",
        ),
        (
            LAYOUT.superseded_file(Run("ITS", DAY, "0a" * 10), "f" * 64),
            f"02_stage/_superseded/proc=ITS/date=2025-09-23/run_id={'0a' * 10}/{'f' * 16}.parquet",
        ),
        (LAYOUT.reject_file("2025-09-23/It_1.csv"), "02_stage/_rejects/2025-09-23/It_1.csv.json"),
        (LAYOUT.history_file("Alisson67"), "histories/Alisson67_history.csv"),
        (
            LAYOUT.event_file(DAY, 12345, "ingested"),
            "02_stage/_manifest/events/2025-09-23/000012000/000012345-ingested.json",
        ),
        (LAYOUT.known_files_path, "02_stage/_manifest/known_files.parquet"),
        (LAYOUT.lock_path, "02_stage/_manifest/lock"),
        (LAYOUT.histories_lock_path, "02_stage/_manifest/histories.lock"),
        (LAYOUT.temporary_root, "02_stage/_tmp"),
        (LAYOUT.raw_file("a/b.csv"), "01_raw/a/b.csv"),
    ],
)
def test_places_are_as_written_down(made: Path, expected: str) -> None:
    """Every place is where the documents say."""
    assert made == ROOT / expected


@given(st.integers(1, 10**9))
def test_no_folder_of_events_grows_without_limit(seq: int) -> None:
    """The folder of an event is shared by `EVENTS_PER_FOLDER` sequence numbers at most."""
    folder = LAYOUT.event_file(DAY, seq, "x").parent
    assert folder != LAYOUT.event_file(DAY, seq + EVENTS_PER_FOLDER, "x").parent
    assert folder == LAYOUT.event_file(DAY, seq - seq % EVENTS_PER_FOLDER, "x").parent


def test_paths_are_shown_below_the_data_root() -> None:
    """A path below the data root is shown without it, another one whole."""
    assert LAYOUT.relative(ROOT / "histories" / "x.csv") == "histories/x.csv"
    assert LAYOUT.relative(Path("/elsewhere/x.csv")) == "/elsewhere/x.csv"


@given(HOSTILE | st.sampled_from(REFUSED))
@example("x" * 5000)
def test_the_run_of_a_staged_file_is_told_by_its_path(proc: str) -> None:
    """Of every path that `staged_file` makes the run is known, whatever the procedure is called."""
    assert LAYOUT.run_of(LAYOUT.staged_file(Run(proc, DAY, "0123456789abcdef0123"))) == "0123456789abcdef0123"


@pytest.mark.parametrize(
    "path",
    [
        "02_stage/raw_measurements/proc=It/date=2025-09-23/run_id=0123456789abcdef0123/other.parquet",
        "02_stage/raw_measurements/proc=It/date=2025-09-23/run_id=../part-000.parquet",
        "02_stage/raw_measurements/proc=It/../run_id=0123456789abcdef0123/part-000.parquet",
        "02_stage/_tmp/proc=It/date=2025-09-23/run_id=0123456789abcdef0123/part-000.parquet",
        "01_raw/2025-09-23/It2025-09-23_1.csv",
    ],
)
def test_another_path_is_no_runs(path: str) -> None:
    """A path that `staged_file` does not make belongs to no run."""
    assert LAYOUT.run_of(ROOT / path) is None


def test_the_reject_of_the_longest_path_can_be_written(tmp_path: Path) -> None:
    """A path as long as the system takes, of characters each written as three: its reject is no longer than that."""
    layout = replace(LAYOUT, rejects_dir=tmp_path)
    long = "/".join(["'" * 60] * 35) + "/It_1.csv"
    other = "/".join(["'" * 60] * 35) + "/It_2.csv"
    for name in (long, other):
        path = layout.reject_file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert layout.reject_file(long) != layout.reject_file(other)
    assert not _inside(layout.reject_file("%long/x.csv"), tmp_path / "%long")
