"""Find what people and programs name: a run by its id, a raw file by its path, the roots and the manifest."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from ingestd import files
from ingestd.errors import UsageError
from ingestd.histories.unknown import unknown
from ingestd.layout import Layout
from ingestd.words import closest, shown

_FEWEST = 6
"""Fewer digits of a run id would too easily be those of another run."""
_BEGINNING = re.compile(rf"[0-9a-f]{{{_FEWEST},20}}")
"""The beginning of a run id, or all of it."""


def is_run_id(asked: str) -> bool:
    """Tell whether a text may be a run id or the beginning of one; no raw file has such a name."""
    return _BEGINNING.fullmatch(asked.strip().lower()) is not None


def run_id_of(asked: str, known: Iterable[str]) -> str:
    """Find the run id that is, or begins with, what was asked for: 6 digits or more, in either case.

    Raises:
        UsageError: no run, or more than one, has that id, and near ones are named; or it has fewer digits.
    """
    wanted, ids = asked.strip().lower(), list(known)
    if len(wanted) < _FEWEST:
        raise UsageError(
            f"'{shown(wanted)}' is too short for a run id", next_step=f"give at least the first {_FEWEST} digits of one"
        )
    found = [run_id for run_id in ids if run_id.startswith(wanted)] if is_run_id(wanted) else []
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"{len(found)} runs have an id that begins with {wanted}",
            next_step="give more digits: " + ", ".join(sorted(found)[:_NAMED]) + (", ..." if found[_NAMED:] else ""),
        )
    raise unknown("id", wanted, ids)


_NAMED = 10


def source_file_of(layout: Layout, given: str, known: Collection[str] = (), *, anyway: bool = False) -> str:
    """Turn a path, or a path relative to the raw root, into the name a raw file has in the manifest.

    Symbolic links that lead to the raw root are followed, those below it are not. A file that is gone is found among
    the `known` names; one that is out of reach may be there. With `anyway`, one that is neither there nor known gets
    its likeliest name.

    Raises:
        UsageError: it does not lead to a file below the raw root.
    """
    names = list(_names_of(layout, given))
    for name in names:
        if name in known or not _is_absent(layout.raw_root / name):
            return name
    if "\\" in given:  # a name as it is printed, with characters escaped that would drive a terminal
        for name in known:
            if shown(name, 10 * len(name)) in names:
                return name
    if anyway and names:
        return names[0]
    raise UsageError(
        "this is not a file below the raw root",
        place=shown(given, 200),
        next_step=f"give its path below {layout.raw_root}, or check --data-root and --raw-root",
    )


def _is_absent(path: Path) -> bool:
    """Tell whether nothing has this name, or nothing can; False if that cannot be determined."""
    try:
        return not files.is_taken(path)
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG


def _names_of(layout: Layout, given: str) -> Iterator[str]:
    """List the names a path may mean: first as a path below the raw root, which is how ingestd prints it."""
    if "\0" in given:
        return
    # Python decodes a name that is not UTF-8 to surrogates. ingestd knows no such raw file: the name is only shown.
    path = os.fsencode(given).decode("utf-8", "backslashreplace")
    root = layout.raw_root
    real_root, followed = (Path(os.path.realpath(one)) for one in (root, path))  # which copes with a loop of links
    for base, place in ((root, root / path), (root, Path(path).absolute()), (real_root, followed)):
        below = Path(os.path.normpath(place))
        if below.is_relative_to(base) and below != base:
            yield below.relative_to(base).as_posix()


def near_files(given: str, known: Iterable[str]) -> str:
    """Name up to three of the `known` raw files that may be meant by a path: "a or b or c"; empty if none may be.

    Those with the same name (in either case), in whatever folder, come before those whose path, or else whose name, is
    spelt alike.
    """
    paths = sorted(known)
    names = {path: path.rpartition("/")[2].casefold() for path in paths}
    wanted = given.rpartition("/")[2].casefold()
    if same := [path for path in paths if names[path] == wanted]:
        near = closest(given, same, count=3, cutoff=0) if len(same) > _NEAR else same
    elif not (near := closest(given, paths, count=3, cutoff=0.7)):
        alike = closest(wanted, set(names.values()), count=3, cutoff=0.7)
        near = sorted((path for path in paths if names[path] in alike), key=lambda path: alike.index(names[path]))
    return " or ".join(shown(path, 200) for path in near[:_NEAR])


_NEAR = 3


def refuse_folder(layout: Layout, name: str) -> None:
    """Refuse a name about which nothing is known if it is a folder of raw files.

    Raises:
        UsageError: it is a folder.
    """
    path = layout.raw_file(name)
    if files.is_dir(path) and not path.is_symlink():
        raise UsageError("this is a folder", place=shown(str(path), 300), next_step="name a file in it")


def raw_file_is_gone(layout: Layout, source_file: str) -> bool:
    """Tell whether a raw file was deleted or moved, or a link or a folder is in its place, so that no scan finds it.

    False if the share is away or its folder out of reach.
    """
    try:
        return files.is_dir(layout.raw_root) and files.state_below(layout.raw_root, source_file) is None
    except OSError:
        return False


def require_raw_root(layout: Layout) -> None:
    """Check that there is a raw root, before anything is made in a data root that may be mistyped.

    Raises:
        UsageError: there is none.
        Retry: it is out of reach.
    """
    root = layout.raw_root
    with files.as_retry(root):
        why, file = files.why_no_root(root), files.exists(root)
    if why:
        step = "check --data-root, --raw-root or paths.raw_root (`ingestd config show`)"
        raise UsageError(why, place=str(root), next_step=step if file else f"{step}; is the share mounted?")


def require_manifest(layout: Layout) -> None:
    """Check that something was staged before it is read.

    Raises:
        UsageError: there is neither a manifest nor a log.
        Retry: they are out of reach.
    """
    with files.as_retry(layout.manifest_path):
        there = files.exists(layout.manifest_path) or files.is_dir(layout.wal_dir)
    if not there:
        raise UsageError(
            "there is no manifest here",
            place=str(layout.manifest_path),
            next_step="check the data root (`ingestd config show` lists the paths), or make one: `ingestd backfill`",
        )
