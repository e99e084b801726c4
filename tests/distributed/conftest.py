"""Real torchrun processes on this machine, and spools for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from darkprep.shards import Spool
from tests.support.processes import free_port
from tests.support.rank_training import PATIENCE_S, RANK_PROGRAM, training_spool

ROOT = Path(__file__).parents[2]

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def spool_at(tmp_path: Path) -> Callable[[str], Spool]:
    """Create a spool for a small training."""
    return lambda name: training_spool(tmp_path / name)


@pytest.fixture
def torchrun(tmp_path: Path) -> Iterator[Start]:
    """Start torchrun; processes that still run after the test are ended."""
    started: list[subprocess.Popen[str]] = []

    def start(ranks: int, *arguments: object, nodes: tuple[int, int, int] = (0, 1, 0)):
        node, count, port = nodes
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
        command += ["--nnodes", str(count), "--node-rank", str(node)]
        command += ["--master-addr", "127.0.0.1", "--master-port", str(port or free_port())]
        process = subprocess.Popen(
            [*command, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate()


@pytest.fixture
def fail_without_torchrun(tmp_path: Path) -> Iterator[Callable[..., tuple[str, ...]]]:
    """Run rank_program as ranks that nothing but themselves ends, and that all fail; return the output of each."""
    started: list[subprocess.Popen[str]] = []

    def run(ranks: int, spool: Spool, run: Path, **settings: Any) -> tuple[str, ...]:
        words = {"spool": str(spool.path), "run": str(run), **settings}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        for rank in range(ranks):
            places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks}
            started.append(
                subprocess.Popen(
                    [sys.executable, *RANK_PROGRAM, json.dumps(words)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    cwd=tmp_path,
                    env=os.environ
                    | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **address}
                    | {name: str(value) for name, value in places.items()},
                )
            )
        outputs = tuple(process.communicate(timeout=PATIENCE_S)[0] for process in started)
        assert all(process.returncode for process in started), outputs
        return outputs

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def train_on(torchrun: Start) -> Callable[..., str]:
    """Run rank_program on the given number of ranks until it ends; return its output."""

    def run(ranks: int, spool: Spool, run: Path, *, fails: bool = False, **settings: Any) -> str:
        words = {"spool": str(spool.path), "run": str(run), "iterations": 6, **settings}
        process = torchrun(ranks, *RANK_PROGRAM, json.dumps(words))
        output = process.communicate(timeout=PATIENCE_S)[0]
        assert (process.returncode != 0) == fails, output
        return output

    return run
