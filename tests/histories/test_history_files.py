"""The files of chip histories: which are written, which are left alone, what is read back."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ingestd.errors import UsageError
from ingestd.histories import chip as chip_histories
from ingestd.histories import together as together_module
from ingestd.histories.cells import render_csv
from ingestd.histories.chip import EMPTY_HISTORY as HEADER
from ingestd.histories.chip import history_frame, read_history, render_histories, write_histories
from ingestd.layout import Layout

TZ = "America/Santiago"

MakeManifest = Callable[..., pl.DataFrame]


@pytest.fixture
def layout(layout: Layout, tmp_path: Path) -> Layout:
    """The histories stand in a folder of the test's own."""
    return replace(layout, histories_dir=tmp_path)


def test_only_changed_histories_are_written(manifest_of: MakeManifest, layout: Layout, tmp_path: Path) -> None:
    """A second pass touches nothing; a new run of one chip rewrites that chip's file alone."""
    runs: list[dict[str, Any]] = [{"source_file": "d/a.csv"}, {"source_file": "d/b.csv", "chip_name": "Berta3"}]
    first = write_histories(manifest_of(*runs), None, TZ, layout)
    assert [(change.chip, change.runs, change.changed) for change in first] == [
        ("Alisson72", 1, True),
        ("Berta3", 1, True),
    ]
    before = {path: path.stat() for path in tmp_path.iterdir()}
    second = write_histories(manifest_of(*runs), None, TZ, layout)
    assert [change.changed for change in second] == [False, False]
    assert {path: path.stat().st_ino for path in tmp_path.iterdir()} == {p: s.st_ino for p, s in before.items()}
    runs.append({"source_file": "d/c.csv", "chip_name": "Berta3", "file_idx": 20})
    third = write_histories(manifest_of(*runs), None, TZ, layout)
    assert [(change.runs, change.changed) for change in third] == [(1, False), (2, True)]


def test_what_a_killed_process_left_in_the_folder_is_removed(
    manifest_of: MakeManifest, layout: Layout, tmp_path: Path
) -> None:
    """Half a history that nobody will finish goes with the next pass, even if no history changes."""
    write_histories(manifest_of({}), None, TZ, layout)
    (tmp_path / f".Alisson72_history.csv.{2**22 + 1}-0123456789abcdef.tmp").write_bytes(HEADER[:9])
    write_histories(manifest_of({}), None, TZ, layout)
    assert [path.name for path in tmp_path.iterdir()] == ["Alisson72_history.csv"]


@pytest.mark.parametrize("together", [1, 3, 100])
def test_how_many_are_made_at_once_does_not_show(
    manifest_of: MakeManifest,
    layout: Layout,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    together: int,
) -> None:
    """Chips of one run and of several, in groups or all at once: the same files, the same answer, in order of chip."""
    runs = [{"source_file": f"d/{n}.csv", "chip_name": f"Berta{n % 4}", "file_idx": n} for n in range(9)]
    rows = manifest_of(*runs, {"source_file": "d/x.csv", "chip_name": None})
    expected = {f"Berta{n}": history_frame(rows.filter(chip_name=f"Berta{n}"), TZ, layout) for n in range(4)}
    monkeypatch.setattr(chip_histories, "RUNS_TOGETHER", together)
    monkeypatch.setattr(together_module, "FILES_TOGETHER", 2)
    changes = write_histories(rows, None, TZ, layout)
    assert [(change.chip, change.runs) for change in changes] == [
        (name, len(frame)) for name, frame in expected.items()
    ]
    for name, text in render_histories(rows, TZ, layout):
        assert layout.history_file(name).read_bytes() == text == render_csv(expected.pop(name))
    assert not expected


def test_chips_named_are_the_only_ones_written(manifest_of: MakeManifest, layout: Layout, tmp_path: Path) -> None:
    """With chips given no other chip's file appears; a chip never seen gets no file."""
    rows = manifest_of({"source_file": "d/a.csv"}, {"source_file": "d/b.csv", "chip_name": "Berta3"})
    changes = write_histories(rows, ["Berta3", "Nobody1", "Berta3"], TZ, layout)
    assert [(change.chip, change.runs, change.changed) for change in changes] == [
        ("Berta3", 1, True),
        ("Nobody1", 0, False),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["Berta3_history.csv"]


@pytest.mark.parametrize("chips", [["Berta3"], None])
def test_a_chip_without_live_runs_keeps_the_header(
    manifest_of: MakeManifest, layout: Layout, tmp_path: Path, chips: list[str] | None
) -> None:
    """When a chip's last run went to another chip, its history is the header line, once."""
    write_histories(manifest_of({"chip_name": "Berta3"}), None, TZ, layout)
    corrected = manifest_of({})
    changes = write_histories(corrected, chips, TZ, layout)
    assert [(change.runs, change.changed) for change in changes if change.chip == "Berta3"] == [(0, True)]
    assert (tmp_path / "Berta3_history.csv").read_bytes() == HEADER
    again = write_histories(corrected, chips, TZ, layout)
    assert not any(change.changed for change in again)
    assert read_history(tmp_path / "Berta3_history.csv").is_empty()


def test_no_chips_named_is_no_work(manifest_of: MakeManifest, layout: Layout, tmp_path: Path) -> None:
    """An empty list of chips means none, not all."""
    assert write_histories(manifest_of({}), [], TZ, layout) == []
    assert list(tmp_path.iterdir()) == []


def test_histories_of_another_program_are_left_alone(manifest_of: MakeManifest, layout: Layout, tmp_path: Path) -> None:
    """A history of the lab's old script, for a chip without runs here, is not emptied."""
    old = tmp_path / "Alisson01_history.csv"
    old.write_bytes(HEADER.replace(b",chip_group,chip_number,run_id,parquet_path", b"") + b"1,2\n")
    before = old.read_bytes()
    changes = write_histories(manifest_of({}), None, TZ, layout)
    assert [change.chip for change in changes] == ["Alisson72"]
    assert old.read_bytes() == before


def test_no_chip_name_leads_out_of_the_folder(manifest_of: MakeManifest, layout: Layout, tmp_path: Path) -> None:
    """A chip named like a path gives one file in the histories folder."""
    folder = tmp_path / "a" / "histories"
    layout = replace(layout, histories_dir=folder)
    for name in ("../../../x", "/etc/passwd", "..", "a\x00b"):
        assert layout.history_file(name).parent == folder
    write_histories(manifest_of({"chip_name": "../../x"}), None, TZ, layout)
    assert [path.parent for path in tmp_path.rglob("*.csv")] == [folder]


def test_no_live_chip_run_is_no_history(manifest_of: MakeManifest, layout: Layout, tmp_path: Path) -> None:
    """Runs without a chip, and superseded ones, make no file."""
    rows = manifest_of({"chip_name": None}, {"superseded_by": "f" * 20, "source_file": "d/b.csv"})
    assert write_histories(rows, None, TZ, layout) == []
    assert list(tmp_path.iterdir()) == []


LINE = b"1,2025-09-23,09:55:55,ITS,s,d/a.csv,19,1758632155.2,d,true,Alisson,72,r,p\n"


@pytest.mark.parametrize(
    ("data", "line", "words"),
    [
        (b"", 1, "empty"),
        (b"name,age\nx,1\n", 1, "the first line is not"),
        (gzip.compress(HEADER + LINE), 1, "the first line is not"),
        (b"\x1f\x8b" + HEADER + LINE, 1, "the first line is not"),
        (HEADER.replace(b"seq,date", b"date,seq") + LINE, 1, "the first line is not"),
        (HEADER + LINE + LINE.replace(b"1,", b"one,", 1), 3, "'one' cannot be a seq"),
        (HEADER + LINE.replace(b"2025-09-23", b"23.09.2025"), 2, "cannot be a date"),
        (HEADER + LINE.replace(b"true", b"maybe"), 2, "'maybe' cannot be a has_light"),
        (HEADER + LINE.replace(b"1758632155.2", b""), 2, "cannot be a start_time"),
        (HEADER + LINE[:-5] + b"\n", 2, "13 cells|cannot be a parquet_path"),
        (HEADER + LINE.rstrip() + b",more\n", 2, "15 cells"),
        (HEADER + LINE.replace(b"Alisson", b"\xff"), 2, "0xff"),
    ],
)
def test_a_file_that_is_no_history_is_refused(tmp_path: Path, data: bytes, line: int, words: str) -> None:
    """Reading anything else is a usage error that names the line and what is wrong."""
    path = tmp_path / "Alisson72_history.csv"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=words) as caught:
        read_history(path)
    assert caught.value.place == f"{path}:{line}"
