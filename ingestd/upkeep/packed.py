"""Rows by run id, packed: a repair may have those of a whole archive in memory at once."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, MutableMapping

from ingestd.manifest.row import ManifestRow


class PackedRows(MutableMapping[str, ManifestRow]):
    """Rows by run id, in the order they came: a dict that takes a few hundred bytes per row, not a few thousand.

    Each is kept as JSON, compressed with the first as dictionary: an archive's rows are much alike. Every look-up
    makes a new row, equal to what was put in.
    """

    def __init__(self, rows: Iterable[ManifestRow] = ()) -> None:
        self._like = b""
        self._packed: dict[str, bytes] = {}
        for row in rows:
            self.put(row)

    def put(self, row: ManifestRow) -> None:
        """Store a row under its own run id."""
        self[row.run_id] = row

    def __setitem__(self, run_id: str, row: ManifestRow) -> None:
        text = row.model_dump_json().encode()
        self._like = self._like or text
        packer = zlib.compressobj(level=1, zdict=self._like)
        self._packed[run_id] = packer.compress(text) + packer.flush()

    def __getitem__(self, run_id: str) -> ManifestRow:
        unpacker = zlib.decompressobj(zdict=self._like)
        return ManifestRow.model_validate_json(unpacker.decompress(self._packed[run_id]))

    def __delitem__(self, run_id: str) -> None:
        del self._packed[run_id]

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._packed

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def copy(self) -> PackedRows:
        """Return another mapping of the same rows."""
        twin = PackedRows()
        twin._like, twin._packed = self._like, self._packed.copy()
        return twin
