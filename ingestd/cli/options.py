"""The options that several commands take, each defined once, and the settings made from them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_type_hints

import typer

from ingestd import files
from ingestd.cli.typed import remember
from ingestd.errors import UsageError
from ingestd.words import shown

if TYPE_CHECKING:
    from ingestd.settings import Settings


def a_path(text: str) -> Path:
    """Take a path from the command line; refuse an empty one (an unset variable): it would mean the current folder.

    `~` is the home folder: the shell leaves it in `--data-root=~/data`.
    """
    if not text:
        raise typer.BadParameter("an empty text names no path; the current folder is .")
    return files.in_full(text)


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        parser=a_path,
        help="Config file to use. [default: $INGESTD_CONFIG, else ./config.toml, else /etc/ingestd/config.toml]",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
Chips = Annotated[list[str] | None, typer.Option("--chip", metavar="NAME", help="Only this chip; can be repeated.")]
Chip = Annotated[str | None, typer.Option("--chip", metavar="NAME", help="Only runs of this chip.")]
Proc = Annotated[str | None, typer.Option("--proc", metavar="NAME", help="Only runs of this procedure.")]


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{shown(text)!r} is not a date like 2025-09-23") from None


Day = Annotated[
    date | None, typer.Option("--date", metavar="YYYY-MM-DD", parser=_day, help="Only runs of this local date.")
]

DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root", metavar="DIR", parser=a_path, help="Folder that holds 01_raw, 02_stage, histories and metadata."
    ),
]


def _folder(flag: str, words: str) -> Any:
    return Annotated[Path | None, typer.Option(flag, metavar="DIR", parser=a_path, help=words)]


def _number(flag: str, words: str) -> Any:
    return Annotated[int | None, typer.Option(flag, metavar="N", help=words)]


SETTINGS: Final[dict[str, tuple[str, str, Any]]] = {
    "data_root": ("paths", "data_root", DataRoot),
    "raw_root": (
        "paths",
        "raw_root",
        _folder(
            "--raw-root",
            "Folder of the instrument program's CSVs; only read. It stays the same: a run is known by its path in it.",
        ),
    ),
    "stage_root": ("paths", "stage_root", _folder("--stage-root", "Folder for staged Parquet, manifest and rejects.")),
    "manifest_path": (
        "paths",
        "manifest_path",
        Annotated[
            Path | None,
            typer.Option("--manifest-path", metavar="FILE", parser=a_path, help="The manifest: the table of all runs."),
        ],
    ),
    "history_out": ("paths", "histories_dir", _folder("--history-out", "Folder for the chip histories.")),
    "local_tz": (
        "time",
        "local_tz",
        Annotated[str | None, typer.Option("--local-tz", metavar="ZONE", help="Time zone of dates and histories.")],
    ),
    "engine": (
        "stage",
        "engine",
        Annotated[
            Literal["processes", "dask"] | None,
            typer.Option("--engine", help="Where to stage: in its own processes or on a Dask cluster."),
        ],
    ),
    "scheduler": (
        "stage",
        "scheduler",
        Annotated[str | None, typer.Option("--scheduler", metavar="ADDRESS", help="Address of the Dask scheduler.")],
    ),
    "workers": ("stage", "workers", _number("--workers", "Processes that stage in parallel.")),
    "polars_threads": ("stage", "polars_threads", _number("--polars-threads", "Threads of each worker process.")),
}
"""Option -> the section and key it sets, and its declaration for typer."""

PATHS: Final = ("raw_root", "stage_root", "manifest_path", "local_tz", "history_out")
STAGING: Final = (
    "raw_root",
    "stage_root",
    "manifest_path",
    "local_tz",
    "workers",
    "polars_threads",
    "engine",
    "scheduler",
)
"""Options that go together: of a command that reads or writes what is staged, and of one that stages."""


def with_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function whose first argument is `settings` a command with `--config`, `--data-root` and `names`.

    The settings are loaded before the function is called; `names` are keys of `SETTINGS`, which become options.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = _own_parameters(function)

        def command(config: Path | None = None, **given: Any) -> None:
            flags = {name: given.pop(name) for name in ("data_root", *names)}
            function(load(config, flags), **given)

        shared = [*((name, SETTINGS[name][2]) for name in (*names, "data_root")), ("config", Config)]
        parameters = [*own, *(_keyword(name, annotation, None) for name, annotation in shared)]
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def _own_parameters(function: Callable[..., None]) -> list[inspect.Parameter]:
    # The first parameter's type is imported only for type checkers: at run time it would load polars for `--help`.
    hints = get_type_hints(function, localns={"Settings": object}, include_extras=True)
    return [
        _keyword(parameter.name, hints[parameter.name], parameter.default)
        for parameter in list(inspect.signature(function).parameters.values())[1:]
    ]


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def load(config: Path | None, flags: dict[str, Any]) -> Settings:
    """Load the settings in force with the options given; None means not given.

    Raises:
        UsageError: see `ingestd.settings.load_settings`; or a scheduler is given for another engine than Dask.
    """
    from ingestd.settings import load_settings  # noqa: PLC0415  # loads pydantic: not for --help

    kept = {f"--{name.replace('_', '-')}": flags[name] for name in flags if SETTINGS[name][0] in {"paths", "time"}}
    remember({**kept, "--config": config})
    settings = load_settings(config, _as_flags(flags))
    if flags.get("scheduler") and settings.stage.engine != "dask":
        raise UsageError(
            f"only the Dask engine has a scheduler, and stage.engine is {settings.stage.engine}",
            place="option --scheduler",
            next_step="add --engine dask, or leave the scheduler out",
        )
    return settings


def _as_flags(given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Sort options by the section they set."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in given.items():
        section, key, _ = SETTINGS[name]
        sections.setdefault(section, {})[key] = value
    return sections
