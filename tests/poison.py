"""A registry that ends the process which asks it for one procedure: a file that kills whoever stages it.

As a script it runs a service with that registry: `python poison.py python -m ingestd run ...`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from unittest import mock

from ingestd.raw.procedure import Procedure
from ingestd.raw.procedures import Registry

POISON = "Poison"
STUCK = "Stuck"
HUNG = "Hung"


class PoisonRegistry(Registry):
    """The procedures in force, and three classes: no process survives one, some processes come past the others."""

    def procedure_for(self, procedure_class: str, written: Sequence[str] = (), labels: Iterable[str] = ()) -> Procedure:
        """Answer as every registry does, unless the class is one of those.

        `POISON` kills; `STUCK` keeps a process that has no parent, `HUNG` one that has.
        """
        if procedure_class.endswith(POISON):
            os.kill(os.getpid(), signal.SIGKILL)
        if procedure_class.endswith(HUNG if multiprocessing.parent_process() else STUCK):
            signal.pause()
        return super().procedure_for(procedure_class.removesuffix(STUCK), written, labels)


def run_poisoned() -> None:
    """Run the command of this process's arguments with the registry that kills."""
    from ingestd.__main__ import main  # a child process need not load it

    load = Registry.load
    sys.argv[:] = ["ingestd", *sys.argv[4:]]
    with mock.patch.object(Registry, "load", lambda given: PoisonRegistry(list(load(given).procedures.values()))):
        main()


if __name__ == "__main__":
    run_poisoned()
