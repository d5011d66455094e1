"""Stage on an existing Dask cluster whose workers see the data root: the same tasks, elsewhere.

Needs the extra `ingestd[dask]`. Decisions, log and histories stay with the one process that runs the backfill; workers
read raw files and write undecided Parquet into its folder below `_tmp`, on the file system they all share.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ingestd import __version__
from ingestd.errors import NoWorkers, Retry, UsageError
from ingestd.stage.run import Failed, Outcome, StageContext, StageTask, stage_batch

CONNECT_S = 10
"""How long to wait for the scheduler's answer, in seconds."""

BATCHES_A_THREAD = 3
"""Batches in hand per worker thread: enough that none waits for the network."""

_LOGGERS = ("distributed", "distributed.client", "tornado.application")
"""Loggers that print tracebacks when a connection ends, which is reported here as an error of its own."""


class DaskEngine:
    """Stages on a Dask cluster. Use it as a context manager.

    Tasks are submitted as impure, so that a changed file is staged anew under the same arguments. When a worker dies,
    Dask runs its batch again; a batch that killed several workers is staged file by file, and a file that does so alone
    is answered as `Failed`. A worker that joins or leaves meanwhile changes only the time it takes.
    """

    def __init__(self, context: StageContext, *, scheduler: str) -> None:
        self._context = context
        self._scheduler = scheduler
        self._client: Any  # a distributed.Client, as long as the engine is open
        self._executor: Executor

    def __enter__(self) -> DaskEngine:
        """Connect, and check that every worker has this ingestd, sees the raw root and can write Parquet.

        Raises:
            UsageError: the extra is not installed, or a worker has another ingestd or none, or no data root.
            Retry: the scheduler does not answer, or has no workers.
        """
        try:
            from distributed import Client  # noqa: PLC0415  # an extra
        except ImportError:
            raise UsageError(
                "the Dask engine is not installed", next_step="pip install 'ingestd[dask]', or leave out --engine"
            ) from None
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            self._client = Client(  # type: ignore[no-untyped-call]  # the library has no types
                self._scheduler, timeout=CONNECT_S, set_as_default=False
            )
        except (OSError, ValueError) as error:
            raise Retry(
                f"the Dask scheduler does not answer: {error}",
                place=self._scheduler,
                next_step="check the address, and that it runs: `dask scheduler` prints it",
            ) from error
        try:
            self._check_workers()
        except BaseException:
            self._client.close()
            raise
        self._executor = self._client.get_executor(pure=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def _check_workers(self) -> None:
        versions: dict[str, str | Exception] = self._client.run(_version, on_error="return")
        if not versions:
            raise Retry("the Dask scheduler has no workers", place=self._scheduler, next_step="start `dask worker`")
        for worker, version in sorted(versions.items()):
            if version != __version__:
                there = f"runs ingestd {version}" if isinstance(version, str) else f"cannot run ingestd ({version})"
                raise UsageError(
                    f"worker {worker} {there}, and this is ingestd {__version__}",
                    place=self._scheduler,
                    next_step="install the same version where every worker runs, and restart the workers",
                )
        places = (self._context.raw_root, self._context.temporary)
        answers: dict[str, str] = self._client.run(_blind_to, *places)
        for worker, problem in sorted(answers.items()):
            if problem:
                raise UsageError(
                    f"worker {worker} {problem}",
                    place=self._scheduler,
                    next_step="mount the data root under the same path on every worker, writable for its user",
                )

    def stage(self, batches: Iterable[list[StageTask]], stop: Callable[[], bool]) -> Iterator[list[Outcome]]:
        """Stage the batches; yield answers in their order, with a few batches per worker thread in hand.

        Raises:
            NoWorkers: the cluster was lost.
        """
        in_hand: deque[tuple[list[StageTask], Future[list[Outcome]]]] = deque()
        for batch in batches:
            if stop():
                break
            with self._not_lost():
                in_hand.append((batch, self._submit(batch)))
                enough = len(in_hand) > BATCHES_A_THREAD * self._threads()
                answer = self._answer(*in_hand.popleft()) if enough else None
            if answer is not None:
                yield answer
        while in_hand:
            with self._not_lost():
                answer = self._answer(*in_hand.popleft())
            yield answer

    @contextmanager
    def _not_lost(self) -> Iterator[None]:
        """Raise `NoWorkers` if the scheduler went away: no file is to blame."""
        try:
            yield
        except (OSError, CancelledError) as error:
            raise NoWorkers(
                f"the Dask cluster was lost: {error or type(error).__name__}",
                place=self._scheduler,
                next_step="check that the scheduler runs and can be reached from here",
            ) from error

    def _threads(self) -> int:
        threads: dict[str, int] = self._client.nthreads()
        return max(1, sum(threads.values()))

    def _submit(self, batch: list[StageTask]) -> Future[list[Outcome]]:
        return self._executor.submit(stage_batch, batch, self._context)

    def _answer(self, batch: list[StageTask], future: Future[list[Outcome]], *, tries: int = 2) -> list[Outcome]:
        from distributed import KilledWorker  # noqa: PLC0415  # an extra

        try:
            return future.result()
        except KilledWorker as error:
            if len(batch) > 1:
                alone = [([task], self._submit([task])) for task in batch]
                return [outcome for one in alone for outcome in self._answer(*one)]
            return [self._gave_up(batch[0], error)]
        except (OSError, CancelledError):  # the cluster's error, not the batch's
            raise
        except Exception:
            # If a worker is killed after its answer was fetched and before it is handed on, distributed takes the
            # answer for the batch's error (`cfexecutor._cascade_future`). Staging it again costs only time.
            if tries == 1:
                raise
            return self._answer(batch, self._submit(batch), tries=tries - 1)

    def _gave_up(self, task: StageTask, error: Exception) -> Failed:
        retry = Retry(
            f"several workers died staging it (out of memory?): {error}",
            place=str(self._context.raw_root / task.source_file),
            next_step="give the workers more memory; it is tried again next time",
        )
        return Failed(task, retry)


def _version() -> str:
    """Return the version of ingestd. Runs on the worker."""
    return __version__


def _blind_to(raw_root: Path, temporary: Path) -> str:
    """Say what a worker cannot read or write; "" if all is well. Runs on the worker."""
    import os  # noqa: PLC0415  # runs elsewhere

    if not os.access(raw_root, os.R_OK | os.X_OK):
        return f"cannot read {raw_root}"
    if not os.access(temporary, os.W_OK | os.X_OK):
        return f"cannot write to {temporary}"
    return ""
