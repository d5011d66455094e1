"""Hostile names and values: nothing is written outside the data root or interpreted, and nothing stops the rest."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import evil
import lived
import pytest
from archive import Archive
from crash_cases import PYTHONPATH
from lived import FULL
from typer.testing import CliRunner, Result

from ingestd.backfill.run import backfill
from ingestd.cli import app
from ingestd.histories.chip import read_history

UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys and what is no text at all; the newline alone parts lines."""

QUANTITY = re.compile(r"[-+]?[\d.]+([eE][-+]?\d+)?( ?[A-Za-zµμ°Ω%]+)?")
"""A number, with or without a unit, is no formula."""


def put(raw: Path, name: bytes, data: bytes) -> bool:
    """Write a raw file that has been over for long; False where the file system refuses the name."""
    path = Path(os.fsdecode(os.fsencode(raw) + b"/" + name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError:
        return False
    os.utime(path, (1764600000, 1764600000))
    return True


@pytest.fixture(scope="module")
def lair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Archive, dict[str, object]]]:
    """An archive of hostile files, ingested; and all that stood around the data root before."""
    root = tmp_path_factory.mktemp("lair") / "deep" / "deeper"
    root.mkdir(parents=True)
    archive = Archive(root)
    sentinel = root.parents[1] / "sentinel"
    sentinel.mkdir()
    (sentinel / "precious").write_text("as it was")
    samples = iter(range(100_000))
    for name in evil.NAMES:
        put(archive.raw, b"names/" + name, evil.run(next(samples)))
    for label in (*evil.LABELS, "Procedure"):
        for value in evil.VALUES:
            sample = next(samples)
            put(archive.raw, b"values/It2025-09-23_%d.csv" % sample, evil.run(sample, label, value))
    around = outside(root.parents[1])
    report = backfill(archive.settings, lived.options(archive))
    assert report.failed == []
    assert report.stopped_by is None
    yield archive, around
    assert outside(root.parents[1]) == around, "something outside the data root changed"


def outside(root: Path) -> dict[str, object]:
    """Return all that stands beside the data root, with bytes."""
    return {
        name: found for name, found in lived.tree(root).items() if "/data/" not in name and not name.endswith("/data")
    }


def test_every_file_is_accepted_or_refused_in_words(lair: tuple[Archive, dict[str, object]]) -> None:
    """Each hostile file is a run, a reject with a code, or a name that is listed as passed over."""
    archive, _ = lair
    lived.check_sound(archive)
    assert len(archive.live()) > 100
    rejected = [note for note in archive.notes().values() if note.outcome == "rejected"]
    assert len(rejected) > 50
    assert not (archive.root.parent / "owned").exists()
    assert not Path("/tmp/owned").exists()


def test_nothing_leaves_its_folder(lair: tuple[Archive, dict[str, object]]) -> None:
    """All that was written stands below the stage, the histories and the exports, under names of one component each."""
    archive, around = lair
    assert outside(archive.root.parents[2]) == around
    written = {path.name for path in archive.root.iterdir()}
    assert written - {"metadata"} == {"01_raw", "02_stage", "histories"}, "metadata is there once it was exported"
    assert {path.parent for path in archive.layout.histories_dir.rglob("*")} == {archive.layout.histories_dir}
    for path in [*archive.layout.stage_root.rglob("*"), *archive.layout.histories_dir.rglob("*")]:
        assert not UNSAFE.search(path.name), ascii(path.name)
        assert len(os.fsencode(path.name)) <= 255


COMMANDS = [
    ["backfill", "--dry-run"],
    ["backfill"],
    ["backfill", "--json"],
    ["status"],
    ["status", "--json"],
    ["rejects", "list"],
    ["rejects", "list", "--json"],
    ["verify"],
    ["verify", "--json"],
    ["repair"],
    ["export-metadata"],
    ["chip-histories"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_what_commands_print_is_text(words: list[str], lair: tuple[Archive, dict[str, object]]) -> None:
    """No command prints a control character, a writing direction or half a character; JSON is one JSON."""
    archive, _ = lair
    done = ingestd(archive, *words)
    check_text(done.output)
    if "--json" in words:
        json.loads(done.stdout)


def test_explain_and_rejects_show_hostile_names_as_text(
    lair: tuple[Archive, dict[str, object]], figure: Callable[[str, int], None]
) -> None:
    """Asked about any hostile file, explain and `rejects show` answer in plain text, and JSON is JSON."""
    archive, _ = lair
    names = sorted(archive.live() | archive.notes())
    names = names if FULL else [name for name in names if name.startswith("names/")] + names[::40]
    for name in names:
        done = ingestd(archive, "explain", "--", name)
        assert done.exit_code == 0, done.output
        check_text(done.output)
        assert json.loads(ingestd(archive, "explain", "--json", "--", name).stdout)["source_file"] == name
    for name in [name for name, note in archive.notes().items() if note.outcome == "rejected"][:: 1 if FULL else 12]:
        done = ingestd(archive, "rejects", "show", "--", name)
        assert done.exit_code == 0, done.output
        check_text(done.output)
    figure("hostile files through explain", len(names))


@pytest.mark.parametrize(
    "asked", ["../../sentinel/precious", "/etc/passwd", "\0", "..", "", "~root/x", "a" * 5000, "\udcff"]
)
def test_explain_looks_at_nothing_outside_the_raw_root(asked: str, lair: tuple[Archive, dict[str, object]]) -> None:
    """A path that leads elsewhere is refused in words; nothing of the file there is told."""
    archive, _ = lair
    done = ingestd(archive, "explain", "--", asked)
    assert done.exit_code == 2, done.output
    check_text(done.output)
    assert "SHA-256" not in done.output
    assert "ingestd itself failed" not in done.output


def test_csv_cells_are_no_formulas_and_no_controls(lair: tuple[Archive, dict[str, object]]) -> None:
    """No cell of a history or an export is run by a spreadsheet, and each line is one line."""
    archive, _ = lair
    ingestd(archive, "export-metadata")
    paths = [*archive.layout.histories_dir.glob("*.csv"), *archive.layout.metadata_dir.rglob("*.csv")]
    assert len(paths) > 5
    for path in paths:
        text = path.read_text("utf-8")
        check_text(text)
        for line in csv.reader(text.splitlines()):
            for cell in line:
                assert not re.match(r"[=+\-@\t\r]", cell) or QUANTITY.fullmatch(cell), cell
    runs = {run for path in archive.layout.histories_dir.glob("*.csv") for run in read_history(path)["run_id"]}
    assert runs == {row.run_id for row in archive.rows() if row.live and row.chip_name}


def test_log_and_traces_are_one_json_a_line(lair: tuple[Archive, dict[str, object]]) -> None:
    """The write-ahead log, the event JSONs and the reject JSONs hold no control character, whatever a header held."""
    archive, _ = lair
    for path in archive.layout.wal_dir.glob("*.log"):
        check_text(path.read_text("utf-8"))
    for folder in (archive.layout.events_dir, archive.layout.rejects_dir):
        for path in folder.rglob("*.json"):
            json.loads(path.read_text("utf-8"))
            assert not re.search("[\x00-\x09\x0b-\x1f]", path.read_text("utf-8")), path


def ingestd(archive: Archive, *words: str) -> Result:
    """Run a command within this process."""
    place = ["--data-root", str(archive.root), "--config", str(archive.root.parent / "config.toml")]
    at = next((number for number, word in enumerate(words) if word == "--"), len(words))
    return CliRunner().invoke(app, [*words[:at], *place, *words[at:]])


def check_text(text: str) -> None:
    """Fail where a text holds what a terminal would obey."""
    found = UNSAFE.search(text)
    assert found is None, f"{found[0]!a} in {text[max(0, found.start() - 80) : found.end() + 20]!a}"


# ---- memory and time -------------------------------------------------------------------------------------------------

MEASURED = r"""
import json, os, re, sys, time
from pathlib import Path
import lived
def peak():  # of this process alone; `getrusage` counts what started it as well
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
archive = lived.reopened(Path(sys.argv[1]))
lived.backfill(archive.settings, lived.options(archive))
before = peak()
path = archive.raw / "big.csv"
os.replace(sys.argv[2], path)
os.utime(path, (1764600000, 1764600000))
began = time.process_time()
report = lived.backfill(archive.settings, lived.options(archive))
took = time.process_time() - began
after = peak()
print(json.dumps({"kib": after - before, "s": took, "failed": [one.message for one in report.failed],
                  "codes": [one.reason.code for one in report.rejected], "staged": report.events["ingested"]}))
"""
SIZE = (32 if FULL else 4) * 2**20
ROOM_KIB = 120 * 1024
TIMES = 14
"""Memory that a file may take beyond its size this many times over: its bytes, its text, its cells, its table."""


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", evil.giants(1000))
def test_memory_and_time_are_bounded_by_the_size(kind: str, tmp_path: Path, figure: Callable[[str, int], None]) -> None:
    """A file that is a burden takes memory and time in proportion to its size, and is staged or rejected."""
    archive = Archive(tmp_path)
    archive.put("small.csv", evil.run(0))
    giant = tmp_path / "giant"
    giant.write_bytes(evil.giants(SIZE)[kind])
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path), str(giant)],
        env={"PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["failed"] == []
    assert measured["staged"] + len(measured["codes"]) <= 1
    assert measured["kib"] < ROOM_KIB + TIMES * SIZE / 1024, measured
    assert measured["s"] < 5 + 2.0 * SIZE / 2**20, measured
    figure(f"burdens of {SIZE // 2**20} MiB", 1)


def test_a_file_above_the_limit_is_not_read_into_memory(tmp_path: Path) -> None:
    """Two gigabytes in one line (a hole in a file) are rejected by size."""
    archive = Archive(tmp_path, stage={"max_file_mib": 1})
    with archive.put("big.csv", b"x").open("r+b") as file:
        file.truncate(2 * 2**30 if FULL else 64 * 2**20)
    archive.touch("big.csv")
    began = time.monotonic()
    assert archive.backfill() == [("rejected", "big.csv")]
    assert archive.notes()["big.csv"].code == "too-large"
    assert time.monotonic() - began < 60
