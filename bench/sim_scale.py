"""The control plane at scale: thousands of producers' workers and ranks over the real plan, budget, order and cursor code.

Every node has eight ranks, a spool of its own part of one plan, and a producer whose workers take a given
time per shard; clock and disk are fake, decisions are real: darkprep.pipeline.produce.producer.Producer hands out and makes
room, darkprep.pipeline.produce.budget divides, shards.order deals, the reader's release publishes cursors and deletes.
Checked at every event: no budget exceeded, no shard deleted that is still needed. The trade-off: one
training step is as slow as its slowest node, as with synchronous gradients; networks are not simulated.

    python bench/sim_scale.py                  1, 8, 64 and 1024 GPUs, about a minute
    python bench/sim_scale.py --quick          the first two
"""

from __future__ import annotations

import argparse
import heapq
import os
import random
import resource
import statistics
import tempfile
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness

from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import Plan, PlannedPair
from darkprep.pipeline.produce.producer import Producer, ProducerConfig
from darkprep.pipeline.produce.worker import ShardTask, TaskResult
from darkprep.shards import Cursor, Spool
from darkprep.shards.batch import ReaderStats
from darkprep.shards.plan_record import ProducerSettings
from darkprep.shards.release import ShardRelease

PER_RANK = 8
"""Samples of a rank per step."""
RANKS_PER_NODE = 8


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a sample costs, by the other benchmarks."""

    step_s: float
    """Time of a training step when all data are there."""
    cpu_ms: float
    """Processor time of making one sample."""
    spread: float = 0.3
    """Workers' times vary by so much, uniformly."""


class FakeSpool(Spool):
    """A spool whose directory is a set of shard numbers; its cursors and its plan are real."""

    def __init__(self, path: Path, plan: Plan, part: int, parts: int) -> None:
        super().__init__(path)
        self._plan = plan.record(ProducerSettings(part=part, parts=parts))
        self.shards_ready: set[int] = set()
        self.cursors_by_rank: dict[int, Cursor] = {}
        self.needed_from = 0

    def ready_shards(self) -> list[int]:
        return sorted(self.shards_ready)

    def delete(self, shard: int) -> bool:
        assert shard < self.needed_from, f"shard {shard} is deleted, {self.needed_from} is needed"
        self.shards_ready.discard(shard)
        return True

    def write_cursor(self, cursor: Cursor) -> None:
        self.cursors_by_rank[cursor.rank] = cursor

    def read_cursors(self) -> list[Cursor]:
        return list(self.cursors_by_rank.values())

    def disk_bytes(self) -> int:
        return 0


class FakePool:
    """Workers that finish at their time of the fake clock."""

    def __init__(self, world: World, node: Node) -> None:
        self._world, self._node = world, node

    def submit(self, function: Any, task: ShardTask) -> Future[TaskResult]:
        future: Future[TaskResult] = Future()
        self._node.writing += 1
        self._world.later(self._world.shard_s(), self._node, task.shard, future)
        return future

    def close(self) -> None:
        pass


class Node:
    """A machine: one producer, one spool, eight ranks (one, where there is one GPU)."""

    def __init__(self, world: World, part: int, folder: Path) -> None:
        self.writing = 0
        self.spool = FakeSpool(folder, world.plan, part, world.nodes)
        config = ProducerConfig(budget_bytes=world.budget, jobs=world.jobs, until=None)
        self.producer = Producer(self.spool, config, FakePool(world, self))
        self.order = self.spool.use_order(seed=0)
        self.own_batch = PER_RANK * world.ranks_per_node
        self.ranks = [
            ShardRelease(self.spool, ReaderStats(), rank=rank, world=world.ranks_per_node, run="")
            for rank in range(world.ranks_per_node)
        ]
        self.most = 0

    def wanted(self, step: int) -> set[int]:
        """The shards of its samples in a step's batch."""
        return set(self.order.uses(step * self.own_batch, self.own_batch)[:, 0].tolist())

    def pass_step(self, step: int) -> None:
        """Every rank publishes its cursor and deletes what all have passed."""
        self.spool.needed_from = oldest = self.order.oldest_shard((step + 1) * self.own_batch)
        for rank in self.ranks:
            rank.update(step + 1, oldest)

    def check(self, allowed: int) -> None:
        self.most = max(self.most, len(self.spool.shards_ready) + self.writing)
        assert self.most <= allowed, "the budget is exceeded"


class World:
    """All nodes on one clock."""

    def __init__(self, gpus: int, jobs: int, load: Load, plan: Plan, budget: int) -> None:
        self.plan, self.jobs, self.load, self.budget = plan, jobs, load, budget
        self.ranks_per_node = min(gpus, RANKS_PER_NODE)
        self.nodes = gpus // self.ranks_per_node
        self.now = 0.0
        self._events: list[tuple[float, int, Node, int, Future[TaskResult]]] = []
        self._count = 0
        self._random = random.Random(1)
        self._folder = tempfile.TemporaryDirectory()
        self.all = [Node(self, part, Path(self._folder.name)) for part in range(self.nodes)]

    def shard_s(self) -> float:
        """How long one worker takes for a shard now."""
        usual = self.plan.options.samples_per_shard * self.load.cpu_ms / 1e3
        return usual * (1 + self.load.spread * self._random.uniform(-1, 1))

    def later(self, seconds: float, *what: Any) -> None:
        """Let a worker be done with a shard in so many seconds."""
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, *what))

    def let_work(self, until: float) -> None:
        """Run the producers up to a moment, or to the next finished shard after it."""
        while self._events and self._events[0][0] <= until:
            self.now, _, node, shard, future = heapq.heappop(self._events)
            node.writing -= 1
            node.spool.shards_ready.add(shard)
            future.set_result(
                TaskResult(
                    shard=shard,
                    seconds=0,
                    cpu_seconds=0,
                    published=True,
                    decoded=0,
                    stored=(),
                    skipped=(),
                )
            )
            node.producer._collect_results()
            self.hand_out(node)

    def hand_out(self, node: Node) -> None:
        node.producer._submit_tasks()
        node.check(node.producer.budget.max_shards)

    def train(self, steps: int) -> dict[str, float]:
        """Steps in lock-step over all nodes; figures of the second half, and of all."""
        for node in self.all:
            for rank in node.ranks:
                rank._publish(0, 0)
            self.hand_out(node)
        durations, waits, control = [], [], 0.0
        began, cpu = 0.0, time.process_time()
        for step in range(steps):
            for node in self.all:
                wanted = node.wanted(step)
                while not wanted <= node.spool.shards_ready:
                    assert self._events, (
                        f"step {step}: no producer makes {wanted - node.spool.shards_ready}"
                    )
                    self.let_work(self._events[0][0])
            waits.append(max(0.0, self.now - began))
            ends = max(self.now, began) + self.load.step_s
            self.let_work(ends)
            self.now = ends
            for node in self.all:
                node.pass_step(step)
                self.hand_out(node)
            durations.append(ends - began)
            began = ends
        control = time.process_time() - cpu
        half = steps // 2
        return {
            "first_batch_s": waits[0],
            "step_ms": 1e3 * statistics.mean(durations[half:]),
            "step_ms_first_half": 1e3 * statistics.mean(durations[1:half]),
            "waited_share": sum(waits[half:]) / sum(durations[half:]),
            "control_ms_per_node_step": 1e3 * control / steps / self.nodes,
            "most_shards": max(node.most for node in self.all),
            "allowed_shards": self.all[0].producer.budget.max_shards,
        }


def sony_plan() -> Plan:
    """SID's Sony training set, 161 scenes, without its files."""
    pairs = tuple(
        PlannedPair(
            pair=Pair(
                id=f"{n:05d}_00_0.1s", scene=f"{n:05d}", camera="sony", split="train",
                short=f"{n}.ARW", long=f"{n}.ARW", ratio=100.0, iso=800.0,
            ),
            height=2848, width=4256, short_fingerprint=f"s{n}", long_fingerprint=f"l{n}",
        )
        for n in range(161)
    )  # fmt: skip
    options = PlanOptions(camera="sony", epochs=None, samples_per_shard=32, window=4)
    return Plan(options=options, pairs=pairs, cfa="bayer", root=Path("data"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="1 and 8 GPUs only")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--step-ms", type=float, default=100.0)
    parser.add_argument("--cpu-ms", type=float, default=8.0, help="processor time of a sample")
    parser.add_argument("--budget", type=float, default=20e9, help="bytes of each node's spool")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures here")
    chosen = parser.parse_args()
    machine = harness.machine()
    print(harness.machine_lines(machine), "\n")
    load = Load(step_s=chosen.step_ms / 1e3, cpu_ms=chosen.cpu_ms)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(
        f"a step {chosen.step_ms:g} ms, {PER_RANK} samples a rank, {chosen.cpu_ms:g} ms CPU a sample, "
        f"{chosen.budget / 1e9:g} GB a node\n"
    )
    print(
        f"{'GPUs':>5} {'nodes':>5} {'workers':>8} {'first batch s':>13} {'step ms':>8} {'(1st half)':>10} "
        f"{'waited':>7} {'shards/allowed':>14} {'control ms/node/step':>20}"
    )
    rows = []
    for gpus in (1, 8) if chosen.quick else (1, 8, 64, 1024):
        for spare in (1.3, 0.7):
            ranks = min(gpus, RANKS_PER_NODE)
            jobs = max(1, round(spare * ranks * PER_RANK * load.cpu_ms / chosen.step_ms))
            world = World(gpus, jobs, load, sony_plan(), int(chosen.budget))
            figures = world.train(chosen.steps)
            rows.append({"gpus": gpus, "jobs_per_node": jobs, **figures})
            print(
                f"{gpus:5} {world.nodes:5} {jobs * world.nodes:8} {figures['first_batch_s']:13.2f} "
                f"{figures['step_ms']:8.1f} {figures['step_ms_first_half']:10.1f} {figures['waited_share']:7.1%} "
                f"{figures['most_shards']:7.0f}/{figures['allowed_shards']:<6.0f} {figures['control_ms_per_node_step']:20.3f}",
                flush=True,
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"\nno budget exceeded, no needed shard deleted, no step without its shards; peak {peak:.0f} MB"
    )
    harness.report({"machine": machine, "cases": rows}, chosen.json)


if __name__ == "__main__":
    main()
