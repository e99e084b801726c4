"""A pool whose worker processes serve the next build too, because starting one takes a second of computing."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

from darkprep.pipeline.produce import worker
from darkprep.pipeline.produce.executors.loky import LokyPool
from darkprep.pipeline.produce.executors.pool import Result, Task

_NUMBERS = itertools.count()


class ReusedWorkers(LokyPool):
    """A LokyPool that keeps its idle workers when it is closed. They start each pool's work without memory of the last."""

    _kept: ClassVar[Any] = None

    def __init__(self, jobs: int) -> None:
        super().__init__(jobs)
        self._number = next(_NUMBERS)
        self._futures: list[Future[Any]] = []

    def submit(self, function: Callable[[Task], Result], task: Task) -> Future[Result]:
        work = (self._number, str(Path.cwd()), function, task)
        future: Future[Result] = super().submit(_run, work)
        self._futures.append(future)
        return future

    def close(self) -> None:
        if all(future.done() for future in self._futures):
            ReusedWorkers._kept, self._executor = self._executor, None
        super().close()

    @classmethod
    def end_all(cls) -> None:
        """End the idle workers."""
        pool = cls(1)
        pool._executor, cls._kept = cls._kept, None
        LokyPool.close(pool)


_last: int | None = None


def _run(work: tuple[int, str, Callable[[Any], Any], Any]) -> Any:
    """Run a task as a worker would that was started for its pool: in the same directory, with empty caches."""
    global _last
    number, directory, function, task = work
    if number != _last:
        os.chdir(directory)
        worker._worker_state.cache_clear()
        worker._dark_frame.cache_clear()
        _last = number
    return function(task)
