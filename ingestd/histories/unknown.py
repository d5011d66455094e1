"""The error for something asked for that no run has, naming the nearest that some run has."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from ingestd.errors import UsageError
from ingestd.words import closest, shown


def unknown(kind: str, wanted: str, known: Iterable[str]) -> UsageError:
    """Return the error for a `kind` (`chip`, `procedure`, `date`, or `id` of a run) that no run has.

    It names the nearest that some run has: chips or procedures spelt alike, or only those that differ just in case, if
    any; ids with a digit or two wrong; the days closest to a date.
    """
    names = sorted(known)
    return UsageError(f"the manifest has no run of {kind} {shown(wanted)}", next_step=_instead(kind, wanted, names))


def _instead(kind: str, wanted: str, names: list[str]) -> str:
    if not names:
        return "no run is known yet: `ingestd backfill` stages what is in 01_raw"
    if kind == "date":
        days = sorted(names, key=lambda name: abs(date.fromisoformat(name) - date.fromisoformat(wanted)))
        return "the nearest days with runs: " + ", ".join(sorted(days[:3]))
    if near := [name for name in names if name.casefold() == wanted.casefold()] or _closest(kind, wanted, names):
        return "did you mean " + " or ".join(map(shown, near)) + "?"
    if kind == "id":
        return "`ingestd status` shows the last runs, the manifest all (`ingestd.load_manifest()`)"
    return "some that are known: " + ", ".join(map(shown, names[:5]))


def _closest(kind: str, wanted: str, names: list[str]) -> list[str]:
    cutoff = 0.85 if kind == "id" else 0.5  # half the digits of any two ids are alike
    return closest(wanted, names, count=5, cutoff=cutoff)
