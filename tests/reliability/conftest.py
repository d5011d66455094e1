"""Archives of the tests of reliability."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from archive import Archive
from crash_cases import make_template
from lived import clone, live_through_everything


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Tell how many cases of a row of `docs/reliability.md` a test went through, for the summary at the end."""
    return lambda row, cases: record_property("reliability", (row, cases))


@pytest.fixture
def damage_counted(figure: Callable[[str, int], None]) -> None:
    """Count the test as a case of damage to ingestd's own files."""
    figure("damage of our own files", 1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write one line a row: what belongs into the table of `docs/reliability.md`."""
    cases: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for _, (row, count) in [one for one in getattr(report, "user_properties", ()) if one[0] == "reliability"]:
                cases[row] += count
                seconds[row] += round(report.duration) if report.when == "call" else 0
    for row, count in sorted(cases.items()):
        terminalreporter.write_line(f"reliability: {row}: {count:,} cases, {seconds[row]} s")


@pytest.fixture(scope="session")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """An archive that has seen everything; shared, so it may only be read and cloned."""
    archive = Archive(tmp_path_factory.mktemp("lived-in"))
    live_through_everything(archive)
    return archive


@pytest.fixture
def archive(lived_in: Archive, tmp_path: Path) -> Archive:
    """A copy of the archive that has seen everything."""
    return clone(lived_in, tmp_path)


@pytest.fixture
def empty(tmp_path: Path) -> Archive:
    """A data root without a file."""
    return Archive(tmp_path)


@pytest.fixture(scope="session")
def template(lived_in: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with everything to do, on the disk of the other tests' folders."""
    return make_template(lived_in, tmp_path_factory.mktemp("template"))
