"""A booted Debian for the tests of the real units."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from container import CannotBoot, Machine, booted


@pytest.fixture(scope="module")
def machine(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted Debian with ingestd's executable; nothing is installed into systemd yet."""
    try:
        with booted(repository, tmp_path_factory.mktemp("boot") / "console.txt") as machine:
            yield machine
    except CannotBoot as reason:
        pytest.skip(str(reason))
