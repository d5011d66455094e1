"""The lab's real archive, backfilled: every value is what the instrument wrote, every history what the lab had."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from inline import inline
from layouts import Run

from ingestd.backfill.report import Report
from ingestd.backfill.run import Options, backfill
from ingestd.histories.compare import compare_histories
from ingestd.manifest.view import read_view
from ingestd.raw.settling import State
from ingestd.settings import Settings, load_settings

QUEUED = "Alisson_25_sept/It2025-09-25_10.csv"
COLUMN_OF = {
    "t (s)": "t_s",
    "I (A)": "i_a",
    "VL (V)": "vl_v",
    "Vg (V)": "vg_v",
    "Vsd (V)": "vsd_v",
    "Power (W)": "power_w",
    "Plate T (degC)": "plate_t_degc",
    "Ambient T (degC)": "ambient_t_degc",
    "Clock (ms)": "clock_ms",
}
"""Every label in the lab's files, and the canonical column it must be staged in."""

Archive = tuple[Settings, Report]


@pytest.fixture(scope="module")
def backfilled(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """The lab's raw files backfilled into a folder of its own."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "config.toml").write_text("")
    settings = load_settings(
        folder / "config.toml", {"paths": {"data_root": folder / "data", "raw_root": lab / "01_raw"}}
    )
    return settings, backfill(settings, Options(engine=inline))


def test_152_runs_are_staged_and_one_file_is_queued(backfilled: Archive) -> None:
    """No file is rejected or fails; the one that never ran waits as queued."""
    settings, report = backfilled
    assert report.events == {"ingested": 152, "queued": 1}
    assert (report.rejected, report.failed, report.stopped_by, report.passed_over) == ([], [], None, {})
    assert [(file.source_file, file.state) for file in report.waiting] == [(QUEUED, State.QUEUED)]
    assert len(report.histories) == 5
    rows = read_view(settings.layout)
    assert (rows.height, rows["superseded_by"].null_count()) == (152, 152)


def test_every_cell_is_what_csv_and_float_read(backfilled: Archive, lab: Path) -> None:
    """All cells of all 152 files, bit for bit, read by Python's own csv and float from the raw text."""
    settings, _ = backfilled
    cells = 0
    for source_file, staged in _staged(settings):
        labels, rows = _read_raw(lab / "01_raw" / source_file)
        table = pq.read_table(staged, partitioning=None)
        assert table.num_rows == len(rows), source_file
        filled = {name for name in table.column_names if table[name].null_count < table.num_rows}
        assert filled <= {COLUMN_OF[label] for label in labels}, source_file
        for position, label in enumerate(labels):
            found = table[COLUMN_OF[label]].to_pylist()
            expected = [float(row[position]) if row[position] else None for row in rows]
            assert list(map(_bits, found)) == list(map(_bits, expected)), f"{source_file}: {label}"
            cells += len(rows)
    assert cells > 1_000_000


def _bits(value: float | None) -> str | None:
    """Spell a float so that equal spelling is equal value; one NaN is as good as another."""
    if value is None:
        return None
    return "nan" if math.isnan(value) else value.hex()


def _read_raw(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(encoding="utf-8", newline="") as file:
        table = list(csv.reader(line for line in file if not line.startswith("#")))
    return table[0], table[1:]


def _staged(settings: Settings) -> list[tuple[str, Path]]:
    rows = read_view(settings.layout).select("source_file", "proc", "date_local", "run_id").iter_rows()
    return [(source_file, settings.layout.staged_file(Run(*key))) for source_file, *key in rows]


def test_every_header_line_is_in_the_parquet(backfilled: Archive, lab: Path) -> None:
    """Each comment line of each raw file stands, as written and in order, in the metadata of its Parquet."""
    settings, _ = backfilled
    lines = 0
    for source_file, staged in _staged(settings):
        text = (lab / "01_raw" / source_file).read_text("utf-8")
        expected = [line for line in text.splitlines() if line.startswith("#")]
        metadata: dict[bytes, bytes] = pq.read_metadata(staged).metadata
        header = metadata[b"ingestd.header"].decode("utf-8").split("\n")
        assert [line for line in header if line.startswith("#")] == expected, source_file
        lines += len(expected)
    assert lines > 152 * 10


def test_every_parameter_is_in_the_manifest(backfilled: Archive, lab: Path) -> None:
    """Each `name: value` line of a header is found in the row's `parameters`, value as written."""
    settings, _ = backfilled
    for row in read_view(settings.layout).select("source_file", "parameters").iter_rows(named=True):
        text = (lab / "01_raw" / row["source_file"]).read_text("utf-8")
        content: dict[str, Any] = json.loads(row["parameters"])
        named = {**content["parameters"], **content["metadata"]}
        written = [line[2:].split(": ", 1) for line in text.splitlines() if line.startswith("#\t")]
        assert written
        assert [[name, named[name]] for name, _ in written] == written, row["source_file"]


def test_the_histories_agree_with_those_the_lab_had(backfilled: Archive, lab: Path) -> None:
    """Five chips, row for row; every difference is one of the known ones, the missing run is the queued file."""
    settings, report = backfilled
    waiting = {file.source_file: file.reason for file in report.waiting}
    result = compare_histories(lab / "legacy_histories", settings.layout.histories_dir, waiting=waiting)
    assert result.same, "\n".join(result.lines())
    assert len(result.chips) == 5
    assert sum(chip.rows_new for chip in result.chips) == sum(chip.equal_rows for chip in result.chips)
    assert [name for chip in result.chips for name in chip.waiting] == [QUEUED]


def test_a_second_backfill_of_the_archive_does_nothing(backfilled: Archive) -> None:
    """Nothing is staged again, and manifest and histories keep their bytes and mtimes."""
    settings, _ = backfilled
    kept = [settings.layout.manifest_path, *settings.layout.histories_dir.iterdir()]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in kept]
    report = backfill(settings, Options(engine=inline))
    assert (sum(report.events.values()), report.known, report.histories) == (0, 153, [])
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in kept] == before
