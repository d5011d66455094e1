"""`config show`, `config validate`, `config generate`, and the files generated from the settings."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from commands import ENTRY, REPOSITORY, Folder
from measurement import Measurement
from powerless import powerless

from ingestd.cli.config_text import EXAMPLES, WIDTH, config_toml, example
from ingestd.errors import UsageError
from ingestd.settings import environment_name, load_settings, sections, setting_keys

HALL = """
[procedures.Hall]
classes = ["Hall"]
chip = "optional"
light = "none"
summary = "Hall"
[procedures.Hall.columns]
t_s = { accepts = ["t (s)"] }
"""


def make_docs(repository: Path) -> ModuleType:
    """Load `tools/make_docs.py`."""
    spec = importlib.util.spec_from_file_location("make_docs", repository / "tools" / "make_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_files_are_what_make_docs_writes(repository: Path) -> None:
    """config.toml, docs/configuration.md and docs/commands.md tell of every setting and command as it is now."""
    for name, text in make_docs(repository).texts().items():
        assert (repository / name).read_text("utf-8") == text, f"{name} is not current: run `make docs`"


def test_generated_config_changes_nothing(tmp_path: Path) -> None:
    """The generated file is valid and gives no setting: every key stands commented out."""
    path = tmp_path / "config.toml"
    path.write_text(config_toml(), "utf-8")
    tables = tomllib.loads(path.read_text("utf-8"))
    assert list(tables) == list(sections())
    assert all(table == {} for table in tables.values())
    assert load_settings(path).model_dump() == load_settings(_empty(tmp_path)).model_dump()


def test_generated_config_uncommented_is_the_default(tmp_path: Path) -> None:
    """With the # taken away from every setting, the file is valid and each value is the one in force without it."""
    text = re.sub(r"^# ([a-z_]+ = )", r"\1", config_toml().partition("# [procedures")[0], flags=re.MULTILINE)
    path = tmp_path / "config.toml"
    path.write_text(text, "utf-8")
    given = {f"{section}.{key}" for section, table in tomllib.loads(text).items() for key in table}
    assert given == set(setting_keys())
    settings, plain = load_settings(path), load_settings(_empty(tmp_path))
    for section, model in sections().items():
        for key, field in model.model_fields.items():
            if field.default is not None:
                assert getattr(getattr(settings, section), key) == field.default
            else:
                assert f"{section}.{key}" in {*EXAMPLES, "log.file"} or section == "paths", example(section, key, field)
    for name in ("raw_root", "stage_root", "manifest_path", "wal_dir", "events_dir", "rejects_dir"):
        assert getattr(settings.layout, name) == getattr(plain.layout, name)
    assert settings.layout.histories_dir == plain.layout.histories_dir
    assert settings.layout.metadata_dir == plain.layout.metadata_dir
    assert settings.layout.log_file == plain.layout.log_file


def test_no_comment_of_the_generated_config_is_broken_off() -> None:
    """Within a sentence each line is filled: none has a single word because the text had a line end there."""
    settings, _, _ = config_toml().partition("# A new procedure")
    lines = settings.splitlines()
    for line, following in itertools.pairwise(lines):
        if line.startswith("# ") and following.startswith("# ") and line[-1].isalpha():
            assert len(line) + len(following.split()[1]) + 1 > WIDTH, line


def test_a_default_of_the_machine_is_no_number_in_the_generated_config(repository: Path) -> None:
    """The workers' line says that its number is an example, and how the default comes about."""
    assert "\n# workers = 4  # an example; by default the CPUs at hand, at most 6\n" in config_toml()
    page = make_docs(repository).texts()["docs/configuration.md"]
    assert "| `workers` | whole number | the CPUs at hand, at most 6 |" in page


def test_the_documents_name_the_keys_that_a_new_procedure_needs(tmp_path: Path, repository: Path) -> None:
    """Without any of them the table is refused, which names the key; with just these it is taken."""
    page = (repository / "docs/configuration.md").read_text("utf-8")
    sentence = re.search(r"^A new procedure needs (.+) and a column; all else may be left out\.$", page, re.MULTILINE)
    assert sentence is not None
    config = tmp_path / "config.toml"
    config.write_text(HALL)
    assert set(load_settings(config).procedures) == {"Hall"}
    table = HALL.partition("[procedures.Hall.columns]")[0]
    for key in re.findall(r"`(\w+)`", sentence[1]):
        config.write_text(re.sub(rf"^{key} = .*\n", "", HALL, flags=re.MULTILINE))
        with pytest.raises(UsageError, match=f"key '{key}' is missing"):
            load_settings(config)
    config.write_text(table)
    with pytest.raises(UsageError, match="key 'columns' is missing"):
        load_settings(config)
    assert set(re.findall(r"`(\w+)`", sentence[1])) == set(re.findall(r"^(\w+) =", table, re.MULTILINE))


def test_example_procedure_of_the_generated_config_is_valid(tmp_path: Path) -> None:
    """The commented example table is a procedure that ingestd takes as it stands."""
    lines = config_toml().partition("# [procedures.Hall]")
    path = tmp_path / "config.toml"
    path.write_text(re.sub(r"^# ?", "", lines[1] + lines[2], flags=re.MULTILINE), "utf-8")
    assert "Hall" in load_settings(path).registry.procedures


def _empty(folder: Path) -> Path:
    path = folder / "empty.toml"
    path.write_text("")
    return path


def test_generate_prints_the_file_of_the_repository(folder: Folder, repository: Path) -> None:
    """`ingestd config generate` prints the config.toml that lies in the repository."""
    done = folder.run("config", "generate")
    assert (done.out, done.code) == ((repository / "config.toml").read_text("utf-8"), 0)


def test_show_tells_where_each_value_comes_from(folder: Folder) -> None:
    """An option outranks the environment, that the config file, that the default; --json has values and origins."""
    (folder.path / "config.toml").write_text("[stage]\nworkers = 3\npolars_threads = 2\n[settle]\nquiet_s = 5\n")
    environment = {"INGESTD_STAGE__WORKERS": "2"}
    shown = folder.run("config", "show", "--data-root", "here", "--json", environment=environment).json
    settings = shown["settings"]
    assert list(settings) == setting_keys()
    assert settings["stage.workers"] == {"value": 2, "from": "environment INGESTD_STAGE__WORKERS"}
    assert settings["stage.polars_threads"] == {"value": 2, "from": "config file"}
    assert settings["settle.settle_s"] == {"value": 0.5, "from": "default"}
    assert settings["paths.data_root"] == {"value": str(folder.path / "here"), "from": "option"}
    assert settings["paths.raw_root"] == {"value": str(folder.path / "here" / "01_raw"), "from": "default"}
    text = folder.run("config", "show", environment=environment).out
    assert text.startswith("config file: config.toml\n")
    assert re.search(r"^log\.file +default +\"\S+/data/02_stage/_manifest/ingestd\.log\"$", text, re.MULTILINE)
    assert re.search(r"^stage\.workers +environment INGESTD_STAGE__WORKERS +2$", text, re.MULTILINE)
    assert re.search(r"^settle\.writers_visible +default +true$", text, re.MULTILINE)
    assert re.search(r"^packaged procedures: /\S+/ingestd/raw/procedures\.toml$", text, re.MULTILINE)
    assert text.endswith("procedures\n")
    (folder.path / "config.toml").unlink()
    assert folder.run("config", "show").out.startswith("config file: none; neither ./config.toml nor /etc/ingestd/con")


def test_show_names_procedures_of_the_lab(folder: Folder) -> None:
    """Procedures that the config file adds or changes are named."""
    (folder.path / "lab.toml").write_text('[procedures.IV]\nclasses = ["IV", "IVnew"]\n')
    assert folder.run("config", "show", "--config", "lab.toml").out.endswith(", IV from the config file\n")


def test_a_folder_of_ones_own_needs_no_options_where_a_config_file_names_it(raw: Folder, repository: Path) -> None:
    """What the README says of a folder elsewhere: its options count for one command, a config file for every one."""
    away = raw.raw.rename(raw.path / "away")
    options = ["--raw-root", str(away), "--data-root", "mine"]
    assert raw.run("backfill", *options).code == 1
    assert raw.run("status", "--data-root", "mine", "--json").json["runs_without_raw_file"] is None
    assert raw.run("status", *options, "--json").json["runs_without_raw_file"] == 0
    readme = (repository / "README.md").read_text("utf-8")
    generate, status = re.findall(r"^\$ \.venv/bin/ingestd (.*mine\.toml)", readme, re.MULTILINE)
    config = raw.run(*generate.removesuffix(" > mine.toml").split()).out
    for key, place in (("raw_root", str(away)), ("data_root", "mine")):
        config, lines = re.subn(rf"^# {key} = .*", f'{key} = "{place}"', config, flags=re.MULTILINE)
        assert lines == 1
    (raw.path / "mine.toml").write_text(config, "utf-8")
    told = raw.run(*status.split(), "--json").json
    assert (told["runs"], told["runs_without_raw_file"], told["troubles"]) == (20, 0, [])


def test_every_environment_name_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The names in docs/configuration.md are those the settings read."""
    for key in setting_keys():
        section, _, name = key.partition(".")
        value = example(section, name, sections()[section].model_fields[name])
        monkeypatch.setenv(environment_name(section, name), str(value))
    assert load_settings(_empty(tmp_path)).stage.workers == EXAMPLES["stage.workers"]


def test_validate_takes_a_good_file_and_names_the_fault_of_a_bad_one(folder: Folder) -> None:
    """A valid file ends with 0; an unknown key, a bad value or a missing file with 2 and the message that names it."""
    (folder.path / "config.toml").write_text("[stage]\nworkers = 3\n")
    good = folder.run("config", "validate")
    assert (good.code, good.out) == (0, "config.toml: valid; 1 setting given, all others at their default\n")
    with_root = folder.run("config", "validate", "--data-root", "d")
    assert with_root.out == "config.toml: valid; 2 settings given, all others at their default\n"
    (folder.path / "lab.toml").write_text(HALL + HALL.replace("Hall", "Kelvin"))
    assert folder.run("config", "validate", "lab.toml").out == (
        "lab.toml: valid; 0 settings given, all others at their default; 2 procedures: Hall, Kelvin\n"
    )
    (folder.path / "bad.toml").write_text("[stage]\nworkrs = 3\n")
    bad = folder.run("config", "validate", "bad.toml")
    assert bad.code == 2
    assert "bad.toml: unknown setting 'stage.workrs'; did you mean 'stage.workers'?" in bad.err
    wrong = folder.run("config", "validate", "config.toml", environment={"INGESTD_STAGE__WORKRS": "1"})
    assert "did you mean INGESTD_STAGE__WORKERS?" in wrong.err
    none = folder.run("config", "validate", "no file.toml")
    assert (none.code, none.err) == (
        2,
        "error: no file.toml: this config file was asked for but does not exist\n"
        "  next: check its name, or make one: `ingestd config generate > 'no file.toml'`\n",
    )
    told = "error: .: this config file was asked for but is not a file\n  next: check its name\n"
    assert folder.run("config", "validate", ".").err == told


def test_validate_tells_wrong_settings_and_wrong_procedures_at_once(folder: Folder) -> None:
    """All mistakes of a file are corrected in one go, whatever part of it they are in."""
    hall = HALL.replace('chip = "optional"', "chp = 1")
    (folder.path / "config.toml").write_text(f"[stage]\nworkers = 0\n[procedures]\nX = 3\n{hall}")
    done = folder.run("config", "validate")
    assert done.code == 2
    assert done.err.startswith("error: config.toml: stage.workers = 0: must be at least 1\n  next: correct it;")
    told = done.err.splitlines()[2:]
    assert any(line.startswith("  also wrong: config.toml: table [procedures.Hall]: key 'chp'") for line in told)
    assert "  also wrong: config.toml: table [procedures.X]: expected a table, found 3" in told


def test_a_variable_that_is_no_setting_s_is_refused_without_a_far_guess(folder: Folder) -> None:
    """What all variables have in common, INGESTD_, makes none a likely one."""
    done = folder.run("config", "validate", environment={"INGESTD_FOO": "3"})
    assert done.err.startswith("error: environment variable INGESTD_FOO: no such setting\n  next: unset it, or name")


@pytest.mark.parametrize("command", [("status",), ("backfill", "--config", "/etc/ingestd/config.toml")])
def test_a_current_folder_that_may_not_be_entered_is_named(tmp_path: Path, command: tuple[str, ...]) -> None:
    """`sudo -u ana ingestd ...` in the home of another: worker processes could not start there, nor files be found."""
    words = ["sh", "-c", 'chmod 0 . && exec "$@"', "sh", *powerless(), sys.executable, "-c", ENTRY, *command]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    tmp_path.chmod(0o700)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}: this user may not enter the current folder\n  next: `cd /`")


@pytest.mark.parametrize("command", [("backfill",), ("run",), ("verify", "--data-root", os.fsdecode(b"l\xffb"))])
def test_a_data_root_whose_name_is_not_utf_8_is_refused(tmp_path: Path, command: tuple[str, ...]) -> None:
    """What was staged there could not be read back, and would be taken for damaged."""
    folder = Folder(tmp_path / os.fsdecode(b"lab\xff"))
    folder.put("It_1.csv", Measurement().data)
    done = folder.run(*command)
    assert done.code == 2
    assert "xff" in done.err
    assert "a path that is not UTF-8 cannot be used\n  next: rename the folder" in done.err
    assert [path.name for path in (folder.path / "data").iterdir()] == ["01_raw"]
