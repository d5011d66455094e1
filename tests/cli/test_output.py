"""How lines are broken on a terminal and elsewhere, and how a command to type next is completed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Folder
from rich.text import Text

from ingestd import cli
from ingestd.cli import output
from ingestd.cli.typed import remember, typed

WORDS = "a row of words that is longer than a narrow terminal is wide, so that it goes on in a second line"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stdout pass for a terminal of 60 columns."""
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")


@pytest.fixture
def given() -> Iterator[None]:
    """Let the command at work have been given a data root and a raw root."""
    remember({"--data-root": Path("my data"), "--raw-root": Path("/raw"), "--config": None})
    yield
    remember({})


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_a_line_goes_on_below_its_lead(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines end at the terminal's width; the next ones begin below the text, not below what leads it."""
    output.say(WORDS, lead="waiting   ")
    output.say("     " + WORDS)
    output.say_text(Text(WORDS))
    output.say_table(["FILE", "WHAT IS WRONG"], [["a.csv", WORDS]])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[0].startswith("waiting   a row of words")
    assert lines[1].startswith("          ")
    assert [line[:5] for line in lines[3:5]] == ["     "] * 2
    assert (lines[-2][:8], lines[-1][:8]) == ("a.csv  a", "       i")
    assert " ".join(" ".join(lines[:3]).split()) == f"waiting {WORDS}"


@pytest.mark.usefixtures("terminal")
def test_the_lines_of_a_story_go_on_below_what_they_tell(staged: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal `explain` leaves the column of words such as `raw file` and `reject` free in every further line."""
    with pytest.raises(SystemExit):
        cli.app(["explain", "2026-03-12/IV2026-03-12_3.csv", "--data-root", str(staged.path / "data")])
    _, told = capsys.readouterr().out.split("\n\n")
    words = [line[:11].strip() for line in told.splitlines()[:-1]]
    assert [word for word in words if word] == ["raw file", "event", "reject"]
    assert len(words) > 6


@pytest.mark.usefixtures("terminal")
def test_a_last_column_without_room_stands_below(capsys: pytest.CaptureFixture[str]) -> None:
    """Long names leave the last column of a table no room: it has lines of its own."""
    output.say_table(["FILE", "WHAT"], [["2026-03-12/" + "x" * 30 + ".csv", WORDS]])
    _, _, name, *below = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert name.endswith("x.csv")
    assert " ".join(below) == WORDS


@pytest.mark.usefixtures("terminal")
def test_columns_that_fit_a_narrow_terminal_side_by_side_stand_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A short row stays in one line, however long the names in the others are."""
    monkeypatch.setenv("COLUMNS", "60")
    output.say_table(
        ["FILE", "CODE", "LINE", "WHAT"], [["x" * 50 + ".csv", "bad-cell", "26", "a"], ["b", "c", "1", "d"]]
    )
    assert capsys.readouterr().out.splitlines()[-2:] == ["b  c  1", "          d"]


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("columns", "lines"), [(60, 1), (59, 2), (200, 1)])
def test_a_short_last_column_asks_for_no_more_room_than_it_takes(
    columns: int, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row that fits the terminal stands in one line, however wide that is."""
    monkeypatch.setenv("COLUMNS", str(columns))
    value = "v" * (columns - 21 if lines == 1 else 39)
    output.say_table(["SETTING", "VALUE", "FROM"], [["raw_root", value, "config f."]])
    assert len(capsys.readouterr().out.splitlines()) == 2 * lines


@pytest.mark.usefixtures("terminal")
def test_a_wide_terminal_leaves_words_a_width_to_be_read_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Long names take the width there is; what is wrong is broken at 100 characters beside them."""
    monkeypatch.setenv("COLUMNS", "200")
    output.say_table(["FILE", "WHAT"], [["x" * 80, WORDS * 3]])
    _, *lines = capsys.readouterr().out.splitlines()
    assert 170 < max(map(len, lines)) <= 182
    assert {line[:80] for line in lines[1:]} == {" " * 80}


def test_elsewhere_a_line_of_a_list_stays_one(capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe every entry is one line, for programs; explanations are broken at 100 characters."""
    output.say(WORDS * 3, lead="waiting   ")
    output.say_below(WORDS * 3)
    first, *others = capsys.readouterr().out.splitlines()
    assert first == "waiting   " + WORDS * 3
    assert all(80 < len(line) <= 100 for line in others[:-1])


@pytest.mark.parametrize(("columns", "width"), [("200", 100), ("80", 80), ("20", 50)])
def test_the_width_is_the_terminal_s_within_limits(monkeypatch: pytest.MonkeyPatch, columns: str, width: int) -> None:
    """A wide terminal is not filled, a tiny one not followed."""
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", columns)
    assert output.width() == width


@pytest.mark.usefixtures("given")
@pytest.mark.parametrize(
    ("text", "completed"),
    [
        ("`ingestd status`", "`ingestd status --data-root 'my data' --raw-root /raw`"),
        ("see `ingestd rejects list`, now", "see `ingestd rejects list --data-root 'my data' --raw-root /raw`, now"),
        ("`ingestd tail -f` or `ingestd config generate`", "`ingestd tail -f --data-root 'my data'` or "
         "`ingestd config generate`"),
        ("ingestd repair (nothing was changed)", "ingestd repair --data-root 'my data' --raw-root "
         "/raw (nothing was changed)"),
        ("`ingestd explain 'a`b.csv'`", "`ingestd explain 'a`b.csv' --data-root 'my data' --raw-root /raw`"),
        ("""`ingestd explain 'a'"'"'b'`""", """`ingestd explain 'a'"'"'b' --data-root 'my data' --raw-root /raw`"""),
        ("`ingestd verify --data-root x`", "`ingestd verify --data-root x --raw-root /raw`"),
        ("`sudo systemctl restart ingestd`", "`sudo systemctl restart ingestd`"),
        ("`ingestd frobnicate`", "`ingestd frobnicate`"),
    ],
)  # fmt: skip
def test_a_command_gets_the_options_it_takes(text: str, completed: str) -> None:
    """Options given are put behind a command's own arguments, where it takes them and has them not yet."""
    assert typed(text) == completed


def test_what_is_free_of_a_disk_is_told_in_a_unit_that_tells_it() -> None:
    """Of a disk that is nearly full, how little is free can be read."""
    sizes = (0, 700 * 2**10, 99 * 2**20, 2**30, 73 * 2**30)
    assert [output.amount(octets) for octets in sizes] == ["0 MiB", "1 MiB", "99 MiB", "1.0 GiB", "73.0 GiB"]


@pytest.mark.usefixtures("given", "terminal")
def test_a_coloured_line_goes_on_below_itself_with_its_commands_completed(capsys: pytest.CaptureFixture[str]) -> None:
    """A line of the log, which is coloured already, takes the width there is; only a longer word passes it."""
    output.say_text(Text(f"{'x' * 70} see `ingestd tail` or `ingestd status`, {WORDS}"))
    assert capsys.readouterr().out.splitlines() == [
        "x" * 70,
        "    see `ingestd tail --data-root 'my data'` or `ingestd",
        "    status --data-root 'my data' --raw-root /raw`, a row of",
        "    words that is longer than a narrow terminal is wide, so",
        "    that it goes on in a second line",
    ]


def test_a_duration_is_told_in_a_unit_that_tells_it() -> None:
    """Two of a unit at least, or the next smaller one: one and a half hours are not told as two."""
    told = {0.4: "0 s", 119: "119 s", 120: "2 min", 5400: "90 min", 7200: "2 h", 172799: "48 h", 172800: "2 d"}
    assert {seconds: output.duration(seconds) for seconds in told} == told


def test_nothing_is_told_of_a_list_that_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Only entries that are left out are counted."""
    output.say_more(0)
    output.say_more(1200)
    assert capsys.readouterr().out == "... and 1,200 more: `--json` lists all\n"


@pytest.mark.usefixtures("terminal")
def test_any_command_stays_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Also one of the system's, between other words."""
    output.say_below("The service keeps the settings it has; restart it, `sudo systemctl restart ingestd`, then go on.")
    assert "`sudo systemctl restart ingestd`" in capsys.readouterr().out


@pytest.mark.usefixtures("given", "terminal")
def test_a_command_stays_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A command between backticks is not broken, so that it can be copied."""
    output.say_below("When the file has changed, look at it again: `ingestd backfill --force`.", indent=0)
    assert "`ingestd backfill --force --data-root 'my data' --raw-root /raw`." in capsys.readouterr().out.splitlines()


def test_the_options_of_one_command_are_not_the_next_ones(folder: Folder) -> None:
    """A program that runs several commands in its process: what one was given does not show in another's words."""
    with pytest.raises(SystemExit):
        cli.app(["status", "--data-root", str(folder.path / "nowhere")])
    assert typed("`ingestd status`") == "`ingestd status`"
