"""Durable and atomic writes, and what a disk error means.

Durable means: after the call returns, a power cut does not undo it. A file is written to a temporary name, flushed,
renamed over the final name, and the folder is flushed, so a reader sees the old bytes or the new, never a mixture.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

from ingestd.errors import Retry
from ingestd.files import advice
from ingestd.files.existence import exists, is_dir, is_file, is_taken

SYNCFS_FROM = 4
"""From this many files on, one `syncfs` of the file system is cheaper than one `fsync` per file."""

_PROCESS = secrets.token_hex(4)
"""Tells this process's temporary files from those that a dead one with the same pid left (containers reuse pids)."""

_numbers = itertools.count(secrets.randbits(32))
"""Tells the temporary files of this process from each other."""

_RUST_ERROR = re.compile(r"\(os error (\d+)\)")
_TEMPORARY = re.compile(r"\.(\d+)-([0-9a-f]{8})[0-9a-f]{8}\.tmp$")


@contextlib.contextmanager
def as_retry(place: str | Path) -> Iterator[None]:
    """Turn an `OSError` of the block into a `Retry` that names the place and what to look at."""
    try:
        yield
    except OSError as error:
        raise retry_from(error, place) from error


def retry_from(error: OSError, place: str | Path) -> Retry:
    """Describe an `OSError` as a `Retry`: the file is not at fault, the disk, share or permission is."""
    there = "that the disk or share is there"
    rust = _RUST_ERROR.search(str(error)) if error.errno is None else None  # polars gives no number of its own
    number = int(rust[1]) if rust else error.errno or 0
    step = {
        errno.ENOENT: f"check the path (`ingestd config show` lists those in force) and {there}",
        errno.ENAMETOOLONG: advice.SHORTEN,
        errno.EDQUOT: "the disk quota is used up: free some space",
        errno.EISDIR: "this is a folder: give the name of a file, or move the folder away",
        errno.ENOTDIR: "a file stands where a folder belongs: check the path",
        errno.ELOOP: "a symbolic link stands where ingestd's own file belongs: move it away",
        errno.EROFS: advice.REMOUNT,
        errno.EIO: advice.BACK_UP,
        errno.ESTALE: advice.MOUNT,
    }.get(number, f"check {there}")
    named = error.filename or place
    temporary = isinstance(named, str) and _TEMPORARY.search(named)
    if temporary:  # people know the file by its final name
        named = error.filename2 or place
    beside = bool(temporary)
    if number == errno.EACCES and error.filename2 and not advice.takes_files(error.filename2):
        named, beside = error.filename2, True  # a rename: what is at hand is not at fault if its new folder refuses
    if number == errno.ENOSPC:
        step = advice.to_get_room(named)
    if number in {errno.EACCES, errno.EPERM}:
        path = Path(os.fsdecode(named))
        # A new file needs a permission of its folder.
        step = advice.to_get_access(path.parent, "its folder") if beside else advice.to_get_access(path, "it")
        step = (number == errno.EPERM and advice.to_unlock(path, error.filename2 or place)) or step
    message = os.strerror(number) if rust else error.strerror or str(error)
    return Retry(message, place=os.fspath(named), next_step=step)


def os_error_in(error: Exception) -> OSError | None:
    """Return the error of the disk that polars made another one of, for `retry_from`; None if it is polars' own."""
    return OSError(str(error)) if _RUST_ERROR.search(str(error)) else None


def is_of_one_place(error: Retry) -> bool:
    """Tell whether only its place refused, because a folder is there, say: what is written elsewhere may succeed."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _OF_ONE_PLACE


_OF_ONE_PLACE = frozenset({errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.EACCES, errno.EPERM})


def _system_call(name: str, *arguments: type) -> Callable[..., int] | None:
    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    function.argtypes = arguments
    function.restype = ctypes.c_int
    return cast("Callable[..., int]", function)


_syncfs = _system_call("syncfs", ctypes.c_int)
_fallocate = _system_call("fallocate64", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def flush_path(path: Path) -> None:
    """Flush one file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_paths(paths: Iterable[Path]) -> None:
    """Flush files and folders of one file system: each by itself when few, with one `syncfs` when many."""
    unique = list(dict.fromkeys(paths))
    if len(unique) < SYNCFS_FROM or _syncfs is None:
        for path in unique:
            flush_path(path)
        return
    flush_file_systems(unique[:1])


def flush_file_systems(paths: Iterable[Path]) -> None:
    """Flush everything on the file systems of these paths, deletions included; absent paths are passed over."""
    for path in {path.stat().st_dev: path for path in paths if exists(path)}.values():
        if _syncfs is None:
            return os.sync()
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _syncfs(descriptor) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), os.fspath(path))
        finally:
            os.close(descriptor)
    return None


def reserve(path: Path, size: int) -> None:
    """Reserve disk space for the first `size` bytes of a file that will grow: durable appends become quicker.

    The file's size stays the same. Does nothing if the disk cannot, or has less than `PLENTY` times as much free space,
    which others may want.
    """
    with contextlib.suppress(OSError):
        if _fallocate is not None and free_bytes(path) > PLENTY * size:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                if _fallocate(descriptor, _KEEP_SIZE, 0, size) != 0:
                    os.ftruncate(descriptor, os.fstat(descriptor).st_size)  # a part may be reserved, as under a quota
            finally:
                os.close(descriptor)


PLENTY = 1000
"""A disk with this many times the space to reserve has it to spare."""

_KEEP_SIZE = 1
"""`FALLOC_FL_KEEP_SIZE` of linux/falloc.h."""


def write_new(path: Path, data: bytes | memoryview) -> None:
    """Write a file that does not exist yet: one open, one write, nothing in between, not flushed.

    Raises:
        OSError: it exists, or the disk refused; the caller removes what was written of it.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        written = os.write(descriptor, data)
        while written < len(data):
            written += os.write(descriptor, memoryview(data)[written:])
    finally:
        os.close(descriptor)


def make_folders(path: Path) -> list[Path]:
    """Create `path` and its missing parents; return every folder that got a new entry and so needs a flush."""
    try:
        os.mkdir(path)  # noqa: PTH102  # hot: once per run, whose parents exist
    except FileExistsError:
        if not os.path.isdir(path):  # noqa: PTH112
            raise
        return []
    except FileNotFoundError:
        made = make_folders(path.parent)
        path.mkdir(exist_ok=True)
        return [path.parent, *made]
    return [path.parent]


def temporary_beside(path: Path) -> Path:
    """Name a temporary file in the folder of `path` that no other process uses and no reader takes for data."""
    name = os.fsencode(path.name)[:100].decode("utf-8", "ignore")  # bytes are what the file system counts
    return path.with_name(f".{name}.{os.getpid()}-{_PROCESS}{next(_numbers) % 2**32:08x}.tmp")


def dead_temporaries(folder: Path) -> list[Path]:
    """List the temporary files (`temporary_beside`) that dead processes left in a folder."""
    found = [(path, _TEMPORARY.search(path.name)) for path in folder.glob(".*.tmp")] if is_dir(folder) else []
    return sorted(path for path, name in found if name is not None and not _lives(int(name[1]), name[2]))


def _lives(pid: int, process: str) -> bool:
    if pid == os.getpid():
        return process == _PROCESS
    try:
        os.kill(pid, 0)  # sends nothing; unlike /proc, it answers where other users' processes are hidden
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the block a temporary file to write; put it in the place of `path`, durably, if the block succeeds."""
    with as_retry(path):
        touched = make_folders(path.parent)
        temporary = temporary_beside(path)
        try:
            yield temporary
            _put_in_place({path: temporary}, touched, set(), flush=True)
        except BaseException:
            _drop([temporary])
            raise


def _put_in_place(
    temporaries: Mapping[Path, Path], touched: Iterable[Path], replaced: set[Path], *, flush: bool
) -> None:
    """Rename each temporary file over its path, which is `replaced` then.

    The files are flushed before, their folders and those `touched` after.
    """
    if flush:
        flush_paths(temporaries.values())
    for path, temporary in temporaries.items():
        os.replace(temporary, path)  # noqa: PTH105  # hot: once per event, and makes no new Path
        replaced.add(path)
    if flush:
        flush_paths([*(path.parent for path in temporaries), *touched])


def _drop(temporaries: Iterable[Path]) -> None:
    """Remove temporary files after an error; what the disk keeps (it may be read-only now) `remove_leftovers` finds."""
    for temporary in temporaries:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder; those of living ones stay."""
    with as_retry(folder):
        for leftover in dead_temporaries(folder):
            leftover.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes, *, flush: bool = True) -> bool:
    """Replace `path` with `data`; return False and change nothing if it already holds exactly these bytes.

    With `flush=False` the replacement is still atomic but may be undone by a power cut: for what can be made again.
    Bytes that are already there are flushed as well: their writer may have been killed before that.
    """
    return bool(write_all_atomic({path: data}, flush=flush))


def write_all_atomic(
    contents: Mapping[Path, bytes], *, flush: bool = True, replaced: set[Path] | None = None
) -> set[Path]:
    """Replace each path with its bytes, flushed together; return those that did not already hold them.

    The paths must be on one file system. Each replacement is atomic by itself; if the disk refuses, some may be done,
    and `replaced` has them. `flush` as in `write_atomic`.
    """
    replaced = set() if replaced is None else replaced
    temporaries: dict[Path, Path] = {}
    touched: list[Path] = []
    try:
        for path, data in contents.items():
            with as_retry(path):
                if not _holds(path, data):
                    temporaries[path] = temporary_beside(path)
                    touched += _write_with_folders(temporaries[path], data)
        with as_retry(next(iter(contents), Path())):
            same = [path for path in contents if path not in temporaries]
            if flush:
                flush_paths([*same, *(path.parent for path in same)])
            _put_in_place(temporaries, touched, replaced, flush=flush)
    except BaseException:
        _drop(temporaries.values())
        raise
    return replaced


def _write_with_folders(path: Path, data: bytes) -> list[Path]:
    """Write a new file and its missing folders; return the folders that got a new folder."""
    try:
        write_new(path, data)
    except FileNotFoundError:
        made = make_folders(path.parent)
        write_new(path, data)
        return made
    return []


def _holds(path: Path, data: bytes) -> bool:
    try:
        return os.stat(path).st_size == len(data) and path.read_bytes() == data  # noqa: PTH116  # hot: once per event
    except FileNotFoundError:
        return False


def preserve(path: Path, aside: Path) -> list[Path]:
    """Keep the bytes of `path` under the name `aside` as well: a hard link where the file system can, else a copy.

    What `aside` held before is replaced. Durable once the folder of `aside` and those returned, which got a
    new entry too, are flushed.
    """
    made = make_folders(aside.parent)
    aside.unlink(missing_ok=True)
    try:
        os.link(path, aside)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV}:
            raise
        write_atomic(aside, path.read_bytes())
    return made


def free_path(path: Path, *, holding: bytes | None = None) -> Path:
    """Name a free place, so that nothing kept is replaced: `path`, or the first free one of `path.2`, `path.3`, ...

    A file that already has the bytes `holding` will do as well: whoever kept them may have been killed after that.

    Raises:
        OSError: what is there cannot be determined.
    """
    place, numbers = path, itertools.count(2)
    while is_taken(place) and not (holding is not None and is_file(place) and _holds(place, holding)):
        place = path.with_name(f"{path.name}.{next(numbers)}")
    return place


def free_bytes(path: Path) -> int:
    """Tell how many bytes an unprivileged process may still write on the file system of `path`."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def try_disk(folder: Path) -> None:
    """Check that the disk of a folder takes files, with one that never has a name and is gone at once.

    Nothing else shows it: an ext4 that found itself damaged may still be reported as writable. If this user or file
    system does not allow the attempt, the disk is taken to be well.

    Raises:
        Retry: the disk refused.
    """
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError as error:
        if error.errno in {errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO}:
            raise retry_from(error, folder) from error
