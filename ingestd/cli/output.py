"""What commands print: plain lines, safe whatever a file is called, coloured on a terminal only.

Every line goes through `shown`, so a file name or header can neither drive the terminal nor pass for markup, and
through `typed`, so a command in it can be typed as printed. On a terminal, lines are wrapped at its width; elsewhere
each line of a list stays whole, for `grep` and the like.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ingestd.cli.typed import insertions, typed
from ingestd.words import shown

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console
    from rich.text import Text

    from ingestd.backfill.run import Progress

LONGEST_LINE = 10_000
WIDEST = 100
"""Where longer lines are wrapped, in characters; a narrower terminal's width takes precedence."""

NARROWEST = 50
"""Lines are never wrapped at less than this, in characters, even on a narrower terminal."""

DETAIL = 10
"""How far an explanation is indented below its line, in characters."""

ROOM = 30
"""How much room, in characters, the last column of a table needs at most to stand beside the others."""

LONG_LIST = 20
"""How many entries of a list are printed; `--json` has all."""


@cache
def _console(stream: TextIO) -> Console:
    from rich.console import Console  # noqa: PLC0415  # only a terminal needs it

    return Console(file=stream, markup=False, emoji=False, highlight=False, soft_wrap=True)


def cell_width(text: str) -> int:
    """Count the columns a text takes on a terminal: a Chinese character or an emoji takes two."""
    if text.isascii() and text.isprintable():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415  # few texts need its tables

    return cell_len(text)


def on_terminal() -> bool:
    """Tell whether stdout is a terminal."""
    return sys.stdout.isatty()


def width() -> int:
    """Tell where lines are wrapped, in characters: at 100, or at the width of a narrower terminal."""
    if not on_terminal():
        return WIDEST
    return min(WIDEST, _terminal_width())


def _terminal_width() -> int:
    return max(NARROWEST, shutil.get_terminal_size().columns)


def say(text: str = "", *, style: str = "", lead: str = "", limit: int | None = None) -> None:
    """Print one line on stdout; `lead`, if given, is its first part and alone has the `style`.

    On a terminal, a line longer than `limit` (by default `width()`) continues below the end of `lead`, or of its own
    leading spaces.
    """
    text = typed(text)
    if not on_terminal():
        _print(sys.stdout, (lead, style), (text, "" if lead else style))
        return
    hang = cell_width(lead) or len(text) - len(text.lstrip(" "))
    first, *others = _wrapped(shown(text, LONGEST_LINE).lstrip(" "), hang, limit) or [""]
    _print(sys.stdout, (lead or first[:hang], style), (first[hang:], "" if lead else style))
    for line in others:
        _print(sys.stdout, (line, "" if lead else style))


def say_text(text: Text) -> None:
    """Print one line that is already coloured and safe to print; on a terminal it continues indented by 4."""
    from rich.text import Text  # noqa: PLC0415  # as above

    for at, more in reversed(insertions(text.plain)):
        text = text[:at] + Text(more) + text[at:]
    if not on_terminal():
        sys.stdout.write(text.plain + "\n")
        return
    console = _console(sys.stdout)
    for line in text.split("\n"):
        for number, part in enumerate(line.divide(_breaks(line.plain))):
            part.rstrip()
            console.print((Text("    ") + part) if number else part)


def _breaks(line: str) -> list[int]:
    """Find where to wrap a line that continues indented by 4: before each word that would not fit."""
    start = 0
    breaks: list[int] = []
    for word in re.finditer(r"\S+", line):
        room = width() - 4 if breaks else width()
        if word.start() > start and cell_width(line[start : word.end()]) > room:
            start = word.start()
            breaks.append(start)
    return breaks


def say_below(text: str, *, indent: int = DETAIL) -> None:
    """Print a longer text below a line: indented and wrapped, its own line breaks kept."""
    for paragraph in typed(text).splitlines() or [""]:
        for line in _wrapped(shown(paragraph, LONGEST_LINE), indent):
            _print(sys.stdout, (line, ""))


def say_verbatim(text: str) -> None:
    """Print a text of several lines as it is, such as a table to paste into a file."""
    for line in text.splitlines():
        _print(sys.stdout, (line, ""))


def _wrapped(text: str, indent: int, limit: int | None = None) -> list[str]:
    """Wrap a text that went through `shown`; a command between backticks stays on one line, to be copied."""
    kept = _COMMAND.sub(lambda found: found[0].replace(" ", _NO_BREAK), text)
    lines = textwrap.wrap(
        kept,
        limit or width(),
        initial_indent=" " * indent,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_NO_BREAK, " ") for line in lines]


_COMMAND = re.compile(r"`[a-z]+ [^`]*`")
_NO_BREAK = "\u00a0"
"""A space at which no line is wrapped; `shown` escapes those of the text itself."""


def complain(message: str, *, place: str, next_step: str) -> None:
    """Print what went wrong on stderr: place, message, and what to do next on a line of its own."""
    with contextlib.suppress(OSError):  # an error of stdout is reported when the command ends
        sys.stdout.flush()
    said = f"{place}: {typed(message)}" if place else typed(message)
    _print(sys.stderr, ("error: ", "bold red"), (said, ""))
    for number, line in enumerate(map(typed, next_step.splitlines())):
        _print(sys.stderr, (line if number else f"  next: {line}", ""))


def note(text: str) -> None:
    """Print one line on stderr: what a person wants to know and a program reading stdout does not."""
    _print(sys.stderr, (typed(text), ""))


def _print(stream: TextIO, *parts: tuple[str, str]) -> None:
    safe = [(shown(text, LONGEST_LINE), style) for text, style in parts if text]
    # Without a terminal rich has nothing to add, and would break lines at its width.
    if stream.isatty():
        from rich.text import Text  # noqa: PLC0415  # as above

        _console(stream).print(Text.assemble(*safe))
    else:
        stream.write("".join(text for text, _ in safe) + "\n")


def say_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout, in ASCII, so that no name can spoil it."""
    sys.stdout.write(json.dumps(content, indent=2, default=str) + "\n")


def say_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table with aligned columns and no rules; the last column is as long as it needs to be.

    On a terminal the last column is wrapped, and goes below the others if they leave it no room; on a narrow one the
    others are not aligned. On a wide one the last column may take 100 characters besides the others.
    """
    lines = [[shown(cell, 500) for cell in row] for row in (head, *rows)]
    widths = [max(map(cell_width, column)) for column in zip(*lines, strict=True)]
    taken = sum(widths[:-1]) + 2 * len(widths[:-1])
    below = on_terminal() and taken + min(ROOM, widths[-1]) > _terminal_width()
    limit = min(taken + WIDEST, _terminal_width())
    if below and taken - 2 > limit:
        widths = [0] * len(widths)  # aligned, the others would not fit on one line
    for number, line in enumerate(lines):
        *cells, last = (cell + " " * (wide - cell_width(cell)) for cell, wide in zip(line, widths, strict=True))
        style, others = "" if number else "bold", "".join(f"{cell}  " for cell in cells)
        if below:
            say(others.rstrip(), style=style, limit=limit)
            say(" " * DETAIL + last.rstrip(), style=style)
        elif not number:
            say(f"{others}{last.rstrip()}", style=style, limit=limit)
        else:
            say(last.rstrip(), lead=others if last.strip() else others.rstrip(), style=style, limit=limit)


def say_more(hidden: int, where: str = "`--json`", *, lead: str = "") -> None:
    """Say how many entries of a list are not shown, and `where` all are; print nothing if none is hidden."""
    if hidden > 0:
        say(f"... and {hidden:,} more: {where} lists all", lead=lead)


def progress(words: str) -> AbstractContextManager[Callable[[Progress], None]]:
    """Show a progress bar on a terminal during the block, and nothing elsewhere; yield the function that moves it."""
    if not sys.stderr.isatty():
        return contextlib.nullcontext(lambda _: None)
    from ingestd.cli.progress import progress_bar  # noqa: PLC0415  # cron and systemd have nobody to show it to

    return progress_bar(words)


def duration(seconds: float) -> str:
    """Give a duration in the largest unit of which it has at least two."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def amount(octets: int) -> str:
    """Give an amount of disk space in GiB, or in MiB if it is less than one GiB."""
    return f"{octets / 2**30:.1f} GiB" if octets >= 2**30 else f"{octets / 2**20:.0f} MiB"


def near(path: Path) -> str:
    """Show a path relative to the current folder if it lies below it."""
    here = Path.cwd()
    below = here != Path(here.anchor) and path.is_relative_to(here)  # everything lies below /
    return path.relative_to(here).as_posix() if below else str(path)


STDOUT = "stdout"
"""The file named in errors of standard output."""


class _Stdout(io.FileIO):
    """Standard output whose errors name it, as those of any other file do."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = STDOUT
            raise


def steady_streams() -> None:
    """Make stdout and stderr take any character, and make errors of stdout name it.

    A character that the terminal or file cannot take is written as a backslash escape. A command started without
    stdout or stderr writes to nowhere.
    """
    given = sys.stdout
    if isinstance(given, io.TextIOWrapper) and given is sys.__stdout__:
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Stdout(given.fileno(), "wb", closefd=False)),
            encoding=given.encoding,
            errors="backslashreplace",
            line_buffering=given.line_buffering or given.write_through,
        )
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")
    if sys.stdout is None or sys.stderr is None:
        nowhere = Path(os.devnull).open("w")  # noqa: SIM115  # lives as long as the process
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
