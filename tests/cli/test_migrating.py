"""docs/migrating.md works as it stands: its config file and its commands, on the sample runs."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

from commands import Folder


def test_a_lab_can_follow_the_guide_to_the_letter(raw: Folder, repository: Path) -> None:
    """Every command of the guide does its work, nothing is written beside `01_raw`, and nothing is staged twice."""
    page = (repository / "docs" / "migrating.md").read_text("utf-8")
    (config,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (raw.path / "ingestd.toml").write_text(config)
    environment, codes = {"INGESTD_CONFIG": str(raw.path / "ingestd.toml")}, {}
    for line in re.findall(r"^\$ ingestd (.*)", page, re.MULTILINE):
        arguments = shlex.split(line.replace("/srv/lab", str(raw.path)))
        if arguments[0] == "compare-histories":
            shutil.copytree(raw.path / "data-new" / "histories", raw.path / "old" / "chip_histories")
        codes[arguments[0]] = raw.run(*arguments, environment=environment).code
    assert codes == {"backfill": 1, "rejects": 0, "verify": 0, "compare-histories": 0}
    assert [path.name for path in (raw.path / "data").iterdir()] == ["01_raw"]
    for name in ("02_stage", "histories"):
        shutil.move(raw.path / "data-new" / name, raw.path / "data" / name)
    changed = config.replace('"data-new"', f'"{raw.path}/data"')
    (raw.path / "ingestd.toml").write_text(re.sub(r"^raw_root.*\n", "", changed, flags=re.MULTILINE))
    again = raw.run("backfill", "--json", environment=environment)
    assert (again.code, again.json["staged"], again.json["known"] > 0, again.json["events"]) == (1, 0, True, {})


def test_the_reject_of_the_guide_is_shown_with_its_line(raw: Folder, repository: Path) -> None:
    """With the config file of the guide a reject's raw file is found where it is, not below the new data root."""
    page = (repository / "docs" / "migrating.md").read_text("utf-8")
    (config,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (raw.path / "ingestd.toml").write_text(config)
    environment = {"INGESTD_CONFIG": str(raw.path / "ingestd.toml")}
    raw.run("backfill", environment=environment)
    (command,) = re.findall(r"^\$ ingestd (rejects show .*)", page, re.MULTILINE)
    shown = raw.run(*shlex.split(command), environment=environment)
    assert "cannot be read" not in shown.out
    assert " 62 | " in shown.out
