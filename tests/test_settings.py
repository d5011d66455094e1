"""The settings: which source wins, where paths count from, and what is said of a mistake."""

from __future__ import annotations

import importlib.resources
import os
import sys
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from ingestd.cli.options import SETTINGS
from ingestd.errors import UsageError
from ingestd.settings import Settings, load_settings
from ingestd.settings.load import _place
from ingestd.settings.sections import Time

Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: Patch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write(path: Path, text: str) -> Path:
    """Write a config file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def refused(config: Path | None = None, flags: dict[str, dict[str, Any]] | None = None) -> UsageError:
    """Load settings that must be refused; every refusal says where and what next."""
    with pytest.raises(UsageError) as caught:
        load_settings(config, flags)
    assert caught.value.place
    assert caught.value.next_step
    return caught.value


# ---- sources ---------------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_guide() -> None:
    """Without any source: `data` in the current folder, Santiago's time, half a second, thirty seconds."""
    settings = load_settings()
    assert settings.layout.raw_root == Path.cwd() / "data" / "01_raw"
    assert (settings.time.local_tz, settings.zone.key) == ("America/Santiago", "America/Santiago")
    assert (settings.settle.settle_s, settings.settle.quiet_s, settings.stage.polars_threads) == (0.5, 30.0, 1)
    assert 1 <= settings.workers <= min(6, os.cpu_count() or 1)
    layout, data = settings.layout, Path.cwd() / "data"
    assert (layout.histories_dir, layout.metadata_dir) == (data / "histories", data / "metadata")
    assert (layout.stage_root, layout.rejects_dir) == (data / "02_stage", data / "02_stage" / "_rejects")
    beside = layout.manifest_path.parent
    assert layout.manifest_path == data / "02_stage" / "_manifest" / "manifest.parquet"
    assert (layout.wal_dir, layout.events_dir) == (beside / "wal", beside / "events")
    assert layout.log_file == beside / "ingestd.log"
    assert settings.config_file is None


def test_flags_over_environment_over_file_over_defaults(here: Path, monkeypatch: Patch) -> None:
    """Each source wins over the ones below it, key by key and not section by section."""
    config = write(
        here / "config.toml", "[settle]\nsettle_s = 1\nquiet_s = 10\n[stage]\nworkers = 2\nbatch_files = 7\n"
    )
    monkeypatch.setenv("INGESTD_SETTLE__SETTLE_S", "2")
    monkeypatch.setenv("INGESTD_STAGE__WORKERS", "3")
    settings = load_settings(config, {"stage": {"workers": 4, "batch_mib": None}, "settle": {}})
    assert (settings.settle.settle_s, settings.settle.quiet_s) == (2.0, 10.0)
    assert (settings.workers, settings.stage.batch_files, settings.stage.batch_mib) == (4, 7, 16.0)
    assert settings.config_file == config


def test_where_the_config_file_is_looked_for(here: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """`--config`, else `INGESTD_CONFIG`, else `./config.toml`."""
    asked = write(tmp_path / "asked.toml", "[stage]\nworkers = 1\n")
    named = write(tmp_path / "named.toml", "[stage]\nworkers = 2\n")
    write(here / "config.toml", "[stage]\nworkers = 3\n")
    assert load_settings().workers == 3
    monkeypatch.setenv("INGESTD_CONFIG", str(named))
    assert load_settings().workers == 2
    assert load_settings(asked).workers == 1


def test_a_config_file_that_was_asked_for_must_be_there(here: Path, monkeypatch: Patch) -> None:
    """A missing one is an error that names the path and who asked; the file in the current folder does not help out."""
    write(here / "config.toml", "")
    error = refused(Path("nowhere.toml"))
    assert "nowhere.toml" in error.place
    assert error.next_step == "check its name, or make one: `ingestd config generate > nowhere.toml`"
    monkeypatch.setenv("INGESTD_CONFIG", "/nowhere/else.toml")
    error = refused()
    assert error.place == "/nowhere/else.toml"
    assert "INGESTD_CONFIG" in error.next_step


def test_a_folder_is_no_config_file(here: Path) -> None:
    """What was asked for is there, and is told from a name that is not."""
    error = refused(here)
    assert error.message == "this config file was asked for but is not a file"
    assert error.place == str(here)


def test_variables_may_be_written_in_any_case(tmp_path: Path, monkeypatch: Patch) -> None:
    """The variable that names the config file, and those of the settings."""
    named = write(tmp_path / "lab" / "named.toml", "[settle]\nquiet_s = 10\n")
    monkeypatch.setenv("ingestd_Config", str(named))
    monkeypatch.setenv("Ingestd_settle__SETTLE_S", "2")
    settings = load_settings()
    assert (settings.config_file, settings.settle.quiet_s, settings.settle.settle_s) == (named, 10.0, 2.0)


def test_settings_are_whole_and_cannot_be_changed() -> None:
    """Nobody changes a setting once it is loaded."""
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.stage.workers = 5  # type: ignore[misc]  # mypy refuses it too


# ---- paths -----------------------------------------------------------------------------------------------------------


def test_relative_paths_count_from_the_config_file(tmp_path: Path) -> None:
    """Wherever the command is typed, also through `..` and for every path."""
    config = write(
        tmp_path / "etc" / "config.toml",
        '[paths]\ndata_root = "../lab"\nraw_root = "raw"\nhistories_dir = "/absolute/histories"\n',
    )
    layout = load_settings(config).layout
    assert layout.data_root == tmp_path / "lab"
    assert layout.raw_root == tmp_path / "etc" / "raw"
    assert layout.histories_dir == Path("/absolute/histories")
    assert layout.stage_root == tmp_path / "lab" / "02_stage"


def test_a_relative_config_file_counts_from_here(here: Path) -> None:
    """`--config sub/config.toml` makes its own folder the origin."""
    write(here / "sub" / "config.toml", "")
    assert load_settings(Path("sub/config.toml")).layout.data_root == here / "sub" / "data"


def test_a_path_given_as_an_option_counts_from_here(here: Path, tmp_path: Path) -> None:
    """A person names it where they are, wherever the config file lies."""
    config = write(tmp_path / "lab" / "config.toml", '[paths]\ndata_root = "data"\n')
    layout = load_settings(config, {"paths": {"raw_root": Path("raw"), "stage_root": None}}).layout
    assert (layout.raw_root, layout.stage_root) == (here / "raw", tmp_path / "lab" / "data" / "02_stage")


def test_a_path_in_the_environment_counts_from_the_config_file_too(
    here: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Sources differ in strength, not in meaning; only flags are typed here and count from here."""
    config = write(tmp_path / "etc" / "config.toml", "")
    monkeypatch.setenv("INGESTD_PATHS__DATA_ROOT", "lab")
    assert load_settings(config).layout.data_root == tmp_path / "etc" / "lab"
    assert load_settings(config, {"paths": {"data_root": Path("lab")}}).layout.data_root == here / "lab"


def test_the_home_folder_is_understood(monkeypatch: Patch, tmp_path: Path) -> None:
    """`~` in the config file is the user's home, and so it is where the environment names that file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    config = write(tmp_path / "config.toml", '[paths]\ndata_root = "~/lab"\n')
    assert load_settings(config).layout.data_root == tmp_path / "lab"
    monkeypatch.setenv("INGESTD_CONFIG", "~/config.toml")
    assert load_settings().config_file == config


@pytest.mark.parametrize(
    ("given", "moved"),
    [
        ("data_root", {"raw_root", "stage_root", "manifest_path", "wal_dir", "events_dir", "rejects_dir"}),
        ("stage_root", {"manifest_path", "wal_dir", "events_dir", "rejects_dir"}),
        ("manifest_path", {"wal_dir", "events_dir"}),
        ("wal_dir", set()),
    ],
)
def test_what_follows_from_a_path(given: str, moved: set[str]) -> None:
    """A path that is set takes those below it along, unless they are set themselves."""
    before = load_settings().layout
    after = load_settings(None, {"paths": {given: Path("/moved/x")}}).layout
    changed = {name for name in before.__slots__ if getattr(before, name) != getattr(after, name)}
    assert {given, *moved} <= changed
    assert all(str(getattr(after, name)).startswith("/moved") for name in changed)
    assert "raw_root" not in changed or given == "data_root"


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "named", "near"),
    [
        ("[stage]\nworker = 2\n", "stage.worker", "stage.workers"),
        ("[stages]\nworkers = 2\n", "stages", "stage"),
        ("workers = 2\n", "workers", "stage.workers"),
        ("[settle]\nsettle = 2\n", "settle.settle", "settle.settle_s"),
        ("[paths]\ndata = 'x'\n", "paths.data", "paths.data_root"),
        ("[stage]\nworkers = 2\n[Stage]\nbatch_files = 9\n", "Stage", "stage"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(here: Path, text: str, named: str, near: str) -> None:
    """A mistyped key in a section, a mistyped section, and a key without its section."""
    error = refused(write(here / "config.toml", text))
    assert f"'{named}'" in error.message
    assert f"did you mean '{near}'" in error.message
    assert error.place.endswith("config.toml")


@pytest.mark.parametrize("name", ["INGESTD_STAGE__WORKER", "ingestd_stage__worker"])
def test_an_unknown_variable_is_named_with_the_nearest_known_one(monkeypatch: Patch, name: str) -> None:
    """A mistyped environment variable is an error, not a setting that silently does nothing."""
    monkeypatch.setenv(name, "2")
    error = refused()
    assert "INGESTD_STAGE__WORKERS" in error.message
    assert error.place == f"environment variable {name}"


def test_an_unknown_flag_section_is_an_error() -> None:
    """A flag that no setting takes is a fault that shows."""
    assert "stage.worker" in refused(None, {"stage": {"worker": 2}}).message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[stage]\nworkers = 0\n", "stage.workers = 0: must be at least 1"),
        ("[events]\nkeep_days = true\n", "events.keep_days = True: must be a whole number"),
        ("[settle]\nsettle_s = false\n", "settle.settle_s = False: must be a number"),
        ("[stage]\nworkers = 'two'\n", "stage.workers = 'two': must be a whole number"),
        ("[settle]\nsettle_s = -1\n", "settle.settle_s = -1: must be at least 0"),
        ("[time]\nlocal_tz = 'Santiago'\n", ": no such time zone"),
        ("[time]\nlocal_tz = '../etc/passwd'\n", ": no such time zone"),
        ("[time]\nlocal_tz = 'posix/Mars'\n", "= 'posix/Mars': no such time zone; take one like"),
        ("[watch]\nmode = 'magic'\n", "must be 'inotify' or 'scan'"),
        ("[settle]\nsettle_s = inf\n", "must be"),
        ("[service]\nstop_s = 0\n", "must be more than 0"),
        ("[service]\ncompact_s = 1e-9\n", "must be at least 1"),
        ("[service]\nfree_mib = inf\n", "must be at most"),
        ("[stage]\nworkers = 99\n", "must be at most 64"),
        ("[settle]\nquiet_s = 'long'\n", "must be a number"),
        ("[paths]\ndata_root = 3\n", "must be a path in quotes"),
        ("[time]\nlocal_tz = 3\n", "must be text in quotes"),
        ("[log]\nlevel = 'loud'\n", "'debug'"),
        ("[paths]\ndata_root = '~nobody-of-that-name/x'\n", "~nobody-of-that-name is not a user's home folder"),
        ("[log]\nfile = '~nobody-of-that-name/x'\n", "~nobody-of-that-name is not a user's home folder"),
        ('[paths]\nwal_dir = "a\\u0000b"\n', "a path cannot have a NUL character"),
        ("[stage]\nworkers = 0x" + "f" * 6000 + "\n", "a int too large to show"),
    ],
)
def test_a_bad_value_is_quoted_with_what_is_allowed(here: Path, text: str, words: str) -> None:
    """Key, value as given, and what it may be, with the file's path."""
    config = write(here / "config.toml", text)
    error = refused(config)
    assert words in error.message
    assert "Input should" not in error.message
    assert error.place == str(config)


NAMELESS = ("localtime", "posixrules", "Factory", "posix/Europe/Berlin", "right/Europe/Berlin")
"""What a system keeps among its time zones, and Python takes for one, but polars does not."""


@pytest.fixture
def system_zones(tmp_path: Path) -> Iterator[None]:
    """A system that has all of `NAMELESS`; every other zone comes from tzdata."""
    before, zone = zoneinfo.TZPATH, importlib.resources.files("tzdata.zoneinfo.Europe").joinpath("Berlin").read_bytes()
    for name in NAMELESS:
        (tmp_path / "zoneinfo" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "zoneinfo" / name).write_bytes(zone)
    zoneinfo.reset_tzpath([str(tmp_path / "zoneinfo")])
    zoneinfo.ZoneInfo.clear_cache()
    yield
    zoneinfo.reset_tzpath(before)
    zoneinfo.ZoneInfo.clear_cache()


@pytest.mark.usefixtures("system_zones")
@pytest.mark.parametrize("name", NAMELESS)
def test_a_file_beside_the_time_zones_is_none(here: Path, name: str) -> None:
    """Python would take it, and the first history would then fail; a zone that was meant is named."""
    zoneinfo.ZoneInfo(name)
    error = refused(write(here / "config.toml", f"[time]\nlocal_tz = '{name}'\n"))
    hint = "did you mean 'Europe/Berlin'?" if "/" in name else "take one like America/Santiago or Europe/Berlin"
    assert f"time.local_tz = '{name}': " in error.message
    assert hint in error.message


@pytest.mark.usefixtures("system_zones")
def test_polars_knows_every_time_zone_that_is_taken() -> None:
    """What is taken can be used for dates and histories, and nothing that can be used is refused."""
    start = pl.Series([datetime(2025, 10, 13, tzinfo=UTC)])
    for name in sorted({*zoneinfo.available_timezones(), *NAMELESS}):
        try:
            start.dt.convert_time_zone(name)
        except pl.exceptions.PolarsError:
            with pytest.raises(ValidationError):
                Time(local_tz=name)
        else:
            assert Time(local_tz=name).local_tz == name


def test_tables_nested_too_deep_are_refused(here: Path) -> None:
    """Too deep for Python to print; from 3.14 on, its TOML parser says so itself."""
    error = refused(write(here / "config.toml", "[stage.workers" + ".a" * 30_000 + "]\n"))
    too_deep = "not valid TOML" if sys.version_info >= (3, 14) else "a dict too large to show: must be a whole number"
    assert too_deep in error.message


def test_a_bad_value_is_blamed_on_the_source_it_came_from(here: Path, monkeypatch: Patch) -> None:
    """With the key in file, environment and flags, the strongest one is at fault and is named."""
    config = write(here / "config.toml", "[stage]\nworkers = 2\n")
    monkeypatch.setenv("INGESTD_STAGE__WORKERS", "none")
    assert refused(config).place == "environment variable INGESTD_STAGE__WORKERS"
    assert refused(config, {"stage": {"workers": 0}}).place == "option --workers"
    assert refused(config, {"paths": {"histories_dir": Path("a\0b")}}).place == "option --history-out"


def test_every_option_is_called_by_its_name() -> None:
    """The option a bad value came from is named as it is typed."""
    for section, key, annotation in SETTINGS.values():
        (option,) = [one for one in annotation.__metadata__ if hasattr(one, "param_decls")]
        assert _place([section, key], None, {section: {key: ""}}) == f"option {option.default}"


def test_all_bad_values_are_told_at_once(here: Path) -> None:
    """The first is the error, every other one a line below it, each with its place."""
    config = write(here / "config.toml", "[stage]\nworkers = 0\n[settle]\nquiet_s = 'x'\n[watch]\nmod = 'scan'\n")
    error = refused(config)
    assert error.message == "settle.quiet_s = 'x': must be a number"
    assert error.next_step.splitlines()[1:] == [
        f"  also wrong: {config}: stage.workers = 0: must be at least 1",
        f"  also wrong: {config}: unknown setting 'watch.mod'; did you mean 'watch.mode'?",
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[stage\n", "not valid TOML"),
        (b"[stage]\nworkers = 1\nworkers = 2\n", "not valid TOML"),
        (b"stage = 3\n", "'stage' is a section"),
        (b"# \xe9\n", "not UTF-8"),
        (b"\xef\xbb\xbf# \xe9\n", "not UTF-8"),
        (b"stage = " + b"[" * 3000, "not valid TOML: maximum recursion depth"),
        (b"[stage]\nworkers = " + b"9" * 5000, "not valid TOML: Exceeds the limit"),
    ],
    ids=["syntax", "twice", "no-table", "latin-1", "latin-1-after-a-mark", "too-deep", "too-long"],
)
def test_a_config_file_that_is_none(here: Path, data: bytes, words: str) -> None:
    """What cannot be read as a config file is told in words, with the file's path."""
    config = here / "config.toml"
    config.write_bytes(data)
    error = refused(config)
    assert words in error.message
    assert str(config) in error.place
    if words == "not UTF-8":
        assert error.place == f"{config}: byte {data.index(0xE9)}"


def test_a_config_file_of_a_windows_editor_is_taken(here: Path) -> None:
    """A byte order mark and CRLF do no harm."""
    config = here / "config.toml"
    config.write_bytes(b"\xef\xbb\xbf[stage]\r\nworkers = 2\r\n")
    assert load_settings(config).workers == 2


@pytest.mark.parametrize("made_again", [False, True])
def test_a_deleted_current_folder_is_named(here: Path, monkeypatch: Patch, made_again: bool) -> None:
    """No path could be found from there, not even if a folder of the same name was made since."""
    monkeypatch.setenv("PWD", str(here))
    here.rmdir()
    if made_again:
        here.mkdir()
    error = refused()
    assert (error.message, error.place) == ("the current folder was deleted", str(here))
    assert "`cd FOLDER`" in error.next_step


def test_procedures_of_the_config_are_laid_over_the_packaged_ones(here: Path) -> None:
    """A table in the config adds a procedure; a mistake in it is told when the settings are loaded."""
    table = "[procedures.New]\nclasses = ['New']\nchip = 'none'\nlight = 'none'\nsummary = 'New'\n"
    columns = "[procedures.New.columns]\nt_s = { accepts = ['t (s)'], required = true }\n"
    settings: Settings = load_settings(write(here / "config.toml", table + columns))
    assert {"New", "ITS"} <= set(settings.registry.procedures)
    error = refused(write(here / "config.toml", table.replace("light", "lihgt") + columns))
    assert "lihgt" in error.message
    assert error.place == f"{here / 'config.toml'}: table [procedures.New]"
