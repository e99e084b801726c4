"""Real torchrun processes on this machine, and spools for them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkprep.shards import Sample, SampleMeta, Spool, StreamSpec, write_shard

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SHARDS, SAMPLES = 6, 4
PATIENCE_S = 600

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def spool_at(tmp_path: Path) -> Callable[[str], Spool]:
    """Makes a spool of SHARDS shards of SAMPLES samples, the same bytes each time."""

    def make(name: str) -> Spool:
        spec = StreamSpec(
            camera="sony",
            cfa="bayer",
            height=196,
            width=196,
            crop=192,
            samples=SAMPLES,
            window=2,
            shards=SHARDS,
            seed=3,
        )
        spool = Spool(tmp_path / name)
        spool.create(spec, recipe={}, place={})
        for shard in range(SHARDS):
            samples = [_sample(shard, slot, spec) for slot in range(SAMPLES)]
            path = spool.shard_path(shard)
            write_shard(
                path, spec.layout(), shard, samples, plan=spool.digest, partial=spool.partial
            )
        return spool

    return make


def _sample(shard: int, slot: int, spec: StreamSpec) -> Sample:
    """A coarse random picture and a dark recording of it."""
    rng = np.random.default_rng((shard, slot))
    picture = np.kron(rng.uniform(0.1, 0.9, (3, 14, 14)), np.ones((14, 14)))
    codes = picture.mean(0) * (16383 - 512) / 100 + 512
    low = np.stack([codes[y::2, x::2] for y in (0, 1) for x in (0, 1)])
    meta = SampleMeta(
        key="",
        pair=f"0000{slot}_00_0.1s",
        camera="sony",
        cfa="bayer",
        origin=(0, 0),
        black=(512.0,) * 4,
        white=16383,
        ratio=100.0,
        amplification=100.0,
        amplification_source="ratio",
        iso=800.0,
    )
    return Sample(low.astype(np.uint16), (picture * 65535).astype(np.uint16), meta)


@pytest.fixture
def torchrun(tmp_path: Path) -> Iterator[Start]:
    """Starts torchrun; what still runs at the end of the test is ended."""
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
def train_on(torchrun: Start) -> Callable[..., str]:
    """Runs rank_program.py on so many ranks to its end; what it said."""

    def run(ranks: int, spool: Spool, run: Path, *, fails: bool = False, **settings: Any) -> str:
        words = {"spool": str(spool.path), "run": str(run), "iterations": 6, **settings}
        process = torchrun(ranks, HERE.parent / "support" / "rank_program.py", json.dumps(words))
        said = process.communicate(timeout=PATIENCE_S)[0]
        assert (process.returncode != 0) == fails, said
        return said

    return run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
