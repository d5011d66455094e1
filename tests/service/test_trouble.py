"""When the world is at fault: no reject, no crash, the trouble is shown, and work resumes by itself."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from measurement import BROKEN, Measurement
from mounts import fill_up
from running import Service, put
from turning import QUICK, until_turned

from ingestd import files
from ingestd.histories.chip import HistoryChange
from ingestd.ingest.commit import Ingest, opened
from ingestd.service.messages import Compact, Hint, ScanAsked
from ingestd.service.worker import Worker
from ingestd.settings import Settings
from ingestd.stage.workspace import workspace

ONE = Measurement()


# ---- one place ------------------------------------------------------------------------------------------------------


def test_a_blocked_history_keeps_no_other_waiting(tmp_path: Path) -> None:
    """It is tried again only after an hour; the histories of chips that change meanwhile are written as ever."""
    histories = {"debounce_s": 0.05}
    with Service(tmp_path, service={"retry_s": 3600.0, "retry_max_s": 3600.0}, histories=histories) as service:
        place = service.layout.history_file("Alisson60")
        place.mkdir(parents=True)
        put(service.raw, 0, 2)
        service.until(lambda: service.lines("trouble"), "the trouble is told")
        assert service.lines("trouble")[0]["place"] == str(place)
        assert service.lines("histories")[0]["chips"] == ["Alisson61"]
        put(service.raw, 2, 1)
        service.until(lambda: service.layout.history_file("Alisson62").exists(), "another chip's history")
        assert len(service.lines("trouble")) == 1
        place.rmdir()
        put(service.raw, 3, 1)
        service.until(lambda: service.lines("resumed"), "the next one brings all up to date")
        assert place.is_file()
        assert service.stop() == 0
        service.check_whole()


def test_an_event_that_could_not_be_written_is_told_at_once(tmp_path: Path) -> None:
    """However far the next compaction is: `status` names the place, and the JSON follows when the place gives way."""
    with Service(tmp_path, service={"compact_s": 86400.0, **QUICK}) as service:
        place = service.layout.events_dir
        shutil.rmtree(place, ignore_errors=True)
        place.touch()
        put(service.raw, 0, 1)
        service.until(lambda: service.status().troubles, "the trouble is shown")
        assert service.status().troubles[0].place.startswith(str(place))
        assert len(service.live_names()) == 1
        place.unlink()
        service.until(lambda: list(place.rglob("*-ingested.json")), "the event JSON")
        service.until(lambda: not service.status().troubles, "the end of the trouble")
        assert service.stop() == 0
        service.check_whole()


# ---- disk full ------------------------------------------------------------------------------------------------------


def test_less_free_space_than_wanted(tmp_path: Path) -> None:
    """Below `service.free_mib` nothing is staged or rejected; `status`, STATUS= and log name it, and it goes on."""
    with Service(tmp_path, service={"free_mib": 1e9, **QUICK}) as service:
        names = put(service.raw, 0, 3)
        service.until(lambda: service.status().troubles, "the trouble is shown")
        (trouble,) = service.status().troubles
        assert "less than service.free_mib" in trouble.message
        assert trouble.place == str(service.layout.stage_root)
        assert "free some space" in trouble.next_step
        service.until(lambda: any("service.free_mib" in word for word in service.heard()), "systemd is told")
        assert service.command("status").returncode == 1
        service.until(lambda: service.status().troubles[0].tries >= 4, "it is tried again and again")
        assert not service.live_names()
        assert not service.lines("rejected")
        assert len(service.lines("trouble")) == 1, "told once, not at every try"
        assert set(service.waiting()) == names
        assert service.stop() == 0
        assert not service.lines("resumed"), "a stop ends no trouble"
        service.config.write_text(service.config.read_text().replace("1000000000.0", "0"))
        service.start()
        service.until(lambda: service.live_names() == names, "the runs, when there is room")
        assert service.stop() == 0
        service.check_whole()


def test_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    """Full to the last byte while runs come in: alive, nothing rejected, shown; freed, everything is ingested."""
    paths = {"data_root": str(tmp_path / "data"), "stage_root": str(small_disk / "stage")}
    service = Service(tmp_path, paths=paths, service={"free_mib": 0.0, **QUICK})
    with service:
        names = put(service.raw, 0, 5)
        service.until(lambda: service.live_names() == names, "runs while there is room")
        filler = fill_up(small_disk)
        names |= put(service.raw, 5, 40)
        service.until(lambda: service.lines("trouble"), "the trouble is told")
        assert "space" in service.lines("trouble")[0]["problem"].lower()
        service.until(lambda: any("space" in word.lower() for word in service.heard()), "systemd is told")
        assert service.process is not None
        assert service.process.poll() is None
        filler.unlink()
        service.until(lambda: service.live_names() == names, "all runs once there is room")
        service.until(lambda: service.status().health == 0, "no trouble left")
        service.until(lambda: service.lines("resumed"), "the log says that it goes on")
        assert not service.lines("rejected")
        assert service.stop() == 0
        assert len(service.rows()) == 45
        service.check_whole()


def test_a_start_on_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    """It runs, and as soon as there is room for its state file `status` tells so, though nothing else happens."""
    paths = {"data_root": str(tmp_path / "data"), "stage_root": str(small_disk / "stage")}
    with Service(tmp_path, paths=paths, service={"free_mib": 0.0, **QUICK}) as service:
        assert service.stop() == 0
        filler = fill_up(small_disk)
        service.start()
        service.until(lambda: "STATUS=watching" in service.heard(), "it is at rest")
        assert service.status().service.phase == "starting"
        filler.unlink()
        service.until(lambda: service.status().service.doing == "watching", "it is told", 20)
        assert service.stop() == 0


def test_the_folder_for_undecided_parquet_is_deleted(tmp_path: Path) -> None:
    """Whoever tidies `_tmp` away under the service costs nothing: it is made anew, and locked, for the next batch."""
    with Service(tmp_path) as service:
        names = put(service.raw, 0, 1)
        service.until(lambda: service.live_names() == names, "a run")
        shutil.rmtree(service.layout.temporary_root)
        names |= put(service.raw, 1, 2)
        service.until(lambda: service.live_names() == names, "the next runs")
        assert not service.lines("trouble")
        with workspace(service.layout.temporary_root):  # as any other command does, sweeping what nobody owns
            assert len(list(service.layout.temporary_root.glob("*/owner.lock"))) == 2
        names |= put(service.raw, 3, 1)
        service.until(lambda: service.live_names() == names, "a run after a sweep")
        assert service.stop() == 0
        assert [path.name for path in service.layout.temporary_root.iterdir()] == ["sweep.lock"]
        service.check_whole()


def test_a_stage_that_is_gone_and_comes_back(tmp_path: Path) -> None:
    """The disk of the stage goes under the service: no other manifest is begun, and work resumes when it is back."""
    with Service(tmp_path, service=QUICK) as service:
        names = put(service.raw, 0, 3)
        service.until(lambda: service.live_names() == names, "the first runs")
        service.until(lambda: all(service.history(f"Alisson{chip}") for chip in (60, 61, 62)), "histories")
        away = tmp_path / "stage away"
        service.layout.stage_root.rename(away)
        service.layout.stage_root.mkdir()  # the empty place where the disk was mounted
        names |= put(service.raw, 3, 2)
        service.until(
            lambda: len([word for word in service.heard() if word.startswith("STATUS=waiting: ")]) >= 3, "told"
        )
        assert service.lines("trouble")
        (service.raw / "day").mkdir()  # a scan looks into the manifest too
        service.until(lambda: "the write-ahead log is gone" in str(service.lines("trouble")), "the cause is told")
        service.until(lambda: "the write-ahead log is gone" in str(service.status().troubles), "status tells it")
        shown = service.status()
        assert (shown.service.phase, shown.health) == ("running", 1), "its lock went with the disk, it lives on"
        left = [path for path in service.layout.stage_root.rglob("*") if path.is_file()]
        assert not [path for path in left if path.suffix in {".log", ".parquet"} and path.name != "ingestd.log"]
        subprocess.run(["rm", "-r", service.layout.stage_root], check=True)
        away.rename(service.layout.stage_root)
        service.until(lambda: service.live_names() == names, "everything, once it is back")
        service.until(lambda: not service.status().troubles, "no trouble left")
        assert service.stop() == 0
        service.check_whole()


# ---- jobs -----------------------------------------------------------------------------------------------------------


def test_a_compaction_that_failed_is_tried_again_and_keeps_nothing_up(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the table cannot be written runs are ingested; the trouble is shown, and ends when it could be written."""
    worker, raw = Worker(ingest), ingest.layout.raw_root
    put(raw, 0, 1)
    worker.inbox.put(Hint("It_0.csv"))
    until_turned(worker, lambda: len(ingest.store.catalog.rows) == 1, "a run")
    refused = files.retry_from(OSError(errno.ENOSPC, "No space left on device"), ingest.layout.manifest_path)

    def refuse() -> None:
        raise refused

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "compact", refuse)
        worker.inbox.put(Compact())
        until_turned(worker, lambda: worker.view.troubles, "the trouble is shown")
        since = worker.view.troubles[0].since
        put(raw, 1, 1)
        worker.inbox.put(Hint("It_1.csv"))
        until_turned(worker, lambda: len(ingest.store.catalog.rows) == 2, "a run meanwhile")
        until_turned(worker, lambda: worker.view.troubles[0].tries >= 3, "it is tried again")
        assert worker.view.troubles[0].since == since, "it is the same trouble still"
    until_turned(worker, lambda: not worker.view.troubles, "the trouble is over")
    assert ingest.store.pending == 0
    assert ingest.layout.manifest_path.exists()


def test_a_reject_json_whose_place_is_blocked_is_a_trouble(ingest: Ingest) -> None:
    """The table is written all the same; what stands in the way is shown until it is gone, then the JSON is there."""
    worker, place = Worker(ingest), ingest.layout.reject_file("bad.csv")
    place.mkdir(parents=True)
    ingest.layout.raw_file("bad.csv").write_bytes(BROKEN)
    worker.inbox.put(Hint("bad.csv"))
    until_turned(worker, lambda: "bad.csv" in ingest.store.catalog.notes, "the reject")
    worker.inbox.put(Compact())
    until_turned(worker, lambda: worker.view.troubles, "the trouble is shown")
    assert [trouble.place for trouble in worker.view.troubles] == [str(place)]
    assert ingest.layout.known_files_path.exists()
    place.rmdir()
    until_turned(worker, place.is_file, "the JSON")
    until_turned(worker, lambda: not worker.view.troubles, "the trouble is over")


def test_a_manifest_out_of_reach_after_a_refused_commit_forgets_no_file(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was decided is not written, and cannot be read either for a while: then every file is ingested all the same.

    Meanwhile the trouble stays one: nothing is said to have resumed.
    """
    worker = Worker(ingest)
    names = put(ingest.layout.raw_root, 0, 3)

    def refuse(*_: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(ingest.layout.wal_dir))

    with monkeypatch.context() as patch:
        patch.setattr("ingestd.manifest.log.append", refuse)
        patch.setattr("ingestd.manifest.log.replay", refuse)
        for name in names:
            worker.inbox.put(Hint(name))
        until_turned(worker, lambda: any(one.tries >= 3 for one in worker.view.troubles), "it is tried again and again")
        worker.inbox.put(ScanAsked("start"))
        until_turned(worker, lambda: len(worker.view.troubles) == 2, "a scan is refused as well")
    until_turned(worker, lambda: not worker.view.troubles, "the troubles are over")
    assert {run.source_file for run in ingest.store.catalog.rows.values()} == names
    assert worker.view.backlog == 0


def test_a_disk_on_which_nothing_can_be_deleted_forgets_no_file(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was staged stays on a disk that became read-only; once it is writable, its files are staged again."""
    worker = Worker(ingest)
    names = put(ingest.layout.raw_root, 0, 3)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(ingest.layout.stage_root))

    with monkeypatch.context() as patch:
        patch.setattr("ingestd.manifest.log.append", refuse)
        patch.setattr(os, "unlink", refuse)
        for name in names:
            worker.inbox.put(Hint(name))
        until_turned(worker, lambda: any(one.tries >= 3 for one in worker.view.troubles), "it is tried again and again")
    worker.inbox.put(ScanAsked("start"))
    until_turned(worker, lambda: not worker.view.troubles, "the trouble is over")
    until_turned(worker, lambda: {run.source_file for run in ingest.store.catalog.rows.values()} == names, "the runs")


def test_a_lock_held_for_long_is_waited_for(tmp_path: Path, settings: Settings) -> None:
    """Another process that keeps the manifest's lock is a trouble with its pid, not the end of the service."""
    quick = settings.model_copy(update={"manifest": settings.manifest.model_copy(update={"lock_timeout_s": 0.05})})
    other = files.Lock(settings.layout.lock_path)
    with opened(quick) as ingest:
        worker = Worker(ingest)
        put(ingest.layout.raw_root, 0, 1)
        with other.held():
            worker.inbox.put(Hint("It_0.csv"))
            until_turned(worker, lambda: worker.view.troubles, "the trouble is shown")
            assert f"pid {os.getpid()}" in worker.view.troubles[0].message
        until_turned(worker, lambda: len(ingest.store.catalog.rows) == 1, "the run")
        until_turned(worker, lambda: not worker.view.troubles, "the trouble is over")
        assert worker.failure is None


def test_any_error_of_the_disk_is_a_trouble(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """An OSError that no room gave words to does not end the service either."""
    worker = Worker(ingest)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "/somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "commit", fail)
        put(ingest.layout.raw_root, 0, 1)
        worker.inbox.put(Hint("It_0.csv"))
        until_turned(worker, lambda: worker.view.troubles, "the trouble is shown")
        (trouble,) = worker.view.troubles
        assert (trouble.message, trouble.place) == ("Input/output error", "/somewhere")
        assert "dmesg" in trouble.next_step
    until_turned(worker, lambda: len(ingest.store.catalog.rows) == 1, "the run")
    until_turned(worker, lambda: not worker.view.troubles, "the trouble is over")


def test_messages_that_came_together_are_served_together(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand scans and compactions asked for while the worker was busy are one scan and one compaction."""
    worker = Worker(ingest)
    done: list[str] = []
    compact = ingest.compact

    def compact_noted() -> object:
        done.append("compaction")
        return compact()

    def scan_noted(*_: object) -> list[object]:
        done.append("scan")
        return []

    monkeypatch.setattr(ingest, "compact", compact_noted)
    monkeypatch.setattr(ingest, "orphaned_copies", scan_noted)
    for _ in range(1000):
        worker.inbox.put(ScanAsked("routine", routine=True))
        worker.inbox.put(ScanAsked("a folder appeared"))
        worker.inbox.put(Compact())
    worker.turn(0.0)
    worker.turn(0.0)
    assert sorted(done) == ["compaction", "scan"]
    assert worker.inbox.empty()


def test_a_backlog_goes_before_histories(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """While files wait, histories are not written after every batch; when none waits any more they follow at once."""
    monkeypatch.setattr("ingestd.service.follow_up.HISTORY_REST", 1e6)
    worker, raw = Worker(ingest), ingest.layout.raw_root
    written: list[int] = []
    refresh = ingest.refresh_histories

    def noted() -> list[HistoryChange]:
        written.append(len(ingest.store.catalog.rows))
        return refresh()

    monkeypatch.setattr(ingest, "refresh_histories", noted)
    put(raw, 0, 1)
    worker.inbox.put(Hint("It_0.csv"))
    until_turned(worker, lambda: written, "a history for the one run")
    put(raw, 1, 300)
    worker.inbox.put(ScanAsked("many files"))
    until_turned(worker, lambda: written[-1] == 301, "the histories of all")
    assert written == [1, 301]
