"""What a check can find: each kind has a stable name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["damage", "note"]
Kind = Literal[
    "history-differs",
    "history-extra",
    "history-missing",
    "leftover",
    "manifest",
    "parquet-cells",
    "parquet-damaged",
    "parquet-differs",
    "parquet-missing",
    "parquet-orphan",
    "parquet-stray",
    "raw-bytes",
    "reject-damaged",
    "reject-missing",
    "reject-stray",
    "duplicate",
    "queued",
    "raw-changed",
    "raw-emptied",
    "raw-missing",
    "raw-undecided",
    "raw-unreadable",
    "rejected",
    "same-start",
]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not agree. A `damage` calls for `ingestd repair`; a `note` is for people to know.

    `kind` is stable: programs may compare it, `docs/formats.md` explains it. `path` is relative to the data root where
    it lies below it.
    """

    level: Level
    kind: Kind
    path: str
    message: str
    run_id: str | None = None
