"""The sums that a backfill prints."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from commands import Folder

from ingestd.backfill.fate import Fate
from ingestd.backfill.report import FailedFile, RejectedFile, Report, WaitingFile
from ingestd.cli.report import STAGED, SUMS, exit_code, tell
from ingestd.errors import Retry
from ingestd.ingest.lost import LostFile
from ingestd.manifest.record import Event, Reason
from ingestd.raw.settling import State
from ingestd.settings import load_settings


def test_what_another_process_decided_meanwhile_is_counted(capsys: pytest.CaptureFixture[str], folder: Folder) -> None:
    """Beside a service, or another backfill, the sums are still the files that were found."""
    layout = load_settings(flags={"paths": {"data_root": str(folder.path)}}).layout
    tell(Report(fates=Counter({Fate.INGESTED: 3, Fate.KNOWN: 2, Fate.OVERTAKEN: 3})), layout)
    assert "\n       3  decided meanwhile by another ingestd, or gone since\n" in capsys.readouterr().out
    tell(Report(fates=Counter({Fate.INGESTED: 3})), layout)
    assert "meanwhile" not in capsys.readouterr().out


WHY = Reason(code="row-too-long", message="a row is too long")


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ({"waiting": [WaitingFile("a.csv", State.QUEUED, "header only", "no-rows", 1.0)]}, 0),
        ({"passed_over": {"a.csv": "a symbolic link"}, "warnings": {"a.csv": ["odd"]}}, 0),
        ({"rejected": [RejectedFile("a.csv", WHY)]}, 1),
        ({"rejected_before": ["a.csv"]}, 1),
        ({"failed": [FailedFile("a.csv", "Input/output error", "a.csv", "")]}, 1),
        ({"lost": [LostFile("a.csv", "0123456789abcdef0123", "it is empty now", "restore it", None)]}, 1),
        ({"unreachable": ["day"]}, 1),
        ({"stopped_by": Retry("no space left"), "rejected_before": ["a.csv"]}, 2),
    ],
    ids=lambda found: next(iter(found)) if isinstance(found, dict) else str(found),
)
def test_what_needs_attention_alone_decides_the_exit_code(found: dict[str, Any], code: int) -> None:
    """Each of rejected, failed, lost and out of reach makes it 1, what ended the run early 2, and nothing else does."""
    assert exit_code(Report(**found)) == code


def test_every_fate_of_a_file_is_in_one_sum() -> None:
    """So the sums are the files that were found; what was staged is made of exactly the events that stage a file."""
    counted = [fate for together in SUMS.values() for fate in together]
    assert sorted([*STAGED, *counted, Fate.TO_DO]) == sorted(Fate)
    assert sorted(STAGED) == sorted(fate for fate in Fate if fate.stages)
    assert sorted(map(str, STAGED)) == sorted(str(event) for event in Event if event.stages)
