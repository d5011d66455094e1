"""What is put in place and never recorded: a batch that something else than the disk broke off, and its note."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from archive import Archive
from measurement import Measurement

from ingestd.backfill import Options, backfill
from ingestd.engine import InlineEngine
from ingestd.manifest import log
from ingestd.stage.placing import NOTE_NAME

RUN = Measurement()
A = "2025-09-23/IVg2025-09-23_1.csv"


def break_off(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backfill, and press Ctrl-C between the Parquet in its place and its record."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(log, "append", interrupted)
        backfill(archive.settings, Options(engine=lambda context, _: InlineEngine(context), clock=archive.now))


def parquets(archive: Archive) -> list[Path]:
    """List the Parquet in the live stage."""
    return sorted(archive.layout.staged_root.rglob("*.parquet"))


def test_what_was_broken_off_is_taken_back_by_the_next_start(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes between placing and recording, no Parquet stays that no record tells of."""
    archive.put(A, RUN.data)
    break_off(archive, monkeypatch)
    assert len(parquets(archive)) == 1
    archive.delete(A)
    assert archive.backfill() == []
    assert parquets(archive) == []
