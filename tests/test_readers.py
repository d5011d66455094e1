"""The examples of the docs that read Parquet without ingestd: every run once, with the partition columns typed."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import IO, Any

import duckdb
import polars as pl
import pytest
from layouts import Run

from ingestd.backfill.run import backfill
from ingestd.settings import load_settings

DIGITS = "12345678901234567890"


@pytest.fixture
def staged(tmp_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch) -> pl.DataFrame:
    """The sample data staged below `data` in the current folder, one run id of digits alone; its ITS rows by run."""
    monkeypatch.chdir(tmp_path)
    settings = load_settings(None, {"paths": {"data_root": tmp_path / "data", "raw_root": samples}})
    backfill(settings)
    runs = pl.read_parquet(settings.layout.manifest_path).filter(pl.col("proc") == "ITS")
    first = runs.row(0, named=True)
    folder = settings.layout.staged_file(Run("ITS", first["date_local"], first["run_id"])).parent
    folder.rename(folder.with_name(f"run_id={DIGITS}"))
    return runs.select(pl.col("run_id").replace(first["run_id"], DIGITS), "rows").sort("run_id")


def example(repository: Path, language: str, words: str, page_name: str = "scaling.md") -> str:
    """Return the example of a page of the docs in `language` that holds `words`."""
    page = (repository / "docs" / page_name).read_text("utf-8")
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)\n```", page, re.DOTALL) if words in text]
    return str(found)


def test_duckdb_reads_the_stage(repository: Path, staged: pl.DataFrame) -> None:
    """The DuckDB line gives every run once, its id as text."""
    found = duckdb.sql(example(repository, "sql", "read_parquet"))
    assert found is not None
    assert sorted(run_id for run_id, _ in found.fetchall()) == staged["run_id"].to_list()


def test_polars_reads_the_stage(repository: Path, staged: pl.DataFrame) -> None:
    """The Polars line gives every row of every run, the date as a date."""
    names: dict[str, Any] = {}
    exec(example(repository, "python", "pl.scan_parquet"), names)
    frame = names["runs"].collect()
    counted = frame.group_by("run_id").agg(rows=pl.len().cast(pl.Int64)).sort("run_id")
    assert counted.equals(staged)
    assert frame.schema["date"] == pl.Date()


def test_pandas_reads_the_stage(repository: Path, staged: pl.DataFrame) -> None:
    """The pandas line gives every row of every run, the date as a date."""
    names: dict[str, Any] = {}
    exec(example(repository, "python", "pd.read_parquet"), names)
    frame = names["runs"]
    counted = frame.groupby("run_id").size().sort_index()
    assert list(counted.index) == staged["run_id"].to_list()
    assert list(counted) == staged["rows"].to_list()
    assert isinstance(frame["date"].iloc[0], date)


def test_a_manifest_that_is_replaced_while_it_is_read_is_read_whole(repository: Path, staged: pl.DataFrame) -> None:
    """What the example has opened stays the table it was, whatever compaction comes before its data are read."""
    before = pl.read_parquet(Path("data/02_stage/_manifest/manifest.parquet").read_bytes())

    def opened(path: str, mode: str) -> IO[bytes]:
        file = Path(path).open(mode)  # noqa: SIM115  # the example closes it
        before.head(1).write_parquet("replacement.parquet")
        Path("replacement.parquet").replace(path)
        return file

    names: dict[str, Any] = {"open": opened, "pl": pl}
    exec(example(repository, "python", "manifest.parquet", "formats.md"), names)
    assert staged.height < before.height
    assert names["runs"].equals(before)
    assert pl.read_parquet(Path("data/02_stage/_manifest/manifest.parquet").read_bytes()).height == 1
