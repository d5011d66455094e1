"""What stands at a path: yes, no, or an error where that cannot be told."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingestd import files

ASK = [files.exists, files.is_dir, files.is_file]


def answers(path: Path) -> list[bool]:
    """Ask whether anything, a folder, a file stands there."""
    return [ask(path) for ask in ASK]


def test_what_stands_there_is_told(tmp_path: Path) -> None:
    """Links are followed; what leads nowhere, or to itself, is not there."""
    (tmp_path / "file").touch()
    (tmp_path / "to file").symlink_to("file")
    (tmp_path / "to folder").symlink_to(tmp_path)
    (tmp_path / "to nothing").symlink_to("nothing")
    (tmp_path / "to itself").symlink_to("to itself")
    assert answers(tmp_path) == answers(tmp_path / "to folder") == [True, True, False]
    assert answers(tmp_path / "file") == answers(tmp_path / "to file") == [True, False, True]
    assert all(files.is_taken(tmp_path / name) for name in ("file", "to folder", "to nothing", "to itself"))
    assert not any(files.is_taken(tmp_path / name) for name in ("nothing", "file/below", "to itself/below"))
    for name in ("nothing", "to nothing", "to itself", "to itself/below", "file/below", "a\0b"):
        assert answers(tmp_path / name) == [False, False, False]
        assert files.is_gone(tmp_path / name)


def test_what_is_out_of_reach_is_not_called_gone(tmp_path: Path) -> None:
    """Whatever Python says of it: a path the system cannot look at may be there."""
    for ask in (*ASK, files.is_taken):
        with pytest.raises(OSError, match="File name too long"):
            ask(tmp_path / ("x" * 300))
    assert not files.is_gone(tmp_path / ("x" * 300))


def test_a_name_is_spelt_in_one_way(tmp_path: Path) -> None:
    """Each folder on the way counts, and the file; what is not there has no spelling."""
    (tmp_path / "Day").mkdir()
    (tmp_path / "Day" / "It_1.csv").touch()
    assert files.is_spelt_so(tmp_path, "Day/It_1.csv")
    assert not files.is_spelt_so(tmp_path, "day/It_1.csv")
    assert not files.is_spelt_so(tmp_path, "Day/it_1.csv")
