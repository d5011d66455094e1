"""docs/formats.md tells what `--json` of each command holds: every key, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from commands import Folder
from pages import section

from ingestd.cli.report import JSON_KEYS
from ingestd.histories.chip import HISTORY_SCHEMA
from ingestd.histories.compare import EXPLAINED
from ingestd.manifest.record import FileNote, Record
from ingestd.manifest.row import ManifestRow

REJECT = "2026-03-12/IV2026-03-12_3.csv"
RUN = "2026-03-12/IVg2026-03-12_1.csv"
GONE = "2026-03-12/IV2026-03-12_1.csv"
ALONE = "2026-03-12/IV2026-03-12_2.csv"
NO_MEASUREMENT = "2026-03-12/notes.txt"

COMMANDS = {
    "rejects list": ["rejects", "list"],
    "rejects show": ["rejects", "show", REJECT],
    "chip-histories": ["chip-histories"],
    "export-metadata": ["export-metadata"],
    "compact": ["compact"],
    "rebuild-manifest": ["rebuild-manifest", "--from", "raw"],
    "compare-histories": ["compare-histories", "data/histories", "other"],
    "config show": ["config", "show"],
}
"""Command -> how it is typed to show all its keys."""


def table(repository: Path, title: str) -> list[str]:
    """Return the lines of the table in a section of docs/formats.md, but for its head."""
    page = section(repository / "docs" / "formats.md", title)
    return [line for line in page.splitlines() if line.startswith("| `")]


def names_in(text: str) -> set[str]:
    """Return the names that stand in backticks by themselves."""
    return set(re.findall(r"`([a-z_0-9]+)`", text))


def keys(value: Any, elsewhere: Mapping[str, Collection[str]], above: str = "") -> Iterator[str]:
    """Yield the keys of a JSON value on every level, but for those below a key that are described elsewhere.

    A key that is no name, such as a raw file or a setting, belongs to a table of values.
    """
    if isinstance(value, list):
        for one in value:
            yield from keys(one, elsewhere, above)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name in elsewhere.get(above, ()):
                continue
            if re.fullmatch(r"[a-z_0-9]+", name):
                yield name
            yield from keys(inner, elsewhere, name)


@pytest.fixture
def elsewhere(staged: Folder) -> dict[str, Collection[str]]:
    """Key -> the keys below it that another part of the documents describes."""
    (path,) = (staged.path / "data" / "02_stage" / "_rejects").rglob("*.json")
    reject = json.loads(path.read_bytes())
    return {
        "": [*reject],  # of `rejects show`, whose own key is one more; no other has these names at its top
        "rejects": [*reject],
        "reject": [*reject],
        "events": [*Record.model_fields],
        "rows": [*ManifestRow.model_fields],
        "note": [*FileNote.model_fields],
        "history": [*HISTORY_SCHEMA],
        "staged_again": [*JSON_KEYS],
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_the_formats_name_every_key(
    command: str, staged: Folder, repository: Path, elsewhere: dict[str, Collection[str]]
) -> None:
    """The rows of a command in docs/formats.md name the keys that it prints on the sample data, on every level."""
    history = (staged.path / "data" / "histories" / "Biotite3_history.csv").read_text("utf-8")
    (staged.path / "other").mkdir()
    (staged.path / "other" / "Biotite3_history.csv").write_text(
        history.replace("IVg Biotite3", "IVg Biotite4"), "utf-8"
    )
    told = [
        names_in(line.partition(f"| `{command}` |")[2])
        for line in table(repository, "The JSON of other commands")
        if line.startswith(f"| `{command}` |")
    ]
    printed = staged.run(*COMMANDS[command], "--json").json
    assert set(keys(printed, elsewhere)) == set().union(*told)


def test_the_table_is_of_these_commands(repository: Path) -> None:
    """The table of docs/formats.md has rows of the commands above and of no other."""
    assert {line.split("`")[1] for line in table(repository, "The JSON of other commands")} == set(COMMANDS)


def test_the_formats_name_what_a_comparison_can_explain(repository: Path) -> None:
    """docs/formats.md lists every name of a known difference that `compare-histories` counts as explained."""
    page = section(repository / "docs" / "formats.md", "The JSON of other commands")
    assert [name for name in EXPLAINED if f"`{name}`" not in page] == []


def test_the_formats_name_every_key_of_explain(
    staged: Folder, repository: Path, elsewhere: dict[str, Collection[str]]
) -> None:
    """docs/formats.md lists the keys of a run, an edited one, one without its files, a reject and no measurement."""
    path = staged.raw / RUN
    staged.put(RUN, path.read_bytes().replace(b"as made", b"as found"))
    assert staged.run("backfill", "--workers", "1").code == 1
    (staged.raw / GONE).unlink()
    for staged_file in (staged.path / "data" / "02_stage").rglob("proc=IV/**/*.parquet"):
        staged_file.unlink()
    (staged.path / "data" / "histories" / "Biotite3_history.csv").unlink()
    staged.put(NO_MEASUREMENT, b"none")
    stories = [staged.run("explain", name, "--json").json for name in (RUN, GONE, ALONE, REJECT, NO_MEASUREMENT)]
    del elsewhere[""]
    told = map(names_in, table(repository, "The JSON of `ingestd explain`"))
    assert set(keys(stories, elsewhere)) == set().union(*told)
