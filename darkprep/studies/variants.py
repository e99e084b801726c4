"""Section 7 of the reproduction: the standard network, a block less, and group normalisation."""

from __future__ import annotations

from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.studies.cells import Score
from darkprep.studies.figures import UNTRAINED, compared, decibels, result, trained
from darkprep.studies.options import Study, StudyOptions
from darkprep.studies.outcome import Outcome, Table
from darkprep.studies.work import Work

CAMERA = "sony"

_PUBLISHED = Table(
    caption="Published figures",
    heads=("network", "parameters", "PSNR", "SSIM"),
    rows=(
        ("standard, the paper (Lamba & Mitra, CVPR 2021)", "784,768", "28.66", "0.790"),
        ("3 RDB, a student reproduction on a small cached set", "-", "21.06", "0.623"),
        ("2 RDB, the same reproduction", "-", "21.27", "0.636"),
    ),
    note="Parameters compare, being properties of the networks. PSNR and SSIM do not, being of real "
    "photographs; the reproduction's two were trained too little to tell them apart.",
)


def section_7(options: StudyOptions) -> Study:
    """Four trainings on Sony that differ in the network, or in the data that one of them gets."""
    options.there((CAMERA,))
    trainings = (
        options.training("standard", CAMERA),
        options.training("2 RDB", CAMERA, model="redirt-2rdb"),
        options.training("group norm, 100%", CAMERA, model="redirt-gn"),
        options.training("group norm, 20%", CAMERA, model="redirt-gn", fraction=0.2),
    )
    tested = {one.name: options.score(one, CAMERA) for one in trainings}

    def outcome(work: Work) -> Outcome:
        rows = []
        for one in trainings:
            facts = trained(work, one)
            rows.append(
                (
                    one.label,
                    facts["scenes"],
                    facts["parameters"],
                    facts["loss"],
                    *_quality(work, tested[one.name]),
                    facts["time"],
                )
            )
        start = (UNTRAINED, "", "", "", *_quality(work, tested[trainings[0].name], "input "), "")
        heads = ("network", "scenes", "parameters", "loss", "PSNR", "SSIM", "training time")
        shown = [(one.label, tested[one.name]) for one in trainings]
        return Outcome(
            name="section-7",
            title="Variants of the network",
            lead="The published network, the same with one residual dense block less, and with group "
            "instead of weight normalisation, trained alike.",
            tables=(Table(caption="Sony", heads=heads, rows=(start, *rows)), _PUBLISHED),
            notes=options.notes(),
            comparisons=(compared(work, camera_named(CAMERA).title, shown),),
            trainings=trainings,
        )

    cells = (*options.data([CAMERA]), *trainings, *tested.values())
    return Study(cells=cells, outcome=outcome)


def _quality(work: Work, score: Score, of: str = "") -> tuple[str, str]:
    found = result(work, score)
    return decibels(found[f"{of}psnr"]), f"{found[f'{of}ssim']:.3f}"
