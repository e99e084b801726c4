"""Samples per second of producers on loky, dask and ray, and of a training run on one and two ranks, in one run.

Real processes on this machine: two workers per engine make one plan's shards, all of one size, from the
same photographs; then torchrun trains on them with one rank and with two. An engine's start is
measured separately from its pace. The trade-off: on one machine this measures what an engine costs, not what a
cluster gains; ranks that share the cores of one machine share its pace too.

    python bench/bench_scale.py                five minutes
    python bench/bench_scale.py --quick        smaller photographs and crops
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.planner import make_plan
from darkprep.pipeline.produce.budget import divide_budget
from darkprep.pipeline.produce.executors.config import BACKENDS, ExecutorConfig
from darkprep.pipeline.produce.frame_store import FrameStore
from darkprep.pipeline.produce.producer import Producer, ProducerConfig
from darkprep.pipeline.produce.worker import ShardTask, make_shard
from darkprep.shards import OptionError, Spool, SpoolReader
from darkprep.shards.heartbeat import ProducerStatus
from darkprep.synth.dataset import synthesise

WORKERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="smaller photographs and crops")
    parser.add_argument("--costs", action="store_true", help="only what a sample costs")
    parser.add_argument("--steps", type=int, default=8, help="training steps")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures here")
    chosen = parser.parse_args()
    machine = harness.machine()
    print(harness.machine_lines(machine), "\n")
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    rows = []
    with tempfile.TemporaryDirectory(prefix="darkprep-bench-") as name:
        here = Path(name)
        size, crop = ((288, 384), 192) if chosen.quick else ((1424, 2128), 512)
        synthesise(here / "data", "sony", scenes=4, shorts=1, size=size, jobs=WORKERS)
        options = PlanOptions(
            camera="sony",
            crop=crop,
            samples_per_shard=16,
            window=2,
            epochs=16 if crop == 192 else 48,
        )
        cost = costs(here, options)
        rows.append({"case": "costs", **cost})
        print(
            "a sample: " + ", ".join(f"{value:.3g} {name}" for name, value in cost.items()) + "\n"
        )
        print(f"{'case':<22} {'samples/s':>10} {'start s':>8}   {WORKERS} workers, crops of {crop}")
        for backend in () if chosen.costs else BACKENDS:
            made = produce(here, backend, options)
            if made:
                rows.append({"case": f"build {backend}", **made})
                print(
                    f"{'build --backend ' + backend:<22} {made['samples_per_s']:10.1f} {made['start_s']:8.1f}",
                    flush=True,
                )
        for ranks in () if chosen.costs else (1, 2):
            trained = train(here, ranks, chosen.steps)
            rows.append({"case": f"train {ranks}", **trained})
            print(
                f"{f'stream-train, {ranks} ranks':<22} {trained['samples_per_s']:10.1f} {trained['start_s']:8.1f}",
                flush=True,
            )
    harness.report({"machine": machine, "cases": rows}, chosen.json)


def costs(here: Path, options: PlanOptions) -> dict[str, float]:
    """What a sample weighs, and the processor time of making it (frames stored) and of reading it, in this process."""
    spool = Spool(here / "spool-costs")
    plan = make_plan(here / "data", options)
    plan.save(spool)
    frames = divide_budget(plan, 20 * 10**9, jobs=1).frames
    shards, samples = 12, options.samples_per_shard
    with spool.producer_lock():
        FrameStore(spool.frames).create()
        for measured in (False, True):
            for shard in spool.ready_shards():
                spool.delete(shard)
            cpu = time.process_time()
            for shard in range(shards):
                make_shard(ShardTask.of_this_process(spool, shard, frames))
            making = time.process_time() - cpu
            assert measured or len(spool.ready_shards()) == shards
    reader = SpoolReader(spool, batch_size=8, shards=shards)
    cpu, began = time.process_time(), time.monotonic()
    batches = sum(1 for _ in reader)
    reading, took = time.process_time() - cpu, time.monotonic() - began
    reader.close()
    return {
        "MB": plan.stream.layout().shard_bytes / samples / 1e6,
        "ms CPU to make": 1e3 * making / shards / samples,
        "ms CPU to read": 1e3 * reading / batches / 8,
        "read a second": batches * 8 / took,
    }


def produce(here: Path, backend: str, options: PlanOptions) -> dict[str, float] | None:
    """Make the whole plan with one executor; None where it is not installed."""
    try:
        pool = ExecutorConfig(backend=backend).create_pool(WORKERS)
    except OptionError as error:
        print(f"skipped: {error}")
        return None
    spool = Spool(here / f"spool-{backend}")
    plan = make_plan(here / "data", options)
    plan.save(spool)
    assert plan.shards is not None
    marks: list[tuple[float, int]] = []

    def report(now: ProducerStatus) -> None:
        marks.append((time.monotonic(), now.shards_made))

    config = ProducerConfig(budget_bytes=20 * 10**9, jobs=WORKERS, until=plan.shards)
    began = time.monotonic()
    # Twice: the first time the photographs are decoded too, which a long build does once.
    Producer(spool, config, pool, report=report).run()
    start = next((at - began for at, made in marks if made), 0.0)
    for shard in spool.ready_shards():
        spool.delete(shard)
    pool.submit(len, "warm").result()
    marks.clear()
    began = time.monotonic()
    producer = Producer(spool, config, pool, report=report)
    producer.run()
    return {
        "samples_per_s": plan.shards * options.samples_per_shard / (marks[-1][0] - began),
        "start_s": start,
    }


def train(here: Path, ranks: int, steps: int) -> dict[str, float]:
    """Train by torchrun on a copy of the shards; the pace of summary.json, and the time before it."""
    spool, run = here / f"train-{ranks}", here / f"run-{ranks}"
    shutil.copytree(here / "spool-loky", spool)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.monotonic()
    torchrun = ["torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(port)]
    command = ["-m", "darkprep", "stream-train", "--spool", str(spool), "--run-dir", str(run)]
    command += ["--iterations", str(steps), "--batch-size", "4", "--device", "cpu"]
    command += ["--producers", "0", "--evaluate-every", "0", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", *torchrun, *command], check=True, stdout=subprocess.DEVNULL
    )
    took = time.monotonic() - began
    summary = json.loads((run / "summary.json").read_text())
    return {"samples_per_s": summary["samples_per_second"], "start_s": took - summary["seconds"]}


if __name__ == "__main__":
    main()
