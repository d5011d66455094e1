"""Load the settings: find the config file, lay environment and flags over it, explain what is wrong in them."""

from __future__ import annotations

import hashlib
import os
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ingestd import files
from ingestd.errors import UsageError, all_at_once
from ingestd.raw_guard import Clash, find_clash, find_log_clash, find_own_clash
from ingestd.settings.model import ENV_PREFIX, PLACES, Settings, environment_name, sections, setting_keys
from ingestd.words import closest, in_plain_words, shown, shown_value

CONFIG_VARIABLE = "INGESTD_CONFIG"
SYSTEM_CONFIG = Path("/etc/ingestd/config.toml")

OPTION_NAMES = {"histories_dir": "--history-out"}
"""Key of a setting -> its command-line option, if it is not named like the key."""

Flags = Mapping[str, Mapping[str, Any]]
"""Values given on the command line: section -> key -> value; None means not given."""


def _find_config(asked: Path | None) -> Path | None:
    """Choose the config file: `--config`, else `INGESTD_CONFIG`, else `./config.toml`, else `/etc/ingestd/config.toml`.

    The variable's name may be in any case, like those of the settings.

    Raises:
        UsageError: a file that was asked for does not exist or is not a file; or one cannot be looked at.
    """
    told = next((value for name, value in os.environ.items() if name.upper() == CONFIG_VARIABLE and value), None)
    named = asked or (files.in_full(told) if told else None)
    if named is None:
        return next(filter(_is_file, (Path("config.toml"), SYSTEM_CONFIG)), None)
    if not _is_file(named):
        check = f"check {'its name' if asked else CONFIG_VARIABLE}"
        if files.exists(named):
            raise UsageError("this config file was asked for but is not a file", place=str(named), next_step=check)
        raise UsageError(
            "this config file was asked for but does not exist",
            place=str(named),
            next_step=f"{check}, or make one: `ingestd config generate > {shlex.quote(str(named))}`",
        )
    return named


def _require_current_folder() -> None:
    """Refuse to start in a folder that was deleted or is closed to this user.

    Nothing could be found from there, no worker process could be started, and no error would name it.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise UsageError(
            "the current folder was deleted",
            place=shown(os.environ.get("PWD", ""), 500) or "the current folder",
            next_step="change to a folder that is there: `cd FOLDER`, even if one of the same name was made again",
        ) from None
    if not os.access(".", os.X_OK):  # that of whoever typed `sudo -u`, say
        raise UsageError(
            "this user may not enter the current folder",
            place=shown(str(here), 500),
            next_step="`cd /`, or to another folder that is open to this user, and run the same command again",
        )


def _is_file(path: Path) -> bool:
    try:
        return files.is_file(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(error.strerror or str(error), place=str(path), next_step="make it readable")


def load_settings(config: Path | None = None, flags: Flags | None = None) -> Settings:
    """Load the settings in force.

    Raises:
        UsageError: an unknown key, a bad value, an unreadable file, a path that would make ingestd write among the raw
            files or delete its own, a log among or over ingestd's own, a current folder that is gone or closed; the
            message names key, place and the nearest key.
    """
    _require_current_folder()
    path = _find_config(config)
    content = b"" if path is None else _read(path)
    tables = {} if path is None else _parsed(content, path)
    given = _absolute(flags or {})
    _check_environment()
    try:
        settings = Settings(file=tables, flags=given)  # type: ignore[call-arg]  # by the sources
    except ValidationError as error:
        findings = (_finding(found, path, given) for found in error.errors(include_url=False))
        raise all_at_once([*findings, *_mistakes_in(tables.get("procedures", {}), path)]) from None
    sha256, usual = hashlib.sha256(content).hexdigest(), None
    if "histories_dir" in given.get("paths", {}):
        paths = {key: value for key, value in given["paths"].items() if key != "histories_dir"}
        usual = Settings(file=tables, flags={**given, "paths": paths})  # type: ignore[call-arg]  # by the sources
        usual.taken_from(path, sha256)
    settings.taken_from(path, sha256, usual)
    _refuse_undecodable(settings, given)
    _refuse_clashes(settings, given)
    if settings.procedures:  # checked now, not at the first file
        try:
            settings.registry  # noqa: B018  # loaded once, for the check
        except UsageError:
            raise all_at_once(_mistakes_in(settings.procedures, path)) from None
    return settings


def _mistakes_in(procedures: Mapping[str, Any], path: Path | None) -> list[UsageError]:
    """List the mistakes in the config file's procedures, with the file's path."""
    from ingestd.raw.procedure_tables import described  # noqa: PLC0415  # many commands read no raw file

    _, found = described(procedures)
    for mistake in found:
        mistake.place = f"{path}: {mistake.place}"
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _parsed(content: bytes, path: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        at = error.start + len(content) - len(error.object)  # which is without the byte order mark
        raise UsageError("not UTF-8 text", place=f"{path}: byte {at}", next_step="save it as UTF-8") from error
    except (ValueError, RecursionError) as error:  # not TOML; an integer too long, or values too deep, for Python
        raise UsageError(
            f"not valid TOML: {error}", place=str(path), next_step="compare it with `ingestd config generate`"
        ) from error
    known = {*sections(), "procedures"}
    for name in tables:
        if name not in known and name.lower() in known:  # pydantic would take it for the section, or for one of two
            raise UsageError(
                f"unknown setting {name!r}; did you mean {name.lower()!r}?",
                place=str(path),
                next_step="correct it: names of sections are in small letters",
            )
    for name in known & tables.keys():
        if not isinstance(tables[name], dict):
            raise UsageError(f"{name!r} is a section: write it as [{name}]", place=str(path), next_step="correct it")
    return tables


def _absolute(flags: Flags) -> dict[str, dict[str, Any]]:
    """Drop what was not given; a path on the command line starts at the current folder."""
    given = {
        section: {key: value for key, value in values.items() if value is not None} for section, values in flags.items()
    }
    return {
        section: {key: value.absolute() if isinstance(value, Path) else value for key, value in values.items()}
        for section, values in given.items()
        if values
    }


def _check_environment() -> None:
    known = {environment_name(*key.split(".")) for key in setting_keys()}
    known.add(CONFIG_VARIABLE)
    for name in os.environ:
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            near = closest(name.upper().removeprefix(ENV_PREFIX), [one.removeprefix(ENV_PREFIX) for one in known])
            raise UsageError(
                "no such setting" + (f"; did you mean {ENV_PREFIX}{near[0]}?" if near else ""),
                place=f"environment variable {name}",
                next_step="unset it, or name a section and key of `ingestd config generate`: "
                f"{ENV_PREFIX}STAGE__WORKERS is workers in [stage]",
            )


def _refuse_undecodable(settings: Settings, flags: Flags) -> None:
    """Refuse a place whose path is not UTF-8: the libraries that read and write Parquet take no such path."""
    for key in ("paths.data_root", *PLACES):
        place = settings.place(key)
        try:
            str(place).encode()
        except UnicodeEncodeError:
            name = os.fsencode(place).decode("utf-8", "backslashreplace")
            raise UsageError(
                f"{key} = {name}: a path that is not UTF-8 cannot be used",
                place=_place(key.split("."), settings.config_file, flags),
                next_step="rename the folder whose name has the characters shown as \\x.., or set another path",
            ) from None


def _refuse_clashes(settings: Settings, flags: Flags) -> None:
    """Refuse places with which a write could reach the raw files, or would spoil or delete files of ingestd's own."""
    layout = settings.layout
    if not layout.manifest_path.name:
        raise _clashing(Clash("paths.manifest_path", "/", "it names a folder, not a file"), settings, flags)
    if (clash := find_clash(layout)) is not None:
        raise _clashing(clash, settings, flags, other="paths.raw_root")
    if _is_set(settings, "log.file") and (clash := find_log_clash(layout)) is not None:
        raise UsageError(
            f"{clash.key} = {clash.place}: {clash.fault}",
            place=_place(clash.key.split("."), settings.config_file, flags),
            next_step="name a file elsewhere, or leave it unset: it is then ingestd.log beside the manifest",
        )
    if (clash := find_own_clash(layout)) is not None:
        raise _clashing(clash, settings, flags)


def _clashing(clash: Clash, settings: Settings, flags: Flags, *, other: str = "") -> UsageError:
    """Return the error for a place that follows, perhaps, from another setting, and clashes with the `other` one."""
    key = clash.key
    while key in PLACES and not _is_set(settings, key):
        key, _ = PLACES[key]
    unset = not _is_set(settings, key)  # a default: then only the other one can have been set wrongly
    follows = "" if key == clash.key else f" (it follows from {key})"
    value, place = str(settings.place(clash.key)), clash.place
    if place != value and not place.startswith(f"{value} (a link to "):  # one of the places that the setting leads to
        place, follows = value, f"{follows}, so ingestd writes to {place}"
    return UsageError(
        f"{clash.key} = {place}{follows}: {clash.fault}",
        place=_place((other if other and unset else key).split("."), settings.config_file, flags),
        next_step=f"set {key} and {other} to separate places" if other else f"set {key} to a place of its own",
    )


def _is_set(settings: Settings, key: str) -> bool:
    section, _, name = key.partition(".")
    return name in getattr(settings, section).model_fields_set


def _finding(found: Mapping[str, Any], path: Path | None, flags: Flags) -> UsageError:
    where = [str(part) for part in found["loc"]]
    key = ".".join(where)
    place = _place(where, path, flags)
    if found["type"] == "extra_forbidden":
        near = closest(key, [*setting_keys(), *sections(), "procedures"], cutoff=0.4)
        return UsageError(
            f"unknown setting {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
            place=place,
            next_step="correct or remove it; `ingestd config generate` lists every setting",
        )
    return UsageError(
        f"{key} = {shown_value(found['input'])}: {in_plain_words(found)}",
        place=place,
        next_step="correct it; `ingestd config generate` prints what it means",
    )


def _place(where: list[str], path: Path | None, flags: Flags) -> str:
    """Name the source a value came from: the strongest one that has the key."""
    section, key = where[0], where[1] if len(where) > 1 else ""
    variable = environment_name(section, key)
    if key in flags.get(section, {}):
        return f"option {OPTION_NAMES.get(key, '--' + key.replace('_', '-'))}"
    return next(
        (f"environment variable {name}" for name in os.environ if name.upper() == variable),
        f"{path or 'no config file'}",
    )
