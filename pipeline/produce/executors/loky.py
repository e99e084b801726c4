"""Worker processes behind a seam small enough to fake: submit a task, get a future.

joblib's loky runs them. Its executor is used, not joblib.Parallel: Parallel pulls tasks from a callback
that must never block, and a producer that waits for disk space has to hand out tasks one at a time.
The same holds for joblib's dask and ray backends, so clusters too are used by their own futures
(cluster.py). The trade-off: no batching of small tasks, which shards of seconds do not need.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypeVar

from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import BrokenProcessPool

from darkprep.pipeline.raw.develop import develop
from darkprep.shards import RawError

Given = TypeVar("Given")
Made = TypeVar("Made")

WorkerDied = BrokenProcessPool
"""What a future raises when its worker process was killed or crashed."""

MOST_JOBS = 1024
"""Workers at most: every one takes tens of megabytes before it does anything."""
DECODE_TIMEOUT_S = 900.0
"""A decoder that takes longer does not end; the slowest file known takes 20 s on an idle machine."""
_NICENESS = 10
"""Producers yield to the trainer's reader thread, which needs little CPU but needs it at once."""
_PROBE_POLL_S = 0.1
_PR_SET_PDEATHSIG = 1


class Pool(Protocol):
    """Something that runs a function on tasks, elsewhere."""

    def submit(self, function: Callable[[Given], Made], task: Given) -> Future[Made]:
        """Start one task; its future raises WorkerDied when the worker did not survive it."""
        ...

    def close(self) -> None:
        """End all workers, killing those at work."""
        ...


class LokyPool:
    """`jobs` worker processes on this machine; replaced by fresh ones after one of them died."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._executor: Any = None

    def submit(self, function: Callable[[Given], Made], task: Given) -> Future[Made]:
        """Start one task in a living set of workers."""
        self._executor = get_reusable_executor(
            max_workers=self._jobs,
            timeout=300,
            initializer=_prepare_worker,
            initargs=(os.getpid(),),
            env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )
        future: Future[Made] = self._executor.submit(function, task)
        return future

    def close(self) -> None:
        """Kill the workers and wait for their end; what they were writing is swept by whoever takes over."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=True)
            self._executor = None


def _prepare_worker(producer: int) -> None:
    """Leave Ctrl-C to the producer, which ends its workers itself, die with it, and yield to the trainer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != producer:  # it died before we asked to be told
        os._exit(1)
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)


def crashes_decoder(
    path: Path, stop: threading.Event | None = None, *, timeout_s: float = DECODE_TIMEOUT_S
) -> bool:
    """Whether decoding and developing a file kills the process that does it, or does not end; tried in one of its own.

    `stop` set from outside ends the trial, of which nothing is known then.
    """
    stop = stop or threading.Event()
    process = multiprocessing.get_context("spawn").Process(
        target=_develop_quietly, args=(str(path),)
    )
    process.start()
    deadline = time.monotonic() + timeout_s
    while process.is_alive() and time.monotonic() < deadline and not stop.is_set():
        process.join(_PROBE_POLL_S)
    if process.is_alive():
        process.kill()
        process.join()
        return not stop.is_set()
    return (process.exitcode or 0) in {
        -signal.SIGSEGV,
        -signal.SIGABRT,
        -signal.SIGBUS,
        -signal.SIGFPE,
        -signal.SIGILL,
    }


def _develop_quietly(path: str) -> None:
    # Ctrl-C is for the producer, which ends the trial.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(RawError):
        develop(path)
