"""Files that a service was staging when it died: each is staged by itself, in a process that may die in its place.

The service stages within its own process, which is quickest. A file that exhausts the memory or crashes a library kills
it; so the names in hand are noted, and the start after a death stages those files last, in a child process.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from structlog.stdlib import BoundLogger

from ingestd.errors import Retry, without_frames
from ingestd.files import Scan
from ingestd.ingest.commit import Ingest
from ingestd.service.messages import Answered, Message
from ingestd.service.waiting import WaitList
from ingestd.stage.engine import GivenUp, ProcessEngine
from ingestd.stage.run import Failed, Outcome, StageTask, discard, failed_by_fault
from ingestd.stage.workspace import note_in_hand

LISTED = 20
"""How many suspects the log names at most."""


class Suspects:
    """Which files are suspects, and their staging. Only the worker calls it; a thread waits for the child process.

    A file stays a suspect, also across crashes, until it is staged without harm, is decided otherwise, or is gone.
    """

    def __init__(self, ingest: Ingest, waiting: WaitList, inbox: queue.SimpleQueue[Message | None]) -> None:
        self.names: set[str] = set(ingest.suspects)
        self._ingest = ingest
        self._list = waiting
        self._inbox = inbox
        self._tasks: dict[str, StageTask] = {}  # looked at; no process stages them yet
        self._in_hand: set[str] = set()
        self._answers: deque[Answered] = deque()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._stopping = threading.Event()

    def tell(self, log: BoundLogger) -> None:
        """Note the suspects of earlier services as this one's, and log them."""
        if self.names:
            self._note(())
            log.warning(
                "suspects",
                source_files=sorted(self.names)[:LISTED],
                files=len(self.names),
                problem="the last service died while it staged these files",
                next_step="nothing: each is now staged by itself, in a process of its own",
            )

    def clear_after(self, scan: Scan) -> None:
        """Clear those that a scan, if it saw everything, found decided or gone: the others are on the wait list."""
        if not scan.unreadable:
            self._clear(self.names - self._list.entries.keys())

    @contextmanager
    def noted(self, tasks: Sequence[StageTask]) -> Iterator[None]:
        """Keep these files noted as in hand for the block."""
        self._note(task.source_file for task in tasks)
        try:
            yield
        finally:
            self._note(())

    def _note(self, more: Iterable[str]) -> None:
        note_in_hand(self._ingest.workspace.folder, {*self.names, *more})

    def _clear(self, names: set[str]) -> None:
        if names:
            self.names -= names
            self._note(())

    # ---- staging ----------------------------------------------------------------------------------------------------

    def set_apart(self, tasks: list[StageTask]) -> list[StageTask]:
        """Keep the tasks of suspects until no other file is due; return the others."""
        if not self.names:
            return tasks
        for task in tasks:
            if task.source_file in self.names - self._in_hand:
                self._tasks[task.source_file] = task
        return [task for task in tasks if task.source_file not in self.names]

    @property
    def answered(self) -> bool:
        """Whether there is an answer to decide."""
        return bool(self._answers)

    def is_due(self) -> bool:
        """Tell whether there is an answer to decide or a suspect to stage."""
        return self.answered or (bool(self._tasks) and not self._busy)

    def go_on(self) -> None:
        """Start staging the suspects that were looked at, unless others are in hand."""
        if self._tasks and not self._busy:
            tasks, self._tasks, self._busy = list(self._tasks.values()), {}, True
            self._in_hand = {task.source_file for task in tasks}
            self._thread = threading.Thread(target=self._stage, args=(tasks,), name="suspects", daemon=True)
            self._thread.start()

    def _stage(self, tasks: Sequence[StageTask]) -> None:
        """Stage one after the other in a child process; the body of a thread."""
        left = deque(tasks)
        context, threads = self._ingest.context, self._ingest.settings.stage.polars_threads
        try:
            with ProcessEngine(context, workers=1, threads=threads, give_up=self._stopping.is_set) as engine:
                while left and not self._stopping.is_set():
                    began = time.monotonic()
                    ((outcome,),) = engine.stage([[left[0]]], lambda: False)
                    left.popleft()
                    self._inbox.put(Answered(outcome, began))
        except GivenUp:  # the next start stages them; what was written goes with this service's folder
            pass
        except Retry as error:  # no process can be run: none of these files is to blame; other files go on
            for task in left:
                self._inbox.put(Answered(Failed(task, without_frames(error)), time.monotonic()))
        except Exception as error:  # a process that cannot be started may cost these files, never the service
            for task in left:
                self._inbox.put(Answered(failed_by_fault(task, error), time.monotonic()))
        self._busy = False
        self._inbox.put(None)  # wakes the worker, which may start others

    def finish(self) -> None:
        """Start no more and give up the one in hand; afterwards all answers are on the queue.

        A child process that hangs, or is slow to start on a busy machine, must not hold up a stop.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    # ---- answers ----------------------------------------------------------------------------------------------------

    def take(self, answer: Answered) -> None:
        """Take an answer from the queue."""
        self._answers.append(answer)

    def decide(self, decide: Callable[[Sequence[Outcome], float], None]) -> None:
        """Decide the answers that came; a file that did no harm is no longer a suspect."""
        while self._answers:
            answer = self._answers.popleft()
            outcome, name = answer.outcome, answer.outcome.task.source_file
            self._in_hand.discard(name)
            if not isinstance(outcome, Failed):
                self._clear({name} & self.names)
            try:
                decide([outcome], answer.began)
            except BaseException:
                discard([outcome])
                self._list.again(name, time.monotonic())
                raise
            if name not in self._list.entries:  # decided; a hint that came meanwhile was ignored
                self._list.hint(name, time.monotonic())
