"""What a check can find: each kind has a stable name and is either damage or a note."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from ingestd.manifest.catalog import Catalog
from ingestd.manifest.record import FileNote

DamageKind = Literal[
    "history-differs",
    "history-extra",
    "history-missing",
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
]
NoteKind = Literal[
    "duplicate",
    "history-zone",
    "leftover",
    "queued",
    "raw-changed",
    "raw-emptied",
    "raw-missing",
    "raw-overwritten",
    "raw-undecided",
    "raw-unparsed",
    "raw-unreadable",
    "rejected",
    "same-start",
]
Kind = Literal[DamageKind, NoteKind]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not agree. A `damage` calls for `ingestd repair`; a `note` is for information.

    `kind` is stable: programs may compare it, `docs/formats.md` explains it. `path` is relative to the raw root for a
    raw file, else to the data root if it lies below that.
    """

    level: Literal["damage", "note"] = field(init=False)
    kind: Kind
    path: str
    message: str
    run_id: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "level", "damage" if self.kind in get_args(DamageKind) else "note")


def fate_of_copy(catalog: Catalog, note: FileNote) -> str:
    """Say, as the end of a sentence about a copy, where its measurement counts."""
    run = catalog.live_with(note.source_sha256)
    if run is not None:
        return f"a copy of {run.source_file} (run {run.run_id}): counted once, there"
    run = catalog.edited_original_of(note.source_sha256)
    if run is not None:
        return f"a copy of {run.source_file} (run {run.run_id}), before its edit: counted once, there"
    return (
        f"a copy of run {note.run_id}, which is not known any more; these bytes count nowhere now, and become a run of "
        "their own when they are looked at again (`touch` the file)"
    )
