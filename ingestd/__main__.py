"""The console entry `ingestd`, which is `python -m ingestd` too.

A process that stages begins by importing the file its parent was run from. It needs no command line, so that is loaded
within `main`.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    _begin_with_utf8()
    # Numpy, which pyarrow loads where it is installed, starts threads for an algebra nobody asks for, in every worker.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Pydantic would search all installed packages for plugins whenever a process begins.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    gc.set_threshold(1_000_000)  # modules and manifests are no garbage: to look for it takes a tenth longer
    from ingestd import cli  # noqa: PLC0415  # processes that stage do without

    try:
        cli.main()
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        # All is written, and threads that are left only wait. To take the libraries apart takes longer than many a
        # command.
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(end.code)


def _begin_with_utf8() -> None:
    """Start over where Python, as the locale has it, would read the names of files as other text than UTF-8.

    A raw file would have another name then, and another path in the manifest, than for a service or a colleague. What
    is printed stays in the terminal's encoding.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"  # for the processes that stage, too
    if sys.stdout is not None:
        os.environ.setdefault("PYTHONIOENCODING", sys.stdout.encoding)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  # no shell: the very command that was typed


if __name__ == "__main__":
    main()
