"""What a backfill counts: each file that it found once, by what became of it in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from archive import BEGIN, Archive
from inline import InlineEngine, inline
from measurement import BROKEN, Measurement

from ingestd.backfill.fate import Fate
from ingestd.backfill.ledger import Ledger
from ingestd.backfill.report import FailedFile
from ingestd.backfill.run import Options, backfill
from ingestd.cli.report import exit_code
from ingestd.errors import Retry
from ingestd.manifest.record import Record
from ingestd.manifest.store import ManifestStore
from ingestd.stage.run import Outcome, StageTask

RUN = Measurement()
OTHER = Measurement(start=1758650000.5, chip=70, sample=2)
A, B, C = "2025-09-23/It_1.csv", "2025-09-23/It_2.csv", "2025-09-24/It_3.csv"


@pytest.fixture
def one_by_one(archive: Archive) -> Archive:
    """A data root where every file is a batch of its own."""
    archive.settings = archive.settings.model_copy(
        update={"stage": archive.settings.stage.model_copy(update={"batch_files": 1})}
    )
    return archive


def test_files_of_many_kinds_count_once_each(archive: Archive) -> None:
    """New, copied, rejected and queued; then known, and told again where that is so; then all of them by force."""
    archive.put(A, RUN.data)
    archive.copy(A, B)
    archive.put(C, BROKEN)
    archive.put("queued.csv", RUN.but(rows=0, sample=1).data)
    archive.backfill()
    assert archive.report.fates == Counter({Fate.INGESTED: 1, Fate.DUPLICATE: 1, Fate.REJECTED: 1, Fate.WAITING: 1})
    archive.backfill()
    assert archive.report.fates == Counter({Fate.KNOWN: 2, Fate.REJECTED_BEFORE: 1, Fate.WAITING_BEFORE: 1})
    assert (archive.report.known, archive.report.scanned) == (4, 4)
    archive.backfill(force=True)
    assert archive.report.fates == Counter({Fate.RESTAGED: 1, Fate.UNCHANGED: 1, Fate.REJECTED: 1, Fate.WAITING: 1})


def test_a_known_file_that_is_still_young_is_staged_again_by_force(tmp_path: Path) -> None:
    """It is waited for like a new one; that it was decided before is no reason to leave it."""
    archive = Archive(tmp_path, settle={"settle_s": 0.3})
    archive.put(A, RUN.data)
    archive.backfill()
    just_written = BEGIN + timedelta(seconds=1)
    archive.backfill_amid(force=True, clock=lambda: just_written)
    assert archive.report.fates == Counter({Fate.RESTAGED: 1})


def test_a_reject_that_was_touched_is_one_still(archive: Archive) -> None:
    """It is looked at again, has the same content, and is told with the exit code of any reject."""
    archive.put(C, BROKEN)
    archive.backfill()
    archive.touch(C)
    assert archive.backfill() == [("unchanged", C)]
    assert [record.note for record in archive.fresh] == ["still rejected (not-pymeasure)"]
    assert archive.report.fates == Counter({Fate.STILL_REJECTED: 1})
    assert (archive.report.rejected_before, archive.report.known, exit_code(archive.report)) == ([C], 0, 1)


def test_a_run_that_was_a_reject_meanwhile_is_edited(archive: Archive) -> None:
    """What was noted of its file is taken back with the edit, and that makes the file none to be looked at again."""
    for data in (RUN.data, BROKEN, RUN.but(chip=67).data):
        archive.put(A, data)
        archive.backfill()
    assert archive.events == [("edited", A)]
    assert (archive.report.fates, archive.report.staged) == (Counter({Fate.EDITED: 1}), 1)


@pytest.mark.parametrize(
    ("now", "note"),
    [
        (RUN.but(rows=2), "it had 3 rows before"),
        (RUN.but(rows=2, end="\n"), "it had 3 rows before"),
        (RUN.but(end="\n"), ""),
        (RUN.but(chip=7), ""),
    ],
)
def test_an_edit_that_takes_rows_away_says_how_many_there_were(now: Measurement, note: str, archive: Archive) -> None:
    """A sync client that puts an earlier, shorter version back does not halve a run unseen."""
    archive.put(A, RUN.but(rows=3).data)
    archive.backfill()
    archive.put(A, now.data)
    assert archive.backfill() == [("edited", A)]
    assert [record.note for record in archive.fresh] == [note]


def test_a_lost_file_is_known_from_the_second_time_on(archive: Archive) -> None:
    """Emptied, it is looked at once; it is told again afterwards, and was not opened for that."""
    archive.put(A, RUN.data)
    archive.backfill()
    archive.put(A, b"")
    for fate, known in ((Fate.LOST, 0), (Fate.LOST_BEFORE, 1)):
        archive.backfill_amid()
        assert (archive.report.fates, archive.report.known) == (Counter({fate: 1}), known)


def test_what_was_said_of_the_run_before_is_not_said_of_its_successor(archive: Archive) -> None:
    """The start that the header lacked is there now: the report warns no more that it is missing."""
    archive.put(A, RUN.but(start=None).data)
    archive.backfill()
    assert list(archive.report.warnings) == [A]
    archive.put(A, RUN.data)
    assert archive.backfill() == [("superseded", A)]
    assert archive.report.warnings == {}


class Slow(InlineEngine):
    """An engine beside which another backfill is done with everything first."""

    def __init__(self, archive: Archive, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]  # the context
        self._archive = archive

    def stage(self, batches: Iterable[list[StageTask]], stop: Callable[[], bool]) -> Iterator[list[Outcome]]:
        """Stage, and commit nothing before the other did."""
        staged = list(super().stage(batches, stop))
        backfill(self._archive.settings, Options(engine=inline, clock=self._archive.now))
        return iter(staged)


def test_what_another_process_decides_first_is_overtaken(archive: Archive) -> None:
    """It was looked at, and is neither staged here nor known from before."""
    archive.put(A, RUN.data)
    archive.put(B, OTHER.data)
    assert archive.backfill_amid(engine=lambda context, _: Slow(archive, context)) == []
    assert archive.report.fates == Counter({Fate.OVERTAKEN: 2})
    assert len(archive.live()) == 2


class Renaming(InlineEngine):
    """An engine beside which a folder is renamed before the first file is read."""

    def __init__(self, archive: Archive, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]  # the context
        self._archive = archive

    def stage(self, batches: Iterable[list[StageTask]], stop: Callable[[], bool]) -> Iterator[list[Outcome]]:
        """Rename it once, then stage."""
        if (self._archive.raw / "2025-09-23").exists():
            self._archive.move("2025-09-23", "chips/Alisson72")
        return super().stage(batches, stop)


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_renamed_meanwhile_is_staged_where_it_is_now(archive: Archive, force: bool) -> None:
    """Its runs, rejects and queued files are found again under the new name by the same backfill, and count once."""
    archive.put(C, RUN.but(start=1758640000.5, sample=3).data)
    archive.backfill()
    archive.put(A, RUN.data)
    archive.put(B, OTHER.data)
    archive.put("2025-09-23/bad.csv", BROKEN)
    archive.put("2025-09-23/queued.csv", RUN.but(rows=0, sample=1).data)
    archive.put("other/bad.csv", BROKEN + b"2")
    amid = Options(engine=lambda context, _: Renaming(archive, context), clock=archive.now, force=force)
    report = backfill(archive.settings, replace(amid, on_record=archive.records.append))
    moved = {f"chips/Alisson72/{name}" for name in ("It_1.csv", "It_2.csv")}
    assert archive.live().keys() == moved | {C}
    there = Fate.RESTAGED if force else Fate.KNOWN
    assert report.fates == Counter({Fate.INGESTED: 2, Fate.REJECTED: 2, Fate.WAITING: 1, there: 1})
    assert [file.source_file for file in report.waiting] == ["chips/Alisson72/queued.csv"]
    rejected = {file.source_file for file in report.rejected}
    assert rejected == {"chips/Alisson72/bad.csv", "other/bad.csv"}
    assert archive.backfill() == []


def test_what_a_renamed_folder_held_before_is_told_under_its_new_name_alone(archive: Archive) -> None:
    """A reject and a queued file that were known under the old name are no longer told under it."""
    archive.put("2025-09-23/bad.csv", BROKEN)
    archive.put("2025-09-23/queued.csv", RUN.but(rows=0, sample=1).data)
    archive.backfill()
    archive.put(A, RUN.data)
    report = backfill(
        archive.settings, Options(engine=lambda context, _: Renaming(archive, context), clock=archive.now)
    )
    assert report.fates == Counter({Fate.INGESTED: 1, Fate.REJECTED: 1, Fate.WAITING: 1})
    assert [file.source_file for file in report.waiting] == ["chips/Alisson72/queued.csv"]
    assert [file.source_file for file in report.rejected] == ["chips/Alisson72/bad.csv"]
    assert report.rejected_before == []


def test_a_file_that_is_decided_twice_counts_once(one_by_one: Archive) -> None:
    """A copy whose original is overwritten right after it was decided takes its place: it moved, and is no copy."""
    archive = one_by_one
    archive.put(A, RUN.data)
    archive.backfill()
    archive.touch(A)
    archive.copy(A, B)

    def overwrite(record: Record) -> None:
        if record.event == "duplicate":
            archive.put(A, OTHER.data)

    report = backfill(archive.settings, Options(engine=inline, clock=archive.now, on_record=overwrite))
    assert report.events == {"duplicate": 1, "ingested": 1, "moved": 1}
    assert report.fates == Counter({Fate.INGESTED: 1, Fate.MOVED: 1})
    assert (report.staged, report.scanned) == (1, 2)


def test_only_what_was_staged_last_is_warned_of(one_by_one: Archive) -> None:
    """A run whose odd file was corrected, start and all, or mended while the backfill ran, has no warning left."""
    archive = one_by_one
    odd = "\r\n\r\n"
    archive.put(A, RUN.but(tail=odd).data)
    archive.backfill()
    assert list(archive.report.warnings) == [A]
    archive.put(A, RUN.but(start=1758632200.5).data)
    assert archive.backfill() == [("superseded", A)]
    assert archive.report.warnings == {}

    archive.put(B, OTHER.but(tail=odd).data)
    archive.put(C, RUN.but(start=1758640000.5, rows=4).data)  # of no run's size, so it is looked at after B

    def mend(record: Record) -> None:
        if record.event == "ingested":
            archive.put(B, OTHER.data)
            archive.delete(C)  # which makes the backfill look at the whole archive once more

    report = backfill(archive.settings, Options(engine=inline, clock=archive.now, on_record=mend))
    assert report.events == {"ingested": 1, "edited": 1}
    assert report.warnings == {}


def test_a_copy_that_is_none_any_more_is_left_by_a_stop(archive: Archive) -> None:
    """Its original, without a start, was overwritten: it is to be looked at, and counts as left until the next run."""
    archive.put(A, RUN.but(start=None).data)
    archive.copy(A, B)
    archive.backfill()
    archive.put(A, OTHER.but(start=None).data)
    decided: list[Record] = []
    options = Options(engine=inline, clock=archive.now, on_record=decided.append, stop=lambda: bool(decided))
    report = backfill(archive.settings, options)
    assert (report.fates, report.left) == (Counter({Fate.EDITED: 1, Fate.LEFT: 1}), 1)
    assert archive.backfill_amid() == [("ingested", B)]


def test_what_the_disk_refused_is_left(one_by_one: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """By force too, where everything was decided before: what could not be committed is to be looked at again."""
    archive = one_by_one
    archive.put(A, RUN.data)
    archive.put(B, OTHER.data)
    archive.backfill()
    commit, commits = ManifestStore.commit, iter([True, False])

    def refuse(store: ManifestStore) -> None:
        if not next(commits, True):
            raise Retry("no space left")
        commit(store)

    monkeypatch.setattr(ManifestStore, "commit", refuse)
    archive.backfill_amid(force=True)
    assert archive.report.fates == Counter({Fate.RESTAGED: 1, Fate.LEFT: 1})


@pytest.mark.parametrize(
    ("fate", "then"),
    [
        (Fate.INGESTED, Fate.INGESTED),
        (Fate.FAILED, Fate.FAILED),
        (Fate.LEFT, Fate.LEFT),
        (Fate.UNCHANGED, Fate.LOST),
        (Fate.WAITING, Fate.LOST),
        (Fate.WAITING_BEFORE, Fate.LOST_BEFORE),
    ],
)
def test_a_file_is_lost_unless_something_more_pressing_became_of_it(fate: Fate, then: Fate) -> None:
    """What was staged, could not be, or is left for the next run is told as that; what was lost before, as such."""
    ledger = Ledger()
    ledger.put(A, fate)
    ledger.lose(A)
    assert ledger.names(*Fate) == ledger.names(then) == [A]


def test_only_the_last_fate_of_a_file_is_told() -> None:
    """What failed at first and was staged at another look is not told as failed."""
    ledger = Ledger()
    ledger.tell(Fate.FAILED, FailedFile(A, "it changed", A, "again"))
    assert [file.source_file for file in ledger.told(FailedFile)] == [A]
    ledger.put(A, Fate.INGESTED)
    assert ledger.told(FailedFile) == []
