"""Waiting until something holds: `from waiting import wait_until`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

LIMIT_S = 60.0
"""Seconds after which a test gives up waiting; the machine may be busy with other things."""

Found = TypeVar("Found")


def wait_until(look: Callable[[], Found | None], what: str, limit_s: float = LIMIT_S, every_s: float = 0.05) -> Found:
    """Wait until a look finds something, and return that; fail after the limit, which names `what` was waited for.

    A look that takes long is taken less often, so that it does not keep the machine from what is waited for.
    """
    end = time.monotonic() + limit_s
    while True:
        began = time.monotonic()
        if found := look():
            return found
        assert began < end, f"not within {limit_s:g} s: {what}"
        time.sleep(max(every_s, 2 * (time.monotonic() - began)))
