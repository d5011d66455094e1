"""A file that kills whoever stages it costs the service one life: what was in hand is staged elsewhere then."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import breaking
import poison
import pytest
from breaking import Breakable
from poison import HUNG, POISON, STUCK
from running import Service, put, run_of
from turning import QUICK, until_turned

from ingestd.files import Scan
from ingestd.ingest.commit import Committed, Ingest, opened
from ingestd.service.logs import our_log
from ingestd.service.messages import Hint, ScanAsked
from ingestd.service.worker import Worker
from ingestd.settings import Settings
from ingestd.stage.engine import ProcessEngine
from ingestd.stage.run import Outcome
from ingestd.stage.workspace import IN_HAND_NAME, note_in_hand, read_in_hand


class Poisoned(Service):
    """A service whose registry kills who asks it for `POISON`, and keeps the service itself with `STUCK`."""

    def begin(self, *, ready: bool = True) -> None:
        """Begin a life."""
        self.start(ready=ready, prefix=(sys.executable, str(Path(poison.__file__))))

    def make_old(self) -> None:
        """Have all files settled, so that they are staged at once."""
        for path in self.raw.glob("*.csv"):
            os.utime(path, (1758700000, 1758700000))

    def put_class(self, n: int, name: str) -> str:
        """Put a run in whose procedure's class has another name."""
        (self.raw / f"It_{name}.csv").write_bytes(run_of(n).replace(b"It.It", f"It.It{name}".encode(), 1))
        return f"It_{name}.csv"

    def noted(self) -> set[str]:
        """Read what the processes of this data root note as in hand."""
        return {name for folder in self.layout.temporary_root.glob("*/") for name in read_in_hand(folder)}

    def children(self) -> str:
        """List the processes that the service has started and that live."""
        return "".join(path.read_text() for path in Path(f"/proc/{self.pid}/task").glob("*/children"))


def test_a_file_that_kills_whoever_stages_it(tmp_path: Path) -> None:
    """After one death all others are staged and new ones come in; it is shown, tried again, and staged once mended."""
    service = Poisoned(tmp_path, service=QUICK)
    names = put(service.raw, 0, 3)
    bad = service.put_class(3, POISON)
    service.make_old()
    service.begin(ready=False)
    with service:
        assert service.ended() == -signal.SIGKILL
        assert service.noted() == {*names, bad}
        service.begin()
        service.until(lambda: service.live_names() == names, "what was in hand with it")
        (line,) = service.lines("suspects")
        assert line["source_files"] == sorted([*names, bad])
        service.until(lambda: service.lines("retrying"), "it is told")
        assert "only this file died" in service.lines("retrying")[0]["problem"]
        service.until(lambda: service.waiting() == {bad: "retrying"}, "it is shown")
        assert service.noted() == {bad}
        names |= put(service.raw, 10, 2)
        service.until(lambda: service.live_names() == names, "new runs")
        assert len(service.lines("retrying")) == 1, "told once"

        service.kill()
        service.begin()
        service.until(lambda: len(service.lines("suspects")) == 2, "the next life suspects it without a death")
        assert service.lines("suspects")[1]["source_files"] == [bad]
        service.until(lambda: service.waiting() == {bad: "retrying"}, "it is shown again")
        (service.raw / bad).write_bytes(run_of(3))
        service.until(lambda: bad in service.live_names(), "it is staged when it does no harm")
        service.until(lambda: not service.noted(), "it is no suspect any more")
        assert service.stop() == 0
        service.check_whole()


@pytest.mark.parametrize("others", [0, 3])
def test_a_mere_kill_makes_suspects_that_come_out_fine(tmp_path: Path, others: int) -> None:
    """SIGKILL while a batch is staged loses and doubles nothing: its files are staged in a process of their own."""
    service = Poisoned(tmp_path)
    names = {*put(service.raw, 0, others), service.put_class(50, STUCK)}
    service.make_old()
    service.begin()
    with service:
        service.until(lambda: service.noted() == names, "all are in hand")
        service.kill()
        service.begin()
        service.until(lambda: service.live_names() == names, "all are staged")
        service.until(lambda: not service.noted(), "none is a suspect any more")
        assert len(service.rows()) == others + 1
        service.until(lambda: len(service.lines("ingested")) >= others + 1, "all are told")
        assert len(service.lines("ingested")) == others + 1
        assert not service.lines("retrying")
        assert service.stop() == 0
        service.begin()
        assert len(service.lines("suspects")) == 1
        assert service.stop() == 0
        service.check_whole(deep=False)  # the class of one is no procedure to anybody else


@pytest.mark.parametrize("decided", [True, False])
def test_a_suspect_that_is_decided_or_gone_is_none_any_more(tmp_path: Path, decided: bool) -> None:
    """A backfill staged it, or somebody deleted it, before the next start: no process is begun for it."""
    service = Poisoned(tmp_path)
    service.begin()
    with service:
        names = put(service.raw, 0, 1)
        service.until(lambda: service.live_names() == names, "a run")
        note_in_hand(next(service.layout.temporary_root.glob("*/")), names if decided else {"gone.csv", "day/gone.csv"})
        service.kill()
        service.begin()
        service.until(lambda: len(service.lines("scanned")) == 2, "a scan")
        service.until(lambda: not service.noted(), "no suspects any more")
        assert len(service.lines("suspects")) == 1
        assert not service.children()
        assert service.stop() == 0


@pytest.mark.parametrize("kind", [POISON, HUNG])
def test_a_stop_leaves_no_suspects(tmp_path: Path, kind: str) -> None:
    """SIGTERM while a suspect is tried: it ends well and in time, nothing is left, the next life suspects none."""
    service = Poisoned(tmp_path, service=QUICK)
    note = service.layout.temporary_root / "1-dead"
    note.mkdir(parents=True)
    (note / "owner.lock").touch()
    note_in_hand(note, {service.put_class(3, kind)})
    service.begin()
    with service:
        service.until(service.children, "the process of the suspect")
        assert service.stop() == 0
        assert not service.lines("stop_took_too_long")
        assert [path.name for path in service.layout.temporary_root.iterdir()] == ["sweep.lock"]


@pytest.mark.parametrize("cut", [b"", b'["It_1.c', b"null", b"[1, null]", b"\xff", b"{}"])
def test_a_note_that_is_no_list_of_names_accuses_none(tmp_path: Path, cut: bytes) -> None:
    """The process was killed while it wrote the note, or the disk lost it."""
    (tmp_path / IN_HAND_NAME).write_bytes(cut)
    assert read_in_hand(tmp_path) == set()


def test_a_note_names_any_file(tmp_path: Path) -> None:
    """Names are told apart whatever is in them; none removes the note; a folder that is gone is not missed."""
    names = {"a\nb.csv", 'µ/"x".csv', "day/It_1.csv"}
    note_in_hand(tmp_path, names)
    assert read_in_hand(tmp_path) == names
    note_in_hand(tmp_path, ())
    assert not list(tmp_path.iterdir())
    note_in_hand(tmp_path / "gone", names)
    assert read_in_hand(tmp_path / "gone") == set()


def test_suspects_are_not_blamed_where_no_process_can_be_run(tmp_path: Path) -> None:
    """The service goes on with the other files, says what is wrong, and stages the suspects when a process runs."""
    service = Service(tmp_path, service=QUICK)
    interpreter = Breakable(tmp_path)
    interpreter.break_it()
    note = service.layout.temporary_root / "1-dead"
    note.mkdir(parents=True)
    (note / "owner.lock").touch()
    suspects = put(service.raw, 0, 2)
    note_in_hand(note, suspects)
    service.start(prefix=(sys.executable, breaking.__file__, str(interpreter.path)))
    with service:
        service.until(lambda: len(service.lines("retrying")) == 2, "both are told")
        for line in service.lines("retrying"):
            assert "no process can be run" in line["problem"]
            assert line["place"] == sys.executable
        names = put(service.raw, 10, 2)
        service.until(lambda: service.live_names() == names, "others are staged")
        interpreter.mend()
        service.until(lambda: service.live_names() == names | suspects, "the suspects are staged")
        assert len(service.lines("retrying")) == 2
        assert service.stop() == 0
        service.check_whole()


# ---- in this process ------------------------------------------------------------------------------------------------


@pytest.fixture
def accused(settings: Settings) -> Iterator[Ingest]:
    """A data root, opened, whose last service died while it staged `It_0.csv`."""
    note = settings.layout.temporary_root / "1-dead"
    note.mkdir(parents=True)
    (note / "owner.lock").touch()
    note_in_hand(note, put(settings.layout.raw_root, 0, 1))
    with opened(settings) as ingest:
        yield ingest


def rows(ingest: Ingest) -> dict[str, int]:
    """Return the number of rows of every run, by its raw file."""
    found = ingest.store.full_rows(list(ingest.store.catalog.rows)).values()
    return {row.source_file: row.rows for row in found}


def test_a_suspect_whose_record_is_refused_is_staged_again(accused: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """It did no harm and is none any more; what was staged is thrown away, and it is not forgotten."""
    worker = Worker(accused)
    worker.inbox.put(ScanAsked("start"))

    def refuse(_outcomes: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "/somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(accused, "commit", refuse)
        until_turned(worker, lambda: worker.view.troubles, "the disk refuses")
        assert not list(accused.workspace.folder.glob("*.parquet"))
        assert not read_in_hand(accused.workspace.folder)
    until_turned(worker, lambda: rows(accused) == {"It_0.csv": 2}, "the run")
    until_turned(worker, lambda: not worker.view.troubles, "no trouble is left")


def test_a_fault_of_ours_beside_a_suspect_leaves_it_on_the_list(
    accused: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever keeps its process from being used: it is shown, tried again and again, and staged in the end."""
    worker = Worker(accused)
    worker.inbox.put(ScanAsked("start"))
    with monkeypatch.context() as patch:
        patch.setattr(ProcessEngine, "stage", lambda *_: 1 // 0)
        until_turned(worker, lambda: worker.view.retrying and worker.view.retrying[0].tries >= 2, "it is tried again")
        (shown,) = worker.view.retrying
        assert (shown.source_file, "ZeroDivisionError" in shown.message) == ("It_0.csv", True)
        assert worker._suspects.names == {"It_0.csv"}
    until_turned(worker, lambda: rows(accused) == {"It_0.csv": 2}, "the run")
    assert not worker._suspects.names


def test_suspects_are_noted_before_anything_is_staged(accused: Ingest) -> None:
    """The next start knows of them too, though this service dies before it has looked at any file."""
    assert not read_in_hand(accused.workspace.folder)
    Worker(accused)._suspects.tell(our_log())
    assert read_in_hand(accused.workspace.folder) == {"It_0.csv"}


def test_a_suspect_that_is_out_of_sight_is_one_still(accused: Ingest) -> None:
    """Its folder cannot be listed, so it may be there: only a scan that saw everything clears it."""
    suspects = Worker(accused)._suspects
    suspects.clear_after(Scan(unreadable=[("day", "Permission denied")]))
    assert suspects.names == {"It_0.csv"}
    suspects.clear_after(Scan())
    assert not suspects.names


def test_rows_added_while_a_suspect_is_staged_are_not_missed(accused: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint at them came while the file was in hand elsewhere: it is looked at again once it is decided."""
    worker, commit = Worker(accused), accused.commit
    path = accused.layout.raw_file("It_0.csv")

    def commit_late(outcomes: Sequence[Outcome]) -> Committed:
        monkeypatch.setattr(accused, "commit", commit)
        path.write_bytes(run_of(0, rows=5))
        worker.inbox.put(Hint("It_0.csv"))
        worker._take_messages(0.0)
        return commit(outcomes)

    monkeypatch.setattr(accused, "commit", commit_late)
    worker.inbox.put(ScanAsked("start"))
    until_turned(worker, lambda: rows(accused) == {"It_0.csv": 5}, "the rows that were added")
    until_turned(worker, lambda: worker.view.doing == "watching", "nothing is left to do")
