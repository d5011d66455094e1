"""P1: a link that somebody puts among ingestd's folders while the service runs leads no write into the raw files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from logged import Start
from measurement import Measurement
from running import Service, put, run_of
from turning import QUICK, until_turned

from ingestd.errors import Retry
from ingestd.files import scan_csvs
from ingestd.ingest.commit import opened
from ingestd.raw_guard import Guard
from ingestd.service.logs import our_log
from ingestd.service.messages import DeleteOldEvents
from ingestd.service.worker import Worker
from ingestd.settings import Settings, load_settings


@pytest.mark.parametrize(
    "place", ["histories", "02_stage/_manifest/events", "02_stage/_tmp", "02_stage/raw_measurements"]
)
def test_no_write_goes_through_a_link_put_later(tmp_path: Path, place: str) -> None:
    """The runs wait, the trouble names the link, and everything goes on when it was moved away."""
    with Service(tmp_path, service=QUICK) as service:
        names = put(service.raw, 0, 2)
        service.until(lambda: service.lines("histories"), "the first histories")
        folder = service.data / place
        away = folder.rename(folder.with_name("away"))
        folder.symlink_to(service.raw)
        names |= put(service.raw, 2, 2)
        service.until(lambda: service.lines("trouble"), "the trouble is told")
        trouble = service.lines("trouble")[0]
        assert "where ingestd never writes" in trouble["problem"]
        assert trouble["place"] == f"{folder} (a link to {service.raw})"
        assert trouble["next_step"].startswith("move the link away")
        assert {path.name for path in service.raw.iterdir()} == names
        folder.unlink()
        away.rename(folder)
        service.until(lambda: service.live_names() == names, "the runs")
        service.until(lambda: service.lines("resumed"), "the log says that it goes on")
        assert service.stop() == 0
        assert {path.name for path in service.raw.iterdir()} == names
        service.check_whole()


def test_no_file_is_staged_through_a_link_that_took_its_folder(tmp_path: Path) -> None:
    """Its folder was moved out of the raw files and linked from there while the file waited."""
    with Service(tmp_path, service=QUICK) as service:
        day, away = service.raw / "day", tmp_path / "away"
        day.mkdir()
        path = day / "It_1.csv"
        path.write_bytes(run_of(7))
        with path.open("ab"):
            service.until(lambda: service.lines("waiting"), "the file waits")
            day.rename(away)
            day.symlink_to(away)
        names = put(service.raw, 0, 2)
        service.until(lambda: service.lines("gone"), "the log says where it went")
        service.until(lambda: service.live_names() == names, "the runs beside it")
        assert [line["source_file"] for line in service.lines("gone")] == ["day/It_1.csv"]
        day.unlink()
        away.rename(day)
        names.add("day/It_1.csv")
        service.until(lambda: service.live_names() == names, "it is staged from its own place")
        assert service.stop() == 0
        service.check_whole()


def test_no_raw_folder_passes_for_a_day_of_events(settings: Settings) -> None:
    """They are called after days as well: `events.keep_days` deletes none of them through a link."""
    layout = settings.layout
    path = layout.raw_root / "2020-02-03" / "It_1.csv"
    path.parent.mkdir(parents=True)
    path.write_bytes(Measurement().data)
    with opened(settings) as ingest:
        worker = Worker(ingest)
        layout.events_dir.parent.mkdir(parents=True, exist_ok=True)
        layout.events_dir.symlink_to(layout.raw_root)
        worker.inbox.put(DeleteOldEvents())
        until_turned(worker, lambda: worker.view.troubles, "the trouble")
    assert "where ingestd never writes" in worker.view.troubles[0].message
    assert list(scan_csvs(layout.raw_root).files) == ["2020-02-03/It_1.csv"]


def test_the_log_is_not_written_into_a_measurement(start: Start, tmp_path: Path) -> None:
    """The stream tells why; the log goes on when the link was moved away."""
    raw, path = tmp_path / "01_raw", tmp_path / "ingestd.log"
    raw.mkdir()
    (raw / "It_1.csv").write_bytes(Measurement().data)
    _, stream, _ = start(file=path, raw_root=raw)
    log = our_log()
    log.info("one")
    path.unlink()
    path.symlink_to(raw / "It_1.csv")
    log.info("two")
    assert "a link leads from here into paths.raw_root" in stream.getvalue()
    assert (raw / "It_1.csv").read_bytes() == Measurement().data
    path.unlink()
    log.info("three")
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["three"]


def test_a_guard_asks_again_only_when_a_folder_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at where everything leads takes a millisecond, and a guard is asked for every batch."""
    layout = load_settings(None, {"paths": {"data_root": tmp_path}}).layout
    layout.raw_root.mkdir()
    guard, asked = Guard(layout), list[int]()
    monkeypatch.setattr("ingestd.raw_guard.find_clash", lambda _: asked.append(1))
    guard.check()
    guard.check()
    assert len(asked) == 1
    layout.histories_dir.mkdir()
    guard.check()
    assert len(asked) == 2
    monkeypatch.undo()
    layout.histories_dir.rmdir()
    layout.histories_dir.symlink_to(layout.raw_root)
    for _ in range(2):
        with pytest.raises(Retry, match="where ingestd never writes"):
            guard.check()
