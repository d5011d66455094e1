"""What systemd hears, on a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.service.notify import STATUS_LIMIT, Notifier

LIMIT_S = 10.0


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """A socket like systemd's, and what NOTIFY_SOCKET would say of it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(LIMIT_S)
        if request.param == "path":
            address = str(tmp_path / "notify")
            listener.bind(address)
        else:
            address = f"@ingestd-test-{os.getpid()}"
            listener.bind("\0" + address[1:])
        yield address, listener


def test_every_word_arrives_as_sd_notify_writes_it(systemd: tuple[str, socket.socket]) -> None:
    """Each method sends one datagram of NAME=value lines, over a path and over an abstract socket."""
    address, listener = systemd
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
    heard = []
    words: list[Callable[[], None]] = [
        lambda: notifier.ready("watching 01_raw"),
        lambda: notifier.status("staging: 3 files"),
        notifier.watchdog,
        notifier.stopping,
    ]
    for say in words:
        say()
        heard.append(listener.recv(4096).decode())
    assert heard == [
        "READY=1\nSTATUS=watching 01_raw",
        "STATUS=staging: 3 files",
        "WATCHDOG=1",
        "STOPPING=1",
    ]


@given(text=st.text(st.characters(codec=None)))
def test_no_status_can_smuggle_an_assignment(text: str) -> None:
    """Whatever text is shown (line breaks, lone surrogates), it is one STATUS= line of bounded length."""
    address = f"@ingestd-status-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(LIMIT_S)
        listener.bind("\0" + address[1:])
        notifier = Notifier(address)
        notifier.status(text)
        message = listener.recv(8192).decode()
    assert message.startswith("STATUS=")
    assert message.isprintable()
    assert len(message) <= len("STATUS=") + STATUS_LIMIT


def test_without_a_socket_nothing_happens() -> None:
    """Started by hand, the service tells nobody."""
    notifier = Notifier.from_environment({})
    notifier.ready("x")
    notifier.watchdog()
    assert notifier.watchdog_s is None


@pytest.mark.parametrize("address", ["/nowhere/at/all", "vsock:2:1", "/" + "x" * 200, "@" + "y" * 200, "a\0b"])
def test_a_dead_socket_stops_nothing(address: str) -> None:
    """A socket that is gone, too long or of another kind costs the message and raises nothing."""
    notifier = Notifier(address)
    notifier.ready("x")
    notifier.stopping()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
        ({"WATCHDOG_PID": "42"}, None),
    ],
)
def test_the_watchdog_interval_is_half_of_what_systemd_allows(
    environment: dict[str, str], expected: float | None
) -> None:
    """WATCHDOG_USEC is halved, and obeyed only when WATCHDOG_PID is absent or this process."""
    assert Notifier.from_environment(environment, pid=42).watchdog_s == expected
