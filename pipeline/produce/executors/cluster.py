"""Common functions of the dask and ray pools: compare the workers' versions, translate errors.

Both libraries give a future per task, which is all that a producer needs; joblib's own backends for them
are not used, for the reason given in pool.py. The trade-off: every worker must see the spool and the
photographs under the same paths as the producer, and each worker process makes one shard at a time, however
many threads it has.
"""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from darkprep.pipeline.produce.executors.pool import Result, Task, WorkerDied
from darkprep.shards import OptionError
from darkprep.shards.errors import first_line

CONNECT_TIMEOUT_S = 15
_CHECKED_PACKAGES = ("darkprep", "rawpy", "numpy")
_WORKER_DIED_NAMES = frozenset(
    {
        "KilledWorker",
        "FutureCancelledError",
        "CancelledError",
        "WorkerCrashedError",
        "NodeDiedError",
        "RaySystemError",
        "TaskCancelledError",
        "OutOfMemoryError",
        "CommClosedError",
    }
)
"""Class names of the exceptions that dask and ray raise when a worker died. Names, because neither
library is imported unless it is used."""
_task_lock = threading.Lock()


def run_task(function: Callable[[Task], Result], task: Task) -> Result:
    """Run one task in a worker process of a cluster; a lock ensures that the process makes one shard at a time."""
    with _task_lock:
        return function(task)


def package_versions() -> dict[str, str]:
    """Return the versions of the packages on which, besides the plan, the bytes of a shard depend."""
    return {name: importlib.metadata.version(name) for name in _CHECKED_PACKAGES}


def description(address: str | None) -> str:
    """Return the beginning of a message about the cluster at `address`, or about one started on this machine."""
    return f"address {address}" if address else "the cluster that was started on this machine"


def check_versions(versions: dict[str, dict[str, str]]) -> None:
    """Raise OptionError, which names the worker, when a worker has other package versions than this process."""
    own = package_versions()
    for worker, theirs in versions.items():
        different = [
            f"{name} {theirs[name]}, not {own[name]}" for name in own if theirs[name] != own[name]
        ]
        if different:
            raise OptionError(
                f"worker {worker} has {'; '.join(different)}, so its shards would differ; install the same versions there as here"
            )


def query_workers(query: Callable[[], Any]) -> Any:
    """Return the result of a call that runs in the workers; raise OptionError when it fails there.

    The usual reason of a failure is that darkprep is not installed there.
    """
    try:
        return query()
    except OSError:
        raise
    except Exception as error:
        # The libraries raise a bare exception when a worker lacks a module.
        raise OptionError(
            f"a worker cannot run darkprep ({first_line(error)}); install the same packages there as here"
        ) from error


def translate_errors(running: Future[Result]) -> Future[Result]:
    """Return a future that raises WorkerDied in place of the errors of dask and ray for a worker that died."""
    future: Future[Result] = Future()
    future.set_running_or_notify_cancel()

    def finish(done: Future[Result]) -> None:
        if done.cancelled():
            future.set_exception(WorkerDied("the task was cancelled"))
            return
        error = done.exception()
        if error is None:
            future.set_result(done.result())
        elif type(error).__name__ in _WORKER_DIED_NAMES:
            future.set_exception(WorkerDied(first_line(error)))
        else:
            # ray wraps the task's error in a class derived from both, whose text is a traceback.
            future.set_exception(getattr(error, "cause", None) or error)

    running.add_done_callback(finish)
    return future
