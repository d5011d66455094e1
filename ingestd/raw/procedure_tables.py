"""Tables that describe procedures: the packaged ones, overridden by a config's, and the mistakes in these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from ingestd.errors import UsageError
from ingestd.raw.packaged import packaged_file, packaged_tables
from ingestd.raw.procedure import Column, Parameter, Procedure
from ingestd.words import in_plain_words, nearest, shown, shown_value


def described(overrides: Mapping[str, Any]) -> tuple[list[Procedure], list[UsageError]]:
    """Read the packaged procedures with `overrides` laid over them; return the valid ones and all mistakes.

    That two procedures claim one class is a mistake, looked for where there is no other.
    """
    packaged = packaged_tables()
    procedures: list[Procedure] = []
    mistakes: list[UsageError] = []
    for name, table in _merged(packaged["procedures"], overrides).items():
        try:
            procedures.append(_procedure(name, table, packaged["groups"]))
        except ValidationError as error:
            found = error.errors(include_url=False)
            found.sort(key=lambda finding: finding["type"] != "extra_forbidden")  # an unknown key explains most
            mistakes += (_invalid(name, finding) for finding in found)
        except UsageError as error:
            mistakes.append(error)
    return procedures, mistakes or _clashes(procedures)


def _clashes(procedures: Sequence[Procedure]) -> list[UsageError]:
    owners: dict[str, Procedure] = {}
    return [
        UsageError(
            f"key 'classes': the class {name!r} already belongs to procedure {other.name}",
            place=_table_name(procedure.name),
            next_step=f"remove it from one of them, or change [procedures.{other.name}] itself",
        )
        for procedure in procedures
        for name in procedure.classes
        if (other := owners.setdefault(name, procedure)) is not procedure
    ]


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        both_tables = isinstance(inner, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(inner, value) if both_tables else value  # type: ignore[arg-type]  # both are tables here
    return merged


def _procedure(name: str, table: Any, groups: Mapping[str, Any]) -> Procedure:
    if not isinstance(table, Mapping):
        raise _mistake(f"expected a table, found {shown_value(table)}", _table_name(name))
    if "name" in table:
        raise _mistake("key 'name': a procedure is named by its table, not by a key", _table_name(name))
    own = {key: value for key, value in table.items() if key != "uses"}
    uses = table.get("uses", ())
    if isinstance(uses, str) or not isinstance(uses, Sequence):
        raise _mistake(f"key 'uses': expected a list of group names, found {shown_value(uses)}", _table_name(name))
    for group in uses:
        if not isinstance(group, str) or group not in groups:
            hint = nearest(group if isinstance(group, str) else "", list(groups))
            raise _mistake(f"key 'uses': {shown_value(group)} is not a group of columns{hint}", _table_name(name))
        for kind, entries in groups[group].items():
            if isinstance(present := own.get(kind, {}), Mapping):
                own[kind] = {**present, **{key: value for key, value in entries.items() if key not in present}}
    return Procedure.model_validate({**own, "name": name})


def _invalid(name: str, finding: Mapping[str, Any]) -> UsageError:
    """Return one finding as table, key and what to write instead."""
    where = [str(part) for part in finding["loc"] if part != "[key]"]
    inside: dict[str, type[BaseModel]] = {"columns": Column, "parameters": Parameter}
    model = inside[where[0]] if len(where) > 1 and where[0] in inside else Procedure
    depth = 2 if model is not Procedure else 0
    key = where[depth] if len(where) > depth else (where[-1] if where else "")
    message = in_plain_words(finding)
    if finding["type"] == "extra_forbidden":
        known = [field for field in model.model_fields if field != "name"] + (["uses"] if model is Procedure else [])
        message = f"no such key{nearest(key, known)}"
    elif finding["type"] != "missing" and not isinstance(finding["input"], Mapping):
        message = f"{message}; found {shown_value(finding['input'])}"
    what = f"key {key!r}{' ' if finding['type'] == 'missing' else ': '}{message}" if key else message
    return _mistake(what, _table_name(name, *where[:depth]))


def _mistake(what: str, place: str) -> UsageError:
    return UsageError(what, place=place, next_step=f"correct it; {packaged_file()} shows every key")


def _table_name(*path: str) -> str:
    """Name a table of the config as it stands there: `table [procedures.IVg.columns]`."""
    parts = (part if part.isidentifier() and part.isascii() else f'"{shown(part)}"' for part in ("procedures", *path))
    return f"table [{'.'.join(parts)}]"
