"""The log of a service, started into a text stream, and what came out of it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from ingestd.service.logs import Logs

MOMENT = datetime(2025, 9, 23, 13, 5, 7, 250_000, tzinfo=UTC)
STAMP = "2025-09-23T13:05:07.250Z"


class Clock:
    """A clock the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


Start = Callable[..., tuple[Logs, io.StringIO, Clock]]


def entries(text: str) -> list[dict[str, Any]]:
    """Every line as its object."""
    return [json.loads(line) for line in text.splitlines()]
