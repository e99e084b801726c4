"""The interface between a producer and its worker processes: submit a task, get a future.

The interface is small, so that tests can replace it. joblib.Parallel does not fit: it takes tasks from a
generator inside a callback that must never block, but a producer may wait for disk space before each task.
The trade-off: small tasks are not batched; shards take seconds, so they need no batching.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

with warnings.catch_warnings():
    # joblib warns about missing shared memory when it is imported; LokyPool reports it with the remedy.
    warnings.filterwarnings("ignore", message=".*joblib will operate in serial mode")
    from joblib.externals.loky import get_reusable_executor as get_reusable_executor
    from joblib.externals.loky.process_executor import BrokenProcessPool

WorkerDied = BrokenProcessPool
"""What a future raises when its worker process was killed or crashed."""

MAX_JOBS = 1024
"""Upper limit for the number of workers: each takes tens of megabytes before it does anything."""


class WorkerPool(Protocol):
    """Runs functions on tasks in other processes."""

    def submit(self, function: Callable[[Task], Result], task: Task) -> Future[Result]:
        """Start one task and return its future, which raises WorkerDied if the worker died."""
        ...

    def close(self) -> None:
        """Stop all workers; kill those that are working."""
        ...
