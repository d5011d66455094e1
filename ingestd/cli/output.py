"""What commands print: plain lines, safe whatever a file is called, coloured on a terminal only.

Every line goes through `shown`, so a file name or header can neither drive the terminal nor pass for markup.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ingestd.words import shown

LONGEST_LINE = 10_000
WIDTH = 100
"""Longer explanations are broken here, in characters."""

DETAIL = 10
"""How far an explanation stands below its line, in characters."""

LONG_LIST = 20
"""How many entries of a list people are shown; `--json` has all."""


@cache
def _console(stream: TextIO) -> Console:
    return Console(file=stream, markup=False, emoji=False, highlight=False, soft_wrap=True)


def on_terminal() -> bool:
    """Tell whether stdout is a terminal."""
    return sys.stdout.isatty()


def say(text: str = "", *, style: str = "", lead: str = "") -> None:
    """Print one line on stdout; `lead` is its first part, the one with the `style`."""
    _print(sys.stdout, (lead, style), (text, "" if lead else style))


def say_text(text: Text) -> None:
    """Print one line that is coloured already and safe to print."""
    if sys.stdout.isatty():
        _console(sys.stdout).print(text)
    else:
        sys.stdout.write(text.plain + "\n")


def say_below(text: str, *, indent: int = DETAIL) -> None:
    """Print a longer text below a line: indented, and broken for reading, its own line breaks kept."""
    for paragraph in text.splitlines() or [""]:
        for line in _wrapped(shown(paragraph, LONGEST_LINE), indent):
            say(line)


def say_verbatim(text: str) -> None:
    """Print a text of several lines as it is, such as a table to paste into a file."""
    for line in text.splitlines():
        say(line)


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def complain(message: str, *, place: str = "", next_step: str = "", kind: str = "error") -> None:
    """Print what went wrong on stderr: kind, place, message, and what to do next in a line of its own."""
    sys.stdout.flush()
    _print(sys.stderr, (f"{kind}: ", "bold red" if kind == "error" else "bold yellow"), (_placed(message, place), ""))
    for number, line in enumerate(next_step.splitlines()):
        _print(sys.stderr, (line if number else f"  next: {line}", ""))


def note(text: str) -> None:
    """Print one line on stderr: what a person wants to know and a program reading stdout does not."""
    _print(sys.stderr, (text, ""))


def _placed(message: str, place: str) -> str:
    return f"{place}: {message}" if place else message


def _print(stream: TextIO, *parts: tuple[str, str]) -> None:
    line = Text.assemble(*((shown(text, LONGEST_LINE), style) for text, style in parts if text))
    # Without a terminal rich has nothing to add, and would break lines at its width.
    if stream.isatty():
        _console(stream).print(line)
    else:
        stream.write(line.plain + "\n")


def say_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout, in ASCII, so that no name can spoil it."""
    sys.stdout.write(json.dumps(content, indent=2, default=str) + "\n")


def say_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table with aligned columns and without lines; the last column is as long as it needs to be."""
    lines = [[shown(cell, 500) for cell in row] for row in (head, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        cells = [cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)]
        say("  ".join(cells).rstrip(), style="" if number else "bold")


def say_more(hidden: int, where: str = "`--json`", *, lead: str = "") -> None:
    """Say how many entries of a list are not shown, and `where` all are; nothing where none is hidden."""
    if hidden > 0:
        say(f"... and {hidden:,} more: {where} lists all", lead=lead)


def duration(seconds: float) -> str:
    """Say a duration in the greatest unit of which it has two or more."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def near(path: Path) -> str:
    """Show a path relative to the current folder where it lies below it."""
    here = Path.cwd()
    below = here != Path(here.anchor) and path.is_relative_to(here)  # below / lies everything
    return path.relative_to(here).as_posix() if below else str(path)


def steady_streams() -> None:
    """Let no character that a terminal or file cannot take stop a command: it is written with a backslash."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout is None or sys.stderr is None:  # started with a closed descriptor
        nowhere = Path(os.devnull).open("w")  # noqa: SIM115  # lives as long as the process
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
