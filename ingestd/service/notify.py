"""What the service tells systemd: ready, alive, stopping; see sd_notify(3).

Datagrams go to the socket that `NOTIFY_SOCKET` names; without it (started by hand) nothing is sent. What the service
does never depends on whether a message arrived.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

from ingestd.words import shown

STATUS_LIMIT = 300
"""Longest status line, in characters: `systemctl status` shows one line."""

SEND_TIMEOUT_S = 1.0
"""How long a message may wait for a full socket before it is dropped, in seconds."""


class Notifier:
    """Tells systemd how the service is; never raises, whatever the socket does.

    `watchdog_s` is how often `watchdog()` must be called, in seconds (half of what systemd allows); None if systemd
    does not ask for it.
    """

    def __init__(self, address: str | None, *, watchdog_s: float | None = None) -> None:
        self._address = address
        self.watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, *, pid: int | None = None) -> Notifier:
        """Take the socket from `NOTIFY_SOCKET`, and the interval from `WATCHDOG_USEC` when `WATCHDOG_PID` is ours."""
        environment = os.environ if environment is None else environment
        pid = os.getpid() if pid is None else pid
        return cls(environment.get("NOTIFY_SOCKET") or None, watchdog_s=_watchdog_interval(environment, pid))

    def ready(self, status: str) -> None:
        """Say that the service is up."""
        self._send("READY=1", _status(status))

    def status(self, text: str) -> None:
        """Show one line in `systemctl status`; line breaks and control characters are escaped."""
        self._send(_status(text))

    def watchdog(self) -> None:
        """Say that every part of the service is alive; call it only after checking."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the service shuts down on purpose."""
        self._send("STOPPING=1")

    def _send(self, *assignments: str) -> None:
        if self._address is None:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with (
            contextlib.suppress(OSError, ValueError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.settimeout(SEND_TIMEOUT_S)
            sender.sendto("\n".join(assignments).encode(), os.fsencode(address))


def _status(text: str) -> str:
    return f"STATUS={shown(text, STATUS_LIMIT)}"


def _watchdog_interval(environment: Mapping[str, str], pid: int) -> float | None:
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None  # meant for the process that started us
    text = environment.get("WATCHDOG_USEC", "")
    if not (text.isascii() and text.isdecimal()) or int(text) == 0:
        return None
    return int(text) / 2e6
