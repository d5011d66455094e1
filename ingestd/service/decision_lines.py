"""The log lines of decisions: one each, and warnings about the content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from structlog.stdlib import BoundLogger

from ingestd.manifest.record import Event, Record
from ingestd.manifest.store import ManifestStore


def chips_at(store: ManifestStore, names: Iterable[str]) -> dict[str, str | None]:
    """Return the chip of each live run that these raw files are known as, by run id: a decision may change it."""
    return {run.run_id: run.chip_name for name in names for run in store.catalog.live_at(name)}


def tell_decision(
    log: BoundLogger, store: ManifestStore, record: Record, took_ms: float, chips_before: Mapping[str, str | None]
) -> None:
    """Write the log line of a decision, and warn about the content.

    `chips_before` are the `chips_at` before it: an edit that takes a run from one chip to another names both.
    """
    row = next((row for row in record.rows if row.run_id == record.run_id), None)
    run = None if row or not record.run_id else store.catalog.run(record.run_id)
    context = {
        "seq": record.seq,
        "source_file": record.source_file,
        "run_id": record.run_id,
        "original": run.source_file if run and record.event is Event.DUPLICATE else None,
        "chip": row.chip_name if row else run and run.chip_name,
        "proc": row.proc if row else None,
        "rows": row.rows if row else None,
        "note": record.note or None,
        "took_ms": took_ms,
    }
    if row is not None and record.event in {Event.EDITED, Event.SUPERSEDED}:
        before = (chips_before.get(one.run_id) for one in record.rows)
        context["old_chip"] = next((chip for chip in before if chip != row.chip_name), None)
    if record.reason is not None:
        reason = record.reason
        context |= {
            "code": reason.code,
            "line": reason.line,
            "problem": reason.message,
            "next_step": reason.next_step,
        }
    tell = log.warning if record.event is Event.REJECTED else log.info
    tell(record.event.value, **{key: value for key, value in context.items() if value is not None})
    if row is not None and row.warnings and record.event is not Event.UNCHANGED:
        log.warning("content_warnings", source_file=record.source_file, warnings=row.warnings)
