"""`config show`, `config validate` and `config generate`: the settings, and where each came from."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ingestd.cli.options import AsJson, Config, DataRoot, load
from ingestd.cli.output import near, say, say_json, say_table
from ingestd.errors import UsageError
from ingestd.words import count

if TYPE_CHECKING:
    from ingestd.settings import Settings

commands = typer.Typer()
config_ = typer.Typer(no_args_is_help=True, help="Show, check or generate the settings.")
commands.add_typer(config_, name="config")

File = Annotated[Path | None, typer.Argument(metavar="[FILE]", help="The config file; by default the one in force.")]


@config_.command("show")
def show(config: Config = None, data_root: DataRoot = None, as_json: AsJson = False) -> None:
    """Show every setting in force.

    It lists each setting with its value and where that comes from: default, config file, environment or option.

    \b
    Examples:
      ingestd config show
      ingestd config show --data-root data --json
    """
    from ingestd.cli.config_text import toml  # noqa: PLC0415  # loads pydantic: not for --help
    from ingestd.raw.packaged import packaged_file  # noqa: PLC0415  # loads importlib.resources: not for --help
    from ingestd.settings import SYSTEM_CONFIG  # noqa: PLC0415  # loads pydantic: not for --help

    settings = load(config, {"data_root": data_root})
    rows = _in_force(settings, data_root)
    if as_json:
        say_json(
            {
                "config_file": settings.config_file,
                "settings": {key: {"value": value, "from": source} for key, value, source in rows},
                "procedures": sorted(settings.registry.procedures),
            }
        )
        return
    none = f"none; neither ./config.toml nor {SYSTEM_CONFIG} exists"
    say(f"config file: {near(settings.config_file.absolute()) if settings.config_file else none}")
    say(f"packaged procedures: {packaged_file()}")
    say()
    say_table(["SETTING", "FROM", "VALUE"], [(key, source, toml(value)) for key, value, source in rows])
    say()
    own = f", {', '.join(settings.procedures)} from the config file" if settings.procedures else ""
    say(f"{count(len(settings.registry.procedures), 'procedure')}{own}")


@config_.command("validate")
def validate(file: File = None, config: Config = None, data_root: DataRoot = None) -> None:
    """Check the config file.

    It checks every key, value and procedure, and the INGESTD_... variables of the environment.

    \b
    Examples:
      ingestd config validate
      ingestd config validate config.toml
    """
    if file is not None and config is not None:
        raise UsageError("two config files are named", next_step=f"give {file} or --config {config}, not both")
    settings = load(file or config, {"data_root": data_root})
    given = [key for key, _, source in _in_force(settings, data_root) if source != "default"]
    name = near(settings.config_file.absolute()) if settings.config_file else "no config file"
    own = settings.procedures
    procedures = f"; {count(len(own), 'procedure')}: {', '.join(own)}" if own else ""
    say(f"{name}: valid; {count(len(given), 'setting')} given, all others at their default{procedures}")


@config_.command("generate")
def generate() -> None:
    """Print a config file to start from.

    It contains every setting at its default, commented out, with its meaning.

    \b
    Example:
      ingestd config generate > my-config.toml
    """
    from ingestd.cli.config_text import config_toml  # noqa: PLC0415  # loads pydantic: not for --help

    sys.stdout.write(config_toml())


def _in_force(settings: Settings, data_root: Path | None) -> list[tuple[str, Any, str]]:
    """List key, value (of an unset one, what applies) and origin of every setting; `data_root` is the option given."""
    from ingestd.settings import environment_name, sections  # noqa: PLC0415  # loads pydantic: not for --help

    environment = {name.upper() for name in os.environ}
    rows: list[tuple[str, Any, str]] = []
    for section, model in sections().items():
        for key in model.model_fields:
            if key not in getattr(settings, section).model_fields_set:
                source = "default"
            elif key == "data_root" and data_root is not None:
                source = "option"
            elif environment_name(section, key) in environment:
                source = f"environment {environment_name(section, key)}"
            else:
                source = "config file"
            rows.append((f"{section}.{key}", _value(settings, section, key), source))
    return rows


def _value(settings: Settings, section: str, key: str) -> Any:
    if section == "paths" or (section, key) == ("log", "file"):
        return str(settings.place(f"{section}.{key}"))
    return settings.workers if (section, key) == ("stage", "workers") else getattr(getattr(settings, section), key)
