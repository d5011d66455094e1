"""What every export says about runs: their order, their local time, the start time as written."""

from __future__ import annotations

from typing import Final

import polars as pl

from ingestd.raw.header_json import EPOCH_START
from ingestd.raw.start_time import no_zone_named

_SAME_INSTANT_S: Final = 1e-3
"""A header number further than this, in seconds, from the start time is no epoch time (`20251013` is a date)."""


def in_run_order(runs: pl.DataFrame, *first: str) -> pl.DataFrame:
    """Sort runs by `first`, then start time, file index (unknown ones last) and source file; no two runs tie."""
    keys = [*first, "start_time_utc", "file_idx", "source_file", "run_id"]
    return runs.sort(keys, nulls_last=[name == "file_idx" for name in keys])


def local_start(tz: str) -> pl.Expr:
    """Express a run's start in the zone `tz`.

    Raises:
        UsageError: there is no such zone.
    """
    try:
        start = pl.col("start_time_utc").dt.convert_time_zone(tz)
        pl.DataFrame(schema={"start_time_utc": pl.Datetime("us", "UTC")}).select(start)
    except pl.exceptions.PolarsError as error:
        raise no_zone_named(tz) from error
    return start


def start_time_text() -> pl.Expr:
    """Write a run's start as epoch seconds: with the digits of its header if that gave it, else with all there are."""
    microseconds = pl.col("start_time_utc").dt.epoch("us")
    header = pl.col("parameters").str.extract(EPOCH_START)
    told = (pl.col("start_time_origin") == "header") & (
        (header.cast(pl.Float64, strict=False) - microseconds / 1_000_000).abs() < _SAME_INSTANT_S
    )
    # In integers: the result of a division by polars depends on how many rows are divided.
    whole, rest = microseconds.abs() // 1_000_000, microseconds.abs() % 1_000_000
    digits = rest.cast(pl.String).str.zfill(6).str.strip_chars_end("0")
    sign = pl.when(microseconds < 0).then(pl.lit("-")).otherwise(pl.lit(""))
    fraction = pl.when(digits == "").then(pl.lit("0")).otherwise(digits)
    return pl.when(told).then(header).otherwise(pl.concat_str(sign, whole.cast(pl.String), pl.lit("."), fraction))
