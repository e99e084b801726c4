"""The number of workers follows affinity, quotas of control groups of both versions, and memory; the bound is stated."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.default_jobs import available_memory, default_jobs, usable_cpus
from tests.support.builds import planned
from tests.support.sid_tree import write_sid

GIB = 1 << 30


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system of eight CPUs and 64 GiB, without control groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    put(tmp_path, "proc/meminfo", f"MemTotal: 1 kB\nMemAvailable:   {64 * GIB >> 10} kB\n")
    return tmp_path


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_affinity_bounds_the_workers(root: Path):
    assert (usable_cpus(root=root).count, usable_cpus(root=root).bound) == (
        8,
        "the 8 CPUs of this process",
    )


@pytest.mark.parametrize(
    ("group", "files"),
    [
        ("0::/", {"cpu.max": "200000 100000"}),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}),
        ("0::/host/only", {"cpu.max": "250000 100000"}),
        ("0::/../..", {"cpu.max": "200000 100000"}),
        ("4:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "100000"}),
        ("4:cpu,cpuacct:/host", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}),
    ],
)  # fmt: skip
def test_the_quota_of_a_control_group_bounds_the_workers(root: Path, group: str, files):
    put(root, "proc/self/cgroup", f"9:pids:/\n{group}\n")
    for name, text in files.items():
        put(root, f"sys/fs/cgroup/{name}", text)

    found = usable_cpus(root=root)

    assert found.count == 2
    assert "quota of 2" in found.bound


@pytest.mark.parametrize("quota", ["max 100000", "-1 100000", "", "900000 100000"])
def test_no_quota_and_an_unreadable_one_bound_nothing(root: Path, quota: str):
    put(root, "proc/self/cgroup", "0::/\n")
    put(root, "sys/fs/cgroup/cpu.max", quota)

    assert usable_cpus(root=root).count == 8


def test_half_a_cpu_is_one_worker(root: Path):
    put(root, "proc/self/cgroup", "0::/\n")
    put(root, "sys/fs/cgroup/cpu.max", "50000 100000")

    assert usable_cpus(root=root).count == 1


@pytest.mark.parametrize(
    ("group", "files"),
    [
        ("0::/a", {"a/memory.max": "max", "memory.max": str(3 * GIB), "memory.current": str(2 * GIB),
                   "memory.stat": f"anon 5\ninactive_file {GIB // 2}\n"}),
        ("8:memory:/host", {"memory/memory.limit_in_bytes": str(3 * GIB), "memory/memory.usage_in_bytes": str(2 * GIB),
                            "memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {GIB // 2}\n"}),
    ],
)  # fmt: skip
def test_memory_is_what_system_and_control_group_leave(root: Path, group: str, files):
    assert available_memory(root=root) == 64 * GIB
    put(root, "proc/self/cgroup", f"{group}\n")
    for name, text in files.items():
        put(root, f"sys/fs/cgroup/{name}", text)

    assert available_memory(root=root) == 3 * GIB // 2


def test_memory_bounds_the_workers_by_the_size_of_the_cameras_frames(root: Path, tmp_path: Path):
    plan = Plan.load(planned(tmp_path / "spool", write_sid(tmp_path / "data")))
    assert default_jobs(plan, root=root).count == 8
    put(root, "proc/meminfo", f"MemAvailable: {300 << 10} kB\n")

    found = default_jobs(plan, root=root)

    assert found.count == 3
    assert found.bound.startswith("memory, 0.31 GB free and 0.084 GB per worker")
    put(root, "proc/meminfo", "MemAvailable: 1 kB\n")
    assert default_jobs(plan, root=root).count == 1
