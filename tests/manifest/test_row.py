"""Rows of one run compared: by their fields, and by their fingerprints."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given
from samples_of_rows import ROWS, a_row

from ingestd.manifest.row import ManifestRow, differing_fields, fingerprint


@given(ROWS, ROWS, st.sets(st.sampled_from(sorted(ManifestRow.model_fields))))
def test_rows_of_one_fingerprint_differ_in_no_field(one: ManifestRow, other: ManifestRow, changed: set[str]) -> None:
    """Fields of another row put in: one that differs changes the fingerprint, nothing else does but a zero's sign."""
    mixed = one.model_copy(update={name: getattr(other, name) for name in changed})
    differing = differing_fields(one, mixed)
    assert set(differing) <= changed
    assert not differing or fingerprint(one) != fingerprint(mixed)
    assert differing or fingerprint(one) == fingerprint(mixed) or any(getattr(one, name) == 0.0 for name in changed)


@given(ROWS)
def test_a_row_is_no_other_than_itself(row: ManifestRow) -> None:
    """Whatever stands in it, not-a-number too, and after a way through JSON."""
    again = ManifestRow.model_validate_json(row.model_dump_json())
    assert differing_fields(row, again) == []
    assert fingerprint(row) == fingerprint(again)


def test_what_may_be_newer_in_the_manifest_is_no_difference() -> None:
    """A touch and a later run change the manifest's row, not the one in the Parquet."""
    later = a_row(1, source_size=5, source_mtime_ns=6, superseded_by="00000000000000000002")
    assert differing_fields(a_row(1), later) == []
    assert fingerprint(a_row(1)) == fingerprint(later)
    assert fingerprint(a_row(1)) != fingerprint(a_row(1, rows=11))
