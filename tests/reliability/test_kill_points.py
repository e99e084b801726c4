"""Killed before any of its calls, a durable write leaves the old or the new, whole; the next one tidies up."""

from __future__ import annotations

import json
import subprocess
import sys
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


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process tries all of them, for it has to load torch first."""
    folder = tmp_path_factory.mktemp("kills")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.kill_points", str(folder)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip(f"no process may be traced here: {done.stdout.strip()}")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", EXPECTED)
def test_a_write_killed_at_any_call_leaves_the_old_or_the_new(name: str, results: dict[str, Any]):
    result = results[name]

    assert "error" not in result, result["error"]
    called = {call.removesuffix("at").removesuffix("at2") for call in result["calls"]}
    assert EXPECTED[name] <= called
    assert sum(result["found"].values()) == len(result["calls"]) + 1
