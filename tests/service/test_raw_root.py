"""A raw root that is away, at the start or later: waited for, told once, seen by others, and nothing is made for it."""

from __future__ import annotations

import shutil
from pathlib import Path

from running import Service, put

QUICK = {"retry_s": 0.1, "retry_max_s": 0.5}


def test_the_root_is_missing_at_a_start(tmp_path: Path) -> None:
    """A share that is mounted late is waited for, visibly, and picked up when it comes."""
    with Service(tmp_path) as service:
        names = put(service.raw, 0, 2)
        service.until(lambda: service.live_names() == names, "the first runs")
        assert service.stop() == 0
        away = service.raw.rename(tmp_path / "away")
        service.start()
        assert f"STATUS=waiting for {service.raw}: there is no such folder of raw files" in service.heard()
        assert service.lines("waiting_for_raw_root")
        service.until(lambda: "WATCHDOG=1" in service.heard(), "a sign of life, or systemd would restart it")
        shown = service.status()
        (trouble,) = shown.troubles
        assert (trouble.place, int(shown.health)) == (str(service.raw), 1)
        waiting = f"waiting for {service.raw}: there is no such folder of raw files"
        assert (shown.service.phase, shown.service.pid, shown.service.doing) == ("starting", service.pid, waiting)
        names |= put(away, 2, 1)
        away.rename(service.raw)
        service.until(lambda: service.live_names() == names, "the run that came meanwhile")
        service.until(lambda: service.status().health == 0, "no trouble left")
        assert len(service.rows()) == 3
        assert service.stop() == 0
        service.check_whole()


def test_others_beside_a_service_that_waits_for_its_root(tmp_path: Path) -> None:
    """It is told by its pid; a second one, and a repair, are refused at once, a backfill of other raw files is not."""
    with Service(tmp_path) as service:
        assert service.stop() == 0
        away = service.raw.rename(tmp_path / "away")
        service.start()
        told = service.command("status").stdout
        assert told.startswith(f"service   starting (pid {service.pid} on ")
        assert told.count("there is no such folder of raw files") == 1
        log = service.layout.log_file.read_bytes()
        for words in (["run"], ["repair", "--apply"]):
            refused = service.command(*words)
            assert f"another service or repair (pid {service.pid} on" in refused.stderr
        assert service.layout.log_file.read_bytes() == log, "the log is the first one's"
        names = put(away, 0, 1)
        assert service.command("backfill", "--raw-root", str(away)).returncode == 0
        assert service.live_names() == names
        service.heard()  # so that there is room for more
        assert service.stop() == 0
        assert ("STOPPING=1" in service.heard(), service.lines()[-1]["event"]) == (True, "stopped")
        assert service.command("status").stdout.startswith("service   is not running: new runs wait for it")


def test_a_service_that_waits_is_seen_on_the_disk_that_was_mounted_meanwhile(tmp_path: Path) -> None:
    """The stage comes with its disk, over the one where the lock was: it is taken there, too, and others find it."""
    with Service(tmp_path) as service:
        assert service.stop() == 0
        stage, other = service.layout.stage_root, tmp_path / "mounted later"
        shutil.copytree(stage, other)
        away = service.raw.rename(tmp_path / "away")
        service.start()
        assert service.status().service.pid == service.pid
        stage.rename(tmp_path / "below the mount")
        assert service.status().service.phase == "down"
        other.rename(stage)
        service.until(lambda: service.status().service.pid == service.pid, "it is seen again")
        assert service.status().service.phase == "starting"
        names = put(away, 0, 1)
        away.rename(service.raw)
        service.until(lambda: service.live_names() == names, "the run")
        assert service.stop() == 0
        service.check_whole()


def test_a_root_that_cannot_be_looked_at_is_waited_for(tmp_path: Path) -> None:
    """A dead share, or a folder closed to us, may be well again tomorrow: that is no mistake in the settings."""
    paths = {"data_root": str(tmp_path / "data"), "raw_root": str(tmp_path / ("x" * 300))}
    with Service(tmp_path, paths=paths) as service:
        (told,) = service.lines("waiting_for_raw_root")
        assert told["problem"] == "File name too long"
        (trouble,) = service.status().troubles
        assert trouble.message == "File name too long"
        assert service.stop() == 0


def test_a_root_that_goes_away_is_told_once_and_in_one_wording(tmp_path: Path) -> None:
    """The scan, the watch and `status` name the same cause; `status` says it once, since when, and what to do."""
    with Service(tmp_path, service=QUICK) as service:
        away = service.raw.rename(tmp_path / "away")
        cause = "there is no such folder of raw files"
        service.until(lambda: any(one.tries > 1 for one in service.status().troubles), "the scan is tried again")
        service.until(lambda: service.status().service.watching.endswith(f"{service.raw}: {cause}"), "so is the watch")
        shown = service.status()
        assert shown.service.doing == f"waiting: {cause} ({service.raw})"
        (trouble,) = shown.troubles
        assert (trouble.message, trouble.place) == (cause, str(service.raw))
        said = service.command("status").stdout
        assert said.count(cause) == 1
        assert "No such file" not in said
        assert said.startswith(f"service   running (pid {service.pid} on ")
        assert "): waiting until the trouble below is over\n" in said
        assert {line["problem"] for line in service.lines() if line["level"] == "error"} == {cause}
        away.rename(service.raw)
        service.until(lambda: service.status().health == 0, "no trouble left")
        assert service.stop() == 0


def test_nothing_is_made_while_the_root_is_missing(tmp_path: Path) -> None:
    """The data root may be the empty place where a disk is to be mounted: it stays empty, and a stop is obeyed."""
    service = Service(tmp_path)
    service.raw.rmdir()
    with service:
        service.until(lambda: service.lines("waiting_for_raw_root"), "it is told")
        assert not list(service.data.iterdir())
        unseen = f"none is seen, but one that waits for {service.raw} would leave no trace until that is there"
        assert (service.status().service.phase, service.status().service.doing) == ("down", unseen)
        assert service.stop() == 0
        assert not list(service.data.iterdir())


def test_a_late_root_misses_no_log_before_there_is_a_stage(tmp_path: Path) -> None:
    """It waits without a word about its log, whose first line is written with the stage; commands tell its config."""
    service = Service(tmp_path)
    service.raw.rmdir()
    with service:
        (told,) = service.lines("waiting_for_raw_root")
        assert f"`ingestd config show --config {service.config}`" in told["next_step"]
        service.raw.mkdir()
        service.until(lambda: service.lines("started"), "the start")
        assert not service.lines("log_not_written")
        service.until(lambda: '"started"' in service.layout.log_file.read_text(), "the log is written")
        assert service.stop() == 0
