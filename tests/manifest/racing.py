"""A process that appends rows and compacts now and then, for the race of several of them."""

from __future__ import annotations

import random
from pathlib import Path

from layouts import layout_of
from samples_of_rows import a_record, a_row

from ingestd.manifest.store import ManifestStore


def append_rows(root: Path, first: int, count: int) -> None:
    """Append runs `first` to `first + count - 1`, one record each, with a compaction about every thirtieth time."""
    chance = random.Random(first)
    store = ManifestStore(layout_of(root))
    for number in range(first, first + count):
        with store.transaction():
            store.append([a_record(store.next_seq, a_row(number))])
        if chance.random() < 1 / 30:
            store.compact()
