"""The choice of an executor by name: processes on this machine, dask or ray.

The trade-off: an executor's library is imported only when it is chosen, so a missing library is detected
when a build starts, not when darkprep is installed.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from darkprep.pipeline.produce.executors.loky import LokyPool
from darkprep.pipeline.produce.executors.pool import WorkerPool
from darkprep.shards import OptionError
from darkprep.shards.plan_record import ProducerSettings

BACKENDS = ("loky", "dask", "ray")
_MODULES = {"loky": "joblib", "dask": "distributed", "ray": "ray"}


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """Which executor runs the workers. Raises OptionError, which names the invalid field."""

    backend: str = "loky"
    """One of BACKENDS."""
    address: str | None = None
    """Address of a running cluster. None: dask or ray start one on this machine."""

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise OptionError(f"backend must be one of {', '.join(BACKENDS)}, not {self.backend!r}")
        if self.backend == "loky" and self.address is not None:
            raise OptionError("--address can be used only with --backend dask or ray")

    @classmethod
    def from_settings(cls, settings: ProducerSettings) -> ExecutorConfig:
        """Return the executor with which a spool was built."""
        return cls(backend=settings.backend, address=settings.address)

    def check_installed(self) -> None:
        """Raise OptionError, which names the extra to install, when the executor's library is missing."""
        if importlib.util.find_spec(_MODULES[self.backend]) is None:
            raise OptionError(
                f"backend {self.backend} is not installed; install it with pip install 'darkprep[{self.backend}]'"
            )

    def create_pool(self, jobs: int) -> WorkerPool:
        """Return a pool that runs `jobs` tasks at a time; the first `submit` connects to a cluster.

        Raises OptionError when the executor's library is missing.
        """
        self.check_installed()
        if self.backend == "dask":
            from darkprep.pipeline.produce.executors.dask import DaskPool

            return DaskPool(jobs, self.address)
        if self.backend == "ray":
            from darkprep.pipeline.produce.executors.ray import RayPool

            return RayPool(jobs, self.address)
        return LokyPool(jobs)


LOCAL = ExecutorConfig()
"""Processes of this machine."""
