"""Killed before any of its calls, a durable write leaves the old or the new, whole; the next one tidies up."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXPECTED = {
    "first plan": {"write", "fsync", "rename"},
    "plan": {"write", "fsync", "rename"},
    "shard": {"fallocate", "writev", "rename"},
    "shard again": {"fallocate", "writev", "rename"},
    "refusal": {"rename", "write"},
    "cursor": {"write", "rename"},
    "heartbeat": {"write", "rename"},
    "frame store": {"write", "fsync", "rename"},
    "frame": {"write", "fallocate", "rename"},
    "frame that was damaged": {"write", "fallocate", "rename"},
    "checkpoint": {"write", "fsync", "rename", "unlink"},
    "weights": {"write", "fsync", "rename"},
}
"""Calls that must be among those killed at."""
OF_TORCH = ("checkpoint", "weights")
ALIKE = ("plan", "shard again", "heartbeat")
"""Writes that make the same calls as another one."""
QUICK = tuple(name for name in EXPECTED if name not in (*OF_TORCH, *ALIKE))


@pytest.fixture(scope="module")
def results_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, ...]], Any]:
    """Return the results of several writes; one process tries them, because it has to load libraries first."""
    return functools.cache(lambda names: run(tmp_path_factory.mktemp("kills"), names))


def run(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.kill_points", str(folder), *names],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip(f"no process may be traced here: {done.stdout.strip()}")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in (*OF_TORCH, *ALIKE))]
)
def test_a_write_killed_at_any_call_leaves_the_old_or_the_new(
    name: str, results_of: Callable[[tuple[str, ...]], Any]
):
    together = next(group for group in (QUICK, ALIKE, OF_TORCH) if name in group)
    result = results_of(together)[name]

    assert "error" not in result, result["error"]
    called = {call.removesuffix("at").removesuffix("at2") for call in result["calls"]}
    assert EXPECTED[name] <= called
    assert sum(result["found"].values()) == len(result["calls"]) + 1
