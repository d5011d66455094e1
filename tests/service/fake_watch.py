"""A watch without a kernel, for tests of the service: `from fake_watch import FakeWatch`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ingestd.errors import Retry


class FakeWatch:
    """Does what the test says: `hint` and `doubt` tell; `reason`, `limited` and `missing` its answers."""

    def __init__(self, root: Path, *, on_hint: Callable[[str], None], on_doubt: Callable[[str], None]) -> None:
        self.root = root
        self.hint = on_hint
        self.doubt = on_doubt
        self.reason: str | None = None
        self.limited: str | None = None
        self.missing: Retry | None = None
        self.standing = False
        self.folders: list[int | None] = []

    def start(self) -> None:
        """Stand anew, unless the root is said to be missing; the reason is gone then."""
        self.stop()
        if self.missing is not None:
            raise self.missing
        self.standing = True
        self.reason = None

    def stop(self) -> None:
        """Stand no more."""
        self.standing = False

    def check(self, folders: int | None = None) -> str | None:
        """Answer with the reason, and note what was asked."""
        self.folders.append(folders)
        return self.reason or (None if self.standing or self.limited else "no watch is placed")
