"""The tables that describe the shipped procedures, as they are read."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any


def packaged_file() -> str:
    """Name the file that describes the shipped procedures; the comments in it explain every key."""
    return str(files("ingestd.raw") / "procedures.toml")


@cache
def packaged_tables() -> dict[str, Any]:
    """Read the packaged tables: `procedures`, and the `groups` of columns and parameters that they use."""
    return tomllib.loads(Path(packaged_file()).read_text("utf-8"))
