"""Where the kernel's hints fail: everything is ingested without a restart, and the log says what happened.

`INGESTD_TEST_FULL_LOAD=1` takes as many files as fill the kernel's queue as it is set (20,000).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from measurement import Measurement
from mounts import command, ext4_image
from powerless import powerless
from running import Service, put, run_of
from short_queue import short_queue

from ingestd.service.watch import OVERFLOWED

FULL = bool(os.environ.get("INGESTD_TEST_FULL_LOAD"))
MANY = 20_000 if FULL else 1000
WATCHES = "/proc/sys/user/max_inotify_watches"
ONE = Measurement()


# ---- the kernel drops events ----------------------------------------------------------------------------------------


@pytest.mark.timeout(1800 if FULL else 300)
def test_an_overflow(tmp_path: Path) -> None:
    """Files that appear while the process is stopped overflow the queue: all are ingested, and it is told."""
    service = Service(tmp_path, watch={"rescan_s": 86400.0}, limit_s=1500.0 if FULL else 200.0)
    for folder in range(10):
        (service.raw / f"day{folder}").mkdir()
    with contextlib.nullcontext() if FULL else short_queue(64):
        service.start()
    with service:
        service.send(signal.SIGSTOP)
        for folder in range(10):
            put(service.raw / f"day{folder}", folder * MANY // 10, MANY // 10)
        service.send(signal.SIGCONT)
        service.until(lambda: len(service.live_names()) == MANY, "all of them")
        assert [line["problem"] for line in service.lines("hints_lost")] == [OVERFLOWED]
        later = put(service.raw / "day3", MANY, 1)
        service.until(lambda: {f"day3/{name}" for name in later} <= service.live_names(), "hints come again")
        assert service.stop() == 0
        assert len(service.rows()) == MANY + 1
        service.check_whole(deep=False)


# ---- the root goes and comes ----------------------------------------------------------------------------------------


def test_the_root_renamed_and_recreated(tmp_path: Path) -> None:
    """A new folder under the old name is picked up, and the old one when it comes back; runs are not counted twice."""
    with Service(tmp_path, watch={"rescan_s": 86400.0}) as service:
        names = put(service.raw, 0, 3)
        service.until(lambda: service.live_names() == names, "the first runs")
        away = service.raw.with_name("01_raw.away")
        service.raw.rename(away)
        service.until(lambda: service.lines("watch_lost"), "the loss is told")
        service.until(lambda: "waiting for" in service.status().service.watching, "status tells it")
        assert service.status().health == 1
        service.raw.mkdir()
        names |= put(service.raw, 3, 2)
        service.until(lambda: service.live_names() == names, "runs in the new folder")
        service.until(lambda: service.lines("watch_replaced"), "the return is told")
        names |= put(service.raw, 5, 1)
        service.until(lambda: service.live_names() == names, "a hint from the new folder")
        for path in list(service.raw.iterdir()):
            path.rename(away / path.name)
        service.raw.rmdir()
        away.rename(service.raw)
        names |= put(service.raw, 6, 1)
        service.until(lambda: service.live_names() == names, "the old folder, come back")
        service.until(lambda: service.status().health == 0, "no trouble left")
        assert service.stop() == 0
        assert len(service.rows()) == 7
        service.check_whole()


def test_the_root_replaced_in_one_stroke(tmp_path: Path) -> None:
    """Renamed and made anew between two looks: there is no moment without a root, but another folder."""
    with Service(tmp_path, watch={"rescan_s": 86400.0}) as service:
        fresh = service.raw.with_name("fresh")
        names = put(fresh, 0, 3)
        service.raw.rename(service.raw.with_name("old"))
        fresh.rename(service.raw)
        service.until(lambda: service.live_names() == names, "the runs in the new folder")
        service.until(lambda: service.lines("watch_replaced"), "the log says so")
        names |= put(service.raw, 3, 1)
        service.until(lambda: service.live_names() == names, "a hint from the new folder")
        assert service.stop() == 0


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Path]:
    """An ext4 in a file, for a loop device; unmounted from everywhere at the end."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    yield ext4_image(tmp_path / "share.img", mib=32)
    for point in (tmp_path / "data" / "01_raw", tmp_path / "elsewhere"):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


def test_the_root_unmounted_and_remounted(tmp_path: Path, image: Path) -> None:
    """A loop-mounted root goes and comes back with more files on it: picked up, and what was there is not lost."""
    service = Service(tmp_path, watch={"rescan_s": 86400.0})
    command("mount", "-o", "loop", image, service.raw)
    (service.raw / "lost+found").rmdir()
    (tmp_path / "elsewhere").mkdir()
    with service:
        names = put(service.raw / "day", 0, 3)
        service.until(lambda: len(service.live_names()) == 3, "the first runs")
        service.until(lambda: _unmounted(service.raw), "it can be unmounted: the service holds nothing open")
        service.until(lambda: service.lines("watch_replaced"), "the loss is told")
        for first in (10, 20):  # the second time it comes back before the loss may have been noticed
            command("mount", "-o", "loop", image, tmp_path / "elsewhere")
            names |= put(tmp_path / "elsewhere" / "day", first, 3)
            command("umount", tmp_path / "elsewhere")
            command("mount", "-o", "loop", image, service.raw)
            have = len(names)
            service.until(_as_many(service, have), "runs that came meanwhile")
            names |= put(service.raw / "day", first + 5, 1)
            service.until(_as_many(service, have + 1), "a run in the mounted folder")
            if first == 10:
                service.until(lambda: _unmounted(service.raw), "it can be unmounted again")
        assert service.live_names() == {f"day/{name}" for name in names}
        assert service.stop() == 0
        assert len(service.rows()) == len(names)
        assert not service.lines("rejected")
        service.check_whole()


def _as_many(service: Service, runs: int) -> Callable[[], bool]:
    return lambda: len(service.live_names()) == runs


def _unmounted(point: Path) -> bool:
    return subprocess.run(["umount", point], check=False, capture_output=True).returncode == 0


def test_a_folder_below_the_root_mounted_and_unmounted(tmp_path: Path, image: Path) -> None:
    """A share mounted on a day folder is found by a scan at the latest, and its going is told."""
    with Service(tmp_path, watch={"rescan_s": 1.0}) as service:
        (service.raw / "day").mkdir()
        put(service.raw, 0, 1)
        service.until(lambda: service.live_names() == {"It_0.csv"}, "the first run")
        command("mount", "-o", "loop", image, tmp_path / "data" / "01_raw" / "day")
        try:
            put(service.raw / "day", 1, 1)
            service.until(lambda: service.live_names() == {"It_0.csv", "day/It_1.csv"}, "the run on the share")
        finally:
            service.until(lambda: _unmounted(service.raw / "day"), "it can be unmounted")
        put(service.raw, 2, 1)
        service.until(lambda: "It_2.csv" in service.live_names(), "life goes on")
        assert service.stop() == 0
        assert len(service.rows()) == 3


def test_a_folder_that_is_opened_to_us_is_watched(tmp_path: Path) -> None:
    """The kernel does not say that it may be listed now; the next scan finds it, and the watch is placed anew."""
    service = Service(tmp_path, watch={"rescan_s": 1.0})
    closed = service.raw / "closed"
    (closed / "deep").mkdir(parents=True)
    closed.chmod(0)
    service.start(prefix=tuple(powerless()))
    with service:
        service.until(lambda: service.lines("folder_unreadable"), "it is told")
        assert service.watches() == 1
        closed.chmod(0o755)
        service.until(lambda: service.watches() == 3, "a watch on each folder")
        names = {f"closed/deep/{name}" for name in put(closed / "deep", 0, 1)}
        service.until(lambda: service.live_names() == names, "a run in it")
        assert service.stop() == 0


# ---- no hints at all ------------------------------------------------------------------------------------------------


def test_scanning_only(tmp_path: Path) -> None:
    """`watch.mode = "scan"`, for network shares: no watch stands, everything is found at the next scan."""
    with Service(tmp_path, watch={"mode": "scan", "rescan_s": 0.5}) as service:
        links = [path.readlink() for path in Path(f"/proc/{service.pid}/fd").iterdir() if path.is_symlink()]
        assert Path("anon_inode:inotify") not in links
        assert service.status().service.watching == "by scanning every 0.5 s"
        names = {f"a/b/{name}" for name in put(service.raw / "a" / "b", 0, 5)}
        service.until(lambda: service.live_names() == names, "five runs")
        with (service.raw / "It_9.csv").open("wb") as file:
            file.write(run_of(9))
            file.flush()
            service.until(lambda: service.waiting() == {"It_9.csv": "running"}, "a running file")
        service.until(lambda: service.live_names() == names | {"It_9.csv"}, "its end")
        (service.raw / "a").rename(service.raw / "moved")
        moved = {name.replace("a/b", "moved/b") for name in names} | {"It_9.csv"}
        service.until(lambda: service.live_names() == moved, "a renamed folder")
        assert service.stop() == 0
        assert len(service.rows()) == 6
        service.check_whole()


@pytest.fixture
def few_watches() -> tuple[str, ...]:
    """What runs a process in a user namespace of its own in which six folders may be watched."""
    prefix = ("unshare", "--user", "--map-root-user", "sh", "-c", f'echo 6 > {WATCHES} && exec "$@"', "sh")
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no user namespace may be made here, so the kernel's limits cannot be lowered for a test alone")
    return prefix


def test_the_limit_of_watched_folders(tmp_path: Path, few_watches: tuple[str, ...]) -> None:
    """More folders than the kernel watches: found by scanning, the log names the `sysctl`; raised, hints come again."""
    service = Service(tmp_path, watch={"rescan_s": 1.0}, settle={"quiet_s": 1.0})
    for n in range(10):
        (service.raw / f"day{n}").mkdir()
    with service.start(prefix=few_watches):
        names = {f"day{n}/{name}" for n in range(10) for name in put(service.raw / f"day{n}", n, 1)}
        service.until(lambda: service.live_names() == names, "a run in every folder")
        service.until(lambda: service.lines("watch_limited"), "the limit is told")
        assert "sudo sysctl fs.inotify.max_user_watches=" in service.lines("watch_limited")[0]["problem"]
        service.until(lambda: "because the kernel's limit" in service.status().service.watching, "status tells it")
        enter = ["nsenter", "--user", "--preserve-credentials", f"--target={service.pid}"]
        subprocess.run([*enter, "sh", "-c", f"echo 1000 > {WATCHES}"], check=True)
        service.until(lambda: service.lines("watch_restored"), "the return is told")
        service.until(lambda: service.status().service.watching.startswith("by inotify"), "status tells it too")
        names |= {f"day7/{name}" for name in put(service.raw / "day7", 70, 1)}
        service.until(lambda: service.live_names() == names, "one more run")
        assert service.stop() == 0
        assert len(service.lines("watch_limited")) == 1
        service.check_whole()
