"""The wait list and the judgement of files over time: nothing is forgotten, nothing is taken before its time."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ingestd.errors import Retry
from ingestd.raw.header import glance
from ingestd.raw.settling import (
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
)
from ingestd.service.waiting import OVERTAKEN_S, WORTH_TELLING, WaitList, backoff_s

RETRY_S, RETRY_MAX_S, SETTLE_S, QUIET_S, POLL_S = 1.0, 8.0, 0.5, 30.0, 5.0
PATIENCE = Patience(SETTLE_S, QUIET_S)
TRACK = Track(Sample(1, 1, 1), 0.0)
NAMES = ["a.csv", "b.csv", "day/a.csv", "day/c.csv"]
names = st.sampled_from(NAMES)


class WaitingMachine(RuleBasedStateMachine):
    """The wait list beside a plain table of due times.

    A name that `due` hands out is answered for (`wait`, `again`, `overtaken`, `retry`, `done`) in the same turn; hints
    come between.
    """

    def __init__(self) -> None:
        super().__init__()
        self.list = WaitList(retry_s=RETRY_S, retry_max_s=RETRY_MAX_S)
        self.now = 100.0
        self.due: dict[str, float] = {}
        self.tries: dict[str, int] = {}
        self.told: dict[str, str] = {}
        self.problems: dict[str, str] = {}
        self.overtakings: dict[str, int] = {}

    @rule(seconds=st.floats(0.01, 40.0))
    def time_passes(self, seconds: float) -> None:
        """The clock goes on."""
        self.now += seconds

    @rule(name=names)
    def hint(self, name: str) -> None:
        """A hint makes a file due now, unless it is in retry: that back-off stands."""
        self.list.hint(name, self.now)
        if not self.tries.get(name):
            self.due[name] = min(self.now, self.due.get(name, self.now))

    @rule(
        limit=st.integers(1, 3),
        answers=st.lists(st.sampled_from(["wait", "again", "overtaken", "retry", "done"]), min_size=3, max_size=3),
        wait_s=st.floats(0.01, 40.0),
        code=st.sampled_from(["writer", "unseen", "settling", "cut-line", "changed"]),
        problem=st.sampled_from(["permission denied", "input/output error"]),
    )
    def turn(self, limit: int, answers: list[str], wait_s: float, code: str, problem: str) -> None:
        """One turn of the worker: what is handed out is due, and every name is answered for."""
        for name, answer in zip(self._taken(limit), answers, strict=False):
            match answer:
                case "done":
                    told = name in self.problems or bool(self.told.get(name))
                    assert self.list.done(name) == told, "that it is gone is told if it was told of before"
                    for table in (self.due, self.tries, self.told, self.problems, self.overtakings):
                        table.pop(name, None)
                case "again":
                    self.list.again(name, self.now)
                    self.due[name] = self.now
                case "overtaken":
                    self.list.overtaken(name, self.now)
                    times = self.overtakings.get(name, 0)
                    self.due[name] = self.now + min(RETRY_MAX_S, OVERTAKEN_S * 2**times)
                    self.overtakings[name] = times + 1
                case "retry":
                    news = self.list.retry(name, Retry(problem, next_step="look"), self.now)
                    assert news == (self.problems.get(name) != problem), "each problem is told once"
                    self.problems[name] = problem
                    tries = self.tries.get(name, 0)
                    self.due[name] = self.now + min(RETRY_MAX_S, RETRY_S * 2**tries)
                    self.tries[name] = tries + 1
                case _:
                    self._wait(name, wait_s, code)

    def _taken(self, limit: int) -> list[str]:
        """Each name once, the longest due first; nothing due is left behind when there is room."""
        taken = self.list.due(self.now, limit)
        assert len(set(taken)) == len(taken) <= limit
        assert all(self.due[name] <= self.now for name in taken), "taken before its time"
        left = {name for name, due in self.due.items() if due <= self.now} - set(taken)
        assert not left or len(taken) == limit, f"forgotten: {left}"
        assert [self.due[name] for name in taken] == sorted(self.due[name] for name in taken)
        assert all(self.due[name] <= self.due[other] for name in taken for other in left)
        return taken

    def _wait(self, name: str, wait_s: float, code: str) -> None:
        news = self.list.wait(name, Verdict(State.RUNNING, "why", code), TRACK, due=self.now + wait_s)
        assert news == (code in WORTH_TELLING and self.told.get(name) != code)
        self.told[name] = code if news else self.told.get(name, "")
        self.due[name] = self.now + wait_s
        for table in (self.tries, self.problems, self.overtakings):
            table.pop(name, None)

    @invariant()
    def every_file_has_its_time(self) -> None:
        """Every file that was hinted at and not decided is listed, with the due time of the model."""
        assert {name: entry.due for name, entry in self.list.entries.items()} == self.due
        assert self.list.next_due() == min(self.due.values(), default=None)


TestWaitList = WaitingMachine.TestCase


def test_a_wait_that_was_cut_short_does_not_cut_the_next_one_short() -> None:
    """A file was to be looked at in a second; a hint came first, and then it failed: its back-off of 8 s stands."""
    waiting = WaitList(retry_s=8.0, retry_max_s=8.0)
    waiting.hint("a.csv", 0.0)
    assert waiting.due(0.0, 1) == ["a.csv"]
    waiting.wait("a.csv", Verdict(State.RUNNING, "why", "settling"), TRACK, due=1.0)
    waiting.hint("a.csv", 0.5)
    assert waiting.due(0.5, 1) == ["a.csv"]
    waiting.retry("a.csv", Retry("input/output error", next_step="look"), 0.5)
    assert waiting.due(2.0, 1) == []
    assert waiting.due(8.5, 1) == ["a.csv"]


# ---- a file over time -----------------------------------------------------------------------------------------------

HEADER = b"#Procedure: <laser_setup.procedures.It.It>\n#Parameters:\n#\tChip number: 1\n#Data:\n"
COLUMNS = b"t (s),I (A)\n"


@dataclass(frozen=True)
class Step:
    """Something a writer does after a pause: adds bytes, keeps the file open or not."""

    pause_s: float
    adds: bytes
    opened: bool


steps = st.lists(
    st.builds(
        Step,
        st.one_of(st.floats(0.0, 1.2), st.floats(20.0, 70.0)),
        st.sampled_from([b"", b"0.0,1.0\n", b"0.5,", b"2.0\n", b"1.0,3.0\n"]),
        st.booleans(),
    ),
    max_size=8,
)


class Followed:
    """A file as the service follows it: looked at at hints (opened, closed) and whenever its time has come."""

    def __init__(self, *, visible: bool, hinted: bool) -> None:
        self.visible, self.hinted = visible, hinted
        self.now, self.changed_at, self.inode = 1000.0, 1000.0, 7
        self.data = HEADER + COLUMNS
        self.opened = False
        self.track: Track | None = None
        self.due = self.now
        self.taken_at: float | None = None
        self.state = ""

    def look(self) -> None:
        """Look once, as the worker does, and check that nothing is taken early."""
        sample = Sample(len(self.data), int(self.changed_at * 1e9), self.inode)
        self.track = observe(self.track, sample, self.now, self.now - self.changed_at)
        writer = ("It (pid 1)" if self.opened else "") if self.visible else None
        seen = Observation(self.track.unchanged_s(self.now), writer)
        verdict = judge_outside(seen, PATIENCE)
        if verdict.state is State.SETTLED:
            verdict = judge(seen, glance(self.data), len(self.data), PATIENCE)
        self.state = verdict.state.value
        if verdict.state is State.RUNNING:
            wait_s = max(0.01, next_look_s(seen, verdict, PATIENCE, POLL_S))
            assert wait_s <= max(POLL_S, QUIET_S), "longer than any reason to wait"
            self.due = self.now + wait_s
            return
        self.due = float("inf")  # settled or queued: decided until the file changes
        if verdict.state is State.SETTLED:
            self.taken_at = self.now
            self._check_not_early()

    def _check_not_early(self) -> None:
        still_s = self.now - self.changed_at + 1e-6
        assert not (self.visible and self.opened), "taken while somebody had it open"
        assert still_s >= (SETTLE_S if self.visible else QUIET_S)
        assert self.data.count(b"\n") > (HEADER + COLUMNS).count(b"\n"), "taken without a complete row"
        assert self.data.endswith(b"\n") or still_s >= QUIET_S

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with the looks that fall due in it."""
        end = self.now + seconds
        while self.due <= end:
            self.now = max(self.now, self.due)
            self.look()
        self.now = end

    def do(self, step: Step) -> None:
        """Do what the writer does; an open or close that the kernel tells of is looked at at once."""
        self.pass_time(step.pause_s)
        told = self.hinted and (step.opened != self.opened or (step.adds and not step.opened))
        if step.adds:
            self.data += step.adds
            self.changed_at = self.now
            self.taken_at = None
        self.opened = step.opened
        if told:
            self.look()
        elif self.due == float("inf") and step.adds:
            self.due = self.now + QUIET_S  # a scan comes upon it


@pytest.mark.parametrize("visible", [True, False], ids=["writers-seen", "writers-unseen"])
@pytest.mark.parametrize("hinted", [True, False], ids=["hints", "no-hints"])
@given(plan=steps)
def test_a_file_is_taken_in_time_and_never_early(visible: bool, hinted: bool, plan: list[Step]) -> None:
    """Whatever a writer does: no look takes a file early, and once it is left alone it is decided within a bound."""
    file = Followed(visible=visible, hinted=hinted)
    file.look()
    for step in plan:
        file.do(step)
    if file.opened:
        file.do(Step(0.0, b"", opened=False))
    left_at = file.now
    file.pass_time(POLL_S + 2 * QUIET_S + SETTLE_S)
    rows = file.data.removeprefix(HEADER + COLUMNS).count(b"\n")
    if rows:
        assert file.state == "settled"
        assert file.taken_at is not None
        whole = file.data.endswith(b"\n")
        if visible and hinted and whole and file.taken_at > left_at:
            assert file.taken_at - left_at <= SETTLE_S + 0.02, "the fast path took longer than settle_s"
    else:
        assert file.state == "queued"


def test_a_backlog_does_not_wait() -> None:
    """A file first seen long after its last change is believed to be as old as its mtime says."""
    track = observe(None, TRACK.sample, now=50.0, age_s=3600.0)
    assert judge_outside(Observation(track.unchanged_s(50.0), None), PATIENCE).state is State.SETTLED


def test_an_mtime_in_the_future_does_not_hold_a_file_for_ever() -> None:
    """A camera's clock a day ahead: the distance counts as age, and from then on only our own clock does."""
    track = observe(None, TRACK.sample, now=50.0, age_s=-86400.0)
    assert track.unchanged_s(50.0) == 86400.0
    just_ahead = observe(None, TRACK.sample, now=50.0, age_s=-0.1)
    assert just_ahead.unchanged_s(51.0) == pytest.approx(1.1)


def test_a_file_that_changed_while_it_was_read_is_looked_at_again_soon() -> None:
    """No reason to wait for `quiet_s`: the next look finds out what it became."""
    changed = Verdict(State.RUNNING, "it changed while it was read", "changed")
    assert next_look_s(Observation(3.0, ""), changed, PATIENCE, POLL_S) == 0.0


@given(tries=st.integers(0, 10_000))
def test_the_back_off_doubles_up_to_a_bound(tries: int) -> None:
    """Each wait is twice the last one, and none is longer than the bound, after however many failures."""
    wait = backoff_s(tries, RETRY_S, RETRY_MAX_S)
    assert wait == min(RETRY_MAX_S, RETRY_S * 2 ** min(tries, 40))
