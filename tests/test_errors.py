"""What errors are told with."""

from __future__ import annotations

import pickle
from hashlib import sha1

import hypothesis.strategies as st
from hypothesis import given

from ingestd.errors import Reject, RejectCode
from ingestd.words import closest

RUNS = [sha1(b"%d" % number, usedforsecurity=False).hexdigest()[:20] for number in range(30_000)]
"""More ids than are compared one by one."""


def test_among_very_many_names_the_nearest_is_found() -> None:
    """A digit wrong at either end, or in the middle, of one of 30,000 ids; case is no difference."""
    wanted = RUNS[17_000]
    for at in (0, 9, 19):
        wrong = wanted[:at] + ("0" if wanted[at] != "0" else "1") + wanted[at + 1 :]
        assert closest(wrong.upper(), RUNS) == [wanted]
    assert closest("no id at all", RUNS) == []


@given(st.text(max_size=20), st.lists(st.text(max_size=20), max_size=8))
def test_what_is_named_is_known(wanted: str, known: list[str]) -> None:
    """Any text may be asked for: names that are known come out, none twice, the text itself first."""
    found = closest(wanted, known, count=3)
    assert len(found) == len(set(found)) <= 3
    assert set(found) <= set(known)
    if wanted in known and wanted:
        assert found[0].casefold() == wanted.casefold()


def test_a_reject_comes_whole_from_another_process() -> None:
    """A pool of processes that read files hands over the code, the line and the file that was named since."""
    reject = Reject(RejectCode.BAD_CELL, "no number", expected="a number", found="x", next_step="correct it").at(7)
    reject.place = "a.csv:7"
    handed_over = pickle.loads(pickle.dumps(reject))
    assert vars(handed_over) == vars(reject)
    assert str(handed_over) == str(reject) == "a.csv:7: no number\n  next: correct it"
    assert handed_over.at(9).line == 7
