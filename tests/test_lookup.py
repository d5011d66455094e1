"""What people and programs name: a run by its id, a raw file by its path."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingestd.errors import UsageError
from ingestd.layout import Layout
from ingestd.lookup import (
    is_run_id,
    near_files,
    raw_file_is_gone,
    refuse_folder,
    require_manifest,
    run_id_of,
    source_file_of,
)
from ingestd.settings import load_settings

NAME = "2025-09-23/It_1.csv"
RUN_IDS = ["0a4cf591bca3036df5ff", "0a4cf5" + "0" * 14, "42ee6d429ea0eef429a8"]


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A data root with one raw file, named from the folder that holds the data root."""
    raw_file = tmp_path / "data" / "01_raw" / NAME
    raw_file.parent.mkdir(parents=True)
    raw_file.touch()
    monkeypatch.chdir(tmp_path)
    return load_settings(None, {"paths": {"data_root": tmp_path / "data"}}).layout


@pytest.mark.parametrize(
    ("asked", "may_be"),
    [
        ("42ee6d", True),
        (" 42EE6D429EA0EEF429A8\n", True),
        ("42ee6", False),
        ("42ee6d429ea0eef429a80", False),
        ("42ee6d.csv", False),
        ("day/42ee6d", False),
    ],
)
def test_what_may_be_a_run_id(asked: str, may_be: bool) -> None:
    """Six to twenty hex digits and nothing else, in either case."""
    assert is_run_id(asked) is may_be


def test_a_run_is_found_by_the_beginning_of_its_id() -> None:
    """One run that begins so is meant; of several, more digits are asked for."""
    assert run_id_of(" 42EE6D ", RUN_IDS) == RUN_IDS[2]
    assert run_id_of(RUN_IDS[0], RUN_IDS) == RUN_IDS[0]
    with pytest.raises(UsageError, match="2 runs have an id that begins with 0a4cf5") as raised:
        run_id_of("0a4cf5", RUN_IDS)
    assert raised.value.next_step == f"give more digits: {RUN_IDS[1]}, {RUN_IDS[0]}"
    with pytest.raises(UsageError, match="no run of id 42ee00"):
        run_id_of("42ee00", RUN_IDS)


@pytest.mark.parametrize("asked", ["42ee6", "", " 0a4cf "])
def test_too_few_digits_are_not_said_to_be_unknown(asked: str) -> None:
    """A run may well have such an id: what is asked for is more digits."""
    with pytest.raises(UsageError, match=f"'{asked.strip()}' is too short for a run id") as raised:
        run_id_of(asked, RUN_IDS)
    assert raised.value.next_step == "give at least the first 6 digits of one"


@pytest.mark.parametrize("given", [NAME, f"./{NAME}", f"data/01_raw/{NAME}", "2025-09-23/../2025-09-23/It_1.csv"])
def test_a_raw_file_is_found_by_any_path_to_it(layout: Layout, given: str) -> None:
    """Below the raw root, below the current folder, and in full, with and without detours."""
    assert source_file_of(layout, given) == NAME
    assert source_file_of(layout, str(layout.raw_root / NAME)) == NAME


def test_a_raw_file_is_found_through_a_link_to_the_raw_root(layout: Layout, tmp_path: Path) -> None:
    """The name a share has on this PC is as good as the one in the settings."""
    (tmp_path / "share").symlink_to(layout.raw_root)
    assert source_file_of(layout, f"share/{NAME}") == NAME


def test_a_raw_root_that_is_a_link_to_itself_leads_nowhere(layout: Layout, tmp_path: Path) -> None:
    """A link put in its place by mistake is no failure of ingestd; what is known of a file is still told."""
    layout.raw_root.rename(tmp_path / "away")
    layout.raw_root.symlink_to(layout.raw_root)
    assert source_file_of(layout, NAME, anyway=True) == NAME
    assert source_file_of(layout, f"data/01_raw/{NAME}", {NAME}) == NAME


def test_a_link_below_the_raw_root_is_not_followed(layout: Layout, tmp_path: Path) -> None:
    """A file behind it has the name it seems to have; no scan finds it there."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "It_1.csv").touch()
    (layout.raw_root / "day").symlink_to(elsewhere)
    assert source_file_of(layout, "data/01_raw/day/It_1.csv") == "day/It_1.csv"


def test_a_raw_file_that_is_gone_is_found_among_the_known(layout: Layout) -> None:
    """By its path, and by its name as it is printed; what nobody knows is found only if it need not be there."""
    gone, odd = "2025-09-24/It_2.csv", "day/It_\x1b1.csv"
    assert source_file_of(layout, f"data/01_raw/{gone}", {gone, odd}) == gone
    assert source_file_of(layout, "day/It_\\x1b1.csv", {gone, odd}) == odd
    assert source_file_of(layout, gone, anyway=True) == gone
    for given in (gone, "day/It_\\x1b2.csv"):
        with pytest.raises(UsageError, match="not a file below the raw root"):
            source_file_of(layout, given, {odd})


def test_a_long_name_is_found_as_it_is_printed(layout: Layout) -> None:
    """However many characters it has, and become by being escaped."""
    odd = f"day/{'µ' * 60}{chr(27) * 10}.csv"
    assert source_file_of(layout, odd.replace("\x1b", "\\x1b"), {odd}) == odd


def test_a_raw_file_is_gone_only_where_the_raw_root_is_there(layout: Layout, tmp_path: Path) -> None:
    """While the share is away nothing is known of its files, and no reject is forgotten."""
    assert [raw_file_is_gone(layout, name) for name in (NAME, "day/It_2.csv")] == [False, True]
    layout.raw_root.rename(tmp_path / "away")
    assert not raw_file_is_gone(layout, NAME)


def test_a_raw_file_that_no_scan_finds_any_more_is_gone(layout: Layout) -> None:
    """A link in its place, or in that of its folder, is not followed, and a folder is no file."""
    raw = layout.raw_root
    (raw / NAME).rename(raw / "kept.txt")
    (raw / NAME).symlink_to(raw / "kept.txt")
    assert raw_file_is_gone(layout, NAME)
    (raw / NAME).unlink()
    (raw / NAME).mkdir()
    assert raw_file_is_gone(layout, NAME)
    (raw / NAME).rmdir()
    (raw / "kept.txt").rename(raw / NAME)
    (raw / NAME).parent.rename(raw / "elsewhere")
    (raw / NAME).parent.symlink_to("elsewhere")
    assert raw_file_is_gone(layout, NAME)


def test_a_manifest_is_there_before_its_first_compaction(layout: Layout) -> None:
    """A log is enough to be read; neither is told as what it is, with the command that makes one."""
    with pytest.raises(UsageError, match="there is no manifest here") as raised:
        require_manifest(layout)
    assert "ingestd backfill" in raised.value.next_step
    layout.wal_dir.mkdir(parents=True)
    require_manifest(layout)


def test_a_folder_is_refused_and_what_is_no_folder_is_not(layout: Layout) -> None:
    """A link to one has a name that no scan goes into: it is told as unknown elsewhere."""
    (layout.raw_root / "link").symlink_to("2025-09-23")
    for name in (NAME, "link", "gone.csv"):
        refuse_folder(layout, name)
    with pytest.raises(UsageError, match="this is a folder"):
        refuse_folder(layout, "2025-09-23")


@pytest.mark.parametrize("anyway", [False, True])
@pytest.mark.parametrize("given", ["../elsewhere.csv", "/etc/passwd", ".", "It\0.csv"])
def test_no_other_path_is_a_raw_file(layout: Layout, given: str, anyway: bool) -> None:
    """What lies elsewhere, the raw root itself, and what is no path at all."""
    with pytest.raises(UsageError, match="not a file below the raw root"):
        source_file_of(layout, given, anyway=anyway)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("It_1.csv", "2025-09-23/It_1.csv or 2025-09-24/It_1.csv"),
        ("2025-09-25/It_1.csv", "2025-09-23/It_1.csv or 2025-09-24/It_1.csv"),
        ("2025-09-23/IVg_7x.csv", "2025-09-23/IVg_7.csv or 2025-09-23/It_1.csv or 2025-09-24/It_1.csv"),
        ("ivg_7.csv", "2025-09-23/IVg_7.csv"),
        ("day/IVg_77.csv", "2025-09-23/IVg_7.csv"),
        ("notes.txt", ""),
        ("", ""),
    ],
)
def test_the_files_that_may_be_meant_are_named(given: str, meant: str) -> None:
    """All that have the very name, or else those that are spelt alike; where nothing is alike, nothing is named."""
    known = ["2025-09-24/It_1.csv", "2025-09-23/It_1.csv", "2025-09-23/IVg_7.csv"]
    assert near_files(given, known) == meant


def test_at_most_three_files_are_named() -> None:
    """An archive may have a file of the same name for every day."""
    assert near_files("It_1.csv", [f"2025-09-{day}/It_1.csv" for day in range(10, 30)]).count("It_1.csv") == 3
