"""What `verify` and `explain` say to people, on the sample data."""

from __future__ import annotations

import pytest
from commands import Folder

REJECT = "2026-03-12/IV2026-03-12_3.csv"
QUEUED = "2026-03-13/It2026-03-13_5.csv"


def test_verify_says_in_words_what_a_note_is_about(staged: Folder) -> None:
    """Notes about a rejected, a queued and a copied file are sentences, not codes alone."""
    staged.put(
        "copy/LaserCalibration2026-03-12_1.csv",
        (staged.raw / "2026-03-12/LaserCalibration2026-03-12_1.csv").read_bytes(),
    )
    staged.run("backfill", "--workers", "1")
    done = staged.run("verify")
    assert done.code == 0
    assert f"rejected  {REJECT}: it cannot be staged (row-too-long): `ingestd rejects show` tells why\n" in done.out
    assert f"queued  {QUEUED}: header only, no data row yet" in done.out
    assert "duplicate  copy/LaserCalibration2026-03-12_1.csv: a copy of run " in done.out


@pytest.mark.parametrize(
    ("delete", "verdict"),
    [
        (
            False,
            "It was rejected (row-too-long); "
            "it stays so until its bytes change, or `ingestd rejects retry` has it tried again.",
        ),
        (True, "It was rejected (row-too-long); the file is gone since."),
    ],
)
def test_explain_of_a_reject_names_the_code_at_its_event(staged: Folder, delete: bool, verdict: str) -> None:
    """The event of a reject stands with its code, and the verdict knows whether the file is still there."""
    if delete:
        (staged.raw / REJECT).unlink()
    told = staged.run("explain", REJECT).out.splitlines()
    assert told[1] == verdict
    (event,) = [line for line in told if line.startswith("event ")]
    assert event.endswith(" rejected: row-too-long")
