"""Data roots laid out at the default places, for tests that need no settings."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import NamedTuple

from ingestd.layout import Layout


class Run(NamedTuple):
    """As much of a run as tells where its Parquet is."""

    proc: str
    date_local: date
    run_id: str


def layout_of(root: Path) -> Layout:
    """Lay a data root out below `root`."""
    stage = root / "02_stage"
    manifest = stage / "_manifest"
    return Layout(
        data_root=root,
        raw_root=root / "01_raw",
        stage_root=stage,
        manifest_path=manifest / "manifest.parquet",
        wal_dir=manifest / "wal",
        events_dir=manifest / "events",
        rejects_dir=stage / "_rejects",
        histories_dir=root / "histories",
        metadata_dir=root / "metadata",
        log_file=manifest / "ingestd.log",
    )
