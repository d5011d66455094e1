"""What can go wrong, in four kinds, each with its cause, its place and the next command to type.

`Reject`  the raw file's content is at fault; it stays rejected until its bytes change or it is retried.
`Retry`   the world is at fault (disk full, permission, share gone); try again later, never a reject.
`Corrupt` ingestd's own files are at fault; nothing is overwritten, and the next step is mostly `ingestd repair`.
`UsageError` the caller is at fault: a setting, an option or an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar

Caught = TypeVar("Caught", bound=BaseException)


class RejectCode(StrEnum):
    """Stable reject codes: programs compare them, `docs/formats.md` explains them. Never reuse one."""

    BAD_CELL = "bad-cell"
    BAD_CHIP = "bad-chip"
    BAD_COLUMN_NAME = "bad-column-name"
    BAD_ENCODING = "bad-encoding"
    BAD_HEADER_LINE = "bad-header-line"
    BAD_PARAMETER = "bad-parameter"
    BAD_START_TIME = "bad-start-time"
    BAD_UNIT = "bad-unit"
    DUPLICATE_COLUMN = "duplicate-column"
    LONE_CARRIAGE_RETURN = "lone-carriage-return"
    MISSING_CHIP = "missing-chip"
    MISSING_COLUMN = "missing-column"
    MISSING_COLUMN_LINE = "missing-column-line"
    NOT_PYMEASURE = "not-pymeasure"
    NUL_BYTES = "nul-bytes"
    ROW_TOO_LONG = "row-too-long"
    ROW_TOO_SHORT = "row-too-short"
    SECOND_HEADER = "second-header"
    TOO_LARGE = "too-large"
    UNKNOWN_PROCEDURE = "unknown-procedure"


class IngestdError(Exception):
    """Base of every error ingestd raises on purpose.

    `message` says what is wrong, `place` where (`path:line`, `segment@offset`), `next_step` what to do or type next.
    """

    def __init__(self, message: str, *, place: str = "", next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.next_step = next_step

    def __str__(self) -> str:
        text = f"{self.place}: {self.message}" if self.place else self.message
        return f"{text}\n  next: {self.next_step}" if self.next_step else text


class Reject(IngestdError):
    """The content of one raw file cannot be staged.

    `line` is the 1-based line number in the file (None for the whole file); `expected` and `found` are short texts for
    people, `found` shortened and free of control characters.
    """

    def __init__(
        self,
        code: RejectCode,
        message: str,
        *,
        line: int | None = None,
        expected: str = "",
        found: str = "",
        next_step: str = "",
    ) -> None:
        super().__init__(message, place="" if line is None else f"line {line}", next_step=next_step)
        self.code = code
        self.line = line
        self.expected = expected
        self.found = found

    def at(self, line: int | None) -> Reject:
        """Note the line, unless it is known already or `line` is None; return the reject."""
        if self.line is None and line is not None:
            self.line, self.place = line, f"line {line}"
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return Reject, (self.code, self.message), vars(self)


def without_frames(error: Caught) -> Caught:
    """Strip an error of its traceback and causes and return it: they would keep its file's bytes in memory."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


class Retry(IngestdError):
    """The world is at fault: disk full, I/O error, permission, vanished folder. Try again later."""


class LockHeld(Retry):
    """Another process held a lock for as long as this one was to wait."""


class InDoubt(Retry):
    """The disk refused to flush a batch of records, and to take it back: the log may have it, whole or in part."""


class NoWorkers(Retry):
    """No staging process can be run. No file is to blame, and what is already staged counts."""


class OutOfReach(Retry):
    """A staged Parquet cannot be read now. What depends on it waits; others may well be read."""


class Corrupt(IngestdError):
    """One of ingestd's own files is `Damaged` or of a `NewerVersion`. Nothing was overwritten."""


class Damaged(Corrupt):
    """One of ingestd's own files is gone, damaged or says what it never should."""


class NewerVersion(Corrupt):
    """One of ingestd's own files was written by a newer ingestd; `versions` names its version and ours."""

    def __init__(self, versions: str, *, place: str = "") -> None:
        self.versions = versions
        super().__init__(
            f"written by a newer ingestd ({versions})",
            place=place,
            next_step="install that version or a later one; nothing was changed",
        )


class UsageError(IngestdError):
    """A setting, an option or an argument is wrong; nothing was started."""


def all_at_once(mistakes: Sequence[UsageError]) -> UsageError:
    """Return the first mistake, with the others added to its next step, so that all can be corrected in one go."""
    first, *others = mistakes
    first.next_step += "".join(f"\n  also wrong: {other.place}: {other.message}" for other in others)
    return first
