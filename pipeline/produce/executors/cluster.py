"""Workers on a dask or ray cluster, behind the same seam as this machine's own (pool.py).

Both engines give a future per task, which is all a producer needs. joblib's backends for them are not
used: joblib.Parallel takes tasks from a generator inside a callback that must never block, whereas a
producer stands still for as long as the budget is full. The trade-off: every worker must see the spool
and the photographs under the paths that the producer uses, and one shard at a time is made per worker
process, however many threads that has.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from darkprep.pipeline.produce.executors.loky import Given, Made, WorkerDied
from darkprep.shards import OptionError
from darkprep.shards.errors import first_line

_CONNECT_S = 15
_VERSIONS_OF = ("darkprep", "rawpy", "numpy")
_one_at_a_time = threading.Lock()


class DaskPool:
    """The workers of a dask scheduler at `address`, or `jobs` processes started here.

    Raises OptionError from `submit` when no scheduler answers, when it has no workers, or when a worker
    would make other bytes, having other versions.
    """

    def __init__(self, jobs: int, address: str | None) -> None:
        self._jobs, self._address = jobs, address
        self._open = contextlib.ExitStack()
        self._client: Any = None
        self._executor: Any = None

    def submit(self, function: Callable[[Given], Made], task: Given) -> Future[Made]:
        """Start one task; should its worker die, dask gives it to another, three times at most."""
        if self._client is None:
            self._connect()
        try:
            running = self._executor.submit(_run, function, task)
        except (RuntimeError, OSError) as error:
            raise WorkerDied(f"the dask scheduler is gone ({first_line(error)})") from error
        return _translated(running)

    def close(self) -> None:
        """Call the tasks back and leave; what a remote worker is writing it finishes, or is swept."""
        client, self._client, self._executor = self._client, None, None
        if client is not None:
            with _silent("distributed"):
                self._open.close()

    def _connect(self) -> None:
        try:
            client, versions = self._reached()
            _check_versions(versions)
        except BaseException:
            with _silent("distributed"):
                self._open.close()
            raise
        self._client = client
        self._executor = client.get_executor(pure=False, retries=0)
        self._open.callback(self._executor.shutdown, wait=False)

    def _reached(self) -> tuple[Any, dict[str, dict[str, str]]]:
        """A client of the scheduler, and what versions its workers have."""
        dask = importlib.import_module("distributed")
        address = self._address
        try:
            if address is None:
                cluster = dask.LocalCluster(
                    n_workers=self._jobs,
                    threads_per_worker=1,
                    dashboard_address=None,
                    silence_logs=logging.CRITICAL,
                )
                address = self._open.enter_context(cluster)
            client = self._open.enter_context(dask.Client(address, timeout=_CONNECT_S))
            client.wait_for_workers(1, timeout=_CONNECT_S)
            return client, _answer_of(lambda: client.run(_versions))
        except (OSError, ValueError, TimeoutError) as error:
            raise OptionError(
                f"address {self._address or 'of the local cluster'}: no dask scheduler with a worker answers "
                f"within {_CONNECT_S} s ({first_line(error)}); start them with `dask scheduler` and `dask worker`"
            ) from error


class RayPool:
    """The workers of a ray cluster at `address`, or `jobs` processes started here.

    Raises OptionError from `submit` when no cluster answers or its workers have other versions.
    """

    def __init__(self, jobs: int, address: str | None) -> None:
        self._jobs, self._address = jobs, address
        self._run: Any = None
        self._flying: dict[Future[Any], Any] = {}

    def submit(self, function: Callable[[Given], Made], task: Given) -> Future[Made]:
        """Start one task; a worker that dies is ray's WorkerCrashedError, a producer's WorkerDied."""
        if self._run is None:
            self._connect()
        reference = self._run.remote(function, task)
        future: Future[Made] = _translated(reference.future())
        self._flying[future] = reference
        future.add_done_callback(lambda done: self._flying.pop(done, None))
        return future

    def close(self) -> None:
        """Kill what is at work and leave the cluster; one that was started here ends."""
        ray = importlib.import_module("ray")
        if self._run is None:
            return
        self._run = None
        for reference in list(self._flying.values()):
            with contextlib.suppress(Exception):
                ray.cancel(reference, force=True)
        self._flying.clear()
        ray.shutdown()

    def _connect(self) -> None:
        ray = importlib.import_module("ray")
        if self._address:
            _check_reachable(self._address)
        here: dict[str, Any] = (
            {"num_cpus": self._jobs, "include_dashboard": False} if not self._address else {}
        )
        try:
            ray.init(
                address=self._address or "local",
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
                **here,
            )
        except (ConnectionError, OSError, RuntimeError, ValueError, TimeoutError) as error:
            raise OptionError(
                f"address {self._address or 'of the local cluster'}: no ray cluster answers "
                f"({first_line(error)}); start one with `ray start --head`"
            ) from error
        versions = _answer_of(lambda: ray.get(ray.remote(_versions).remote()))
        _check_versions({"a ray worker": versions})
        self._run = ray.remote(num_cpus=1, max_retries=0)(_run)


def _run(function: Callable[[Given], Made], task: Given) -> Made:
    """What a cluster's worker runs: one shard at a time, and with nobody's Ctrl-C."""
    with _one_at_a_time:
        return function(task)


def _check_reachable(address: str) -> None:
    """Raises OptionError where nobody listens; ray itself tries for minutes and talks all the while."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return  # such as "auto"
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise OptionError(
            f"address {address}: no ray cluster answers ({first_line(error)}); start one with `ray start --head`"
        ) from error


def _versions() -> dict[str, str]:
    """What the bytes of a shard depend on besides the plan."""
    return {name: importlib.metadata.version(name) for name in _VERSIONS_OF}


def _answer_of(ask: Callable[[], Any]) -> Any:
    """What workers answer; raises OptionError where one cannot, for want of darkprep as a rule."""
    try:
        return ask()
    except OSError:
        raise
    except Exception as error:
        # A bare one of these is raised for a module that a worker lacks.
        raise OptionError(
            f"a worker cannot run darkprep ({first_line(error)}); install the same there as here"
        ) from error


def _check_versions(found: dict[str, dict[str, str]]) -> None:
    own = _versions()
    for worker, theirs in found.items():
        different = [
            f"{name} {theirs[name]}, not {own[name]}" for name in own if theirs[name] != own[name]
        ]
        if different:
            raise OptionError(
                f"worker {worker} has {'; '.join(different)}: its shards would differ; install the same there"
            )


def _translated(running: Future[Made]) -> Future[Made]:
    """A future that raises WorkerDied for what the engines raise when a worker is gone."""
    future: Future[Made] = Future()
    future.set_running_or_notify_cancel()

    def finish(done: Future[Made]) -> None:
        if done.cancelled():
            future.set_exception(WorkerDied("the task was called back"))
            return
        error = done.exception()
        if error is None:
            future.set_result(done.result())
        elif type(error).__name__ in _DEATHS:
            future.set_exception(WorkerDied(first_line(error)))
        else:
            # ray raises the task's error as one that is of both classes and prints its trace.
            future.set_exception(getattr(error, "cause", None) or error)

    running.add_done_callback(finish)
    return future


_DEATHS = frozenset(
    {
        "KilledWorker",
        "FutureCancelledError",
        "CancelledError",
        "WorkerCrashedError",
        "NodeDiedError",
    }
    | {"RaySystemError", "TaskCancelledError", "OutOfMemoryError", "CommClosedError"}
)
"""Names of what dask and ray raise then; their modules are loaded only when one of them is used."""


@contextlib.contextmanager
def _silent(name: str) -> Iterator[None]:
    """Keep a library's log quiet for a while: it complains of connections that we close."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
