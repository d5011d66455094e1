"""Wording of messages: texts made safe to print, counts with their nouns, near names, findings in plain words."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

CONFIG_FILE: Final = (
    "the config file (`ingestd config show` names it; "
    "if there is none, `ingestd config generate > config.toml` makes one)"
)
"""How a next step refers to the config file in force."""

AFTER_CONFIG: Final = (
    "restart the service if one runs (`sudo systemctl restart ingestd`), then `ingestd rejects retry --all`"
)
"""What to do after a change of the config file: a service keeps the settings it was started with."""


def count(number: int, one: str, many: str = "") -> str:
    """Write a count with its noun: `1 file`, `2 files`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def utc_text(moment: datetime, timespec: str = "auto") -> str:
    """Write a time as in every JSON and log line: ISO 8601 in UTC, ending with `Z`."""
    return moment.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def quoted(name: str) -> str:
    """Write a raw file's name as typed after a command: quoted for the shell, and never looking like an option."""
    return shlex.quote(f"./{name}" if name.startswith("-") else name)


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
    """List the names spelt most like `wanted`, ignoring case, nearest first; `cutoff` is that of `difflib`.

    Of more than 10,000 names, only those that share its first or last third are compared: a comparison takes 40 us.
    """
    from difflib import get_close_matches  # noqa: PLC0415  # only needed after a mistake

    text = wanted.casefold()
    names = {name.casefold(): name for name in known}
    if len(names) > _COMPARED:
        third = -(-len(text) // 3)
        near = (name for name in names if name.startswith(text[:third]) or name.endswith(text[-third:]))
        names = {name: names[name] for name in islice(near, _COMPARED)}
    return [names[name] for name in get_close_matches(text, names, n=count, cutoff=cutoff)]


_COMPARED: Final = 10_000


def nearest(wanted: str, known: Sequence[str]) -> str:
    """Return the end of a sentence: the name that may have been meant, or else the known names."""
    close = closest(wanted, known)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def shown_value(value: object) -> str:
    """Return a value's `repr`, safe to print; what Python cannot print (too deep, too long) is named by its type."""
    try:
        return shown(repr(value))
    except (RecursionError, ValueError):  # thousands of nested tables; an integer of more than 4300 digits
        return f"a {type(value).__name__} too large to show"


def in_plain_words(finding: Mapping[str, Any]) -> str:
    """Say what is wrong with a value, for one finding of pydantic's `ValidationError.errors()`."""
    kind, limits = str(finding["type"]), finding.get("ctx", {})
    for bound, words in BOUNDS.items():
        if bound in limits:
            return f"must be {words} {limits[bound]:.10g}"
    if kind == "literal_error":
        return f"must be {limits['expected']}"
    named = next((words for beginning, words in _KINDS.items() if kind.startswith(beginning)), None)
    text = str(finding["msg"]).removeprefix("Value error, ")
    return named or text.replace("Input should be", "must be")


BOUNDS: Final = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
"""pydantic's name of a bound -> its wording in a message."""

_KINDS: Final = {
    "missing": "is missing",
    "int_": "must be a whole number",
    "float_": "must be a number",
    "finite_number": "must be a finite number",
    "bool_": "must be true or false",
    "string_type": 'must be text in quotes, such as "text"',
    "path_type": 'must be a path in quotes, such as "data"',
    "model_": "must be a table",
    "dict_": "must be a table",
    "tuple_": 'must be a list, such as ["one", "two"]',
    "too_short": "must not be empty",
}
"""Prefix of pydantic's type of finding -> what the value must be."""
