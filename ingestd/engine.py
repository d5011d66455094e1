"""Where batches are staged: spawned processes by default. An engine computes; it decides and records nothing.

Tasks are idempotent: one that ran twice, or whose answer was lost, costs time and nothing else.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import multiprocessing
import os
import shlex
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

from ingestd.errors import NoWorkers, Retry
from ingestd.stage.run import ALLOW_MORE, Failed, Outcome, StageContext, StageTask, discard, preload, stage_batch

PARENT_CHECK_S = 1.0
"""How often a worker looks whether its parent still lives, in seconds."""

POOL_CHECK_S = 1.0
"""How often it is looked whether a pool still lives while an answer of it is waited for, in seconds."""

TRIES = 2
"""So many processes must end before they do anything until it is said that none can be run."""

_SEE_WHY = f"free some memory, and see that `{shlex.quote(sys.executable)} -c 'import ingestd.engine'` runs"

Answer = TypeVar("Answer")

_context: StageContext | None = None


class GivenUp(Exception):
    """The caller asked for no answer any more."""


class Engine(Protocol):
    """Stages batches in parallel and answers in the order they were given."""

    def stage(self, batches: Iterable[list[StageTask]], stop: Callable[[], bool]) -> Iterator[list[Outcome]]:
        """Stage the batches; after `stop` answers True no further batch is begun, those in hand are finished."""
        ...


class ProcessEngine:
    """Spawned worker processes (never forked: polars deadlocks in a forked child). Use it as a context manager.

    A worker that dies (out of memory, killed) breaks the pool: the pool is built anew, the batches in hand are staged
    again, the oldest one file by file in a single process that is known to run, and a file that kills it once more is
    answered as `Failed`. So no file is blamed where no process can run: that is `NoWorkers`.

    Once `give_up` answers True, the processes are killed, in hand or not; what they wrote is the caller's to delete.
    """

    def __init__(
        self, context: StageContext, *, workers: int, threads: int, give_up: Callable[[], bool] = lambda: False
    ) -> None:
        self._context = context
        self._workers = workers
        self._threads = threads
        self._give_up = give_up
        self._executor: Executor | None = None

    def __enter__(self) -> ProcessEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(wait=True)

    def stage(self, batches: Iterable[list[StageTask]], stop: Callable[[], bool]) -> Iterator[list[Outcome]]:
        """Stage the batches; answers in their order, at most two batches a worker in hand.

        Raises:
            NoWorkers: a process cannot be started, or each ends before it does anything.
            GivenUp: `give_up` answers True.
        """
        in_hand: deque[tuple[list[StageTask], Future[list[Outcome]]]] = deque()
        for batch in batches:
            if stop():
                break
            in_hand.append((batch, self._begin(batch)))
            if len(in_hand) > 2 * self._workers:
                yield self._answer(in_hand)
        while in_hand:
            yield self._answer(in_hand)

    def _answer(self, in_hand: deque[tuple[list[StageTask], Future[list[Outcome]]]]) -> list[Outcome]:
        batch, future = in_hand.popleft()
        try:
            return self._result(future)
        except BrokenProcessPool:
            answers = self._one_by_one(batch)
            try:
                for position, (waiting, broken) in enumerate(in_hand):
                    if not broken.done() or broken.cancelled() or broken.exception() is not None:
                        in_hand[position] = (waiting, self._begin(waiting))
            except NoWorkers:
                discard(answers)
                raise
            return answers

    def _one_by_one(self, batch: list[StageTask]) -> list[Outcome]:
        """Stage each file of a batch by itself; only one that kills a process which was seen to run is blamed."""
        answers: list[Outcome] = []
        try:
            self._begin_single()
            for task in batch:
                try:
                    alone = self._result(self._begin([task]))
                    answers += alone
                except BrokenProcessPool:
                    self._begin_single()
                    answers.append(self._died(task))
        except BaseException:
            discard(answers)
            raise
        self._end()
        return answers

    def _result(self, future: Future[Answer]) -> Answer:
        """Wait for an answer of the pool, which gives none, nor an error, once its own thread has ended.

        CPython shows neither that thread nor the processes; where it calls them otherwise, they are not looked at.
        """
        while not wait([future], POOL_CHECK_S).done:
            if self._give_up():
                self._kill()
                raise GivenUp
            thread = getattr(self._executor, "_executor_manager_thread", None)
            if thread is not None and not thread.is_alive() and not future.done():
                for process in self._kill():  # nobody else would
                    process.join()
                raise BrokenProcessPool("the thread that hands out the work has ended")
        return future.result()

    def _kill(self) -> list[BaseProcess]:
        processes = list((getattr(self._executor, "_processes", None) or {}).values())
        for process in processes:
            process.kill()
        return processes

    def _died(self, task: StageTask) -> Failed:
        retry = Retry(
            "the process that staged only this file died (out of memory?)",
            place=str(self._context.raw_root / task.source_file),
            next_step="free some memory, or lower stage.workers; where there is enough, please report it with the file",
        )
        return Failed(task, retry)

    def _begin(self, batch: list[StageTask]) -> Future[list[Outcome]]:
        """Begin to stage a batch; where the pool is broken, its answer is that."""
        try:
            return self._submit(_stage, batch)
        except BrokenProcessPool as error:
            future: Future[list[Outcome]] = Future()
            future.set_exception(error)
            return future

    def _begin_single(self) -> None:
        """Build a pool of one process, which has run an empty task when this returns."""
        for _ in range(TRIES):
            if self._give_up():
                raise GivenUp
            self._end()
            with contextlib.suppress(BrokenProcessPool):
                return self._result(self._submit(_ready, workers=1))
        raise NoWorkers(
            "no process can be run to stage files in: each ended before it did anything",
            place=sys.executable,
            next_step=_SEE_WHY,
        )

    def _submit(self, do: Callable[..., Answer], *arguments: object, workers: int | None = None) -> Future[Answer]:
        """Hand a task to the pool, which begins processes as there are tasks for them."""
        before = set(multiprocessing.active_children())
        try:
            if self._executor is None:
                self._executor = ProcessPoolExecutor(
                    workers or self._workers,
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=_prepare,
                    initargs=(self._context, self._threads, os.getpid()),
                )
            with _unheard(signal.SIGINT):
                return self._executor.submit(do, *arguments)
        except BrokenProcessPool:
            raise
        except (OSError, RuntimeError) as error:
            if begun := set(multiprocessing.active_children()) - before:  # no thread could be begun that ends them
                for process in begun:
                    process.kill()
                self._executor = None
            # What cannot begin a thread raises a RuntimeError.
            limited = isinstance(error, RuntimeError) or error.errno in {errno.EAGAIN, errno.EMFILE, errno.ENFILE}
            message = f"a process to stage files in cannot be started: {error}"
            raise NoWorkers(message, place=sys.executable, next_step=ALLOW_MORE if limited else _SEE_WHY) from error

    def _end(self, *, wait: bool = False) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=wait, cancel_futures=True)
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


def _prepare(context: StageContext, threads: int, parent: int) -> None:
    """Prepare a worker: threads are few, and it ends when its parent does. Ctrl-C is the parent's to handle."""
    global _context  # noqa: PLW0603  # a worker process has one context for its life
    os.environ["POLARS_MAX_THREADS"] = str(threads)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # when memory runs out, it goes before its parent
    import pyarrow as pa  # noqa: PLC0415  # after the thread limits are set

    pa.set_cpu_count(threads)
    preload()
    gc.freeze()  # what is loaded now stays: no collection need look at it again
    atexit.register(_end_at_once)
    _context = context


def _end_at_once() -> None:
    """End a worker that is asked for nothing more, as it is: its answers are out.

    Taken apart it could abort: a thread of pyarrow's may still let go of the last file's bytes, and asks for Python's
    lock to do so when there is none any more.
    """
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(0)


def _end_with(parent: int) -> NoReturn:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    os._exit(1)


def _ready() -> None:
    """Do nothing: a worker that answers this was prepared."""


def _stage(batch: list[StageTask]) -> list[Outcome]:
    if _context is None:
        raise RuntimeError("the worker was not prepared")
    return stage_batch(batch, _context)
