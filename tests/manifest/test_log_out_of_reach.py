"""A log on a disk that does not answer for a moment: what cannot be looked at is neither gone nor a fault of ours."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from samples_of_rows import a_record

from ingestd.errors import Retry
from ingestd.manifest import log
from ingestd.manifest.record import SegmentHead


def put_out_of_reach(patch: pytest.MonkeyPatch, hidden: Path) -> None:
    """Let no look at a file say anything, as a disk in trouble does."""
    stat, access = os.stat, os.access

    def refuse(path: Any, *given: Any, **named: Any) -> os.stat_result:
        if not isinstance(path, int) and os.fspath(path) == str(hidden):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return stat(path, *given, **named)

    def deny(path: Any, *given: Any, **named: Any) -> bool:
        return os.fspath(path) != str(hidden) and access(path, *given, **named)

    patch.setattr(os, "stat", refuse)
    patch.setattr(os, "access", deny)


def test_a_log_does_not_end_before_a_segment_that_is_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process began it and was killed amid its compaction: it may hold records of its own."""
    position = log.create(tmp_path, SegmentHead(segment=1, next_seq=1))
    assert log.ends_at(tmp_path, position)
    log.create(tmp_path, SegmentHead(segment=2, next_seq=1))
    put_out_of_reach(monkeypatch, log.segment_path(tmp_path, 2))
    assert not log.ends_at(tmp_path, position)


def test_a_segment_that_cannot_be_looked_at_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backfill that meets this can still report what it staged before."""
    position = log.create(tmp_path, SegmentHead(segment=1, next_seq=1))
    log.append(tmp_path, position, [a_record(1)])
    with monkeypatch.context() as patch:
        put_out_of_reach(patch, log.segment_path(tmp_path, 1))
        with pytest.raises(Retry, match="Input/output error"):
            log.follow(tmp_path, position)
    found = log.follow(tmp_path, position)
    assert found is not None
    assert [record.seq for record in found.records] == [1]
