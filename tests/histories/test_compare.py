"""The cut-over comparison: known differences are explained, every other one is named."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.errors import UsageError
from ingestd.histories.chip import write_histories
from ingestd.histories.compare import Comparison, Difference, compare_histories
from ingestd.layout import Layout

TZ = "America/Santiago"
QUEUED = "Alisson_25_sept/It2025-09-25_10.csv"

Table = list[dict[str, str]]

OLD_ROWS: Table = [
    {
        "seq": str(index),
        "date": "2025-09-23",
        "time_hms": f"10:00:0{index}",
        "proc": "It",
        "summary": f"💡 It  Alisson72  VG=-1.0 V  #{index}",
        "source_file": f"raw_data/2025-09-23/It_{index}.csv",
        "file_idx": str(index),
        "start_time": f"1758632155.{index}",
        "day_folder": "2025-09-23",
        "has_light": "true",
    }
    for index in range(1, 6)
]


def as_new(rows: Table) -> Table:
    """The same history as ingestd writes it."""
    return [
        {
            **row,
            "proc": "ITS",
            "summary": row["summary"].replace("It  ", "ITS "),
            "source_file": row["source_file"].removeprefix("raw_data/"),
            "chip_group": "Alisson",
            "chip_number": "72",
            "run_id": "r",
            "parquet_path": "p",
        }
        for row in rows
    ]


def renumbered(rows: Table) -> Table:
    return [{**row, "seq": str(seq)} for seq, row in enumerate(rows, start=1)]


def save(path: Path, rows: Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else list(OLD_ROWS[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def compare(folder: Path, old: Table, new: Table, **waiting: str) -> Comparison:
    before, after = (
        save(folder / "old" / "Alisson72_history.csv", old),
        save(folder / "new" / "Alisson72_history.csv", new),
    )
    return compare_histories(before, after, waiting=waiting)


def found(comparison: Comparison) -> list[tuple[int, str, str, str]]:
    return [(d.seq, d.column, d.old, d.new) for chip in comparison.chips for d in chip.unexplained]


def test_known_differences_are_explained(tmp_path: Path) -> None:
    """Spelling of It, the folder in front of source_file and our extra columns are counted, not complained about."""
    comparison = compare(tmp_path, OLD_ROWS, as_new(OLD_ROWS))
    (chip,) = comparison.chips
    assert comparison.same
    assert comparison.old_prefix == "raw_data"
    assert (chip.chip, chip.rows_old, chip.rows_new, chip.equal_rows) == ("Alisson72", 5, 5, 5)
    assert chip.explained == {
        "proc-spelling": 5,
        "summary-spelling": 5,
        "source-file-prefix": 5,
        "extra-columns": 4,
    }


def test_a_history_is_the_same_as_itself(tmp_path: Path) -> None:
    """Equal files have nothing to explain, on either side's format."""
    for rows in (OLD_ROWS, as_new(OLD_ROWS), []):
        comparison = compare(tmp_path, rows, rows)
        assert comparison.same
        assert [(chip.explained, chip.equal_rows) for chip in comparison.chips] == [({}, len(rows))]


@pytest.mark.parametrize(
    "column", ["date", "time_hms", "proc", "summary", "file_idx", "start_time", "day_folder", "has_light"]
)
def test_every_changed_cell_is_named(tmp_path: Path, column: str) -> None:
    """One cell changed gives one difference, with run, column and both values."""
    new = as_new(OLD_ROWS)
    new[2][column] += "1"
    comparison = compare(tmp_path, OLD_ROWS, new)
    assert not comparison.same
    assert comparison.chips[0].unexplained == [
        Difference("Alisson72", 3, "raw_data/2025-09-23/It_3.csv", column, OLD_ROWS[2][column], new[2][column])
    ]
    assert comparison.chips[0].equal_rows == 4
    assert any("DIFFERS: seq 3" in line and column in line for line in comparison.lines())


@pytest.mark.parametrize(
    ("column", "old", "new", "same"),
    [
        ("start_time", "1758632155.0", "1758632155", True),
        ("start_time", "1758632155.2821116", "1758632155.28211160", True),
        ("start_time", "1758632155.2821116", "1758632155.2821117", False),
        ("start_time", "1758632155.28211160000001", "1758632155.2821116", False),
        ("start_time", "", "1758632155", False),
        ("file_idx", "3.0", "3", True),
        ("file_idx", "", "3", False),
        ("has_light", "True", "true", True),
        ("has_light", "", "false", False),
        ("day_folder", "1.0", "1", False),
        ("day_folder", "Day", "day", False),
        ("day_folder", "It  1", "ITS 1", False),
        ("proc", "ITS", "It", False),
        ("proc", "IVg", "ITS", False),
        ("proc", "It", "It2", False),
        ("summary", "💡 It  A  It  B", "💡 ITS A  ITS B", False),
        ("summary", "It  A", "ITS A", True),
        ("summary", "Bit  A", "BITS A", False),
    ],
)
def test_what_counts_as_the_same_value(tmp_path: Path, column: str, old: str, new: str, same: bool) -> None:
    """Numbers are compared as written, exactly; only the named spellings are forgiven, in the named direction."""
    before, after = [{**OLD_ROWS[0], column: old}], [{**as_new(OLD_ROWS)[0], column: new}]
    assert compare(tmp_path, before, after).same is same


def test_a_waiting_run_explains_itself_and_the_shift(tmp_path: Path) -> None:
    """A run whose file waits is explained with the reason given, and so are the later numbers."""
    new = as_new(renumbered(OLD_ROWS[:1] + OLD_ROWS[2:]))
    comparison = compare(tmp_path, OLD_ROWS, new, **{"2025-09-23/It_2.csv": "queued"})
    (chip,) = comparison.chips
    assert comparison.same
    assert chip.waiting == {"2025-09-23/It_2.csv": "queued"}
    assert (chip.explained["waiting"], chip.explained["seq-shift"], chip.equal_rows) == (1, 3, 4)
    assert "    waiting: 2025-09-23/It_2.csv: queued" in comparison.lines()


def test_runs_on_one_side_only_are_named(tmp_path: Path) -> None:
    """A run that nobody vouches for is a difference; the shift it causes is not one more."""
    lost = compare(tmp_path, OLD_ROWS, as_new(renumbered(OLD_ROWS[:1] + OLD_ROWS[2:])))
    assert found(lost) == [(2, "row", "present", "missing")]
    extra = compare(tmp_path, renumbered(OLD_ROWS[:1] + OLD_ROWS[2:]), as_new(OLD_ROWS))
    assert found(extra) == [(2, "row", "missing", "present")]


def test_a_line_taken_out_of_a_history_is_one_difference(tmp_path: Path) -> None:
    """A run whose line was deleted is named once, on either side: the numbers of the others still agree."""
    new = as_new(OLD_ROWS)
    for old, after in ((OLD_ROWS[:1] + OLD_ROWS[2:], new), (OLD_ROWS, new[:1] + new[2:])):
        comparison = compare(tmp_path, old, after)
        assert [(seq, column) for seq, column, _, _ in found(comparison)] == [(2, "row")]
        assert comparison.chips[0].equal_rows == 4
        assert not any("seq" in kind for kind in comparison.chips[0].explained)
        assert comparison.lines()[0].startswith("Alisson72: 1 unexplained difference; ")


def test_a_gap_in_the_numbers_is_named_where_it_begins(tmp_path: Path) -> None:
    """Of the runs that are all numbered wrong by the same, the first is a difference and the others follow from it."""
    for old in (OLD_ROWS[:1] + OLD_ROWS[2:], [{**row, "seq": str(seq)} for seq, row in enumerate(OLD_ROWS)]):
        comparison = compare(tmp_path, old, as_new(renumbered(old)))
        ((_, column, _, _),) = found(comparison)
        assert (column, comparison.chips[0].explained["seq-follows"]) == ("seq", len(old) - 1 - (old[0]["seq"] == "1"))


def test_a_run_under_another_chip_is_told(tmp_path: Path) -> None:
    """A run that NEW has under another chip says under which."""
    save(tmp_path / "old/A_history.csv", OLD_ROWS)
    save(tmp_path / "new/A_history.csv", as_new(OLD_ROWS[:4]))
    save(tmp_path / "new/B_history.csv", as_new(renumbered(OLD_ROWS[4:])))
    comparison = compare_histories(tmp_path / "old", tmp_path / "new")
    assert found(comparison) == [(5, "row", "present", "under chip B"), (1, "row", "missing", "present")]
    save(tmp_path / "new/A_history.csv", OLD_ROWS)
    turned = compare_histories(tmp_path / "new", tmp_path / "old")
    assert found(turned) == [(1, "row", "present", "missing")], "a chip that one side lacks has no columns there"


@given(order=st.permutations(range(5)))
def test_changed_order_names_the_fewest_runs(tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    """Without the runs named as moved both sides have one order, and no smaller set would do."""
    new = renumbered([as_new(OLD_ROWS)[index] for index in order])
    comparison = compare(tmp_path_factory.mktemp("order"), OLD_ROWS, new)
    moved = {d.seq - 1 for d in comparison.chips[0].unexplained}
    sources = [row["source_file"] for row in OLD_ROWS]
    for d in comparison.chips[0].unexplained:  # a run stood before, or after, the one that it stands after, or before
        (was, passed), at, other = d.old.split(" "), d.seq - 1, sources.index(d.new.split(" ")[1])
        assert (d.column, passed, at < other) == ("order", sources[other], was == "before")
        assert (order.index(at) < order.index(other)) is (was == "after") is d.new.startswith("before ")
    stayed = [index for index in order if index not in moved]
    assert stayed == sorted(stayed)
    longest = max(_rising(order, start) for start in range(5))
    assert len(stayed) == longest


def _rising(order: list[int], start: int) -> int:
    return 1 + max((_rising(order, later) for later in range(start + 1, 5) if order[later] > order[start]), default=0)


def test_a_wrong_number_is_named(tmp_path: Path) -> None:
    """A `seq` that is not the row's place is a difference."""
    new = as_new(OLD_ROWS)
    new[4]["seq"] = "7"
    assert found(compare(tmp_path, OLD_ROWS, new)) == [(5, "seq", "5 in row 5", "7 in row 5")]


@pytest.mark.parametrize(
    ("old", "new", "prefixes"),
    [
        ("raw_data/", "", ("raw_data", "")),
        ("data/01_raw/", "", ("data/01_raw", "")),
        ("", "01_raw/", ("", "01_raw")),
        ("", "", ("", "")),
        ("raw_data\\", "", ("raw_data", "")),
    ],
)
def test_the_leading_folder_is_found(tmp_path: Path, old: str, new: str, prefixes: tuple[str, str]) -> None:
    """Whichever side has a folder in front, it is found and reported; backslashes are slashes."""
    before = [{**row, "source_file": row["source_file"].replace("raw_data/", old)} for row in OLD_ROWS]
    after = [{**row, "source_file": new + row["source_file"]} for row in as_new(OLD_ROWS)]
    comparison = compare(tmp_path, before, after)
    assert comparison.same
    assert (comparison.old_prefix, comparison.new_prefix) == prefixes


def test_the_leading_folder_is_that_of_most_runs(tmp_path: Path) -> None:
    """One run that lies elsewhere does not have all the others called missing: it alone is named."""
    stray = {**OLD_ROWS[0], "source_file": "backup/" + as_new(OLD_ROWS)[0]["source_file"]}
    comparison = compare(tmp_path, [stray, *OLD_ROWS[1:]], as_new(OLD_ROWS))
    assert comparison.old_prefix == "raw_data"
    assert found(comparison) == [(1, "row", "present", "missing"), (1, "row", "missing", "present")]


def test_a_file_named_twice_is_matched_once_each(tmp_path: Path) -> None:
    """A run counted twice in OLD is one row too many, not a match of both."""
    comparison = compare(tmp_path, renumbered([OLD_ROWS[0], *OLD_ROWS]), as_new(OLD_ROWS))
    assert found(comparison) == [(2, "row", "present", "missing")]


def test_unknown_columns_are_named_once(tmp_path: Path) -> None:
    """A column only one side has, other than ours, is a difference of the whole file."""
    comparison = compare(tmp_path, [{**row, "mood": "x"} for row in OLD_ROWS], as_new(OLD_ROWS))
    assert found(comparison) == [(0, "mood", "column", "no such column")]
    assert any("whole file: mood" in line for line in comparison.lines())


def test_defused_cells_are_compared_as_text(tmp_path: Path) -> None:
    """A text that ingestd defuses equals the bare text of the old script."""
    old = [{**OLD_ROWS[0], "summary": "=1+1"}]
    assert compare(tmp_path, old, [{**as_new(OLD_ROWS)[0], "summary": "'=1+1"}]).same


def test_files_and_folders_in_any_pairing(tmp_path: Path) -> None:
    """OLD and NEW may each be a file or a folder; the file's namesake in the folder is taken."""
    old = save(tmp_path / "old/Alisson72_history.csv", OLD_ROWS)
    new = save(tmp_path / "new/Alisson72_history.csv", as_new(OLD_ROWS))
    save(tmp_path / "new/Berta3_history.csv", as_new(OLD_ROWS[:1]))
    for a, b in ((old, new), (old.parent, new), (old, new.parent)):
        comparison = compare_histories(a, b)
        assert comparison.same
        assert [chip.chip for chip in comparison.chips] == ["Alisson72"]
    both = compare_histories(old.parent, new.parent)
    assert [(chip.chip, chip.rows_old) for chip in both.chips] == [("Alisson72", 5), ("Berta3", 0)]
    assert not both.same


def test_histories_of_two_chips_are_compared_under_both_names(tmp_path: Path) -> None:
    """Files given by name may be of two chips: the result says so, and not that one chip has the other's runs."""
    old, new = save(tmp_path / "Alisson67_history.csv", OLD_ROWS), save(tmp_path / "Alisson71.csv", as_new(OLD_ROWS))
    assert compare_histories(old, new).lines()[0] == (
        "Alisson67 against Alisson71: same; 5 runs in OLD, 5 in NEW, 5 agree"
    )


@pytest.mark.parametrize(
    ("data", "line", "words"),
    [
        (b"", 1, "empty"),
        (b"name,age\nx,1\n", 1, "no column seq"),
        (b"PAR1\x15\x04\x15\x80\xff\n", 1, "not UTF-8"),
        (",".join(list(OLD_ROWS[0])[:-1]).encode() + b"\n", 1, "no column has_light"),
        (",".join(OLD_ROWS[0]).encode() + b"\n1,2\n", 2, "2 cells"),
    ],
)
def test_what_is_no_history_is_refused(tmp_path: Path, data: bytes, line: int, words: str) -> None:
    """Any other file is a usage error with its place."""
    bad = tmp_path / "bad_history.csv"
    bad.write_bytes(data)
    good = save(tmp_path / "good_history.csv", OLD_ROWS)
    with pytest.raises(UsageError, match=words) as caught:
        compare_histories(good, bad)
    assert caught.value.place == f"{bad}:{line}"


def test_a_place_without_histories_is_refused(tmp_path: Path) -> None:
    """A missing path and a folder without histories are named."""
    good = save(tmp_path / "old/good_history.csv", OLD_ROWS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no such file or folder") as caught:
        compare_histories(good, tmp_path / "nowhere")
    assert caught.value.place == str(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"no \*_history.csv") as caught:
        compare_histories(good.parent, tmp_path / "empty")
    assert caught.value.place == str(tmp_path / "empty")


def test_a_hostile_column_name_is_only_text(tmp_path: Path) -> None:
    """A column named like a pattern is one column, named as it stands."""
    new = [{**row, "*": "x", "^.*$": "y"} for row in as_new(OLD_ROWS)]
    assert [d[1] for d in found(compare(tmp_path, OLD_ROWS, new))] == ["*", "^.*$"]


@pytest.mark.parametrize("seq", ["9" * 5000, "1E+9999999", "1E-9999999", "NaN", "sNaN", "Infinity"])
def test_a_hostile_number_is_only_text(tmp_path: Path, seq: str) -> None:
    """A `seq` of thousands of digits, or beyond all numbers, is a difference, not a crash; and the same as itself."""
    old = [{**OLD_ROWS[0], "seq": seq, "file_idx": "sNaN", "summary": "\x1b[2J"}]
    comparison = compare(tmp_path, old, as_new(OLD_ROWS[:1]))
    assert [column for _, column, _, _ in found(comparison)] == ["seq", "summary", "file_idx"]
    assert compare(tmp_path, old, old).same
    assert all(line.isprintable() for line in comparison.lines())


def test_the_result_is_json_and_speech(tmp_path: Path) -> None:
    """`as_dict` survives JSON; `lines` has a line a chip, its details, and the sum last; long lists are cut."""
    many = [{**OLD_ROWS[0], "source_file": f"a{i}.csv", "seq": str(i + 1)} for i in range(30)]
    comparison = compare(tmp_path, many, [])
    assert json.loads(json.dumps(comparison.as_dict()))["chips"][0]["unexplained"][29]["source_file"] == "a29.csv"
    lines = comparison.lines()
    assert lines[0] == "Alisson72: 30 unexplained differences; 30 runs in OLD, 0 in NEW, 0 agree"
    assert lines[-2] == "    ... and 10 more: `--json` lists all"
    assert lines[-1] == "1 of 1 histories differ: 1 chip, 30 runs in OLD, 0 in NEW, 0 agree"
    assert "more:" not in "".join(compare(tmp_path, many[:20], []).lines())
    assert compare(tmp_path, OLD_ROWS, as_new(OLD_ROWS)).lines() == [
        "Alisson72: same; 5 runs in OLD, 5 in NEW, 5 agree",
        "    explained: proc It is now ITS (5)",
        "    explained: summary `It  ` is now `ITS ` (5)",
        "    explained: source_file differs in its leading folder or in / and \\ (5)",
        "    explained: columns only NEW has (4)",
        "source_file in OLD begins with raw_data/",
        "all histories are the same: 1 chip, 5 runs in OLD, 5 in NEW, 5 agree",
    ]


def test_the_lab_cut_over(lab: Path, legacy_manifest: pl.DataFrame, layout: Layout, tmp_path: Path) -> None:
    """The lab's five old histories agree with ours, row for row, but for what its README names."""
    write_histories(legacy_manifest, None, TZ, replace(layout, histories_dir=tmp_path / "new"))
    old = lab / "legacy_histories"
    comparison = compare_histories(old, tmp_path / "new", waiting={QUEUED: "queued"})
    assert comparison.same
    assert {chip.chip: (chip.rows_old, chip.rows_new, chip.equal_rows) for chip in comparison.chips} == {
        "Alisson67": (10, 10, 10),
        "Alisson71": (29, 29, 29),
        "Alisson79": (17, 17, 17),
        "Alisson80": (47, 47, 47),
        "Alisson81": (36, 35, 35),
    }
    last = comparison.chips[-1]
    assert last.waiting == {QUEUED: "queued"}
    assert last.explained["seq-shift"] == 18
    assert comparison.lines()[-1] == (
        "no unexplained difference: 5 chips, 139 runs in OLD, 138 in NEW, 138 agree, 1 queued"
    )
    assert "Alisson81: no unexplained difference; 36 runs in OLD, 35 in NEW, 35 agree" in comparison.lines()
    assert found(compare_histories(old, tmp_path / "new")) == [(18, "row", "present", "missing")]


def test_one_altered_digit_in_the_lab_is_found(
    lab: Path, legacy_manifest: pl.DataFrame, layout: Layout, tmp_path: Path
) -> None:
    """A single digit changed in one of the lab's old files is the one difference found."""
    write_histories(legacy_manifest, None, TZ, replace(layout, histories_dir=tmp_path / "new"))
    (tmp_path / "old").mkdir()
    for path in (lab / "legacy_histories").iterdir():
        altered = path.read_bytes().replace(b"1760533665.0351331", b"1760533665.0351330")
        (tmp_path / "old" / path.name).write_bytes(altered)
    comparison = compare_histories(tmp_path / "old", tmp_path / "new", waiting={QUEUED: "queued"})
    assert found(comparison) == [(1, "start_time", "1760533665.0351330", "1760533665.0351331")]
