"""The whole job on synthetic files: make RAW pairs, stream them through a small budget, train, score.

The trade-off: small frames, small crops and a high learning rate, so that minutes on two CPU cores show
what days on a GPU do with the published recipe. Its figures say that the parts work, not how well.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from darkprep.jobs.training import (
    EvaluateChoices,
    Evaluated,
    TrainChoices,
    check_folder,
    evaluation,
    stream_training,
)
from darkprep.pipeline.plan.plan import PlanOptions, make_plan
from darkprep.report.evaluation_page import write_evaluation_report
from darkprep.shards import DarkprepError, OptionError, Spool, TrainingError
from darkprep.shards.plan_record import ProducerSettings
from darkprep.synth.dataset import synthesise
from darkprep.trainer.records import RunSummary
from darkprep.view.live import Progress
from darkprep.view.numbers import format_bytes, format_duration

CAMERA = "sony"
SCENES = 18
"""Twelve of them to train on: with half as many the network paints meadows brown."""
SHORTS = 1
FRAME = (768, 1152)
CROP = 192
BATCH = 4
LEARNING_RATE = 2e-3
EVALUATE_EVERY = 50
BUDGET_BYTES = 120_000_000
JOBS = 1
ITERATIONS = 1400
"""The learning rate drops at half of them; on a slow machine the clock ends the training before."""


@dataclass(frozen=True)
class _Places:
    """Where the demo's parts lie."""

    out: Path

    @property
    def data(self) -> Path:
        return self.out / "data"

    @property
    def spool(self) -> Path:
        return self.out / "spool"

    @property
    def run(self) -> Path:
        return self.out / "run"

    @property
    def results(self) -> Path:
        return self.out / "results"


def run_demo(
    out: Path, *, minutes: float, seed: int, progress: Progress, stop: threading.Event
) -> Iterator[str]:
    """Run it all below `out` and yield what to tell, line by line.

    Raises OptionError when `out` is used, DarkprepError when it is stopped before it trains, TrainingError
    when the minutes did not reach for one iteration.
    """
    places = _Places(out)
    check_folder("out", out)
    if out.exists() and any(out.iterdir()):
        raise OptionError(f"{out}: is not empty; choose another --out or remove it")

    def check() -> None:
        if stop.is_set():
            raise DarkprepError(f"stopped; remove {out} to begin again")

    files = synthesise(
        places.data,
        CAMERA,
        scenes=SCENES,
        shorts=SHORTS,
        size=FRAME,
        seed=seed,
        jobs=2,
        progress=progress.show,
        check=check,
    )
    yield f"1. {len(files)} RAW files of {SCENES} scenes in {places.data}"
    spool = _planned(places, seed)
    yield f"2. a plan without end in {places.spool}, disk budget {format_bytes(BUDGET_BYTES)}"
    summary = _trained(places, spool, minutes, seed, progress, stop)
    streamed = summary.samples * spool.stream.layout().sample_bytes
    yield (
        f"3. trained {summary.iterations} iterations in {format_duration(summary.seconds)} while producers made shards: {format_bytes(streamed)} went through "
        f"the spool, which never held more than {format_bytes(summary.peak_disk_bytes)}; {summary.shards_deleted} shards deleted after use; "
        f"waited for data {summary.data_wait_fraction:.1%} of the time"
    )
    if stop.is_set() and summary.ended == "stopped" and not summary.iterations:
        return
    found = _scored(places, progress)
    scored = write_evaluation_report(
        places.results,
        found.record(),
        root=places.data,
        camera=CAMERA,
        weights=places.run / "weights.safetensors",
    )
    yield f"4. {found.evaluation.pairs} held-out pairs restored"
    yield ""
    yield from _table(found)
    yield ""
    yield f"pictures, amplified input | restored | truth: {_headline(places, found)} and {places.results}/"
    yield f"to look at in a browser: {places.run / 'report.html'} and {scored}"


def _planned(places: _Places, seed: int) -> Spool:
    options = PlanOptions(
        camera=CAMERA, crop=CROP, samples_per_shard=16, crops_per_visit=4, epochs=None, seed=seed
    )
    spool = Spool(places.spool)
    make_plan(places.data, options).save(
        spool, ProducerSettings(budget_bytes=BUDGET_BYTES, jobs=JOBS)
    )
    return spool


def _trained(
    places: _Places,
    spool: Spool,
    minutes: float,
    seed: int,
    progress: Progress,
    stop: threading.Event,
) -> RunSummary:
    choices = TrainChoices(
        spool=spool,
        run_dir=places.run,
        iterations=ITERATIONS,
        batch_size=BATCH,
        model_name="redirt",
        device="cpu",
        precision="fp32",
        learning_rate=LEARNING_RATE,
        reuse=1,
        augment="cfa",
        keep_shards=False,
        producers="auto",
        resume=False,
        seed=seed,
        checkpoint_every=ITERATIONS,
        log_every=20,
        evaluate_every=EVALUATE_EVERY,
    )
    clock = threading.Timer(60 * minutes, stop.set)
    clock.daemon = True
    clock.start()
    ends_at = time.monotonic() + 60 * minutes
    try:
        summary = stream_training(choices, progress, stop, ends_at=ends_at)[1]
    finally:
        clock.cancel()
    if not summary.iterations and time.monotonic() >= ends_at:
        raise TrainingError(
            f"{format_duration(60 * minutes)} were over before the first shard was made; give more --minutes"
        )
    return summary


def _scored(places: _Places, progress: Progress) -> Evaluated:
    choices = EvaluateChoices(
        weights=places.run / "weights.safetensors",
        camera=CAMERA,
        root=places.data,
        split="test",
        frames="first",
        exclude_misaligned=False,
        amplify="ratio",
        multiplier=None,
        protocol="redirt",
        baseline=True,
        device="cpu",
        out=places.results,
    )
    return evaluation(choices, progress)


def _table(found: Evaluated) -> Iterator[str]:
    whole = found.evaluation
    yield f"{'':28}{'PSNR':>8}{'SSIM':>8}"
    for name, psnr, ssim in (
        ("input, amplified by LibRaw", whole.baseline_psnr, whole.baseline_ssim),
        ("restored by the network", whole.psnr, whole.ssim),
        ("truth", None, 1.0),
    ):
        shown = "inf" if psnr is None else f"{psnr:.2f}"
        yield f"{name:28}{shown:>8}{ssim:>8.3f}"


def _headline(places: _Places, found: Evaluated) -> Path:
    """The picture of the pair with the largest exposure ratio, under a name that is easy to find."""
    darkest = max(found.evaluation.images, key=lambda image: image.ratio)
    target = places.out / "demo.png"
    shutil.copyfile(places.results / f"{darkest.pair}.png", target)
    return target
