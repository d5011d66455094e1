"""The repository keeps its own house rules: what a linter cannot see."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pages import section

import ingestd
from ingestd.cli import COMMANDS

TARGET = re.compile(r"^(?P<name>[a-z][a-z-]*):.*## (?P<words>.+)$", re.MULTILINE)

PRIVATE = re.compile(
    r"""(/home/|/Users/|\\Users\\)\w      # somebody's home folder
      | /root/
      | https?://\S*/simple\b             # a package index
      | --(extra-)?index-url | --find-links
    """,
    re.VERBOSE,
)


def git(repository: Path, *arguments: str) -> list[str]:
    """Return the lines `git ARGUMENTS` prints; skips where the sources are no git checkout."""
    if not (repository / ".git").exists():
        pytest.skip("not a git checkout: its file list is unknown")
    done = subprocess.run(["git", "-C", repository, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_every_make_target_is_documented(repository: Path) -> None:
    """Every target `make help` lists stands in CONTRIBUTING.md or README.md as `make <target>`."""
    targets = [match["name"] for match in TARGET.finditer((repository / "Makefile").read_text("utf-8"))]
    documents = "\n".join((repository / name).read_text("utf-8") for name in ("CONTRIBUTING.md", "README.md"))
    assert {"demo", "test", "check", "test-lowest", "clean", "help"} <= set(targets)
    assert [name for name in targets if not re.search(rf"make {name}(?![\w-])", documents)] == []


def test_every_documented_make_target_exists(repository: Path) -> None:
    """A document never names a `make` target that the Makefile lacks."""
    targets = {match["name"] for match in TARGET.finditer((repository / "Makefile").read_text("utf-8"))}
    for document in [*repository.glob("*.md"), *repository.glob("docs/**/*.md"), repository / "data" / "README.md"]:
        commands = re.findall(r"(?:`|^ {4}|\$ )make ([a-z][a-z-]*)", document.read_text("utf-8"), re.MULTILINE)
        assert set(commands) <= targets, document.name


def test_the_floors_of_the_guide_are_those_that_are_checked(repository: Path) -> None:
    """CONTRIBUTING.md shows the floors import-linter holds, the highest first."""
    tool = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    (floors,) = (contract["layers"] for contract in tool["contracts"] if contract["id"] == "floors")
    guide = section(repository / "CONTRIBUTING.md", "Floors")
    shown = [line.split() for line in guide.splitlines() if line.startswith("    ")]
    assert shown == [floor.split(" | ") for floor in floors if floor != "__main__"]


def test_continuous_integration_calls_what_developers_call(repository: Path) -> None:
    """`.ci/run` runs the targets of `make check` after the system's packages, the README's `make test` last of all."""
    lines = (repository / ".ci" / "run").read_text("utf-8").splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["sh tools/ci-packages.sh", "make lint", "make demo", "make test"]
    check = re.search(r"^check: (.+?) ##", (repository / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert check is not None
    assert [f"make {target}" for target in check[1].split()] == commands[1:]
    quick_start = section(repository / "README.md", "Quick start")
    assert re.findall(r"^\$ (make test)\b", quick_start, re.MULTILINE) == commands[-1:]


def test_clean_goes_through_every_folder_of_code(repository: Path) -> None:
    """`make clean` looks for what Python left in each top folder that holds Python files."""
    recipe = re.search(r"@find (.+) -name __pycache__", (repository / "Makefile").read_text("utf-8"))
    assert recipe is not None
    assert recipe[1].split() == sorted({name.partition("/")[0] for name in git(repository, "ls-files", "*/*.py")})


def test_no_file_names_a_home_folder_or_a_package_index(repository: Path) -> None:
    """Nothing in the repository depends on, or tells of, the machine it was written on."""
    told = []
    for name in git(repository, "ls-files", "--cached", "--others", "--exclude-standard"):
        path = repository / name
        if path == Path(__file__) or path.suffix == ".parquet" or not path.is_file():
            continue
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), start=1):
            told += [f"{name}:{number}: {found[0]}" for found in PRIVATE.finditer(line)]
    assert told == []


@pytest.mark.parametrize(
    "line",
    [
        "cd /home/ana/lab",
        "cd /root/lab",
        r"C:\Users\ana",
        "pip install --index-url x",
        "https://pypi.org/simple/polars",
    ],
)
def test_the_search_for_private_names_finds_them(line: str) -> None:
    """The pattern of the test above matches what it is meant to find."""
    assert PRIVATE.search(line)


def test_changelog_tells_of_the_current_version(repository: Path) -> None:
    """The newest section of CHANGELOG.md is that of `ingestd.__version__`, or names it as what is to be released."""
    changes = (repository / "CHANGELOG.md").read_text("utf-8")
    newest, _, rest = changes.partition("\n## [")[2].partition("]")
    assert newest in {ingestd.__version__, "Unreleased"}
    assert newest == ingestd.__version__ or f"What is to be {ingestd.__version__}" in rest.partition("\n## [")[0]


def test_changelog_names_every_command(repository: Path) -> None:
    """Every command stands in CHANGELOG.md: each came with some version."""
    changes = (repository / "CHANGELOG.md").read_text("utf-8")
    assert [name for name in COMMANDS if not re.search(rf"`(ingestd )?{name}\b", changes)] == []


def test_files_stay_short(repository: Path) -> None:
    """No file of the package is longer than 400 lines: a longer one has two jobs."""
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in (repository / "ingestd").rglob("*.py")}
    assert len(lengths) > 5
    assert {path.name: length for path, length in lengths.items() if length > 400} == {}


def test_nobody_asks_pathlib_what_is_there(repository: Path) -> None:
    """What is out of reach is no longer an error for it from Python 3.14 on: `files.exists` and its like are asked."""
    asked = re.compile(r"\.(exists|is_dir|is_file)\(\)")
    found = [
        f"{path.name}: {line.strip()}"
        for path in (repository / "ingestd").rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if asked.search(line) and "link.is_dir()" not in line  # an entry of `os.scandir` does as it always did
    ]
    assert found == []


def test_every_lower_bound_is_handed_to_test_lowest(repository: Path) -> None:
    """`tools/lowest.py` prints one exact version for each requirement of the build, the package and its dev group."""
    done = subprocess.run(
        [sys.executable, repository / "tools" / "lowest.py"], capture_output=True, text=True, check=True
    )
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))
    wanted = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["dependency-groups"]["dev"],
    ]
    lowest = [requirement.partition(";")[0].partition(",")[0].replace(">=", "==") for requirement in wanted]
    assert sorted(done.stdout.split()) == sorted(lowest)


@pytest.mark.parametrize(
    "written",
    ["02_stage/_manifest/manifest.parquet", "histories/Biotite3_history.csv", "metadata/2026-03-12/metadata.csv"],
)
def test_git_ignores_what_ingestd_writes(repository: Path, written: str) -> None:
    """What ingestd writes into the default data root is never offered for a commit."""
    assert git(repository, "check-ignore", f"data/{written}") == [f"data/{written}"]


def test_git_keeps_the_sample_data(repository: Path) -> None:
    """The sample data is part of every clone, without line-end conversion."""
    tracked = git(repository, "ls-files", "data/01_raw")
    assert len(tracked) == 22
    assert all(line.endswith("text: unset") for line in git(repository, "check-attr", "text", "--", *tracked))


def test_the_package_says_that_it_is_typed(repository: Path) -> None:
    """A type checker of a program that imports ingestd reads its annotations: the marker is there that says so."""
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]
    assert "Typing :: Typed" in project["classifiers"]
    assert (repository / "ingestd/py.typed").is_file()


def test_the_prose_of_the_documents_has_lines_of_a_common_length(repository: Path) -> None:
    """No line of prose is longer than 128 characters; a table's row and a code block's line cannot be wrapped."""
    for page in [*repository.glob("*.md"), *repository.glob("docs/*.md"), repository / "data" / "README.md"]:
        prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL).splitlines()
        assert [line for line in prose if len(line) > 128 and not line.startswith(("|", "    "))] == [], page.name
