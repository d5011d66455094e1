"""Commands for people to type next: they repeat the options that told this command where things are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from typer.main import get_command

from ingestd.words import quoted

_COMMAND: Final = r"ingestd (?P<command>[a-z][a-z-]*(?: (?:list|show|retry|validate|generate))?)"
_QUOTED: Final = re.compile(rf"`{_COMMAND}\b(?P<rest>(?:'[^']*'|\"[^\"]*\"|[^`'\"])*)`")
"""A command within a text: between backticks, its arguments quoted for the shell."""

_ALONE: Final = re.compile(rf"\s*{_COMMAND}\b")
"""A command at the beginning of a line; remarks may follow."""

_given: dict[str, str] = {}


def remember(options: Mapping[str, Path | str | None]) -> None:
    """Note the options given to the running command, such as `--data-root`; None means not given."""
    _given.clear()
    _given.update({option: str(value) for option, value in options.items() if value is not None})


def insertions(text: str) -> list[tuple[int, str]]:
    """List where in a text to insert options, from left to right: after each command that takes them.

    A command is recognized by its backticks, or by its place at the beginning of the text.
    """
    if not _given or "ingestd " not in text:
        return []
    if (alone := _ALONE.match(text)) is not None:
        found = [(alone["command"], text, alone.end())]
    else:
        found = [(match["command"], match[0], match.end() - 1) for match in _QUOTED.finditer(text)]
    return [(at, more) for command, written, at in found if (more := _missing(command, written))]


def typed(text: str) -> str:
    """Return a text with the options given inserted after each command in it."""
    for at, more in reversed(insertions(text)):
        text = text[:at] + more + text[at:]
    return text


def command(words: str, name: str) -> str:
    """Return `ingestd WORDS NAME` for the raw file NAME, ready to be typed in a shell, with the options given."""
    return f"ingestd {words} {quoted(name)}{_missing(words, '')}"


def _missing(command: str, written: str) -> str:
    taken = _options_of(tuple(command.split()))
    return "".join(
        f" {option} {shlex.quote(value)}"
        for option, value in _given.items()
        if option in taken and f" {option} " not in written
    )


@cache
def _options_of(words: tuple[str, ...]) -> frozenset[str]:
    command: Any = get_command(import_module("ingestd.cli").app)
    for word in words:
        inner = getattr(command, "commands", {})
        if word not in inner:
            break
        command = inner[word]
    return frozenset(option for parameter in command.params for option in parameter.opts)
