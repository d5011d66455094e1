"""A queue of inotify events that overflows soon: `from short_queue import short_queue`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")

KERNELS_OWN = 16384
"""What the kernel sets it to itself. A test that was killed may have left less, which is no value to go back to."""


@contextlib.contextmanager
def short_queue(events: int) -> Iterator[None]:
    """Let the kernel give new watches a short queue of events, for the block; needs root.

    The setting is the machine's: other tests that lower it wait, so that each goes back to what stood before.
    """
    if os.geteuid() != 0:
        pytest.skip(f"lowering {QUEUE} needs root; INGESTD_TEST_FULL_LOAD=1 overflows the queue as it is")
    with Path(tempfile.gettempdir(), "ingestd-test-short-queue.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = max(int(QUEUE.read_text()), KERNELS_OWN)
        try:
            QUEUE.write_text(str(events))
        except OSError as error:
            pytest.skip(f"{QUEUE} cannot be lowered here: {error.strerror}")
        try:
            yield
        finally:
            QUEUE.write_text(str(before))
