"""The sums that a backfill prints."""

from __future__ import annotations

from collections import Counter

import pytest
from commands import Folder

from ingestd.backfill.fate import Fate
from ingestd.backfill.report import Report
from ingestd.cli.report import STAGED, SUMS, tell
from ingestd.manifest.record import Event
from ingestd.settings import load_settings


def test_what_another_process_decided_meanwhile_is_counted(capsys: pytest.CaptureFixture[str], folder: Folder) -> None:
    """Beside a service, or another backfill, the sums are still the files that were found."""
    layout = load_settings(flags={"paths": {"data_root": str(folder.path)}}).layout
    tell(Report(fates=Counter({Fate.INGESTED: 3, Fate.KNOWN: 2, Fate.OVERTAKEN: 3})), layout)
    assert "\n       3  decided meanwhile by another ingestd, or gone since\n" in capsys.readouterr().out
    tell(Report(fates=Counter({Fate.INGESTED: 3})), layout)
    assert "meanwhile" not in capsys.readouterr().out


def test_every_fate_of_a_file_is_in_one_sum() -> None:
    """So the sums are the files that were found; what was staged is made of exactly the events that stage a file."""
    counted = [fate for together in SUMS.values() for fate in together]
    assert sorted([*STAGED, *counted, Fate.TO_DO]) == sorted(Fate)
    assert sorted(STAGED) == sorted(fate for fate in Fate if fate.stages)
    assert sorted(map(str, STAGED)) == sorted(str(event) for event in Event if event.stages)
