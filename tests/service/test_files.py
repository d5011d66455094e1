"""What happens to folders and files in a lab: the service comes to the same manifest, whatever the tool was."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from measurement import Measurement
from running import Service

MANY = 1000
UNPRIVILEGED = 65534
ONE = Measurement()


def numbered(count: int, first: int = 0) -> dict[str, bytes]:
    """Make small runs, each with a start time of its own, on five chips."""
    return {
        f"It_{n}.csv": ONE.but(start=1758632155.25 + 60 * n, chip=60 + n % 5, sample=n, rows=2).data
        for n in range(first, first + count)
    }


def put(folder: Path, runs: dict[str, bytes]) -> None:
    """Write runs into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in runs.items():
        (folder / name).write_bytes(data)


def test_a_renamed_day_folder_keeps_its_runs(tmp_path: Path) -> None:
    """The runs of a renamed folder are `moved`: same ids, new paths in manifest and histories, no second row."""
    with Service(tmp_path) as service:
        put(service.raw / "2025-09-23", numbered(20))
        service.until(lambda: len(service.live_names()) == 20, "20 runs")
        before = {Path(name).name: row.run_id for name, row in service.live().items()}
        (service.raw / "2025-09-23").rename(service.raw / "2025-09-23 gate sweep")
        renamed = {f"2025-09-23 gate sweep/{name}" for name in before}
        service.until(lambda: service.live_names() == renamed, "the new paths")
        assert {Path(name).name: row.run_id for name, row in service.live().items()} == before
        service.until(lambda: not service.status().waiting and _histories(service) == renamed, "histories")
        assert len(service.rows()) == 20
        assert service.stop() == 0
        service.check_whole()


def _histories(service: Service) -> set[str]:
    return {name for chip in range(60, 65) for name in service.history(f"Alisson{chip}")}


def test_an_edit_that_changes_the_chip_is_told_of_both(tmp_path: Path) -> None:
    """Whoever asks what became of the old chip's run finds it, whether or not its start was corrected too."""
    with Service(tmp_path) as service:
        path = service.raw / "It_1.csv"
        put(service.raw, {"It_1.csv": ONE.but(chip=60).data})
        service.until(service.live, "the run")
        path.write_bytes(ONE.but(chip=61).data)
        service.until(lambda: service.lines("edited"), "another chip")
        path.write_bytes(ONE.but(chip=62, start=1758718555.25).data)
        service.until(lambda: service.lines("superseded"), "another chip and start")
        path.write_bytes(ONE.but(chip=62, start=1758718555.25).data.replace(b"-5.19 V", b"-5.20 V"))
        service.until(lambda: len(service.lines("edited")) > 1, "the same chip")
        told = [(line["chip"], line.get("old_chip")) for line in service.lines("edited") + service.lines("superseded")]
        assert told == [("Alisson61", "Alisson60"), ("Alisson62", None), ("Alisson62", "Alisson61")]
        assert service.stop() == 0


def test_folders_made_at_once_with_a_file(tmp_path: Path) -> None:
    """`mkdir -p a/b/c` and a file in the same instant: the file is found though no watch stood there yet."""
    with Service(tmp_path) as service:
        for n, (name, data) in enumerate(numbered(30).items()):
            put(service.raw / f"day{n}" / "deep" / "deeper", {name: data})
        service.until(lambda: len(service.live_names()) == 30, "30 runs")
        assert service.stop() == 0
        service.check_whole()


@pytest.mark.parametrize("tool", ["cp", "mv"])
def test_a_folder_with_a_thousand_files(tool: str, tmp_path: Path) -> None:
    """A folder copied or moved in: every run once, committed in batches, histories complete."""
    with Service(tmp_path) as service:
        put(tmp_path / "elsewhere", numbered(MANY))
        command = ["cp", "-r"] if tool == "cp" else ["mv"]
        subprocess.run([*command, tmp_path / "elsewhere", service.raw / "2025-09-23"], check=True)
        expected = {f"2025-09-23/{name}" for name in numbered(MANY)}
        service.until(lambda: service.live_names() == expected, "every run")
        service.until(lambda: _histories(service) == expected, "complete histories")
        assert service.stop() == 0
        assert service.compacted() == expected
        assert len(service.rows()) == MANY
        service.check_whole(deep=False)


def test_temporary_names_of_rsync_are_passed_over(tmp_path: Path) -> None:
    """`.x.csv.AbC123`, written in two strokes and renamed to `x.csv`: one run, and nothing of the temporary name."""
    with Service(tmp_path) as service:
        for name, data in numbered(10).items():
            temporary = service.raw / f".{name}.AbC123"
            half = len(data) // 2
            with temporary.open("wb") as file:
                file.write(data[:half])
                file.flush()
                os.fsync(file.fileno())
                file.write(data[half:])
            temporary.rename(service.raw / name)
        service.until(lambda: service.live_names() == set(numbered(10)), "10 runs")
        assert not [line for line in service.lines() if "AbC123" in str(line)]
        assert not service.lines("rejected")
        assert service.stop() == 0
        service.check_whole()


def test_hard_links_are_copies(tmp_path: Path) -> None:
    """Two names of one file are one measurement: one row; a row appended is staged for it."""
    with Service(tmp_path, watch={"rescan_s": 1.0}) as service:
        put(service.raw, {"It_1.csv": ONE.data})
        service.until(lambda: service.live_names() == {"It_1.csv"}, "the run")
        (service.raw / "again").mkdir()
        (service.raw / "again" / "It_1.csv").hardlink_to(service.raw / "It_1.csv")
        service.until(lambda: service.lines("duplicate"), "the second name is a copy")
        (told,) = service.lines("duplicate")
        assert (told["source_file"], told["original"]) == ("again/It_1.csv", "It_1.csv")
        assert told["chip"] == service.rows()[0].chip_name
        assert len(service.rows()) == 1
        with (service.raw / "It_1.csv").open("ab") as file:
            file.write(ONE.but(rows=4).data[len(ONE.data) :])
        # Whichever name is looked at first has the run; what the other had is superseded.
        service.until(lambda: [row.rows for row in service.rows() if row.live] == [4], "the row appended")
        service.until(lambda: not service.status().waiting, "nothing waits")
        assert service.stop() == 0
        assert len(service.live()) == 1
        service.check_whole(notes=("duplicate",))


def test_a_name_used_again_is_told_once(tmp_path: Path) -> None:
    """Another measurement under the name of one whose file was taken away: both count, and the log tells."""
    with Service(tmp_path) as service:
        put(service.raw, {"It_1.csv": ONE.data})
        service.until(lambda: service.live_names() == {"It_1.csv"}, "the run")
        (first,) = service.rows()
        (service.raw / "It_1.csv").unlink()
        put(service.raw, {"It_1.csv": ONE.but(start=1758700000.5, sample=7).data})
        service.until(lambda: len(service.lines("ingested")) == 2, "the other measurement")
        service.until(lambda: service.lines("raw_file_lost"), "what is gone")
        (told,) = service.lines("raw_file_lost")
        assert (told["source_file"], told["run_id"]) == ("It_1.csv", first.run_id)
        assert told["next_step"] == "restore it from a backup under another name, unless it is kept elsewhere"
        assert service.stop() == 0
        assert [row.live for row in service.rows()] == [True, True]
        service.check_whole(notes=("raw-overwritten",))


def test_only_the_run_that_had_the_name_until_now_is_told(tmp_path: Path) -> None:
    """A name used again and again, and the first file put back in between: each run is told when its file is lost."""
    second, third, fourth = (ONE.but(start=1758700000.5 + n, sample=n) for n in (7, 8, 9))
    with Service(tmp_path) as service:
        put(service.raw, {"It_1.csv": ONE.data})
        service.until(lambda: starts(service), "the first run")
        lost: list[float | None] = []
        for before, now in itertools.pairwise([ONE, second, third, ONE, fourth]):
            put(service.raw, {"It_1.csv": now.data})
            lost.append(before.start)
            service.until(lambda: len(service.lines("raw_file_lost")) >= len(lost), "what is gone")
        assert service.stop() == 0
        assert [starts(service)[str(line["run_id"])] for line in service.lines("raw_file_lost")] == lost
        assert all(row.live for row in service.rows())


def starts(service: Service) -> dict[str, float]:
    """Return the start of each run by its id."""
    return {row.run_id: row.start_time_utc.timestamp() for row in service.rows()}


@pytest.mark.parametrize("way", ["renamed away", "deleted"])
def test_a_name_that_is_gone_for_an_instant_keeps_its_run(tmp_path: Path, way: str) -> None:
    """A program saves a file with a known copy by taking its name away first: edited, and the copy stays one."""
    with Service(tmp_path, settle={"settle_s": 1.0}, watch={"rescan_s": 0.3}) as service:
        path, gone = service.raw / "It_1.csv", service.raw / "It_1.csv~"
        put(service.raw, {"It_1.csv": ONE.data})
        put(service.raw / "copies", {"It_1.csv": ONE.data})
        service.until(lambda: service.lines("duplicate"), "the copy")
        looks = len(service.lines("scanned"))
        if way == "deleted":
            path.unlink()
        else:
            path.rename(gone)
        path.with_name("marker.csv").write_bytes(ONE.but(start=1758639999.5, sample=2).data)
        (service.raw / "a folder").mkdir()  # its arrival asks for a scan
        service.until(lambda: len(service.lines("scanned")) > looks, "a look while the name is gone")
        path.write_bytes(ONE.but(chip=67).data)
        service.until(lambda: service.lines("edited"), "the new header")
        gone.unlink(missing_ok=True)
        service.until(lambda: not service.status().waiting, "nothing waits")
        assert service.stop() == 0
        assert service.live_names() == {"It_1.csv", "marker.csv"}
        assert not service.lines("moved")
        service.check_whole(notes=("duplicate",))


def test_a_renamed_folder_keeps_its_runs_though_copies_are_known(tmp_path: Path) -> None:
    """Its files are where the runs moved, not the copies in another folder."""
    with Service(tmp_path, settle={"settle_s": 0.5}) as service:
        put(service.raw / "day", numbered(5))
        service.until(lambda: len(service.live()) == 5, "the runs")
        put(service.raw / "backup", numbered(5))
        service.until(lambda: len(service.lines("duplicate")) == 5, "the copies")
        (service.raw / "day").rename(service.raw / "2025-09-23")
        service.until(lambda: len(service.lines("moved")) == 5, "the runs moved")
        assert service.stop() == 0
        assert service.live_names() == {f"2025-09-23/It_{n}.csv" for n in range(5)}
        service.check_whole(notes=("duplicate",))


def test_a_copy_takes_the_place_of_what_is_gone(tmp_path: Path) -> None:
    """The original is deleted under the service: its copy is the run's file soon."""
    with Service(tmp_path) as service:
        put(service.raw, {"It_1.csv": ONE.data})
        put(service.raw / "copies", {"It_1.csv": ONE.data})
        service.until(lambda: service.lines("duplicate"), "the copy")
        (service.raw / "It_1.csv").unlink()
        service.until(lambda: service.live_names() == {"copies/It_1.csv"}, "the copy in its place")
        assert service.stop() == 0
        service.check_whole()


def test_loops_pipes_and_sockets_are_passed_over(tmp_path: Path) -> None:
    """Symbolic links in a circle, a FIFO and a socket named `.csv`: nothing hangs, the regular files are staged."""
    with Service(tmp_path, watch={"rescan_s": 1.0}) as service, socket.socket(socket.AF_UNIX) as listener:
        day = service.raw / "day"
        day.mkdir()
        (day / "up").symlink_to("..")
        (service.raw / "down").symlink_to("day")
        (day / "self.csv").symlink_to("self.csv")
        (day / "linked.csv").symlink_to("It_1.csv")
        (day / "folder.csv").mkdir()
        os.mkfifo(day / "pipe.csv")
        here = Path.cwd()
        os.chdir(day)  # the path of a socket is short
        try:
            listener.bind("socket.csv")
        finally:
            os.chdir(here)
        put(day, {"It_1.csv": ONE.data})
        service.until(lambda: service.live_names() == {"day/It_1.csv"}, "the regular file")
        put(day / "folder.csv", {"It_2.csv": ONE.but(sample=2, start=1758632300.5).data})
        service.until(lambda: service.live_names() == {"day/It_1.csv", "day/folder.csv/It_2.csv"}, "the next one")
        writer = os.open(day / "pipe.csv", os.O_RDWR | os.O_NONBLOCK)
        os.write(writer, ONE.data)
        os.close(writer)
        (day / "pipe.csv").rename(day / "pipe2.csv")
        put(day, {"It_3.csv": ONE.but(sample=3, start=1758632400.5).data})
        service.until(lambda: "day/It_3.csv" in service.live_names(), "a file after the pipe was used")
        assert not service.status().waiting
        assert service.stop() == 0
        assert len(service.rows()) == 3
        service.check_whole()


def test_a_name_taken_by_a_pipe_while_the_file_waits(tmp_path: Path) -> None:
    """A file replaced by a FIFO before it settled is let go; put back, it is staged."""
    with Service(tmp_path, settle={"settle_s": 0.5}) as service:
        path = service.raw / "It_1.csv"
        for _ in range(5):
            path.write_bytes(ONE.data)
            path.unlink()
            os.mkfifo(path)
            path.unlink()
        path.write_bytes(ONE.data)
        service.until(lambda: service.live_names() == {"It_1.csv"}, "the file that stayed")
        assert service.stop() == 0
        service.check_whole()


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder of another user, who can reach it; pytest's own folders are closed to others."""
    if os.geteuid() != 0:
        pytest.skip("running the service as another user needs root; as the same user chmod is tested below")
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv (util-linux) is not installed")
    with tempfile.TemporaryDirectory(prefix="ingestd-test-") as folder:
        os.chown(folder, UNPRIVILEGED, UNPRIVILEGED)
        yield Path(folder)


def _as_nobody() -> tuple[str, ...]:
    uid = str(UNPRIVILEGED)
    return ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")


def _own(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, UNPRIVILEGED, UNPRIVILEGED, follow_symlinks=False)


def test_a_file_and_a_folder_without_permission_are_waited_for(open_to_all: Path) -> None:
    """`chmod 000` is no reject: the file is shown as `retrying`, with what to do, and staged when it can be read.

    So with a folder. Neither counts as a file that waits to be staged.
    """
    service = Service(open_to_all, service={"retry_s": 0.2, "retry_max_s": 1.0}, watch={"rescan_s": 1.0})
    put(service.raw / "closed", {"It_9.csv": ONE.but(sample=9, start=1758632900.5).data})
    put(service.raw, {"It_1.csv": ONE.data, "It_2.csv": ONE.but(sample=2, start=1758632300.5).data})
    _own(service.data)
    (service.raw / "It_1.csv").chmod(0)
    (service.raw / "closed").chmod(0)
    try:
        with service.start(prefix=_as_nobody()):
            service.until(lambda: "It_2.csv" in service.live_names(), "the file that can be read")
            service.until(lambda: service.waiting().get("It_1.csv") == "retrying", "the file shown as retrying")
            told = "watching; 1 file tried again: It_1.csv: Permission denied"
            service.until(lambda: service.status().service.doing == told, "the sentence")
            service.until(lambda: f"STATUS={told}" in service.heard(), "systemd is told")
            found = service.status()
            assert found.service.backlog == 0
            step = next(file.next_step for file in found.waiting if file.state == "retrying")
            assert step.startswith("give the user who runs ingestd")
            assert step.endswith("; the service goes on by itself")
            assert f"next: {step[:40]}" in service.command("status").stdout
            assert service.lines("folder_unreadable")[0]["folder"] == "closed"
            assert service.status().health == 1
            assert service.live_names() == {"It_2.csv"}
            (service.raw / "It_1.csv").chmod(0o600)
            service.until(lambda: "It_1.csv" in service.live_names(), "the file given back")
            (service.raw / "closed").chmod(0o700)
            service.until(lambda: "closed/It_9.csv" in service.live_names(), "the folder given back")
            assert not service.lines("rejected")
            assert not service.status().waiting
            assert service.stop() == 0
            service.check_whole()
    finally:
        (service.raw / "closed").chmod(0o700)


def test_a_file_of_another_user_is_waited_for_by_quiet_time(open_to_all: Path) -> None:
    """Who has another user's file open cannot be seen: `quiet_s` without a change stands in, and the log says so."""
    service = Service(open_to_all, settle={"quiet_s": 2.0})
    _own(service.data)
    with service.start(prefix=_as_nobody()):
        path = service.raw / "It_1.csv"
        with path.open("wb") as file:
            file.write(ONE.data)
        path.chmod(0o644)
        service.until(lambda: service.lines("waiting"), "why it waits is told")
        assert "who has it open cannot be seen here" in service.lines("waiting")[0]["reason"]
        service.until(lambda: service.live_names() == {"It_1.csv"}, "the run")
        assert len(service.lines("waiting")) == 1
        assert service.stop() == 0


def test_a_thousand_hints_of_one_file_are_one_run(tmp_path: Path) -> None:
    """A file opened, appended to and closed for every row is staged when it stands still, and told of once."""
    with Service(tmp_path) as service:
        data = ONE.but(rows=400).data.splitlines(keepends=True)
        path = service.raw / "It_1.csv"
        path.write_bytes(b"".join(data[:9]))
        for line in data[9:]:
            with path.open("ab") as file:
                file.write(line)
        service.until(lambda: [row.rows for row in service.rows()] == [400], "all rows")
        assert len(service.lines("waiting")) <= 1
        assert service.stop() == 0
        service.check_whole()


def test_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    """After a hundred runs the service has as many files open as before them."""
    with Service(tmp_path) as service:
        put(service.raw, numbered(20))
        service.until(lambda: len(service.live_names()) == 20, "20 runs")
        service.until(lambda: len(_histories(service)) == 20, "histories")
        before = service.in_hand()
        put(service.raw, numbered(100, first=100))
        service.until(lambda: len(service.live_names()) == 120, "100 more")
        service.until(lambda: service.in_hand() <= before, "no more files open than before")
        service.send(signal.SIGTERM)
        assert service.ended() == 0
