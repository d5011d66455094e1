"""Queued, running or settled: tables of what was seen and what follows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.raw.header import Glance, glance
from ingestd.raw.settling import (
    AGED_S,
    QUEUED_REASONS,
    Observation,
    Patience,
    Sample,
    State,
    Track,
    Verdict,
    judge,
    judge_outside,
    next_look_s,
    observe,
    queued,
    unaged,
)

PATIENCE = Patience(settle_s=0.5, quiet_s=30.0)
WHOLE = Glance(incomplete_tail=False, plausible=True, rows=3)
CUT = Glance(incomplete_tail=True, plausible=True, rows=3)
HEADER = Glance(incomplete_tail=False, plausible=True, rows=0)
CUT_ROW = Glance(incomplete_tail=True, plausible=True, rows=0)
RUBBISH = Glance(incomplete_tail=False, plausible=False, rows=0)


@pytest.mark.parametrize(
    ("unchanged_s", "writer", "state", "code", "words"),
    [
        (0.0, "", State.RUNNING, "settling", "changed 0.0 s ago"),
        (0.49, "", State.RUNNING, "settling", "changed 0.5 s ago"),
        (0.5, "", State.SETTLED, "", ""),
        (0.5, None, State.RUNNING, "unseen", "cannot be seen here: waiting for 30 s"),
        (29.9, None, State.RUNNING, "unseen", "cannot be seen here: waiting for 30 s"),
        (30.0, None, State.SETTLED, "", ""),
        (1e9, "python (pid 7)", State.RUNNING, "writer", "python (pid 7) has it open for writing"),
    ],
)
def test_from_outside(unchanged_s: float, writer: str | None, state: State, code: str, words: str) -> None:
    """A writer keeps a file running for ever; else `settle_s` counts where writers can be seen, `quiet_s` elsewhere."""
    verdict = judge_outside(Observation(unchanged_s, writer), PATIENCE)
    assert (verdict.state, verdict.code) == (state, code)
    assert words in verdict.reason
    assert bool(verdict.reason) is (state is not State.SETTLED)


@pytest.mark.parametrize(
    ("unchanged_s", "look", "size", "state", "code"),
    [
        (1.0, WHOLE, 100, State.SETTLED, ""),
        (0.1, WHOLE, 100, State.RUNNING, "settling"),
        (1.0, CUT, 100, State.RUNNING, "cut-line"),
        (29.9, CUT, 100, State.RUNNING, "cut-line"),
        (30.0, CUT, 100, State.SETTLED, ""),
        (1e9, HEADER, 100, State.QUEUED, "no-rows"),
        (1e9, CUT_ROW, 100, State.QUEUED, "cut"),
        (1e9, HEADER, 0, State.QUEUED, "empty"),
        (1.0, RUBBISH, 100, State.SETTLED, ""),
        (0.1, RUBBISH, 100, State.RUNNING, "settling"),
    ],
)
def test_with_a_look_at_the_bytes(unchanged_s: float, look: Glance, size: int, state: State, code: str) -> None:
    """Without a complete row a file is queued at any age; rubbish is settled, because waiting would not mend it."""
    verdict = judge(Observation(unchanged_s, ""), look, size, PATIENCE)
    assert (verdict.state, verdict.code) == (state, code)
    if state is State.QUEUED:
        assert verdict.reason == QUEUED_REASONS[code]


@pytest.mark.parametrize(("noted", "code"), [(None, "no-rows"), *((code, code) for code in QUEUED_REASONS)])
def test_a_file_noted_as_queued_is_so_for_the_reason_noted(noted: str | None, code: str) -> None:
    """What was noted of a queued file says why it waits; without a kind, it has a header and no row."""
    assert queued(noted) == Verdict(State.QUEUED, QUEUED_REASONS[code], code)


@given(
    unchanged_s=st.floats(0, 1e6),
    writer=st.sampled_from(["", None, "python (pid 7)"]),
    look=st.builds(Glance, st.booleans(), st.booleans(), st.integers(0, 1)),
    size=st.integers(0, 10),
)
def test_no_look_settles_what_is_running_outside(
    unchanged_s: float, writer: str | None, look: Glance, size: int
) -> None:
    """Whatever the bytes say, a file that somebody writes to, or that changed just now, is never settled."""
    seen = Observation(unchanged_s, writer)
    if judge_outside(seen, PATIENCE).state is State.RUNNING:
        assert judge(seen, look, size, PATIENCE).state is State.RUNNING
    if writer:
        assert judge(seen, look, size, PATIENCE).state is State.RUNNING


@given(cut=st.integers(0, 400))
def test_a_measurement_cut_anywhere_is_never_rejected_while_it_may_go_on(cut: int) -> None:
    """Any beginning of a measurement file is queued, running or settled with rows: never settled without one."""
    header = b"#Procedure: <m.It>\n#Parameters:\n#\tChip number: 7\n#Data:\nt (s),I (A)\n"
    data = (header + b"0.0,1e-6\n" * 40)[:cut]
    verdict = judge(Observation(1.0, ""), glance(data), len(data), PATIENCE)
    complete = data.count(b"\n") > header.count(b"\n")
    assert (verdict.state is State.QUEUED) is not complete
    if complete:
        assert verdict.state is (State.SETTLED if data.endswith(b"\n") else State.RUNNING)


# ---- over time -------------------------------------------------------------------------------------------------------

SAMPLE = Sample(size=100, mtime_ns=1, inode=5)


@pytest.mark.parametrize(("age_s", "unchanged_s"), [(3600.0, 3600.0), (0.0, 0.0), (-3600.0, 3600.0)])
def test_at_first_sight_the_age_counts(age_s: float, unchanged_s: float) -> None:
    """A backlog does not wait, and an mtime in the future counts by its distance."""
    assert observe(None, SAMPLE, 1000.0, age_s).unchanged_s(1000.0) == unchanged_s


@pytest.mark.parametrize(
    "changed", [Sample(101, 1, 5), Sample(100, 2, 5), Sample(100, 1, 6)], ids=["size", "mtime", "inode"]
)
def test_any_change_restarts_the_wait(changed: Sample) -> None:
    """Another size, mtime or inode, however old the mtime claims to be, counts from the moment it was seen."""
    track = observe(None, SAMPLE, 1000.0, 3600.0)
    assert observe(track, changed, 1010.0, 3600.0) == Track(changed, 1010.0)


def test_an_unchanged_sample_goes_on_waiting() -> None:
    """From the first sight on only the monotonic clock counts: a wall clock that is set changes nothing."""
    track = observe(None, SAMPLE, 1000.0, 0.0)
    for age_s in (0.2, -86_400.0, 86_400.0):
        track = observe(track, SAMPLE, 1000.3, age_s)
    assert track.unchanged_s(1000.3) == pytest.approx(0.3)
    assert track.unchanged_s(999.0) == 0.0


@pytest.mark.parametrize(
    ("seen", "look", "expected"),
    [
        (Observation(0.2, ""), WHOLE, 0.3),
        (Observation(0.2, "python (pid 7)"), WHOLE, 5.0),
        (Observation(10.0, None), WHOLE, 1.0),
        (Observation(29.7, None), WHOLE, 0.3),
        (Observation(10.0, ""), CUT, 20.0),
        (Observation(0.2, ""), CUT, 0.3),
    ],
    ids=["young", "open", "unseen", "unseen-to-the-end", "cut-line", "young-cut-line"],
)
def test_when_to_look_again(seen: Observation, look: Glance, expected: float) -> None:
    """A file is asked for when its wait is over, one that is open as often as is polled."""
    verdict: Verdict = judge(seen, look, 100, PATIENCE)
    assert next_look_s(seen, verdict, PATIENCE, 5.0) == pytest.approx(expected)


@pytest.mark.parametrize("off_s", [-3600.0, -60.0, 60.0, 3600.0])
def test_a_clock_that_is_off_does_not_end_a_run(off_s: float) -> None:
    """Where its writer cannot be seen, a file counts from when it is first seen, whatever its clock says of its age."""
    track = unaged(observe(None, Sample(1, 1, 1), 1000.0, off_s), 1000.0)
    for after_s, state in ((0.0, State.RUNNING), (9.9, State.RUNNING), (10.0, State.SETTLED)):
        seen = Observation(track.unchanged_s(1000.0 + after_s), None)
        assert judge_outside(seen, Patience(0.5, 10.0)).state is state


def test_a_backlog_of_days_does_not_wait() -> None:
    """Files of yesterday are over, whatever a clock is off by."""
    track = unaged(observe(None, Sample(1, 1, 1), 1000.0, AGED_S), 1000.0)
    assert judge_outside(Observation(track.unchanged_s(1000.0), None), Patience(0.5, 30.0)).state is State.SETTLED
