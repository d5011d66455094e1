"""`chip-histories`, `export-metadata`, `compare-histories`, `compact`: what is made from the manifest."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

from commands import Folder
from measurement import Measurement

from ingestd import stage_run
from ingestd.cli.output import LONG_LIST
from ingestd.histories.compare import LISTED_CHIPS

HISTORY = Path("data") / "histories" / "Biotite3_history.csv"


def test_chip_histories_writes_what_is_missing_and_leaves_the_rest(staged: Folder) -> None:
    """A history that was deleted comes back byte for byte; the others are not touched."""
    before = (staged.path / HISTORY).read_bytes()
    (staged.path / HISTORY).unlink()
    done = staged.run("chip-histories")
    assert done.out == (
        "unchanged  data/histories/Alisson72_history.csv: 7 runs\n"
        "written    data/histories/Biotite3_history.csv: 6 runs\n"
        "unchanged  data/histories/Biotite5_history.csv: 5 runs\n"
        "3 histories, 1 written\n"
    )
    assert (staged.path / HISTORY).read_bytes() == before


def test_chip_histories_of_one_chip_elsewhere(staged: Folder) -> None:
    """--chip and --history-out write that chip's history into another folder; --manifest-path names the manifest."""
    manifest = "data/02_stage/_manifest/manifest.parquet"
    done = staged.run(
        "chip-histories", "--chip", "Biotite3", "--history-out", "out", "--manifest-path", manifest, "--json"
    )
    (history,) = done.json["histories"]
    assert (history["chip"], history["runs"], history["changed"]) == ("Biotite3", 6, True)
    assert Path(history["path"]).read_bytes() == (staged.path / HISTORY).read_bytes()
    assert [path.name for path in (staged.path / "out").iterdir()] == [HISTORY.name]


def test_histories_written_elsewhere_leave_the_usual_ones_to_be_written(staged: Folder) -> None:
    """A backfill with --history-out writes what changed there, and the next one without it here, too."""
    staged.put("It_1.csv", Measurement(chip=90).data)
    done = staged.run("backfill", "--history-out", "out")
    assert "1 history written in out" in done.out
    usual = staged.path / "data" / "histories" / "Alisson90_history.csv"
    elsewhere = staged.path / "out" / usual.name
    assert elsewhere.exists()
    assert not usual.exists()
    done = staged.run("backfill", "--history-out", "data/histories")
    assert "1 history written in data/histories" in done.out
    assert usual.read_bytes() == elsewhere.read_bytes()
    usual.unlink()
    assert "0 histories written" in staged.run("backfill").out, "the usual folder was named: nothing is left to do"


def test_a_blocked_history_is_told_and_the_others_are_written(staged: Folder) -> None:
    """A folder stands in its place: exit 2 names it, after what was done."""
    place = staged.path / HISTORY
    place.unlink()
    place.mkdir()
    done = staged.run("chip-histories")
    assert "blocked    data/histories/Biotite3_history.csv: 6 runs\n" in done.out
    assert done.out.endswith("3 histories, 0 written\n")
    assert done.code == 2
    assert "this history could not be written: Is a directory" in done.err
    told = staged.run("chip-histories", "--json").json["histories"]
    problems = {one["chip"]: one["problem"] for one in told}
    assert [chip for chip, problem in problems.items() if problem] == ["Biotite3"]
    assert problems["Biotite3"]["place"].endswith(str(HISTORY))


def test_of_many_histories_those_that_need_a_look_are_listed(folder: Folder) -> None:
    """Thousands of histories that are as they were hide neither the one that is blocked nor the one that is written."""
    for chip in range(LONG_LIST + 2):
        folder.put(f"It_{chip}.csv", Measurement(chip=100 + chip, start=1758632155.25 + chip).data)
    folder.run("backfill", "--workers", "1")
    blocked, gone = (folder.path / "data" / "histories" / f"Alisson{100 + chip}_history.csv" for chip in (21, 20))
    for path in (blocked, gone):
        path.unlink()
    blocked.mkdir()
    told = folder.run("chip-histories").out.splitlines()
    assert [line.split(":")[0] for line in told[:3]] == [
        "blocked    data/histories/Alisson121_history.csv",
        "written    data/histories/Alisson120_history.csv",
        "unchanged  data/histories/Alisson100_history.csv",
    ]
    assert told[LONG_LIST:] == ["... and 2 more: `--json` lists all", f"{LONG_LIST + 2} histories, 1 written"]


def test_an_unknown_chip_names_near_ones(staged: Folder) -> None:
    """A slip in the chip's name ends with 2 and the names that may have been meant."""
    done = staged.run("chip-histories", "--chip", "biotit3")
    assert done.code == 2
    assert "no run of chip biotit3" in done.err
    assert "did you mean Biotite3" in done.err


def test_export_metadata_of_every_day_and_of_one(staged: Folder) -> None:
    """One file a day is written, and not again when nothing changed; --date takes one day."""
    done = staged.run("export-metadata")
    assert done.out == (
        "written    data/metadata/2026-03-12/metadata.csv: 11 runs\n"
        "written    data/metadata/2026-03-13/metadata.csv: 9 runs\n"
        "2 files, 2 written\n"
    )
    again = staged.run("export-metadata", "--date", "2026-03-12", "--json").json["files"]
    assert [(Path(one["path"]).parent.name, one["runs"], one["changed"]) for one in again] == [
        ("2026-03-12", 11, False)
    ]


def test_export_metadata_of_some_runs_into_one_file(staged: Folder) -> None:
    """--proc and --chip choose runs for --out-csv; without it they are refused, for a day's file is whole."""
    done = staged.run("export-metadata", "--proc", "IVg", "--chip", "Biotite3", "--out-csv", "some.csv")
    assert done.out == "written    some.csv: 2 runs\n1 file, 1 written\n"
    with (staged.path / "some.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["Chip group name"], row["Chip number"]) for row in rows} == {("Biotite", "3")}
    refused = staged.run("export-metadata", "--proc", "IVg")
    assert refused.code == 2
    assert "give --out-csv FILE with --proc or --chip" in refused.err


def test_a_day_that_is_blocked_is_told_after_those_that_were_written(staged: Folder) -> None:
    """Exit code 2, the place by name, in words and as JSON; every other day is there."""
    days = staged.path / "data" / "metadata"
    (days / "2026-03-12" / "metadata.csv").mkdir(parents=True)
    done = staged.run("export-metadata")
    assert done.code == 2
    assert [line.split()[0] for line in done.out.splitlines()] == ["blocked", "written", "2"]
    assert "this file of metadata could not be written" in done.err
    told = staged.run("export-metadata", "--json")
    assert [(one["changed"], bool(one["problem"])) for one in told.json["files"]] == [(False, True), (False, False)]
    assert (days / "2026-03-13" / "metadata.csv").is_file()


def test_metadata_that_cannot_be_written_hides_nothing_of_what_was_staged(raw: Folder) -> None:
    """`full-pipeline` ends with 2 and names what is in the way, after what it staged and what is rejected."""
    (raw.path / "data" / "metadata").write_text("in the way")
    done = raw.run("full-pipeline", "--workers", "1")
    assert done.code == 2
    assert "20  staged (20 new)" in done.out
    assert "rejected  2026-03-12/IV2026-03-12_3.csv" in done.out
    assert "metadata of" not in done.out
    assert f"error: {raw.path / 'data' / 'metadata'}" in done.err
    (raw.path / HISTORY).unlink()
    (raw.path / HISTORY).mkdir()
    told = raw.run("full-pipeline", "--json")
    assert (told.code, told.json["exit_code"], told.json["known"]) == (2, 2, 22)
    assert told.json["stopped_by"]["place"] == str(raw.path / HISTORY), "what came first"
    (raw.path / "data" / "metadata").unlink()
    rest = raw.run("full-pipeline")
    assert (rest.code, "metadata of 2 days written" in rest.out) == (2, True)


def test_compare_histories_tells_same_from_different(staged: Folder) -> None:
    """The same histories compare with 0, an edited summary with 1 and its name; --json has the whole comparison."""
    (staged.path / "old").mkdir()
    text = (staged.path / HISTORY).read_text("utf-8")
    (staged.path / "old" / HISTORY.name).write_text(text, "utf-8")
    new = HISTORY.as_posix()
    same = staged.run("compare-histories", f"old/{HISTORY.name}", new)
    assert same.code == 0
    assert same.out.endswith("all histories are the same: 1 chip, 6 runs in OLD, 6 in NEW, 6 agree\n")
    (staged.path / "old" / HISTORY.name).write_text(text.replace("VG=-2.5 V", "VG=-2.6 V", 1), "utf-8")
    assert "DIFFERS" in staged.run("compare-histories", "old", new).out
    differing = staged.run("compare-histories", "old", new, "--json")
    (chip,) = differing.json["chips"]
    assert (differing.code, differing.json["same"]) == (1, False)
    assert [difference["column"] for difference in chip["unexplained"]] == ["summary"]


def test_of_many_histories_those_that_differ_are_listed(folder: Folder) -> None:
    """Thousands of chips whose histories agree do not hide the one that differs."""
    for chip in range(LISTED_CHIPS + 1):
        folder.put(f"It_{chip}.csv", Measurement(chip=1000 + chip, start=1758632155.25 + chip).data)
    folder.run("backfill", "--workers", "1")
    shutil.copytree(folder.path / "data" / "histories", folder.path / "old")
    edited = folder.path / "old" / "Alisson1005_history.csv"
    edited.write_text(edited.read_text("utf-8").replace("ITS Alisson1005", "ITS Alisson1006"), "utf-8")
    told = folder.run("compare-histories", "old", "data/histories").out.splitlines()
    assert told[0] == "Alisson1005: 1 unexplained difference; 1 run in OLD, 1 in NEW, 0 agree"
    assert told[2:] == [
        f"{LISTED_CHIPS} chips without an unexplained difference: `--json` lists all",
        "1 of 21 histories differ: 21 chips, 21 runs in OLD, 21 in NEW, 20 agree",
    ]


def test_compare_histories_explains_a_queued_run(staged: Folder) -> None:
    """A run that OLD has and that waits as `queued` in the data root is no difference."""
    lines = (staged.path / "data" / "histories" / "Alisson72_history.csv").read_text("utf-8").splitlines()
    (staged.path / "old").mkdir()
    cells = lines[-1].split(",")
    source = "2026-03-13/It2026-03-13_5.csv"
    queued = [str(len(lines)), *cells[1:5], source, "5", cells[7], *cells[8:]]
    (staged.path / "old" / "Alisson72_history.csv").write_text("\n".join([*lines, ",".join(queued)]) + "\n", "utf-8")
    done = staged.run("compare-histories", "old/Alisson72_history.csv", "data/histories")
    assert f"waiting: {source}: queued" in done.out
    assert done.code == 0
    elsewhere = staged.run("compare-histories", "old/Alisson72_history.csv", "data/histories", "--data-root", "none")
    assert elsewhere.code == 1


def test_compact_takes_the_log_in_once(staged: Folder) -> None:
    """What a command left in the log goes into the table; a second time there is nothing to do."""
    staged.run("chip-histories")
    (staged.raw / "2026-03-12" / "IV2026-03-12_3.csv").unlink()
    nothing = staged.run("compact")
    assert nothing.out == "data/02_stage/_manifest/manifest.parquet: nothing to do, the log holds no record\n"
    assert staged.run("compact", "--json").json["records"] == 0


def test_compact_counts_rows_and_not_only_the_runs_that_count(staged: Folder) -> None:
    """`status` and `verify` count live runs; the table keeps the row of a superseded one too."""
    path = staged.raw / "2026-03-12" / "IVg2026-03-12_1.csv"
    header, start, rest = path.read_bytes().partition(b"Start time: 1773")
    path.write_bytes(header + start[:-4] + b"1772" + rest)
    stage_run("2026-03-12/IVg2026-03-12_1.csv", staged.raw.parent)
    said = staged.run("compact").out
    assert said == "data/02_stage/_manifest/manifest.parquet: 2 records compacted, 21 rows in all\n"
    assert staged.run("verify").out.count("20 runs, ") == 1
