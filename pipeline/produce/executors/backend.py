"""Which engine runs the workers, chosen by name: this machine's processes, or a cluster's.

The trade-off: an engine's library is loaded only when it is chosen, so a missing one is found at the
start of a build and not when darkprep is installed.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from darkprep.pipeline.produce.executors.loky import LokyPool, Pool
from darkprep.shards import OptionError
from darkprep.shards.plan_record import ProducerSettings

BACKENDS = ("loky", "dask", "ray")
_MODULES = {"loky": "joblib", "dask": "distributed", "ray": "ray"}


@dataclass(frozen=True, kw_only=True)
class Backend:
    """What runs the workers. Raises OptionError naming the field."""

    backend: str = "loky"
    address: str | None = None
    """Of a cluster that runs already; None starts one here for as long as it is needed."""

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise OptionError(f"backend must be one of {', '.join(BACKENDS)}, not {self.backend!r}")
        if self.backend == "loky" and self.address is not None:
            raise OptionError("address goes with backend dask or ray only")

    @classmethod
    def of_settings(cls, settings: ProducerSettings) -> Backend:
        """Return the engine that a spool was built with."""
        return cls(backend=settings.backend, address=settings.address)

    def check(self) -> None:
        """Raises OptionError, naming the extra, when the engine's library is not installed."""
        if importlib.util.find_spec(_MODULES[self.backend]) is None:
            raise OptionError(
                f"backend {self.backend} is not installed; install it with pip install 'darkprep[{self.backend}]'"
            )

    def pool(self, jobs: int) -> Pool:
        """Workers for `jobs` shards at a time; raises as `check`. A cluster is reached at the first order."""
        self.check()
        if self.backend == "dask":
            from darkprep.pipeline.produce.executors.cluster import DaskPool

            return DaskPool(jobs, self.address)
        if self.backend == "ray":
            from darkprep.pipeline.produce.executors.cluster import RayPool

            return RayPool(jobs, self.address)
        return LokyPool(jobs)


LOCAL = Backend()
"""Processes of this machine."""
