"""Three ways to feed an X-Trans camera to a network: nine planes, blindly unshuffled, resampled to RGGB."""

from __future__ import annotations

from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.raw.resample import XTRANS_MODES
from darkprep.studies.cells import Score, Training
from darkprep.studies.figures import UNTRAINED, compared, scores, trained
from darkprep.studies.options import Study, StudyOptions
from darkprep.studies.outcome import Outcome, Table
from darkprep.studies.work import Work

CAMERA, BAYER_CAMERA = "fuji", "sony"

_NOTE = (
    "The paper has 26.60 / 0.682 for Fuji, of real photographs at full size; how it feeds the mosaic it "
    "does not say, and its released code is blind to the colours. The order of rows compares, values do not."
)


def x_trans(options: StudyOptions) -> Study:
    """One training on Fuji for each way to feed X-Trans, on Fuji's test set and, where it can be, on Sony's."""
    options.there((CAMERA,))
    others = options.there((BAYER_CAMERA,), needed=False)
    trainings = tuple(options.training(mode, CAMERA, xtrans=mode) for mode in XTRANS_MODES)
    own = {one.name: options.score(one, CAMERA, xtrans=one.xtrans) for one in trainings}
    cross = {
        one.name: options.score(one, other)
        for one in trainings
        if one.xtrans != "native"
        for other in others
    }

    def outcome(work: Work) -> Outcome:
        sony = next((scores(work, one, "input ") for one in cross.values()), "")
        start = (UNTRAINED, "", "", "", scores(work, own[trainings[0].name], "input "), sony, "")
        rows = [_row(work, one, own[one.name], cross.get(one.name)) for one in trainings]
        heads = (
            *("fed as", "planes", "parameters", "loss"),
            *("Fuji PSNR / SSIM", "Sony PSNR / SSIM", "training time"),
        )
        shown = [(one.label, own[one.name]) for one in trainings]
        return Outcome(
            name="x-trans",
            title="Three ways to feed an X-Trans camera",
            lead="The same Fuji scenes: as nine planes for a network of their own, through the published "
            "code's unshuffle that is blind to colours, and resampled to the RGGB mosaic that the "
            "network of every Bayer camera reads.",
            tables=(
                Table(caption="Trained on Fuji", heads=heads, rows=(start, *rows), note=_NOTE),
            ),
            notes=options.notes(),
            comparisons=(compared(work, camera_named(CAMERA).title, shown),),
            trainings=trainings,
        )

    data = options.data([CAMERA, *others])
    return Study(cells=(*data, *trainings, *own.values(), *cross.values()), outcome=outcome)


def _row(work: Work, training: Training, own: Score, cross: Score | None) -> tuple[str, ...]:
    facts = trained(work, training)
    other = "reads X-Trans only" if training.xtrans == "native" else "not at hand"
    return (
        training.label,
        "9" if training.xtrans == "native" else "4",
        facts["parameters"],
        facts["loss"],
        scores(work, own),
        scores(work, cross) if cross else other,
        facts["time"],
    )
