"""Where batches are staged: spawned processes by default. An engine computes; it decides and records nothing.

Tasks are idempotent: one that ran twice, or whose answer was lost, costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NoReturn, Protocol

from ingestd.stage.run import Failed, Outcome, StageContext, StageTask, load, stage_batch

PARENT_CHECK_S = 1.0
"""How often a worker looks whether its parent still lives, in seconds."""

_context: StageContext | None = None


class Engine(Protocol):
    """Stages batches in parallel and answers in the order they were given."""

    def stage(self, batches: Iterable[list[StageTask]], stop: Callable[[], bool]) -> Iterator[list[Outcome]]:
        """Stage the batches; after `stop` answers True no further batch is begun, those in hand are finished."""
        ...


class InlineEngine:
    """Stages in the calling process, one batch after the other: for a few files, and where no process may be started.

    A file that kills the process takes the caller with it; `ProcessEngine` is safe from that.
    """

    def __init__(self, context: StageContext) -> None:
        self._context = context

    def __enter__(self) -> InlineEngine:
        return self

    def __exit__(self, *_: object) -> None:
        """Hold nothing, free nothing."""

    def stage(self, batches: Iterable[list[StageTask]], stop: Callable[[], bool]) -> Iterator[list[Outcome]]:
        """Stage the batches, each when its answer is asked for."""
        for batch in batches:
            if stop():
                break
            yield stage_batch(batch, self._context)


class ProcessEngine:
    """Spawned worker processes (never forked: polars deadlocks in a forked child). Use it as a context manager.

    A worker that dies (out of memory, killed) breaks the pool: the pool is built anew, the batches in hand are staged
    again, the oldest one file by file, and a file that kills its worker once more is answered as `Failed`.
    """

    def __init__(self, context: StageContext, *, workers: int, threads: int) -> None:
        self._context = context
        self._workers = workers
        self._threads = threads
        self._executor: Executor | None = None

    def __enter__(self) -> ProcessEngine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def stage(self, batches: Iterable[list[StageTask]], stop: Callable[[], bool]) -> Iterator[list[Outcome]]:
        """Stage the batches; answers in their order, at most two batches a worker in hand."""
        in_hand: deque[tuple[list[StageTask], Future[list[Outcome]]]] = deque()
        for batch in batches:
            if stop():
                break
            in_hand.append((batch, self._submit(batch)))
            if len(in_hand) > 2 * self._workers:
                yield self._answer(in_hand)
        while in_hand:
            yield self._answer(in_hand)

    def _answer(self, in_hand: deque[tuple[list[StageTask], Future[list[Outcome]]]]) -> list[Outcome]:
        batch, future = in_hand.popleft()
        try:
            return future.result()
        except BrokenProcessPool:
            self._restart()
            answers = [outcome for task in batch for outcome in self._alone(task)]
            for position, (waiting, broken) in enumerate(in_hand):
                if not broken.done() or broken.cancelled() or broken.exception() is not None:
                    in_hand[position] = (waiting, self._submit(waiting))
            return answers

    def _alone(self, task: StageTask) -> list[Outcome]:
        try:
            return self._submit([task]).result()
        except BrokenProcessPool:
            self._restart()
            return [
                Failed(
                    task,
                    "the process that staged it died twice (out of memory?)",
                    str(self._context.raw_root / task.source_file),
                    "free some memory, or lower stage.workers; where there is enough, please report it with the file",
                )
            ]

    def _submit(self, batch: list[StageTask]) -> Future[list[Outcome]]:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self._workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(self._context, self._threads, os.getpid()),
            )
        try:
            with _unheard(signal.SIGINT):
                return self._executor.submit(_stage, batch)
        except BrokenProcessPool:
            self._restart()
            return self._submit(batch)

    def _restart(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None


@contextlib.contextmanager
def _unheard(number: signal.Signals) -> Iterator[None]:
    """Hold a signal back for the block, and for ever in the processes started by it.

    A terminal sends Ctrl-C to all of them; a worker that hears it before it is prepared ends with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(context: StageContext, threads: int, parent: int) -> None:
    """Prepare a worker: threads are few, and it ends when its parent does. Ctrl-C is the parent's to handle."""
    global _context  # noqa: PLW0603  # a worker process has one context for its life
    os.environ["POLARS_MAX_THREADS"] = str(threads)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # when memory runs out, it goes before its parent
    import pyarrow as pa  # noqa: PLC0415  # after the thread limits are set

    pa.set_cpu_count(threads)
    load()
    gc.freeze()  # what is loaded now stays: no collection need look at it again
    _context = context


def _end_with(parent: int) -> NoReturn:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    os._exit(1)


def _stage(batch: list[StageTask]) -> list[Outcome]:
    if _context is None:
        raise RuntimeError("the worker was not prepared")
    return stage_batch(batch, _context)
