"""Worker processes on this machine, run by joblib's loky executor."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import queue
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from darkprep.pipeline.produce.executors.pool import Result, Task, get_reusable_executor
from darkprep.shards.errors import MachineError
from darkprep.shards.files import NO_SPACE
from darkprep.shards.process import end_with_parent, safe_import_path

_NICENESS = 10
"""Priority of workers: below the trainer's reader thread, which needs little CPU time but without delay."""
_IDLE_TIMEOUT_S = 300
_TASKS = "darkprep.pipeline.produce.worker"
"""The module of the functions that workers run. This one may not import it: it is a layer above."""
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 # only named in a message
_OF_SHARED_MEMORY = NO_SPACE | {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT}
_SINGLE_THREADED = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


class LokyPool:
    """`jobs` worker processes on this machine. If one of them dies, all are replaced."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._started = 1
        """Number of workers that are started."""
        self._executor: Any = None

    def start(self) -> None:
        """Start one worker before the first task, so that it imports its modules while this process does other work.

        A pool that is created later takes it over. Raises MachineError as `submit`.
        """
        with _shared_memory_errors(), safe_import_path(), _interrupts_blocked():
            self._open()._ensure_executor_running()

    def submit(self, function: Callable[[Task], Result], task: Task) -> Future[Result]:
        """Start one task, and the workers if they are not running yet.

        A task with as many `threads` as there are to be workers is left alone: the other workers start with the next
        task. Raises MachineError if there is no shared memory for them.
        """
        if getattr(task, "threads", 1) < self._jobs:
            self._started = self._jobs
        with _shared_memory_errors(), safe_import_path():
            future: Future[Result] = self._open().submit(function, task)
        return future

    def _open(self) -> Any:
        """Return the executor of this process, with the number of workers that are to be started by now."""
        self._executor = get_reusable_executor(
            max_workers=self._started,
            timeout=_IDLE_TIMEOUT_S,
            initializer=_initialise_worker,
            initargs=(os.getpid(),),
            env=_SINGLE_THREADED,
        )
        return self._executor

    def close(self) -> None:
        """Kill the workers and wait until they have exited. Their unfinished files remain."""
        if self._executor is not None:
            # loky forgets the tasks that wait, but not their numbers; its thread would then fail with a KeyError.
            numbers = self._executor._work_ids
            with contextlib.suppress(queue.Empty):
                while True:
                    numbers.get_nowait()
            self._executor.shutdown(wait=True, kill_workers=True)
            self._executor = None


@contextlib.contextmanager
def worker_started() -> Iterator[None]:
    """Start the first worker for a block, which prepares its task; no worker is left after the block.

    Raises MachineError as `LokyPool.submit`.
    """
    pool = LokyPool(1)
    try:
        pool.start()
        yield
    finally:
        pool.close()


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C in the processes that are started in a `with` block, so that it does not interrupt their imports."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _shared_memory_errors() -> Iterator[None]:
    """Raise MachineError for an OSError of a semaphore, which names no file: it is in shared memory."""
    try:
        yield
    except OSError as error:
        if error.filename or error.errno not in _OF_SHARED_MEMORY:
            raise
        raise MachineError(
            _SHARED_MEMORY,
            f"{error.strerror}; worker processes need a few kB of shared memory in {_SHARED_MEMORY}: mount it writable, with free space (docker: --shm-size=64m)",
            "written",
        ) from error


def _initialise_worker(producer_pid: int) -> None:
    """Set up a worker: ignore Ctrl-C, which the producer handles, exit with the producer, lower the priority, import."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(producer_pid)
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    importlib.import_module(_TASKS)
