"""Packed rows: a dict of rows, whatever is put in, in a fraction of the memory."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given
from samples_of_rows import ROWS, a_row

from ingestd.manifest.row import ManifestRow
from ingestd.upkeep.packed import PackedRows

LIKE_A_LABS = (
    '{"procedure": "laser_setup.procedures.IVg", "parameters": {"Chip group name": "Alisson", "Chip number": "%d", '
    '"Sample": "A", "Information": "after annealing", "VDS": "%g V", "VG start": "-5.0 V", "VG end": "5.0 V", '
    '"VG step": "0.05 V", "NPLC": "1.0", "Laser wavelength": "405.0 nm", "Laser voltage": "%g V"}, "metadata": {}}'
)


@given(st.lists(st.tuples(ROWS, st.booleans()), max_size=12))
def test_they_are_a_dict_of_rows(steps: list[tuple[ManifestRow, bool]]) -> None:
    """Rows put in, replaced and taken out: what is left is what a dict holds, in its order, not-a-number too."""
    packed, plain = PackedRows(), dict[str, ManifestRow]()
    for row, stays in steps:
        packed.put(row)
        plain[row.run_id] = row
        if not stays:
            del packed[row.run_id], plain[row.run_id]
    assert list(packed) == list(plain)
    assert len(packed) == len(plain)
    assert [row.model_dump_json() for row in packed.values()] == [row.model_dump_json() for row in plain.values()]
    assert all(run_id in packed for run_id in plain)
    assert packed.get("f" * 20) == plain.get("f" * 20)


def test_a_copy_stands_by_itself() -> None:
    """What is put into a copy, or taken out of it, does not show in what it was made from."""
    packed = PackedRows(a_row(number) for number in range(3))
    twin = packed.copy()
    twin.put(a_row(1, summary="other"))
    del twin[a_row(2).run_id]
    assert list(packed.values()) == [a_row(number) for number in range(3)]
    assert list(twin.values()) == [a_row(0), a_row(1, summary="other")]


def test_the_rows_of_an_archive_take_little() -> None:
    """Rows that are alike, as an archive's are, take less than a third of their JSON."""
    rows = [a_row(n, parameters=LIKE_A_LABS % (n % 80, n / 7, n / 11)) for n in range(500)]
    packed = PackedRows(rows)
    assert list(packed.values()) == rows
    assert sum(map(len, packed._packed.values())) < sum(len(row.model_dump_json()) for row in rows) / 3
