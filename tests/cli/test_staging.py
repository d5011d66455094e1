"""`backfill`, `stage-all`, `full-pipeline`: what they print, write and answer."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ENTRY, LONG_AGO, Folder
from measurement import BROKEN, Measurement

import ingestd
from ingestd.cli.output import LONG_LIST
from ingestd.cli.report import JSON_KEYS

FIRST = """\
rejected  2026-03-12/IV2026-03-12_3.csv, line 62
          the row has 6 cells where the column line names 5: a comma inside a text cell, or a
          decimal comma, makes one cell too many [row-too-long]
          next: correct the row, or delete it, in an editor

queued    2026-03-13/It2026-03-13_5.csv
          header only, no data row yet: it waits for its turn, or never ran

data/01_raw: 22 files
      20  staged (20 new)
       1  waiting: not over yet; looked at again next time
       1  rejected: see above, or `ingestd rejects list`
3 histories written in data/histories
manifest: data/02_stage/_manifest/manifest.parquet
"""

SECOND = """\
queued    2026-03-13/It2026-03-13_5.csv
          header only, no data row yet: it waits for its turn, or never ran

data/01_raw: 22 files
       0  staged
      20  known already and unchanged: not opened
       1  waiting: not over yet; looked at again next time
       1  rejected earlier and not changed since: `ingestd rejects list`
0 histories written in data/histories
manifest: data/02_stage/_manifest/manifest.parquet
"""


def test_backfill_in_a_pipe_prints_the_same_text_every_time(raw: Folder) -> None:
    """Plain output has no time, no rate and no absolute path; a second run tells what is known already."""
    first = raw.run("backfill")
    assert (first.out, first.err, first.code) == (FIRST, "", 1)
    before = raw.tree()
    second = raw.run("backfill")
    assert (second.out, second.err, second.code) == (SECOND, "", 1)
    kept = {name for name, data in raw.tree().items() if before.get(name) == data}
    assert {"data/02_stage/_manifest/manifest.parquet", "data/histories/Biotite3_history.csv"} <= kept


def test_backfill_of_good_and_waiting_files_ends_with_0(raw: Folder) -> None:
    """A run that is queued is no fault: without the broken file the exit code is 0."""
    (raw.raw / "2026-03-12" / "IV2026-03-12_3.csv").unlink()
    assert raw.run("backfill", "--workers", "1").code == 0


def test_a_locale_without_utf_8_gives_no_file_another_name(folder: Folder) -> None:
    """A file keeps its name and its run under every locale; what is printed stays in the locale's encoding."""
    folder.put("2026-03-12/Messung ñ_1.csv", Measurement().data)
    old = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # as far as every machine has one
    done = folder.run("backfill", "--workers", "1", environment=old)
    assert (done.code, "1  staged (1 new)" in done.out) == (0, True)
    assert ingestd.load_manifest(folder.path / "data")["source_file"].to_list() == ["2026-03-12/Messung ñ_1.csv"]
    assert r"Messung \xf1_1.csv" in folder.run("status", environment=old).out
    assert "1  known already and unchanged: not opened" in folder.run("backfill").out


def test_backfill_json_is_one_object_with_the_documented_keys(raw: Folder) -> None:
    """With --json stdout is one JSON object whose keys are those of the docs, and whose exit code is the process's."""
    done = raw.run("backfill", "--json", "--workers", "1")
    report = done.json
    assert list(report) == list(JSON_KEYS)
    assert (report["exit_code"], done.code, done.err) == (1, 1, "")
    assert (report["scanned"], report["staged"], report["known"]) == (22, 20, 0)
    assert report["events"] == {"ingested": 20, "queued": 1, "rejected": 1}
    assert [file["source_file"] for file in report["waiting"]] == ["2026-03-13/It2026-03-13_5.csv"]
    (rejected,) = report["rejected"]
    assert (rejected["code"], rejected["line"]) == ("row-too-long", 62)
    assert report["histories"] == ["Alisson72", "Biotite3", "Biotite5"]
    assert (report["interrupted"], report["stopped_by"], report["dry_run"]) == (False, None, False)


def test_dry_run_tells_what_would_be_looked_at_and_writes_nothing(raw: Folder) -> None:
    """A dry run names new files, counts them, and leaves no file or folder behind."""
    before = raw.tree()
    done = raw.run("backfill", "--dry-run")
    assert done.code == 0
    assert done.out.count("new       2026-03-1") == LONG_LIST
    assert "... and 2 more: `--json` lists all" in done.out
    assert "      22  new" in done.out
    assert done.out.endswith("dry run: nothing was written\n")
    assert raw.tree() == before
    assert [path.name for path in (raw.path / "data").iterdir()] == ["01_raw"]
    assert set(raw.run("stage-all", "--dry-run", "--json").json["to_do"].values()) == {"new"}


def test_a_dry_run_with_force_tells_what_force_stages_again(staged: Folder) -> None:
    """With --force the known files are in the list too, as unchanged, and the sums say that they would be opened."""
    done = staged.run("backfill", "--dry-run", "--force")
    assert "      22  known and unchanged: would be opened all the same (--force)\n" in done.out
    assert "       0  known and unchanged: would not be opened\n" in done.out
    report = staged.run("backfill", "--dry-run", "--force", "--json").json
    assert (set(report["to_do"].values()), len(report["to_do"]), report["known"]) == ({"unchanged"}, 22, 0)
    assert staged.run("backfill", "--force").out.count("20  staged (20 staged again)") == 1


def test_dry_run_names_changed_files(staged: Folder) -> None:
    """After a backfill only a file that changed since is in the dry run."""
    staged.put("2026-03-12/IV2026-03-12_1.csv", BROKEN)
    done = staged.run("backfill", "--dry-run")
    assert "\n       1  changed since decided\n" in done.out
    assert "changed   2026-03-12/IV2026-03-12_1.csv" in done.out
    assert "      21  known and unchanged: would not be opened" in done.out


def test_missing_raw_root_is_an_error_and_nothing_is_made(folder: Folder) -> None:
    """A slip in --data-root ends with 2, a message with the place and what to check, and creates no folder."""
    done = folder.run("backfill", "--data-root", "dta")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"error: {folder.path / 'dta' / '01_raw'}: there is no such folder of raw files\n"
        "  next: check --data-root, --raw-root or paths.raw_root (`ingestd config show --data-root dta`); is the share "
        "mounted?\n"
    )
    assert list(folder.path.iterdir()) == []


def test_a_raw_root_that_is_a_file_is_told_as_one(folder: Folder) -> None:
    """A file named as the raw root is there: what it is not is said, and no share is asked for."""
    (folder.path / "config.toml").write_text("")
    done = folder.run("backfill", "--raw-root", "config.toml")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"error: {folder.path / 'config.toml'}: this is a file, not a folder of raw files\n"
        "  next: check --data-root, --raw-root or paths.raw_root (`ingestd config show`)\n"
    )


def test_hostile_names_and_headers_cannot_drive_the_terminal(folder: Folder) -> None:
    """Control characters, markup and bytes that are no UTF-8 in names and headers come out escaped, in JSON exactly."""
    evil = "\x1b[31m[bold]e\nvil[/b].csv"
    folder.put(evil, b"#Procedure: <x.\x1b[2J[red]>\n#Parameters:\n#Data:\nt (s)\n1\n")
    folder.put(b"\xff\x1b.csv", b"")
    text = folder.run("backfill", "--workers", "1")
    assert "\\x1b[31m[bold]e\\nvil[/b].csv" in text.out
    assert "\\xff\\x1b.csv: its name is not UTF-8" in text.out
    assert "\x1b" not in text.out + text.err
    listed = folder.run("rejects", "list", "--json").json
    assert [one["source_file"] for one in listed["rejects"]] == [evil]
    shown = folder.run("rejects", "show", evil)
    assert shown.code == 0
    assert "\x1b" not in shown.out


def test_a_name_that_is_no_utf8_makes_the_exit_code_1(folder: Folder) -> None:
    """A measurement that cannot be reached is told and counted, though nothing was rejected."""
    folder.put("good.csv", Measurement().data)
    folder.put(b"\xff.csv", Measurement(sample=1).data)
    done = folder.run("backfill", "--json", "--workers", "1")
    assert (done.code, done.json["unreachable"], done.json["staged"]) == (1, ["\\xff.csv"], 1)
    assert "\n1 name passed over may hide a measurement: see above\n" in folder.run("backfill").out


def test_long_lists_are_cut_for_people_and_whole_in_json(folder: Folder) -> None:
    """Of 30 rejects people are shown the first 20 and where the rest is; --json has all."""
    for number in range(30):
        folder.put(f"bad_{number:02}.csv", BROKEN + b"%d" % number)
    done = folder.run("backfill", "--workers", "1")
    assert done.out.count("rejected  bad_") == LONG_LIST
    assert "... and 10 more: `ingestd rejects list` lists all" in done.out
    assert len(folder.run("rejects", "list", "--json").json["rejects"]) == 30


def test_what_is_staged_with_warnings_is_told(folder: Folder) -> None:
    """A backfill names the files whose content people should know something about, once: when it stages them."""
    folder.put("It_1.csv", Measurement().data)
    folder.put("It_2.csv", Measurement(start=9e9, sample=1).data.replace(b"Clock (ms)", b"Odd (x)"))
    folder.put("It_3.csv", Measurement(start=1758639999.5, sample=2).data + b"1.5,3.1e-05")
    warnings = {}
    for options in ((), ("--force",)):
        done = folder.run("backfill", "--workers", "1", *options)
        assert done.code == 0
        assert re.findall(r"^warning +(\S+)$", done.out, re.MULTILINE) == ["It_2.csv", "It_3.csv"]
        told = "       3  staged \\(3 .*\\)\n       2  of them with warnings: see above, or `ingestd explain FILE`\n"
        assert re.search(told, done.out)
        warnings = folder.run("backfill", "--workers", "1", "--force", "--json").json["warnings"]
        assert {name: len(texts) for name, texts in warnings.items()} == {"It_2.csv": 2, "It_3.csv": 1}
        for text in (text for texts in warnings.values() for text in texts):
            assert text in " ".join(done.out.split())
    assert warnings["It_2.csv"] == folder.run("explain", "It_2.csv", "--json").json["rows"][0]["warnings"]
    assert folder.run("backfill", "--json").json["warnings"] == {}


def test_a_reader_that_goes_away_is_no_error(raw: Folder) -> None:
    """`ingestd backfill | head -1` stages everything and says nothing of the closed pipe."""
    with raw.start("backfill", "--workers", "1") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
    assert ingestd.load_manifest(raw.path / "data").height == 20


def test_a_terminal_gets_a_progress_bar_and_ages(raw: Folder) -> None:
    """On a terminal a bar counts the files; when it is gone the report stands there, waiting files with their age."""
    screen = _on_terminal(raw, "backfill", "--workers", "1")
    assert "staging" in screen
    assert "/22" in screen
    assert "header only, no data row yet: it waits for its turn, or never ran (for " in screen
    assert "\x1b[?25h" in screen  # the cursor is back
    screen = _on_terminal(raw, "verify", "--deep")
    assert re.search("checking.*/40.*Nothing is damaged", screen, re.DOTALL)  # 20 runs: staged files, then raw files


def test_a_service_that_cannot_start_says_so_on_its_terminal_as_any_command(raw: Folder) -> None:
    """Who starts it by hand is told once what is wrong and what to do; elsewhere the line of the log tells it."""
    (raw.path / "data" / "02_stage").touch()
    screen = re.sub(r"\x1b\[[0-9;]*m", "", _on_terminal(raw, "run"))
    assert re.match(r"error: \S+/service\.lock: Not a directory\r\n  next: a file stands where", screen)
    assert screen.count("Not a directory") == 1
    done = raw.run("run")
    told = [json.loads(line) for line in done.err.splitlines()]
    failed = [line["problem"] for line in told if line["event"] == "failed"]
    assert (done.code, failed) == (1, ["Not a directory"])


def _on_terminal(folder: Folder, *arguments: str) -> str:
    ours, theirs = pty.openpty()
    process = folder.start(*arguments, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            part = b""
        if not part:
            break
        seen += part
    os.close(ours)
    with process:
        process.wait()
    return seen.decode("utf-8", "replace")


def test_stage_all_leaves_histories_to_others(raw: Folder) -> None:
    """`stage-all` stages and compacts; no history is written before a `backfill` or `chip-histories`."""
    done = raw.run("stage-all", "--raw-root", "data/01_raw", "--stage-root", "data/02_stage", "--polars-threads", "2")
    assert "histories" not in done.out
    assert not (raw.path / "data" / "histories").exists()
    assert ingestd.load_manifest(raw.path / "data").height == 20
    assert raw.run("backfill", "--json").json["histories"] == ["Alisson72", "Biotite3", "Biotite5"]


def test_full_pipeline_makes_everything_and_then_nothing_new(raw: Folder) -> None:
    """`full-pipeline` stages, writes histories and every day's metadata; what is lost comes back."""
    first = raw.run("full-pipeline", "--local-tz", "America/Santiago", "--json").json
    assert (first["staged"], first["metadata"]) == (20, ["2026-03-12", "2026-03-13"])
    (raw.path / "data" / "histories" / "Biotite3_history.csv").unlink()
    (raw.path / "data" / "metadata" / "2026-03-12" / "metadata.csv").unlink()
    second = raw.run("full-pipeline", "--json").json
    assert (second["histories"], second["metadata"]) == (["Biotite3"], ["2026-03-12"])
    third = raw.run("full-pipeline")
    assert third.out.endswith("metadata of 0 days written in data/metadata\n")


def test_full_pipeline_takes_a_corrected_run_out_of_its_old_day(folder: Folder, samples: Path) -> None:
    """A day's file does not go on telling of a run that was moved to another day: it keeps no run."""
    data = (samples / "2026-03-12" / "IV2026-03-12_1.csv").read_bytes()
    folder.put("IV2026-03-12_1.csv", data)
    assert folder.run("full-pipeline", "--json").json["metadata"] == ["2026-03-12"]
    edited = folder.put("IV2026-03-12_1.csv", data.replace(b"Start time: 1773320952.", b"Start time: 1773234552.", 1))
    os.utime(edited, (LONG_AGO + 60, LONG_AGO + 60))
    assert folder.run("full-pipeline", "--json").json["metadata"] == ["2026-03-11", "2026-03-12"]
    metadata = folder.path / "data" / "metadata"
    assert b"IV2026-03-12_1.csv" in (metadata / "2026-03-11" / "metadata.csv").read_bytes()
    assert (metadata / "2026-03-12" / "metadata.csv").read_bytes() == b"has_light,source_file,start_time,time_hms\n"
    assert folder.run("full-pipeline", "--json").json["metadata"] == []


def test_force_stages_again_under_the_same_runs(staged: Folder) -> None:
    """--force stages every file anew; the manifest keeps its runs."""
    before = ingestd.load_manifest(staged.path / "data")["run_id"].to_list()
    report = staged.run("backfill", "--force", "--json", "--workers", "1").json
    assert report["events"]["restaged"] == 20
    assert ingestd.load_manifest(staged.path / "data")["run_id"].to_list() == before


def test_damaged_log_ends_with_2_and_names_the_repair(staged: Folder) -> None:
    """Damage in our own files is named with its place and `ingestd repair`; nothing is overwritten."""
    (segment,) = (staged.path / "data" / "02_stage" / "_manifest" / "wal").glob("*.log")
    segment.write_bytes(segment.read_bytes() + b"x" * 40 + b"\n" + b"y" * 40 + b"\n")
    before = staged.tree()
    staged.put("new.csv", Measurement().data)
    done = staged.run("backfill")
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert segment.name in done.err
    assert "ingestd repair" in done.err
    assert {name: data for name, data in staged.tree().items() if name != "data/01_raw/new.csv"} == before


def test_a_disk_that_refuses_ends_with_2(raw: Folder) -> None:
    """Where histories cannot be written the command says where and why, and what was staged is in the manifest."""
    (raw.path / "data" / "histories").write_text("in the way")
    done = raw.run("backfill", "--workers", "1")
    assert done.code == 2
    assert f"error: {raw.path / 'data' / 'histories'}" in done.err
    assert "Traceback" not in done.err
    assert ingestd.load_manifest(raw.path / "data").height == 20


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["backfill", "--bogus"], "No such option: --bogus"),
        (["bakfill"], "Did you mean 'backfill'?"),
        (["bogus"], "No such command 'bogus'.\n"),
        (["config", "check"], "No such command 'check'. The commands are 'show', 'validate', 'generate'.\n"),
        (["rejects", "lst"], "No such command 'lst'. Did you mean 'list'?\n"),
        (["backfill", "data"], "(data); a folder is given as --data-root DIR or --raw-root DIR\n"),
        (["backfill", "It_1.csv"], "Got unexpected extra argument(s) (It_1.csv)\n"),
        (["backfill", "x" * 300], "x)\n"),
        (["backfill", "--workers", "0"], "stage.workers = 0"),
        (
            ["backfill", "--local-tz", "Mars/Olympus"],
            "time.local_tz = 'Mars/Olympus': no such time zone; take one like ",
        ),
        (
            ["backfill", "--local-tz", "America/Santigo"],
            "'America/Santigo': no such time zone; did you mean 'America/Santiago'?",
        ),
        (["backfill", "--config", "none.toml"], "none.toml: this config file was asked for but does not exist"),
        (["backfill", "--scheduler", "tcp://nas:8786"], "option --scheduler: only the Dask engine has a scheduler"),
        (["backfill", "--data-root", ""], "an empty text names no path; the current folder is ."),
        (["tail", "--config", ""], "an empty text names no path; the current folder is ."),
        (["backfill", "--workers", "x"], "Invalid value for '--workers': must be a whole number"),
        (["export-metadata", "--date", "13.3.2026"], "'13.3.2026' is not a date like 2025-09-23"),
        (["rejects", "retry"], "which files are meant?"),
        (["rejects", "list"], "there is no manifest here"),
        (["compact"], "there is no manifest here"),
        (["chip-histories"], "there is no manifest here"),
        (["export-metadata"], "there is no manifest here"),
        (["compare-histories", "a", "b"], "a: there is no such file or folder"),
    ],
    ids=" ".join,
)
def test_wrong_calls_end_with_2_and_say_what_is_wrong(folder: Folder, arguments: list[str], words: str) -> None:
    """A wrong command, option or value is named on stderr, without a traceback, and nothing is written."""
    folder.raw.mkdir(parents=True)
    done = folder.run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert "Traceback" not in done.err
    assert [path.name for path in folder.path.rglob("*")] == ["data", "01_raw"]


def test_an_unexpected_error_is_one_message_and_debug_shows_the_traceback(raw: Folder) -> None:
    """A fault of ingestd itself is told with its place and where to report it; `--debug` adds the traceback."""
    fault = f"import ingestd.backfill.run as b; b.backfill = lambda *_: {{}}['nothing']; {ENTRY}"
    for arguments, traceback in (([], False), (["--debug"], True)):
        done = subprocess.run(
            [sys.executable, "-c", fault, *arguments, "backfill"],
            cwd=raw.path,
            env={**os.environ, "PYTHONPATH": str(Path(ingestd.__file__).parents[1])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert "ingestd itself failed: KeyError: 'nothing'" in done.stderr
        assert ("Traceback" in done.stderr) is traceback


def test_lab_backfill_stages_every_real_run(lab: Path, folder: Folder) -> None:
    """Of the lab's 153 files 152 are staged, one waits as queued, and the histories agree with the earlier ones."""
    done = folder.run("backfill", "--raw-root", str(lab / "01_raw"), "--data-root", "data", "--json")
    report = json.loads(done.out)
    assert (done.code, report["staged"], report["rejected"]) == (0, 152, [])
    assert [(file["source_file"], file["state"]) for file in report["waiting"]] == [
        ("Alisson_25_sept/It2025-09-25_10.csv", "queued")
    ]
    compared = folder.run("compare-histories", str(lab / "legacy_histories"), "data/histories", "--json")
    assert (compared.code, compared.json["same"]) == (0, True)
    assert sum(len(chip["waiting"]) for chip in compared.json["chips"]) == 1
