"""An engine that stages within the test's own process: quick, and what it does can be watched and patched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ingestd.settings import Settings
from ingestd.stage.run import Outcome, StageContext, StageTask, stage_batch

FIND_INLINE = f"import sys; sys.path.append({str(Path(__file__).parent)!r})\n"
"""Begins the program of a child process that imports this module."""


class InlineEngine:
    """Stages in the calling process, one batch after the other, each when its answer is asked for."""

    def __init__(self, context: StageContext) -> None:
        self._context = context

    def __enter__(self) -> InlineEngine:
        return self

    def __exit__(self, *_: object) -> None:
        """Hold nothing, free nothing."""

    def stage(self, batches: Iterable[list[StageTask]], stop: Callable[[], bool]) -> Iterator[list[Outcome]]:
        """Stage the batches."""
        for batch in batches:
            if stop():
                break
            yield stage_batch(batch, self._context)


def inline(context: StageContext, _: Settings) -> InlineEngine:
    """Open it, as `Options.engine` does."""
    return InlineEngine(context)
