"""One line of the log: the format its writer and its readers share.

One JSON object per line, UTF-8, every character printable: `time` (UTC, ISO 8601), `level` (one of `LEVELS`), `event`
(a stable name, words joined by underscores), then the context. `exception` is a traceback as text, without local
variables; `suppressed` counts earlier lines like this one that were held back; a library's line has the event
`library_message`, with `logger` and `message`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ingestd.errors import IngestdError

LEVELS = ("debug", "info", "warning", "error", "critical")

OLDER_SUFFIX = ".1"
"""Ends the name of the log file before the current one, as logrotate's does."""


def cause(error: IngestdError, next_step: str | None = None) -> dict[str, str]:
    """Return the fields of a line that describe an error; `next_step` replaces the error's own."""
    step = error.next_step if next_step is None else next_step
    return {"problem": error.message, "place": error.place, "next_step": step}


def ms_since(began: float) -> float:
    """Return the `took_ms` of a line: how long ago `began` was, which `time.monotonic()` gave."""
    return round((time.monotonic() - began) * 1000, 1)


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log. `time` is aware, in UTC; a line that is not ours has only `raw`, and no `event`."""

    raw: str
    time: datetime | None = None
    level: str = ""
    event: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


def parse_line(raw: bytes) -> LogLine:
    """Read one line of the log; never raises. A syslog prefix `<N>` is skipped."""
    text = raw.decode("utf-8", "backslashreplace").rstrip("\r\n")
    body = text[3:] if text[:1] == "<" and text[2:3] == ">" else text
    try:
        fields = json.loads(body)
        moment = datetime.fromisoformat(fields["time"])
        level, event = fields["level"], fields["event"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return LogLine(text)
    if moment.tzinfo is None or not 1970 <= moment.year < 9999 or level not in LEVELS or not isinstance(event, str):
        return LogLine(text)
    return LogLine(text, moment.astimezone(UTC), level, event, fields)


def json_line(entry: Mapping[str, Any]) -> str:
    """Show an entry as one line of JSON whose characters are all printable, whatever the values are.

    Control characters become JSON escapes; bytes of a name that is not UTF-8 are shown as `\\xff`. Values that JSON
    does not know are shown as text, not-a-number and infinities too.
    """
    try:
        text = json.dumps(entry, ensure_ascii=False, allow_nan=False, default=_as_text)
    except (TypeError, ValueError, RecursionError):
        text = json.dumps(_plain(entry), ensure_ascii=False)
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that os.fsdecode could not decode
        return f"\\\\x{code - 0xDC00:02x}"
    if 0xD800 <= code <= 0xDFFF:
        return f"\\\\u{code:04x}"
    return json.dumps(character)[1:-1]


def _as_text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _plain(value: object, depth: int = 0) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping) and depth < 8:
        return {str(name): _plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and depth < 8:
        return [_plain(item, depth + 1) for item in value]
    return _as_text(value) if depth < 8 else "..."
