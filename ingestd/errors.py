"""What can go wrong, in four kinds, each with its cause, its place and the next command to type.

`Reject`  the raw file's content is at fault; permanent until its bytes change.
`Retry`   the world is at fault (disk full, permission, share gone); try again later, never a reject.
`Corrupt` our own files are at fault; nothing is overwritten, `ingestd repair` is named.
`UsageError` the caller is at fault: a setting, an option or an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from itertools import islice
from typing import Any, Final, TypeVar

Caught = TypeVar("Caught", bound=BaseException)

CONFIG_FILE: Final = "the config file (`ingestd config show` names it)"
"""How a next step calls the config file in force, wherever that is."""

AFTER_CONFIG: Final = (
    "restart the service if one runs (`sudo systemctl restart ingestd`), then `ingestd rejects retry --all`"
)
"""What to do after a change of the config file: a service keeps the settings it was started with."""


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
    """The content of one raw file cannot be staged; it stays so until the file's bytes change.

    `line` is the 1-based line number in the file (None when the whole file is meant); `expected` and `found` are short
    texts for people, `found` shortened and free of control characters.
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
        """Return the same reject with its line, unless it has one."""
        if self.line is not None or line is None:
            return self
        return Reject(
            self.code, self.message, line=line, expected=self.expected, found=self.found, next_step=self.next_step
        )

    def __reduce__(self) -> tuple[object, ...]:
        state = {"line": self.line, "expected": self.expected, "found": self.found, "next_step": self.next_step}
        return _revive_reject, (self.code, self.message, state)


def _revive_reject(code: RejectCode, message: str, state: dict[str, object]) -> Reject:
    return Reject(code, message, **state)  # type: ignore[arg-type]  # the keys are __reduce__'s own


def without_frames(error: Caught) -> Caught:
    """Forget where an error was raised, and return it: kept as a value, it would keep its file's bytes in memory."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


class Retry(IngestdError):
    """The world is at fault: disk full, I/O error, permission, vanished folder. Try again later."""


class Corrupt(IngestdError):
    """One of ingestd's own files is damaged or of a newer version. Nothing was overwritten."""


class NewerVersion(Corrupt):
    """One of ingestd's own files was written by a newer ingestd than this one; `versions` names its and ours."""

    def __init__(self, versions: str, *, place: str = "") -> None:
        self.versions = versions
        super().__init__(
            f"written by a newer ingestd ({versions})",
            place=place,
            next_step="install that version or a later one; nothing was changed",
        )


class UsageError(IngestdError):
    """A setting, an option or an argument is wrong; nothing was started."""


class LockHeld(UsageError):
    """Another process holds the lock, and went on holding it for as long as this one would wait."""


def shown(text: str, limit: int = 60) -> str:
    """Return `text` safe to print: control characters escaped, shortened to `limit` characters."""
    if len(text) <= limit and text.isprintable():
        return text
    safe = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode("ascii")
        for c in text[: limit + 1]  # a hostile text may be gigabytes long
    )
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"


def closest(wanted: str, known: Iterable[str], *, count: int = 1, cutoff: float = 0.6) -> list[str]:
    """List the names spelt most like `wanted`, case aside, the nearest first; `cutoff` is that of `difflib`.

    Of more than 10,000 names those are compared that begin or end with the same third: each comparison takes 40 us.
    """
    from difflib import get_close_matches  # noqa: PLC0415  # for a mistake alone

    text = wanted.casefold()
    names = {name.casefold(): name for name in known}
    if len(names) > _COMPARED:
        third = -(-len(text) // 3)
        near = (name for name in names if name.startswith(text[:third]) or name.endswith(text[-third:]))
        names = {name: names[name] for name in islice(near, _COMPARED)}
    return [names[name] for name in get_close_matches(text, names, n=count, cutoff=cutoff)]


_COMPARED: Final = 10_000


def shown_value(value: object) -> str:
    """Return a value as `shown` does; one that Python does not print (too deep, too long) is named by its type."""
    try:
        return shown(repr(value))
    except (RecursionError, ValueError):  # tables in tables by the thousand; an integer of more than 4300 digits
        return f"a {type(value).__name__} too large to show"


def in_plain_words(finding: Mapping[str, Any]) -> str:
    """Say what is wrong with a value, for one finding of pydantic's `ValidationError.errors()`."""
    kind, limits = str(finding["type"]), finding.get("ctx", {})
    for bound, words in _BOUNDS.items():
        if bound in limits:
            return f"must be {words} {limits[bound]:g}"
    if kind == "literal_error":
        return f"must be {limits['expected']}"
    named = next((words for beginning, words in _KINDS.items() if kind.startswith(beginning)), None)
    text = str(finding["msg"]).removeprefix("Value error, ")
    return named or text.replace("Input should be", "must be")


_BOUNDS: Final = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
_KINDS: Final = {
    "missing": "is missing",
    "int_": "must be a whole number",
    "float_": "must be a number",
    "finite_number": "must be a finite number",
    "bool_": "must be true or false",
    "string_type": 'must be a text in quotes, such as "text"',
    "path_type": 'must be a path in quotes, such as "data"',
    "model_": "must be a table",
    "dict_": "must be a table",
    "tuple_": 'must be a list, such as ["one", "two"]',
    "too_short": "must not be empty",
}
"""Beginning of a kind of finding -> what the value must be."""
