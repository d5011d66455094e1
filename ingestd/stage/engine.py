"""Where batches are staged: spawned processes by default. An engine computes; it decides and records nothing.

Tasks are idempotent: one that ran twice, or whose answer was lost, costs only time.
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
"""How often a worker checks that its parent is alive, in seconds."""

POOL_CHECK_S = 1.0
"""How often to check that a pool is alive while waiting for its answer, in seconds."""

TRIES = 2
"""How many processes in a row must end before they do anything until we conclude that none can be run."""

_SEE_WHY = f"free some memory, and check that `{shlex.quote(sys.executable)} -c 'import ingestd.stage.engine'` runs"

Answer = TypeVar("Answer")

_context: StageContext | None = None


class GivenUp(Exception):
    """The caller no longer wants an answer."""


class Engine(Protocol):
    """Stages batches in parallel and answers in the order they were given."""

    def stage(self, batches: Iterable[list[StageTask]], stop: Callable[[], bool]) -> Iterator[list[Outcome]]:
        """Stage the batches; once `stop` returns True no further batch is begun, and those in hand are finished."""
        ...


class ProcessEngine:
    """Spawned worker processes (never forked: polars deadlocks in a forked child). Use it as a context manager.

    A worker that dies (out of memory, killed) breaks the pool. The pool is then built anew and the batches in hand are
    staged again, the oldest one file by file in a single process that is known to run; a file that kills this process
    too is answered as `Failed`. So no file is blamed if no process can run: that is `NoWorkers`.

    Once `give_up` returns True, the processes are killed, busy or not; the caller deletes what they wrote.
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
        """Stage the batches; yield answers in their order, with about two batches per worker in hand.

        Raises:
            NoWorkers: a process cannot be started, or each ends before it does anything.
            GivenUp: `give_up` returned True.
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
        """Stage each file of a batch by itself; only one that kills a process known to run is blamed."""
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
        """Wait for an answer of the pool, which gives neither answer nor error once its own thread has ended.

        That thread and the processes are private to CPython; under other names they would not be checked.
        """
        while not wait([future], POOL_CHECK_S).done:
            if self._give_up():
                self._kill()
                raise GivenUp
            thread = getattr(self._executor, "_executor_manager_thread", None)
            if thread is not None and not thread.is_alive() and not future.done():
                for process in self._kill():  # nobody else does
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
            next_step="free some memory, or lower stage.workers; if memory is enough, please report it with the file",
        )
        return Failed(task, retry)

    def _begin(self, batch: list[StageTask]) -> Future[list[Outcome]]:
        """Start staging a batch; if the pool is broken, its answer is that error."""
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
        """Hand a task to the pool, which starts processes as it has tasks for them."""
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
            begun = set(multiprocessing.active_children()) - before
            for process in begun:  # the thread that ends them did not start
                process.kill()
            ended = isinstance(error, BrokenPipeError)  # before it had read what to do; an error from Python 3.14 on
            if begun or ended:
                self._executor = None
            if ended:
                raise BrokenProcessPool(str(error)) from error
            # A thread that cannot be started raises a RuntimeError.
            limited = isinstance(error, RuntimeError) or error.errno in {errno.EAGAIN, errno.EMFILE, errno.ENFILE}
            message = f"a process to stage files in cannot be started: {error}"
            raise NoWorkers(message, place=sys.executable, next_step=ALLOW_MORE if limited else _SEE_WHY) from error

    def _end(self, *, wait: bool = False) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=wait, cancel_futures=True)
            self._executor = None


@contextlib.contextmanager
def _unheard(number: signal.Signals) -> Iterator[None]:
    """Block a signal for the block, and permanently in the processes started in it.

    A terminal sends Ctrl-C to all of them; a worker that receives it before it is prepared ends with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare(context: StageContext, threads: int, parent: int) -> None:
    """Prepare a worker: limit its threads, and let it end when its parent does. The parent handles Ctrl-C."""
    global _context  # noqa: PLW0603  # a worker process has one context for its life
    os.environ["POLARS_MAX_THREADS"] = str(threads)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # when memory runs out, it is killed before its parent
    import pyarrow as pa  # noqa: PLC0415  # after the thread limits are set

    pa.set_cpu_count(threads)
    preload()
    gc.freeze()  # what is loaded now stays: garbage collections need not look at it again
    atexit.register(_end_at_once)
    _context = context


def _end_at_once() -> None:
    """End a worker at once when it has no more work: its answers are out.

    An orderly exit could abort: a thread of pyarrow may still be releasing the last file's bytes, and needs Python's
    lock for it when that no longer exists.
    """
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(0)


def _end_with(parent: int) -> NoReturn:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    os._exit(1)


def _ready() -> None:
    """Do nothing: a worker that answers is prepared."""


def _stage(batch: list[StageTask]) -> list[Outcome]:
    if _context is None:
        raise RuntimeError("the worker was not prepared")
    return stage_batch(batch, _context)
