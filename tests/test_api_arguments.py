"""What programs give to the Python API: paths as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Folder
from measurement import Measurement

import ingestd
from ingestd.errors import UsageError


def test_a_path_may_begin_at_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every path that a program gives, or a command as `--data-root=~/data`; a home that is not there is named."""
    folder = Folder(tmp_path)
    folder.put("day/It_1.csv", Measurement().data)
    monkeypatch.setenv("HOME", str(tmp_path))
    row = ingestd.stage_run("~/data/01_raw/day/It_1.csv", "~/data")
    (tmp_path / "lab.toml").write_text('[paths]\ndata_root = "data"\n', "utf-8")
    assert ingestd.load_manifest("~/data").equals(ingestd.load_manifest(config="~/lab.toml"))
    run = ingestd.load_run(row.run_id, Path("~/data"))
    assert run.equals(ingestd.read_and_normalize("~/data/01_raw/day/It_1.csv"))
    assert folder.run("verify", "--data-root=~/data").code == 0
    with pytest.raises(UsageError, match="no manifest here") as raised:
        ingestd.load_manifest("~nobody-of-that-name")
    assert "~nobody-of-that-name" in raised.value.place
