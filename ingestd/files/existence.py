"""What exists at a path, following links but in `is_taken`. What is out of reach may exist: an error, never a no.

From Python 3.14 on, `pathlib` answers False in that case; before, it raises.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def exists(path: Path) -> bool:
    """Tell whether anything exists there.

    Raises:
        OSError: that cannot be determined.
    """
    return status_at(path) is not None


def is_dir(path: Path) -> bool:
    """Tell whether there is a folder; errors as `exists`."""
    status = status_at(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def is_file(path: Path) -> bool:
    """Tell whether there is a regular file; errors as `exists`."""
    status = status_at(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def is_taken(path: Path) -> bool:
    """Tell whether something has this name, be it a link that leads nowhere; errors as `exists`."""
    return status_at(path, follow_links=False) is not None


def is_spelt_so(root: Path, name: str) -> bool:
    """Tell whether what `name` leads to below `root` has this very name: a Windows share ignores case.

    Raises:
        OSError: a folder on the way cannot be listed.
    """
    place = root
    for part in name.split("/"):
        if all(entry.name != part for entry in place.iterdir()):
            return False
        place /= part
    return True


def is_gone(path: Path) -> bool:
    """Tell whether it is certain that nothing exists there."""
    try:
        return not exists(path)
    except OSError:
        return False


def status_at(path: Path, *, follow_links: bool = True) -> os.stat_result | None:
    """Look at what is there; None if it is nothing; errors as `exists`."""
    try:
        return path.stat() if follow_links else path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:  # a link that leads to itself leads nowhere
            raise
        return None
    except ValueError:  # not a path at all: it has a NUL character
        return None
