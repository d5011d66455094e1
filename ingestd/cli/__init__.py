"""The command line: one file per group of commands, loaded when one of them is needed.

Heavy libraries (polars, pyarrow, the watcher) are imported inside the commands that need them, so that `--help` and
errors in options appear at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command_name, get_group

from ingestd import __version__
from ingestd.cli.exits import explained, forsake_output
from ingestd.cli.output import steady_streams
from ingestd.cli.typed import remember

COMMANDS: Final = {
    "backfill": "staging",
    "stage-all": "staging",
    "full-pipeline": "staging",
    "run": "service",
    "status": "service",
    "tail": "service",
    "chip-histories": "exports",
    "export-metadata": "exports",
    "compare-histories": "exports",
    "rejects": "rejects",
    "verify": "upkeep",
    "repair": "upkeep",
    "rebuild-manifest": "upkeep",
    "explain": "upkeep",
    "compact": "upkeep",
    "config": "config",
}
"""Command -> the module beside this one that holds it, in the order `--help` lists them."""


class _Loaded(Mapping[str, Any]):
    """All commands by name; looking one up loads its module and makes its options."""

    def __getitem__(self, name: str) -> Any:
        return _loaded(name)

    def __contains__(self, name: object) -> bool:
        return name in COMMANDS

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


@cache
def _loaded(name: str) -> Any:
    """Make the options of this command only: those of each other one in its module would take a millisecond."""
    module = import_module(f"{__name__}.{COMMANDS[name]}").commands
    alone = typer.Typer(rich_markup_mode=None)
    alone.registered_commands = [
        one for one in module.registered_commands if one.callback and get_command_name(one.callback.__name__) == name
    ]
    alone.registered_groups = module.registered_groups
    return get_group(alone).commands[name]


class _Commands(TyperGroup):
    """All commands; an error in any of them becomes a message and an exit code."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = _Loaded()  # type: ignore[assignment]  # only ever read

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        with explained(debug="--debug" in args):  # `--help` and `--version` print already here
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        try:
            with explained(debug=bool(ctx.params.get("debug"))):
                return super().invoke(ctx)
        finally:
            remember({})  # another command may follow in this process


app = typer.Typer(
    name="ingestd",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 100, "help_option_names": ["--help", "-h"]},
)


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"ingestd {__version__}\n")
        raise typer.Exit


@app.callback()
def ingestd(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", hidden=True, help="Print the traceback of an error.")] = False,
) -> None:
    """Stage a lab's raw CSV runs as Parquet, with one manifest and chip histories.

    Exit codes: 0 all good, 1 done, but something needs attention (each command says what), 2 could not run, 3 `status`:
    no service is running, 130 stopped by Ctrl-C, 143 by SIGTERM.
    """


def main() -> None:
    """Run the command line in this process, as `ingestd.__main__` does for the console."""
    steady_streams()
    try:
        app(prog_name="ingestd")
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # reported already
            forsake_output()
