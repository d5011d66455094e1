"""What an archive that was staged under other settings still knows of its measurements."""

from __future__ import annotations

from typing import Any

from archive import Archive
from measurement import Measurement

from ingestd.settings import load_settings

RUN = Measurement(rows=6)
A, B = "2025-09-23/It_1.csv", "backup/It_1.csv"


def change(archive: Archive, **sections: dict[str, Any]) -> None:
    """Give the archive other settings from now on."""
    paths, stage = {"data_root": archive.root}, {"workers": 1}
    archive.settings = load_settings(None, {"paths": paths, "stage": stage, **sections})


def test_a_copy_that_began_before_its_procedure_got_another_column_is_the_same_measurement(archive: Archive) -> None:
    """When it is complete, the part of it that was staged before does not stay as a second run."""
    archive.put(B, RUN.but(rows=3).data)
    archive.backfill()
    change(archive, procedures={"ITS": {"columns": {"gate_v": {"accepts": ["Gate (V)"]}}}})
    archive.put(A, RUN.data)
    assert archive.backfill() == [("ingested", A)]
    archive.copy(A, B)
    assert archive.backfill() == [("duplicate", B)]
    assert list(archive.live()) == [A]


def test_a_backup_from_before_an_edit_is_a_copy_in_another_time_zone_too(archive: Archive) -> None:
    """The replaced version was kept under the day of the zone before, which is the day before the new one's."""
    evening = RUN.but(start=1758682555.25)
    archive.put(A, evening.data)
    archive.backfill()
    archive.put(A, evening.but(chip=67).data)
    archive.backfill()
    change(archive, time={"local_tz": "Asia/Tokyo"})
    archive.put(B, evening.data)
    assert archive.backfill() == [("duplicate", B)]
    assert list(archive.live()) == [A]


def test_a_decision_keeps_its_one_event_in_another_time_zone(archive: Archive) -> None:
    """A compaction in a zone in which it was another day makes good what is missing, and writes nothing twice."""
    archive.put(A, RUN.data)
    late = archive.now().replace(hour=23)
    archive.backfill_amid(compact=False, clock=lambda: late)
    (event,) = archive.layout.events_dir.rglob("*.json")
    change(archive, time={"local_tz": "Asia/Tokyo"})
    archive.backfill_amid()
    assert [path for path in archive.layout.events_dir.rglob("*.json") if path.name == event.name] == [event]
