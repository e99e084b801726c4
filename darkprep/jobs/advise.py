"""Predict the speed of training on this machine and suggest settings, from a minute of measurements.

A worker decodes a pair and makes shards of it, and the trainer trains on these shards, both with the code
of a real run; the prediction is computed from these measurements. The trade-off: the parts are measured one
after the other and combined by the CPU time they take, so their mutual slow-down in caches and on the disk
is left out.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from darkprep.jobs.gpus import check_gpu
from darkprep.jobs.measure import MOST_STEPS, FrameSource, Measured, measure, scale_to
from darkprep.pipeline.pairs.origin import PairOrigin
from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import Plan, PlannedPair
from darkprep.pipeline.plan.planner import make_plan
from darkprep.pipeline.produce.budget import (
    check_budget,
    default_budget,
    divide_budget,
    existing_ancestor,
    smallest_budget,
)
from darkprep.shards import DatasetError, OptionError
from darkprep.shards.files import disk_errors
from darkprep.synth.dataset import synthesise
from darkprep.synth.sensors import sensor_of
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.device import open_device
from darkprep.view.numbers import format_bytes, format_count, format_duration, format_number

_SYNTHETIC_SIZE = (768, 1152)
_PUBLISHED_TRAINING = {"sony": (280, 161), "fuji": (286, 135)}
"""Pairs and scenes in SID's training lists, with the first frame of each burst only."""
_ELD_TRAINING = (60, 20)
"""Pairs and scenes of each camera of ELD."""


@dataclass(frozen=True, kw_only=True)
class AdviseOptions:
    """The build and the training run to predict. Raises OptionError, which names the invalid field."""

    plan: PlanOptions
    """A plan without end."""
    config: TrainConfig
    root: Path
    """Directory of the photographs; if it has none of a camera's, synthetic ones are measured."""
    pairs: Path | None = None
    """Path of a pair table to use instead of a camera's pairs; `plan.camera` is then a label."""
    layout: str | None = None
    """A folder layout in which to find pairs, instead of a camera's pairs."""
    spool: Path
    """Where the spool will be."""
    jobs: int | None = None
    """Worker processes; None for all cores."""
    disk_budget: int | None = None
    """Maximum size of the spool in bytes; None for the default of `build`."""

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise OptionError(f"jobs must be at least 1, not {self.jobs}")
        _ = self.origin

    @property
    def origin(self) -> PairOrigin:
        """The origin of the pairs."""
        return PairOrigin(
            root=self.root, camera=self.plan.camera, table=self.pairs, layout=self.layout
        )

    def measured_config(self, device: torch.device, plan: Plan) -> TrainConfig:
        """Return the configuration of a short training run to measure on a plan's samples. Raises OptionError."""
        return replace(
            self.config,
            cfa=plan.cfa,
            target=plan.options.target,
            crop=plan.stream.crop,
            iterations=MOST_STEPS,
            device=str(device),
            reuse=1,
            checkpoint_every=10 * MOST_STEPS,
            log_every=MOST_STEPS,
            camera=self.plan.camera,
        )


@dataclass(frozen=True, kw_only=True)
class Advice:
    """A prediction for a whole training run, and suggested settings."""

    measured: Measured
    jobs: int
    reuse: int
    budget_bytes: int
    frames_kept: float
    """Share of the frames that the budget has room for."""
    producer_samples_per_s: float
    """Samples per second of all workers together if they never wait."""
    samples_per_s: float
    """Samples per second of producers and trainer together."""
    wait_fraction: float
    """Share of the time that the trainer waits for data."""
    first_epoch_s: float
    """Seconds until every frame has been decoded once, by all workers."""
    iterations: int
    samples: int
    """Samples that the trainer uses; a sample that is used again counts again."""
    hours: float
    bytes_written: int
    all_frames_bytes: int
    """The smallest budget that has room for every decoded frame."""
    suggestions: tuple[str, ...]


def advise(options: AdviseOptions, report: Callable[[str], None] = lambda text: None) -> Advice:
    """Measure and predict; `report` is called with a text at each step. Raises OptionError, DatasetError and DiskFull."""
    device = open_device(options.config.device)
    check_gpu(device)
    with _temporary_directory(options.spool) as directory:
        plan, whole, kind = _plans(options, directory, report)
        check_budget(whole, options.disk_budget or default_budget(options.spool))
        config = options.measured_config(device, plan)
        measured = measure(plan, directory, config, kind, report)
    if kind == "synthetic":
        measured = scale_to(measured, plan, whole)
    return predict(options, measured, whole)


@contextmanager
def _temporary_directory(spool: Path) -> Iterator[Path]:
    """Create a directory on the disk of the future `spool`, whose parents may not exist yet; remove it at the end."""
    parent = existing_ancestor(spool.absolute().parent)
    if not parent.is_dir():
        raise OptionError(f"spool {spool}: {parent} is not a directory; choose another --spool")
    with disk_errors(parent / "spool"):
        made = tempfile.TemporaryDirectory(prefix=".darkprep-advise-", dir=parent)
    with made as directory:
        yield Path(directory)


def _plans(
    options: AdviseOptions, directory: Path, report: Callable[[str], None]
) -> tuple[Plan, Plan, FrameSource]:
    """Return a plan of two pairs to measure, the plan to predict for, and a text that states where the frames come from.

    Only for a camera's data set are synthetic frames measured instead of photographs that are missing.
    """
    camera, origin = options.plan.camera, options.origin
    if not origin.is_data_set:
        found = origin.find()
        whole = make_plan(found.root, options.plan, pairs=found)
        return replace(whole, pairs=whole.pairs[:2]), whole, "photographs"
    try:
        whole = make_plan(options.root, options.plan)
    except DatasetError:
        report(f"no photographs of {camera} below {options.root}: making synthetic ones")
        root = directory / "data"
        synthesise(root, camera, scenes=2, shorts=1, size=_SYNTHETIC_SIZE, seed=0, jobs=1)
        return make_plan(root, options.plan), assumed_plan(options.plan), "synthetic"
    return replace(whole, pairs=whole.pairs[:2]), whole, "photographs"


def assumed_plan(options: PlanOptions) -> Plan:
    """Return the plan of a whole data set that is not on this machine, with its true number and size of frames."""
    sensor = sensor_of(options.camera)
    pairs, scenes = _PUBLISHED_TRAINING.get(options.camera, _ELD_TRAINING)
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
                short_fingerprint=f"0-{index:016x}",
                long_fingerprint=f"1-{index % scenes:016x}",
            )
        )
    return Plan(options=options, pairs=tuple(planned), cfa=sensor.layout.cfa, root=Path("data"))


# -- predicting ---------------------------------------------------------------------------------------


def predict(options: AdviseOptions, measured: Measured, plan: Plan) -> Advice:
    """Compute the speed of the whole run from the rates of its parts, and suggest settings. Raises BudgetTooSmall."""
    cores, config = measured.cores, options.config
    jobs = options.jobs or cores
    budget = options.disk_budget or default_budget(options.spool)
    kept_short, kept_long = kept_shares(plan, budget, jobs)
    decode_again_s = (
        (1 - kept_short) * measured.decode_s + (1 - kept_long) * measured.develop_s
    ) / plan.options.crops_per_visit
    worker_s = max(measured.sample_s, measured.sample_cpu_s) + decode_again_s
    producers = min(jobs, cores) / worker_s
    shared = cores / (
        measured.train_cpu_s + (measured.sample_cpu_s + decode_again_s) / config.reuse
    )
    alone = measured.train_samples_per_s
    # Sharing its cores makes a trainer on a CPU slower, but it does not wait for data.
    fed = min(producers, cores / (measured.sample_cpu_s + decode_again_s)) * config.reuse
    rate = min(alone, fed, shared)
    shorts, longs = map(len, _frame_names(plan))
    decoding_s = shorts * measured.decode_s + longs * measured.develop_s
    samples = config.iterations * config.batch_size
    frame_bytes = whole_budget(plan, jobs)
    return Advice(
        measured=measured,
        jobs=jobs,
        reuse=config.reuse,
        budget_bytes=budget,
        frames_kept=(kept_short * shorts + kept_long * longs) / (shorts + longs),
        producer_samples_per_s=producers,
        samples_per_s=rate,
        wait_fraction=max(0.0, 1 - (fed if measured.device == "cpu" else rate) / alone),
        first_epoch_s=decoding_s / min(jobs, cores),
        iterations=config.iterations,
        samples=samples,
        hours=samples / rate / 3600,
        bytes_written=samples // config.reuse * measured.sample_bytes,
        all_frames_bytes=frame_bytes,
        suggestions=tuple(
            _suggestions(alone, worker_s, config.reuse, measured, budget, frame_bytes)
        ),
    )


def kept_shares(plan: Plan, budget: int, jobs: int) -> tuple[float, float]:
    """Return the shares of short and of long exposures whose decoded frames fit into a budget."""
    kept = divide_budget(plan, budget, jobs=jobs).frames
    shorts, longs = _frame_names(plan)
    return len(shorts & kept) / len(shorts), len(longs & kept) / len(longs)


def whole_budget(plan: Plan, jobs: int) -> int:
    """Return the smallest budget in which every decoded frame fits, accurate to one per cent."""
    low, high = smallest_budget(plan), smallest_budget(plan) + 1_000_000
    while min(kept_shares(plan, high, jobs)) < 1:
        low, high = high, 2 * high
    while high - low > high // 100:
        middle = (low + high) // 2
        low, high = (low, middle) if min(kept_shares(plan, middle, jobs)) == 1 else (middle, high)
    return high


def _frame_names(plan: Plan) -> tuple[set[str], set[str]]:
    """Return the names of the stored frames of all short and of all long exposures."""
    return (
        {plan.frame_name("short", pair) for pair in plan.pairs},
        {plan.frame_name("long", pair) for pair in plan.pairs},
    )


def _suggestions(
    alone: float,
    worker_s: float,
    reuse: int,
    measured: Measured,
    budget: int,
    frame_bytes: int,
) -> Iterator[str]:
    cores = measured.cores
    needed = max(1, math.ceil(1.1 * alone * worker_s / reuse))
    jobs = min(needed, cores)
    yield f"--jobs {jobs}" + (
        f" ({needed} would be needed, but there are only {cores} cores)" if needed > cores else ""
    )
    if needed > cores:
        enough = math.ceil(alone * worker_s / cores)
        yield f"--reuse {enough}: using each sample {enough} times, augmented differently each time, keeps the {measured.device} busy"
    if budget < frame_bytes:
        yield (
            f"--disk-budget {frame_bytes / 1e9:.3g}GB keeps every frame decoded "
            f"({budget / 1e9:.3g} GB is assumed here)"
        )


# -- output -------------------------------------------------------------------------------------------


def advice_lines(advice: Advice) -> list[str]:
    """Return the advice as lines of text."""
    found = advice.measured
    origin = {
        "photographs": f"measured on {found.cores} cores with your photographs:",
        "synthetic": f"measured on {found.cores} cores with synthetic frames, scaled:",
        "described": f"assumed for {found.cores} cores and the GPU {found.device}, from docs/benchmarks.md; nothing was measured:",
    }[found.frames]
    wait = advice.wait_fraction
    verdict = (
        f"the {found.device} will wait for data {wait:.0%} of the time"
        if wait > 0.01
        else f"the {found.device} will not wait for data"
    )
    return [
        origin,
        f"  decode a short exposure     {1e3 * found.decode_s:8.0f} ms",
        f"  develop a long exposure     {1e3 * found.develop_s:8.0f} ms",
        f"  crop and write a sample     {1e3 * found.sample_s:8.1f} ms   {format_bytes(found.sample_bytes)}",
        f"  read samples                {found.read_samples_per_s:8.0f} per second",
        f"  train on {found.device:<12}       {found.train_samples_per_s:8.1f} samples per second",
        "prediction:",
        f"  {format_count(advice.jobs, 'worker')}: {advice.producer_samples_per_s:.0f} samples per second; {verdict}",
        f"  together {format_number(advice.samples_per_s)} samples per second: {format_count(advice.iterations, 'iteration')} in {format_number(advice.hours)} h",
        f"  every frame is decoded once within the first {format_duration(advice.first_epoch_s)}; "
        f"{format_bytes(advice.budget_bytes)} has room for {advice.frames_kept:.0%} of the frames",
        f"  {format_bytes(advice.bytes_written)} are written in total, never more than {format_bytes(advice.budget_bytes)} at once",
        "suggested options:",
        *(f"  {text}" for text in advice.suggestions),
    ]


def advice_record(advice: Advice) -> dict[str, Any]:
    """Return the advice as JSON values."""
    return asdict(advice)
