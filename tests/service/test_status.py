"""What `ingestd status` says of a file that is not decided, with no service to ask."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from inline import inline
from measurement import Measurement
from mounts import command, mounted
from powerless import powerless

from ingestd.backfill.run import Options, backfill
from ingestd.errors import Retry
from ingestd.files import Scan
from ingestd.layout import Layout
from ingestd.manifest.record import Event
from ingestd.service import status as looks
from ingestd.service.state import SERVICE, RetryingFile, ServiceState, write_state
from ingestd.service.status import hidden, read_status
from ingestd.service.status_report import Health, WaitingPart
from ingestd.settings import Settings, load_settings
from ingestd.settings.sections import Service as ServiceSettings
from ingestd.writers import Writers, read_writers

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
        pytest.param(ONE.data, -3600.0, "pending", "over", 3, id="over-in-an-hour"),
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


def powerless_status(root: Path) -> Any:
    """Return what `status --json` prints for whoever may read no more than any user."""
    done = subprocess.run(
        [*powerless(), sys.executable, "-m", "ingestd", "status", "--json", "--data-root", str(root / "data")],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("data", [ONE.data, HEADER, ONE.data * 200], ids=["over", "queued", "long"])
def test_a_file_that_cannot_be_read_is_retrying_with_what_to_do(tmp_path: Path, data: bytes) -> None:
    """Nobody promises that the service takes it: the system's reason is told, and that a person is needed."""
    told(tmp_path, {"It_1.csv": data}, 3600.0)
    (tmp_path / "data" / "01_raw" / "It_1.csv").chmod(0)
    found = powerless_status(tmp_path)
    (file,) = found["waiting"]
    assert (file["state"], file["reason"], file["rows"]) == ("retrying", "Permission denied", None)
    assert file["next_step"].startswith("give the user who runs ingestd")
    assert (found["service"]["phase"], found["exit_code"]) == ("down", Health.NEEDS_A_PERSON)


def test_a_file_that_cannot_be_read_may_be_running(tmp_path: Path) -> None:
    """Whoever asks may not look into it: it is being written all the same, and the machine must stay on."""
    told(tmp_path, {"It_1.csv": ONE.data}, 0.0)
    path = tmp_path / "data" / "01_raw" / "It_1.csv"
    with path.open("ab"):
        path.chmod(0)
        found = powerless_status(tmp_path)
    (file,) = found["waiting"]
    assert (file["state"], file["rows"], found["safe_to_power_off"]) == ("running", None, False)


def test_a_folder_that_is_closed_hides_no_raw_file_for_good(tmp_path: Path) -> None:
    """It cannot be said of any run whether its raw file is gone, while the file may only be out of sight."""
    settings = a_root(tmp_path)
    day = settings.layout.raw_root / "2025-09-23"
    day.mkdir()
    settings.layout.raw_file("It_1.csv").rename(day / "It_1.csv")
    backfill(settings, Options(engine=inline))
    day.chmod(0)
    found = powerless_status(tmp_path)
    day.chmod(0o755)
    assert (found["runs"], found["runs_without_raw_file"]) == (1, None)
    assert [trouble["place"] for trouble in found["troubles"]] == [str(day)]


def test_a_file_that_goes_while_it_is_looked_at_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is deleted between the scan and the look at its bytes: nobody is asked to mend anything."""
    settings = a_root(tmp_path)

    def read_late(*asked: Any, **options: Any) -> Writers:
        settings.layout.raw_file("It_1.csv").unlink()
        return read_writers(*asked, **options)

    monkeypatch.setattr(looks, "read_writers", read_late)
    report = read_status(settings, datetime.now(UTC))
    assert ([file.state for file in report.waiting], report.health) == (["pending"], Health.SERVICE_DOWN)


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
    found = Scan(unreadable=[("2026-03-12", "Permission denied")])
    (trouble,) = hidden(found, Path("/raw"), datetime.now(UTC))
    assert (trouble.place, "Permission denied" in trouble.message) == ("/raw/2026-03-12", True)


def test_an_archive_is_not_read_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a first backfill only so many files are opened; the others are shown by what is seen from outside."""
    monkeypatch.setattr(looks, "FILES_READ", 2)
    files = told(tmp_path, {f"It_{n}.csv": HEADER for n in range(5)}, 5.0)
    assert sorted(file.state for file in files.values()) == ["pending"] * 3 + ["queued"] * 2


def test_the_rows_of_a_running_file_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also among many files that wait, and when it is long and its next row takes minutes."""
    monkeypatch.setattr(looks, "FILES_READ", 0)
    told(tmp_path, {"It_1.csv": HEADER + b"0.5,3.1e-05,1.4,nan,nan,nan\r\n" * 700_000}, 3600.0)
    settings = load_settings(flags={"paths": {"data_root": str(tmp_path / "data")}})
    with settings.layout.raw_file("It_1.csv").open("ab"):
        (file,) = read_status(settings, datetime.now(UTC)).waiting
    assert (file.state, file.rows) == ("running", 700_000)


def test_the_log_and_the_free_space_are_told(tmp_path: Path) -> None:
    """How many records wait to be compacted, and the room on the stage's disk: unknown while there is no stage."""
    settings = a_root(tmp_path)
    before = read_status(settings, datetime.now(UTC))
    backfill(settings, Options(engine=inline, compact=False))
    after = read_status(settings, datetime.now(UTC))
    assert (before.log_records, before.free_bytes, after.log_records) == (0, None, 2)
    assert 0 < (after.free_bytes or 0) <= shutil.disk_usage(settings.layout.stage_root).total


def test_a_state_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """What the service last said is out of reach: that file is the place of the error, and no traceback."""
    settings = load_settings(flags={"paths": {"data_root": str(tmp_path / "data")}})
    settings.layout.raw_root.mkdir(parents=True)
    path = settings.layout.service_state_path
    path.mkdir(parents=True)
    with pytest.raises(Retry) as caught:
        read_status(settings, datetime.now(UTC))
    assert caught.value.place == str(path)


# ---- who holds the data root ----------------------------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from ingestd.layout import Layout
from ingestd.manifest.record import Event
from ingestd.service.state import service_lock
from ingestd.settings import load_settings
layout = load_settings(flags={"paths": {"data_root": sys.argv[1]}}).layout
with service_lock(layout, sys.argv[2]).held(5):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(settings: Settings, work: str) -> Iterator[int]:
    """Have another process hold the service's lock for `work`; yield its pid."""
    root = str(settings.paths.data_root)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, root, work],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.kill()


def a_root(folder: Path) -> Settings:
    """Make a data root with one run that is over."""
    told(folder, {"It_1.csv": ONE.data}, 60.0)
    return load_settings(flags={"paths": {"data_root": str(folder / "data")}})


def say_running(layout: Layout, pid: int, *retrying: RetryingFile, **changes: Any) -> None:
    """Write what a service of that pid says while it runs, and while it tries files again."""
    now, host = datetime.now(UTC), socket.gethostname()
    state = ServiceState(
        pid=pid,
        host=host,
        version="0",
        started_at=now,
        updated_at=now,
        phase="running",
        doing="watching",
        watching="by inotify",
        retrying=list(retrying),
    )
    write_state(layout, state.model_copy(update=changes))


def test_a_repair_is_not_taken_for_the_service_before_it(tmp_path: Path) -> None:
    """A service died and a repair holds its lock: it is down, the repair is named, and its end is to be waited for."""
    settings = a_root(tmp_path)
    say_running(settings.layout, os.getpid())
    with holder(settings, "`ingestd repair --apply`") as pid:
        report = read_status(settings, datetime.now(UTC))
    assert (report.service.phase, report.service.pid, report.health) == ("down", None, Health.SERVICE_DOWN)
    named = f"`ingestd repair --apply` (pid {pid} on {socket.gethostname()}) holds the data root"
    assert report.service.doing.startswith(named)
    assert (report.safe_to_power_off, report.safe_reason) == (False, report.service.doing)


def test_a_service_that_starts_is_not_taken_for_the_last(tmp_path: Path) -> None:
    """What the last service wrote says nothing of the one that has the lock now, until that one writes."""
    settings = a_root(tmp_path)
    say_running(settings.layout, os.getpid())
    with holder(settings, SERVICE) as pid:
        found = read_status(settings, datetime.now(UTC)).service
        assert (found.phase, found.pid, found.host) == ("starting", pid, socket.gethostname())
        say_running(settings.layout, pid)
        found = read_status(settings, datetime.now(UTC)).service
        assert (found.phase, found.pid, found.doing) == ("running", pid, "watching")


def test_the_machine_stays_on_for_what_is_over_and_not_staged(tmp_path: Path) -> None:
    """While a service runs, files that are over are about to be staged; which ones is said."""
    settings = a_root(tmp_path)
    with holder(settings, SERVICE) as pid:
        say_running(settings.layout, pid)
        for name in ("It_1.csv", "It_2.csv"):
            (settings.layout.raw_root / name).write_bytes(ONE.data)
            os.utime(settings.layout.raw_root / name, (time.time() - 60,) * 2)
        report = read_status(settings, datetime.now(UTC))
    said = "the service has still to stage It_1.csv, and 1 more"
    assert (report.safe_to_power_off, report.safe_reason) == (False, said)
    assert read_status(settings, datetime.now(UTC)).safe_to_power_off


@pytest.mark.parametrize("phase", ["starting", "stopping", "stopped"])
def test_a_service_that_ends_or_begins_has_files_in_hand_too(tmp_path: Path, phase: str) -> None:
    """Whatever it says it is at, while it holds its lock: the machine stays on, and how much is left is told."""
    settings = a_root(tmp_path)
    with holder(settings, SERVICE) as pid:
        say_running(settings.layout, pid, phase=phase, backlog=7)
        report = read_status(settings, datetime.now(UTC))
    assert (report.service.phase, report.service.backlog) == (phase.replace("stopped", "stopping"), 7)
    assert report.safe_reason == "the service has still to stage It_1.csv"


def test_the_config_file_of_another_machine_is_not_looked_for_here(tmp_path: Path) -> None:
    """A service on a PC that shares the data root has its own disk: what lies at that path here says nothing of it."""
    settings = a_root(tmp_path)
    with holder(settings, SERVICE) as pid:
        for host, changed in (("elsewhere", ""), (socket.gethostname(), str(tmp_path / "config.toml"))):
            settings.layout.service_lock_path.write_text(f"pid {pid} on {host}\n{SERVICE}\n")
            say_running(settings.layout, pid, host=host, config_file=tmp_path / "config.toml", config_sha256="0")
            found = read_status(settings, datetime.now(UTC)).service
            assert (found.host, found.changed_config) == (host, changed)


def test_a_file_that_is_tried_again_is_running_while_somebody_writes_it(tmp_path: Path) -> None:
    """What ails it hides no measurement from whoever would switch the machine off; over, it can wait."""
    settings = a_root(tmp_path)
    path = settings.layout.raw_file("It_1.csv")
    with holder(settings, SERVICE) as pid:
        say_running(settings.layout, pid, RetryingFile(source_file="It_1.csv", message="Input/output error", tries=2))
        with path.open("ab"):
            running = read_status(settings, datetime.now(UTC))
        over = read_status(settings, datetime.now(UTC))
    assert [(file.state, file.code) for file in running.waiting] == [("running", "writer")]
    assert (running.safe_to_power_off, running.safe_reason) == (False, "a measurement is running: It_1.csv")
    assert [(file.state, file.reason) for file in over.waiting] == [("retrying", "Input/output error (tried 2 times)")]
    assert over.safe_to_power_off


def test_a_measurement_that_is_certain_is_named_first(tmp_path: Path) -> None:
    """Of several, the one that somebody has open; of the others it is only said that they may be running."""
    told(tmp_path, {"It_1.csv": ONE.data[:-3], "It_2.csv": ONE.data}, 5.0)
    settings = load_settings(flags={"paths": {"data_root": str(tmp_path / "data")}})
    with settings.layout.raw_file("It_2.csv").open("ab"):
        both = read_status(settings, datetime.now(UTC))
    one = read_status(settings, datetime.now(UTC))
    assert (both.safe_to_power_off, both.safe_reason) == (False, "a measurement is running: It_2.csv, and 1 more")
    assert one.safe_reason.startswith("a measurement may be running: It_1.csv: its last line is incomplete")


def test_a_queued_file_that_is_open_is_running(tmp_path: Path) -> None:
    """PyMeasure opens it before the procedure's `startup`, which may take minutes in which no byte is written."""
    told(tmp_path, {"It_1.csv": HEADER}, 60.0)
    settings = load_settings(flags={"paths": {"data_root": str(tmp_path / "data")}})
    assert backfill(settings).events == {Event.QUEUED: 1}
    with settings.layout.raw_file("It_1.csv").open("ab"):
        begun = read_status(settings, datetime.now(UTC))
    given_up = read_status(settings, datetime.now(UTC))
    assert [(file.state, file.code, file.rows) for file in begun.waiting] == [("running", "writer", 0)]
    assert (begun.safe_to_power_off, begun.safe_reason) == (False, "a measurement is running: It_1.csv")
    assert [(file.state, file.code) for file in given_up.waiting] == [("queued", "no-rows")]
    assert given_up.safe_to_power_off


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_disk_that_takes_no_file_is_a_trouble(tmp_path: Path, kind: str) -> None:
    """The service's own word of it finds no place on that disk: status looks itself, while one runs here."""
    settings = a_root(tmp_path)
    stage = settings.layout.stage_root
    if kind == "full":
        settings = settings.model_copy(update={"service": ServiceSettings(free_mib=1e9)})
    with holder(settings, SERVICE) as pid:
        say_running(settings.layout, pid)
        with mounted(stage, "--bind", stage) if kind == "read-only" else nullcontext():
            if kind == "read-only":
                command("mount", "-o", "remount,bind,ro", stage)
            report = read_status(settings, datetime.now(UTC))
    (trouble,) = report.troubles
    told_of = {"full": "less than service.free_mib = 1000000000 MiB are free", "read-only": "Read-only file system"}
    assert (trouble.message, trouble.place, report.health) == (told_of[kind], str(stage), Health.NEEDS_A_PERSON)
    assert read_status(settings, datetime.now(UTC)).health is Health.SERVICE_DOWN, "nothing runs that needs the disk"


def test_a_service_whose_lock_does_not_name_it_is_believed_while_it_lives(tmp_path: Path) -> None:
    """On a full disk a lock holds without its holder's name: the state's process is looked for instead."""
    settings = a_root(tmp_path)
    with holder(settings, SERVICE) as pid:
        settings.layout.service_lock_path.write_bytes(b"")
        say_running(settings.layout, pid)
        assert read_status(settings, datetime.now(UTC)).service.phase == "running"
        say_running(settings.layout, 2**22 + 1)  # above every pid
        assert read_status(settings, datetime.now(UTC)).service.phase == "starting"


def test_a_state_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """A service that knew no `next_step` of a file it tries again, and no `backlog`, is told of all the same."""
    settings = a_root(tmp_path)
    with holder(settings, SERVICE) as pid:
        state = {
            "pid": pid,
            "host": socket.gethostname(),
            "version": "0",
            "started_at": "2025-09-23T13:05:07Z",
            "updated_at": "2025-09-23T13:05:07Z",
            "phase": "running",
            "doing": "watching",
            "watching": "by inotify",
            "retrying": [{"source_file": "It_1.csv", "message": "Permission denied", "tries": 2}],
        }
        settings.layout.service_state_path.write_text(json.dumps(state))
        found = read_status(settings, datetime.now(UTC))
    (file,) = found.waiting
    assert (file.state, file.reason, file.next_step) == ("retrying", "Permission denied (tried 2 times)", "")
    assert (found.service.doing, found.service.backlog) == ("watching", 0)
