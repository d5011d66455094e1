"""`compact`: the manifest's upkeep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ingestd.cli.options import AsJson, with_settings
from ingestd.cli.output import count, near, say, say_json

if TYPE_CHECKING:
    from ingestd.settings import Settings

commands = typer.Typer()


@commands.command()
@with_settings("stage_root", "manifest_path")
def compact(settings: Settings, as_json: AsJson = False) -> None:
    """Take the write-ahead log into manifest.parquet.

    The service and every backfill do it as well.

    \b
    Example:
      ingestd compact
    """
    from ingestd import api  # noqa: PLC0415  # loads polars: not for --help
    from ingestd.ingest import opened  # noqa: PLC0415

    api.require_manifest(settings.layout)
    with opened(settings) as ingest:
        done = ingest.compact()
    place = near(settings.layout.manifest_path)
    if as_json:
        say_json({"records": done.records if done else 0, "rows": done.rows if done else None, "manifest": place})
    elif done is None:
        say(f"{place}: nothing to do, the log holds no record")
    else:
        say(f"{place}: {count(done.records, 'record')} taken in, {count(done.rows, 'run')} in all")
