"""What killed processes left: temporary files, and batches put in place but not recorded, or recorded but not ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ingestd import files
from ingestd.layout import Layout
from ingestd.manifest.row import ManifestRow
from ingestd.manifest.store import manifest_lock
from ingestd.stage.placing import read_note, take_back
from ingestd.stage.workspace import dead_workspaces, sweep_lock
from ingestd.upkeep.findings import Finding


def places_half_done(layout: Layout) -> frozenset[Path]:
    """List the places of Parquet that the next start puts right: what is there does not count as damage yet."""
    notes = (read_note(folder, layout.stage_root) for folder in dead_workspaces(layout.temporary_root))
    return frozenset(place for note in notes for place in (*note.touched, *(kept.path for kept in note.kept)))


@contextmanager
def locked(layout: Layout, timeout_s: float) -> Iterator[None]:
    """Hold the manifest's lock for the block, and keep others from clearing up after killed processes."""
    with sweep_lock(layout.temporary_root).held(timeout_s), manifest_lock(layout).held(timeout_s):
        yield


def end_half_done(
    layout: Layout,
    recorded: Callable[[Sequence[str]], Mapping[str, ManifestRow]],
    remove: Callable[[Path], object],
) -> None:
    """Bring the stage into line with what is recorded, as a start would; call it inside `locked`.

    The killed processes' own folders stay; the caller may set them aside.
    """
    for folder in dead_workspaces(layout.temporary_root):
        take_back(layout, folder, recorded, remove)


def leftover(layout: Layout, path: Path) -> Finding:
    """Report what a killed process left half-made: it is no damage, a later start clears it."""
    return Finding("leftover", layout.relative(path), "left by a process that was killed; a later start clears it")


def leftovers(layout: Layout) -> list[Path]:
    """List temporary files and folders that no living process owns."""
    found = dead_workspaces(layout.temporary_root)
    for folder in _folders_with_temporaries(layout):
        found += files.dead_temporaries(folder)
    return found


def _folders_with_temporaries(layout: Layout) -> Iterator[Path]:
    yield from (layout.manifest_path.parent, layout.wal_dir, layout.histories_dir)
    yield from layout.metadata_dir.glob("*/")
    yield from layout.events_dir.glob("*/*/")
    yield from layout.rejects_dir.glob("**/")
