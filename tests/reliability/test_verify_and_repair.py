"""verify and repair: what they call damaged, what they plan, and how they answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import lived
import pytest
from archive import Archive
from lived import clone, cut_file, damages, findings, flip, histories, manifest, mend, rebuild, tree
from measurement import BROKEN

from ingestd.errors import Retry
from ingestd.files import durable
from ingestd.manifest import log
from ingestd.manifest.record import split
from ingestd.stage.parquet import read_header, read_run, write_run
from ingestd.upkeep.repair import repair

pytestmark = pytest.mark.usefixtures("damage_counted")


def test_a_torn_end_needs_no_hand(archive: Archive) -> None:
    """A log cut in the middle of its last record is no damage: the next start sets the piece aside and goes on."""
    archive.put("late/It_20.csv", lived.number(20).data)
    lived.backfill_without_compaction(archive, histories=False)
    path = log.segment_path(archive.layout.wal_dir, log.segments(archive.layout.wal_dir)[-1])
    offset, payload = split(path.read_bytes()).payloads[1]
    cut_file(path, offset + len(payload) // 2)
    assert mend(archive, apply=False).steps[0].kind == "log-torn"
    archive._ticks += 60
    lived.plain_start(archive)
    assert [one.read_bytes() for one in archive.layout.wal_dir.glob("*.torn-*")]
    assert "late/It_20.csv" in archive.live()
    lived.check_sound(archive)


def test_verify_beside_a_writer_calls_nothing_damaged(archive: Archive, tmp_path: Path) -> None:
    """While another process ingests, edits and moves, verify never takes what is under way for damage."""
    code = "import sys, lived; from pathlib import Path; lived.work_on(Path(sys.argv[1]), int(sys.argv[2]))"
    here = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    worker = subprocess.Popen(
        [sys.executable, "-c", code, str(archive.root.parent), "30"], env={"PYTHONPATH": ":".join(here)}
    )
    looks = 0
    try:
        while worker.poll() is None:
            assert damages(archive, deep=bool(looks % 2)) == set()
            looks += 1
    finally:
        worker.kill()
        worker.wait()
    assert worker.returncode == 0
    assert looks > 2
    lived.plain_start(archive)
    lived.check_sound(archive)


def test_a_plan_says_when_it_cannot_tell_all(archive: Archive) -> None:
    """Of a damaged manifest the plan has the first step only, and says so; what follows is mended with it."""
    archive.staged(archive.live()[lived.PLAIN]).write_bytes(b"cut")
    plan = mend(archive, apply=False)
    assert ("parquet" in {step.kind for step in plan.steps}, plan.more_may_follow) == (True, False)
    flip(archive.layout.manifest_path, 300)
    plan = mend(archive, apply=False)
    assert ([step.kind for step in plan.steps], plan.more_may_follow) == (["manifest"], True)
    _, out = _command(archive, "repair")
    assert "Other damage may show only once the manifest is restored" in " ".join(out.split())
    done = mend(archive)
    assert ({"manifest", "parquet"} <= {step.kind for step in done.steps}, done.more_may_follow) == (True, False)
    assert (done.left, damages(archive)) == ([], set())


def test_the_commands_tell_by_exit_code_and_json(archive: Archive) -> None:
    """verify ends with 1 where something is damaged and 0 where not; so does repair; `--json` holds it all."""
    assert _command(archive, "verify", "--deep")[0] == 0
    flip(archive.layout.manifest_path, 300)
    code, out = _command(archive, "verify", "--json")
    assert (code, json.loads(out)["clean"]) == (1, False)
    code, out = _command(archive, "repair")
    assert code == 1
    assert "restore the manifest (manifest.parquet: " in out
    assert "ingestd repair --apply" in out
    code, out = _command(archive, "repair", "--apply", "--json")
    assert code == 0
    assert [step["kind"] for step in json.loads(out)["steps"]] == ["manifest", "histories"][
        : len(json.loads(out)["steps"])
    ]
    code, out = _command(archive, "verify")
    assert (code, "Nothing is damaged" in out) == (0, True)
    code, out = _command(archive, "rebuild-manifest", "--from", "stage", "--json")
    assert json.loads(out)["rows_from_stage"] == len(archive.rows())


def test_notes_are_no_damage(archive: Archive) -> None:
    """Copies, rejects, queued, deleted and new files are told as notes and leave the exit code alone."""
    archive.put("late/bad.csv", BROKEN)
    archive.touch(lived.PLAIN)
    notes = {finding.kind: finding for finding in findings(archive) if finding.level == "note"}
    assert notes.keys() == {"rejected", "duplicate", "queued", "raw-missing", "raw-undecided", "raw-changed"}
    assert (notes["raw-undecided"].path, notes["raw-changed"].path) == ("late/bad.csv", lived.PLAIN)
    assert notes["raw-changed"].message == "changed since it was decided: `ingestd status` tells what it waits for"
    assert _command(archive, "verify")[0] == 0


@pytest.mark.parametrize("how", ["swapped", "renamed", "copied"])
def test_parquet_moved_by_hand_is_put_back(how: str, archive: Archive) -> None:
    """Parquet under another name is put back in its place, also where its raw file is gone and nothing else has it."""
    rows, want = manifest(archive), _move_by_hand(archive, how)
    before = tree(archive.root)
    assert [step.kind for step in mend(archive, apply=False).steps] == ["parquet", "put-back"]
    assert tree(archive.root) == before
    assert mend(archive).left == []
    assert _contents(archive, want) == want
    assert manifest(archive) == rows
    assert damages(archive) == set()
    assert mend(archive).steps == []


def _move_by_hand(archive: Archive, how: str) -> dict[str, bytes]:
    """Move the Parquet of two runs without a raw file; return what each place has to hold."""
    live = archive.live()
    one, other = (archive.staged(live[name]) for name in (lived.DELETED, lived.PLAIN))
    want = _contents(archive, [archive.layout.relative(path) for path in (one, other)])
    archive.delete(lived.PLAIN)
    archive.delete(lived.COPY)
    if how == "swapped":
        data = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(data)
    elif how == "renamed":
        one.parent.rename(one.parent.with_name("run_id=" + "f" * 20))
    else:
        shutil.copytree(one.parent, one.parent.with_name("old"))
        one.unlink()
    return want


def _contents(archive: Archive, paths: Iterable[str]) -> dict[str, bytes]:
    return {path: (archive.root / path).read_bytes() for path in paths}


class Killed(BaseException):
    """Ends a process wherever it is, as a kill does; nothing of ours catches it."""


@pytest.mark.parametrize("how", ["swapped", "renamed", "copied"])
def test_parquet_moved_by_hand_survives_a_repair_that_is_killed(
    how: str, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever link, move or removal was the last, the next repair puts it back: nothing else has these runs."""
    want = _move_by_hand(archive, how)
    for last in range(100):
        case, left = clone(archive, tmp_path / f"case-{last}"), iter(range(last))
        with monkeypatch.context() as patched:
            for name in ("link", "rename", "replace", "unlink"):
                patched.setattr(os, name, _counted(getattr(os, name), left))
            try:
                assert mend(case).left == []
                break
            except Killed:
                pass
        assert mend(case).left == []
        assert (_contents(case, want), damages(case)) == (want, set())
    assert 3 < last < 99, "the repair was killed in its middle, and ended at last"


def _counted(change: Callable[..., None], left: Iterator[int]) -> Callable[..., None]:
    def counted(*given: Any, **named: Any) -> None:
        if next(left, None) is None:
            raise Killed
        change(*given, **named)

    return counted


@pytest.mark.parametrize("of", ["unknown", "superseded", "sound"])
def test_parquet_astray_of_a_run_that_needs_none_is_only_set_aside(of: str, archive: Archive) -> None:
    """Nothing is put back over sound Parquet, or to where no run of the manifest belongs."""
    row = archive.live()[lived.PLAIN]
    source, stray = archive.staged(row), archive.staged(row).with_name("part-001.parquet")
    if of == "superseded":
        (source,) = [path for one in archive.rows() if not one.live for path in _kept(archive, one.run_id)]
    shutil.copy(source, stray)
    if of == "unknown":
        other = row.model_copy(update={"run_id": "0" * 20})
        stray.unlink()
        write_run(stray, read_run(source), other, read_header(source))
    before = tree(archive.layout.staged_root)
    plan = mend(archive, apply=False)
    assert [(step.kind, step.paths) for step in plan.steps] == [("parquet", [archive.layout.relative(stray)])]
    assert (mend(archive).steps, damages(archive)) == (plan.steps, set())
    after, gone = tree(archive.layout.staged_root), stray.relative_to(archive.layout.staged_root).as_posix()
    assert _bytes(after) == {name: data for name, data in _bytes(before).items() if name != gone}


def _bytes(files: dict[str, Any]) -> dict[str, bytes]:
    return {name: content for name, (content, *_) in files.items() if content is not None}


def _kept(archive: Archive, run_id: str) -> list[Path]:
    return list(archive.layout.superseded_root.glob(f"*/*/run_id={run_id}/*.parquet"))


def test_parquet_of_a_superseded_run_in_its_old_place_is_set_aside(archive: Archive) -> None:
    """Somebody put it back from a backup: it counts nowhere, and nothing else changes."""
    old, rows = next(row for row in archive.rows() if not row.live), manifest(archive)
    (kept,) = _kept(archive, old.run_id)
    archive.staged(old).parent.mkdir(parents=True)
    shutil.copy(kept, archive.staged(old))
    assert damages(archive) == {("parquet-orphan", archive.layout.staged_name(old))}
    assert (mend(archive).left, damages(archive), manifest(archive)) == ([], set(), rows)


def test_a_sound_archive_is_left_alone(archive: Archive) -> None:
    """A repair of it does nothing and names no folder in which it kept something."""
    before = tree(archive.layout.staged_root), histories(archive), manifest(archive)
    done = mend(archive, deep=True)
    assert (done.steps, done.left, done.aside) == ([], [], None)
    assert (tree(archive.layout.staged_root), histories(archive), manifest(archive)) == before


@pytest.mark.parametrize("apply", [False, True])
def test_a_repair_without_the_raw_files_ends_with_the_reason(apply: bool, archive: Archive) -> None:
    """A plan that cannot be made is no plan; a repair that stopped tells what was done and what stopped it."""
    path = log.segment_path(archive.layout.wal_dir, log.segments(archive.layout.wal_dir)[-1])
    with path.open("ab") as file:
        file.write(b"half a rec")
    archive.raw.rename(archive.raw.with_name("away"))
    if apply:
        done = repair(archive.settings, apply=True, clock=archive.now)
        assert ([step.kind for step in done.steps], type(done.stopped_by)) == (["log-torn"], Retry)
    else:
        with pytest.raises(Retry, match="no such folder of raw files"):
            repair(archive.settings, apply=False, clock=archive.now)


def test_rot_in_what_was_read_before_is_seen(archive: Archive) -> None:
    """A bit that flips in a table that this process has read already is found, its size and mtime as they were."""
    for path in (archive.layout.manifest_path, archive.layout.known_files_path):
        data = path.read_bytes()
        for plan in (False, True):
            assert (archive.rows() != [], archive.notes() != {}) == (True, True)
            flip(path, 200)
            if plan:
                assert [step.kind for step in mend(archive, apply=False).steps] == ["manifest"]
            else:
                assert damages(archive) == {("manifest", archive.layout.relative(path))}
            path.write_bytes(data)


@pytest.mark.parametrize("how", ["repair", "rebuild"])
def test_a_history_that_is_damaged_after_a_repair_is_seen(how: str, archive: Archive) -> None:
    """All of them were written, and it is noted: none counts as one that the next start writes anyway."""
    flip(archive.layout.manifest_path, 300)
    if how == "rebuild":
        rebuild(archive, "stage")
    else:
        assert mend(archive).left == []
    path = archive.layout.history_file("Alisson72")
    cut_file(path, -1)
    assert damages(archive) == {("history-differs", archive.layout.relative(path))}


def test_parquet_put_back_is_durable(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is flushed, and so is every folder that got a new one: a power cut does not undo the repair."""
    place = archive.staged(archive.live()[lived.PLAIN]).parent
    place.parent.rename(place.parent.with_name("moved"))
    told: list[Path] = []
    flush = durable.flush_path

    def flushed(path: Path) -> None:
        told.append(path)
        flush(path)

    monkeypatch.setattr(durable, "flush_path", flushed)
    monkeypatch.setattr(durable, "_syncfs", None)
    assert mend(archive).left == []
    assert {place, place.parent, place.parent.parent} <= set(told)


def test_what_nothing_holds_any_more_is_named_as_lost(archive: Archive) -> None:
    """Without Parquet and raw file verify says so and what helps; repair and rebuild keep the run's row and name it."""
    row, rows, lines = archive.live()[lived.DELETED], manifest(archive), histories(archive)
    archive.staged(row).unlink()
    (found,) = [one for one in findings(archive) if one.level == "damage"]
    assert "put either back from a backup" in found.message
    plan = mend(archive, apply=False)
    assert (plan.steps, plan.left) == ([], [found])
    assert mend(archive).left == [found]
    rebuild(archive, "stage")
    assert (manifest(archive), histories(archive)) == (rows, lines)
    assert damages(archive) == {(found.kind, found.path)}


def test_a_plan_names_the_run_that_setting_damaged_parquet_aside_leaves_without_data(archive: Archive) -> None:
    """Without a raw file nothing mends it: the plan says what is left as the repair does; damage elsewhere loses none.

    A damaged file with the run's id beside its sound Parquet is only set aside; if the run has a sound copy under
    another name, that is put back.
    """
    row, path = archive.live()[lived.DELETED], archive.staged(archive.live()[lived.DELETED])
    other = archive.staged(row.model_copy(update={"proc": "IV"}))
    for place in (other, path):
        place.parent.mkdir(parents=True, exist_ok=True)
        if place == path:
            shutil.copytree(path.parent, path.parent.with_name("old"))
        place.write_bytes(b"cut")
        plan = mend(archive, apply=False)
        assert ({step.kind for step in plan.steps} >= {"parquet"}, plan.left) == (True, [])
        assert (mend(archive).left, damages(archive)) == ([], set())
    path.write_bytes(b"cut")
    (left,) = mend(archive, apply=False).left
    assert (left.kind, left.run_id) == ("parquet-missing", row.run_id)
    assert left.message.endswith("is gone, and so is that raw file: put either back from a backup")
    assert mend(archive).left == [left]


@pytest.mark.parametrize("now", [BROKEN, b"", lived.number(2).data])
def test_a_run_that_neither_parquet_nor_raw_file_holds_names_the_way_back(now: bytes, archive: Archive) -> None:
    """The raw file was rejected, emptied or overwritten: no repair brings it back before its bytes are put back."""
    row, whole = archive.live()[lived.PLAIN], (archive.raw / lived.PLAIN).read_bytes()
    archive.delete(lived.COPY)
    archive.put(lived.PLAIN, now)
    lived.plain_start(archive)
    archive.staged(row).unlink()
    for apply in (False, True):
        (left,) = mend(archive, apply=apply).left
        assert left.message.endswith("no longer holds the run: put either back from a backup, then repair once more")
    archive.put(lived.PLAIN, whole)
    lived.plain_start(archive)
    assert (mend(archive).left, damages(archive)) == ([], set())
    assert archive.staged(row).exists()


def test_a_run_without_parquet_comes_back_from_a_copy(archive: Archive) -> None:
    """No backup is needed where a copy of the raw file is known: it is named, and the next backfill stages it."""
    archive.staged(archive.live()[lived.PLAIN]).unlink()
    archive.delete(lived.PLAIN)
    told = {one.message.partition(": ")[2] for apply in (False, True) for one in mend(archive, apply=apply).left}
    assert told == {f"its copy {lived.COPY} takes its place with `ingestd backfill`"}
    lived.plain_start(archive)
    assert (damages(archive), lived.COPY in archive.live()) == (set(), True)


@pytest.mark.parametrize("what", ["link", "folder"])
def test_a_plan_stages_nothing_from_what_is_no_raw_file(what: str, archive: Archive) -> None:
    """A link or folder in a raw file's place is never staged, so the plan does not promise it."""
    archive.staged(archive.live()[lived.OTHER_CHIP]).unlink()
    path = archive.raw / lived.OTHER_CHIP
    if what == "link":
        path.rename(archive.root / "elsewhere.csv")
        path.symlink_to(archive.root / "elsewhere.csv")
    else:
        path.unlink()
        path.mkdir()
    plan = mend(archive, apply=False)
    assert (plan.steps, [one.kind for one in plan.left]) == ([], ["parquet-missing"])
    assert mend(archive).left == plan.left


def test_the_lost_json_of_a_reject_behind_a_link_is_mended(archive: Archive) -> None:
    """No scan finds the file any more, so the reject is forgotten, as that of a file that is gone."""
    path = archive.raw / lived.REJECTED
    path.rename(archive.root / "elsewhere.csv")
    path.symlink_to(archive.root / "elsewhere.csv")
    archive.layout.reject_file(lived.REJECTED).unlink()
    assert damages(archive) == {("reject-missing", archive.layout.relative(archive.layout.reject_file(lived.REJECTED)))}
    assert (mend(archive).left, damages(archive)) == ([], set())
    assert lived.REJECTED not in archive.notes()


def test_a_link_that_leads_nowhere_is_set_aside(archive: Archive) -> None:
    """A repair that says it moves one away does so."""
    stray = archive.layout.rejects_dir / "stray.json"
    stray.symlink_to("nowhere")
    assert damages(archive) == {("reject-stray", archive.layout.relative(stray))}
    done = mend(archive)
    assert (done.left, damages(archive)) == ([], set())
    assert done.aside is not None
    assert [content for content, *_ in tree(done.aside).values() if content] == ["nowhere"]


def _command(archive: Archive, *words: str) -> tuple[int, str]:
    config = archive.root.parent / "config.toml"
    done = subprocess.run(
        [sys.executable, "-m", "ingestd", *words, "--config", str(config), "--data-root", str(archive.root)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    return done.returncode, done.stdout
