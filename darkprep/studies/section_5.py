"""Section 5 of the reproduction: networks of two cameras, trained on all or few scenes, tested on other cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.studies.figures import (
    AMPLIFIED_INPUT,
    comparison_of,
    format_scores,
    mean_scores,
    training_columns,
)
from darkprep.studies.options import Study, StudyOptions
from darkprep.studies.panel import Comparison, common_median_pair
from darkprep.studies.result import StudyResult, Table
from darkprep.studies.task_kinds import EvaluationTask, TrainingTask
from darkprep.studies.task_results import pair_scores
from darkprep.studies.tasks import StudyContext

CAMERAS = ("canon70d", "canon700d", "nikond850")
"""The cameras on which the papers test networks of another camera."""

_PUBLISHED = Table(
    caption="Published figures",
    heads=("trained on", "own test set", "Canon 70D, 700D, Nikon D850"),
    rows=(
        ("Sony, the paper (Lamba & Mitra, CVPR 2021)", "28.66 / 0.790", "not available"),
        ("Fuji, the paper", "26.60 / 0.682", "not available"),
        ("Sony, a student reproduction", "27.96 / 0.78", "Canon all white, Nikon all dark"),
    ),
    note="Of real photographs at full size, with other implementations of PSNR and SSIM: compare the order of "
    "rows, not the values. The study levels explains why the reproduction failed on other cameras.",
)
_XTRANS_NOTES = {
    "rggb": "Fuji's X-Trans mosaic is resampled to RGGB, so that its networks can read Bayer cameras.",
    "plain": "Fuji's X-Trans mosaic is unshuffled as if it were Bayer, as in the published code.",
}


@dataclass(frozen=True, kw_only=True)
class _Tasks:
    trainings: tuple[TrainingTask, ...]
    cameras: tuple[str, ...]
    own: dict[str, EvaluationTask]
    """Evaluations on the test set of the training camera, by the name of the training task."""
    cross: dict[tuple[str, str, bool], EvaluationTask]
    """Evaluations on other cameras, by name of the training task, camera, and whether colours are matched."""


def section_5(options: StudyOptions) -> Study:
    """Train on Sony and on Fuji, once with all scenes and once with a fifth of them; test each network on its own and on three other cameras."""
    tasks = _tasks(options)

    def result(context: StudyContext) -> StudyResult:
        tables = [_plain_table(context, tasks)]
        if tasks.cameras:
            tables.append(_matched_table(context, tasks))
        return StudyResult(
            name="section-5",
            title="Other cameras, less data",
            lead="Networks trained on all or a fifth of one camera's scenes, tested on their own camera and on "
            "three cameras that they were not trained on. Levels, CFA phases and colours come from the files.",
            tables=(*tables, _PUBLISHED),
            notes=(
                *options.notes(),
                *options.missing_note(CAMERAS, tasks.cameras),
                _XTRANS_NOTES[options.fuji_xtrans],
            ),
            comparisons=_comparisons(context, tasks),
            trainings=tasks.trainings,
        )

    datasets = options.dataset_tasks([*(one.camera for one in tasks.trainings), *tasks.cameras])
    every = (*datasets, *tasks.trainings, *tasks.own.values(), *tasks.cross.values())
    return Study(tasks=every, result=result)


def _tasks(options: StudyOptions) -> _Tasks:
    cameras = options.available_cameras(CAMERAS, required=False)
    trainings = tuple(
        options.training_task(
            f"{camera_named(camera).title.split()[0]} {share:.0%}",
            camera,
            fraction=share,
            xtrans=options.fuji_xtrans if camera == "fuji" else "native",
        )
        for camera in options.available_cameras(("sony", "fuji"))
        for share in (1.0, 0.2)
    )
    return _Tasks(
        trainings=trainings,
        cameras=cameras,
        own={
            one.name: options.evaluation_task(one, one.camera, xtrans=one.xtrans)
            for one in trainings
        },
        cross={
            (one.name, camera, matched): options.evaluation_task(one, camera, matched=matched)
            for one in trainings
            for camera in cameras
            for matched in (False, True)
        },
    )


def _plain_table(context: StudyContext, tasks: _Tasks) -> Table:
    first: dict[str, EvaluationTask] = {}
    for training in tasks.trainings:
        first.setdefault(training.camera, tasks.own[training.name])
    inputs = "; ".join(
        f"{camera_named(camera).title.split()[0]} {format_scores(context, task, of_input=True)}"
        for camera, task in first.items()
    )
    any_training = tasks.trainings[0].name
    input_row = (
        AMPLIFIED_INPUT,
        "",
        inputs,
        *(
            format_scores(context, tasks.cross[any_training, camera, False], of_input=True)
            for camera in tasks.cameras
        ),
    )
    rows = [
        (
            training.label,
            training_columns(context, training)["scenes"],
            format_scores(context, tasks.own[training.name]),
            *(
                format_scores(context, tasks.cross[training.name, camera, False])
                for camera in tasks.cameras
            ),
        )
        for training in tasks.trainings
    ]
    return Table(
        caption="PSNR / SSIM",
        heads=("trained on", "scenes", "own test set", *_titles(tasks.cameras)),
        rows=(input_row, *rows),
    )


def _matched_table(context: StudyContext, tasks: _Tasks) -> Table:
    rows = tuple(
        (
            training.label,
            *(_matched_scores(context, tasks, training, camera) for camera in tasks.cameras),
        )
        for training in tasks.trainings
    )
    return Table(
        caption="With the frames converted to the training camera's colours",
        heads=("trained on", *_titles(tasks.cameras)),
        rows=rows,
        note="PSNR / SSIM with --match-colour, and the change of PSNR.",
    )


def _matched_scores(
    context: StudyContext, tasks: _Tasks, training: TrainingTask, camera: str
) -> str:
    """Return PSNR / SSIM with matched colours, and the change of PSNR that the matching causes."""
    plain, matched = (
        tasks.cross[training.name, camera, is_matched] for is_matched in (False, True)
    )
    (before, _), (after, _) = (mean_scores(context, one) for one in (plain, matched))
    if before is None or after is None:
        return format_scores(context, matched)
    return f"{format_scores(context, matched)} ({after - before:+.2f} dB)"


def _comparisons(context: StudyContext, tasks: _Tasks) -> tuple[Comparison, ...]:
    """Return the comparison of one pair for each camera; cameras that have the same pair show the same one."""
    first = tasks.trainings[0]
    plain = [tasks.cross[first.name, camera, False] for camera in tasks.cameras]
    pair = common_median_pair([pair_scores(context, task) for task in plain]) if plain else None

    def labelled(camera: str) -> list[tuple[str, EvaluationTask]]:
        each = [(one.label, tasks.cross[one.name, camera, False]) for one in tasks.trainings]
        matched = (f"{first.label}, colours matched", tasks.cross[first.name, camera, True])
        return [each[0], matched, *each[1:]]

    return tuple(
        comparison_of(context, camera_named(camera).title, labelled(camera), pair)
        for camera in tasks.cameras
    )


def _titles(cameras: Sequence[str]) -> tuple[str, ...]:
    return tuple(camera_named(camera).title for camera in cameras)
