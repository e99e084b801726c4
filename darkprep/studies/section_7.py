"""Section 7 of the reproduction: the standard network, one block less, and group normalisation."""

from __future__ import annotations

from darkprep.studies.figures import (
    AMPLIFIED_INPUT,
    comparison_of,
    format_psnr,
    mean_scores,
    title_of,
    training_columns,
)
from darkprep.studies.options import Study, StudyOptions
from darkprep.studies.result import StudyResult, Table
from darkprep.studies.task_kinds import EvaluationTask
from darkprep.studies.tasks import StudyContext

CAMERA = "sony"

_PUBLISHED = Table(
    caption="Published figures",
    heads=("network", "parameters", "PSNR", "SSIM"),
    rows=(
        ("standard, the paper (Lamba & Mitra, CVPR 2021)", "784,768", "28.66", "0.790"),
        ("3 RDB, a student reproduction on a small cached set", "-", "21.06", "0.623"),
        ("2 RDB, the same reproduction", "-", "21.27", "0.636"),
    ),
    note="Numbers of parameters can be compared, as they belong to the networks. PSNR and SSIM cannot: they are "
    "of real photographs, and the two of the reproduction were trained too little to differ clearly.",
)


def section_7(options: StudyOptions) -> Study:
    """Train four networks on one camera that differ in their layers or in the share of the scenes."""
    camera = options.camera_or_label(CAMERA)
    trainings = (
        options.training_task("standard", camera),
        options.training_task("2 RDB", camera, model="redirt-2rdb"),
        options.training_task("group norm, 100%", camera, model="redirt-gn"),
        options.training_task("group norm, 20%", camera, model="redirt-gn", fraction=0.2),
    )
    evaluations = {one.name: options.evaluation_task(one, camera) for one in trainings}

    def result(context: StudyContext) -> StudyResult:
        rows = []
        for one in trainings:
            columns = training_columns(context, one)
            rows.append(
                (
                    one.label,
                    columns["scenes"],
                    columns["parameters"],
                    columns["loss"],
                    *_scores(context, evaluations[one.name]),
                    columns["time"],
                )
            )
        input_row = (
            AMPLIFIED_INPUT,
            "",
            "",
            "",
            *_scores(context, evaluations[trainings[0].name], of_input=True),
            "",
        )
        heads = ("network", "scenes", "parameters", "loss", "PSNR", "SSIM", "training time")
        labelled = [(one.label, evaluations[one.name]) for one in trainings]
        return StudyResult(
            name="section-7",
            title="Variants of the network",
            lead="The published network, the same with one residual dense block less, and with group "
            "instead of weight normalisation, all trained in the same way.",
            tables=(
                Table(caption=title_of(camera), heads=heads, rows=(input_row, *rows)),
                _PUBLISHED,
            ),
            notes=options.notes(),
            comparisons=(comparison_of(context, title_of(camera), labelled),),
            trainings=trainings,
        )

    tasks = (*options.dataset_tasks([camera]), *trainings, *evaluations.values())
    return Study(tasks=tasks, result=result)


def _scores(
    context: StudyContext, task: EvaluationTask, *, of_input: bool = False
) -> tuple[str, str]:
    psnr, ssim = mean_scores(context, task, of_input=of_input)
    return format_psnr(psnr), f"{ssim:.3f}"
