"""What README.md shows is what a stranger sees."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
from pages import section

from ingestd.backfill.run import backfill
from ingestd.errors import RejectCode
from ingestd.manifest.record import Event, Record
from ingestd.manifest.row import ManifestRow
from ingestd.service.state import Trouble
from ingestd.service.status_report import RejectPart, RunPart, ServicePart, StatusReport, WaitingPart
from ingestd.settings import load_settings
from ingestd.upkeep.findings import Finding, Kind
from ingestd.upkeep.repair import Repair, Step
from ingestd.upkeep.verify import Verification


@pytest.fixture
def demo(repository: Path) -> ModuleType:
    """The tool that puts the demo's output into README.md."""
    spec = importlib.util.spec_from_file_location("demo_in_readme", repository / "tools" / "demo_in_readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_demo_prints_what_the_readme_shows(repository: Path, demo: ModuleType, tmp_path: Path) -> None:
    """The demo's output is that of the README to the letter, in whatever folder the repository stands."""
    copy = tmp_path / "anywhere"
    (copy / "data").mkdir(parents=True)
    shutil.copytree(repository / "tools", copy / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(repository / "data" / "01_raw", copy / "data" / "01_raw")
    assert demo.demo_output(copy) == demo.shown_output((repository / "README.md").read_text("utf-8"))


def test_every_document_the_readme_names_is_there(repository: Path) -> None:
    """No link of the README or of a page in docs/ leads nowhere."""
    lost = [
        f"{page.name}: {target}"
        for page in [repository / "README.md", *sorted((repository / "docs").glob("*.md"))]
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ]
    assert lost == []


def test_every_test_a_document_names_is_there(repository: Path) -> None:
    """docs/reliability.md proves promises by tests: each file that a document names exists."""
    pages = [*repository.glob("*.md"), *(repository / "docs").glob("*.md")]
    named = {
        name for page in pages for name in re.findall(r"`(?:tests/)?((?:\w+/)*test_\w+\.py)`", page.read_text("utf-8"))
    }
    there = {path.relative_to(repository / "tests").as_posix() for path in (repository / "tests").rglob("*.py")}
    assert len(named) > 20
    assert {name for name in named if not any(path == name or path.endswith(f"/{name}") for path in there)} == set()


def test_the_architecture_names_every_room(repository: Path) -> None:
    """Every module and folder of the package has its line in docs/architecture.md, and no line is left over."""
    page = (repository / "docs" / "architecture.md").read_text("utf-8")
    told = set(re.findall(r"^\| `([a-z_]+(?:\.py|/))` \|", page, re.MULTILINE))
    package = repository / "ingestd"
    rooms = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    rooms |= {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert told == rooms


def test_the_formats_name_every_code_event_and_column(repository: Path) -> None:
    """docs/formats.md lists every reject code, every event and every column of the manifest."""
    page = (repository / "docs" / "formats.md").read_text("utf-8")
    names = [*RejectCode, *Event, *ManifestRow.model_fields]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_the_formats_name_every_kind_of_finding(repository: Path) -> None:
    """docs/formats.md lists what `ingestd verify` can find: every kind, and no other, below damage and note."""
    page = section(repository / "docs" / "formats.md", "The JSON of `ingestd verify`")
    listed = re.findall(r"^\| `([a-z-]+)` \| (damage|note) \|", page, re.MULTILINE)
    assert sorted(listed) == sorted((kind, Finding(kind, "", "").level) for kind in get_args(Kind))


def test_the_formats_name_every_key_of_verify_and_repair(repository: Path) -> None:
    """docs/formats.md lists every key that `verify --json` and `repair --json` print, each in its section."""
    for command, parts, more in (("verify", (Verification, Finding), {"clean"}), ("repair", (Repair, Step), set())):
        page = section(repository / "docs" / "formats.md", f"The JSON of `ingestd {command}`")
        keys = {*more, *(one.name for part in parts for one in fields(part))}
        assert sorted(key for key in keys if f"`{key}`" not in page) == [], command


def test_the_formats_name_every_kind_of_step_of_a_repair(repository: Path) -> None:
    """docs/formats.md lists every `kind` that a step of `ingestd repair` can have, and no other."""
    page = section(repository / "docs" / "formats.md", "The JSON of `ingestd repair`")
    made = set()
    for node in ast.walk(ast.parse((repository / "ingestd" / "upkeep" / "repair.py").read_text("utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(attr="_step" | "_move"), args=[ast.Constant(str(kind)), *_]):
                made.add(kind)
    assert len(made) > 5
    assert set(re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE)) == made


def test_the_formats_name_every_key_of_an_event_and_a_reject(repository: Path, samples: Path, tmp_path: Path) -> None:
    """docs/formats.md lists every key of the event and reject JSONs that the sample data gives, and of a record."""
    page = (repository / "docs" / "formats.md").read_text("utf-8")
    settings = load_settings(None, {"paths": {"data_root": tmp_path, "raw_root": samples}})
    backfill(settings)
    written = [*settings.layout.events_dir.rglob("*.json"), *settings.layout.rejects_dir.rglob("*.json")]
    told = [json.loads(path.read_bytes()) for path in written]
    assert {one.get("at", one.get("rejected_at"))[-1] for one in told} == {"Z"}
    keys = {key for one in told for key in one} | set(Record.model_fields)
    assert {"rejected_at", "rows", "files"} <= keys
    assert sorted(key for key in keys if f"`{key}`" not in page) == []
    rows = [row for path in settings.layout.events_dir.rglob("*.json") for row in json.loads(path.read_bytes())["rows"]]
    assert {type(row["parameters"]) for row in rows} == {dict}
    assert {key for row in rows for key in row} == {*ManifestRow.model_fields, "parquet"}


def test_the_formats_name_every_event_of_the_log(repository: Path) -> None:
    """docs/formats.md lists every event name that the service's code logs or makes a line of, and no other."""
    table = section(repository / "docs" / "formats.md", "The service's log")
    listed = {
        name
        for line in table.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    logged = set()
    for path in [*(repository / "ingestd" / "service").glob("*.py"), repository / "ingestd" / "cli" / "service.py"]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr=called) | ast.Name(id=called), args=[ast.Constant(str(name)), *_]
                ) if called in {"debug", "info", "warning", "error", "critical", "tell"}:
                    logged.add(name)
                case ast.Call(func=ast.Name(id="_head"), args=[_, _, ast.Constant(str(name))]):
                    logged.add(name)  # a line the log makes by itself
    assert {"started", "library_message", "log_not_written"} <= logged
    assert listed == logged


def test_the_formats_name_every_key_of_status(repository: Path) -> None:
    """docs/formats.md lists every key `ingestd status --json` prints, on every level, in its section."""
    page = section(repository / "docs" / "formats.md", "The JSON of `ingestd status`")
    parts = (StatusReport, ServicePart, WaitingPart, RunPart, RejectPart, Trouble)
    keys = {"exit_code", *(name for part in parts for name in part.model_fields)}
    assert sorted(name for name in keys if f"`{name}`" not in page) == []
