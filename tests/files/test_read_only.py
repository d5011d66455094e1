"""A disk that the kernel made read-only, because it found it damaged: nothing can be written or deleted on it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ingestd import files
from ingestd.errors import Retry


def test_a_disk_that_is_read_only_now_is_a_retry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be deleted on it either, not even what is not there: the error is that of the write."""
    path = tmp_path / "x.json"
    files.write_atomic(path, b"one")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for call in ("open", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            patch.setattr(os, "unlink", refuse)
            with pytest.raises(Retry, match="Read-only file system"):
                files.write_atomic(path, b"two", flush=call == "fsync")
            with pytest.raises(Retry, match="Read-only file system"), files.replacing(path) as temporary:
                os.close(os.open(temporary, os.O_CREAT))
    assert path.read_bytes() == b"one"
