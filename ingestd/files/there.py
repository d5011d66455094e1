"""What stands at a path, links followed. What is out of reach may be there: that is an error, never a no.

`pathlib` answers such a question with False from Python 3.14 on, and raises before.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def exists(path: Path) -> bool:
    """Tell whether anything stands there.

    Raises:
        OSError: it cannot be told.
    """
    return _status(path) is not None


def is_dir(path: Path) -> bool:
    """Tell whether a folder stands there; errors as `exists`."""
    status = _status(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def is_file(path: Path) -> bool:
    """Tell whether a regular file stands there; errors as `exists`."""
    status = _status(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def is_gone(path: Path) -> bool:
    """Tell whether nothing stands there for sure."""
    try:
        return not exists(path)
    except OSError:
        return False


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:  # a link that leads to itself leads nowhere
            raise
        return None
    except ValueError:  # no path at all: it has a NUL character
        return None
