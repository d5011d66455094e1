"""The power is cut: only what was flushed is there, and nothing that was acknowledged is missing."""

from __future__ import annotations

import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import lived
import pytest
from archive import Archive
from lived import FULL, clone
from mounts import ext4_image, mounted
from power import Cut, Loss, after

HERE = Path(__file__).parent
DEFAULT_CUTS = 10


@pytest.fixture(scope="module")
def template(lived_in: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with everything to do, and small batches."""
    root = tmp_path_factory.mktemp("powered") / "root"
    lived.change_everything(clone(lived_in, root))
    (root / "config.toml").write_text("[stage]\nbatch_files = 5\n")
    return root


@pytest.fixture(scope="module")
def recorded(template: Path) -> tuple[Archive, int, list[Cut]]:
    """One cycle, change by change: the archive it left, the inode of its root, and every moment it may be cut at."""
    root = template.parent / "recorded"
    subprocess.run(["cp", "-a", template, root], check=True)
    path = ":".join(map(str, (HERE, HERE.parent, HERE.parents[1])))
    subprocess.run(
        [sys.executable, "-c", "import power; power.record()", str(root), str(template.parent / "cuts")],
        env={"PYTHONPATH": path},
        check=True,
    )
    inode, cuts = pickle.loads((template.parent / "cuts").read_bytes())
    return lived.reopened(root), inode, cuts


@pytest.mark.timeout(14400)
@pytest.mark.parametrize("loss", ["all", "bytes", "some"])
def test_nothing_acknowledged_is_lost(
    loss: Loss,
    template: Path,
    recorded: tuple[Archive, int, list[Cut]],
    tmp_path: Path,
    figure: Callable[[str, int], None],
) -> None:
    """Cut before any change, with the unflushed lost, all rows told of are there; a plain start makes all good."""
    undisturbed, inode, cuts = recorded
    assert len(cuts[-1].acknowledged) >= 8
    wanted = len(cuts) if FULL else DEFAULT_CUTS
    chance, cases = random.Random(f"{loss} 7"), 0
    for at in sorted({round(i * (len(cuts) - 1) / (wanted - 1)) for i in range(wanted)}):
        for turn in range(2 if loss == "some" and FULL else 1):
            root = tmp_path / f"{at}-{turn}"
            _write(root, template, after(cuts[at], inode, loss, chance))
            archive = lived.reopened(root)
            known = lived.manifest(archive)
            for run_id, row in cuts[at].acknowledged.items():
                assert known.get(run_id) == row, f"cut {at} ({cuts[at].change}): a run is lost"
            lived.plain_start(archive)
            lived.check_sound(archive)
            lived.check_traces(archive)
            assert lived.manifest(archive) == lived.manifest(undisturbed)
            assert lived.histories(archive) == lived.histories(undisturbed)
            assert lived.tree(archive.raw) == lived.tree(undisturbed.raw)
            shutil.rmtree(root)
            cases += 1
    figure(f"power cut, lost: {loss} (of {len(cuts)})", cases)


def _write(root: Path, template: Path, paths: dict[str, bytes | None]) -> None:
    data = root / "data"
    data.mkdir(parents=True)
    subprocess.run(["cp", "-a", template / "data" / "01_raw", data / "01_raw"], check=True)
    shutil.copy(template / "config.toml", root)
    for name, content in paths.items():
        if content is None:
            (data / name).mkdir(exist_ok=True)
        else:
            (data / name).write_bytes(content)


@pytest.mark.timeout(7200)
def test_an_ext4_that_lost_power_has_all_that_was_acknowledged(
    lived_in: Archive, tmp_path: Path, figure: Callable[[str, int], None]
) -> None:
    """A copy of the disk at a random moment of a running load has every run told of; a plain start makes all good."""
    chance, turns = random.Random(11), 40 if FULL else 3
    image = ext4_image(tmp_path / "disk", 64)
    # Nothing but flushes writes to the disk: the journal is not committed by time.
    with mounted(tmp_path / "mnt", "-o", "loop,commit=300", image) as mount:
        clone(lived_in, mount / "root")
        subprocess.run(["sync", "-f", mount], check=True)
        for turn in range(turns):
            told = _cut_while_told(mount / "root", tmp_path, image, chance.randrange(2, 40))
            with mounted(tmp_path / "after", "-o", "loop", tmp_path / "copy") as after_cut:
                archive = lived.reopened(after_cut / "root")
                lost = told - lived.manifest(archive).keys()
                assert not lost, f"cut {turn}: {lost}"
                lived.plain_start(archive)
                lived.check_sound(archive)
                lived.check_traces(archive)
    figure("power cut of an ext4", turns)


def _cut_while_told(root: Path, work: Path, image: Path, lines: int) -> set[str]:
    """Start a load, stop it wherever it is after so many acknowledgements, copy the disk; return all runs told of."""
    path = ":".join(map(str, (HERE, HERE.parent, HERE.parents[1])))
    code = "import sys, lived; from pathlib import Path; lived.work_on(Path(sys.argv[1]), 1000, powered=True)"
    with (work / "said").open("wb") as said:
        load = subprocess.Popen([sys.executable, "-c", code, str(root)], env={"PYTHONPATH": path}, stdout=said)
    try:
        limit = time.monotonic() + 100
        while (work / "said").read_bytes().count(b"\n") < lines:
            assert load.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.001)
        load.send_signal(signal.SIGSTOP)
        while Path(f"/proc/{load.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
            time.sleep(0.001)
        shutil.copy(image, work / "copy")
        return {line.split()[0] for line in (work / "said").read_text().splitlines()}
    finally:
        load.kill()
        load.wait()
