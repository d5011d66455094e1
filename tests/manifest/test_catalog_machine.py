"""Any sequence of decisions, compactions, reopenings and torn ends: the catalog answers as a plain model does."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from layouts import layout_of
from samples_of_rows import NOON, a_note, a_record, a_row

from ingestd.manifest import log
from ingestd.manifest.record import Event, FileNote, Record, encode
from ingestd.manifest.row import ManifestRow
from ingestd.manifest.store import ManifestStore
from ingestd.manifest.table import rows_frame
from ingestd.manifest.view import read_view

RUNS = range(4)
PATHS = ["a.csv", "b.csv", "c.csv"]
CONTENTS = range(4)
STATES = range(3)


def _digest(content: int) -> str:
    return f"{content:064x}"


def _size(content: int) -> int:
    return 100 + content // 2  # two contents of each size


ANY_ROW = st.builds(
    lambda run, path, content, state, chip, superseded: a_row(
        run,
        source_file=path,
        source_size=_size(content),
        source_sha256=_digest(content),
        source_mtime_ns=state,
        chip_name=chip,
        superseded_by=superseded,
    ),
    st.sampled_from(RUNS),
    st.sampled_from(PATHS),
    st.sampled_from(CONTENTS),
    st.sampled_from(STATES),
    st.sampled_from([None, "A1", "B2"]),
    st.sampled_from([None, None, "f" * 20]),
)

ANY_NOTE = st.builds(
    lambda path, content, state, outcome, run: a_note(
        path,
        source_size=_size(content),
        source_sha256=_digest(content),
        source_mtime_ns=state,
        outcome=outcome,
        run_id=a_row(run).run_id,
    ),
    st.sampled_from(PATHS),
    st.sampled_from(CONTENTS),
    st.sampled_from(STATES),
    st.sampled_from(["rejected", "duplicate", "occupied", "forgotten"]),
    st.sampled_from(RUNS),
)


class CatalogMachine(RuleBasedStateMachine):
    """A manifest with two open stores beside plain dicts of its rows and notes."""

    @initialize()
    def start(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="catalog-"))
        self.layout = layout_of(self.root)
        self.stores = [ManifestStore(self.layout), ManifestStore(self.layout)]
        self.rows: dict[str, ManifestRow] = {}
        self.notes: dict[str, FileNote] = {}
        self.stale: dict[str, int] = {}
        self.seq = 1

    def teardown(self) -> None:
        if hasattr(self, "root"):
            frame = rows_frame(sorted(self.rows.values(), key=lambda row: (row.start_time_utc, row.run_id)))
            assert read_view(self.layout).equals(frame)
            shutil.rmtree(self.root)

    # ---- what happens -----------------------------------------------------------------------------------------------

    @rule(
        which=st.integers(0, 1),
        decisions=st.lists(st.tuples(st.lists(ANY_ROW, max_size=2), st.lists(ANY_NOTE, max_size=2)), max_size=3),
    )
    def decide(self, which: int, decisions: list[tuple[list[ManifestRow], list[FileNote]]]) -> None:
        store, records = self.stores[which], []
        for rows, notes in decisions:
            records.append(Record(seq=self.seq, at=NOON, event=Event.INGESTED, rows=rows, files=notes))
            for row in rows:
                before = self.rows.get(row.run_id)
                chips = {row.chip_name} | ({before.chip_name} if before else set())
                self.stale.update((chip, self.seq) for chip in chips if chip)
                self.rows[row.run_id] = row
            self.notes.update((note.source_file, note) for note in notes)
            self.seq += 1
        with store.transaction():
            store.append(records)

    @rule(which=st.integers(0, 1), chips=st.lists(st.sampled_from(["A1", "B2"]), unique=True), back=st.integers(0, 4))
    def write_histories(self, which: int, chips: list[str], back: int) -> None:
        store, through = self.stores[which], max(self.seq - 1 - back, 0)
        with store.transaction():
            store.append([Record(seq=self.seq, at=NOON, event=Event.HISTORIES, chips=chips, through=through)])
        self.seq += 1
        self.stale = {chip: seq for chip, seq in self.stale.items() if chip not in chips or seq > through}

    @rule(which=st.integers(0, 1))
    def compact(self, which: int) -> None:
        self.stores[which].compact()

    @rule(which=st.integers(0, 1))
    def reopen(self, which: int) -> None:
        self.stores[which] = ManifestStore(self.layout)

    @rule(row=ANY_ROW, which=st.integers(0, 1))
    def give_up_a_decision(self, row: ManifestRow, which: int) -> None:
        with self.stores[which].transaction():
            self.stores[which].decide(a_record(self.seq, row))

    @rule(row=ANY_ROW, share=st.floats(0, 0.99))
    def die_while_writing(self, row: ManifestRow, share: float) -> None:
        if numbers := log.segments(self.layout.wal_dir):
            line = encode(a_record(self.seq, row))
            with log.segment_path(self.layout.wal_dir, numbers[-1]).open("ab") as file:
                file.write(line[: int(share * (len(line) - 1))])
            # no second death before somebody mended the first: two torn ends cannot stand in one log
            with self.stores[0].transaction():
                pass

    # ---- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def the_catalogs_answer_as_the_model(self) -> None:
        if not hasattr(self, "root"):
            return
        for store in self.stores:
            store.refresh()
            assert store.next_seq == self.seq
            assert store.catalog.stale_chips == self.stale
            self._check_paths(store)
            self._check_contents(store)
            self._check_copies(store)
            self._check_overwritten(store)
        chosen = sorted(self.rows)
        assert self.stores[0].full_rows(chosen) == {run_id: self.rows[run_id] for run_id in chosen}

    def _check_paths(self, store: ManifestStore) -> None:
        notes = {path: note for path, note in self.notes.items() if note.outcome != "forgotten"}
        assert store.catalog.notes == notes
        assert {note.source_file for note in store.catalog.noted_as("duplicate")} == {
            path for path, note in notes.items() if note.outcome == "duplicate"
        }
        run_files = store.catalog.run_files()
        assert run_files.keys() <= set(PATHS)
        for path in PATHS:
            live = sorted((row for row in self.rows.values() if row.live and row.source_file == path), key=_order)
            note = notes.get(path)
            found = [run.run_id for run in store.catalog.live_at(path)]
            assert found == sorted(
                (row.run_id for row in live), key=lambda own: (note is None or own != note.run_id, own)
            )
            occupant = store.catalog.occupant(path)
            is_copy = note is not None and note.outcome == "duplicate"
            assert (occupant and occupant.run_id) == (None if is_copy or not found else found[0])
            decisive = note or (live[-1] if live else None)
            assert store.catalog.is_known(path) == (decisive is not None)
            state_of_run = (live[-1].source_size, live[-1].source_mtime_ns) if live and note is None else None
            assert run_files.get(path) == state_of_run
            for size in {_size(content) for content in CONTENTS}:
                for state in STATES:
                    expected = decisive is not None and (decisive.source_size, decisive.source_mtime_ns) == (
                        size,
                        state,
                    )
                    assert store.catalog.is_current(path, (size, state)) == expected

    def _check_contents(self, store: ManifestStore) -> None:
        live = [row for row in self.rows.values() if row.live]
        for content in CONTENTS:
            with_it = [row.run_id for row in live if row.source_sha256 == _digest(content)]
            found = store.catalog.live_with(_digest(content))
            assert (found.run_id if found else None) == min(with_it, default=None)
            of_size = {row.source_sha256 for row in live if row.source_size == _size(content)}
            assert store.catalog.digests_of_size(_size(content)) == of_size
            count = store.catalog.count_of_size(_size(content))
            assert count >= sum(row.source_size == _size(content) for row in live)
            assert store.catalog.digests_of_size(_size(content), at_most=count) == of_size
            assert store.catalog.digests_of_size(_size(content), at_most=count - 1) == frozenset()
        for number in RUNS:
            row, run = self.rows.get(a_row(number).run_id), store.catalog.run(a_row(number).run_id)
            assert (run and (run.source_file, run.superseded_by)) == (row and (row.source_file, row.superseded_by))

    def _check_copies(self, store: ManifestStore) -> None:
        live = {row.run_id: row for row in self.rows.values() if row.live}
        known = [note for _, note in sorted(self.notes.items()) if note.outcome == "duplicate"]
        for content in CONTENTS:
            copies = [note for note in known if note.source_sha256 == _digest(content)]
            assert store.catalog.copies_of_bytes(_digest(content)) == copies
            original = store.catalog.edited_original_of(_digest(content))
            assert (original and original.run_id) == next((note.run_id for note in copies if note.run_id in live), None)
        for path in PATHS:
            own = [row for row in live.values() if row.source_file == path]
            copies = [note for note in known for row in own if _is_copy_of(note, row)]
            assert sorted(store.catalog.copies_of_runs_at([path]), key=_path) == copies

    def _check_overwritten(self, store: ManifestStore) -> None:
        covered = {}
        for row in self.rows.values():
            note = self.notes.get(row.source_file)
            if row.live and note is not None and note.names_occupant and note.run_id != row.run_id:
                covered[row.run_id] = note
        found = store.catalog.overwritten()
        assert {run.run_id: note for run, note in found.items()} == covered
        assert len(found) == len(covered), "a run stands there twice"
        at_paths = [store.catalog.overwritten_at(path).items() for path in PATHS]
        assert {run.run_id: note for found in at_paths for run, note in found} == covered


def _is_copy_of(note: FileNote, row: ManifestRow) -> bool:
    return (note.run_id, note.source_sha256) == (row.run_id, row.source_sha256)


def _path(note: FileNote) -> str:
    return note.source_file


def _order(row: ManifestRow) -> tuple[object, str]:
    return row.start_time_utc, row.run_id


TestCatalogMachine = CatalogMachine.TestCase
TestCatalogMachine.settings = settings(max_examples=30, stateful_step_count=15)


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize(("here", "covered"), [(1, 2), (2, 1)])
def test_of_two_runs_at_a_path_the_one_it_has_now_comes_first(
    here: int, covered: int, compacted: bool, tmp_path: Path
) -> None:
    """Whichever id is the lesser; the other one is overwritten, as its last row tells, and once."""
    rows = {number: a_row(number, source_file="a.csv", source_sha256=_digest(number)) for number in (here, covered)}
    note = a_note("a.csv", outcome="occupied", run_id=rows[here].run_id)
    store = ManifestStore(layout_of(tmp_path))
    with store.transaction():
        store.append([a_record(1, *rows.values(), files=[note])])
    if compacted:
        store.compact()
        again = rows[covered].model_copy(update={"source_mtime_ns": 7})
        with store.transaction():
            store.append([a_record(store.next_seq, again)])
    catalog = store.catalog
    assert [run.run_id for run in catalog.live_at("a.csv")] == [rows[here].run_id, rows[covered].run_id]
    (occupant, (overwritten,)) = catalog.occupant("a.csv"), catalog.overwritten()
    assert (occupant and occupant.run_id) == rows[here].run_id
    assert overwritten == catalog.run(rows[covered].run_id)
    assert overwritten.source_mtime_ns == (7 if compacted else rows[covered].source_mtime_ns)
