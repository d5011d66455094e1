"""The numbers of a backfill's progress bar."""

from __future__ import annotations

import pytest
from rich.progress import Task, TaskID

from ingestd.cli.progress import EtaColumn, RateColumn


@pytest.mark.parametrize(
    ("elapsed_s", "done", "rate", "left"),
    [
        (None, 0, "", "-:--:--"),
        (0.01, 500, "", "-:--:--"),
        (0.99, 500, "", "-:--:--"),
        (2.0, 0, "", "-:--:--"),
        (2.0, 500, "250 files/s", "0:00:38"),
        (1000.0, 500, "0.5 files/s", "5:16:40"),
        (4.0, 10_000, "2,500 files/s", "0:00:00"),
    ],
)
def test_rate_and_time_left_are_those_since_the_first_file(
    elapsed_s: float | None, done: int, rate: str, left: str
) -> None:
    """A batch that is committed in a moment does not count as a rate; before there is one, none is shown."""
    now = 100.0
    task = Task(TaskID(0), "staging", 10_000, done, _get_time=lambda: now)
    if elapsed_s is not None:
        task.start_time = now - elapsed_s
    assert (RateColumn().render(task).plain, EtaColumn().render(task).plain) == (rate, left)
