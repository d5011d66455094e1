"""The order in which files are looked at and, within a batch, decided.

A copy is recognized by the bytes that its original had when it was staged, so it must be decided before an edit of the
original. New bytes under two names (hard links) belong to the original, so it is decided before the link.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ingestd.files import FileStat
from ingestd.manifest.catalog import Catalog
from ingestd.stage.run import Outcome, Same, Staged


def looking_order(catalog: Catalog, found: Mapping[str, FileStat]) -> list[str]:
    """Sort files by path and size, before their content is known: possible copies, then edits, then the rest.

    A file with the size of a run may be a copy of it, more likely at a new path than at one that a run was made from.
    """

    def turn(name: str) -> tuple[int, str]:
        edited = bool(catalog.live_at(name))
        if catalog.count_of_size(found[name].size):
            return (1 if edited else 0), name
        return (2 if edited else 3), name

    return sorted(found, key=turn)


def in_turn(catalog: Catalog, outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Sort the outcomes of a batch by content: copies of runs, then edits of runs, then the rest."""

    def turn(outcome: Outcome) -> int:
        if isinstance(outcome, Same):
            return 0
        if not isinstance(outcome, Staged):
            return 2
        digest = outcome.row.source_sha256
        if catalog.live_with(digest) or catalog.edited_original_of(digest):
            return 0  # a copy that was parsed without being compared first
        return 1 if outcome.task.prior is not None else 2

    return sorted(outcomes, key=turn)
