"""Training on long exposures with made noise, against training on photographed pairs."""

from __future__ import annotations

from darkprep.studies.figures import compared, group_scores, result, trained
from darkprep.studies.options import SPELLED, Study, StudyOptions
from darkprep.studies.outcome import Outcome, Table
from darkprep.studies.work import Work

CAMERA, ELD_CAMERA = "sony", "sonya7s2"

_SMALL_NOTE = (
    "In a small run the photographs' own noise comes from the same model, at each scene's ISO. So it "
    "shows what training on made noise costs when the model is right, not that it is right."
)


def noise(options: StudyOptions) -> Study:
    """Two trainings that differ in where the short exposures come from, by exposure ratio."""
    options.there((CAMERA,))
    tested = (CAMERA, *options.there((ELD_CAMERA,), needed=False))
    trainings = (
        options.training("photographed pairs", CAMERA),
        options.training("long exposures, made noise", CAMERA, noise=CAMERA),
    )
    found = {(one.name, on): options.score(one, on) for one in trainings for on in tested}

    def outcome(work: Work) -> Outcome:
        first = {on: result(work, found[trainings[0].name, on])["groups"] for on in tested}
        columns = [(on, group) for on in tested for group in first[on] if group.startswith("x")]
        rows = tuple(
            (
                one.label,
                trained(work, one)["loss"],
                *(group_scores(work, found[one.name, on], group) for on, group in columns),
            )
            for one in trainings
        )
        heads = ("trained on", "loss", *(f"{SPELLED[on]} {group}" for on, group in columns))
        shown = [(one.label, found[one.name, CAMERA]) for one in trainings]
        return Outcome(
            name="noise",
            title="Noise as a source of data",
            lead="Short exposures made from long ones by the noise model, fresh for each crop, against "
            "short exposures that were taken.",
            tables=(Table(caption="PSNR / SSIM by exposure ratio", heads=heads, rows=rows),),
            notes=(*options.notes(), *((_SMALL_NOTE,) if options.small else ())),
            comparisons=(compared(work, SPELLED[CAMERA], shown),),
            trainings=trainings,
        )

    return Study(cells=(*options.data(tested), *trainings, *found.values()), outcome=outcome)
