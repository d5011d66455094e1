"""The command line. One file a group of commands; each adds its commands to `app` when it is named below.

Heavy libraries (polars, pyarrow, the watcher) are imported inside the commands that need them, so that `--help` and a
wrong option answer at once.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ingestd import __version__
from ingestd.cli import config, exports, manifest, rejects, service, staging, upkeep
from ingestd.cli.exits import explained, forsake_output
from ingestd.cli.output import steady_streams

GROUPS = (staging, service, exports, rejects, upkeep, manifest, config)
"""The modules that hold the commands, in the order `--help` lists them."""


class _Commands(TyperGroup):
    """All commands: an error of any of them becomes a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        with explained(debug=bool(ctx.params.get("debug"))):
            return super().invoke(ctx)


app = typer.Typer(
    name="ingestd",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 100},
)


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"ingestd {__version__}\n")
        raise typer.Exit


@app.callback()
def ingestd(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", hidden=True, help="Print the traceback of an error.")] = False,
) -> None:
    """Stage a lab's raw CSV runs as Parquet, with one manifest and chip histories.

    Exit codes: 0 all good, 1 some files rejected (or histories differ), 2 could not run, 130 stopped by Ctrl-C, 143 by
    SIGTERM.
    """


for _group in GROUPS:
    app.add_typer(_group.commands)


def main() -> None:
    """Run the command line: the console entry `ingestd`."""
    # Numpy, which comes with pyarrow, starts threads for an algebra that nobody asks for here, in every worker as well.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(50_000)  # loading modules makes many objects and no garbage: looking for it takes a tenth longer
    steady_streams()
    try:
        app(prog_name="ingestd")
    finally:
        gc.freeze()  # what is loaded goes with the process; a last look for garbage takes longer than many a command
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            with contextlib.suppress(BrokenPipeError):
                forsake_output()
