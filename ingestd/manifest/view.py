"""The manifest as readers see it: the compacted table plus the log's tail, at one instant, without a lock."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ingestd.layout import Layout
from ingestd.manifest import log, table
from ingestd.manifest.store import check_whole, steady


def read_view(
    layout: Layout, chips: Sequence[str] | None = None, *, columns: Sequence[str] | None = None
) -> pl.DataFrame:
    """Read all rows, live and superseded, as a frame of `table.MANIFEST_SCHEMA` in the order of `manifest.parquet`.

    With `chips` only the rows of these chips are read, with `columns` only these columns and those that rows are sorted
    and chosen by.

    Raises:
        Corrupt: table or log is damaged or of a newer version.
        Retry: the disk refused, or a compaction was under way at every look.
    """
    where = None if chips is None else pl.col("chip_name").is_in(list(chips))
    needed = table.SORTED_BY if chips is None else (*table.SORTED_BY, "chip_name")
    wanted = None if columns is None else list(dict.fromkeys([*columns, *needed]))

    def read() -> pl.DataFrame:
        base = table.read_manifest(layout.manifest_path, wanted, where=where)
        found = log.replay(layout.wal_dir)
        check_whole(layout, found, base.height if where is None else None)
        records = found.records if found else []
        rows = {row.run_id: row for record in records for row in record.rows}
        seen = table.overlay(base, list(rows.values()))
        return seen if where is None else seen.filter(where)

    return steady(layout, read)
