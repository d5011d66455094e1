"""What tests of the service share: a raw root and a watch that stands on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hints import Heard

from ingestd.service.watch import Watch


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A raw root with one day folder."""
    (tmp_path / "01_raw" / "2025-09-23").mkdir(parents=True)
    return tmp_path / "01_raw"


@pytest.fixture
def heard() -> Heard:
    """What the watch under test said."""
    return Heard()


@pytest.fixture
def watch(root: Path, heard: Heard) -> Iterator[Watch]:
    """A watch that stands."""
    watch = Watch(root, on_hint=heard.on_hint, on_doubt=heard.on_doubt)
    watch.start()
    yield watch
    watch.stop()
