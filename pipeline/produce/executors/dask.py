"""Workers on a dask cluster."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from darkprep.pipeline.produce.executors import cluster
from darkprep.pipeline.produce.executors.pool import Result, Task, WorkerDied
from darkprep.shards import OptionError
from darkprep.shards.errors import first_line
from darkprep.shards.process import safe_import_path


class DaskPool:
    """The workers of the dask scheduler at `address`, or `jobs` processes started on this machine.

    `submit` raises OptionError when no scheduler answers, when it has no workers, or when a worker has
    other package versions and would make different bytes.
    """

    def __init__(self, jobs: int, address: str | None) -> None:
        self._jobs, self._address = jobs, address
        self._resources = contextlib.ExitStack()
        self._client: Any = None
        self._executor: Any = None

    def submit(self, function: Callable[[Task], Result], task: Task) -> Future[Result]:
        """Start one task. If its worker dies, dask starts it again on another worker, up to three times."""
        if self._client is None:
            self._connect()
        try:
            running = self._executor.submit(cluster.run_task, function, task)
        except (RuntimeError, OSError) as error:
            raise WorkerDied(
                f"the dask scheduler has ended ({first_line(error)}); start it and run the command again"
            ) from error
        return cluster.translate_errors(running)

    def close(self) -> None:
        """Cancel all tasks and disconnect. A remote worker may still finish the shard that it is writing."""
        client, self._client, self._executor = self._client, None, None
        if client is not None:
            with _logging_disabled("distributed"):
                self._resources.close()

    def _connect(self) -> None:
        try:
            client, versions = self._connect_client()
            cluster.check_versions(versions)
        except BaseException:
            with _logging_disabled("distributed"):
                self._resources.close()
            raise
        self._client = client
        self._executor = client.get_executor(pure=False, retries=0)
        self._resources.callback(self._executor.shutdown, wait=False)

    def _connect_client(self) -> tuple[Any, dict[str, dict[str, str]]]:
        """Connect to the scheduler; return the client and the package versions of the workers."""
        dask = importlib.import_module("distributed")
        address, timeout = self._address, cluster.CONNECT_TIMEOUT_S
        try:
            if address is None:
                with safe_import_path():
                    local = dask.LocalCluster(
                        n_workers=self._jobs,
                        threads_per_worker=1,
                        dashboard_address=None,
                        silence_logs=logging.CRITICAL,
                    )
                address = self._resources.enter_context(local)
            client = self._resources.enter_context(dask.Client(address, timeout=timeout))
            client.wait_for_workers(1, timeout=timeout)
            return client, cluster.query_workers(lambda: client.run(cluster.package_versions))
        except (OSError, ValueError, TimeoutError) as error:
            raise OptionError(
                f"{cluster.description(self._address)}: no dask scheduler with a worker answers within {timeout} s "
                f"({first_line(error)}); start them with `dask scheduler` and `dask worker`, and give --address HOST:PORT"
            ) from error


@contextlib.contextmanager
def _logging_disabled(name: str) -> Iterator[None]:
    """Suppress dask's log messages, which warn about connections that are closed on purpose."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
