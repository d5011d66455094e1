"""What a backfill prints, for people and for programs, and its exit code."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from commands import Folder

from ingestd.backfill.fate import Fate
from ingestd.backfill.report import FailedFile, RejectedFile, Report, WaitingFile
from ingestd.cli.report import STAGED, SUMS, as_json, exit_code, tell, tell_dry_run
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


LOST = LostFile("l.csv", "0123456789abcdef0123", "it is empty now", "restore it", None)
WHY = Reason(code="row-too-long", message="a row is too long")


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ({"waiting": [WaitingFile("a.csv", State.QUEUED, "header only", "no-rows", 1.0)]}, 0),
        ({"passed_over": {"a.csv": "a symbolic link"}, "warnings": {"a.csv": ["odd"]}}, 0),
        ({"rejected": [RejectedFile("a.csv", WHY)]}, 1),
        ({"rejected_before": ["a.csv"]}, 1),
        ({"failed": [FailedFile("a.csv", "Input/output error", "a.csv", "")]}, 1),
        ({"lost": [LOST]}, 1),
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


TOLD = """\
failed    d/f.csv
          Input/output error
          next: check the disk
failed    g.csv
          it had no time
          next: it is tried again by the next backfill

lost      l.csv
          it is empty now
          next: restore it

queued    q.csv
          header only

passed over  x.csv: a symbolic link

"""


@pytest.fixture
def troubled() -> Report:
    """A report of one or two files of each kind that needs a person."""
    return Report(
        fates=Counter({Fate.FAILED: 2, Fate.LOST: 1, Fate.WAITING: 1}),
        failed=[FailedFile("d/f.csv", "Input/output error", "d/f.csv", "check the disk"),
                FailedFile("g.csv", "it had no time", "g.csv", "")],
        lost=[LOST],
        waiting=[WaitingFile("q.csv", State.QUEUED, "header only", "no-rows", 1.0)],
        passed_over={"x.csv": "a symbolic link"},
        interrupted=True,
        stopped_by=Retry("no space left", place="data", next_step="make room"),
    )  # fmt: skip


def test_what_was_not_staged_is_told_with_the_reason_and_what_to_do(
    capsys: pytest.CaptureFixture[str], folder: Folder, troubled: Report
) -> None:
    """First what needs a person, then the sums, and at the end, on stderr, why it ended early."""
    layout = load_settings(flags={"paths": {"data_root": str(folder.path)}}).layout
    tell(troubled, layout)
    told = capsys.readouterr()
    assert told.out.startswith(TOLD)
    assert "manifest:" not in told.out, "there is none"
    assert told.err.splitlines() == [
        "stopped before the end; the same command goes on from there",
        "error: data: no space left",
        "  next: make room; then run the same command again",
    ]
    tell_dry_run(troubled, layout)
    assert capsys.readouterr().out.startswith("passed over  x.csv: a symbolic link\n")


def test_programs_get_all_of_it(folder: Folder, troubled: Report) -> None:
    """What people are told of each file, and why the backfill ended early, is in the JSON."""
    layout = load_settings(flags={"paths": {"data_root": str(folder.path)}}).layout
    told = as_json(troubled, layout, 2, dry_run=True)
    assert (told["exit_code"], told["dry_run"], told["interrupted"]) == (2, True, True)
    assert [file["source_file"] for file in told["failed"]] == ["d/f.csv", "g.csv"]
    assert told["failed"][0]["next_step"] == "check the disk"
    assert [(file["source_file"], file["next_step"]) for file in told["lost"]] == [("l.csv", "restore it")]
    assert told["stopped_by"] == {"message": "no space left", "place": "data", "next_step": "make room"}
