"""Which names below a raw root may be those of measurements, and why the others are passed over."""

from __future__ import annotations

from pathlib import Path

from ingestd.files.existence import is_dir


def is_csv(name: str) -> bool:
    """Tell whether a raw file's name ends in `.csv`, in any case."""
    return name[-4:].lower() == ".csv"


def may_be_csv(name: str) -> bool:
    """Tell whether `scan_csvs` may find a file at this path below its root: the path alone rules out many."""
    return is_csv(name) and not is_hidden(name) and not is_undecodable(name)


HIDDEN_STARTS = (".", "~$")
"""How names begin that are passed over: editors, rsync and file managers make those with a dot, Office those with `~$`
while somebody has the file open that they name.
"""

SYSTEM_FOLDERS = frozenset(
    {
        *("lost+found", "$recycle.bin", "system volume information"),
        *("#recycle", "#snapshot", "@eadir"),  # Synology
        *("@recycle", "@recently-snapshot"),  # QNAP
    }
)
"""Folders, in lower case, that Linux, Windows and NAS boxes make for themselves: what people deleted, or old copies."""


def is_hidden(name: str) -> bool:
    """Tell whether `scan_csvs` passes over this path below a raw root because of the names in it."""
    return any(part.startswith(HIDDEN_STARTS) or is_of_the_system(part) for part in name.split("/"))


def is_of_the_system(folder: str) -> bool:
    """Tell whether a folder of this name is one of `SYSTEM_FOLDERS`."""
    return folder.lower() in SYSTEM_FOLDERS


def why_passed_over(root: Path, name: str) -> str:
    """Say why `scan_csvs` passes over this path below its root; empty if it does not."""
    path, parts = root, name.split("/")
    for part in parts:
        path /= part
        if part.startswith("."):
            return "names that begin with a dot are not looked at"
        if part.startswith(HIDDEN_STARTS):
            return "names that begin with ~$ are made by Office while a file is open"
        if is_of_the_system(part):
            return f"{part} is a folder that systems make for themselves"
        if path.is_symlink():
            return "symbolic links are not followed"
    if is_dir(path):
        return "it is a folder"
    return "" if is_csv(parts[-1]) else "only names that end in .csv count"


def is_undecodable(name: str) -> bool:
    """Tell whether a name is not UTF-8: it can stand neither in a table nor in a JSON file."""
    if name.isascii():
        return False
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
