"""`rejects list`, `rejects show`, `rejects retry`: why a file is not staged, and what to do."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import Folder
from measurement import BROKEN, Measurement

from ingestd import cli
from ingestd.cli.output import LONG_LIST
from ingestd.ingest import traces
from ingestd.ingest.traces import read_reject
from ingestd.layout import Layout

REJECT = "2026-03-12/IV2026-03-12_3.csv"

SHOWN = """\
data/01_raw/2026-03-12/IV2026-03-12_3.csv, line 62
rejected: row-too-long
  the row has 6 cells where the column line names 5: a comma inside a text cell, or a decimal comma,
  makes one cell too many
  expected: 5 cells
  found:    6 cells: -0.8,-5.162407e-05,24,8,nan,nan

    62 | -0.8,-5.162407e-05,24,8,nan,nan

next: correct the row, or delete it, in an editor

When the file changes, the service looks at it again at once; without one, the next
`ingestd backfill` does.
After a change of settings, restart the service if one is running; then:
  ingestd rejects retry 2026-03-12/IV2026-03-12_3.csv
"""

HALL = """
[procedures.Hall]
classes = ["Hall"]
chip = "optional"
light = "none"
summary = "Hall {chip_name}  #{file_idx}"
[procedures.Hall.columns]
t_s = { accepts = ["t (s)"] }
i_a = { accepts = ["I (A)"] }
"""


def test_list_names_file_code_line_and_message(staged: Folder) -> None:
    """The table has a line a reject; --json has the same and more."""
    done = staged.run("rejects", "list")
    head, line = done.out.splitlines()
    assert head.split("  ")[0] == "FILE"
    assert line.startswith(f"{REJECT}  row-too-long  62    the row has 6 cells")
    (reject,) = staged.run("rejects", "list", "--json").json["rejects"]
    assert (reject["source_file"], reject["code"], reject["line"]) == (REJECT, "row-too-long", 62)
    assert {"message", "expected", "found", "next_step", "after_a_change_of_settings"} <= reject.keys()


def test_list_counts_rejected_files_that_are_gone_and_lists_the_others(staged: Folder) -> None:
    """As in `status`, a deleted file is no reject; one line says that it was; with the share away no file is gone."""
    (staged.raw / REJECT).unlink()
    assert staged.run("rejects", "list").out == (
        f"no file is rejected\none rejected file is gone; to forget it: `ingestd rejects retry {REJECT}`\n"
    )
    listed = staged.run("rejects", "list", "--json").json
    assert (listed, staged.run("status", "--json").json["rejects"]) == ({"rejects": [], "gone": [REJECT]}, [])
    staged.put("a.csv", BROKEN)
    staged.put("b.csv", BROKEN + b"\n")
    staged.run("backfill", "--workers", "1")
    (staged.raw / "b.csv").unlink()
    _, line, gone = staged.run("rejects", "list").out.splitlines()
    assert line.startswith("a.csv  ")
    assert gone == "2 more rejected files are gone; to forget them: `ingestd rejects retry --all`"
    staged.raw.rename(staged.raw.with_name("away"))
    assert "the row has 6 cells" in staged.run("rejects", "list").out


def test_list_without_rejects(folder: Folder) -> None:
    """A good archive has no reject, and the list says so."""
    folder.put("It_1.csv", Measurement().data)
    assert folder.run("backfill", "--workers", "1").code == 0
    assert folder.run("rejects", "list").out == "no file is rejected\n"
    assert folder.run("rejects", "retry", "--all").out == "0 files retried, 0 staged\n"


@pytest.mark.parametrize("name", [REJECT, f"data/01_raw/{REJECT}", f"./data/../data/01_raw/{REJECT}"])
def test_show_tells_the_whole_story_of_a_file_named_in_any_way(staged: Folder, name: str) -> None:
    """The file may be named below the raw root or as a path; the story ends with what to type."""
    done = staged.run("rejects", "show", name)
    assert (done.out, done.err, done.code) == (SHOWN, "", 0)


def test_show_marks_the_fault_in_the_line(folder: Folder) -> None:
    """Where the fault is one cell, it is marked below the line of the raw file."""
    folder.put("It_1.csv", Measurement().data.replace(b"\n0.5,", b"\n0.5s,"))
    folder.run("backfill", "--workers", "1")
    story = folder.run("rejects", "show", "It_1.csv").out
    assert re.search(r"^ +\d+ \| 0\.5s,\S+\n       \| \^\^\^\^$", story, re.MULTILINE), story


def test_show_finds_the_line_below_a_very_long_one(folder: Folder) -> None:
    """A line of more than a MiB is one line, as everywhere."""
    long = b"#\tNote: " + b"x" * 2_500_000 + b"\n#Data:"
    folder.put("It_1.csv", Measurement().data.replace(b"#Data:", long).replace(b"\n0.5,", b"\n0.5s,"))
    folder.run("backfill", "--workers", "1")
    story = folder.run("rejects", "show", "It_1.csv").out
    assert re.search(r"^ +\d+ \| 0\.5s,\S+\n       \| \^\^\^\^$", story, re.MULTILINE), story


def test_show_prints_no_bytes_of_a_binary_file(folder: Folder) -> None:
    """What is no text is told by its size; no line of it is shown, and no edit or setting is said to mend it."""
    folder.put("photo.csv", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4)
    folder.run("backfill", "--workers", "1")
    assert folder.run("rejects", "show", "photo.csv").out == (
        "data/01_raw/photo.csv, line 1\n"
        "rejected: not-pymeasure\n"
        "  not a PyMeasure measurement file: it looks like a PNG image\n"
        "  expected: #Procedure: <class>\n"
        "  found:    binary data, 1,032 bytes\n"
        "next: move the file out of the raw folder, or replace it with the one the instrument program wrote\n"
    )


def test_show_tells_once_how_to_retry(folder: Folder) -> None:
    """Where the next step names the retry already, it is not told a second time in other words."""
    folder.put("Hall_1.csv", Measurement().data.replace(b"laser_setup.procedures.It.It", b"lab.Hall"))
    folder.run("backfill", "--workers", "1")
    assert folder.run("rejects", "show", "Hall_1.csv").out.count("ingestd rejects retry") == 1


def test_a_file_whose_folder_is_out_of_reach_is_not_gone(
    staged: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only a file that is not there counts as gone: one that cannot be looked at is still a reject."""

    def refuse(_: Path) -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "lstat", refuse)
    listed = listed_here(staged, monkeypatch, capsys)
    assert ([one["source_file"] for one in listed["rejects"]], listed["gone"]) == ([REJECT], [])


def listed_here(staged: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return what `rejects list --json` prints in this process, where a test can change what it meets."""
    monkeypatch.setattr(sys, "argv", ["ingestd", "rejects", "list", "--json", "--data-root", str(staged.path / "data")])
    with pytest.raises(SystemExit):
        cli.main()
    listed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return listed


def test_a_reject_whose_json_is_only_being_written_is_listed_with_its_reason(
    staged: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A service records the reject first, and writes the JSON a moment later."""
    (path,) = (staged.path / "data/02_stage/_rejects").rglob("*.json")
    late = path.rename(staged.path / "late")
    monkeypatch.setattr("ingestd.ingest.traces.time.sleep", lambda _: late.rename(path))
    (listed,) = listed_here(staged, monkeypatch, capsys)["rejects"]
    assert listed["code"] == "row-too-long"


def test_a_reject_that_is_decided_anew_while_they_are_listed_is_not_listed(
    staged: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its JSON is gone then, because it is no reject any more: that is nothing to be told."""

    def decide_first(layout: Layout, name: str, *, until: float) -> dict[str, Any]:
        staged.put(name, Measurement().data)
        assert staged.run("backfill", "--workers", "1").code == 0
        return read_reject(layout, name, until=0 * until)

    monkeypatch.setattr(traces, "read_reject", decide_first)
    assert listed_here(staged, monkeypatch, capsys) == {"rejects": [], "gone": []}


def test_what_to_type_next_repeats_the_options_given(staged: Folder) -> None:
    """A command that is printed works as it stands, wherever this one was told the data are; as given, and quoted."""
    (staged.path / "data").rename(staged.path / "the data")
    (staged.path / "lab.toml").write_text("")
    options = ("--data-root", "the data", "--config", "lab.toml")
    again = "--data-root 'the data' --config lab.toml"
    shown = staged.run("rejects", "show", REJECT, *options).out
    assert f"without one, the next\n`ingestd backfill {again}` does.\n" in shown
    assert shown.endswith(f"\n  ingestd rejects retry {REJECT} {again}\n")
    typed = shlex.split(shown.splitlines()[-1])[1:]
    assert staged.run(*typed).out.endswith("1 file retried, 0 staged\n")
    assert f"`ingestd rejects show FILE {again}` tells why" in staged.run("status", *options).out
    wrong = staged.run("rejects", "show", "x.csv", "--stage-root", "the data/02_stage").err
    assert "`ingestd rejects list --stage-root 'the data/02_stage'` lists those that are" in wrong


def test_show_says_when_the_raw_file_is_another_one_now(staged: Folder) -> None:
    """A file that changed or is gone since the reject is told; no line of it is blamed, nor is a lost one to edit."""
    path = staged.raw / REJECT
    path.write_bytes(path.read_bytes() + b"\n")
    assert (
        "(the file has changed since; the service or the next backfill looks at it again)"
        in staged.run("rejects", "show", REJECT).out
    )
    path.unlink()
    assert staged.run("rejects", "show", REJECT).out.endswith(
        "  (the file is gone: it was deleted, moved, renamed or put behind a link)\n"
        f"next: put it back, corrected, or forget it: `ingestd rejects retry {REJECT}`\n"
    )
    assert staged.run("rejects", "show", REJECT, "--json").json["gone"] is True


@pytest.mark.parametrize("mtime", [1_773_532_800, 10**10])
def test_show_of_a_touched_file_shows_its_line(staged: Folder, mtime: int) -> None:
    """With the bytes it was rejected for it has not changed, whatever its mtime: one in the year 2286 fits no table."""
    before = staged.run("rejects", "show", REJECT).out
    os.utime(staged.raw / REJECT, (mtime, mtime))
    assert staged.run("rejects", "show", REJECT).out == before
    staged.run("backfill", "--workers", "1")
    assert (" | " in before, staged.run("rejects", "show", REJECT).out) == (True, before)


def test_show_of_another_file_names_near_ones(staged: Folder) -> None:
    """A slip in the name ends with 2 and the name that was meant."""
    done = staged.run("rejects", "show", "2026-03-12/IV2026-03-12_4.csv")
    assert (done.code, done.out) == (2, "")
    assert "this file is not among the rejects" in done.err
    assert f"did you mean {REJECT}?" in done.err
    assert f"did you mean {REJECT}?" in staged.run("rejects", "show", "IV2026-03-12_3.csv").err
    assert "`ingestd explain FILE` says what became of any other" in done.err


def test_show_of_a_file_that_is_staged_says_so(staged: Folder) -> None:
    """A file that is there and not rejected is no slip in the name: what became of it is told, and no other named."""
    names = {"IV2026-03-12_1.csv": "it is staged as run ", "IV2026-03-12_4.csv": "it has not been staged yet"}
    staged.put("2026-03-12/IV2026-03-12_4.csv", BROKEN + b"\n")
    for name, words in names.items():
        done = staged.run("rejects", "show", f"2026-03-12/{name}")
        assert done.code == 2
        assert done.err.startswith(f"error: 2026-03-12/{name}: this file is not rejected: {words}")
        assert done.err.endswith(f"\n  next: `ingestd explain 2026-03-12/{name}`\n")


@pytest.mark.parametrize("gone", [False, True])
def test_a_path_through_a_link_means_one_file_to_every_command(staged: Folder, gone: bool) -> None:
    """A link that leads to the raw root is followed by `show` and `explain`, also to a file that is gone."""
    (staged.path / "today").symlink_to(staged.raw / Path(REJECT).parent)
    (staged.path / "raw").symlink_to(staged.raw)
    if gone:
        (staged.raw / REJECT).unlink()
    for name in (f"today/{Path(REJECT).name}", f"raw/{REJECT}", str(staged.path / "raw" / REJECT), REJECT):
        assert staged.run("rejects", "show", name, "--json").json["source_file"] == REJECT
        assert staged.run("explain", name, "--json").json["source_file"] == REJECT


@pytest.mark.parametrize("command", [("rejects", "show"), ("explain",)])
def test_a_folder_is_no_file_to_ask_about(staged: Folder, command: tuple[str, ...]) -> None:
    """The folder of a day ends with 2 and says to name a file in it."""
    done = staged.run(*command, "2026-03-12")
    assert (done.code, done.out) == (2, "")
    assert "/2026-03-12: this is a folder\n  next: name a file in it\n" in done.err


def test_retry_after_a_change_of_settings_stages_the_file(folder: Folder) -> None:
    """A procedure added to the config makes `rejects retry` stage what was rejected, and that only."""
    hall = Measurement().data.replace(b"laser_setup.procedures.It.It", b"lab.Hall")
    folder.put("Hall_1.csv", hall)
    folder.put("Bad_2.csv", BROKEN)
    first = folder.run("backfill", "--workers", "1")
    assert first.code == 1
    assert "add this table to the config file (`ingestd config show` names it;" in first.out
    table = folder.run("rejects", "show", "Hall_1.csv").out
    assert '\n[procedures.Hall]\nclasses = ["Hall"]\n' in table
    (folder.path / "config.toml").write_text(HALL)
    done = folder.run("rejects", "retry", "data/01_raw/Hall_1.csv")
    assert (done.out, done.code) == ("ingested  Hall_1.csv\n1 file retried, 1 staged\n", 0)
    assert [one["source_file"] for one in folder.run("rejects", "list", "--json").json["rejects"]] == ["Bad_2.csv"]


def test_retry_tells_a_copy_and_a_move_from_what_is_rejected(folder: Folder) -> None:
    """Bytes that were refused are those of a run by now: the file is its copy, or where it was moved to."""
    hall = Measurement().data.replace(b"laser_setup.procedures.It.It", b"lab.Hall")
    config = folder.path / "config.toml"
    for name in ("a/Hall_1.csv", "b/Hall_1.csv"):
        folder.put(name, hall)
    folder.run("backfill", "--workers", "1")
    config.write_text(HALL)
    done = folder.run("rejects", "retry", "--all", "--json")
    assert done.json["retried"] == {"a/Hall_1.csv": "ingested", "b/Hall_1.csv": "duplicate"}
    assert folder.run("rejects", "list").out == "no file is rejected\n"
    config.write_text("")
    for name in ("a/Hall_1.csv", "b/Hall_1.csv"):
        (folder.raw / name).unlink()
    folder.put("c/Hall_1.csv", hall)
    assert "rejected  c/Hall_1.csv" in folder.run("backfill", "--workers", "1").out
    config.write_text(HALL)
    done = folder.run("rejects", "retry", "c/Hall_1.csv", "--json")
    assert (done.json["retried"], done.code) == ({"c/Hall_1.csv": "moved"}, 0)


def test_retry_of_a_file_that_is_still_bad_rejects_it_again(staged: Folder) -> None:
    """The result is told as by a backfill, with exit code 1, and the reject stands."""
    done = staged.run("rejects", "retry", "--all")
    assert done.code == 1
    assert done.out.startswith(f"rejected  {REJECT}, line 62\n")
    assert done.out.endswith("\n1 file retried, 0 staged\n")
    again = staged.run("rejects", "retry", REJECT, "--json")
    assert (again.code, again.json["retried"]) == (1, {REJECT: "rejected"})


def test_retry_of_a_file_that_is_gone_forgets_the_reject(staged: Folder) -> None:
    """A reject whose file was deleted leaves the list."""
    (staged.raw / REJECT).unlink()
    done = staged.run("rejects", "retry", "--all")
    assert (done.out, done.code) == (f"gone      {REJECT}\n1 file retried, 0 staged\n", 0)
    assert staged.run("rejects", "list").out == "no file is rejected\n"


def test_retry_of_a_whole_procedure_tells_of_some_files_and_counts_them(folder: Folder) -> None:
    """A table added for an unknown procedure stages its files of years: their list would hide the others' problems."""
    (folder.path / "config.toml").write_text("")
    for number in range(LONG_LIST + 3):
        folder.put(f"Hall_{number}.csv", Measurement(start=1758632155.25 + number).data.replace(b".It>", b".Hall>"))
    folder.run("backfill", "--workers", "1")
    (folder.path / "config.toml").write_text(HALL)
    done = folder.run("rejects", "retry", "--all")
    assert done.out.count("ingested  Hall_") == LONG_LIST
    assert done.out.endswith(f"ingested  ... and 3 more\n{LONG_LIST + 3} files retried, {LONG_LIST + 3} staged\n")


def test_a_reject_behind_a_link_is_one_of_a_file_that_is_gone(staged: Folder) -> None:
    """Scans pass over a link: the lists say the same of it as status, `explain` why, and a retry forgets the reject."""
    path = staged.raw / REJECT
    path.rename(path.with_suffix(".txt"))
    path.symlink_to(path.with_suffix(".txt"))
    listed = staged.run("rejects", "list", "--json").json
    assert (listed["rejects"], listed["gone"]) == ([], [REJECT])
    assert staged.run("status", "--json").json["rejects"] == []
    told = staged.run("explain", REJECT, "--json").json["verdict"]
    assert "; it is passed over now (symbolic links are not followed), and `ingestd rejects retry " in told
    done = staged.run("rejects", "retry", REJECT)
    assert (done.out, done.code) == (f"gone      {REJECT}\n1 file retried, 0 staged\n", 0)
    assert staged.run("explain", REJECT, "--json").json["verdict"] == (
        "It is passed over: symbolic links are not followed."
    )


TOLD = '{"code": "not-pymeasure", "message": "x", "found": "\\\\x89", "source_file": "x", "rejected_at": "x"'


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        '{"code": 3, "message": "x"}',
        '{"code": "bad-cell", "message": "x"}',
        TOLD + ', "source_size": 3}',
        TOLD + ', "source_size": "3", "next_step": "x"}',
    ],
)
def test_a_reject_json_that_was_changed_is_told(staged: Folder, content: str) -> None:
    """One that does not tell why is called damaged; `explain` tells the story without it."""
    path = staged.raw.parent / "02_stage" / "_rejects" / f"{REJECT}.json"
    assert path.exists()
    path.write_text(content)
    for words in (["list"], ["show", REJECT]):
        done = staged.run("rejects", *words)
        assert "itself failed" not in done.err
        assert "damaged" in done.out + done.err
    assert "It was rejected (row-too-long)" in staged.run("explain", REJECT).out
