"""Results of finished tasks, formatted as table cells and as comparisons of pictures."""

from __future__ import annotations

from collections.abc import Sequence

from darkprep.pipeline.pairs.cameras import CAMERAS
from darkprep.studies.panel import Comparison, median_pair, read_comparison
from darkprep.studies.task_kinds import EvaluationTask, TrainingTask
from darkprep.studies.task_results import (
    EvaluationMeans,
    TrainingResult,
    entry_of,
    pair_scores,
    result_of,
)
from darkprep.studies.tasks import StudyContext
from darkprep.view.numbers import format_duration

AMPLIFIED_INPUT = "none: the amplified input"
"""The first cell of the row that every network is compared with."""


def title_of(camera: str) -> str:
    """Return the title of a camera in SID or ELD; another label unchanged."""
    return CAMERAS[camera].title if camera in CAMERAS else camera


def format_psnr(value: float | None) -> str:
    """Return a PSNR in dB as text without the unit; None stands for infinity."""
    return "infinite" if value is None else f"{value:.2f}"


def mean_scores(
    context: StudyContext, task: EvaluationTask, *, of_input: bool = False
) -> tuple[float | None, float]:
    """Return PSNR and SSIM of an evaluation; with `of_input`, those of the amplified input."""
    result = result_of(context, task, EvaluationMeans)
    return (result.input_psnr, result.input_ssim) if of_input else (result.psnr, result.ssim)


def format_scores(context: StudyContext, task: EvaluationTask, *, of_input: bool = False) -> str:
    """Return PSNR / SSIM of an evaluation as text; with `of_input`, those of the amplified input."""
    psnr, ssim = mean_scores(context, task, of_input=of_input)
    return f"{format_psnr(psnr)} / {ssim:.3f}"


def format_group_scores(
    context: StudyContext, task: EvaluationTask, group: str, *, of_input: bool = False
) -> str:
    """Return PSNR / SSIM of a group of pairs as text; with `of_input`, those of the amplified input."""
    groups = result_of(context, task, EvaluationMeans).groups
    found = entry_of(context, task, "groups", groups, group)
    if of_input:
        return f"{format_psnr(found.baseline_psnr)} / {found.baseline_ssim:.3f}"
    return f"{format_psnr(found.psnr)} / {found.ssim:.3f}"


def training_columns(context: StudyContext, training: TrainingTask) -> dict[str, str]:
    """Return the table cells of a training run: scenes, parameters, last loss and time."""
    result = result_of(context, training, TrainingResult)
    return {
        "scenes": str(result.scenes),
        "parameters": f"{result.parameters:,}",
        "loss": f"{result.last_loss:.4f}",
        "time": format_duration(result.seconds),
    }


def comparison_of(
    context: StudyContext,
    name: str,
    labelled: Sequence[tuple[str, EvaluationTask]],
    pair: str | None = None,
) -> Comparison:
    """Return the pictures of one pair of a camera: amplified input, the restored picture of each network, and truth.

    The pair is the one with the median PSNR for the first network, or `pair` if the first network restored
    it.
    """
    scores = pair_scores(context, labelled[0][1])
    restored = pair in {score.pair for score in scores}
    chosen = pair if pair and restored else median_pair(scores)
    return read_comparison(
        name, chosen, [(label, task.folder(context)) for label, task in labelled]
    )
