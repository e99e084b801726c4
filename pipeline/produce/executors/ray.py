"""Workers on a ray cluster."""

from __future__ import annotations

import contextlib
import importlib
import logging
import socket
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from darkprep.pipeline.produce.executors import cluster
from darkprep.pipeline.produce.executors.pool import Result, Task
from darkprep.shards import OptionError
from darkprep.shards.errors import first_line
from darkprep.shards.process import safe_import_path


class RayPool:
    """The workers of the ray cluster at `address`, or `jobs` processes started on this machine.

    `submit` raises OptionError when no cluster answers or its workers have other package versions.
    """

    def __init__(self, jobs: int, address: str | None) -> None:
        self._jobs, self._address = jobs, address
        self._remote_run: Any = None
        self._references: dict[Future[Any], Any] = {}

    def submit(self, function: Callable[[Task], Result], task: Task) -> Future[Result]:
        """Start one task and return its future, which raises WorkerDied if ray raises WorkerCrashedError."""
        if self._remote_run is None:
            self._connect()
        reference = self._remote_run.remote(function, task)
        future: Future[Result] = cluster.translate_errors(reference.future())
        self._references[future] = reference
        future.add_done_callback(lambda done: self._references.pop(done, None))
        return future

    def close(self) -> None:
        """Cancel running tasks by force and disconnect; a cluster that was started by this pool stops."""
        ray = importlib.import_module("ray")
        if self._remote_run is None:
            return
        self._remote_run = None
        for reference in list(self._references.values()):
            with contextlib.suppress(Exception):
                ray.cancel(reference, force=True)
        self._references.clear()
        ray.shutdown()

    def _connect(self) -> None:
        ray = importlib.import_module("ray")
        if self._address:
            _check_reachable(self._address)
        local: dict[str, Any] = (
            {"num_cpus": self._jobs, "include_dashboard": False} if not self._address else {}
        )
        try:
            # Without a working_dir, ray puts this process's working directory on its workers' import path.
            with safe_import_path(), tempfile.TemporaryDirectory() as empty:
                ray.init(
                    address=self._address or "local",
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}, "working_dir": empty},
                    **local,
                )
        except (ConnectionError, OSError, RuntimeError, ValueError, TimeoutError) as error:
            raise OptionError(
                f"{cluster.description(self._address)}: no ray cluster answers ({first_line(error)}); "
                "start one with `ray start --head`, and give --address HOST:PORT"
            ) from error
        versions = cluster.query_workers(
            lambda: ray.get(ray.remote(cluster.package_versions).remote())
        )
        cluster.check_versions({"a ray worker": versions})
        self._remote_run = ray.remote(num_cpus=1, max_retries=0)(cluster.run_task)


def _check_reachable(address: str) -> None:
    """Raise OptionError if nothing listens at `address`; ray itself would retry for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return  # such as "auto"
    try:
        socket.create_connection((host, int(port)), timeout=cluster.CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise OptionError(
            f"address {address}: no ray cluster answers ({first_line(error)}); start one with `ray start --head`"
        ) from error
