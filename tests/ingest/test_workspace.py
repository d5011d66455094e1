"""A process's folder for undecided Parquet: whose it is, and what happens when somebody deletes it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from archive import Archive
from inline import InlineEngine
from measurement import Measurement

from ingestd.errors import LockHeld, Retry
from ingestd.files import Lock
from ingestd.stage.run import Outcome, StageTask
from ingestd.stage.workspace import LOCK_NAME, Workspace, dead_workspaces, workspace


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A stage's folder of workspaces."""
    (tmp_path / "02_stage").mkdir()
    return tmp_path / "02_stage" / "_tmp"


def is_held(own: Workspace) -> bool:
    """Tell whether a process holds the folder's lock; folders without a lock are nobody's."""
    lock = Lock(own.folder / LOCK_NAME)
    assert lock.path.exists()
    try:
        lock.probe()
    except LockHeld:
        return True
    return False


def all_of_it(own: Workspace) -> None:
    """Delete the folder of all workspaces."""
    shutil.rmtree(own.folder.parent)


def one(own: Workspace) -> None:
    """Delete the workspace."""
    shutil.rmtree(own.folder)


def the_lock(own: Workspace) -> None:
    """Delete the lock alone."""
    (own.folder / LOCK_NAME).unlink()


def the_lock_and_another_came(own: Workspace) -> None:
    """Delete the lock, in whose place a process that sweeps has put its own."""
    (own.folder / LOCK_NAME).unlink()
    (own.folder / LOCK_NAME).touch()


def test_only_a_lock_that_nobody_holds_shows_a_dead_process(root: Path) -> None:
    """A folder without a lock may just be being made, and is left alone, as is one whose owner lives."""
    (root / "1-new").mkdir(parents=True)
    (root / "2-dead").mkdir()
    (root / "2-dead" / LOCK_NAME).touch()
    living = Workspace(root / "3-living")
    living.make()
    assert dead_workspaces(root) == [root / "2-dead"]
    living.remove()


def test_a_probe_of_its_new_lock_costs_a_process_nothing(root: Path) -> None:
    """`verify`, say, probes every lock: a process that makes its workspace at that instant is not refused."""
    own = Workspace(root / "1-aa")
    own.folder.mkdir(parents=True)
    (own.folder / LOCK_NAME).touch()
    with ExitStack() as probing:
        probing.enter_context(Lock(own.folder / LOCK_NAME).shared(0.0))
        end = threading.Timer(0.2, probing.pop_all().close)
        end.start()
        own.make()
        end.join()
    assert is_held(own)
    own.remove()


@pytest.mark.parametrize("delete", [all_of_it, one, the_lock, the_lock_and_another_came])
def test_what_is_deleted_is_made_anew_and_owned(root: Path, delete: Callable[[Workspace], None]) -> None:
    """The same folder is there again, its lock held: no sweep of another process takes it; at the end it goes."""
    with workspace(root) as own:
        delete(own)
        own.keep()
        assert is_held(own)
        (own.folder / "x.parquet").touch()
        own.keep()
        with workspace(root) as other:
            assert {path.name for path in own.folder.iterdir()} == {LOCK_NAME, "x.parquet"}
            assert other.folder != own.folder
    assert [path.name for path in root.iterdir()] == ["sweep.lock"]


@pytest.mark.parametrize("empty_place", [False, True])
def test_nothing_is_made_where_the_stage_is_gone(root: Path, empty_place: bool) -> None:
    """A stage whose disk is not mounted is left alone; when it is back, so is the folder."""
    stage = root.parent
    with workspace(root) as own:
        away = stage.rename(stage.with_name("away"))
        if empty_place:
            stage.mkdir()
        with pytest.raises(Retry, match="the stage is gone") as found:
            own.keep()
        assert found.value.place == str(stage)
        assert "mount it again" in found.value.next_step
        if empty_place:
            stage.rmdir()
        assert not stage.exists()
        away.rename(stage)
        own.keep()
        assert is_held(own)


class Tidied(InlineEngine):
    """Stages while somebody tidies: after each batch the workspace is deleted."""

    def stage(self, batches: Iterable[list[StageTask]], stop: Callable[[], bool]) -> Iterator[list[Outcome]]:
        """Stage as ever."""
        for outcomes in super().stage(batches, stop):
            yield outcomes
            shutil.rmtree(self._context.temporary)


def test_a_backfill_goes_on_when_the_folder_is_deleted(tmp_path: Path) -> None:
    """Deleted between two batches, the folder is there for the next one: every file is staged."""
    archive = Archive(tmp_path, stage={"batch_files": 2})
    names = [f"It_{number}.csv" for number in range(6)]
    for number, name in enumerate(names):
        archive.put(name, Measurement(start=1758632155.25 + 60 * number, sample=number).data)
    found = archive.backfill(engine=lambda context, _: Tidied(context))
    assert found == [("ingested", name) for name in names]
