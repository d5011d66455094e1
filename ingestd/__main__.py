"""The console entry `ingestd`, which is `python -m ingestd` too.

The processes that stage are begun by importing the file their parent was run from: what they need not is loaded inside.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys


def main() -> None:
    """Run the command line."""
    # Numpy, which pyarrow loads where it is installed, starts threads for an algebra nobody asks for, in every worker.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Nor for a search of all installed packages for plugins of pydantic, whenever a process begins.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    gc.set_threshold(1_000_000)  # modules and manifests are no garbage: to look for it takes a tenth longer
    from ingestd import cli  # noqa: PLC0415

    try:
        cli.main()
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        # All is written, and no thread of ours is left. To take the libraries apart takes longer than many a command.
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(end.code)


if __name__ == "__main__":
    main()
