"""How many workers a build starts by default: as many as there are CPUs and memory for them.

The trade-off: memory is what was measured for a frame of the plan's size, with room for the worst moment of all
workers at once, so that a machine with little memory gets fewer workers than it might be able to run.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from darkprep.pipeline.plan.plan import Plan

_WORKER_BYTES = 80 << 20
"""Memory of an idle worker: measured 75 MB."""
_BYTES_PER_PIXEL = 30
"""Memory at the peak of a development, of a Bayer or X-Trans frame in memory: measured 20 bytes a pixel, and 8 for
a stored pair of frames."""
_NO_LIMIT = 1 << 60
"""Version 1 of control groups states a number near 2 ** 63 for no limit."""


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """A number of workers, and what it is bounded by."""

    count: int
    bound: str
    """`2 CPUs of this process`, `memory, 3.1 GB free and 0.47 GB per worker`."""


def default_jobs(plan: Plan, *, root: Path = Path("/")) -> Jobs:
    """Return as many workers as this process has CPUs, or fewer if memory is short.

    `root` is the directory that holds `proc` and `sys`.
    """
    cpus = usable_cpus(root=root)
    pixels = max(pair.height * pair.width for pair in plan.pairs)
    need = _WORKER_BYTES + _BYTES_PER_PIXEL * pixels + plan.stream.layout().shard_bytes
    free = available_memory(root=root)
    if free is not None and free // need < cpus.count:
        return Jobs(
            count=max(1, free // need),
            bound=f"memory, {free / 1e9:.2g} GB free and {need / 1e9:.2g} GB per worker",
        )
    return cpus


def usable_cpus(*, root: Path = Path("/")) -> Jobs:
    """Return the CPUs that this process may use: by its affinity, and by the quotas of its control groups."""
    count = len(os.sched_getaffinity(0))
    quota = min(_cpu_quotas(root), default=math.inf)
    if quota < count:
        return Jobs(
            count=max(1, math.floor(quota)), bound=f"the control group's quota of {quota:g} CPUs"
        )
    return Jobs(count=count, bound=f"the {count} CPUs of this process")


def available_memory(*, root: Path = Path("/")) -> int | None:
    """Return the bytes that this process can get without swapping; None if that is unknown.

    That is the least of what the system states as available and what its control groups leave.
    """
    return min(_free_memory(root), default=None)


def _cpu_quotas(root: Path) -> Iterator[float]:
    for group in _control_groups(root, "cpu"):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            if (group / "cpu.max").exists():
                quota, period = (group / "cpu.max").read_text().split()
            else:
                quota, period = (
                    (group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
                )
            if quota != "max" and int(quota) > 0:
                yield int(quota) / int(period)


def _free_memory(root: Path) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                yield int(value.split()[0]) << 10
    for group in _control_groups(root, "memory"):
        for limit, used, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with contextlib.suppress(OSError, ValueError):
                most = int((group / limit).read_text())
                if most < _NO_LIMIT:
                    now = int((group / used).read_text()) - _statistic(group, cache)
                    yield max(0, most - now)


def _statistic(group: Path, wanted: str) -> int:
    """Return a number of a group's memory.stat; 0 if it is not there."""
    with contextlib.suppress(OSError, ValueError):
        for line in (group / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == wanted:
                return int(value)
    return 0


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the directories of this process's control groups, of version 1 and 2, up to those that are mounted."""
    mounted = root / "sys/fs/cgroup"
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            base = mounted / controller if controllers else mounted
            group = base / path.strip("/")
            # In a container the path may be the host's, while the container's own group is mounted.
            inside = [] if ".." in group.parts else [group, *group.parents]
            yield from (one for one in inside if base in one.parents and one.is_dir())
            if base.is_dir():
                yield base
