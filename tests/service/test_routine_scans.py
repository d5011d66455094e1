"""Where nobody hints at new files, the service scans every few seconds: its log tells of what a scan finds anew."""

from __future__ import annotations

from logged import Start, entries
from measurement import Measurement

from ingestd.ingest.commit import Ingest
from ingestd.service.messages import ScanAsked
from ingestd.service.worker import Worker


def test_a_run_under_way_is_told_by_the_scan_that_finds_it(ingest: Ingest, start: Start) -> None:
    """A measurement may go on for hours: routine scans are logged when they find a file, not each time they see it."""
    _, stream, _ = start()
    worker, raw = Worker(ingest), ingest.layout.raw_root
    for found in (1, 2):
        with (raw / f"It_{found}.csv").open("wb") as recorder:
            recorder.write(Measurement().data)
            recorder.flush()
            for _ in range(3):
                worker.inbox.put(ScanAsked("routine", routine=True))
                worker.turn(0.0)
    told = [(line["files"], line["to_do"]) for line in entries(stream.getvalue()) if line["event"] == "scanned"]
    assert told == [(1, 1), (2, 2)]
