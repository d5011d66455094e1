"""A backfill within one process: what it looks at, what it waits for, what it passes over."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from archive import Archive
from inline import FIND_INLINE, InlineEngine, inline
from measurement import BROKEN, Measurement
from powerless import powerless

from ingestd.backfill.run import Options, backfill, dry_run
from ingestd.errors import Retry
from ingestd.ingest.commit import utc_now
from ingestd.raw.settling import State
from ingestd.stage.run import Outcome, StageTask

RUN = Measurement()
OTHER = Measurement(start=1758639999.5, chip=67, sample=1)
A, B = "2025-09-23/It_1.csv", "2025-09-23/It_2.csv"
WATCHED = (
    FIND_INLINE
    + """
import sys
from pathlib import Path
from ingestd.backfill.run import Options, backfill
from inline import inline
from ingestd.settings import load_settings

settings = load_settings(Path(sys.argv[1]), {"paths": {"data_root": Path(sys.argv[2])}})
raw = str(settings.layout.raw_root)
opened = []

def hook(event, arguments):
    if event == "open" and str(arguments[0]).startswith(raw) and str(arguments[0]).endswith("csv"):
        opened.append(str(arguments[0])[len(raw) + 1:])

sys.addaudithook(hook)
for _ in range(2):
    report = backfill(settings, Options(engine=inline))
    print(sorted(set(opened)), sum(report.events.values()), len(report.waiting))
    opened.clear()
"""
)


def every_kind(archive: Archive) -> None:
    """Put files in of every fate: two runs, a copy, a reject, a queued file."""
    archive.put(A, RUN.data)
    archive.put(B, OTHER.data)
    archive.copy(A, "copies/It_1.csv")
    archive.put("2025-09-23/broken.csv", BROKEN)
    archive.put("2025-09-23/queued.csv", RUN.but(rows=0).data)


def written(root: Path) -> dict[str, tuple[bytes, int]]:
    """Return bytes and mtime of every file but the locks below the data root."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file() and "lock" not in path.name
    }


# ---- the second run --------------------------------------------------------------------------------------------------


def test_a_second_run_opens_no_raw_file(archive: Archive) -> None:
    """The first run opens every file, the second none: not the reject, the copy or the queued one either."""
    every_kind(archive)
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(archive.root.parent / "config.toml"), str(archive.root)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    first, second = done.stdout.splitlines()
    assert first == f"{sorted(archive.files())} 5 1"
    assert second == "[] 0 1"


def test_a_second_run_writes_nothing(archive: Archive) -> None:
    """Manifest, log, events, histories and rejects keep bytes and mtimes."""
    every_kind(archive)
    archive.backfill()
    before = written(archive.root)
    assert archive.backfill() == []
    assert written(archive.root) == before
    assert archive.report.histories == []


def test_a_dry_run_tells_what_a_run_would_look_at_and_writes_nothing(archive: Archive) -> None:
    """New and changed files are named; not even the stage's folder is made."""
    archive.put(A, RUN.data)
    assert dry_run(archive.settings).to_do == {A: "new"}
    assert [path.name for path in archive.root.iterdir()] == ["01_raw"]
    archive.backfill()
    archive.put(A, RUN.but(rows=4).data)
    archive.put(B, OTHER.data)
    before = written(archive.root)
    assert dry_run(archive.settings).to_do == {A: "changed", B: "new"}
    assert written(archive.root) == before


def test_only_the_files_asked_for(archive: Archive) -> None:
    """`only` leaves every other file for a later run."""
    archive.put(A, RUN.data)
    archive.put(B, OTHER.data)
    report = backfill(archive.settings, Options(only=frozenset({B}), engine=inline))
    assert sum(report.events.values()) == 1
    assert list(archive.live()) == [B]


def test_a_stop_keeps_what_was_committed(tmp_path: Path) -> None:
    """Stopped after the first batch, the run ends well, with histories and manifest; the next one goes on."""
    archive = Archive(tmp_path, stage={"batch_files": 2})
    for number in range(6):
        archive.put(f"day/It_{number}.csv", RUN.but(sample=number, start=1758632155.25 + number).data)
    told: list[object] = []
    options = Options(
        stop=lambda: bool(told),
        on_record=told.append,
        engine=inline,
        clock=archive.now,
    )
    report = backfill(archive.settings, options)
    assert report.interrupted
    assert archive.history(72) == ["day/It_0.csv", "day/It_1.csv"]
    report = backfill(archive.settings, Options(engine=inline, clock=archive.now))
    assert not report.interrupted
    assert len(archive.history(72)) == 6


def test_without_a_raw_root_nothing_is_made(tmp_path: Path) -> None:
    """A mistyped or unmounted data root is told, and no folder of ours appears there."""
    archive = Archive(tmp_path)
    archive.raw.rmdir()
    with pytest.raises(Retry, match="01_raw"):
        backfill(archive.settings)
    assert list(archive.root.iterdir()) == []


# ---- files that are not over -----------------------------------------------------------------------------------------


def test_a_file_changed_a_moment_ago_is_staged_by_the_same_run(archive: Archive) -> None:
    """A young file is waited for as long as it takes to settle, not left for the next run."""
    path = archive.put(A, RUN.data)
    os.utime(path)
    assert archive.backfill(clock=utc_now) == [("ingested", A)]
    assert archive.report.waiting == []


def test_a_file_that_changes_while_it_is_waited_for_has_not_settled(tmp_path: Path) -> None:
    """It is steady since its last change, not since the scan: the next run takes it."""
    archive = Archive(tmp_path, settle={"settle_s": 2.0})
    path = archive.put(A, RUN.data)
    moment = utc_now()
    os.utime(path, (moment.timestamp(),) * 2)
    waits = iter(range(100))

    def grow() -> bool:
        if next(waits) == 2:
            path.write_bytes(RUN.but(rows=4).data)
            os.utime(path, (moment.timestamp() + 1,) * 2)
        return False

    report = backfill(archive.settings, Options(engine=inline, clock=lambda: moment, stop=grow))
    assert [(file.source_file, file.code) for file in report.waiting] == [(A, "settling")]
    assert archive.backfill() == [("ingested", A)]


@pytest.mark.parametrize("ahead_s", [0.2, 86_400.0])
def test_an_mtime_in_the_future_delays_nothing_for_long(archive: Archive, ahead_s: float) -> None:
    """A file from a computer whose clock is ahead is staged, by this run."""
    path = archive.put(A, RUN.data)
    moment = utc_now().timestamp() + ahead_s
    os.utime(path, (moment, moment))
    assert archive.backfill(clock=utc_now) == [("ingested", A)]


def test_a_file_open_for_writing_is_running(archive: Archive) -> None:
    """While another process has it open for writing a file waits, whatever its age; closed, it is staged."""
    path = archive.put(A, RUN.data)
    script = "import sys; file = open(sys.argv[1], 'ab'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as recorder:
        assert recorder.stdout is not None
        assert recorder.stdout.readline() == "open\n"
        report = backfill(archive.settings, Options(engine=inline))
        (waiting,) = report.waiting
        assert (waiting.source_file, waiting.state) == (A, State.RUNNING)
        assert f"(pid {recorder.pid}) has it open for writing" in waiting.reason
        assert not archive.rows()
        recorder.communicate("")
    assert archive.backfill() == [("ingested", A)]


def test_an_incomplete_last_line_is_waited_for(archive: Archive) -> None:
    """For `quiet_s` the rest of the line may come; after that the complete rows are staged, with a warning."""
    path = archive.put(A, RUN.but(tail="1.5,3.4e-0").data)
    changed = path.stat().st_mtime
    soon = archive.now().fromtimestamp(changed + 29, archive.now().tzinfo)
    report = backfill(archive.settings, Options(engine=inline, clock=lambda: soon))
    (waiting,) = report.waiting
    assert (waiting.state, waiting.rows) == (State.RUNNING, 3)
    assert "last line is incomplete" in waiting.reason
    assert archive.backfill(clock=lambda: soon + timedelta(seconds=2)) == [("ingested", A)]
    row = archive.live()[A]
    assert row.rows == 3
    assert any("incomplete" in warning for warning in row.warnings)
    archive.put(A, RUN.but(rows=4).data)
    assert archive.backfill() == [("edited", A)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (RUN.but(rows=0).data, "no data row"),
        (b"", "empty"),
        (RUN.data[:100], "not complete"),
        (RUN.but(rows=0, tail="0.0,1e-").data, "not complete"),
    ],
    ids=["header", "empty", "cut-header", "cut-row"],
)
def test_a_queued_file_waits_and_is_never_rejected(archive: Archive, data: bytes, reason: str) -> None:
    """However old, it is shown as waiting by every run; when its rows come it is a run."""
    archive.put(A, data)
    assert archive.backfill() == [("queued", A)]
    assert archive.backfill() == []
    (waiting,) = archive.report.waiting
    assert (waiting.source_file, waiting.state) == (A, State.QUEUED)
    assert reason in waiting.reason
    assert waiting.age_s > 86_400
    archive.put(A, RUN.data)
    assert archive.backfill() == [("ingested", A)]


class Meddling:
    """An engine in front of which something happens to the raw files: between the scan and the reading."""

    def __init__(self, engine: InlineEngine, meddle: Callable[[], None]) -> None:
        self._engine = engine
        self._meddle = meddle

    def __enter__(self) -> Meddling:
        return self

    def __exit__(self, *_: object) -> None:
        """Hold nothing."""

    def stage(self, batches: Iterable[list[StageTask]], stop: Callable[[], bool]) -> Iterator[list[Outcome]]:
        """Let it happen when the batches are known, then stage."""
        prepared = list(batches)
        if prepared:
            self._meddle()
        return self._engine.stage(prepared, stop)


def test_a_file_that_grows_while_it_is_read_is_looked_at_again(archive: Archive) -> None:
    """What changed between scan and reading is not staged torn: the same run takes it when it stands still."""
    path = archive.put(A, RUN.data)
    rows = iter([4])

    def grow() -> None:
        for count in rows:
            path.write_bytes(RUN.but(rows=count).data)

    report = backfill(
        archive.settings, Options(engine=lambda context, _: Meddling(InlineEngine(context), grow), clock=archive.now)
    )
    assert archive.live()[A].rows == 4
    assert report.waiting == []


def test_a_file_that_keeps_growing_is_left_waiting(archive: Archive) -> None:
    """A file that changes at every look ends no run: it waits, and is staged when it is over."""
    path = archive.put(A, RUN.data)
    rows = iter(range(4, 100))

    def grow() -> None:
        path.write_bytes(RUN.but(rows=next(rows)).data)

    report = backfill(
        archive.settings, Options(engine=lambda context, _: Meddling(InlineEngine(context), grow), clock=archive.now)
    )
    assert [(file.source_file, file.state) for file in report.waiting] == [(A, State.RUNNING)]
    assert not archive.rows()
    assert archive.backfill() == [("ingested", A)]


def test_a_file_that_vanishes_or_turns_into_something_else_ends_nothing(archive: Archive) -> None:
    """Deleted, or replaced by a FIFO, after the scan: the others are staged, nothing is rejected, nothing hangs."""
    gone, fifo = archive.put(A, RUN.data), archive.put(B, OTHER.data)
    archive.put("day/It_3.csv", RUN.but(sample=3).data)

    def meddle() -> None:
        gone.unlink(missing_ok=True)
        fifo.unlink(missing_ok=True)
        os.mkfifo(fifo)

    engine = Options(engine=lambda context, _: Meddling(InlineEngine(context), meddle), clock=archive.now)
    report = backfill(archive.settings, engine)
    assert list(archive.live()) == ["day/It_3.csv"]
    assert not report.rejected
    assert not report.failed


# ---- what is no raw file ---------------------------------------------------------------------------------------------


def test_what_is_no_regular_file_is_passed_over_and_named(archive: Archive) -> None:
    """FIFO, socket, links and a folder named x.csv are not opened and do not stop the run."""
    path = archive.put(A, RUN.data)
    os.mkfifo(archive.raw / "fifo.csv")
    (archive.raw / "link.csv").symlink_to(path)
    (archive.raw / "dangling.csv").symlink_to(archive.raw / "nowhere")
    (archive.raw / "loop.csv").symlink_to(archive.raw / "loop.csv")
    archive.put("folder.csv/It_5.csv", OTHER.data)
    with socket.socket(socket.AF_UNIX) as listening:
        at = os.open(archive.raw, os.O_PATH)
        listening.bind(f"/proc/self/fd/{at}/socket.csv")
        os.close(at)
    assert archive.backfill() == [("ingested", A), ("ingested", "folder.csv/It_5.csv")]
    assert sorted(archive.report.passed_over) == ["dangling.csv", "fifo.csv", "link.csv", "loop.csv", "socket.csv"]


UNREADABLE = (
    FIND_INLINE
    + """
import sys
from pathlib import Path
from ingestd.backfill.run import Options, backfill
from inline import inline
from ingestd.settings import load_settings

settings = load_settings(Path(sys.argv[1]), {"paths": {"data_root": Path(sys.argv[2])}})
report = backfill(settings, Options(engine=inline))
for failed in report.failed:
    print(failed.source_file, failed.message, sep="|")
print(len(report.rejected), sum(report.events.values()))
"""
)


def test_a_file_nobody_lets_us_read_is_tried_again_and_never_rejected(archive: Archive) -> None:
    """A permission is the world's fault: the file is reported, the others are staged, and it is staged once it may."""
    path = archive.put(A, RUN.data)
    archive.put(B, OTHER.data)
    path.chmod(0)
    done = subprocess.run(
        [*powerless(), sys.executable, "-c", UNREADABLE, str(archive.root.parent / "config.toml"), str(archive.root)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines() == [f"{A}|Permission denied", "0 1"], done.stderr
    path.chmod(0o644)
    report = backfill(archive.settings, Options(engine=inline))
    assert report.failed == []
    assert sorted(archive.live()) == [A, B]
    assert A not in archive.notes()


def test_a_folder_that_cannot_be_entered_stops_nothing(archive: Archive) -> None:
    """With the originals out of reach their copies stay copies, and other files are staged."""
    archive.put("a/It_1.csv", RUN.data)
    archive.copy("a/It_1.csv", "copies/It_1.csv")
    archive.backfill()
    archive.move("copies", "elsewhere")
    archive.put(B, OTHER.data)
    (archive.raw / "a").chmod(0)
    done = subprocess.run(
        [*powerless(), sys.executable, "-c", UNREADABLE, str(archive.root.parent / "config.toml"), str(archive.root)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    (archive.raw / "a").chmod(0o755)
    assert done.stdout.splitlines() == ["0 2"], done.stderr
    assert sorted(archive.live()) == [B, "a/It_1.csv"]
    assert archive.notes()["elsewhere/It_1.csv"].outcome == "duplicate"
