"""The study `noise`: training on long exposures with synthetic noise, compared with training on photographed pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.studies.figures import (
    AMPLIFIED_INPUT,
    comparison_of,
    format_group_scores,
)
from darkprep.studies.options import PROTOCOL_NOTE, Study, StudyOptions
from darkprep.studies.result import StudyResult, Table
from darkprep.studies.task_kinds import (
    CALIBRATED,
    SAMPLED_DARKS,
    CalibrationTask,
    EvaluationTask,
    TrainingTask,
)
from darkprep.studies.task_results import EvaluationMeans, result_of
from darkprep.studies.tasks import StudyContext

CAMERA, ELD_CAMERA = "sony", "sonya7s2"
_SMALL_ITERATIONS, _SMALL_LEARNING_RATE = 1500, 5e-4
"""Of a small run, which has five training runs; with a higher rate, a network may learn little in so few iterations."""
_CALIBRATED_ISOS = (100, 200, 400, 800, 1600, 2000, 3200, 6400)
"""The span of the published noise, with both sides of the change of the gain mode."""
_PROTOCOLS = {
    "redirt": "PSNR / SSIM of sRGB, by exposure ratio",
    "eld": "PSNR / SSIM by ELD's protocol: packed RAW, one illuminance factor",
}

_PUBLISHED = Table(
    caption="Published figures, by ELD's protocol, those of SID (x100, x250, x300) of whole frames and not their middle",
    heads=(
        *("trained on", "Sony A7S II x100", "Sony A7S II x250", "Sony A7S II x300"),
        *("Sony A7S II (ELD) x100", "Sony A7S II (ELD) x200"),
    ),
    rows=(
        (
            *("photographed pairs", "42.06 / 0.955", "39.60 / 0.938", "36.85 / 0.923"),
            *("44.47 / 0.968", "41.97 / 0.928"),
        ),
        (
            *("long exposures, synthetic noise", "41.95 / 0.963", "39.44 / 0.931", "36.36 / 0.911"),
            *("45.45 / 0.975", "43.43 / 0.954"),
        ),
    ),
    note="Of real photographs and another network, as reported by the authors of PMN (Feng et al., ACM MM "
    "2022). Compare the differences between the rows: synthetic noise costs little on the data set whose pairs "
    "the other training used, and gains on the one that neither used.",
)
_SMALL_NOTE = (
    "In a small run the noise of the photographs comes from the same model, at each scene's ISO. So it shows "
    "what training on synthetic noise costs when the model is right, not that the model is right. Calibrated and "
    "sampled noise is of synthetic dark frames and flat fields with that noise; edition 1 is what it was taken for before."
)
_Evaluations = dict[tuple[str, str, str], EvaluationTask]
"""The evaluations by training run, camera and protocol."""


def noise(options: StudyOptions) -> Study:
    """Train on photographed and on simulated short exposures; score both by exposure ratio."""
    options.available_cameras((CAMERA,))
    tested = (CAMERA, *options.available_cameras((ELD_CAMERA,), required=False))
    trainings = (
        _training(options, "photographed pairs"),
        _training(options, "long exposures, published parameters", noise=CAMERA),
        *_measured_trainings(options),
    )
    evaluations: _Evaluations = {
        (one.name, on, protocol): options.evaluation_task(one, on, protocol=protocol)
        for one in trainings
        for on in tested
        for protocol in _PROTOCOLS
    }

    def result(context: StudyContext) -> StudyResult:
        labelled = [(one.label, evaluations[one.name, CAMERA, "redirt"]) for one in trainings]
        tables = [
            _table(context, trainings, tested, evaluations, protocol) for protocol in _PROTOCOLS
        ]
        return StudyResult(
            name="noise",
            title="Training on synthetic noise",
            lead="Training on short exposures made from long ones with the noise model, new for each crop, "
            "compared with training on photographed short exposures.",
            tables=(*tables, _PUBLISHED),
            notes=_notes(options, trainings[0]),
            comparisons=(comparison_of(context, camera_named(CAMERA).title, labelled),),
            trainings=trainings,
        )

    calibrations = _calibration_tasks(options)
    tasks = (*options.dataset_tasks(tested), *calibrations, *trainings, *evaluations.values())
    return Study(tasks=tasks, result=result)


def _measured_trainings(options: StudyOptions) -> tuple[TrainingTask, ...]:
    """Return the trainings of a small run on noise that is measured on frames of the true noise, or that is wrong."""
    if options.small is None:
        return ()
    return (
        _training(
            options,
            "calibrated from 20 dark frames and 6 pairs of flats per ISO",
            noise=CALIBRATED,
        ),
        _training(options, "sampled from these dark frames", noise=SAMPLED_DARKS),
        _training(
            options,
            "synthetic noise of edition 1, one line over ISO",
            noise=CAMERA,
            noise_edition=1,
        ),
    )


def _training(options: StudyOptions, label: str, **chosen: Any) -> TrainingTask:
    task = options.training_task(label, CAMERA, **chosen)
    if options.small is None:
        return task
    scale = replace(task.scale, learning_rate=_SMALL_LEARNING_RATE)
    if options.iterations is None:
        scale = replace(scale, iterations=_SMALL_ITERATIONS)
    return replace(task, scale=scale, group="noise")


def _notes(options: StudyOptions, training: TrainingTask) -> tuple[str, ...]:
    if options.small is None:
        return options.notes()
    return (options.small.note(training.scale), PROTOCOL_NOTE, _SMALL_NOTE)


def _calibration_tasks(options: StudyOptions) -> tuple[CalibrationTask, ...]:
    """Return the calibration of a small run; none if the user's photographs are used, whose noise is not known."""
    if options.small is None:
        return ()
    return (
        CalibrationTask(
            camera=CAMERA, isos=_CALIBRATED_ISOS, seed=options.seed, size=options.small.size
        ),
    )


def _table(
    context: StudyContext,
    trainings: Sequence[TrainingTask],
    tested: Sequence[str],
    evaluations: _Evaluations,
    protocol: str,
) -> Table:
    first = trainings[0].name
    columns = [
        (on, group)
        for on in tested
        for group in result_of(context, evaluations[first, on, protocol], EvaluationMeans).groups
        if group.startswith("x")
    ]

    def row(label: str, training: str, *, of_input: bool = False) -> tuple[str, ...]:
        scores = (
            format_group_scores(
                context, evaluations[training, on, protocol], group, of_input=of_input
            )
            for on, group in columns
        )
        return (label, *scores)

    return Table(
        caption=_PROTOCOLS[protocol],
        heads=("trained on", *(f"{camera_named(on).title} {group}" for on, group in columns)),
        rows=(
            row(AMPLIFIED_INPUT, first, of_input=True),
            *(row(one.label, one.name) for one in trainings),
        ),
    )
