"""Measure how long each part of a training run takes on this machine: decoding, making shards, reading, training.

The trade-off: each part runs alone and for seconds only, with the code of a real run.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.budget import divide_budget, smallest_budget
from darkprep.pipeline.produce.default_jobs import usable_cpus
from darkprep.pipeline.produce.executors.loky import LokyPool
from darkprep.pipeline.produce.executors.pool import WorkerDied
from darkprep.pipeline.produce.frame_store import FrameStore
from darkprep.pipeline.produce.worker import ShardTask, TaskResult, make_shard
from darkprep.shards import DatasetError, Spool, SpoolReader, Target
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.loop import train
from darkprep.trainer.records import StepReport

MOST_STEPS = 200
_STEP_BUDGET_S = 20.0
_SHARD_BUDGET_S = 12.0
_WARM_UP_STEPS = 2

FrameSource = Literal["photographs", "synthetic", "described"]
"""Where times come from: the user's frames, synthetic ones, or assumptions about a described machine."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The time or rate of each part on this machine, measured alone."""

    decode_s: float
    """CPU seconds to decode one short exposure."""
    develop_s: float
    """CPU seconds to decode one long exposure, and to develop it unless the target is `raw`."""
    sample_s: float
    """A worker's seconds to crop and write one sample from decoded frames."""
    sample_cpu_s: float
    """A worker's CPU seconds to crop and write one sample from decoded frames."""
    sample_bytes: int
    read_samples_per_s: float
    """Rate of the reader alone, from the page cache."""
    train_samples_per_s: float
    """Rate of the trainer alone, with all shards ready."""
    train_cpu_s: float
    """CPU seconds of the trainer's process per sample."""
    device: str
    cores: int
    frames: FrameSource


def measure(
    plan: Plan,
    directory: Path,
    config: TrainConfig,
    kind: FrameSource,
    report: Callable[[str], None],
) -> Measured:
    """Measure the parts in `directory` with the pairs of `plan`; `report` is called with a text at each step.

    Raises DatasetError if a worker dies, because a file crashes the decoder or memory is short.
    """
    spool = Spool(directory / "spool")
    plan.save(spool)
    with _worker(plan) as pool:
        report("decoding and developing a pair")
        pair = plan.pairs[0].pair
        decode_s = statistics.median(
            pool.submit(_seconds_to_decode, plan.root / pair.short).result() for _ in range(3)
        )
        seconds_to_develop = functools.partial(_seconds_to_develop, target=plan.options.target)
        develop_s = pool.submit(seconds_to_develop, plan.root / pair.long).result()
        report("making shards")
        with spool.producer_lock():
            FrameStore(spool.frames).create()
            made = _make_shards(pool, spool, plan)
    samples = plan.options.samples_per_shard * len(made)
    report("reading shards")
    read_rate = _read_rate(spool, config.batch_size)
    report(f"training {config.model} on {config.device}")
    train_rate, cpu_s = _train_rate(config, spool, directory)
    return Measured(
        decode_s=decode_s,
        develop_s=develop_s,
        sample_s=sum(one.seconds for one in made) / samples,
        sample_cpu_s=sum(one.cpu_seconds for one in made) / samples,
        sample_bytes=plan.stream.layout().sample_bytes,
        read_samples_per_s=read_rate,
        train_samples_per_s=train_rate,
        train_cpu_s=cpu_s,
        device=config.device,
        cores=usable_cpus().count,
        frames=kind,
    )


@contextmanager
def _worker(plan: Plan) -> Iterator[LokyPool]:
    """Yield one worker process for the pairs of `plan`. Raises DatasetError, which names their files, if it dies."""
    pool = LokyPool(1)
    try:
        yield pool
    except WorkerDied as error:
        names = dict.fromkeys(
            name for planned in plan.pairs for name in (planned.pair.short, planned.pair.long)
        )
        raise DatasetError(
            f"{plan.root}: a worker process died while it decoded {', '.join(names)}; check that memory is not short, else remove the one of these files that crashes the decoder"
        ) from error
    finally:
        pool.close()


def _seconds_to_decode(path: Path) -> float:
    began = time.process_time()
    open_source(path).decode()
    return time.process_time() - began


def _seconds_to_develop(path: Path, target: Target) -> float:
    began, source = time.process_time(), open_source(path)
    if target == "raw":
        source.decode()
    else:
        source.develop(linear=target == "linear")
    return time.process_time() - began


def _make_shards(pool: LokyPool, spool: Spool, plan: Plan) -> list[TaskResult]:
    """Make shards and return those made from stored frames; the first one, which decodes the frames, is left out."""
    budget = smallest_budget(plan) * 1000
    frames = divide_budget(plan, budget, jobs=1).frames
    began = time.monotonic()
    made: list[TaskResult] = []
    shard = 0
    while len(made) < 3 and (not made or time.monotonic() - began < _SHARD_BUDGET_S):
        task = ShardTask.of_this_process(spool, shard, frames)
        one = pool.submit(make_shard, task).result()
        if not one.decoded:
            made.append(one)
        shard += 1
    return made


def _read_rate(spool: Spool, batch_size: int) -> float:
    """Return the reader's samples per second in the faster of two passes; the first pass fills the page cache."""
    count = len(spool.ready_shards()) * spool.stream.samples // batch_size
    rates = []
    for _ in range(2):
        with _repeating_reader(spool, batch_size, None) as reader:
            next(reader)
            began = time.monotonic()
            for _ in range(max(1, count)):
                next(reader)
            rates.append(max(1, count) * batch_size / (time.monotonic() - began))
    return max(rates)


def _repeating_reader(spool: Spool, batch_size: int, allocate: Any) -> SpoolReader:
    """Return a reader that repeats the ready shards without end."""
    finite = _FiniteSpool(spool, len(spool.ready_shards()))
    return SpoolReader(finite, batch_size=batch_size, keep=True, allocate=allocate)


class _FiniteSpool(Spool):
    """A spool whose plan ends after the shards that are ready now."""

    def __init__(self, spool: Spool, shards: int) -> None:
        super().__init__(spool.path)
        self._shards = shards

    @property
    def stream(self) -> Any:
        """The stream, ending after the ready shards."""
        return replace(super().stream, shards=self._shards)


def _train_rate(config: TrainConfig, spool: Spool, directory: Path) -> tuple[float, float]:
    """Return the trainer's samples per second, and its CPU seconds per sample."""
    stop, marks = threading.Event(), []

    def on_step(report: StepReport) -> None:
        marks.append((time.perf_counter(), time.process_time()))
        enough = len(marks) > _WARM_UP_STEPS + 1
        if enough and marks[-1][0] - marks[0][0] > _STEP_BUDGET_S:
            stop.set()

    train(
        config,
        lambda start, allocate: _repeating_reader(spool, config.batch_size, allocate),
        directory / "run",
        on_step=on_step,
        stop=stop,
    )
    steady = marks[_WARM_UP_STEPS:]
    # The median ignores steps that other processes slowed down.
    step_s = statistics.median(
        after - before for (before, _), (after, _) in itertools.pairwise(steady)
    )
    samples = (len(steady) - 1) * config.batch_size
    return config.batch_size / step_s, (steady[-1][1] - steady[0][1]) / samples


def scale_to(measured: Measured, small: Plan, whole: Plan) -> Measured:
    """Scale the decoding times from synthetic frames to a sensor's size; the other times do not depend on it."""
    factor = _pixels(whole) / _pixels(small)
    return replace(
        measured,
        decode_s=measured.decode_s * factor,
        develop_s=measured.develop_s * factor,
    )


def _pixels(plan: Plan) -> int:
    return plan.pairs[0].height * plan.pairs[0].width
