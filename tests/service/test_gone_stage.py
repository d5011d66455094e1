"""The folder of the staged runs is taken away under a service."""

from __future__ import annotations

import subprocess
from pathlib import Path

from running import Service, put

from ingestd.service.daemon import Exit
from ingestd.service.state import Trouble, read_state
from ingestd.service.status_report import Health


def troubles(service: Service) -> list[Trouble]:
    """Return what the service wrote of each job that is prevented."""
    state, _ = read_state(service.layout)
    return state.troubles if state is not None else []


def test_a_service_waits_for_the_staged_runs(tmp_path: Path) -> None:
    """`status` says where they are missed; with the folder back the service goes on by itself."""
    with Service(tmp_path, service={"retry_s": 0.2}) as service:
        names = put(service.raw, 0, 2)
        service.until(lambda: service.live_names() == names, "two runs")
        away = service.layout.staged_root.rename(tmp_path / "away")
        names |= put(service.raw, 2, 1)
        service.until(lambda: service.status().health is Health.NEEDS_A_PERSON, "a trouble")
        (trouble,) = service.status().troubles
        assert trouble.place == str(service.layout.staged_root)
        assert not service.layout.staged_root.exists()
        away.rename(service.layout.staged_root)
        service.until(lambda: service.live_names() == names, "the run that waited")
        assert service.stop() == 0
        service.check_whole()


def test_what_keeps_several_jobs_from_being_done_is_one_trouble(tmp_path: Path) -> None:
    """Scan and staging both miss the staged runs: the log names each job, `status` the one cause."""
    with Service(tmp_path, watch={"rescan_s": 0.2}, service={"retry_s": 0.2}) as service:
        names = put(service.raw, 0, 2)
        service.until(lambda: service.live_names() == names, "two runs")
        away = service.layout.staged_root.rename(tmp_path / "away")
        put(service.raw, 2, 1)
        service.until(lambda: len(troubles(service)) == 2, "both are missed")
        assert {line["job"] for line in service.lines("trouble")} == {"scan", "stage"}
        (trouble,) = service.status().troubles
        assert trouble.place == str(service.layout.staged_root)
        away.rename(service.layout.staged_root)
        service.until(lambda: not service.status().troubles, "the trouble is over")
        assert service.stop() == 0
        service.check_whole()


def test_a_stage_that_comes_back_as_another_is_taken_up_by_the_next_start(tmp_path: Path) -> None:
    """A disk pulled and plugged in again has a free lock: the service says so and ends with the code for a restart."""
    with Service(tmp_path) as service:
        names = put(service.raw, 0, 2)
        service.until(lambda: service.live_names() == names, "two runs")
        stage, plugged_in = service.layout.stage_root, tmp_path / "plugged in"
        subprocess.run(["cp", "-a", stage, plugged_in], check=True)
        stage.rename(tmp_path / "pulled")
        names |= put(service.raw, 2, 1)
        plugged_in.rename(stage)
        assert service.ended() == Exit.FAILED
        (failed,) = service.lines("failed")
        assert failed["place"] == str(service.layout.service_lock_path)
        service.start()
        service.until(lambda: service.live_names() == names, "the run that came meanwhile")
        assert service.stop() == 0
        service.check_whole()
