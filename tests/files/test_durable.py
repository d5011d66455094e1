"""Atomic and durable writes: the old bytes or the new, nothing left behind, and what an error of the disk means."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import threading
from pathlib import Path

import pytest
import typer

from ingestd import files
from ingestd.cli.exits import explained
from ingestd.errors import Retry
from ingestd.files import durable
from ingestd.service.state import goes_on


def test_a_write_makes_folder_and_file(tmp_path: Path) -> None:
    """Missing folders are made; the file holds exactly the bytes; nothing else is there."""
    path = tmp_path / "a" / "b" / "x.json"
    assert files.write_atomic(path, b"one")
    assert path.read_bytes() == b"one"
    assert list(path.parent.iterdir()) == [path]


def keeps_room(folder: Path) -> bool:
    """Tell whether a file system keeps disk for files, by the standard command that asks for it."""
    (folder / "probe").touch()
    probe = subprocess.run(["fallocate", "--keep-size", "--length", "1M", folder / "probe"], check=False)
    return probe.returncode == 0 and files.free_bytes(folder) > durable.PLENTY * 2**20


def test_room_is_kept_for_a_file_that_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disk is kept behind a file's end, its bytes and size stay; not of a scarce disk, or where the system cannot."""
    path = tmp_path / "x.log"
    path.write_bytes(b"one")
    monkeypatch.setattr(durable, "_fallocate", None)
    files.reserve(path, 2**20)
    assert path.stat().st_blocks * 512 < 2**20
    monkeypatch.undo()
    files.reserve(path, files.free_bytes(path) // durable.PLENTY + 1)
    assert path.stat().st_blocks * 512 < 2**20
    files.reserve(tmp_path / "gone", 2**20)
    assert not (tmp_path / "gone").exists()
    if not keeps_room(tmp_path):
        pytest.skip("this file system cannot keep disk for a file, or has little")
    files.reserve(path, 2**20)
    assert path.stat().st_blocks * 512 >= 2**20
    assert path.read_bytes() == b"one"


def test_equal_bytes_touch_nothing(tmp_path: Path) -> None:
    """Writing the bytes that are there returns False and leaves inode and times alone."""
    path = tmp_path / "x.json"
    files.write_atomic(path, b"one")
    os.utime(path, ns=(1, 1))
    before = path.stat()
    assert not files.write_atomic(path, b"one")
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )
    assert files.write_atomic(path, b"two")
    assert path.stat().st_ino != before.st_ino


def test_a_reader_sees_old_or_new(tmp_path: Path) -> None:
    """While a file is replaced over and over, a reader finds one whole version each time."""
    path = tmp_path / "x.bin"
    versions = [bytes([number]) * 300_000 for number in range(4)]
    files.write_atomic(path, versions[0])
    done = threading.Event()

    def write() -> None:
        for number in range(60):
            files.write_atomic(path, versions[number % 4], flush=False)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    looks = 0
    while not done.is_set() or not looks:
        assert path.read_bytes() in versions
        looks += 1
    writer.join()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.ESTALE])
def test_a_refused_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """When the disk refuses, the old bytes stay, the temporary file goes, and the error says what to look at."""
    path = tmp_path / "x.json"
    files.write_atomic(path, b"one")

    def refuse(_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(durable, "flush_path", refuse)
        with pytest.raises(Retry, match=os.strerror(number)) as caught:
            files.write_atomic(path, b"two")
    assert caught.value.place == str(path)
    assert caught.value.next_step
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_several_files_are_replaced_together(tmp_path: Path) -> None:
    """New, changed and equal files in one call: those that changed are told, in folders that were made for them."""
    paths = [tmp_path / "a" / f"{number}.json" for number in range(8)]
    files.write_atomic(paths[0], b"0")
    files.write_atomic(paths[1], b"old")
    contents = {path: str(number).encode() for number, path in enumerate(paths)}
    assert files.write_all_atomic(contents) == set(paths[1:])
    assert {path: path.read_bytes() for path in (tmp_path / "a").iterdir()} == contents
    assert files.write_all_atomic({}) == set()


def test_of_several_files_one_that_is_refused_keeps_all_old(tmp_path: Path) -> None:
    """Nothing gets its name before all are written: the old bytes stay, no temporary file does, the place is told."""
    path, wrong = tmp_path / "x.json", tmp_path / "y" / "z.json"
    files.write_atomic(path, b"one")
    (tmp_path / "y").write_bytes(b"a file where a folder belongs")
    with pytest.raises(Retry) as caught:
        files.write_all_atomic({path: b"two", wrong: b"two"})
    assert str(wrong) in caught.value.place
    assert path.read_bytes() == b"one"
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "y"]


def test_a_new_file_is_never_written_over_another(tmp_path: Path) -> None:
    """`write_new` refuses a name that is taken, and leaves it alone."""
    path = tmp_path / "x"
    files.write_new(path, b"one")
    with pytest.raises(FileExistsError):
        files.write_new(path, b"two")
    assert path.read_bytes() == b"one"


def test_an_interrupted_block_leaves_nothing(tmp_path: Path) -> None:
    """Whatever ends the block of `replacing`, Ctrl-C too, its temporary file goes and the old file stays."""
    path = tmp_path / "x.json"
    files.write_atomic(path, b"one")

    def interrupted() -> None:
        with files.replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_flushes_come_before_and_after_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is flushed before it gets its name; its folder and every new folder's parent after."""
    path = tmp_path / "a" / "b" / "x.json"
    flushed: list[tuple[str, bool]] = []
    monkeypatch.setattr(durable, "flush_path", lambda flush: flushed.append((flush.name, path.exists())))
    files.write_atomic(path, b"one")
    (temporary, there), *folders = flushed
    assert (temporary.endswith(".tmp"), there) == (True, False)
    assert sorted(folders) == sorted((name, True) for name in ("a", "b", tmp_path.name))


@pytest.mark.parametrize("flush", [True, False])
def test_equal_bytes_are_flushed_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flush: bool) -> None:
    """A killed process may have written the very bytes and flushed nothing: who asks for durable bytes gets them."""
    path = tmp_path / "x.json"
    files.write_atomic(path, b"one", flush=False)
    told: list[Path] = []
    monkeypatch.setattr(durable, "flush_path", told.append)
    assert not files.write_atomic(path, b"one", flush=flush)
    assert told == ([path, tmp_path] if flush else [])


def test_a_file_where_a_folder_belongs_is_a_retry(tmp_path: Path) -> None:
    """A file in the way of a folder is named; it is not replaced."""
    (tmp_path / "a").write_bytes(b"in the way")
    with pytest.raises(Retry):
        files.write_atomic(tmp_path / "a" / "x.json", b"one")
    assert (tmp_path / "a").read_bytes() == b"in the way"


def test_a_folder_where_a_file_belongs_is_named_and_so_is_the_way_out(tmp_path: Path) -> None:
    """Writing to an existing folder names that folder, not a temporary file, and asks for a file name."""
    with pytest.raises(Retry, match="Is a directory") as caught:
        files.write_atomic(tmp_path, b"one")
    assert caught.value.place == str(tmp_path)
    assert caught.value.next_step == "this is a folder: give the name of a file, or move the folder away"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.ENODEV, errno.ENOENT])
def test_no_message_promises_that_a_command_tries_again(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    """What goes on by itself is the service, which says so: a command that is over asks to be run again."""
    error = durable.retry_from(OSError(number, os.strerror(number)), "x")
    assert "by itself" not in error.next_step
    assert goes_on(error.next_step).endswith("; the service goes on by itself")
    with pytest.raises(typer.Exit), explained(debug=False):
        raise error
    assert capsys.readouterr().err.endswith(f"{error.next_step}; then run the same command again\n")


@pytest.mark.parametrize(("number", "words"), [(13, "give the user who runs ingestd"), (28, "free some space")])
def test_an_error_of_polars_has_its_number_in_its_text(number: int, words: str, tmp_path: Path) -> None:
    """It is told as the system's own: the final name and not the temporary one, and what to do."""
    path = tmp_path / "manifest.parquet"
    error = durable.retry_from(OSError(f"{os.strerror(number)} (os error {number}): {path}.1-2.tmp"), path)
    assert (error.message, error.place) == (os.strerror(number), str(path))
    assert error.next_step.startswith(words)


def test_a_folder_that_takes_no_new_file_is_the_one_to_look_at(tmp_path: Path) -> None:
    """Where a file cannot be written anew, its folder has the permission; where one cannot be read, it has itself."""
    path = tmp_path / "A1_history.csv"
    path.touch()
    for named, told in (
        (files.temporary_beside(path), f"its folder: `ls -ld {tmp_path}`"),
        (path, f"it: `ls -ld {path}`"),
    ):
        error = durable.retry_from(PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(named)), path)
        assert (error.message, error.place) == (os.strerror(errno.EACCES), str(path))
        assert f"access to {told} shows who has it" in error.next_step


def test_only_the_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    """Temporary files of processes that are gone are removed; those of living ones and other files stay."""
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    path = tmp_path / "manifest.parquet"
    living = files.temporary_beside(path)
    leftover = living.with_name(living.name.replace(f".{os.getpid()}-", f".{dead.pid}-"))
    others = [living, tmp_path / ".x.tmp", tmp_path / "y.tmp", path]
    for each in (*others, leftover):
        each.write_bytes(b"")
    files.remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(others)


@pytest.mark.parametrize("name", ["x", "x" * 250, "é" * 120, "💡" * 60])
def test_a_temporary_name_fits_the_file_system(tmp_path: Path, name: str) -> None:
    """Beside any name that the file system takes, there is room for a temporary one, hidden and in the same folder."""
    temporary = files.temporary_beside(tmp_path / name)
    temporary.write_bytes(b"")
    assert temporary.name.startswith(".")
    assert temporary.parent == tmp_path


# ---- keeping a second name ------------------------------------------------------------------------------------------


def test_preserving_links(tmp_path: Path) -> None:
    """A preserved file has a second name, which stays when the first is replaced; an older one there is replaced."""
    path, aside = tmp_path / "x", tmp_path / "kept" / "y"
    path.write_bytes(b"one")
    files.preserve(path, aside)
    assert path.samefile(aside)
    files.write_atomic(path, b"two")
    assert aside.read_bytes() == b"one"
    files.preserve(path, aside)
    assert aside.read_bytes() == b"two"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV])
def test_preserving_copies_where_links_are_not_to_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A file system without hard links gets a copy."""
    path, aside = tmp_path / "x", tmp_path / "y"
    path.write_bytes(b"one")

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    files.preserve(path, aside)
    assert aside.read_bytes() == b"one"
    assert not path.samefile(aside)


def test_preserving_on_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other refusal is an error: a copy would be refused as well."""
    path = tmp_path / "x"
    path.write_bytes(b"one")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="No space left"):
        files.preserve(path, tmp_path / "y")


def test_flushing_many_or_few(tmp_path: Path) -> None:
    """Any number of files and folders can be flushed, twice the same too; a missing one is an error."""
    paths = [tmp_path / str(number) for number in range(2 * files.SYNCFS_FROM)]
    for path in paths:
        path.write_bytes(b"")
    files.flush_paths([])
    files.flush_paths([paths[0], tmp_path, paths[0]])
    files.flush_paths([*paths, tmp_path])
    with pytest.raises(FileNotFoundError):
        files.flush_paths([tmp_path / "missing"])


def test_a_flush_of_many_that_is_refused_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `syncfs` says of a failing disk is raised, with the place; a system without it flushes all its disks."""

    def refuse(_: int) -> int:
        ctypes.set_errno(errno.EIO)
        return -1

    paths = [tmp_path / str(number) for number in range(files.SYNCFS_FROM)]
    monkeypatch.setattr(durable, "_syncfs", refuse)
    with pytest.raises(Retry, match="Input/output error"):
        files.write_all_atomic(dict.fromkeys(paths, b"one"))
    assert list(tmp_path.iterdir()) == []
    told: list[bool] = []
    monkeypatch.setattr(durable, "_syncfs", None)
    monkeypatch.setattr(os, "sync", lambda: told.append(True))
    files.flush_file_systems([tmp_path / "missing", tmp_path])
    assert told == [True]


def test_a_write_that_is_cut_short_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may take a part of the bytes at a time."""
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data)[:2]))
        files.write_atomic(tmp_path / "x.json", b"12345")
    assert (tmp_path / "x.json").read_bytes() == b"12345"


def test_a_temporary_file_of_another_users_process_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may not send that process a signal learns that it lives."""
    path = tmp_path / f".x.json.{os.getppid()}-0123456789abcdef.tmp"
    path.touch()

    def refuse(*_: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "kill", refuse)
    files.remove_leftovers(tmp_path)
    assert path.exists()


def test_nothing_stays_open(tmp_path: Path) -> None:
    """Writing, flushing few or many, reserving and trying the disk: a service does so for years."""
    few, many = [tmp_path / "x"], [tmp_path / str(number) for number in range(files.SYNCFS_FROM)]
    before = len(list(Path("/proc/self/fd").iterdir()))
    for paths in (few, many):
        files.write_all_atomic(dict.fromkeys(paths, b"one"))
        files.flush_paths(paths)
        files.reserve(paths[0], 1)
        files.try_disk(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_free_space_is_told(tmp_path: Path) -> None:
    """The free bytes are a positive number no larger than the file system."""
    status = os.statvfs(tmp_path)
    assert 0 < files.free_bytes(tmp_path) <= status.f_blocks * status.f_frsize


def test_a_disk_is_tried_without_a_trace(tmp_path: Path) -> None:
    """The folder stays as it was, to its times; where a file system makes no nameless file, nothing is blamed."""
    before = tmp_path.stat()
    files.try_disk(tmp_path)
    files.try_disk(Path("/proc"))
    assert (list(tmp_path.iterdir()), tmp_path.stat().st_mtime_ns) == ([], before.st_mtime_ns)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_refuses_the_trial_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """What keeps it from taking files is a `Retry` that names the folder."""

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(Retry, match=os.strerror(number)) as caught:
            files.try_disk(tmp_path)
    assert caught.value.place == str(tmp_path)
