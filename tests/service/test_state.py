"""What the service writes of itself: when it is written, and when not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ingestd.errors import Retry
from ingestd.service.state import ServiceState, StateFile, check_space
from ingestd.settings import Settings


class Hours:
    """A clock that goes on by an hour whenever it is asked."""

    def __init__(self) -> None:
        self.now = datetime(2025, 9, 23, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(hours=1)
        return self.now


def test_a_state_is_told_and_written_once_until_it_changes(settings: Settings) -> None:
    """Asked twice a second for months: only news reach the disk, and the time is that of the news."""
    told: list[ServiceState] = []
    clock, path = Hours(), settings.layout.service_state_path
    path.parent.mkdir(parents=True)
    state = StateFile(settings, clock, started_at=clock(), tell=told.append)

    def show(backlog: int) -> ServiceState:
        state.show("running", "watching", backlog=backlog)
        return ServiceState.model_validate_json(path.read_bytes())

    first = show(1)
    path.write_bytes(path.read_bytes() + b"\n")  # nobody does; it shows whether it is written again
    assert show(1) == first
    assert path.read_bytes().endswith(b"\n\n")
    second = show(2)
    assert (second.backlog, second.updated_at - first.updated_at) == (2, timedelta(hours=1))
    assert told == [first, second]


def test_a_state_that_is_missing_is_written_when_it_can_be(settings: Settings) -> None:
    """Deleted, or refused by the disk: it is written again though nothing has changed, and told only once."""
    told: list[ServiceState] = []
    clock, path = Hours(), settings.layout.service_state_path
    state = StateFile(settings, clock, started_at=clock(), tell=told.append)
    path.parent.parent.mkdir(parents=True)
    path.parent.write_text("no folder can be here")
    state.show("running", "watching")
    path.parent.unlink()
    path.parent.mkdir()
    state.show("running", "watching")
    assert path.exists()
    state.check()
    path.write_text("as it was")
    state.show("running", "watching")
    assert path.read_text() == "as it was", "it was there"
    path.unlink()
    state.check()
    state.show("running", "watching")
    assert [ServiceState.model_validate_json(path.read_bytes())] == told


def test_free_space_is_asked_for_in_mib(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly what `service.free_mib` says is enough; one byte less is not."""
    wanted = settings.model_copy(update={"service": settings.service.model_copy(update={"free_mib": 3.0})})
    monkeypatch.setattr("ingestd.files.free_bytes", lambda _: 3 * 2**20)
    check_space(wanted)
    monkeypatch.setattr("ingestd.files.free_bytes", lambda _: 3 * 2**20 - 1)
    with pytest.raises(Retry, match="free_mib = 3 MiB"):
        check_space(wanted)


def test_a_free_space_that_no_disk_has_is_told_as_it_was_set(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every digit, as in the config file; where the disk is smaller, only the setting can give way."""
    wanted = settings.model_copy(update={"service": settings.service.model_copy(update={"free_mib": 1234567.5})})
    monkeypatch.setattr("ingestd.files.free_bytes", lambda _: 2**40)
    with pytest.raises(Retry, match=r"free_mib = 1234567\.5 MiB") as caught:
        check_space(wanted)
    assert caught.value.next_step == "free some space on that disk, or lower service.free_mib"
