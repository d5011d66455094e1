"""Raw files whose folder cannot be read: verify tells of the folder, and calls none of them missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import lived
import pytest
from archive import Archive
from lived import RUN


@pytest.mark.parametrize("mode", [0, 0o444])
def test_what_is_in_a_closed_folder_is_not_called_missing(empty: Archive, mode: int) -> None:
    """One note a folder says why, of how many runs, and what to do; what is gone beside it is missing all the same."""
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root cannot give up reading every file: setpriv (util-linux) is not here")
    powerless = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"] if os.geteuid() == 0 else []
    for n, name in enumerate(["day/It_1.csv", "day/deep/It_2.csv", "other/It_3.csv", "daybreak.csv"]):
        empty.put(name, RUN.but(start=1758632155.25 + n, sample=n).data)
    empty.backfill()
    for name in ("other/It_3.csv", "daybreak.csv"):
        empty.delete(name)
    empty.staged(empty.live()["day/It_1.csv"]).unlink()
    folder = empty.raw / "day"
    folder.chmod(mode)
    place = ["--data-root", str(empty.root), "--config", str(empty.root.parent / "config.toml")]
    done = subprocess.run(
        [*powerless, sys.executable, "-m", "ingestd", "verify", "--json", *place],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    folder.chmod(0o755)
    found = json.loads(done.stdout)["findings"]
    (damage,) = [one for one in found if one["level"] == "damage"]
    assert (damage["kind"], damage["message"]) == ("parquet-missing", "the Parquet of day/It_1.csv is gone")
    found.remove(damage)
    assert sorted((one["kind"], one["path"]) for one in found) == [
        ("raw-missing", "daybreak.csv"),
        ("raw-missing", "other/It_3.csv"),
        ("raw-unreadable", "day"),
    ]
    (closed,) = [one for one in found if one["kind"] == "raw-unreadable"]
    assert (closed["level"], closed["run_id"]) == ("note", None)
    assert "(Permission denied)" in closed["message"]
    assert "of 2 runs" in closed["message"]
    assert "ingestd verify" in closed["message"]
    assert sorted(one.kind for one in lived.findings(empty)) == ["parquet-missing", "raw-missing", "raw-missing"]
