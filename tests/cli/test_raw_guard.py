"""P1: no setting and no option leads a write into the raw files, nor puts them where ingestd deletes."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Folder
from measurement import Measurement

import ingestd
from ingestd.errors import UsageError
from ingestd.raw_guard import leads_into
from ingestd.settings import load_settings
from ingestd.settings.model import PLACES

RAW = "It_1.csv"
WRITTEN = [key for key in PLACES if key != "paths.raw_root"]


@pytest.fixture
def measured(folder: Folder) -> Folder:
    """A data root with one raw file, in a day's folder."""
    folder.put(f"2026-03-12/{RAW}", Measurement().data)
    return folder


def refused(measured: Folder, **paths: str) -> UsageError:
    """Load settings with these paths below the data root, which must be refused."""
    given = {key: measured.path / "data" / value for key, value in paths.items()}
    with pytest.raises(UsageError) as caught:
        load_settings(None, {"paths": {"data_root": measured.path / "data", **given}})
    return caught.value


def content(measured: Folder) -> dict[Path, bytes]:
    """Everything below the raw root."""
    return {path: path.read_bytes() for path in measured.raw.rglob("*") if path.is_file()}


@pytest.mark.parametrize("key", WRITTEN)
@pytest.mark.parametrize("place", ["", "/below", "/2026-03-12/deep/er"])
def test_no_setting_leads_into_the_raw_root(measured: Folder, key: str, place: str) -> None:
    """Every place that is written, the raw root itself or below it: refused with setting, path and what to do."""
    section, _, name = key.partition(".")
    bad = f"{measured.raw}{place}"
    config = measured.path / "config.toml"
    config.write_text(f'[{section}]\n{name} = "{bad}"\n')
    with pytest.raises(UsageError) as caught:
        load_settings(config)
    error = caught.value
    assert error.message == f"{key} = {bad}: it lies in paths.raw_root = {measured.raw}, where ingestd never writes"
    assert error.place == str(config)
    assert error.next_step == f"set {key} and paths.raw_root to separate places"


@pytest.mark.parametrize(
    "command", ["backfill", "full-pipeline", "run", "config validate", "chip-histories", "status", "repair", "compact"]
)
def test_every_command_refuses(measured: Folder, command: str) -> None:
    """No command starts with such a setting: exit code 2, and nothing is made."""
    (measured.path / "config.toml").write_text('[paths]\nhistories_dir = "data/01_raw/histories"\n')
    before = content(measured)
    done = measured.run(*command.split())
    assert (done.code, done.out) == (2, "")
    assert f"config.toml: paths.histories_dir = {measured.raw}/histories: it lies in paths.raw_root" in done.err
    assert content(measured) == before
    assert [path.name for path in (measured.path / "data").iterdir()] == ["01_raw"]


def test_every_written_place_of_the_layout_is_guarded() -> None:
    """A path that is added to the layout is one that is read, or one that follows from a setting checked here."""
    names = {"log.file" if name == "log_file" else f"paths.{name}" for name in load_settings().layout.__slots__}
    assert names == {"paths.data_root", "paths.raw_root", *WRITTEN}


@pytest.mark.parametrize(
    ("arguments", "key", "option"),
    [
        (("chip-histories", "--history-out", "data/01_raw"), "paths.histories_dir", "--history-out"),
        (("backfill", "--stage-root", "data/01_raw/stage"), "paths.stage_root", "--stage-root"),
        (("backfill", "--manifest-path", "data/01_raw/m.parquet"), "paths.manifest_path", "--manifest-path"),
        (("backfill", "--raw-root", "data", "--data-root", "data"), "paths.stage_root", "--data-root"),
        (("backfill", "--raw-root", "data"), "paths.stage_root", "--raw-root"),
    ],
)
def test_no_option_leads_into_the_raw_root(measured: Folder, arguments: tuple[str, ...], key: str, option: str) -> None:
    """An option is refused as a setting is, and named; nothing is made."""
    before = content(measured)
    done = measured.run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert f"option {option}: {key} = " in done.err
    assert content(measured) == before
    assert sorted(path.name for path in (measured.path / "data").iterdir()) == ["01_raw"]


def test_a_place_that_follows_from_a_setting_names_that_setting(measured: Folder) -> None:
    """With the data root in the raw root it is the data root that must be changed."""
    error = refused(measured, data_root="01_raw", raw_root="01_raw")
    assert "02_stage (it follows from paths.data_root): it lies in paths.raw_root" in error.message
    assert error.next_step == "set paths.data_root and paths.raw_root to separate places"


def test_links_are_followed(measured: Folder) -> None:
    """A link into the raw root is refused and told; so is a path whose folder a link leads there; a dead link too."""
    data = measured.path / "data"
    (data / "link").symlink_to(measured.raw)
    (data / "dead").symlink_to(measured.raw / "to" / "come")
    for place in ("link", "link/histories", "dead"):
        assert f"(a link to {measured.raw}" in refused(measured, histories_dir=place).message
    (data / "raw").symlink_to("01_raw")
    assert refused(measured, raw_root="raw", histories_dir="01_raw/x")
    (data / "02_stage").mkdir()
    (data / "02_stage" / "_tmp").symlink_to(measured.raw)
    assert "_tmp (a link to" in refused(measured).message
    (data / "02_stage" / "_tmp").unlink()
    layout = load_settings(None, {"paths": {"data_root": data}}).layout
    for path in (layout.lock_path, layout.service_lock_path, layout.histories_lock_path, layout.service_state_path):
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(measured.raw / "to" / "come")
        assert f"{path.name} (a link to" in refused(measured).message
        path.unlink()


def test_a_link_that_stands_in_the_raw_root_is_not_replaced(measured: Folder) -> None:
    """A file is replaced in the folder where its name stands, wherever the name leads."""
    link = measured.raw / "m.parquet"
    link.symlink_to(measured.path / "elsewhere.parquet")
    assert refused(measured, manifest_path="01_raw/m.parquet")


def test_a_folder_is_known_by_its_identity(measured: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a share folds the case of names, another spelling is the same folder."""
    spelt = measured.path / "data" / "01_RAW"
    assert not leads_into(spelt / "x", measured.raw)
    real = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **how: real(measured.raw if path == spelt else path, **how))
    assert leads_into(spelt / "x", measured.raw)


@pytest.mark.parametrize(
    ("paths", "key"),
    [
        ({"raw_root": "02_stage/_tmp/raw"}, "paths.stage_root"),
        ({"raw_root": "02_stage/raw_measurements/raw"}, "paths.stage_root"),
        ({"raw_root": "02_stage/_superseded/raw"}, "paths.stage_root"),
        ({"raw_root": "02_stage/_rejects/raw"}, "paths.rejects_dir"),
        ({"raw_root": "02_stage/_manifest/aside/x"}, "paths.manifest_path"),
        ({"raw_root": "02_stage/_manifest/wal/raw"}, "paths.wal_dir"),
        ({"events_dir": "."}, "paths.events_dir"),
        ({"rejects_dir": "."}, "paths.rejects_dir"),
        ({"metadata_dir": "."}, "paths.metadata_dir"),
    ],
)
def test_raw_files_are_not_kept_where_ingestd_deletes(measured: Folder, paths: dict[str, str], key: str) -> None:
    """A raw root inside `_tmp` would be swept, one inside the events lost with an old day, and so on."""
    error = refused(measured, **paths)
    assert error.message.startswith(f"{key} = ")
    assert "lies in it, and ingestd writes, moves and deletes files there" in error.message


@pytest.mark.parametrize("raw", ["02_stage/raw_measurements", "02_stage/raw_measurements/raw"])
def test_a_setting_is_told_with_its_own_value(measured: Folder, raw: str) -> None:
    """Where a folder that it leads to clashes, both are named: nobody would find that folder as a setting."""
    stage = measured.path / "data" / "02_stage"
    told = refused(measured, raw_root=raw).message
    assert told.startswith(f"paths.stage_root = {stage} (it follows from paths.data_root), so ingestd writes to ")
    assert f" {stage}/raw_measurements: " in told


@pytest.mark.parametrize(
    "paths",
    [
        {"stage_root": "."},
        {"histories_dir": "."},
        {"manifest_path": "manifest.parquet"},
        {"raw_root": "histories/raw"},
        {"stage_root": "01_raw_stage"},
        {"raw_root": "nowhere"},
    ],
)
def test_folders_side_by_side_are_taken(measured: Folder, paths: dict[str, str]) -> None:
    """Where ingestd only adds files of its own names beside the raw root, nothing of it is in danger."""
    given = {key: measured.path / "data" / value for key, value in paths.items()}
    assert load_settings(None, {"paths": {"data_root": measured.path / "data", **given}}).layout


def test_python_is_held_to_it_too(measured: Folder) -> None:
    """The functions of the Python API refuse the same settings."""
    config = measured.path / "bad.toml"
    config.write_text(f'[paths]\nstage_root = "{measured.raw}/stage"\n')
    before = content(measured)
    with pytest.raises(UsageError, match="never writes"):
        ingestd.stage_run(measured.raw / "2026-03-12" / RAW, measured.path / "data", config=config)
    assert content(measured) == before


# ---- a file named on the command line --------------------------------------------------------------------------------


def test_export_into_the_raw_files_is_refused(measured: Folder) -> None:
    """`--out-csv` does not replace a raw measurement or add a file beside it, by a link or by its name."""
    assert measured.run("backfill", "--workers", "1").code == 0
    (measured.path / "link").symlink_to(measured.raw)
    (measured.path / "file.csv").symlink_to(measured.raw / "2026-03-12" / RAW)
    before = content(measured)
    for place in (f"data/01_raw/2026-03-12/{RAW}", "data/01_raw/new.csv", "link/a/b.csv", "file.csv"):
        done = measured.run("export-metadata", "--out-csv", place)
        assert (done.code, done.out) == (2, "")
        assert f"{place}: --out-csv lies in paths.raw_root = {measured.raw}, where ingestd never writes" in done.err
        assert f"next: name a file elsewhere, such as --out-csv {Path(place).name}" in done.err
    assert content(measured) == before


@pytest.mark.parametrize(
    ("place", "key"),
    [
        ("data/02_stage/_manifest/manifest.parquet", "paths.stage_root"),
        ("data/02_stage/new.csv", "paths.stage_root"),
        ("data/histories/Alisson72_history.csv", "paths.histories_dir"),
    ],
)
def test_export_over_ingestds_own_files_is_refused(measured: Folder, place: str, key: str) -> None:
    """`--out-csv` does not replace the manifest, the log, staged data or a history."""
    assert measured.run("backfill", "--workers", "1").code == 0
    before = (measured.path / place).read_bytes() if (measured.path / place).exists() else None
    done = measured.run("export-metadata", "--out-csv", place)
    assert done.code == 2
    assert f"{place}: --out-csv lies in {key} = " in done.err
    assert "which is ingestd's own" in done.err
    assert ((measured.path / place).read_bytes() if (measured.path / place).exists() else None) == before


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("02_stage/_manifest/manifest.parquet", "it is a file of ingestd's own"),
        ("02_stage/_manifest/lock", "it is a file of ingestd's own"),
        ("02_stage/_manifest/service.json", "it is a file of ingestd's own"),
        ("02_stage/_manifest/wal/000000000001.wal", "it lies in paths.wal_dir = "),
        ("02_stage/_rejects/ingestd.log", "it lies in paths.rejects_dir = "),
        ("histories/Alisson72_history.csv", "it lies in paths.histories_dir = "),
        ("metadata/2026-03-12/metadata.csv", "it lies in paths.metadata_dir = "),
        ("a-link", "it is a file of ingestd's own"),
    ],
)
def test_a_log_over_ingestds_own_files_is_refused(measured: Folder, place: str, words: str) -> None:
    """A log is appended to, which would spoil the file: it is refused with the setting, the path and what to do."""
    (measured.path / "data" / "a-link").symlink_to("02_stage/_manifest/manifest.parquet")
    config = measured.path / "config.toml"
    config.write_text(f'[log]\nfile = "data/{place}"\n')
    with pytest.raises(UsageError) as caught:
        load_settings(config)
    assert caught.value.message.startswith(f"log.file = {measured.path}/data/{place}")
    assert words in caught.value.message
    assert caught.value.place == str(config)
    assert "beside the manifest" in caught.value.next_step


@pytest.mark.parametrize("place", ["data/02_stage/_manifest/ingestd.log", "data/logs/ingestd.log", "ingestd.log"])
def test_a_log_beside_ingestds_own_files_is_taken(measured: Folder, place: str) -> None:
    """Beside the manifest, in the data root and anywhere else a log does no harm."""
    config = measured.path / "config.toml"
    config.write_text(f'[log]\nfile = "{place}"\n')
    assert load_settings(config).layout.log_file == measured.path / place


@pytest.mark.parametrize("more", [("--proc", "ITS"), ("--date", "2026-03-12"), ()])
def test_an_export_of_some_runs_over_a_days_file_is_refused(measured: Folder, more: tuple[str, ...]) -> None:
    """A day's file always holds its whole day; an export of other runs in its place would not tell."""
    assert measured.run("full-pipeline").code == 0
    (day,) = (measured.path / "data" / "metadata").glob("*/metadata.csv")
    before = day.read_bytes()
    done = measured.run("export-metadata", "--out-csv", str(day), *more)
    assert (done.code, done.out) == (2, "")
    assert f"{day}: --out-csv names the file of a day, which holds the whole day" in done.err
    assert "next: name another file, or leave --out-csv out" in done.err
    assert day.read_bytes() == before


def test_export_beside_the_days_is_taken(measured: Folder) -> None:
    """The folder of the days' exports takes one of all runs as well, whatever it is called."""
    assert measured.run("backfill", "--workers", "1").code == 0
    for name in ("all.csv", "metadata.csv", "2026/metadata.csv", "2026-03-12/IVg.csv"):
        assert measured.run("export-metadata", "--out-csv", f"data/metadata/{name}").code == 0


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nodir/x.csv", "names a file in a folder that is not there"),
        ("a-link.csv", "names something that is no plain file"),
        ("data", "names something that is no plain file"),
        ("/dev/null", "names something that is no plain file"),
    ],
)
def test_an_export_replaces_plain_files_only_and_makes_no_folder(measured: Folder, target: str, words: str) -> None:
    """A slip in --out-csv makes no folders, and a device or a link is not replaced by a file."""
    (measured.path / "a-link.csv").symlink_to("elsewhere.csv")
    before = sorted(path.name for path in measured.path.iterdir())
    done = measured.run("export-metadata", "--out-csv", target)
    assert (done.code, done.out) == (2, "")
    assert f": --out-csv {words}" in done.err
    assert sorted(path.name for path in measured.path.iterdir()) == before
    assert (measured.path / "a-link.csv").is_symlink()
