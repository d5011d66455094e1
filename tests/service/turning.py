"""A worker that takes its turns in the test's own thread: `from turning import until_turned`."""

from __future__ import annotations

from collections.abc import Callable

from waiting import wait_until

from ingestd.service.worker import Worker

QUICK = {"retry_s": 0.1, "retry_max_s": 0.5}
"""Settings of `service` that try again soon."""


def until_turned(worker: Worker, fact: Callable[[], object], what: str) -> None:
    """Let the worker take turns in this thread until something holds."""

    def turned() -> bool:
        worker.turn(0.02)
        return bool(fact())

    wait_until(turned, what, every_s=0.0)
