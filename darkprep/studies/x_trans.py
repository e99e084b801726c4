"""The study `x-trans`: three ways to feed an X-Trans camera to a network: nine planes, as if Bayer, or resampled."""

from __future__ import annotations

from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.raw.resample import XTRANS_MODES
from darkprep.studies.figures import (
    AMPLIFIED_INPUT,
    comparison_of,
    format_scores,
    training_columns,
)
from darkprep.studies.options import Study, StudyOptions
from darkprep.studies.result import StudyResult, Table
from darkprep.studies.task_kinds import EvaluationTask, TrainingTask
from darkprep.studies.tasks import StudyContext

CAMERA, BAYER_CAMERA = "fuji", "sony"

_NOTE = (
    "The paper reports 26.60 / 0.682 for Fuji, of real photographs at full size. It does not describe how the "
    "mosaic is fed, and its released code ignores the colours. Compare the order of rows, not the values."
)


def x_trans(options: StudyOptions) -> Study:
    """Train on Fuji once for each X-Trans mode; test on Fuji and, if the network can read Bayer frames, on Sony."""
    options.available_cameras((CAMERA,))
    others = options.available_cameras((BAYER_CAMERA,), required=False)
    trainings = tuple(options.training_task(mode, CAMERA, xtrans=mode) for mode in XTRANS_MODES)
    own = {one.name: options.evaluation_task(one, CAMERA, xtrans=one.xtrans) for one in trainings}
    cross = {
        one.name: options.evaluation_task(one, other)
        for one in trainings
        if one.xtrans != "native"
        for other in others
    }

    def result(context: StudyContext) -> StudyResult:
        sony = next((format_scores(context, one, of_input=True) for one in cross.values()), "")
        input_row = (
            AMPLIFIED_INPUT,
            "",
            "",
            "",
            format_scores(context, own[trainings[0].name], of_input=True),
            sony,
            "",
        )
        rows = [_row(context, one, own[one.name], cross.get(one.name)) for one in trainings]
        heads = (
            *("fed as", "planes", "parameters", "loss"),
            *("Fuji PSNR / SSIM", "Sony PSNR / SSIM", "training time"),
        )
        labelled = [(one.label, own[one.name]) for one in trainings]
        return StudyResult(
            name="x-trans",
            title="Three ways to feed an X-Trans camera",
            lead="The same Fuji scenes: as nine planes for a network of their own, unshuffled as in the published "
            "code, which ignores the colours, and resampled to the RGGB mosaic that the networks of Bayer cameras "
            "read.",
            tables=(
                Table(caption="Trained on Fuji", heads=heads, rows=(input_row, *rows), note=_NOTE),
            ),
            notes=options.notes(),
            comparisons=(comparison_of(context, camera_named(CAMERA).title, labelled),),
            trainings=trainings,
        )

    datasets = options.dataset_tasks([CAMERA, *others])
    tasks = (*datasets, *trainings, *own.values(), *cross.values())
    return Study(tasks=tasks, result=result)


def _row(
    context: StudyContext, training: TrainingTask, own: EvaluationTask, cross: EvaluationTask | None
) -> tuple[str, ...]:
    columns = training_columns(context, training)
    other = "reads X-Trans only" if training.xtrans == "native" else "not available"
    return (
        training.label,
        "9" if training.xtrans == "native" else "4",
        columns["parameters"],
        columns["loss"],
        format_scores(context, own),
        format_scores(context, cross) if cross else other,
        columns["time"],
    )
