"""In which order files are decided: where they are looked at together, and where they are staged together.

A copy is told from its original by the bytes the original had when it was staged: it must be decided before an edit
of the original is. Bytes that are new under two names (hard links) are the original's: it is decided before the link.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ingestd.files import FileStat
from ingestd.manifest.catalog import Catalog
from ingestd.stage.run import Outcome, Same, Staged


def looking_order(catalog: Catalog, found: Mapping[str, FileStat]) -> list[str]:
    """Sort files, whose content is not known yet, by what their path and size tell: copies, then edits, then the rest.

    A file of a size that a run has may be its copy, a new path rather than one that a run was made from.
    """

    def turn(name: str) -> tuple[int, str]:
        edited = bool(catalog.live_at(name))
        if catalog.count_of_size(found[name].size):
            return (1 if edited else 0), name
        return (2 if edited else 3), name

    return sorted(found, key=turn)


def in_turn(catalog: Catalog, outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Sort what was staged together by content: copies of runs, then edits of runs, then the rest."""

    def turn(outcome: Outcome) -> int:
        if isinstance(outcome, Same):
            return 0
        if not isinstance(outcome, Staged):
            return 2
        digest = outcome.row.source_sha256
        if catalog.live_with(digest) or catalog.edited_original_of(digest):
            return 0  # it was not compared before it was parsed
        return 1 if outcome.task.prior is not None else 2

    return sorted(outcomes, key=turn)
