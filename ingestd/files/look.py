"""Look at raw files: one state, one reading, one scan; leave no trace and follow no link."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ingestd.files.durable import as_retry, retry_from
from ingestd.files.existence import exists, is_dir, is_file, status_at
from ingestd.files.passed_over import HIDDEN_STARTS, is_csv, is_of_the_system, is_undecodable
from ingestd.files.stamps import Stamp, Stamps


class FileStat(NamedTuple):
    """What tells one state of a raw file from the next: bytes, mtime in ns, inode, device, owner."""

    size: int
    mtime_ns: int
    inode: int
    device: int
    uid: int

    @property
    def stamp(self) -> Stamp:
        """Size and mtime."""
        return self.size, self.mtime_ns

    def age_s(self, now: datetime) -> float:
        """Tell for how many seconds the file has not changed; negative for an mtime in the future."""
        return now.timestamp() - self.mtime_ns / 1e9


def stat_of(status: os.stat_result) -> FileStat:
    """Reduce an `os.stat_result` to what identifies a state of a file.

    File systems hold times that 64 bits of nanoseconds cannot (from the year 2262 on): the nearest that fits stands
    for them.
    """
    mtime_ns = status.st_mtime_ns
    if not -_LATEST_NS <= mtime_ns <= _LATEST_NS:
        mtime_ns = _LATEST_NS if mtime_ns > 0 else -_LATEST_NS
    return FileStat(status.st_size, mtime_ns, status.st_ino, status.st_dev, status.st_uid)


_LATEST_NS = 2**63 - 1


def state_below(root: Path, name: str) -> FileStat | None:
    """Look at the file that `name` is below `root`, as a scan would find it.

    None if there is no regular file, or a link leads to it. Raises OSError if it cannot be looked at.
    """
    status = status_at(root / name, follow_links=False)
    if status is None or not stat.S_ISREG(status.st_mode) or not _is_straight(os.fspath(root), name):
        return None
    return stat_of(status)


def _is_straight(place: str, name: str) -> bool:
    """Tell whether no folder between `place` and the file `name` below it is a link, or leads up again."""
    for folder in name.split("/")[:-1]:
        place = f"{place}/{folder}"
        if folder == ".." or os.path.islink(place):  # noqa: PTH114  # hot: at each look at a file, and makes no Path
            return False
    return True


BLOCK_BYTES = 2**20
"""Bytes of a file that are hashed at a time."""

_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def open_raw(path: Path) -> int:
    """Open a raw file for reading without leaving a trace; return the descriptor.

    Never blocks on a FIFO, never follows a symbolic link, and leaves the access time alone where that is allowed.
    """
    try:
        return os.open(path, _READ_FLAGS | getattr(os, "O_NOATIME", 0))
    except PermissionError:
        return os.open(path, _READ_FLAGS)


def _open_regular(path: Path) -> int | None:
    """Open a raw file as `open_raw` does; None if it is no regular file: a link, folder, FIFO, socket or device."""
    try:
        descriptor = open_raw(path)
    except OSError as error:
        if error.errno == errno.ELOOP or (error.errno == errno.ENXIO and not is_file(path)):
            return None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


@dataclass(frozen=True, slots=True)
class RawBytes:
    """One reading of a raw file: its bytes and the file's state before and after, on the same handle."""

    data: bytes
    before: FileStat
    after: FileStat


def read_raw(path: Path, limit: int) -> RawBytes | None:
    """Read a whole regular file; None if it is not one, but a link, say. At most `limit` + 1 bytes are read."""
    if (descriptor := _open_regular(path)) is None:
        return None
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        data = _read_up_to(file.read, min(status.st_size, limit) + 1)
        return RawBytes(data, stat_of(status), stat_of(os.fstat(descriptor)))


def _read_up_to(read: Callable[[int], bytes | None], count: int) -> bytes:
    first = read(count) or b""
    if not first or len(first) == count:
        return first
    parts, total = [first], len(first)
    while total < count and (part := read(count - total)):
        parts.append(part)
        total += len(part)
    return b"".join(parts) if len(parts) > 1 else first


def sha256_of(path: Path, size: int | None = None) -> str | None:
    """Hash a regular file in blocks, or its first `size` bytes; None if it is gone or not a regular file."""
    try:
        descriptor = _open_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if size is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        while size and (part := file.read(min(size, BLOCK_BYTES))):
            digest.update(part)
            size -= len(part)
        return digest.hexdigest()


@dataclass(slots=True)
class Scan:
    """One look at `01_raw`: the regular CSVs by path relative to the root (POSIX), and what was passed over.

    `undecodable` names are shown with escapes: they are not UTF-8 and cannot stand in a table or a JSON file. `folders`
    counts the folders that could be looked into, the root among them. `known` are the states the caller knew: a CSV in
    such a state is not in `files`; known states that were not found are `unseen`.
    """

    files: dict[str, FileStat] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)
    specials: list[str] = field(default_factory=list)
    undecodable: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    folders: int = 0
    known: Stamps = field(default_factory=Stamps)
    unseen: Stamps = field(default_factory=Stamps)

    @property
    def count(self) -> int:
        """The number of regular CSVs."""
        return len(self.files) + len(self.known) - len(self.unseen)

    def saw(self, name: str) -> bool:
        """Tell whether there is a regular CSV of this name."""
        return name in self.files or (name in self.known and name not in self.unseen)


def why_no_root(root: Path) -> str:
    """Say why this is not a folder of raw files; empty if it is one.

    Raises:
        OSError: that cannot be determined.
    """
    if is_dir(root):
        return ""
    return "this is a file, not a folder of raw files" if exists(root) else "there is no such folder of raw files"


def try_root(root: Path) -> None:
    """Check that the folder of raw files can be listed; a lost share is not an empty one.

    Raises:
        Retry: it is not there, is no folder, or is out of reach.
    """
    try:
        os.scandir(root).close()
    except OSError as error:
        found = retry_from(error, root)
        with contextlib.suppress(OSError):  # out of reach: the first error says why
            found.message = why_no_root(root) or found.message
        raise found from error


_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


LISTED_AT_ONCE = 1000
"""How many entries of a folder a scan looks at before it tells that it goes on."""


def scan_csvs(root: Path, on_part: Callable[[], None] = lambda: None, known: Stamps | None = None) -> Scan:
    """Find every regular `*.csv` (any case) below `root`, without following symbolic links or opening a file.

    Files and folders whose names begin with one of `HIDDEN_STARTS` are passed over, and so are `SYSTEM_FOLDERS`. A
    folder that cannot be listed or entered is reported, not raised; a missing root is a `Retry`. `on_part` is
    called before each folder is listed and after every `LISTED_AT_ONCE` of its entries: a scan of a slow share may
    take long, and so may one folder of it. Files that are still in the state that `known` names are left out of
    `files`.
    """
    known = known or Stamps()
    found = Scan(known=known, unseen=known.copy())
    try_root(root)
    pending = [""]
    while pending:
        prefix = pending.pop()
        on_part()
        try:
            folder = os.open(os.path.join(root, prefix[:-1]), _FOLDER_FLAGS)  # noqa: PTH118  # once per folder, without a Path
            try:
                with os.scandir(folder) as entries:
                    rest = iter(entries)
                    while part := list(islice(rest, LISTED_AT_ONCE)):
                        _list_folder(part, prefix, found, pending)
                        if len(part) == LISTED_AT_ONCE:
                            on_part()
                found.folders += 1
            finally:
                os.close(folder)
        except (FileNotFoundError, NotADirectoryError):
            continue  # removed or replaced while we looked: the next scan sees what is there then
        except OSError as error:
            pending = [below for below in pending if not below.startswith(prefix)]
            found.unreadable.append((_shown_name(prefix.rstrip("/")), error.strerror or str(error)))
    return found


def _list_folder(
    entries: Iterable[os.DirEntry[str]],
    prefix: str,
    found: Scan,
    pending: list[str],
) -> None:
    """Sort a folder's entries into `found` and `pending`.

    Hot: each of 100,000 known files costs little more than its stat, which is quick from an open folder.
    """
    unseen = found.unseen.folder(prefix[:-1])
    take = unseen.pop  # one lookup for the many that are as they were; the others are put back
    for entry in entries:
        name = entry.name
        if name.startswith(HIDDEN_STARTS):
            continue
        path = prefix + name
        if not entry.is_file(follow_symlinks=False):
            _note_other(entry, path, found, pending)
        elif name.endswith(".csv") or is_csv(name):
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            except PermissionError:  # the folder may be listed but not entered: so it is for all its files
                raise
            except OSError as error:  # this file alone: look at the others
                found.unreadable.append((_shown_name(path), error.strerror or str(error)))
                continue
            state = take(name, None)
            if state == (status.st_size, status.st_mtime_ns):
                continue
            if state is not None:
                unseen[name] = state
            if is_undecodable(path):
                found.undecodable.append(_shown_name(path))
            else:
                found.files[path] = stat_of(status)


def _note_other(entry: os.DirEntry[str], name: str, found: Scan, pending: list[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        if not is_of_the_system(entry.name):
            pending.append(name + "/")
    elif entry.is_symlink():
        if is_csv(name) or _leads_to_folder(entry):
            found.links.append(_shown_name(name))
    elif is_csv(name):
        (found.undecodable if is_undecodable(name) else found.specials).append(_shown_name(name))


def _leads_to_folder(link: os.DirEntry[str]) -> bool:
    try:
        return link.is_dir()
    except OSError:  # a link to itself, or into a folder that is closed to us
        return False


def _shown_name(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def all_below(root: Path, suffix: str) -> list[Path]:
    """List, sorted, what is below `root` with a name that ends in `suffix`; nothing if `root` is not a folder.

    Unlike `Path.rglob` it never passes over a folder that cannot be read: what is in it would seem gone.

    Raises:
        Retry: a folder cannot be read.
    """
    return list(map(Path, sorted(_below(root, suffix))))


def any_below(root: Path, suffix: str) -> Path | None:
    """Find the first that comes of those which `all_below` would list; errors as that."""
    found = next(_below(root, suffix), None)
    return None if found is None else Path(found)


def _below(root: Path, suffix: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):  # it went away while we looked
            raise error

    with as_retry(root):
        for folder, folders, names in os.walk(root, onerror=refuse):
            for name in (*folders, *names):
                if name.endswith(suffix):
                    yield os.path.join(folder, name)  # noqa: PTH118  # texts are sorted ten times as fast as paths
