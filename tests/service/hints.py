"""What a watch says, to wait for: `from hints import Heard`."""

from __future__ import annotations

import threading
from collections.abc import Callable

LIMIT_S = 20.0
"""Seconds after which a test gives up waiting."""


class Heard:
    """What a watch said, to wait for."""

    def __init__(self) -> None:
        self.hints: list[str] = []
        self.doubts: list[str] = []
        self._news = threading.Condition()

    def on_hint(self, name: str) -> None:
        """Note a path."""
        with self._news:
            self.hints.append(name)
            self._news.notify_all()

    def on_doubt(self, reason: str) -> None:
        """Note a reason."""
        with self._news:
            self.doubts.append(reason)
            self._news.notify_all()

    def until(self, condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
        """Wait for the condition, looking again at every hint; fail after the limit."""
        with self._news:
            assert self._news.wait_for(lambda: bool(condition()), limit_s), (self.hints[-20:], self.doubts[-20:])
