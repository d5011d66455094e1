"""No setting puts what ingestd keeps where ingestd itself would delete or replace it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingestd.errors import UsageError
from ingestd.settings import load_settings


def load(root: Path, paths: dict[str, str]) -> None:
    """Load settings with these paths below a data root."""
    load_settings(None, {"paths": {"data_root": root, **{key: root / value for key, value in paths.items()}}})


@pytest.mark.parametrize(
    ("paths", "key", "words"),
    [
        ({"wal_dir": "02_stage/_tmp/wal"}, "wal_dir", "every start empties"),
        ({"manifest_path": "02_stage/_tmp/manifest/all.parquet"}, "manifest_path", "every start empties"),
        ({"histories_dir": "02_stage/_tmp"}, "histories_dir", "every start empties"),
        ({"stage_root": "s", "rejects_dir": "link/rejects"}, "rejects_dir", "every start empties"),
        ({"manifest_path": "02_stage/known_files.parquet"}, "manifest_path", "another file beside the manifest"),
        ({"manifest_path": "02_stage/lock"}, "manifest_path", "another file beside the manifest"),
        ({"manifest_path": "02_stage/ingestd.log"}, "manifest_path", "another file beside the manifest"),
        ({"manifest_path": "02_stage/ingestd.log.1"}, "manifest_path", "another file beside the manifest"),
        ({"manifest_path": "/"}, "manifest_path", "names a folder"),
        ({"manifest_path": "02_stage/raw_measurements/all.parquet"}, "manifest_path", "taken for that of a run"),
        ({"manifest_path": "02_stage/_superseded/m/all.parquet"}, "manifest_path", "taken for that of a run"),
        ({"rejects_dir": "02_stage"}, "rejects_dir", "taken for rejects"),
        ({"rejects_dir": "02_stage/_manifest"}, "rejects_dir", "taken for rejects"),
        ({"rejects_dir": "r", "events_dir": "r/events"}, "rejects_dir", "taken for rejects"),
        ({"rejects_dir": "r", "stage_root": "r/stage", "manifest_path": "all.parquet"}, "rejects_dir", "for rejects"),
        ({"events_dir": "metadata"}, "metadata_dir", "events.keep_days"),
        ({"events_dir": "02_stage/_rejects"}, "rejects_dir", "events.keep_days"),
    ],
)
def test_a_place_where_ingestd_deletes_or_replaces_is_refused(
    tmp_path: Path, paths: dict[str, str], key: str, words: str
) -> None:
    """The message names the setting that is wrong, and what would happen there."""
    (tmp_path / "link").symlink_to(tmp_path / "s" / "_tmp")
    with pytest.raises(UsageError, match=words) as caught:
        load(tmp_path, paths)
    assert str(caught.value.message).startswith(f"paths.{key} = ")


@pytest.mark.parametrize(
    "paths",
    [
        {"wal_dir": "02_stage/_manifest"},
        {"manifest_path": "02_stage/raw_measurements_manifest/manifest.parquet"},
        {"events_dir": "metadata/events"},
        {"rejects_dir": "02_stage/_manifest/events/rejects"},
        {"histories_dir": "02_stage/_tmp_histories"},
    ],
)
def test_places_that_do_not_disturb_each_other_are_taken(tmp_path: Path, paths: dict[str, str]) -> None:
    """One inside another is no harm where nothing is deleted but what has a name of ingestd's own."""
    load(tmp_path, paths)
