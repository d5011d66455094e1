"""The kernel's hints: real files and folders. Truth is a scan; here it is that no hint is missing."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from hints import LIMIT_S, Heard

from ingestd.errors import Retry
from ingestd.service.watch import Watch, _Running

# ---- files and folders ----------------------------------------------------------------------------------------------


def test_hints_come_when_a_file_is_made_and_closed_and_not_at_each_row(root: Path, watch: Watch, heard: Heard) -> None:
    """A running measurement costs nothing: its rows are no hints, the recorder's close is."""
    with (root / "2025-09-23" / "It_1.csv").open("w") as file:
        heard.until(lambda: heard.hints == ["2025-09-23/It_1.csv"])
        for row in range(20):
            file.write(f"{row}\n")
            file.flush()
        (root / "other.csv").mkdir()  # its hint comes after those of the rows, if there were any
        heard.until(lambda: heard.doubts)
        assert heard.hints == ["2025-09-23/It_1.csv"]
    heard.until(lambda: heard.hints == ["2025-09-23/It_1.csv"] * 2)


def test_a_file_renamed_in_from_outside_is_a_hint(root: Path, watch: Watch, heard: Heard, tmp_path: Path) -> None:
    """A file moved into the tree is never closed there; its arrival alone hints at it."""
    (tmp_path / "x.csv").write_text("x")
    (tmp_path / "x.csv").rename(root / "x.csv")
    heard.until(lambda: "x.csv" in heard.hints)


def test_a_rename_inside_hints_at_both_names(root: Path, watch: Watch, heard: Heard) -> None:
    """Old and new name may both have changed; a temporary name of rsync's kind is none of ours."""
    (root / "a.csv").write_text("x")
    (root / "a.csv").rename(root / "b.csv")
    (root / ".c.csv.Xy12ab").write_text("x")
    (root / ".c.csv.Xy12ab").rename(root / "c.csv")
    heard.until(lambda: {"a.csv", "b.csv", "c.csv"} <= set(heard.hints))
    assert set(heard.hints) == {"a.csv", "b.csv", "c.csv"}


def test_a_deleted_file_is_a_hint(root: Path, heard: Heard) -> None:
    """A copy may have to take the place of what was deleted."""
    (root / "a.csv").write_text("x")
    watch = Watch(root, on_hint=heard.on_hint, on_doubt=heard.on_doubt)
    watch.start()
    (root / "a.csv").unlink()
    heard.until(lambda: heard.hints == ["a.csv"])
    watch.stop()


def test_a_permission_given_back_is_a_hint(root: Path, heard: Heard) -> None:
    """`chmod` changes no byte, but a file that could not be read may be readable now."""
    (root / "a.csv").write_text("x")
    (root / "a.csv").chmod(0)
    watch = Watch(root, on_hint=heard.on_hint, on_doubt=heard.on_doubt)
    watch.start()
    (root / "a.csv").chmod(0o644)
    heard.until(lambda: heard.hints == ["a.csv"])
    watch.stop()


def test_a_folder_moved_in_asks_for_a_scan_and_is_watched(
    root: Path, watch: Watch, heard: Heard, tmp_path: Path
) -> None:
    """Its files are older than the watch, so a scan is asked for; later writes in it are hinted at."""
    (tmp_path / "day" / "sub").mkdir(parents=True)
    (tmp_path / "day" / "sub" / "old.csv").write_text("x")
    (tmp_path / "day").rename(root / "day")
    heard.until(lambda: "the folder day appeared" in heard.doubts)
    (root / "day" / "sub" / "new.csv").write_text("x")
    heard.until(lambda: "day/sub/new.csv" in heard.hints)


def test_a_folder_renamed_asks_for_a_scan_and_later_paths_are_right(root: Path, watch: Watch, heard: Heard) -> None:
    """After a rename of a day folder the hints carry its new name."""
    (root / "2025-09-23").rename(root / "2025-09-24")
    heard.until(lambda: "the folder 2025-09-23 was moved to 2025-09-24" in heard.doubts)
    (root / "2025-09-24" / "a.csv").write_text("x")
    heard.until(lambda: "2025-09-24/a.csv" in heard.hints)


def test_nested_folders_made_at_once_with_a_file_are_told(root: Path, watch: Watch, heard: Heard) -> None:
    """`mkdir -p a/b/c` and a file at once, faster than watches are placed: each folder asks for a scan."""
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "a" / "b" / "c" / "x.csv").write_text("x")
    heard.until(lambda: {f"the folder {name} appeared" for name in ("a", "a/b", "a/b/c")} <= set(heard.doubts))
    (root / "a" / "b" / "c" / "y.csv").write_text("x")
    heard.until(lambda: "a/b/c/y.csv" in heard.hints)


def test_a_folder_deleted_or_moved_out_asks_for_a_scan(root: Path, watch: Watch, heard: Heard, tmp_path: Path) -> None:
    """A folder that went takes its files with it; the scan sees what is left."""
    (root / "gone").mkdir()
    (root / "gone").rmdir()
    (root / "2025-09-23").rename(tmp_path / "elsewhere")
    heard.until(lambda: {"the folder gone went away", "the folder 2025-09-23 went away"} <= set(heard.doubts))


def test_only_a_folder_that_is_looked_at_asks_for_a_scan(root: Path, watch: Watch, heard: Heard) -> None:
    """Git makes and removes folders below `.git` all the time, and no scan can find a file there."""
    (root / ".git" / "objects" / "9e").mkdir(parents=True)
    (root / ".git" / "objects" / "9e").rename(root / ".git" / "objects" / "0a")
    (root / ".git" / "objects" / "0a").rmdir()
    (root / ".git" / "objects").rename(root / "out")
    (root / "out").rename(root / ".trash")
    (root / "last").mkdir()
    heard.until(lambda: "the folder last appeared" in heard.doubts)
    assert [words for words in heard.doubts if "out" not in words.split()] == ["the folder last appeared"]
    assert "the folder .git/objects was moved to out" in heard.doubts or "the folder out appeared" in heard.doubts


def test_symbolic_links_below_the_root_are_not_followed(root: Path, watch: Watch, heard: Heard, tmp_path: Path) -> None:
    """What happens in a linked folder, a loop among them, is not ours; what happens after it in the tree is told."""
    (tmp_path / "outside").mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "loop").symlink_to(root)
    (tmp_path / "outside" / "x.csv").write_text("x")
    (root / "last.csv").write_text("x")
    heard.until(lambda: "last.csv" in heard.hints)
    assert set(heard.hints) == {"last.csv"}


def test_a_root_that_is_a_symbolic_link_is_watched_itself(root: Path, heard: Heard, tmp_path: Path) -> None:
    """`01_raw` may be a link to a share: files and folders right below it are seen, paths are relative to it."""
    (tmp_path / "linked").symlink_to(root)
    watch = Watch(tmp_path / "linked", on_hint=heard.on_hint, on_doubt=heard.on_doubt)
    watch.start()
    (root / "a.csv").write_text("x")
    (root / "new").mkdir()
    heard.until(lambda: "a.csv" in heard.hints and "the folder new appeared" in heard.doubts)
    assert watch.check(3) is None
    (tmp_path / "other").mkdir()
    (tmp_path / "linked").unlink()
    (tmp_path / "linked").symlink_to(tmp_path / "other")
    assert "was replaced" in (watch.check() or "")
    watch.stop()


def test_a_relative_root_gives_paths_relative_to_it(root: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root given relative to the current folder is watched the same way."""
    monkeypatch.chdir(root.parent)
    watch = Watch(Path("01_raw"), on_hint=heard.on_hint, on_doubt=heard.on_doubt)
    watch.start()
    (root / "2025-09-23" / "a.csv").write_text("x")
    heard.until(lambda: heard.hints)
    watch.stop()
    assert set(heard.hints) == {"2025-09-23/a.csv"}


def test_names_that_no_scan_finds_make_no_hints(root: Path, watch: Watch, heard: Heard) -> None:
    """Other suffixes, hidden names and names that are not UTF-8 are passed over, and nothing dies of them."""
    (root / "notes.txt").write_text("x")
    (root / ".hidden.csv").write_text("x")
    (root / ".trash").mkdir()
    (root / "lost+found").mkdir()
    with open(os.fsencode(root) + b"/bad\xff.csv", "w") as file:  # noqa: PTH123  # no Path of bytes
        file.write("x")
    os.mkdir(os.fsencode(root) + b"/bad\xfe")  # noqa: PTH102
    (root / "LAST.CSV").write_text("x")
    heard.until(lambda: "LAST.CSV" in heard.hints)
    heard.until(lambda: "the folder bad\\udcfe appeared" in heard.doubts)
    assert set(heard.hints) == {"LAST.CSV"}
    assert watch.check() is None


def test_our_own_reading_makes_no_hints(root: Path, heard: Heard) -> None:
    """Opening and reading a file says nothing, or staging would never come to rest."""
    (root / "a.csv").write_text("x")
    watch = Watch(root, on_hint=heard.on_hint, on_doubt=heard.on_doubt)
    watch.start()
    (root / "a.csv").read_text()
    (root / "b.csv").write_text("x")
    heard.until(lambda: "b.csv" in heard.hints)
    watch.stop()
    assert "a.csv" not in heard.hints


# ---- life -----------------------------------------------------------------------------------------------------------


def kernel_queues() -> int:
    """Count the kernel's event queues that this process has open."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum("inotify" in str(link.readlink()) for link in links)


def test_nothing_is_left_after_stop(root: Path, watch: Watch, heard: Heard) -> None:
    """Once `stop` returned, no thread and no kernel queue is left that could call anybody."""
    (root / "a.csv").write_text("x")
    heard.until(lambda: heard.hints)
    running = watch._running
    assert running is not None
    threads = [running._observer, running._queue, *running._observer.emitters]
    link = Path(f"/proc/self/fd/{running._queue.descriptor}")
    assert len(threads) == 3
    assert "inotify" in str(link.readlink())
    watch.stop()
    assert not [thread for thread in threads if thread.is_alive()]
    assert not link.is_symlink() or "inotify" not in str(link.readlink())


def test_start_and_stop_may_be_repeated(root: Path, watch: Watch, heard: Heard) -> None:
    """A second start replaces the watch, a second stop does nothing; it starts again after that."""
    before = kernel_queues()
    watch.start()
    assert kernel_queues() == before
    watch.stop()
    watch.stop()
    assert kernel_queues() == before - 1
    watch.start()
    (root / "a.csv").write_text("x")
    heard.until(lambda: "a.csv" in heard.hints)


def test_stop_is_bounded_when_the_caller_hangs(root: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller's function that never returns cannot keep the service from stopping; none is called after that."""
    monkeypatch.setattr("ingestd.service.watch.STOP_S", stop_s := LIMIT_S / 8)
    entered, release = threading.Event(), threading.Event()
    hints: list[str] = []

    def hang(name: str) -> None:
        hints.append(name)
        entered.set()
        release.wait(LIMIT_S)

    (root / "a.csv").write_text("x")
    watch = Watch(root, on_hint=hang, on_doubt=heard.on_doubt)
    watch.start()
    running = watch._running
    (root / "a.csv").rename(root / "b.csv")  # one event, two hints
    assert entered.wait(LIMIT_S)
    began = time.monotonic()
    watch.stop()
    assert time.monotonic() - began < 2 * stop_s
    release.set()
    assert running is not None
    running._observer.join(LIMIT_S)
    running.hints.doubt("a reader of the kernel's events that did not end in time")
    assert (hints, heard.doubts) == (["a.csv"], [])


def test_a_missing_root_is_a_retry(tmp_path: Path, heard: Heard) -> None:
    """A share that is not mounted is waited for: `start` says so, `check` goes on saying so, and it is picked up."""
    root = tmp_path / "01_raw"
    watch = Watch(root, on_hint=heard.on_hint, on_doubt=heard.on_doubt)
    with pytest.raises(Retry, match="there is no such folder of raw files"):
        watch.start()
    assert "cannot be read: there is no such folder of raw files" in (watch.check() or "")
    root.mkdir()
    assert watch.check() == "no watch is placed"
    watch.start()
    assert watch.check(1) is None
    (root / "a.csv").write_text("x")
    heard.until(lambda: "a.csv" in heard.hints)
    watch.stop()


@pytest.mark.parametrize(
    ("fate", "told"),
    [("gone", "there is no such folder"), ("replaced", "was replaced while its watch was placed")],
)
def test_a_root_that_goes_while_its_watch_is_placed(
    root: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch, fate: str, told: str
) -> None:
    """The watch stands on a folder that is the root no more: it is taken away, and placed once the root is back."""
    watch, place = Watch(root, on_hint=heard.on_hint, on_doubt=heard.on_doubt), _Running.start
    before = kernel_queues()

    def place_late(running: _Running) -> None:
        place(running)
        root.rename(root.with_name("old"))
        if fate == "replaced":
            root.mkdir()

    with monkeypatch.context() as patch:
        patch.setattr(_Running, "start", place_late)
        with pytest.raises(Retry, match=told):
            watch.start()
    assert kernel_queues() == before
    root.mkdir(exist_ok=True)
    assert watch.check() == "no watch is placed"
    watch.start()
    assert watch.check(1) is None
    watch.stop()
