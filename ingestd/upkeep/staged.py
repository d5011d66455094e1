"""What the stage itself says: the manifest row inside every staged Parquet, live and superseded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ingestd import files
from ingestd.errors import Damaged
from ingestd.layout import Layout
from ingestd.manifest.catalog import Catalog
from ingestd.manifest.row import ManifestRow
from ingestd.stage.parquet import read_row
from ingestd.upkeep.events import Events
from ingestd.upkeep.packed import PackedRows

UNKNOWN_RUN = "unknown"
"""Value of `superseded_by` for a run whose successor is no longer known."""

PlaceOf = Callable[[str], Path | None]
"""Run id -> where its Parquet belongs; None for a run that is unknown or not live."""


@dataclass(slots=True)
class StageContent:
    """All staged rows by run id, and the files that could not be read.

    `strays` are Parquet files that are not where they belong, or are a second file of a run.
    """

    live: PackedRows = field(default_factory=PackedRows)
    retired: list[ManifestRow] = field(default_factory=list)
    damaged: dict[Path, Damaged] = field(default_factory=dict)
    strays: list[Path] = field(default_factory=list)

    def take(self, layout: Layout, row: ManifestRow) -> None:
        """Take in a row that is where it belongs; of two rows of one run, the one staged later counts."""
        earlier = self.live.get(row.run_id)
        if earlier is not None and earlier.ingested_at_utc > row.ingested_at_utc:
            row, earlier = earlier, row
        if earlier is not None:
            self.strays.append(layout.staged_file(earlier))
        self.live.put(row)


def places_in(layout: Layout, catalog: Catalog) -> PlaceOf:
    """Return a function that asks a catalog where runs belong."""

    def place_of(run_id: str) -> Path | None:
        run = catalog.run(run_id)
        return layout.staged_file(run) if run and run.live else None

    return place_of


def read_stage(layout: Layout, place_of: PlaceOf = lambda _: None, only: Sequence[Path] | None = None) -> StageContent:
    """Read the row of every Parquet below the stage, or of `only` these. Reads each file's footer and no data."""
    content = StageContent()
    for row in live_rows(layout, content, place_of, only):
        content.take(layout, row)
    content.retired = list(retired_rows(layout, content, only))
    return content


def live_rows(
    layout: Layout, content: StageContent, place_of: PlaceOf, only: Sequence[Path] | None = None
) -> Iterator[ManifestRow]:
    """Yield the row of every live Parquet, or of `only` these, that is where it belongs.

    That is the place its row gives, unless there is a file in the place where the run is known to belong. The others
    are noted in `content` as damaged or as strays; the rows yielded are not put into it.
    """
    for path in _parquets(layout.staged_root, only):
        row = _row(path, content)
        if row is None:
            continue
        own, known = layout.staged_file(row), place_of(row.run_id)
        if path != own or (known is not None and known != own and files.exists(known)):
            content.strays.append(path)
        else:
            yield row


def retired_rows(layout: Layout, content: StageContent, only: Sequence[Path] | None = None) -> Iterator[ManifestRow]:
    """Yield the row of every Parquet that an edit replaced, or of `only` these; damage is noted as in `live_rows`."""
    for path in _parquets(layout.superseded_root, only):
        if (row := _row(path, content)) is not None:
            yield row


def _parquets(root: Path, only: Sequence[Path] | None) -> list[Path]:
    return files.all_below(root, ".parquet") if only is None else [path for path in only if path.is_relative_to(root)]


def _row(path: Path, content: StageContent) -> ManifestRow | None:
    try:
        return read_row(path)
    except Damaged as error:
        if files.exists(path):  # otherwise the service replaced it while we looked
            content.damaged[path] = error
        return None


def rows_of_stage(content: StageContent, events: Events) -> PackedRows:
    """Put the manifest together from the stage: live rows, and the runs that a later start time superseded.

    What superseded a run is not in its Parquet. An event may say it; otherwise it is taken to be the run staged next
    among the versions of the same file, or `UNKNOWN_RUN` if there is none.
    """
    rows = content.live.copy()
    by_path: dict[str, list[ManifestRow]] = {}
    for row in content.retired:
        if row.run_id not in content.live and not _replaced(row, content, events):
            by_path.setdefault(row.source_file, []).append(row)
    for row in content.live.values() if by_path else ():
        if row.source_file in by_path:
            by_path[row.source_file].append(row)
    for versions in by_path.values():
        versions.sort(key=lambda row: row.ingested_at_utc)
        for position, row in enumerate(versions):
            if row.run_id not in content.live:
                rows.put(_retired(row, [*versions[position + 1 :], *reversed(versions[:position])]))
    events.bring_up_to_date(rows)
    return rows


def _replaced(row: ManifestRow, content: StageContent, events: Events) -> bool:
    """Tell whether another kept version of the same run is the one that events name last."""
    last = events.runs.get(row.run_id)
    if last is None or last.source_sha256 == row.source_sha256:
        return False
    return any((one.run_id, one.source_sha256) == (row.run_id, last.source_sha256) for one in content.retired)


def _retired(row: ManifestRow, others: list[ManifestRow]) -> ManifestRow:
    successor = next((other.run_id for other in others if other.run_id != row.run_id), UNKNOWN_RUN)
    return row.model_copy(update={"superseded_by": successor})
