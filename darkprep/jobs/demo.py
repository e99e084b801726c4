"""Show everything with synthetic photographs: make RAW pairs, stream them through a small budget, train, score.

The trade-off: frames and crops are small and the learning rate is high, so that minutes on two CPU cores
show what the published recipe does in days on a GPU. The figures show that the parts work, not how well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from darkprep.jobs.evaluate import EvaluateOptions, EvaluationResult, evaluation
from darkprep.jobs.output_directory import check_output_directory
from darkprep.jobs.train import stream_training
from darkprep.jobs.train_options import TrainOptions
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.planner import make_plan
from darkprep.report.evaluation_page import write_evaluation_report
from darkprep.shards import DarkprepError, OptionError, Spool, TrainingError
from darkprep.shards.files import read_regular_file, write_bytes
from darkprep.shards.plan_record import ProducerSettings
from darkprep.synth.dataset import synthesise
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.records import RunSummary
from darkprep.view.live import Progress
from darkprep.view.numbers import format_bytes, format_duration

CAMERA = "sony"
SCENES = 18
"""Number of scenes; twelve are for training. With half as many, the test scenes get wrong colours."""
SHORTS = 1
FRAME = (768, 1152)
CROP = 192
BATCH = 4
LEARNING_RATE = 1e-3
"""With twice as much the network may stop learning: all its outputs become equal."""
EVALUATE_EVERY = 50
BUDGET_BYTES = 120_000_000
JOBS = 1
ITERATIONS = 1400
"""Number of iterations; the learning rate drops after half of them. On a slow machine the time limit ends the run earlier."""


@dataclass(frozen=True)
class _Layout:
    """The directories of the demo."""

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
    """Run the demo below `out` and yield its output line by line.

    Raises OptionError when `out` is not empty, DarkprepError when the demo is stopped before training
    starts, TrainingError when `minutes` are too few for one iteration.
    """
    layout = _Layout(out)
    check_output_directory("out", out)
    if out.exists() and any(out.iterdir()):
        raise OptionError(f"{out}: is not empty; choose another --out, or delete this directory")

    def check() -> None:
        if stop.is_set():
            raise DarkprepError(f"stopped; remove {out} to start again")

    files = synthesise(
        layout.data,
        CAMERA,
        scenes=SCENES,
        shorts=SHORTS,
        size=FRAME,
        seed=seed,
        jobs=2,
        progress=progress.show,
        check=check,
    )
    yield f"1. {len(files)} RAW files of {SCENES} scenes in {layout.data}"
    spool = _plan(layout, seed)
    yield f"2. an endless plan in {layout.spool}, disk budget {format_bytes(BUDGET_BYTES)}"
    summary = _train(layout, spool, minutes, seed, progress, stop)
    streamed_bytes = summary.samples * spool.stream.layout().sample_bytes
    yield (
        f"3. trained {summary.iterations} iterations in {format_duration(summary.seconds)} while producers made shards: {format_bytes(streamed_bytes)} went through "
        f"the spool, which never held more than {format_bytes(summary.peak_disk_bytes)}; {summary.shards_deleted} shards deleted after use; "
        f"waited for data {summary.data_wait_fraction:.1%} of the time"
    )
    if stop.is_set() and summary.ended == "stopped" and not summary.iterations:
        return
    result = _evaluate(layout, progress)
    evaluation_page = write_evaluation_report(
        layout.results,
        result.record(),
        pairs=result.pairs,
        weights=layout.run / "weights.safetensors",
    )
    yield f"4. {result.evaluation.pairs} test pairs restored"
    yield ""
    yield from _table(result)
    yield ""
    yield f"pictures, amplified input | restored | truth: {_copy_darkest(layout, result)} and {layout.results}/"
    yield f"pages for a browser: {layout.run / 'report.html'} and {evaluation_page}"


def _plan(layout: _Layout, seed: int) -> Spool:
    options = PlanOptions(
        camera=CAMERA, crop=CROP, samples_per_shard=16, crops_per_visit=4, epochs=None, seed=seed
    )
    spool = Spool(layout.spool)
    make_plan(layout.data, options).save(
        spool, ProducerSettings(budget_bytes=BUDGET_BYTES, jobs=JOBS)
    )
    return spool


def _train(
    layout: _Layout,
    spool: Spool,
    minutes: float,
    seed: int,
    progress: Progress,
    stop: threading.Event,
) -> RunSummary:
    config = TrainConfig(
        iterations=ITERATIONS,
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        device="cpu",
        seed=seed,
        checkpoint_every=ITERATIONS,
        log_every=20,
        evaluate_every=EVALUATE_EVERY,
    )
    options = TrainOptions(spool=spool, config=config, run_dir=layout.run)
    timer = threading.Timer(60 * minutes, stop.set)
    timer.daemon = True
    timer.start()
    ends_at = time.monotonic() + 60 * minutes
    try:
        summary = stream_training(options, progress, stop, ends_at=ends_at)
    finally:
        timer.cancel()
    if not summary.iterations and time.monotonic() >= ends_at:
        raise TrainingError(
            f"{format_duration(60 * minutes)} passed before the first shard was made; give more --minutes"
        )
    return summary


def _evaluate(layout: _Layout, progress: Progress) -> EvaluationResult:
    options = EvaluateOptions(
        weights=layout.run / "weights.safetensors",
        camera=CAMERA,
        root=layout.data,
        baseline=True,
        device="cpu",
        out=layout.results,
    )
    return evaluation(options, progress)


def _table(result: EvaluationResult) -> Iterator[str]:
    whole = result.evaluation
    yield f"{'':28}{'PSNR':>8}{'SSIM':>8}"
    for name, psnr, ssim in (
        ("input, amplified by LibRaw", whole.baseline_psnr, whole.baseline_ssim),
        ("restored by the network", whole.psnr, whole.ssim),
        ("truth", None, 1.0),
    ):
        shown = "inf" if psnr is None else f"{psnr:.2f}"
        yield f"{name:28}{shown:>8}{ssim:>8.3f}"


def _copy_darkest(layout: _Layout, result: EvaluationResult) -> Path:
    """Copy the picture of the pair with the largest exposure ratio to the demo's directory; return the copy's path."""
    darkest = max(result.evaluation.images, key=lambda image: image.ratio)
    target = layout.out / "demo.png"
    write_bytes(target, read_regular_file(layout.results / f"{darkest.pair}.png"))
    return target
