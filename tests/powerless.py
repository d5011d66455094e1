"""Commands for which file permissions count: `from powerless import powerless`."""

from __future__ import annotations

import os
import shutil

import pytest


def powerless() -> list[str]:
    """Return what to put before a command so that file permissions count for it, as for any user but root."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root cannot give up reading every file: setpriv (util-linux) is not here")
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"]
