"""Looking at raw files: what a scan finds and passes over, and readings that never block, follow or leave a trace."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ingestd import files
from ingestd.errors import Retry
from ingestd.files import Scan, Stamps, look, may_be_csv, scan_csvs


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """An empty raw root."""
    raw = tmp_path / "01_raw"
    raw.mkdir()
    return raw


def _put(raw: Path, *names: str) -> None:
    for name in names:
        path = raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))


def _bind(raw: Path, name: str) -> None:
    """Make a socket."""
    here = Path.cwd()
    os.chdir(raw)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(name)
    finally:
        os.chdir(here)


# ---- scans ----------------------------------------------------------------------------------------------------------


def test_a_scan_finds_every_csv(raw: Path) -> None:
    """Any case of the suffix, any depth, any script, folders named like files: all are found with their state."""
    names = [
        "a.csv",
        "B.CSV",
        "day/c.Csv",
        "x.csv/d.csv",
        "día/é λ.csv",
        "a b/%2E.csv",
        "new\nline.csv",
        "deep/" * 30 + "e.csv",
    ]
    _put(raw, *names, "notes.txt", "a.csv.bak", "csv", "README")
    found = scan_csvs(raw)
    assert sorted(found.files) == sorted(names)
    assert (found.links, found.specials, found.undecodable, found.unreadable) == ([], [], [], [])
    for name, status in found.files.items():
        assert status == files.stat_of((raw / name).stat())
        assert status.size == len(name.encode())


def test_files_in_a_known_state_are_counted_and_not_listed(raw: Path) -> None:
    """Same size and same mtime to the nanosecond: counted; anything else is listed, and what is gone is not counted."""
    _put(raw, "day/same.csv", "day/grown.csv", "day/touched.csv", "day/added.csv", "new.csv")
    states = scan_csvs(raw).files
    known = {name: (status.size, status.mtime_ns) for name, status in states.items()}
    del known["new.csv"], known["day/added.csv"]
    known |= {"day/gone.csv": (1, 1), "day/grown.csv": (1, known["day/grown.csv"][1])}
    os.utime(raw / "day" / "touched.csv", ns=(0, known["day/touched.csv"][1] + 1))
    found = scan_csvs(raw, known=Stamps(known, known.values()))
    assert sorted(found.files) == ["day/added.csv", "day/grown.csv", "day/touched.csv", "new.csv"]
    assert found.count == 5
    assert [name for name in (*known, "new.csv", "other.csv") if not found.saw(name)] == ["day/gone.csv", "other.csv"]
    assert scan_csvs(raw).count == 5


def test_hidden_names_are_passed_over(raw: Path) -> None:
    """Names that begin with a dot, all below a hidden folder, and Office's marks of open files do not count."""
    _put(raw, ".a.csv", "._b.csv", ".git/c.csv", ".csv", "day/.sync/d.csv", "day/e.csv", "~$f.csv", "day/~$e.csv")
    _put(raw, "~g.csv", "$h.csv")
    assert sorted(scan_csvs(raw).files) == ["$h.csv", "day/e.csv", "~g.csv"]


def test_folders_of_the_system_are_passed_over(raw: Path) -> None:
    """What was deleted on a Windows disk or a NAS, in whatever case, is no measurement, nor a folder that is closed."""
    names = (
        *("lost+found", "$RECYCLE.BIN/S-1-5", "System Volume Information"),
        *("#recycle", "#snapshot", "day/@eaDir", "@Recycle/2025-10-13", "@Recently-Snapshot/GMT-03_2025-10-13_0300"),
    )
    _put(raw, *(f"{name}/a.csv" for name in names), "recycle/b.csv", "lost+found.csv")
    found = scan_csvs(raw)
    assert (sorted(found.files), found.folders) == (["lost+found.csv", "recycle/b.csv"], 3)
    assert [name for name in names if may_be_csv(f"{name}/a.csv")] == []
    assert all(map(may_be_csv, found.files))


def test_links_are_named_and_not_followed(raw: Path, tmp_path: Path) -> None:
    """Links to files, folders, themselves or nowhere are named where they matter and never followed."""
    outside = tmp_path / "outside"
    _put(outside, "secret.csv")
    _put(raw, "day/a.csv", "z.csv")
    (raw / "day" / "loop").symlink_to(raw)
    (raw / "self").symlink_to("self")
    (raw / "self.csv").symlink_to("self.csv")
    (raw / "out").symlink_to(outside)
    (raw / "out.csv").symlink_to(outside / "secret.csv")
    (raw / "nowhere").symlink_to("gone")
    (raw / "nowhere.csv").symlink_to("gone.csv")
    (raw / "text").symlink_to(outside / "secret.csv")
    found = scan_csvs(raw)
    assert sorted(found.files) == ["day/a.csv", "z.csv"]
    assert sorted(found.links) == ["day/loop", "nowhere.csv", "out", "out.csv", "self.csv"]
    assert found.unreadable == []


def test_a_folder_that_becomes_a_link_meanwhile_is_not_followed(raw: Path, tmp_path: Path) -> None:
    """Between its listing and its turn a folder is replaced by a link: what it leads to is not taken for raw files."""
    _put(raw, "day/a.csv", "z.csv")
    _put(tmp_path / "outside", "secret.csv")
    turns = iter(range(2))

    def replace() -> None:
        if next(turns):
            shutil.rmtree(raw / "day")
            (raw / "day").symlink_to(tmp_path / "outside")

    found = scan_csvs(raw, replace)
    assert (list(found.files), found.folders) == (["z.csv"], 1)
    assert scan_csvs(raw).links == ["day"]


def test_specials_are_named(raw: Path) -> None:
    """A FIFO or socket named like a measurement is named, not opened; another name matters to nobody."""
    for name in ("pipe.csv", "pipe", "odd\udcff.csv"):
        os.mkfifo(raw / name)
    _put(raw, "a.csv")
    _bind(raw, "socket.csv")
    found = scan_csvs(raw)
    assert list(found.files) == ["a.csv"]
    assert (sorted(found.specials), found.undecodable) == (["pipe.csv", "socket.csv"], ["odd\\xff.csv"])


def test_names_that_are_not_utf8_are_shown_with_escapes(raw: Path) -> None:
    """A CSV whose name or folder is not UTF-8 is named in a form that can be printed; other files do not matter."""
    for name in (b"caf\xe9.csv", b"caf\xe9.txt", b"d\xeda/x.csv"):
        path = os.fsencode(raw) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120  # paths as bytes
        with open(path, "wb"):  # noqa: PTH123
            pass
    found = scan_csvs(raw)
    assert found.files == {}
    assert sorted(found.undecodable) == ["caf\\xe9.csv", "d\\xeda/x.csv"]


def test_one_file_that_cannot_be_looked_at_hides_no_other(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose state cannot be had, or that vanishes meanwhile, does not hide the rest of its folder."""
    _put(raw, "a.csv", "b.csv", "c.csv")
    real = os.scandir

    class Entry:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.entry = entry
            self.name = entry.name

        def is_file(self, *, follow_symlinks: bool = True) -> bool:
            return self.entry.is_file(follow_symlinks=follow_symlinks)

        def is_dir(self, *, follow_symlinks: bool = True) -> bool:
            return self.entry.is_dir(follow_symlinks=follow_symlinks)

        def is_symlink(self) -> bool:
            return self.entry.is_symlink()

        def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
            if self.name == "a.csv":
                raise OSError(5, "Input/output error")
            if self.name == "b.csv":
                raise FileNotFoundError
            return self.entry.stat(follow_symlinks=follow_symlinks)

    class Listing:
        def __init__(self, folder: int) -> None:
            self.entries = real(folder)

        def __enter__(self) -> list[Entry]:
            return [Entry(entry) for entry in self.entries]

        def __exit__(self, *_: object) -> None:
            self.close()

        def close(self) -> None:
            self.entries.close()

    monkeypatch.setattr(os, "scandir", Listing)
    found = scan_csvs(raw)
    assert list(found.files) == ["c.csv"]
    assert found.unreadable == [("a.csv", "Input/output error")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_closed_folder_is_named(raw: Path) -> None:
    """A folder that cannot be listed is named; the others are scanned."""
    _put(raw, "closed/a.csv", "open/b.csv")
    (raw / "closed").chmod(0)
    try:
        found = scan_csvs(raw)
    finally:
        (raw / "closed").chmod(0o755)
    assert list(found.files) == ["open/b.csv"]
    assert found.unreadable == [("closed", "Permission denied")]


def test_a_missing_root_is_a_retry(tmp_path: Path) -> None:
    """A raw root that is not there is not an empty one: the share may be away."""
    with pytest.raises(Retry, match="there is no such folder of raw files") as caught:
        scan_csvs(tmp_path / "01_raw")
    assert caught.value.place == str(tmp_path / "01_raw")


def test_a_file_in_the_root_s_place_is_told_as_one(tmp_path: Path) -> None:
    """A slip in a path that leads to a file is no missing folder; below a file there is none."""
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(Retry, match="this is a file, not a folder of raw files"):
        scan_csvs(tmp_path / "config.toml")
    with pytest.raises(Retry, match="there is no such folder of raw files"):
        scan_csvs(tmp_path / "config.toml" / "01_raw")


def test_a_scan_counts_and_announces_folders(raw: Path) -> None:
    """`on_part` is called once a small folder, the root among them, and `folders` counts the same."""
    _put(raw, "a/b/c.csv", "d/e.csv")
    calls: list[None] = []
    found: Scan = scan_csvs(raw, lambda: calls.append(None))
    assert found.folders == len(calls) == 4


def test_a_scan_of_one_large_folder_shows_that_it_goes_on(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow share one folder may take longer than a watchdog waits; what is in it is found as ever."""
    monkeypatch.setattr(look, "LISTED_AT_ONCE", 10)
    _put(raw, *(f"{n}.csv" for n in range(25)), "day/a.csv")
    known = scan_csvs(raw).files
    calls: list[None] = []
    found = scan_csvs(raw, lambda: calls.append(None), Stamps(known, [status.stamp for status in known.values()]))
    assert len(calls) == 4, "the root, twice within it, the day"
    assert (found.files, found.count, len(found.unseen)) == ({}, 26, 0)


def test_what_is_looked_at_does_not_stay_open(raw: Path) -> None:
    """Neither a folder that is scanned nor what is read, hashed, or refused as no regular file."""
    _put(raw, "a/b.csv")
    before = len(list(Path("/proc/self/fd").iterdir()))
    scan_csvs(raw)
    for path in (raw / "a" / "b.csv", raw / "a"):
        files.read_raw(path, 10)
        files.sha256_of(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# ---- readings -------------------------------------------------------------------------------------------------------


def test_a_reading_has_the_bytes_and_both_states(raw: Path) -> None:
    """A regular file is read whole, with its state before and after."""
    _put(raw, "a.csv")
    read = files.read_raw(raw / "a.csv", 100)
    assert read is not None
    assert read.data == b"a.csv"
    assert read.before == read.after == files.stat_of((raw / "a.csv").stat())


@pytest.mark.parametrize(
    ("size", "limit", "expected"), [(10, 10, 10), (11, 10, 11), (5000, 10, 11), (0, 10, 0), (3, 0, 1)]
)
def test_a_reading_stops_at_its_limit(raw: Path, size: int, limit: int, expected: int) -> None:
    """At most `limit` + 1 bytes are read, which is enough to see that there are too many."""
    (raw / "a.csv").write_bytes(bytes(size))
    read = files.read_raw(raw / "a.csv", limit)
    assert read is not None
    assert len(read.data) == expected
    assert read.before.size == size


@pytest.mark.parametrize(("most", "limit"), [(3, 100), (3, 10), (10, 10), (100, 10)])
def test_a_reading_that_comes_in_pieces_is_whole(most: int, limit: int) -> None:
    """A share gives fewer bytes than it is asked for, and Linux never more than 2 GiB: the rest is read as well."""
    data, asked = io.BytesIO(bytes(range(20))), []

    def read(count: int) -> bytes:
        asked.append(count)
        return data.read(min(count, most))

    assert look._read_up_to(read, limit) == bytes(range(20))[:limit]
    assert min(asked) > 0
    assert look._read_up_to(lambda _: None, limit) == b""


@pytest.mark.parametrize("size", [0, 5, look.BLOCK_BYTES, look.BLOCK_BYTES + 7, 2 * look.BLOCK_BYTES + 5, 2**40])
def test_the_beginning_of_a_file_is_hashed(raw: Path, size: int) -> None:
    """Its first bytes, as many as are asked for, or all there are: they tell whether a file has grown."""
    data = bytes(range(256)) * (look.BLOCK_BYTES // 128) + b"the end"
    (raw / "a.csv").write_bytes(data)
    assert files.sha256_of(raw / "a.csv", size) == hashlib.sha256(data[:size]).hexdigest()


def test_an_age_counts_from_the_last_change(raw: Path) -> None:
    """In seconds, to the microsecond; it is negative for a file from the future."""
    _put(raw, "a.csv")
    os.utime(raw / "a.csv", ns=(0, 1_758_632_155_250_000_000))
    state = scan_csvs(raw).files["a.csv"]
    assert state.age_s(datetime.fromtimestamp(1_758_632_157.5, UTC)) == pytest.approx(2.25)
    assert state.age_s(datetime.fromtimestamp(1_758_632_155, UTC)) == pytest.approx(-0.25)


@pytest.mark.parametrize("mtime", [10**10, -(10**10)])
def test_a_time_that_64_bits_cannot_hold_is_the_nearest_that_they_can(raw: Path, mtime: int) -> None:
    """The years 2286 and 1653: no table of ours could hold the file's state otherwise."""
    _put(raw, "a.csv")
    os.utime(raw / "a.csv", (mtime, mtime))
    if (raw / "a.csv").stat().st_mtime != mtime:
        pytest.skip("this file system holds no such time")
    nearest = 2**63 - 1 if mtime > 0 else -(2**63 - 1)
    assert scan_csvs(raw).files["a.csv"].mtime_ns == nearest


def test_what_is_no_regular_file_is_not_read(raw: Path) -> None:
    """A FIFO, nobody writing, returns None at once; so do a socket, a folder and a link."""
    os.mkfifo(raw / "pipe.csv")
    _bind(raw, "socket.csv")
    (raw / "folder.csv").mkdir()
    _put(raw, "a.csv")
    (raw / "link.csv").symlink_to("a.csv")
    for name in ("pipe.csv", "socket.csv", "folder.csv", "link.csv"):
        assert files.read_raw(raw / name, 10) is None
    for name in ("pipe.csv", "socket.csv", "folder.csv", "link.csv", "gone.csv", "a.csv/x.csv"):
        assert files.sha256_of(raw / name) is None


def test_the_state_of_one_file_is_that_of_a_scan(raw: Path) -> None:
    """What a scan does not find has none: no file, a folder, or a link, be it a folder above or one to itself."""
    _put(raw, "day/a.csv")
    (raw / "day/link.csv").symlink_to("a.csv")
    (raw / "linked").symlink_to("day")
    (raw / "loop").symlink_to("loop")
    assert files.state_below(raw, "day/a.csv") == scan_csvs(raw).files["day/a.csv"]
    for name in ("day", "day/b.csv", "day/a.csv/x.csv", "day/link.csv", "linked/a.csv", "loop", "loop/a.csv"):
        assert files.state_below(raw, name) is None
    (raw.parent / "by-link").symlink_to(raw)
    assert files.state_below(raw.parent / "by-link", "day/a.csv") is not None


def test_a_reading_leaves_no_trace(raw: Path) -> None:
    """Reading and hashing change no time of the file, its access time included, where the system allows that."""
    _put(raw, "a.csv")
    os.utime(raw / "a.csv", ns=(10**18, 10**18 + 1))
    before = (raw / "a.csv").stat()
    files.read_raw(raw / "a.csv", 100)
    assert files.sha256_of(raw / "a.csv") == hashlib.sha256(b"a.csv").hexdigest()
    assert (raw / "a.csv").stat() == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", True),
        ("d/A.CSV", True),
        (".csv", False),
        ("d/.a.csv", False),
        (".d/a.csv", False),
        ("~$a.csv", False),
        ("d/~$a.csv", False),
        ("~a.csv", True),
        ("a.csv.part", False),
        ("a\udcff.csv", False),
        ("a", False),
    ],
)
def test_which_names_may_be_measurements(name: str, expected: bool) -> None:
    """Names that no scan lists are ruled out by the path alone."""
    assert may_be_csv(name) is expected
