"""The procedures in force, looked up by class: the packaged ones, with a config's added or laid over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ingestd.errors import Reject, RejectCode, all_at_once
from ingestd.raw.packaged import packaged_tables
from ingestd.raw.paste_table import Filled, classes_table, paste_table
from ingestd.raw.procedure import Procedure
from ingestd.raw.procedure_tables import described
from ingestd.words import AFTER_CONFIG, CONFIG_FILE, closest, nearest, shown


class Registry:
    """The procedures in force, looked up by the class name in a file's header. Immutable and picklable."""

    def __init__(self, procedures: Sequence[Procedure]) -> None:
        """Index `procedures`, of which no two claim the same class."""
        self.procedures: dict[str, Procedure] = {procedure.name: procedure for procedure in procedures}
        self._by_class = {name: procedure for procedure in procedures for name in procedure.classes}

    @classmethod
    def load(cls, overrides: Mapping[str, Any] | None = None) -> Registry:
        """Return the packaged procedures with `overrides`, the config's `[procedures]` tables, laid over them.

        New names add a procedure, known names override key by key. Raises UsageError that names table and key of
        every mistake in them.
        """
        procedures, mistakes = described(overrides or {})
        if mistakes:
            raise all_at_once(mistakes)
        return cls(procedures)

    def procedure_for(self, procedure_class: str, written: Sequence[str] = (), labels: Iterable[str] = ()) -> Procedure:
        """Return the procedure of the header's class (its last dotted part counts).

        Raises Reject `unknown-procedure`, whose next step prints the config table to add; `written`, the labels of the
        column line, and `labels`, those of the header's parameters, fill that table in.
        """
        name = procedure_class.rpartition(".")[2]
        procedure = self._by_class.get(name)
        if procedure is not None:
            return procedure
        known = sorted(self._by_class)
        own = paste_table(name, written, taken=self.procedures, parameters=self.known_parameters(labels))
        raise Reject(
            RejectCode.UNKNOWN_PROCEDURE,
            f"no procedure accepts the class '{shown(name)}'{nearest(name, known)}",
            expected="one of " + ", ".join(known),
            found=shown(procedure_class),
            next_step=self._tables(name, closest(name, known), own),
        )

    def _tables(self, name: str, close: Sequence[str], own: str) -> str:
        """Say which table to add for the class `name`: one for the procedure of a `close` class, or its `own`."""
        if not close:
            return f"add this table to {CONFIG_FILE} and adjust it; {AFTER_CONFIG}:\n\n{own}"
        likely = self._by_class[close[0]]
        return (
            f"add one of these tables to {CONFIG_FILE}; {AFTER_CONFIG}:\n\n"
            f"# If it is procedure {likely.name} under another name:\n"
            f"{classes_table(likely.name, [*likely.classes, name])}\n\n"
            f"# Otherwise, a procedure of its own, to be adjusted:\n{own}"
        )

    def known_parameters(self, labels: Iterable[str]) -> dict[str, Filled]:
        """Find the header labels that some procedure knows, and the field it fills with each."""
        known = {label: one for procedure in self.procedures.values() for label, one in procedure.parameters.items()}
        groups = {
            parameter["field"]: group
            for group, entries in packaged_tables()["groups"].items()
            for parameter in entries.get("parameters", {}).values()
        }
        return {
            label: Filled(one.field, one.unit, groups.get(one.field))
            for label in labels
            if (one := known.get(label)) is not None
        }
