"""The kernel's limits on inotify: which is reached, whether there is room again, and how to raise it."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from watchdog.observers.inotify_c import InotifyConstants, inotify_add_watch, inotify_init

LIMITS = Path("/proc/sys/fs/inotify")
WATCHES_ADVISED = 524288
INSTANCES_ADVISED = 1024

LIMIT_ERRORS = {errno.ENOSPC: "max_user_watches", errno.EMFILE: "max_user_instances"}
"""Which limit an error of inotify means."""


def limits_message(name: str) -> str:
    """Say that a kernel limit (`max_user_watches` or `max_user_instances`) is reached, and how to raise it."""
    value = limit_value(name)
    advised = max(2 * value, INSTANCES_ADVISED if name == "max_user_instances" else WATCHES_ADVISED)
    setting = f"fs.inotify.{name}={advised}"
    return (
        f"the kernel's limit fs.inotify.{name} ({value}) is reached: new files are found by scanning, which takes "
        f"longer. Raise it with `sudo sysctl {setting}`, and permanently with "
        f"`echo {setting} | sudo tee /etc/sysctl.d/60-ingestd.conf`"
    )


def limit_value(name: str) -> int:
    """Read a limit; 0 if it cannot be read."""
    try:
        return int((LIMITS / name).read_text())
    except (OSError, ValueError):
        return 0


def limit_at_hand(root: Path) -> str | None:
    """Try whether one more folder could be watched; return the limit's name if not."""
    queue = inotify_init()
    if queue < 0:
        return LIMIT_ERRORS.get(ctypes.get_errno())
    try:
        watched = inotify_add_watch(queue, os.fsencode(root), InotifyConstants.IN_DELETE_SELF) >= 0
        return None if watched else LIMIT_ERRORS.get(ctypes.get_errno())
    finally:
        os.close(queue)
