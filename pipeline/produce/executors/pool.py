"""The interface between a producer and the processes that work for it: submit a task, get a future.

Small enough for a fake in tests. joblib.Parallel does not fit: it pulls tasks from a generator inside a
callback that must never block, and a producer that waits for disk space submits tasks one at a time. The
trade-off: small tasks are not batched, which shards that take seconds do not need.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from joblib.externals.loky.process_executor import BrokenProcessPool

Task = TypeVar("Task")
Result = TypeVar("Result")

WorkerDied = BrokenProcessPool
"""What a future raises when its worker process was killed or crashed."""

MAX_JOBS = 1024
"""Upper limit for the number of workers: each takes tens of megabytes before it does anything."""


class WorkerPool(Protocol):
    """Runs functions on tasks in other processes."""

    def submit(self, function: Callable[[Task], Result], task: Task) -> Future[Result]:
        """Start one task. Its future raises WorkerDied when the worker died."""
        ...

    def close(self) -> None:
        """Stop all workers and kill those that are busy."""
        ...
