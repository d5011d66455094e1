"""The progress bar of a backfill or a check, on stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

if TYPE_CHECKING:
    from ingestd.backfill.run import Progress as Step

RATE_FROM_S = 1.0
"""How long files must have been staged or checked before their rate is shown, in seconds."""


def rate(task: Task) -> float | None:
    """Give the average of files per second since the first one; None while that says nothing.

    Files are done a batch at a time, so the last moment alone gives no rate.
    """
    if not task.completed or task.elapsed is None or task.elapsed < RATE_FROM_S:
        return None
    return task.completed / task.elapsed


class RateColumn(ProgressColumn):
    """Files per second."""

    def render(self, task: Task) -> Text:
        speed = rate(task)
        return Text("" if speed is None else f"{speed:,.{0 if speed >= 10 else 1}f} files/s")


class EtaColumn(ProgressColumn):
    """The time left at the same rate, as hours, minutes and seconds."""

    def render(self, task: Task) -> Text:
        speed = rate(task)
        if speed is None or task.remaining is None:
            return Text("-:--:--")
        minutes, seconds = divmod(round(task.remaining / speed), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02}:{seconds:02}")


@contextlib.contextmanager
def progress_bar(words: str) -> Iterator[Callable[[Step], None]]:
    """Show a bar with count, rate and time left during the block; yield the function that moves it."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        EtaColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(words, total=None, start=False)

        def show(step: Step) -> None:
            bar.start_task(task)  # the first time; the scan before it is not counted
            bar.update(task, completed=step.done, total=step.total)

        yield show
