"""Chip histories: content, order, bytes, files written and read back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingestd.errors import UsageError
from ingestd.histories.cells import render_csv
from ingestd.histories.chip import (
    HISTORY_SCHEMA,
    history_frame,
    read_history,
    require_chip,
    write_histories,
)
from ingestd.histories.unknown import unknown
from ingestd.layout import Layout

TZ = "America/Santiago"
HEADER = (
    b"seq,date,time_hms,proc,summary,source_file,file_idx,start_time,day_folder,has_light,"
    b"chip_group,chip_number,run_id,parquet_path\n"
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)

MakeManifest = Callable[..., pl.DataFrame]


def cells(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline="")))


def test_a_history_line_by_line(manifest_of: MakeManifest, layout: Layout) -> None:
    """The file is exactly this: contract columns, local time, header digits, Parquet path."""
    frame = history_frame(manifest_of({}), TZ, layout)
    run = frame["run_id"].item()
    assert (
        render_csv(frame)
        == HEADER
        + (
            "1,2025-09-23,09:55:55,ITS,💡 ITS Alisson72  VG=-5.19 V  VL=1.4 V  λ=850.0 nm  #19,"
            "2025-09-23/It2025-09-23_19.csv,19,1758632155.2821116,2025-09-23,true,Alisson,72,"
            f"{run},02_stage/raw_measurements/proc=ITS/date=2025-09-23/run_id={run}/part-000.parquet\n"
        ).encode()
    )
    assert frame.schema == pl.Schema(HISTORY_SCHEMA)


def test_legacy_histories_come_out_cell_for_cell(
    lab: Path, legacy_manifest: pl.DataFrame, layout: Layout, tmp_path: Path
) -> None:
    """From the same runs ingestd makes the lab's five old histories again, but for the differences its README names."""
    write_histories(legacy_manifest, None, TZ, replace(layout, histories_dir=tmp_path))
    old_files = sorted((lab / "legacy_histories").iterdir())
    assert len(old_files) == 5
    assert [path.name for path in sorted(tmp_path.iterdir())] == [path.name for path in old_files]
    for path in old_files:
        ours = [list(row.values())[:10] for row in cells((tmp_path / path.name).read_bytes())]
        old = [row for row in cells(path.read_bytes()) if "It2025-09-25_10.csv" not in row["source_file"]]
        for seq, row in enumerate(old, start=1):
            row["seq"] = str(seq)
            row["proc"] = "ITS" if row["proc"] == "It" else row["proc"]
            row["summary"] = row["summary"].replace("It  ", "ITS ", 1)
            row["source_file"] = row["source_file"].removeprefix("raw_data/")
        assert ours == [list(row.values()) for row in old]


def test_runs_are_ordered_by_start_then_index_then_file(manifest_of: MakeManifest, layout: Layout) -> None:
    """Runs of one instant go by file index, unknown ones last, then by source file; `seq` counts from 1."""
    runs = [
        {"source_file": "d/c.csv", "file_idx": None},
        {"source_file": "d/b.csv", "file_idx": 10},
        {"source_file": "d/a.csv", "file_idx": 10},
        {"source_file": "d/z.csv", "file_idx": 2},
        {"source_file": "d/later.csv", "file_idx": 1, "start": "1758632155.29"},
    ]
    frame = history_frame(manifest_of(*runs), TZ, layout)
    assert frame["source_file"].to_list() == ["d/z.csv", "d/a.csv", "d/b.csv", "d/c.csv", "d/later.csv"]
    assert frame["seq"].to_list() == [1, 2, 3, 4, 5]


@given(data=st.data())
def test_input_order_does_not_matter(manifest_of: MakeManifest, layout: Layout, data: st.DataObject) -> None:
    """Any order of the manifest's rows gives the same bytes."""
    indices = data.draw(st.lists(st.none() | st.integers(0, 2), min_size=1, max_size=6))
    runs = [{"source_file": f"d/{name}.csv", "file_idx": idx} for name, idx in enumerate(indices)]
    shuffled = data.draw(st.permutations(runs))
    first, second = (history_frame(manifest_of(*rows), TZ, layout) for rows in (runs, shuffled))
    assert render_csv(first) == render_csv(second)


def test_superseded_runs_are_left_out(manifest_of: MakeManifest, layout: Layout) -> None:
    """A row that another superseded is no line of a history."""
    runs = manifest_of({"source_file": "d/a.csv", "superseded_by": "f" * 20}, {"source_file": "d/b.csv"})
    assert history_frame(runs, TZ, layout)["source_file"].to_list() == ["d/b.csv"]


@pytest.mark.parametrize(
    ("start", "origin", "text"),
    [
        ("1758632155.2821116", "header", "1758632155.2821116"),
        ("1758632155.28211160", "header", "1758632155.28211160"),
        ("1758632155.2821", "header", "1758632155.2821"),
        ("2025-09-23T09:55:55.282112-03:00", "header", "1758632155.282112"),
        ("20250923", "header", "1758632155.282112"),
        ("1758632155.2821116", "path", "1758632155.282112"),
        ("1758632155.2821116", "mtime", "1758632155.282112"),
    ],
)
def test_start_time_keeps_the_digits_of_the_header(
    manifest_of: MakeManifest, layout: Layout, start: str, origin: str, text: str
) -> None:
    """Epoch seconds are the header's own digits; any other start is the float as Python prints it."""
    begun = datetime(2025, 9, 23, 12, 55, 55, 282112, tzinfo=UTC)
    rows = manifest_of({"start": start, "start_time_utc": begun, "start_time_origin": origin})
    assert history_frame(rows, TZ, layout)["start_time"].item() == text


@pytest.mark.parametrize(("before_1970_s", "text"), [(0.5, "-0.5"), (86400, "-86400.0"), (1.25, "-1.25")])
def test_a_start_before_1970_is_below_zero(
    manifest_of: MakeManifest, layout: Layout, before_1970_s: float, text: str
) -> None:
    """A clock that lost its battery may tell such a year: its seconds count backwards, to the very fraction."""
    begun = datetime(1970, 1, 1, tzinfo=UTC) - timedelta(seconds=before_1970_s)
    rows = manifest_of({"start_time_utc": begun, "start_time_origin": "path"})
    assert history_frame(rows, TZ, layout)["start_time"].item() == text


def test_start_time_is_not_taken_from_another_value(manifest_of: MakeManifest, layout: Layout) -> None:
    """A parameter whose name or text looks like a start time line is not mistaken for it."""
    note = 'x, "Start time": "1758632155.2820"'
    header = {
        "procedure": "p",
        "parameters": {"Information": note, 'x"Start time': "1758632155.2820"},
        "metadata": {"Start time": "1758632155.2821116"},
    }
    rows = manifest_of({"parameters": json.dumps(header)})
    assert history_frame(rows, TZ, layout)["start_time"].item() == "1758632155.2821116"


@given(
    st.lists(
        st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  # bounds are naive
        min_size=1,
        max_size=3,
        unique=True,
    )
)
@example([datetime(2025, 9, 23, 17, 2, 8, 109940, tzinfo=UTC)])
@example([datetime(2025, 9, 23, 17, 2, 8 + n, 109940, tzinfo=UTC) for n in range(2)])
@example([datetime(2025, 9, 23, 17, 2, 8, tzinfo=UTC), datetime(1971, 1, 1, microsecond=500000, tzinfo=UTC)])
def test_start_without_header_is_printed_as_python_does(
    manifest_of: MakeManifest, layout: Layout, begun: list[datetime]
) -> None:
    """Without a header's start the text is `repr(start.timestamp())`, however many runs there are."""
    rows = manifest_of(*({"start_time_utc": one, "start_time_origin": "mtime"} for one in begun))
    found = history_frame(rows, TZ, layout)["start_time"].to_list()
    assert found == [repr(one.timestamp()) for one in sorted(begun)]


@given(
    st.datetimes(datetime(2005, 1, 1), datetime(2024, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001  # bounds are naive
    st.sampled_from([TZ, "UTC", "Europe/Berlin", "Asia/Kathmandu"]),
)
def test_date_and_time_are_local(manifest_of: MakeManifest, layout: Layout, begun: datetime, tz: str) -> None:
    """Date and time are those of the zone given, summer time included, fractions of a second dropped."""
    frame = history_frame(manifest_of({"start_time_utc": begun}), tz, layout)
    local = begun.astimezone(ZoneInfo(tz))
    assert (frame["date"].item(), frame["time_hms"].item()) == (local.date(), local.strftime("%H:%M:%S"))


def test_parquet_path_uses_the_date_of_the_partition(manifest_of: MakeManifest, layout: Layout) -> None:
    """The path follows the manifest's `date_local` and each row's own run id, whatever zone the history shows."""
    rows = manifest_of({"source_file": "d/a.csv"}, {"source_file": "d/b.csv", "proc": "IVg"})
    frame = history_frame(rows, "Asia/Tokyo", layout)
    day, runs = date(2025, 9, 23), frame.select("proc", "run_id").iter_rows()
    expected = [f"02_stage/raw_measurements/proc={proc}/date={day}/run_id={run}/part-000.parquet" for proc, run in runs]
    assert frame["parquet_path"].to_list() == expected
    assert len(set(expected)) == 2


@pytest.mark.parametrize(
    ("source", "folder"),
    [
        ("a.csv", ""),
        ("2025-09-23/a.csv", "2025-09-23"),
        ("x/Alisson_04_sept/a.csv", "Alisson_04_sept"),
        ("n\nl/a\n.csv", "n\nl"),
    ],
)
def test_day_folder_is_the_last_folder(manifest_of: MakeManifest, layout: Layout, source: str, folder: str) -> None:
    """`day_folder` is the folder the raw file lies in; empty directly below the raw root."""
    frame = history_frame(manifest_of({"source_file": source}), TZ, layout)
    assert frame["day_folder"].item() == folder


@pytest.mark.parametrize(("light", "cell"), [(True, "true"), (False, "false"), (None, "")])
def test_unknown_values_are_empty_cells(
    manifest_of: MakeManifest, layout: Layout, light: bool | None, cell: str
) -> None:
    """Light is true, false or, when unknown, empty; so is an unknown file index."""
    rows = manifest_of({"has_light": light, "file_idx": None, "chip_group": None})
    (row,) = cells(render_csv(history_frame(rows, TZ, layout)))
    assert (row["has_light"], row["file_idx"], row["chip_group"]) == (cell, "", "")


@given(st.lists(st.tuples(TEXT, TEXT, TEXT.filter(bool), st.none() | st.booleans()), max_size=4))
def test_any_text_survives_the_file(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[str, str, str, bool | None]]
) -> None:
    """What is rendered is loaded again, whatever the texts: same values, same types, start time as a number."""
    columns: dict[str, list[Any]] = {
        "seq": list(range(1, len(runs) + 1)),
        "date": [date(2025, 9, 23)] * len(runs),
        "start_time": ["1758632155.2821116"] * len(runs),
        "file_idx": [None] * len(runs),
        "chip_number": [72] * len(runs),
        "has_light": [run[3] for run in runs],
        "parquet_path": [run[2] for run in runs],
    }
    for number, name in enumerate(("time_hms", "proc", "summary", "source_file", "day_folder", "chip_group", "run_id")):
        columns[name] = [run[number % 2] for run in runs]
    frame = pl.DataFrame(columns, schema_overrides=HISTORY_SCHEMA).select(list(HISTORY_SCHEMA))
    path = tmp_path_factory.mktemp("history") / "x_history.csv"
    path.write_bytes(render_csv(frame))
    assert read_history(path).equals(frame.with_columns(pl.col("start_time").cast(pl.Float64)))


def test_an_unknown_chip_names_its_neighbours(manifest_of: MakeManifest) -> None:
    """A misspelt chip is a usage error that offers the chips that are meant."""
    rows = manifest_of({}, {"chip_name": "Berta3", "source_file": "d/b.csv"})
    with pytest.raises(UsageError, match="no run of chip alison72") as caught:
        require_chip(rows, "alison72")
    assert caught.value.next_step == "did you mean Alisson72?"


def test_suggestions_are_what_may_be_meant_and_nothing_else() -> None:
    """Case alone leaves one chip; days are the nearest in time, in order; an id is never a guess."""
    assert unknown("chip", "alisson67", ["Alisson67", "Alisson61", "Alisson68"]).next_step == "did you mean Alisson67?"
    days = ["2026-03-20", "2025-09-25", "2024-01-01", "2026-03-10", "2025-10-20"]
    step = unknown("date", "2026-03-12", days).next_step
    assert step == "the nearest days with runs: 2025-10-20, 2026-03-10, 2026-03-20"
    ids = ["0123456789abcdef0123", "fedcba9876543210fedc"]
    assert unknown("id", "0123456789abcdef0124", ids).next_step == f"did you mean {ids[0]}?"
    for wanted in ("a0b1c2d3e4f5a6b7c8d9", "abc"):
        step = unknown("id", wanted, ids).next_step
        assert not any(one in step for one in ids)


def test_one_chip_of_many(manifest_of: MakeManifest, layout: Layout) -> None:
    """A chip's history holds that chip only, from a lazy manifest as well."""
    rows = manifest_of({}, {"chip_name": "Berta3", "source_file": "d/b.csv"})
    for manifest in (rows, rows.lazy()):
        frame = history_frame(manifest.filter(chip_name="Berta3"), TZ, layout)
        assert frame["source_file"].to_list() == ["d/b.csv"]


def test_an_unknown_zone_is_named(manifest_of: MakeManifest, layout: Layout) -> None:
    """A zone that does not exist is a usage error, also when there is nothing to convert."""
    for rows in (manifest_of({}), manifest_of()):
        with pytest.raises(UsageError, match="no time zone named America/Santigo"):
            history_frame(rows, "America/Santigo", layout)
