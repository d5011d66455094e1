"""Files for people that could not be written, while the others were."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Protocol

from ingestd.errors import Retry
from ingestd.words import count


class Written(Protocol):
    """What became of one file; `NOUNS` is how one and several of its kind are called."""

    NOUNS: ClassVar[tuple[str, str]]

    @property
    def problem(self) -> Retry | None:
        """Why it could not be written."""


def problem_of(written: Iterable[Written]) -> Retry | None:
    """Return why files could not be written: the first problem, with how many more there are."""
    blocked = [(one.problem, one.NOUNS) for one in written if one.problem is not None]
    if not blocked:
        return None
    (first, nouns), others = blocked[0], len(blocked) - 1
    more = f" (and {count(others, f'more {nouns[0]}', f'more {nouns[1]}')} could not be written)" if others else ""
    return Retry(
        f"this {nouns[0]} could not be written: {first.message}{more}", place=first.place, next_step=first.next_step
    )
