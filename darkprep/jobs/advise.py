"""What to expect of this machine and what to set, from a minute's measurement of the parts that will run.

A worker decodes a pair and makes shards of it, the trainer trains on those, both by the code of a real
run; the rest is arithmetic. The trade-off: the parts are measured one after the other and put together
by the CPU time that they take, so what two of them cost each other in caches and disk is left out.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from darkprep.jobs.gpus import refuse_undrivable
from darkprep.pipeline.noise.sensors import sensor_of
from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.pairs.table import Pair, camera_named
from darkprep.pipeline.plan.plan import Plan, PlannedPair, PlanOptions, make_plan
from darkprep.pipeline.produce.budget import (
    allot,
    check_budget,
    default_budget,
    smallest_budget,
    standing_at,
)
from darkprep.pipeline.produce.executors.loky import LokyPool
from darkprep.pipeline.produce.frame_store import FrameStore
from darkprep.pipeline.produce.worker import ShardMade, ShardTask, make_shard
from darkprep.shards import DatasetError, OptionError, Spool, SpoolReader
from darkprep.shards.files import disk_errors
from darkprep.shards.process import ProcessId
from darkprep.synth.dataset import synthesise
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.device import open_device
from darkprep.trainer.loop import train
from darkprep.trainer.records import StepReport
from darkprep.view.numbers import format_bytes, format_duration

_STEP_BUDGET_S = 20.0
_SHARD_BUDGET_S = 12.0
_WARM_UP_STEPS = 2
_MOST_STEPS = 200
_SYNTHETIC = {"bayer": (768, 1152), "xtrans": (768, 1152)}
_PUBLISHED_TRAINING = {"sony": (280, 161), "fuji": (286, 135)}
"""Pairs and scenes of SID's training lists, first frames only; ELD has 60 and 20 a camera."""
_ELD_PAIRS = (60, 20)


@dataclass(frozen=True, kw_only=True)
class AdviseChoices:
    """What is to be run, as far as it is known."""

    camera: str
    root: Path
    spool: Path
    model: str = TrainConfig.model
    device: str = "auto"
    precision: str = TrainConfig.precision
    batch_size: int = TrainConfig.batch_size
    crop: int | None = None
    samples_per_shard: int = 32
    crops_per_visit: int = 8
    iterations: int = TrainConfig.iterations
    jobs: int | None = None
    reuse: int = TrainConfig.reuse
    disk_budget: int | None = None

    def __post_init__(self) -> None:
        for name in ("iterations", "reuse", "batch_size"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.jobs is not None and self.jobs < 1:
            raise OptionError(f"jobs must be at least 1, not {self.jobs}")

    def train_config(self, device: torch.device) -> TrainConfig:
        """The training to measure; raises OptionError."""
        options = self.plan_options()
        return TrainConfig(
            model=self.model, cfa=options.cfa, crop=options.crop_size(), iterations=_MOST_STEPS,
            batch_size=self.batch_size, device=str(device),
            precision=self.precision,  # type: ignore[arg-type] # TrainConfig checks it
            checkpoint_every=10 * _MOST_STEPS, log_every=_MOST_STEPS, camera=self.camera,
        )  # fmt: skip

    def plan_options(self) -> PlanOptions:
        """The plan to measure: endless, for the camera's training scenes."""
        return PlanOptions(
            camera=self.camera,
            crop=self.crop,
            samples_per_shard=self.samples_per_shard,
            crops_per_visit=self.crops_per_visit,
            epochs=None,
        )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the parts took here, each alone."""

    decode_s: float
    """CPU seconds to decode one short exposure."""
    develop_s: float
    """CPU seconds to decode and develop one long exposure."""
    sample_s: float
    """A worker's seconds to cut and write one sample from stored frames."""
    sample_cpu_s: float
    sample_bytes: int
    read_samples_per_s: float
    """Of the reader alone, from the page cache."""
    train_samples_per_s: float
    """Of the trainer alone, with shards at hand."""
    train_cpu_s: float
    """CPU seconds of the trainer's process for one sample."""
    device: str
    cores: int
    frames: Literal["photographs", "synthetic"]


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What follows from it."""

    measured: Measured
    jobs: int
    reuse: int
    budget_bytes: int
    frames_kept: float
    """Share of the frames that the budget can keep decoded."""
    producer_samples_per_s: float
    """Of all workers, had they nothing to wait for."""
    samples_per_s: float
    """Of the whole, producers and trainer together."""
    wait_fraction: float
    """Share of the time that the trainer will wait for data."""
    first_epoch_s: float
    """Until every frame has been decoded once, by all workers."""
    iterations: int
    hours: float
    bytes_written: int
    all_frames_bytes: int
    """The budget from which on every frame stays decoded."""
    suggestions: tuple[str, ...]


def advise(choices: AdviseChoices, tell: Callable[[str], None] = lambda text: None) -> Advice:
    """Measure and predict. Raises OptionError, DatasetError, DiskFull and what the parts raise."""
    device = open_device(choices.device)
    refuse_undrivable(device)
    config = choices.train_config(device)
    with _folder_at(choices.spool) as folder:
        plan, whole, kind = _plans(choices, folder, tell)
        check_budget(whole, choices.disk_budget or default_budget(choices.spool))
        measured = _measure(choices, plan, folder, config, kind, tell)
    if kind == "synthetic":
        measured = _scaled(measured, plan, whole)
    return predict(choices, measured, whole)


# -- measuring ----------------------------------------------------------------------------------------


@contextmanager
def _folder_at(spool: Path) -> Iterator[Path]:
    """A folder for a while on the disk where `spool` will be, though its parents need not exist yet."""
    parent = standing_at(spool.absolute().parent)
    if not parent.is_dir():
        raise OptionError(f"spool {spool}: {parent} is not a directory; choose another place")
    with disk_errors(parent / "spool"):
        made = tempfile.TemporaryDirectory(prefix=".darkprep-advise-", dir=parent)
    with made as folder:
        yield Path(folder)


def _plans(
    choices: AdviseChoices, folder: Path, tell: Callable[[str], None]
) -> tuple[Plan, Plan, Literal["photographs", "synthetic"]]:
    """A plan of two pairs to measure, the plan to predict for, and where the frames come from."""
    options = choices.plan_options()
    try:
        whole = make_plan(choices.root, options)
    except DatasetError:
        tell(f"no photographs of {choices.camera} below {choices.root}: making synthetic ones")
        root = folder / "data"
        size = _SYNTHETIC[camera_named(choices.camera).cfa]
        synthesise(root, choices.camera, scenes=2, shorts=1, size=size, seed=0, jobs=1)
        return make_plan(root, options), assumed_plan(options), "synthetic"
    return replace(whole, pairs=whole.pairs[:2]), whole, "photographs"


def assumed_plan(options: PlanOptions) -> Plan:
    """The plan of a whole data set that is not here: as many frames, of the sensor's size."""
    sensor = sensor_of(options.camera)
    pairs, scenes = _PUBLISHED_TRAINING.get(options.camera, _ELD_PAIRS)
    planned = []
    for index in range(pairs):
        scene = f"{index % scenes:05d}"
        pair = Pair(
            id=f"{scene}-{index}", scene=scene, camera=options.camera, split="train",
            short=f"{index}.raw", long=f"{scene}.raw", ratio=100.0, iso=0.0,
        )  # fmt: skip
        planned.append(
            PlannedPair(
                pair=pair,
                height=sensor.height,
                width=sensor.width,
                short_print=f"0-{index:016x}",
                long_print=f"1-{index % scenes:016x}",
            )
        )
    return Plan(options=options, pairs=tuple(planned), root=Path("data"))


def _measure(
    choices: AdviseChoices,
    plan: Plan,
    folder: Path,
    config: TrainConfig,
    kind: Literal["photographs", "synthetic"],
    tell: Callable[[str], None],
) -> Measured:
    spool = Spool(folder / "spool")
    plan.save(spool)
    with _worker() as pool:
        tell("decoding and developing a pair")
        pair = plan.pairs[0].pair
        decode_s = statistics.median(
            pool.submit(_seconds_to_decode, plan.root / pair.short).result() for _ in range(3)
        )
        develop_s = pool.submit(_seconds_to_develop, plan.root / pair.long).result()
        tell("making shards")
        with spool.producer_lock():
            FrameStore(spool.frames).create()
            made = _make_shards(pool, spool, plan)
    samples = plan.options.samples_per_shard * len(made)
    tell("reading shards")
    read = _read_pace(spool, choices.batch_size)
    tell(f"training {config.model} on {config.device}")
    pace, cpu_s = _train_pace(config, spool, folder)
    return Measured(
        decode_s=decode_s,
        develop_s=develop_s,
        sample_s=sum(one.seconds for one in made) / samples,
        sample_cpu_s=sum(one.cpu_seconds for one in made) / samples,
        sample_bytes=plan.stream.layout().sample_bytes,
        read_samples_per_s=read,
        train_samples_per_s=pace,
        train_cpu_s=cpu_s,
        device=config.device,
        cores=os.cpu_count() or 1,
        frames=kind,
    )


@contextmanager
def _worker() -> Iterator[LokyPool]:
    pool = LokyPool(1)
    try:
        yield pool
    finally:
        pool.close()


def _seconds_to_decode(path: Path) -> float:
    began = time.process_time()
    open_source(path).decode()
    return time.process_time() - began


def _seconds_to_develop(path: Path) -> float:
    began = time.process_time()
    open_source(path).develop()
    return time.process_time() - began


def _make_shards(pool: LokyPool, spool: Spool, plan: Plan) -> list[ShardMade]:
    """Shards made from stored frames; the first one, which has to decode them, is not counted."""
    budget = smallest_budget(plan) * 1000
    frames = allot(plan, budget, jobs=1).frames
    began = time.monotonic()
    made: list[ShardMade] = []
    shard = 0
    while len(made) < 3 and (not made or time.monotonic() - began < _SHARD_BUDGET_S):
        task = ShardTask(
            spool=str(spool.path.absolute()),
            digest=spool.digest,
            store=str(spool.frames.absolute()),
            shard=shard,
            frames=frames,
            crashing=frozenset(),
            owner=ProcessId.own(),
        )
        one = pool.submit(make_shard, task).result()
        if not one.decoded:
            made.append(one)
        shard += 1
    return made


def _read_pace(spool: Spool, batch_size: int) -> float:
    """Samples a second of a reader whose batches are thrown away; the first pass warms its buffers."""
    count = len(spool.ready_shards()) * spool.stream.samples // batch_size
    paces = []
    for _ in range(2):
        with _endless(spool, batch_size, None) as reader:
            next(reader)
            began = time.monotonic()
            for _ in range(max(1, count)):
                next(reader)
            paces.append(max(1, count) * batch_size / (time.monotonic() - began))
    return max(paces)


def _endless(spool: Spool, batch_size: int, allocate: Any) -> SpoolReader:
    """A reader that goes round the shards that are there."""
    ready = len(spool.ready_shards())
    finite = _Finite(spool, ready)
    return SpoolReader(finite, batch_size=batch_size, keep=True, allocate=allocate)


class _Finite(Spool):
    """The same spool, seen as a plan that ends with the shards at hand."""

    def __init__(self, spool: Spool, shards: int) -> None:
        super().__init__(spool.path)
        self._shards = shards

    @property
    def stream(self) -> Any:
        """The stream, with an end."""
        return replace(super().stream, shards=self._shards)


def _train_pace(config: TrainConfig, spool: Spool, folder: Path) -> tuple[float, float]:
    """Samples a second of the trainer, and its CPU seconds a sample."""
    stop, marks = threading.Event(), []

    def on_step(report: StepReport) -> None:
        marks.append((time.perf_counter(), time.process_time()))
        enough = len(marks) > _WARM_UP_STEPS + 1
        if enough and marks[-1][0] - marks[0][0] > _STEP_BUDGET_S:
            stop.set()

    train(
        config,
        lambda start, allocate: _endless(spool, config.batch_size, allocate),
        folder / "run",
        on_step=on_step,
        stop=stop,
    )
    steady = marks[_WARM_UP_STEPS:]
    # The median step: what else the machine does for a moment is not the training's pace.
    step_s = statistics.median(
        after - before for (before, _), (after, _) in itertools.pairwise(steady)
    )
    samples = (len(steady) - 1) * config.batch_size
    return config.batch_size / step_s, (steady[-1][1] - steady[0][1]) / samples


def _scaled(measured: Measured, small: Plan, whole: Plan) -> Measured:
    """Decoding takes as long as a frame has pixels; cutting and training do not depend on it."""
    factor = _pixels(whole) / _pixels(small)
    return replace(
        measured,
        decode_s=measured.decode_s * factor,
        develop_s=measured.develop_s * factor,
    )


def _pixels(plan: Plan) -> int:
    return plan.pairs[0].height * plan.pairs[0].width


# -- predicting ---------------------------------------------------------------------------------------


def predict(choices: AdviseChoices, measured: Measured, plan: Plan) -> Advice:
    """The arithmetic: rates of the parts to the rate of the whole, and what to set. Raises BudgetTooSmall."""
    cores = measured.cores
    jobs = choices.jobs or cores
    budget = choices.disk_budget or default_budget(choices.spool)
    kept_short, kept_long = kept_shares(plan, budget, jobs)
    again = (
        (1 - kept_short) * measured.decode_s + (1 - kept_long) * measured.develop_s
    ) / plan.options.crops_per_visit
    worker_s = max(measured.sample_s, measured.sample_cpu_s) + again
    producers = min(jobs, cores) / worker_s
    shared = cores / (measured.train_cpu_s + (measured.sample_cpu_s + again) / choices.reuse)
    alone = measured.train_samples_per_s
    # A trainer on a CPU that has to share its cores is slowed; it does not wait for data.
    fed = min(producers, cores / (measured.sample_cpu_s + again)) * choices.reuse
    rate = min(alone, fed, shared)
    shorts, longs = _frame_counts(plan)
    decoding = shorts * measured.decode_s + longs * measured.develop_s
    samples = choices.iterations * choices.batch_size
    first = decoding / min(jobs, cores)
    frame_bytes = whole_budget(plan, jobs)
    return Advice(
        measured=measured,
        jobs=jobs,
        reuse=choices.reuse,
        budget_bytes=budget,
        frames_kept=(kept_short * shorts + kept_long * longs) / (shorts + longs),
        producer_samples_per_s=producers,
        samples_per_s=rate,
        wait_fraction=max(0.0, 1 - (fed if measured.device == "cpu" else rate) / alone),
        first_epoch_s=first,
        iterations=choices.iterations,
        hours=samples / rate / 3600,
        bytes_written=samples // choices.reuse * measured.sample_bytes,
        all_frames_bytes=frame_bytes,
        suggestions=tuple(_suggestions(alone, worker_s, choices, measured, budget, frame_bytes)),
    )


def kept_shares(plan: Plan, budget: int, jobs: int) -> tuple[float, float]:
    """The shares of the short and of the long exposures that stay decoded under a budget."""
    kept = allot(plan, budget, jobs=jobs).frames
    shorts, longs = _frame_counts(plan)
    long_kept = sum(name.startswith("long") for name in kept)
    return (len(kept) - long_kept) / shorts, long_kept / longs


def whole_budget(plan: Plan, jobs: int) -> int:
    """The smallest budget, to a hundredth, under which every frame stays decoded."""
    low, high = smallest_budget(plan), smallest_budget(plan) + 1_000_000
    while min(kept_shares(plan, high, jobs)) < 1:
        low, high = high, 2 * high
    while high - low > high // 100:
        middle = (low + high) // 2
        low, high = (low, middle) if min(kept_shares(plan, middle, jobs)) == 1 else (middle, high)
    return high


def _frame_counts(plan: Plan) -> tuple[int, int]:
    return (
        len({pair.short_print for pair in plan.pairs}),
        len({pair.long_print for pair in plan.pairs}),
    )


def _suggestions(
    alone: float,
    worker_s: float,
    choices: AdviseChoices,
    measured: Measured,
    budget: int,
    frame_bytes: int,
) -> Iterator[str]:
    cores = measured.cores
    needed = max(1, math.ceil(1.1 * alone * worker_s / choices.reuse))
    jobs = min(needed, cores)
    yield f"--jobs {jobs}" + (
        f" ({needed} would be needed, there are {cores} cores)" if needed > cores else ""
    )
    if needed > cores:
        reuse = math.ceil(alone * worker_s / cores)
        yield f"--reuse {reuse}: each sample used {reuse} times, with a fresh augmentation each, keeps the {measured.device} busy"
    if budget < frame_bytes:
        yield (
            f"--disk-budget {frame_bytes / 1e9:.3g}GB keeps every frame decoded "
            f"({budget / 1e9:.3g} GB is assumed here)"
        )


# -- telling ------------------------------------------------------------------------------------------


def advice_lines(advice: Advice) -> list[str]:
    """For people."""
    found = advice.measured
    of = "photographs of yours" if found.frames == "photographs" else "synthetic frames, scaled"
    wait = advice.wait_fraction
    verdict = (
        f"the {found.device} will wait for data {wait:.0%} of the time"
        if wait > 0.01
        else f"the {found.device} will not wait for data"
    )
    return [
        f"measured here, on {found.cores} cores, with {of}:",
        f"  decode a short exposure     {1e3 * found.decode_s:8.0f} ms",
        f"  develop a long exposure     {1e3 * found.develop_s:8.0f} ms",
        f"  cut and write a sample      {1e3 * found.sample_s:8.1f} ms   {format_bytes(found.sample_bytes)}",
        f"  read samples                {found.read_samples_per_s:8.0f} a second",
        f"  train on {found.device:<12}       {found.train_samples_per_s:8.1f} samples a second",
        "to expect:",
        f"  {advice.jobs} producers make {advice.producer_samples_per_s:.0f} samples a second; {verdict}",
        f"  together {advice.samples_per_s:.3g} samples a second: {advice.iterations:,} iterations take {advice.hours:.3g} h",
        f"  every frame is decoded once within the first {format_duration(advice.first_epoch_s)}; "
        f"{advice.frames_kept:.0%} of them stay under {format_bytes(advice.budget_bytes)}",
        f"  {format_bytes(advice.bytes_written)} are written in all, never more than {format_bytes(advice.budget_bytes)} at once",
        "to set:",
        *(f"  {text}" for text in advice.suggestions),
    ]


def advice_record(advice: Advice) -> dict[str, Any]:
    """As JSON takes it."""
    return asdict(advice)
