"""Shards made on real clusters of this machine: the same bytes, within the budget, even when workers die."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.budget import smallest_budget
from darkprep.pipeline.produce.executors.config import ExecutorConfig
from darkprep.pipeline.produce.executors.loky import LokyPool
from darkprep.pipeline.produce.executors.pool import WorkerPool
from darkprep.pipeline.produce.producer import Producer, ProducerConfig
from darkprep.shards import Cursor, OptionError, Spool
from darkprep.shards.heartbeat import ProducerStatus
from tests.support.builds import planned, shard_bytes
from tests.support.processes import free_port
from tests.support.sid_tree import write_sid

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[2]
SHARDS = 9
BACKENDS = ("dask", "ray")


@pytest.fixture
def spool_at(tmp_path: Path) -> Callable[[str], Spool]:
    root = write_sid(tmp_path / "data")

    def make(name: str) -> Spool:
        return planned(tmp_path / name, root)

    return make


@pytest.fixture
def dask_cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A dask scheduler and two workers, as processes; its address and the workers."""
    pytest.importorskip("distributed", reason="pip install 'darkprep[dask]'")
    address = f"tcp://127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1"]
    started = [
        _quiet_process([*dask, "--port", port, "--no-dashboard"], tmp_path),
        *(
            _quiet_process([*worker, "--no-nanny", "--no-dashboard"], tmp_path, f"worker{n}")
            for n in range(2)
        ),
    ]
    client = importlib.import_module("distributed").Client(address, timeout=60)
    client.wait_for_workers(2, timeout=60)
    client.close()
    yield address, started[1:]
    for process in started:
        process.kill()
        process.wait()


def _quiet_process(command: list[str], folder: Path, name: str = "scheduler") -> Any:
    here = folder / name
    here.mkdir()
    return subprocess.Popen(
        command,
        cwd=here,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def produced(spool: Spool, pool: WorkerPool, *, budget: int = 1 << 30, **rest: Any) -> Producer:
    config = ProducerConfig(budget_bytes=budget, jobs=2, until=SHARDS)
    producer = Producer(spool, config, pool, **rest)
    producer.run()
    return producer


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cluster_of_its_own_makes_the_same_bytes(backend, spool_at, monkeypatch):
    pytest.importorskip(
        {"dask": "distributed", "ray": "ray"}[backend], reason=f"pip install 'darkprep[{backend}]'"
    )
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    here, there = spool_at("here"), spool_at("there")
    produced(here, LokyPool(2))

    produced(there, ExecutorConfig(backend=backend).create_pool(2))

    assert len(shard_bytes(there)) == SHARDS
    assert shard_bytes(there) == shard_bytes(here)


def test_a_running_dask_cluster_makes_the_same_bytes_though_a_worker_is_killed(
    dask_cluster, spool_at
):
    address, workers = dask_cluster
    here, there = spool_at("here"), spool_at("there")
    produced(here, LokyPool(2))
    killed = threading.Thread(target=_kill_when_writing, args=(there, workers[0]), daemon=True)
    killed.start()

    produced(there, ExecutorConfig(backend="dask", address=address).create_pool(2))

    killed.join(10)
    assert workers[0].wait(10) == -signal.SIGKILL
    assert shard_bytes(there) == shard_bytes(here)
    assert list(there.partial.iterdir()) == []


_BARE_WORKER = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("darkprep"):
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Nothing())
from distributed.cli.dask_worker import main
main()
"""


def test_a_worker_without_darkprep_is_reported_in_one_line(dask_cluster, tmp_path):
    address, _ = dask_cluster
    command = [sys.executable, "-c", _BARE_WORKER, address, "--no-nanny", "--no-dashboard"]
    bare = _quiet_process(command, tmp_path, "bare")
    client = importlib.import_module("distributed").Client(address, timeout=60)
    client.wait_for_workers(3, timeout=60)
    client.close()
    pool = ExecutorConfig(backend="dask", address=address).create_pool(1)

    try:
        with pytest.raises(OptionError, match=r"cannot run darkprep .*No module") as caught:
            pool.submit(str, 1)
    finally:
        pool.close()
        bare.kill()
        bare.wait()

    assert "\n" not in str(caught.value)


def _kill_when_writing(spool: Spool, worker: subprocess.Popen[bytes]) -> None:
    """Kill a worker as soon as shards are being made."""
    while not spool.ready_shards():
        time.sleep(0.002)
    os.kill(worker.pid, signal.SIGKILL)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_budget_holds_on_a_cluster_and_a_full_one_prevents_neither_progress_nor_the_end(
    backend, request, spool_at, monkeypatch
):
    pytest.importorskip(
        {"dask": "distributed", "ray": "ray"}[backend], reason=f"pip install 'darkprep[{backend}]'"
    )
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    address = request.getfixturevalue("dask_cluster")[0] if backend == "dask" else None
    spool = spool_at("spool")
    budget = smallest_budget(Plan.load(spool))
    stop, weights, states, asked = threading.Event(), [], [], list[float]()

    def watch(report: ProducerStatus) -> None:
        weights.append(spool.disk_bytes())
        states.append(report.state)
        if states.count("waiting for the trainer") == 2:
            # The trainer moves on, and the producer must make the next shard though it stood still.
            spool.write_cursor(Cursor(rank=0, world=1, batch=0, shard=1))
        if spool.ready_shards() == [1, 2, 3] and states[-1] == "waiting for the trainer":
            asked.append(time.monotonic())
            stop.set()

    pool = ExecutorConfig(backend=backend, address=address).create_pool(2)
    produced(spool, pool, budget=budget, report=watch, stop=stop)

    assert stop.is_set()
    assert spool.ready_shards() == [1, 2, 3]
    assert max(weights) <= budget
    assert time.monotonic() - asked[0] < 60, "stopping does not wait for workers"


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_address_without_a_cluster_is_one_line(backend, monkeypatch):
    pytest.importorskip(
        {"dask": "distributed", "ray": "ray"}[backend], reason=f"pip install 'darkprep[{backend}]'"
    )
    monkeypatch.setattr("darkprep.pipeline.produce.executors.cluster.CONNECT_TIMEOUT_S", 1)
    pool = ExecutorConfig(backend=backend, address=f"127.0.0.1:{free_port()}").create_pool(1)

    with pytest.raises(OptionError, match=f"no {backend}.* answers") as caught:
        pool.submit(str, 1)

    assert "\n" not in str(caught.value)
