"""What `verify` and `explain` say to people, on the sample data."""

from __future__ import annotations

import os
import re
import shlex

import pytest
from commands import LONG_AGO, Folder
from measurement import Measurement

from ingestd.cli.output import LONG_LIST
from ingestd.cli.upkeep import SHOWN_OF_A_KIND
from ingestd.service.state import service_lock
from ingestd.settings import load_settings

REJECT = "2026-03-12/IV2026-03-12_3.csv"
QUEUED = "2026-03-13/It2026-03-13_5.csv"


def test_verify_says_in_words_what_a_note_is_about(staged: Folder) -> None:
    """Notes about a rejected, a queued and a copied file are sentences, not codes alone."""
    staged.put(
        "copy/LaserCalibration2026-03-12_1.csv",
        (staged.raw / "2026-03-12/LaserCalibration2026-03-12_1.csv").read_bytes(),
    )
    staged.run("backfill", "--workers", "1")
    done = staged.run("verify")
    assert done.code == 0
    told = f"it cannot be staged (row-too-long): `ingestd rejects show {REJECT}` tells why"
    assert f"rejected   {REJECT}: {told}\n" in done.out
    assert f"queued     {QUEUED}: header only, no data row yet" in done.out
    assert "duplicate  copy/LaserCalibration2026-03-12_1.csv: a copy of " in done.out


@pytest.mark.parametrize(
    ("delete", "verdict"),
    [
        (
            False,
            "It was rejected (row-too-long); "
            f"it stays rejected until its bytes change or `ingestd rejects retry {REJECT}` succeeds.",
        ),
        (True, "It was rejected (row-too-long); the file is gone now."),
    ],
)
def test_explain_of_a_reject_names_the_code_at_its_event(staged: Folder, delete: bool, verdict: str) -> None:
    """The event of a reject stands with its code, and the verdict knows whether the file is still there."""
    if delete:
        (staged.raw / REJECT).unlink()
    told = staged.run("explain", REJECT).out.splitlines()
    assert told[1] == verdict
    (event,) = [line for line in told if line.startswith("event ")]
    assert event.endswith(" rejected: row-too-long")


def test_explain_names_the_command_that_prints_a_table_to_add(folder: Folder) -> None:
    """The reject of an unknown procedure has the next step's first line here, and no line that is a table."""
    folder.put("Hall_1.csv", Measurement().data.replace(b".It>", b".Hall>"))
    folder.run("backfill", "--workers", "1")
    told = folder.run("explain", "Hall_1.csv").out
    (step,) = re.findall("^           next: (.*)$", told, re.MULTILINE)
    assert step.startswith("add this table to the config file")
    assert step.endswith("`ingestd rejects retry --all` (`ingestd rejects show Hall_1.csv` prints it)")
    assert r"\n" not in told
    assert "[procedures.Hall]" not in told


def test_explain_writes_times_numbers_and_places_in_one_way(staged: Folder) -> None:
    """Every time is in the zone that is named once, thousands have their comma, a history line is named by its `seq`.

    An event about another path than the one asked for names it, and one that replaced data tells where that is kept.
    """
    name, moved = "2026-03-12/IVg2026-03-12_1.csv", "2026-03-12/moved/IVg2026-03-12_1.csv"
    data = (staged.raw / name).read_bytes().replace(b"Chip number: 3", b"Chip number: 34")
    staged.put(name, data)
    staged.run("backfill", "--workers", "1")
    (staged.raw / moved).parent.mkdir()
    (staged.raw / name).rename(staged.raw / moved)
    staged.run("backfill", "--workers", "1")
    told = staged.run("explain", moved).out
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert len(re.findall(time, told)) == len(re.findall(r"\d\d:\d\d", told)) == 5
    assert re.search(rf"^raw file   {len(data):,} bytes, 401 rows", told, re.MULTILINE)
    assert re.search(rf"^event      {time}  #\d+ ingested {re.escape(name)}$", told, re.MULTILINE)
    assert re.search(rf"^event      {time}  #\d+ edited {re.escape(name)}$", told, re.MULTILINE)
    assert re.search(rf"^event      {time}  #\d+ moved: it was {re.escape(name)}$", told, re.MULTILINE)
    (kept,) = re.findall(r"^           the data it replaced is kept in (\S+)$", told, re.MULTILINE)
    assert (staged.path / "data" / kept).is_file()
    assert re.search(r"^history    histories/Biotite34_history.csv  seq 1: ", told, re.MULTILINE)
    old = staged.run("explain", name).out
    assert re.search(rf"^event      {time}  #\d+ moved {re.escape(moved)}: it was ", old, re.MULTILINE)


def test_verify_counts_the_cells_of_the_raw_files(folder: Folder) -> None:
    """A row of the raw file counts as many cells as it has: what the stage adds does not."""
    folder.put("It_1.csv", Measurement(rows=3).data)
    folder.run("backfill", "--workers", "1")
    assert folder.run("verify", "--deep", "--json").json["cells"] == 3 * 6
    assert "18 cells compared with the raw files\n" in folder.run("verify", "--deep").out


@pytest.mark.parametrize("source", ["stage", "raw"])
def test_rebuild_manifest_makes_no_mistyped_data_root(folder: Folder, source: str) -> None:
    """Where there is no stage there is nothing to make a manifest from, and no folder of that name is made."""
    done = folder.run("rebuild-manifest", "--from", source, "--data-root", "dtaa")
    assert done.code == 2
    assert "dtaa/02_stage: there is no stage here" in done.err
    assert not (folder.path / "dtaa").exists()


@pytest.mark.parametrize("command", [("repair", "--apply"), ("rebuild-manifest",)])
def test_what_rewrites_the_manifest_runs_beside_no_service(command: tuple[str, ...], staged: Folder) -> None:
    """While a service has its lock it is refused, and named; the plan alone may be made. Then its own work is named."""
    layout = load_settings(None, {"paths": {"data_root": staged.path / "data"}}).layout
    before = layout.manifest_path.read_bytes()
    with service_lock(layout).held(0.0):
        done = staged.run(*command)
        assert (done.code, done.out) == (2, "")
        assert f"another service or repair (pid {os.getpid()} on " in done.err
        assert staged.run("repair").code == 0
    assert layout.manifest_path.read_bytes() == before
    assert staged.run(*command).code == 0
    assert f"`ingestd {' '.join(command)}`\n" in layout.service_lock_path.read_text()


def test_repair_says_what_it_looked_at(staged: Folder) -> None:
    """A repair that read no cell does not say that none is damaged."""
    assert "Nothing that `ingestd verify` sees without --deep is damaged;" in staged.run("repair").out
    assert "Nothing is damaged;" in staged.run("repair", "--deep").out


def test_the_plan_of_a_deep_repair_is_carried_out_by_the_command_it_prints(staged: Folder) -> None:
    """Cells that differ by stealth are seen with --deep alone, so the next command has it too."""
    path = staged.raw / "2026-03-12/IV2026-03-12_1.csv"
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"Chip number: 3", b"Chip number: 4"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    layout = load_settings(None, {"paths": {"data_root": staged.path / "data"}}).layout
    with service_lock(layout).held(0.0):
        assert "Next: stop the service, then `ingestd repair --apply --deep`." in staged.run("repair", "--deep").out
    (command,) = re.findall(r"Next: `ingestd (.*)`\.", staged.run("repair", "--deep").out)
    assert staged.run(*command.split()).out.endswith("Nothing is damaged any more.\n")
    assert staged.run("verify", "--deep").code == 0


@pytest.mark.parametrize(("lost", "told"), [(1, "1 raw file is"), (2, "2 raw files are")])
def test_repair_tells_of_runs_that_are_to_be_staged_again(staged: Folder, lost: int, told: str) -> None:
    """A run that is lost with its row and its Parquet is no damage any more, and what stages it is named."""
    for name in ("2026-03-12/IVg2026-03-12_1.csv", "2026-03-12/IV2026-03-12_1.csv")[:lost]:
        (parquet,) = [
            staged.path / "data" / one["path"] for one in staged.run("explain", name, "--json").json["staged"]
        ]
        parquet.write_bytes(parquet.read_bytes() + b"x")
    manifest = staged.path / "data" / "02_stage" / "_manifest" / "manifest.parquet"
    data = manifest.read_bytes()
    manifest.write_bytes(data[:300] + bytes([data[300] ^ 1]) + data[301:])
    done = staged.run("repair", "--apply")
    assert done.code == 0
    next_step = "not staged (any more). Next: `ingestd backfill`, or start the service.\n"
    assert done.out.endswith(f"is damaged any more.\n{told} {next_step}")
    assert len(staged.run("repair", "--apply", "--json").json["undecided"]) == lost
    staged.run("backfill", "--workers", "1")
    assert staged.run("status", "--json").json["runs"] == 20
    assert staged.run("repair", "--apply", "--json").json["undecided"] == []


def test_what_these_settings_cannot_read_is_no_damage(folder: Folder) -> None:
    """A run of a procedure that the config file does not have any more is compared with nothing, and noted."""
    config = folder.path / "config.toml"
    config.write_text('[procedures.ITS]\nclasses = ["It", "ITS", "ItOurs"]\n')
    folder.put("It_1.csv", Measurement().data.replace(b".It>", b".ItOurs>"))
    folder.put("It_2.csv", Measurement(start=1758639999.5, sample=1).data)
    folder.run("backfill", "--workers", "1")
    config.write_text("")
    done = folder.run("verify", "--deep", "--json")
    (note,) = done.json["findings"]
    assert (done.code, note["level"], note["kind"], note["path"]) == (0, "note", "raw-unparsed", "It_1.csv")
    assert "the class 'ItOurs'" in note["message"]
    assert note["message"].endswith("; is the right config file in force (`ingestd config show`)?")
    next((folder.path / "data" / "histories").iterdir()).unlink()  # damage has everything looked at again
    done = folder.run("verify", "--deep")
    assert (done.code, done.out.count("raw-unparsed"), done.out.count("history-missing")) == (1, 1, 1)
    assert folder.run("repair", "--deep", "--apply").code == 0


def test_a_table_changed_since_is_named_as_the_reason_and_mended(folder: Folder) -> None:
    """A run staged with another type of a column is told from one with other cells; a repair stages it again."""
    folder.put("It_1.csv", Measurement().data)
    folder.run("backfill", "--workers", "1")
    (folder.path / "config.toml").write_text(
        '[procedures.ITS.columns]\nclock_ms = { accepts = ["Clock (ms)"], dtype = "string" }\n'
    )
    done = folder.run("verify", "--deep", "--json")
    (found,) = done.json["findings"]
    assert (done.code, found["kind"]) == (1, "parquet-cells")
    assert found["message"].endswith("damaged, or staged before its procedure's table was changed")
    assert folder.run("repair", "--deep", "--apply").code == 0
    assert folder.run("verify", "--deep").code == 0


@pytest.mark.parametrize("name", ["-y.csv", "it's.csv", 'a "b".csv', "new\nline.csv", "e/ü.csv"])
def test_what_is_printed_to_be_typed_works_as_it_stands(folder: Folder, name: str) -> None:
    """Whatever a file is called: the command is found by the shell's rules, with the options that tell where it is."""
    folder.put(name, Measurement().data.replace(b",1.4,", b",1,4,"))
    there = ("--data-root", "data")
    folder.run("backfill", "--workers", "1", *there)
    for words in (("verify",), ("explain", f"./{name}"), ("rejects", "show", f"./{name}")):
        text = re.sub(r"\s*\n\s*", " ", folder.run(*words, *there).out)
        (command,) = re.findall(r"ingestd (rejects (?:show|retry) .*?--data-root data)", text)
        done = folder.run(*shlex.split(command))
        assert (done.code in {0, 1}, done.err) == (True, "")


@pytest.mark.parametrize("zone", ["Europe/Madrid", "Asia/Kathmandu"])
def test_histories_of_another_zone_are_no_damage(staged: Folder, zone: str) -> None:
    """They say what the manifest says, in other local times; the command that is printed brings them into the zone."""
    done = staged.run("verify", "--local-tz", zone)
    assert (done.code, done.out.count("history-zone")) == (0, 3)
    (command,) = set(re.findall(r"`ingestd (.*)` writes it again", done.out))
    assert command == f"chip-histories --local-tz {zone}"
    assert staged.run(*command.split()).code == 0
    assert "history-" not in staged.run("verify", "--local-tz", zone).out
    path = staged.raw.parent / "histories" / "Biotite3_history.csv"
    right = path.read_bytes()
    minute, hour = re.sub(rb":44,IVg", b":45,IVg", right, count=1), re.sub(rb",\d\d:(?=.*IVg)", b",23:", right, count=1)
    for wrong in (minute, hour):  # of no zone, or not all of one
        assert wrong != right
        path.write_bytes(wrong)
        assert "history-differs" in staged.run("verify", "--local-tz", zone).out


def test_a_measurement_that_is_overwritten_by_a_known_one_counts_once(folder: Folder) -> None:
    """The sums of a backfill are the files it found: what lost its measurement is one of those decided."""
    first, other = Measurement(), Measurement(start=1758639999.5, sample=1)
    folder.put("It_1.csv", first.data)
    folder.put("It_2.csv", other.data)
    folder.run("backfill", "--workers", "1")
    os.utime(folder.put("It_2.csv", first.data), (LONG_AGO + 1, LONG_AGO + 1))
    done = folder.run("backfill", "--workers", "1")
    assert "lost      It_2.csv" in done.out
    assert sum(map(int, re.findall(r"^ +(\d+)  ", done.out, re.MULTILINE))) == 2


def test_a_lost_file_counts_once_and_as_lost(folder: Folder) -> None:
    """Whether it was emptied or overwritten, and is looked at or not: it is among the lost and no other sum."""
    runs = [Measurement(start=1758632155.5 + 60 * number, sample=number) for number in range(4)]
    for number, run in enumerate(runs):
        folder.put(f"It_{number}.csv", run.data)
    folder.run("backfill", "--workers", "1")
    for name, data in (("It_0.csv", runs[0].but(rows=0).data), ("It_1.csv", runs[2].data)):
        os.utime(folder.put(name, data), (LONG_AGO + 1, LONG_AGO + 1))
    for options in ((), (), ("--force",)):
        done = folder.run("backfill", "--workers", "1", *options)
        assert done.out.count("lost      ") == 2
        assert "\n       2  lost: the raw file of a run was emptied or overwritten, see above\n" in done.out
        sums = {word: int(number) for number, word in re.findall(r"^ +(\d+)  (\w+)", done.out, re.MULTILINE)}
        assert sums == ({"staged": 2, "lost": 2} if options else {"staged": 0, "known": 2, "lost": 2})


def test_a_raw_root_that_is_away_is_told_in_the_same_words(staged: Folder) -> None:
    """Backfill, verify and status say the same of it; nobody says that it is safe to power off."""
    staged.raw.rename(staged.raw.with_name("away"))
    words = "there is no such folder of raw files"
    for command in ("backfill", "verify"):
        done = staged.run(command)
        assert done.code == 2
        assert f"{staged.raw}: {words}" in done.err
    report = staged.run("status", "--json")
    assert report.code == 1
    assert [trouble["message"] for trouble in report.json["troubles"]] == [words]
    assert report.json["safe_to_power_off"] is False
    assert report.json["runs_without_raw_file"] is None
    assert f"no ({staged.raw} cannot be looked at: a measurement may be running)" in staged.run("status").out


@pytest.mark.parametrize("command", [("verify",), ("repair",), ("repair", "--apply")])
def test_no_upkeep_of_a_mistyped_data_root_makes_one(folder: Folder, command: tuple[str, ...]) -> None:
    """It is named, with what to check, and nothing is made there."""
    done = folder.run(*command, "--data-root", "dtaa")
    assert (done.code, done.out) == (2, "")
    assert "error: " in done.err
    assert "check --data-root" in done.err
    assert not (folder.path / "dtaa").exists()


def test_status_counts_the_runs_without_a_raw_file(staged: Folder) -> None:
    """A deleted raw file is no trouble, and is counted."""
    before = staged.run("status", "--json").json
    assert before["runs_without_raw_file"] == 0
    next(staged.raw.rglob("IVg*.csv")).unlink()
    assert staged.run("status", "--json").json["runs_without_raw_file"] == 1
    assert f"{before['runs']} runs (1 without a raw file)," in staged.run("status").out


def test_what_is_set_aside_is_named_near_and_with_its_time(staged: Folder) -> None:
    """Both that set things aside name the folder of this time, as a path from here; the JSON has the exit code."""
    aside = r"is kept in (data/02_stage/_manifest/aside/\d{4}-\d\d-\d\dT\d{6}Z)$"
    rebuilt = re.search(aside, staged.run("rebuild-manifest").out, re.MULTILINE)
    assert rebuilt
    assert (staged.path / rebuilt[1] / "02_stage").is_dir() or any((staged.path / rebuilt[1]).iterdir())
    (staged.path / "data" / "histories" / "Nobody1_history.csv").write_text("seq\n")
    (part,) = list((staged.path / "data" / "02_stage" / "raw_measurements").rglob("*.parquet"))[:1]
    part.write_bytes(b"")
    assert staged.run("repair", "--json").json["exit_code"] == 1
    assert staged.run("verify", "--json").json["exit_code"] == 1
    mended = staged.run("repair", "--apply").out
    assert re.search(aside, mended, re.MULTILINE), mended
    assert staged.run("verify", "--json").json["exit_code"] == 0


def test_verify_names_some_of_each_kind_however_many_there_are_of_one(folder: Folder) -> None:
    """A thousand copies, whose kind comes first in the alphabet, do not hide the one run whose raw file is gone."""
    folder.put("It_1.csv", Measurement().data)
    folder.put("It_2.csv", Measurement(start=1758632255.25, sample=2).data)
    for number in range(LONG_LIST):
        folder.put(f"copy/It_{number + 10}.csv", Measurement().data)
    folder.run("backfill", "--workers", "1")
    (folder.raw / "It_2.csv").unlink()
    told = folder.run("verify").out.splitlines()
    assert sum(line.startswith("duplicate    ") for line in told) == SHOWN_OF_A_KIND + 1
    assert f"duplicate    ... and {LONG_LIST - SHOWN_OF_A_KIND} more: `--json` lists all" in told
    assert "raw-missing  It_2.csv: its raw file is gone; the run stays" in told


def test_repair_names_some_of_the_many_runs_that_it_cannot_restore(folder: Folder) -> None:
    """Where stage and raw files of years are lost, a line for each run would hide the plan above them."""
    for number in range(LONG_LIST + 2):
        folder.put(f"It_{number}.csv", Measurement(start=1758632155.25 + number).data)
    folder.run("backfill", "--workers", "1")
    for path in [*(folder.path / "data" / "02_stage").rglob("part-000.parquet"), *folder.raw.iterdir()]:
        path.unlink()
    told = folder.run("repair").out.splitlines()
    assert sum(": the Parquet of It_" in line for line in told) == LONG_LIST
    assert "left  ... and 2 more: `--json` lists all" in told
