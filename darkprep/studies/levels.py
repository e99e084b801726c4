"""The study `levels`: one network restores the same scenes of four cameras, decoded with two pairs of levels.

The released code uses the black and white level of one camera, 512 and 16383, for every camera. Here a
network restores each camera's frames twice: decoded with these levels, and with the levels in the files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from darkprep.jobs.weights import load_restorer
from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.groups import report_groups
from darkprep.pipeline.pairs.whole_frame import whole_frame
from darkprep.pipeline.raw.develop import develop_amplified
from darkprep.pipeline.raw.guard import guarded, guarded_call
from darkprep.shards import DatasetError, Sample
from darkprep.shards.files import disk_errors
from darkprep.shards.format import U16
from darkprep.studies.figures import format_psnr
from darkprep.studies.options import PROTOCOL_NOTE, Study, StudyOptions
from darkprep.studies.panel import (
    Comparison,
    LabelledPicture,
    common_median_pair,
    median_pair,
    read_picture_row,
)
from darkprep.studies.result import StudyResult, Table
from darkprep.studies.task_kinds import ExecutionOptions, TrainingTask
from darkprep.studies.task_results import LevelsImage, LevelsResult, result_of
from darkprep.studies.tasks import StudyContext
from darkprep.trainer.device import open_device
from darkprep.trainer.evaluation import restore_frame
from darkprep.trainer.metrics import F32, PROTOCOLS, score
from darkprep.trainer.picture import write_picture
from darkprep.trainer.picture_row import picture_file_name, side_by_side

PUBLISHED_BLACK, PUBLISHED_WHITE = 512, 16383
"""The levels that the code of SID, REDIRT and their successors uses for every camera."""
CAMERAS = ("sonya7s2", "canon70d", "canon700d", "nikond850")
TRAINED_ON = "sony"
FACTOR = "x100"
"""The light factor of the frames that are restored."""
_WHITE, _BLACK = 0.99, 0.01
_MEANS = (
    *("mean", "truth mean", "input white", "input black"),
    *("white", "black", "psnr", "ssim"),
)
"""Figures whose means over all frames are shown in the table."""

Levels = Literal["published", "file"]

_NOTE = (
    "White is the share of values above 0.99, black the share below 0.01: in the input, amplified and "
    "developed, and in the restored picture. With the published levels, a Canon's black level of 2047 becomes "
    "an offset of 0.1, which any amplification above 10 turns into white; and nearly all of a Nikon's signal "
    "lies below 512 and is clipped. What a network makes of an input that is white everywhere depends on its "
    "training; the input holds no scene that it could restore."
)


def levels(options: StudyOptions) -> Study:
    """Restore the same scenes of four cameras, decoded with the published levels and with those in the files."""
    cameras = options.available_cameras(CAMERAS)
    network: TrainingTask | Path
    if options.weights is None:
        options.available_cameras((TRAINED_ON,))
        network = options.training_task("Sony 100%", TRAINED_ON)
    else:
        network = options.weights
    trainings = (network,) if isinstance(network, TrainingTask) else ()
    tasks = {
        (camera, source): LevelsTask(
            network=network,
            camera=camera,
            levels=source,
            execution=options.execution,
            synthetic=options.small is not None,
        )
        for camera in cameras
        for source in get_args(Levels)
    }

    def result(context: StudyContext) -> StudyResult:
        heads = (
            *("camera", "levels", "black, white", "input white", "input black"),
            *("restored white", "restored black", "mean", "mean of truth", "PSNR", "SSIM"),
        )
        rows = tuple(_row(context, task) for task in tasks.values())
        pair = common_median_pair(
            [_lowest_iso_scores(context, tasks[camera, "file"]) for camera in cameras]
        )
        return StudyResult(
            name="levels",
            title="Black and white levels of other cameras",
            lead="One network trained on Sony restores the same scenes recorded by four cameras, decoded with "
            f"the released code's levels of {PUBLISHED_BLACK} and {PUBLISHED_WHITE} and with those in each "
            "file. Exposure ratio 100; figures are means over ISO 800, 1600 and 3200, pictures are at ISO 800.",
            tables=(Table(caption="Restored frames", heads=heads, rows=rows, note=_NOTE),),
            notes=options.notes() if trainings else (PROTOCOL_NOTE,),
            comparisons=tuple(
                _comparison(context, tasks[camera, "published"], tasks[camera, "file"], pair)
                for camera in cameras
            ),
            trainings=trainings,
        )

    datasets = options.dataset_tasks([*cameras, *(one.camera for one in trainings)])
    return Study(tasks=(*datasets, *trainings, *tasks.values()), result=result)


def with_published_levels(sample: Sample) -> Sample:
    """Return the sample as the released code decodes it: with the published levels, clipped at their black level."""
    clipped = np.maximum(sample.low, PUBLISHED_BLACK)
    black = (float(PUBLISHED_BLACK),) * len(sample.meta.black)
    return Sample(clipped, sample.gt, replace(sample.meta, black=black, white=PUBLISHED_WHITE))


@dataclass(frozen=True, kw_only=True)
class LevelsTask:
    """Restore and score one camera's frames of exposure ratio 100, decoded with one choice of black and white level."""

    network: TrainingTask | Path
    """A training task of the study, or a weights file."""
    camera: str
    levels: Levels
    execution: ExecutionOptions
    synthetic: bool = False

    @property
    def name(self) -> str:
        """The task's name, unique in the output directory."""
        by = "" if isinstance(self.network, TrainingTask) else f"-by-{self.network.stem}"
        return f"levels-{self.camera}-{self.levels}{by}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the tasks that must be finished before this one."""
        data = (f"data-{self.camera}",) if self.synthetic else ()
        return (self.network.name, *data) if isinstance(self.network, TrainingTask) else data

    def spec(self) -> dict[str, Any]:
        """Return the settings on which the result depends, as JSON values."""
        own = {"camera": self.camera, "levels": self.levels}
        if isinstance(self.network, TrainingTask):
            return {**own, "network": self.network.spec()}
        return {**own, "network": str(self.network.absolute())}

    def folder(self, context: StudyContext) -> Path:
        """Return the directory for the pictures of this task."""
        return context.out / "levels" / self.name.removeprefix("levels-")

    def run(self, context: StudyContext) -> dict[str, Any]:
        """Restore and score the frames; return the scores. Raises DatasetError if there are no frames."""
        weights = (
            self.network.weights(context)
            if isinstance(self.network, TrainingTask)
            else self.network
        )
        device = open_device(self.execution.device)
        network = load_restorer(weights, device)
        found = find_pairs(context.root, camera_named(self.camera))
        pairs = [pair for pair in found.pairs if FACTOR in report_groups(pair)]
        if not pairs:
            raise DatasetError(
                f"{context.root}: no pairs of {self.camera} whose exposure ratio is about {FACTOR.removeprefix('x')}; download all files of its scenes"
            )
        decode: Callable[[Sample], Sample] = (
            with_published_levels if self.levels == "published" else lambda sample: sample
        )
        with disk_errors(self.folder(context)):
            self.folder(context).mkdir(parents=True, exist_ok=True)
        scores = []
        published = float(PUBLISHED_BLACK), float(PUBLISHED_WHITE)
        for pair in pairs:
            context.raise_if_stopped()
            sample = decode(
                guarded_call(partial(whole_frame, found.root, pair), found.root / pair.short)
            )
            develop = partial(
                develop_amplified,
                amplification=sample.meta.amplification,
                levels=published if self.levels == "published" else None,
            )
            plain = guarded(develop, found.root / pair.short)
            restored = restore_frame(network, sample, device)
            scores.append(_scores(pair.id, sample, plain, restored))
            picture = side_by_side([plain, restored, sample.gt])
            write_picture(self.folder(context) / picture_file_name(pair.id), picture)
            context.progress.show(f"{self.camera}, {self.levels} levels: {pair.id}")
        means = {name: float(np.mean([score[name] for score in scores])) for name in _MEANS}
        return {**means, "pairs": len(scores), "images": scores}


def _lowest_iso_scores(context: StudyContext, task: LevelsTask) -> list[LevelsImage]:
    """Return the scores at the lowest ISO, at which noise hides the effect of the levels least."""
    images = result_of(context, task, LevelsResult).images
    lowest = min(image.iso for image in images)
    return [image for image in images if image.iso == lowest]


def _scores(pair: str, sample: Sample, plain: U16, restored: F32) -> dict[str, Any]:
    values = plain.astype(np.float32) / np.float32(65535)
    scores = score(restored, sample.gt, PROTOCOLS["redirt"])
    return {
        "pair": pair,
        "iso": sample.meta.iso,
        "black level": sum(sample.meta.black) / len(sample.meta.black),
        "white level": sample.meta.white,
        "mean": float(restored.mean()),
        "truth mean": float(sample.gt.mean() / 65535),
        "input white": float((values > _WHITE).mean()),
        "input black": float((values < _BLACK).mean()),
        "white": float((restored > _WHITE).mean()),
        "black": float((restored < _BLACK).mean()),
        "psnr": scores.psnr,
        "ssim": scores.ssim,
    }


def _row(context: StudyContext, task: LevelsTask) -> tuple[str, ...]:
    result = result_of(context, task, LevelsResult)
    first = result.images[0]
    return (
        camera_named(task.camera).title,
        {"published": "published", "file": "the file's"}[task.levels],
        f"{first.black_level:g}, {first.white_level:g}",
        f"{result.input_white:.1%}",
        f"{result.input_black:.1%}",
        f"{result.white:.1%}",
        f"{result.black:.1%}",
        f"{result.mean:.3f}",
        f"{result.truth_mean:.3f}",
        format_psnr(result.psnr),
        f"{result.ssim:.3f}",
    )


def _comparison(
    context: StudyContext, published: LevelsTask, own: LevelsTask, wanted: str
) -> Comparison:
    """Return the pair `wanted`, or the pair of median PSNR if the camera does not have it."""
    images = result_of(context, own, LevelsResult).images
    pair = wanted if wanted in {image.pair for image in images} else median_pair(images)
    file = picture_file_name(pair)
    amplified, wrong, truth = read_picture_row(published.folder(context) / file, 3)
    _, right, _ = read_picture_row(own.folder(context) / file, 3)
    return Comparison(
        name=camera_named(own.camera).title,
        pictures=(
            LabelledPicture(
                label=f"input, {PUBLISHED_BLACK} and {PUBLISHED_WHITE}", pixels=amplified
            ),
            LabelledPicture(
                label=f"restored, {PUBLISHED_BLACK} and {PUBLISHED_WHITE}", pixels=wrong
            ),
            LabelledPicture(label="restored, the file's levels", pixels=right),
            LabelledPicture(label="truth", pixels=truth),
        ),
    )
