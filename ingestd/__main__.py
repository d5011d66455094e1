"""The console entry `ingestd`, also for `python -m ingestd`.

A worker process begins by importing the file its parent was run from. It needs no command line, so that is imported
only in `main`.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys

_INTERRUPTED = 130
"""`cli.exits.INTERRUPTED`, known before that can be imported."""


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    _begin_with_utf8()
    # If numpy is installed, pyarrow loads it, and numpy would start threads for linear algebra in every worker.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Pydantic would search all installed packages for plugins at the start of every process.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    gc.set_threshold(1_000_000)  # searching modules and manifests, which are no garbage, takes a tenth longer
    try:
        from ingestd import cli  # noqa: PLC0415  # worker processes do without it

        cli.main()
    except KeyboardInterrupt:  # before a command has begun, or after it has ended: nothing is in hand
        os._exit(_INTERRUPTED)
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        # All is written, and threads that are left only wait. Unloading the libraries takes longer than many commands.
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(end.code)


def _begin_with_utf8() -> None:
    """Start over in UTF-8 mode if the locale makes Python decode file names otherwise.

    A raw file would then have another name, and another path in the manifest, than for a service or a colleague.
    Output stays in the terminal's encoding.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"  # for the worker processes, too
    if sys.stdout is not None:
        os.environ.setdefault("PYTHONIOENCODING", sys.stdout.encoding)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  # no shell: the very command that was typed


if __name__ == "__main__":
    main()
