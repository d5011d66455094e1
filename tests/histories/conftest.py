"""Manifests that look real, for the tests of histories and exports."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from layouts import layout_of

from ingestd.layout import Layout
from ingestd.manifest.row import ManifestRow
from ingestd.manifest.table import rows_frame

SANTIAGO = ZoneInfo("America/Santiago")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
QUEUED = "Alisson_25_sept/It2025-09-25_10.csv"

MakeManifest = Callable[..., pl.DataFrame]


def make_row(**given: Any) -> ManifestRow:
    """One ITS run of Alisson72; `given` replaces fields. `start` is the header's start time text."""
    start = given.pop("start", "1758632155.2821116")
    begun = given.pop("start_time_utc", None) or EPOCH + timedelta(microseconds=round(float(start) * 1e6))
    source = given.get("source_file", "2025-09-23/It2025-09-23_19.csv")
    header = {
        "procedure": "laser_setup.procedures.It.It",
        "parameters": {"Chip group name": "Alisson", "Chip number": "72", "VG": "-5.19 V"},
        "metadata": {"Start time": start},
    }
    row: dict[str, Any] = {
        "run_id": hashlib.sha1(f"{source}|{begun}".encode()).hexdigest()[:20],
        "source_file": source,
        "proc": "ITS",
        "date_local": begun.astimezone(SANTIAGO).date(),
        "start_time_utc": begun,
        "file_idx": 19,
        "chip_group": "Alisson",
        "chip_number": 72,
        "chip_name": "Alisson72",
        "has_light": True,
        "rows": 100,
        "summary": "💡 ITS Alisson72  VG=-5.19 V  VL=1.4 V  λ=850.0 nm  #19",
        "start_time_origin": "header",
        "procedure_version": "2.1.0",
        "parameters": json.dumps(header),
        "source_size": 1000,
        "source_mtime_ns": 1,
        "source_sha256": "0" * 64,
        "ingested_at_utc": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return ManifestRow.model_validate({**row, **given})


@pytest.fixture(scope="session")
def manifest_of() -> MakeManifest:
    """Build a manifest frame from dicts of the fields that matter; the rest is one ITS run of Alisson72."""
    return lambda *runs: rows_frame([make_row(**run) for run in runs])


@pytest.fixture(scope="session")
def layout() -> Layout:
    """A data root that is not there: what stands in a history is a matter of names."""
    return layout_of(Path("/data"))


def legacy_rows(lab: Path) -> list[tuple[str, dict[str, str]]]:
    """Every row of the lab's five old histories with its chip name."""
    rows = []
    for path in sorted((lab / "legacy_histories").glob("*_history.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows += [(path.name.removesuffix("_history.csv"), row) for row in csv.DictReader(file)]
    return rows


@pytest.fixture(scope="session")
def legacy_manifest(lab: Path) -> pl.DataFrame:
    """The manifest ingestd must have of the runs in the lab's old histories; the queued file is no run."""
    return rows_frame([_row_of_legacy(chip, row) for chip, row in legacy_rows(lab) if not is_queued(row)])


def is_queued(row: dict[str, str]) -> bool:
    """Whether an old history's row is the file that was queued and never ran."""
    return row["source_file"].endswith(QUEUED)


def as_ours(text: str) -> str:
    """Spell an old summary as ingestd does."""
    return text.replace("It  ", "ITS ", 1)


def _row_of_legacy(chip: str, row: dict[str, str]) -> ManifestRow:
    return make_row(
        start=row["start_time"],
        source_file=row["source_file"].removeprefix("raw_data/"),
        proc="ITS" if row["proc"] == "It" else row["proc"],
        file_idx=int(row["file_idx"]),
        chip_number=int(chip.removeprefix("Alisson")),
        chip_name=chip,
        has_light={"true": True, "false": False}[row["has_light"]],
        summary=as_ours(row["summary"]),
    )
