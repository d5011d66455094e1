"""Which measurement a raw file is: the run id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count

from ingestd.errors import UsageError


def compute_run_id(source_file: str, start_time_utc: datetime) -> str:
    """Compute a run's id: 20 hex digits.

    The first 20 hex digits of SHA-1 over the lower-cased text `"<source_file>|<start>"`, where `source_file` is the
    path relative to the raw root with `/` between its parts and `start` is the UTC start as `%Y-%m-%dT%H:%M:%S.%fZ`.

    Raises:
        UsageError: `start_time_utc` has no zone.
    """
    if start_time_utc.tzinfo is None:
        raise UsageError(
            f"the start time {start_time_utc} has no zone",
            next_step="pass it through ingestd.ensure_start_time_utc first",
        )
    return _digest(_identity(source_file, start_time_utc))


def distinct_run_ids(source_file: str, start_time_utc: datetime, digest: str) -> Iterator[str]:
    """Yield ids, without end, for a run whose plain id belongs to another file (case twins).

    The content's SHA-256 is added to the text; from the second id on, a number too.
    """
    text = f"{_identity(source_file, start_time_utc)}|{digest}"
    yield _digest(text)
    for number in count(2):
        yield _digest(f"{text}|{number}")


def _identity(source_file: str, start_time_utc: datetime) -> str:
    start = start_time_utc.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return f"{source_file}|{start}".lower()


def _digest(text: str) -> str:
    return hashlib.sha1(text.encode("utf-8"), usedforsecurity=False).hexdigest()[:20]
