"""Compare histories for the cut-over: which differences are known and named, and which are unexplained.

Runs are matched by `source_file`. The known differences between the histories of the lab's earlier script and ours are
the keys of `EXPLAINED`; everything else is a `Difference`, named cell by cell.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal, InvalidOperation, Overflow
from pathlib import Path
from typing import Any, Final

import polars as pl

from ingestd import files
from ingestd.errors import UsageError
from ingestd.histories.cells import read_cells, restored
from ingestd.histories.chip import HISTORY_SCHEMA
from ingestd.layout import HISTORY_SUFFIX
from ingestd.words import count, shown

Row = dict[str, str]

REQUIRED: Final = tuple(HISTORY_SCHEMA)[:10]
"""The columns every history has had."""

ADDED: Final = tuple(HISTORY_SCHEMA)[10:]
"""The columns that only histories written by ingestd have."""

EXPLAINED: Final = {
    "proc-spelling": "proc It is now ITS",
    "summary-spelling": "summary `It  ` is now `ITS `",
    "source-file-prefix": "source_file differs in its leading folder or in / and \\",
    "seq-shift": "seq moved because a run above is on one side only, or elsewhere",
    "seq-follows": "seq is wrong by as much as in the run above, which is listed",
    "waiting": "run that rightly has no row in NEW, for the reason given",
    "extra-columns": "columns only NEW has",
}
"""Stable name of a known difference -> what it is, in words."""

SHOWN_DIFFERENCES: Final = 20
"""How many differences of a chip `Comparison.lines` prints; `as_dict` has all."""

LISTED_CHIPS: Final = 20
"""Up to how many chips `Comparison.lines` lists all, those without an unexplained difference too."""

_NUMBERS: Final = frozenset({"file_idx", "start_time", "chip_number"})
_OLD_SUMMARY: Final = re.compile(r"^(\S+ )?It  ")


@dataclass(frozen=True, slots=True)
class Difference:
    """One unexplained difference. `column` may be `row` (a run on one side only), `order` or `seq`.

    `seq` is the run's number in OLD, in NEW for a run that only NEW has, 0 where the whole file is meant.
    """

    chip: str
    seq: int
    source_file: str
    column: str
    old: str
    new: str

    def __str__(self) -> str:
        where = f"seq {self.seq}, {shown(self.source_file, 120)}" if self.seq else "whole file"
        return f"{where}: {self.column} was {shown(self.old, 120)!r}, is {shown(self.new, 120)!r}"


@dataclass(frozen=True, slots=True)
class ChipComparison:
    """One chip: its runs on both sides, how many agree, what is explained and how often, and what is not.

    `equal_rows` counts the runs on both sides with nothing unexplained. `explained` has the keys of `EXPLAINED`;
    `waiting` maps the source file of a run without a row in NEW to the reason given for it.
    """

    chip: str
    rows_old: int
    rows_new: int
    equal_rows: int
    explained: dict[str, int]
    waiting: dict[str, str]
    unexplained: list[Difference]

    def lines(self) -> Iterator[str]:
        """Give the result as one line that stands alone, then one line per detail."""
        same = "same" if self.rows_old == self.rows_new else "no unexplained difference"
        verdict = count(len(self.unexplained), "unexplained difference") if self.unexplained else same
        counts = f"{count(self.rows_old, 'run')} in OLD, {self.rows_new:,} in NEW, {self.equal_rows:,} agree"
        yield f"{shown(self.chip)}: {verdict}; {counts}"
        for kind, number in self.explained.items():
            yield f"    explained: {EXPLAINED[kind]} ({number})"
        for source, reason in self.waiting.items():
            yield f"    waiting: {shown(source, 120)}: {shown(reason)}"
        for difference in self.unexplained[:SHOWN_DIFFERENCES]:
            yield f"    DIFFERS: {difference}"
        if len(self.unexplained) > SHOWN_DIFFERENCES:
            yield f"    ... and {len(self.unexplained) - SHOWN_DIFFERENCES} more: `--json` lists all"


@dataclass(frozen=True, slots=True)
class Comparison:
    """All chips compared. `old_prefix` and `new_prefix` are the leading folders ignored in `source_file`."""

    old_prefix: str
    new_prefix: str
    chips: list[ChipComparison]

    @property
    def same(self) -> bool:
        """Whether every difference found is a known one."""
        return not any(chip.unexplained for chip in self.chips)

    def as_dict(self) -> dict[str, Any]:
        """Give everything as values that `json.dumps` takes."""
        return {"same": self.same, **asdict(self)}

    def lines(self) -> list[str]:
        """Give the result as plain text: one line per chip, its details below it, the total last.

        Of more than `LISTED_CHIPS`, only those with unexplained differences are listed; the others are counted.
        """
        listed = [chip for chip in self.chips if chip.unexplained or len(self.chips) <= LISTED_CHIPS]
        told = [line for chip in listed for line in chip.lines()]
        if (left := len(self.chips) - len(listed)) > 0:
            told.append(f"{count(left, 'chip')} without an unexplained difference: `--json` lists all")
        for side, prefix in (("OLD", self.old_prefix), ("NEW", self.new_prefix)):
            if prefix:
                told.append(f"source_file in {side} begins with {shown(prefix)}/")
        differing = sum(bool(chip.unexplained) for chip in self.chips)
        old, new = sum(chip.rows_old for chip in self.chips), sum(chip.rows_new for chip in self.chips)
        same = "all histories are the same" if old == new else "no unexplained difference"
        verdict = f"{differing:,} of {len(self.chips):,} histories differ" if differing else same
        counts = [count(len(self.chips), "chip"), f"{count(old, 'run')} in OLD", f"{new:,} in NEW"]
        counts.append(f"{sum(chip.equal_rows for chip in self.chips):,} agree")
        reasons = Counter(reason for chip in self.chips for reason in chip.waiting.values())
        counts += [f"{number:,} {shown(reason)}" for reason, number in sorted(reasons.items())]
        return [*told, f"{verdict}: {', '.join(counts)}"]


def compare_histories(old: Path, new: Path, *, waiting: Mapping[str, str] | None = None) -> Comparison:
    """Compare the histories OLD with NEW, each one CSV or a folder of `*_history.csv`.

    It checks sequence, counts and every column both sides have; `start_time` must be the same number as written.
    `waiting` maps the source file (relative to the raw root) of a run that rightly has no row in NEW to the reason,
    such as `queued`. A chip that one side lacks counts as one without runs there. Two files of different names are
    compared all the same, under both names.

    Raises:
        UsageError: OLD or NEW is not there, holds no history, or holds a file that is none; the place names the line.
    """
    pairs = {chip: (_history(a), _history(b)) for chip, a, b in _pairs(old, new)}
    known = waiting or {}
    old_sources = {_posix(row["source_file"]) for before, _ in pairs.values() for row in before.rows}
    new_chips = {_posix(row["source_file"]): chip for chip, (_, after) in pairs.items() for row in after.rows}
    old_prefix, new_prefix = _prefixes(old_sources, {*new_chips, *known})
    chip_of = {_without(new_prefix, source): chip for source, chip in new_chips.items()}
    sides = _Sides(old_prefix, new_prefix, known, chip_of)
    chips = [_compare_chip(chip, before, after, sides) for chip, (before, after) in sorted(pairs.items())]
    return Comparison(old_prefix, new_prefix, chips)


# ---- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _History:
    columns: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()


def _pairs(old: Path, new: Path) -> Iterator[tuple[str, Path | None, Path | None]]:
    for path in (old, new):
        if not files.exists(path):
            raise UsageError("there is no such file or folder", place=str(path), next_step="check the path")
    if files.is_dir(old) and files.is_dir(new):
        before, after = _histories_in(old), _histories_in(new)
        for name in sorted({*before, *after}):
            yield name.removesuffix(HISTORY_SUFFIX), before.get(name), after.get(name)
        return
    a = _histories_in(old).get(new.name, old / new.name) if files.is_dir(old) else old
    b = _histories_in(new).get(old.name, new / old.name) if files.is_dir(new) else new
    one, other = (path.name.removesuffix(HISTORY_SUFFIX).removesuffix(".csv") for path in (a, b))
    yield one if one == other else f"{one} against {other}", a, b


def _histories_in(folder: Path) -> dict[str, Path]:
    found = {path.name: path for path in folder.glob("*" + HISTORY_SUFFIX) if files.is_file(path)}
    if not found:
        raise UsageError(
            f"the folder holds no *{HISTORY_SUFFIX}", place=str(folder), next_step="give the folder of the histories"
        )
    return found


def _history(path: Path | None) -> _History:
    if path is None:
        return _History()
    header, rows = read_cells(path)
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise UsageError(
            f"this is not a chip history: it has no column {missing[0]}, its first line is {shown(','.join(header))}",
            place=f"{path}:1",
            next_step=f"a history has the columns {','.join(REQUIRED)}",
        )
    cells = pl.DataFrame(rows, schema=dict.fromkeys(header, pl.String()), orient="row")
    if set(ADDED) <= set(header):  # earlier scripts wrote text as it came
        cells = cells.with_columns(restored(pl.col(name)) for name in HISTORY_SCHEMA)
    return _History(tuple(header), tuple(cells.iter_rows(named=True)))


def _prefixes(old: set[str], new: set[str]) -> tuple[str, str]:
    """Find the leading folder that one side has and the other lacks: the one by which most runs match."""
    ahead, behind = _votes(old, new), _votes(new, old)
    if sum(ahead.values()) >= sum(behind.values()):
        return _most_voted(ahead), ""
    return "", _most_voted(behind)


def _votes(longer: set[str], shorter: set[str]) -> Counter[str]:
    votes: Counter[str] = Counter()
    for source in longer:
        parts = source.split("/")
        for depth in range(min(len(parts), 16)):
            if "/".join(parts[depth:]) in shorter:
                votes["/".join(parts[:depth])] += 1
                break
    return votes


def _most_voted(votes: Counter[str]) -> str:
    return min(votes, key=lambda prefix: (-votes[prefix], len(prefix), prefix), default="")


def _posix(source: str) -> str:
    return source.replace("\\", "/")


def _without(prefix: str, source: str) -> str:
    return source.removeprefix(prefix + "/") if prefix else source


# ---- one chip -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Sides:
    old_prefix: str
    new_prefix: str
    waiting: Mapping[str, str]
    new_chips: Mapping[str, str]


def _compare_chip(chip: str, before: _History, after: _History, sides: _Sides) -> ChipComparison:
    explained: Counter[str] = Counter()
    waiting: dict[str, str] = {}
    old_keys = _keys(before.rows, sides.old_prefix)
    new_keys = _keys(after.rows, sides.new_prefix)
    differences = list(_column_differences(chip, before, after, explained))
    for (source, nth), index in old_keys.items():
        if (source, nth) in new_keys:
            continue
        if source in sides.waiting:
            waiting[source] = sides.waiting[source]
            explained["waiting"] += 1
        else:
            other = sides.new_chips.get(source, chip)
            found = "missing" if other == chip else f"under chip {other}"
            differences.append(_difference(chip, before.rows[index], "row", "present", found))
    for key, index in new_keys.items():
        if key not in old_keys:
            differences.append(_difference(chip, after.rows[index], "row", "missing", "present"))
    matched = [(index, new_keys[key]) for key, index in old_keys.items() if key in new_keys]
    by_row = list(_matched_differences(chip, before, after, matched, explained))
    differences += [difference for found in by_row for difference in found]
    kept = {kind: explained[kind] for kind in EXPLAINED if explained[kind]}
    return ChipComparison(chip, len(before.rows), len(after.rows), by_row.count([]), kept, waiting, differences)


def _matched_differences(
    chip: str, before: _History, after: _History, matched: list[tuple[int, int]], explained: Counter[str]
) -> Iterator[list[Difference]]:
    """Give the unexplained differences of each run that both sides have; count the explained ones."""
    shared = [name for name in before.columns if name in after.columns and name not in {"seq", "source_file"}]
    in_order = _in_order([position for _, position in matched])
    kept = [(a, b) for a, b in matched if b in in_order]
    above: tuple[Decimal | str, ...] = ()
    for a, b in matched:
        row, other = before.rows[a], after.rows[b]
        explained["source-file-prefix"] += row["source_file"] != other["source_file"]
        differences = []
        off = _off_by(row["seq"], a + 1), _off_by(other["seq"], b + 1)
        if off == (Decimal(0), Decimal(0)):
            explained["seq-shift"] += a != b and b in in_order
        elif off == above:
            explained["seq-follows"] += not _same_number(row["seq"], other["seq"])
        elif not _same_number(row["seq"], other["seq"]):
            was, is_now = f"{row['seq']} in row {a + 1}", f"{other['seq']} in row {b + 1}"
            differences.append(_difference(chip, row, "seq", was, is_now))
        above = off
        if b not in in_order:
            # A run whose number is the same may still have changed places with others; with one of those kept it has.
            passed, ahead = next((one, one > a) for one, at in kept if (one > a) is not (at > b))
            was, is_now = ("before", "after") if ahead else ("after", "before")
            source = before.rows[passed]["source_file"]
            differences.append(_difference(chip, row, "order", f"{was} {source}", f"{is_now} {source}"))
        yield [*differences, *_cell_differences(chip, row, other, shared, explained)]


def _off_by(seq: str, place: int) -> Decimal | str:
    """Tell how far a row's number is off its place, counted from 1; return the text itself if it is no number."""
    try:
        return Decimal(seq) - place
    except (InvalidOperation, Overflow):
        return seq


def _keys(rows: Iterable[Row], prefix: str) -> dict[tuple[str, int], int]:
    """Key each row by its source file and, for a file named twice, by which occurrence it is (from 0)."""
    seen: Counter[str] = Counter()
    keys = {}
    for index, row in enumerate(rows):
        source = _without(prefix, _posix(row["source_file"]))
        keys[source, seen[source]] = index
        seen[source] += 1
    return keys


def _column_differences(chip: str, before: _History, after: _History, explained: Counter[str]) -> Iterator[Difference]:
    if not before.columns or not after.columns:
        return
    for name in after.columns:
        if name not in before.columns and name in ADDED:
            explained["extra-columns"] += 1
        elif name not in before.columns:
            yield Difference(chip, 0, "", name, "no such column", "column")
    for name in before.columns:
        if name not in after.columns:
            yield Difference(chip, 0, "", name, "column", "no such column")


def _in_order(positions: list[int]) -> set[int]:
    """Pick the longest rising sequence of positions: what is outside it has changed places."""
    tails: list[int] = []
    ends: list[tuple[int, int]] = []  # (length of the longest rise ending here, position)
    for position in positions:
        at = bisect.bisect_left(tails, position)
        tails[at : at + 1] = [position]
        ends.append((at + 1, position))
    rising: set[int] = set()
    wanted = len(tails)
    for length, position in reversed(ends):
        if length == wanted:  # the last such one is also the smallest: it fits below what was picked
            rising.add(position)
            wanted -= 1
    return rising


def _cell_differences(
    chip: str, row: Row, other: Row, columns: Iterable[str], explained: Counter[str]
) -> Iterator[Difference]:
    renamed = row["proc"] == "It" and other["proc"] == "ITS"
    for name in columns:
        old, new = row[name], other[name]
        if old == new or (name in _NUMBERS and _same_number(old, new)):
            continue
        if name == "has_light" and old.lower() == new.lower():
            continue
        if name == "proc" and renamed:
            explained["proc-spelling"] += 1
        elif name == "summary" and _OLD_SUMMARY.sub(r"\1ITS ", old) == new:
            explained["summary-spelling"] += 1
        else:
            yield _difference(chip, row, name, old, new)


def _same_number(old: str, new: str) -> bool:
    try:
        return old == new or Decimal(old) == Decimal(new)  # NaN is not equal to itself
    except InvalidOperation:
        return False


def _difference(chip: str, row: Row, column: str, old: str, new: str) -> Difference:
    seq = int(row["seq"]) if re.fullmatch("[0-9]{1,18}", row["seq"]) else 0
    return Difference(chip, seq, row["source_file"], column, old, new)
