"""Repeated warnings: the first is written, the rest are counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

REPEAT_S = 60.0
"""How long the same warning is not written again, in seconds."""

REMEMBERED = 1024
"""How many different warnings are remembered at most, to bound memory."""


class Throttle:
    """Lets the same warning or error through once in `REPEAT_S`, and decisions (lines with a `seq`) always.

    Two lines are the same if their event and all texts in their fields are, including texts in lists. Numbers do not
    count: a wait grows, a duration differs.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: dict[object, tuple[float, int]] = {}

    def held_back(self, entry: Mapping[str, Any]) -> int | None:
        """Return how many lines like this one were held back since the last; None if this one is held back too."""
        key = self._key(entry)
        if key is None:
            return 0
        now = self._clock()
        written_at, held = self._seen.get(key, (-math.inf, 0))
        if now - written_at < REPEAT_S:
            self._seen[key] = (written_at, held + 1)
            return None
        self._seen.pop(key, None)  # keeps the newest last
        if len(self._seen) >= REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = (now, 0)
        return held

    def _key(self, entry: Mapping[str, Any]) -> object:
        if entry["level"] not in {"warning", "error"} or "seq" in entry:
            return None
        values = (value for name, value in entry.items() if name not in {"time", "exception"})
        return tuple(_texts(value) for value in values if isinstance(value, (str, list, tuple)))


def _texts(value: object) -> object:
    """Return a text, or those in a list, as a hashable value."""
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, (list, tuple)) else value
