"""The folder of bad files: each is rejected with the right code, the right line, and words that help."""

from __future__ import annotations

import importlib.util
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ingestd.errors import Reject, RejectCode
from ingestd.raw.header import glance
from ingestd.raw.procedures import Registry
from ingestd.raw.run import parse_run
from ingestd.raw.start_time import start_time
from ingestd.raw.values import interpret

BAD = Path(__file__).parent / "bad"
EXPECTED: dict[str, dict[str, Any]] = tomllib.loads((BAD / "expected.toml").read_text("utf-8"))
SOURCE = "2025-09-23/IVg2025-09-23_1.csv"
NOW = datetime(2025, 9, 24, tzinfo=UTC)

made = importlib.util.spec_from_file_location("make_bad_files", BAD / "make.py")
assert made is not None
assert made.loader is not None
make = importlib.util.module_from_spec(made)
made.loader.exec_module(make)


def read(data: bytes, registry: Registry) -> None:
    """Read everything out of a raw file that its manifest row needs."""
    run = parse_run(data, registry)
    interpret(run.header, run.procedure, run.table, SOURCE)
    start_time(run.header.metadata.get("Start time"), SOURCE, 0, ZoneInfo("America/Santiago"), NOW)


def code_of(name: str) -> str:
    """Return the reject code a bad file's name begins with; the longest counts (`missing-column-line`)."""
    return max((code for code in RejectCode if name.startswith(code)), key=len, default="")


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_bad_file_is_rejected_in_words_that_help(name: str, registry: Registry) -> None:
    """The reject names the fault that the file's name tells, its line, what was found, and what to do next."""
    expected = EXPECTED[name]
    with pytest.raises(Reject) as caught:
        read((BAD / f"{name}.csv").read_bytes(), registry)
    reject = caught.value
    assert (reject.code, reject.line) == (code_of(name), expected.get("line"))
    assert expected.get("found", "") in reject.found
    assert [words for words in expected["says"] if words not in reject.message] == []
    assert expected["next"] in reject.next_step
    assert reject.expected
    assert (reject.message + reject.expected + reject.found).isprintable()


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_bad_file_is_not_waited_for_for_ever(name: str) -> None:
    """The glance lets a bad file through to its reject; only a file cut in its header may still be written."""
    look = glance((BAD / f"{name}.csv").read_bytes())
    may_grow = name in {
        "missing-column-line-cut-header",
        "missing-column-line-cut-labels",
        "missing-column-line-empty-file",
    }
    assert (look.plausible and not look.rows) is may_grow


def test_the_good_file_beside_them_is_read(registry: Registry) -> None:
    """The file that the bad ones are spoilt from has no fault: each reject is owed to the one change."""
    read(make.GOOD, registry)


def test_every_reject_code_has_a_bad_file() -> None:
    """No code is without an example: what can be rejected has been seen to be rejected."""
    assert {code_of(name) for name in EXPECTED} == set(RejectCode)


def test_folder_index_and_script_agree() -> None:
    """Files, index and script name the same files, and the script makes each of them byte for byte."""
    files = {path.stem: path.read_bytes() for path in BAD.glob("*.csv")}
    assert files == make.FILES
    assert set(files) == set(EXPECTED)
    assert len(files) >= 45
