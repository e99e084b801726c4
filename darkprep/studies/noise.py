"""Training on long exposures with made noise, against training on photographed pairs."""

from __future__ import annotations

from collections.abc import Sequence

from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.studies.cells import Score, Training
from darkprep.studies.figures import UNTRAINED, compared, group_scores, result
from darkprep.studies.options import Study, StudyOptions
from darkprep.studies.outcome import Outcome, Table
from darkprep.studies.work import Work

CAMERA, ELD_CAMERA = "sony", "sonya7s2"
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
            *("long exposures, made noise", "41.95 / 0.963", "39.44 / 0.931", "36.36 / 0.911"),
            *("45.45 / 0.975", "43.43 / 0.954"),
        ),
    ),
    note="Of real photographs and another network, as the authors of PMN (Feng et al., ACM MM 2022) report "
    "them. What compares is the difference between the rows: made noise costs little on the data set "
    "whose pairs the other training has seen, and gains on the one that neither has.",
)
_SMALL_NOTE = (
    "In a small run the photographs' own noise comes from the same model, at each scene's ISO. So it "
    "shows what training on made noise costs when the model is right, not that it is right."
)


_Scores = dict[tuple[str, str, str], Score]
"""By training, camera and protocol."""


def noise(options: StudyOptions) -> Study:
    """Two trainings that differ in where the short exposures come from, by exposure ratio."""
    options.there((CAMERA,))
    tested = (CAMERA, *options.there((ELD_CAMERA,), needed=False))
    trainings = (
        options.training("photographed pairs", CAMERA),
        options.training("long exposures, made noise", CAMERA, noise=CAMERA),
    )
    found: _Scores = {
        (one.name, on, protocol): options.score(one, on, protocol=protocol)
        for one in trainings
        for on in tested
        for protocol in _PROTOCOLS
    }

    def outcome(work: Work) -> Outcome:
        shown = [(one.label, found[one.name, CAMERA, "redirt"]) for one in trainings]
        tables = [_table(work, trainings, tested, found, protocol) for protocol in _PROTOCOLS]
        return Outcome(
            name="noise",
            title="Noise as a source of data",
            lead="Short exposures made from long ones by the noise model, fresh for each crop, against "
            "short exposures that were taken.",
            tables=(*tables, _PUBLISHED),
            notes=(*options.notes(), *((_SMALL_NOTE,) if options.small else ())),
            comparisons=(compared(work, camera_named(CAMERA).title, shown),),
            trainings=trainings,
        )

    return Study(cells=(*options.data(tested), *trainings, *found.values()), outcome=outcome)


def _table(
    work: Work,
    trainings: Sequence[Training],
    tested: Sequence[str],
    found: _Scores,
    protocol: str,
) -> Table:
    first = trainings[0].name
    columns = [
        (on, group)
        for on in tested
        for group in result(work, found[first, on, protocol])["groups"]
        if group.startswith("x")
    ]

    def row(label: str, training: str, of: str = "") -> tuple[str, ...]:
        scores = (
            group_scores(work, found[training, on, protocol], group, of) for on, group in columns
        )
        return (label, *scores)

    return Table(
        caption=_PROTOCOLS[protocol],
        heads=("trained on", *(f"{camera_named(on).title} {group}" for on, group in columns)),
        rows=(
            row(UNTRAINED, first, "baseline_"),
            *(row(one.label, one.name) for one in trainings),
        ),
    )
