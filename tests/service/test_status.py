"""What `ingestd status` says of a file that is not decided, with no service to ask."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from measurement import Measurement

from ingestd.errors import Retry
from ingestd.files import Scan
from ingestd.service import status as looks
from ingestd.service.status import Health, WaitingPart, hidden, read_status
from ingestd.settings import load_settings

ONE = Measurement()
HEADER = ONE.but(rows=0).data


def told(root: Path, data: dict[str, bytes], age_s: float) -> dict[str, WaitingPart]:
    """Write files that stand still for so many seconds, and return what `status` says of each."""
    raw = root / "data" / "01_raw"
    raw.mkdir(parents=True)
    for name, content in data.items():
        (raw / name).write_bytes(content)
        os.utime(raw / name, (time.time() - age_s,) * 2)
    settings = load_settings(flags={"paths": {"data_root": str(root / "data")}})
    return {file.source_file: file for file in read_status(settings, datetime.now(UTC)).waiting}


@pytest.mark.parametrize(
    ("data", "age_s", "state", "reason", "rows"),
    [
        pytest.param(HEADER, 5.0, "queued", "header only", 0, id="queued"),
        pytest.param(HEADER, 86400.0, "queued", "header only", 0, id="queued-long-ago"),
        pytest.param(b"", 5.0, "queued", "no header yet", 0, id="empty"),
        pytest.param(ONE.data, 5.0, "pending", "over", 3, id="over"),
        pytest.param(ONE.data[:-3], 5.0, "running", "last line is incomplete", 2, id="cut"),
        pytest.param(ONE.data[:-3], 60.0, "pending", "over", 2, id="cut-long-ago"),
        pytest.param(b"no measurement\n", 5.0, "pending", "over", 0, id="to-be-rejected"),
    ],
)
def test_a_file_is_judged_as_the_service_does(
    tmp_path: Path, data: bytes, age_s: float, state: str, reason: str, rows: int
) -> None:
    """Nobody has it open: its bytes tell whether it is queued, waits for the end of its last line, or is over."""
    file = told(tmp_path, {"It_1.csv": data}, age_s)["It_1.csv"]
    assert (file.state, file.rows) == (state, rows)
    assert reason in file.reason


def test_what_may_hide_a_measurement_is_a_trouble(tmp_path: Path) -> None:
    """A CSV whose name is not UTF-8 is never staged: `status` says so, with what to do, and a person is needed."""
    raw = tmp_path / "data" / "01_raw"
    raw.mkdir(parents=True)
    (raw / os.fsdecode(b"It_\xff.csv")).write_bytes(ONE.data)
    settings = load_settings(flags={"paths": {"data_root": str(tmp_path / "data")}})
    report = read_status(settings, datetime.now(UTC))
    (trouble,) = report.troubles
    assert (trouble.place, "rename it" in trouble.next_step) == (str(raw / r"It_\xff.csv"), True)
    assert report.health is Health.NEEDS_A_PERSON


def test_a_folder_that_cannot_be_listed_is_a_trouble() -> None:
    """Each folder or file that the scan could not look at is told with its place and the system's reason."""
    found = Scan({}, [], [], [], [("2026-03-12", "Permission denied")])
    (trouble,) = hidden(found, Path("/raw"), datetime.now(UTC))
    assert (trouble.place, "Permission denied" in trouble.message) == ("/raw/2026-03-12", True)


def test_an_archive_is_not_read_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a first backfill only so many files are opened; the others are shown by what is seen from outside."""
    monkeypatch.setattr(looks, "FILES_READ", 2)
    files = told(tmp_path, {f"It_{n}.csv": HEADER for n in range(5)}, 5.0)
    assert sorted(file.state for file in files.values()) == ["pending"] * 3 + ["queued"] * 2


def test_a_state_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """What the service last said is out of reach: that file is the place of the error, and no traceback."""
    settings = load_settings(flags={"paths": {"data_root": str(tmp_path / "data")}})
    settings.layout.raw_root.mkdir(parents=True)
    path = settings.layout.service_state_path
    path.mkdir(parents=True)
    with pytest.raises(Retry) as caught:
        read_status(settings, datetime.now(UTC))
    assert caught.value.place == str(path)
