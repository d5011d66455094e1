"""Stamps by path, against a plain dict that is told the same."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ingestd.files import Stamp, Stamps

PATHS = ["a.csv", "b.csv", "day/a.csv", "day/b.csv", "day/deep/a.csv", "day.csv/a.csv", "day/deep", "d\n/ö.csv"]
paths = st.sampled_from(PATHS)
stamps = st.tuples(st.integers(0, 2), st.integers(0, 2))


class Told(RuleBasedStateMachine):
    """What `Stamps` answers is what a dict answers; copies are apart."""

    @initialize(entries=st.lists(st.tuples(paths, stamps)))
    def begin(self, entries: list[tuple[str, Stamp]]) -> None:
        self.plain = dict(entries)
        self.stamps = Stamps([path for path, _ in entries], [stamp for _, stamp in entries])

    @rule(path=paths, stamp=stamps)
    def put(self, path: str, stamp: Stamp) -> None:
        self.plain[path] = stamp
        self.stamps[path] = stamp

    @rule(path=paths)
    def drop(self, path: str) -> None:
        assert self.stamps.pop(path, None) == self.plain.pop(path, None)

    @rule(path=paths)
    def change_a_copy(self, path: str) -> None:
        copy = self.stamps.copy()
        copy.pop(path, None)
        copy["day/new.csv"] = (9, 9)

    @invariant()
    def answers_are_the_same(self) -> None:
        assert dict(self.stamps) == self.plain
        assert len(self.stamps) == len(self.plain)
        for path in PATHS:
            assert (path in self.stamps) == (path in self.plain)
            assert self.stamps.get(path) == self.plain.get(path)
        here = {name: stamp for name, stamp in self.plain.items() if name.rpartition("/")[0] == "day"}
        assert self.stamps.folder("day") == {name.removeprefix("day/"): stamp for name, stamp in here.items()}


TestStates: Any = Told.TestCase


def test_a_path_that_is_not_there() -> None:
    """Asked for by index, or deleted, it is a `KeyError` that names it, as with a dict."""
    known = Stamps(["day/a.csv"], [(1, 2)])
    for path in ("day/b.csv", "other/a.csv", "a.csv"):
        with pytest.raises(KeyError, match=path):
            known[path]
        with pytest.raises(KeyError, match=path):
            del known[path]
    assert known.folder("other") == {}
    number: object = 1
    assert number not in known
