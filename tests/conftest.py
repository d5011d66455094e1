"""What every test may use: the repository, the lab's real measurements, Hypothesis profiles."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from mounts import mounted

REPOSITORY = Path(__file__).resolve().parents[1]
LAB = Path(os.environ.get("LAB_ARCHIVE") or REPOSITORY.parent / "shared" / "lab")
"""A lab's real measurements, which no repository holds."""

# No deadline: a slow machine is not a wrong answer; the per-test limit of pytest-timeout stands instead.
settings.register_profile("dev", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), print_blob=True)
settings.register_profile("thorough", settings.get_profile("dev"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root folder."""
    return REPOSITORY


@pytest.fixture(scope="session")
def samples() -> Path:
    """The sample data shipped with the repository: 22 simulated runs in two day folders. Read only."""
    return REPOSITORY / "data" / "01_raw"


@pytest.fixture(scope="session")
def lab() -> Path:
    """The lab's real measurements (`01_raw/`, `legacy_histories/`), read only; skips where they are absent."""
    if not LAB.is_dir():
        pytest.skip(f"the lab's real measurements are not in {LAB}: LAB_ARCHIVE names the folder that has them")
    return LAB


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB, in memory; skips where nothing may be mounted."""
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=8m", "none") as disk:
        yield disk


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_caller() -> Iterator[None]:
    """Keep the caller's INGESTD_... variables out of the tests and of the commands they start."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.upper().startswith("INGESTD_")]:
            patch.delenv(name)
        yield
