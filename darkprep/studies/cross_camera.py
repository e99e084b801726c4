"""Section 5 of the reproduction: networks of two cameras and two amounts of data, on cameras they never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.studies.cells import Score, Training
from darkprep.studies.figures import UNTRAINED, compared, images, result, scores, trained
from darkprep.studies.options import Study, StudyOptions
from darkprep.studies.outcome import Comparison, Outcome, Table, typical_of_all
from darkprep.studies.work import Work

CAMERAS = ("canon70d", "canon700d", "nikond850")
"""The cameras that the papers try a network of another camera on."""

_PUBLISHED = Table(
    caption="Published figures",
    heads=("trained on", "own test set", "Canon 70D, 700D, Nikon D850"),
    rows=(
        ("Sony, the paper (Lamba & Mitra, CVPR 2021)", "28.66 / 0.790", "not at hand"),
        ("Fuji, the paper", "26.60 / 0.682", "not at hand"),
        ("Sony, a student reproduction", "27.96 / 0.78", "Canon all white, Nikon all dark"),
    ),
    note="Of real photographs at full size, and from other implementations of PSNR and SSIM: the order of "
    "rows compares, their values do not. The reproduction's failure on other cameras is what the "
    "levels experiment explains.",
)
_XTRANS_NOTES = {
    "rggb": "Fuji's X-Trans mosaic is resampled to RGGB, so that its networks read Bayer cameras.",
    "plain": "Fuji's X-Trans mosaic is unshuffled as if it were Bayer, as the published code does.",
}


@dataclass(frozen=True, kw_only=True)
class _Cells:
    trainings: tuple[Training, ...]
    cameras: tuple[str, ...]
    own: dict[str, Score]
    """By the training's name: on its own camera's test set."""
    cross: dict[tuple[str, str, bool], Score]
    """By the training's name, the camera, and whether colours are matched."""


def section_5(options: StudyOptions) -> Study:
    """{Sony, Fuji} x {all, a fifth of the scenes}, on their own test sets and on three other cameras."""
    cells = _cells(options)

    def outcome(work: Work) -> Outcome:
        tables = [_plain_table(work, cells)]
        if cells.cameras:
            tables.append(_matched_table(work, cells))
        return Outcome(
            name="section-5",
            title="Other cameras, less data",
            lead="Networks trained on one camera's scenes, all or a fifth of them, on the test frames of "
            "their own camera and of three that they never saw. Levels, phases and colours come "
            "from the files.",
            tables=(*tables, _PUBLISHED),
            notes=(
                *options.notes(),
                *options.missing(CAMERAS, cells.cameras),
                _XTRANS_NOTES[options.fuji_xtrans],
            ),
            comparisons=_comparisons(work, cells),
            trainings=cells.trainings,
        )

    data = options.data([*(one.camera for one in cells.trainings), *cells.cameras])
    every = (*data, *cells.trainings, *cells.own.values(), *cells.cross.values())
    return Study(cells=every, outcome=outcome)


def _cells(options: StudyOptions) -> _Cells:
    cameras = options.there(CAMERAS, needed=False)
    trainings = tuple(
        options.training(
            f"{camera_named(camera).title.split()[0]} {share:.0%}",
            camera,
            fraction=share,
            xtrans=options.fuji_xtrans if camera == "fuji" else "native",
        )
        for camera in options.there(("sony", "fuji"))
        for share in (1.0, 0.2)
    )
    return _Cells(
        trainings=trainings,
        cameras=cameras,
        own={one.name: options.score(one, one.camera, xtrans=one.xtrans) for one in trainings},
        cross={
            (one.name, camera, matched): options.score(one, camera, matched=matched)
            for one in trainings
            for camera in cameras
            for matched in (False, True)
        },
    )


def _plain_table(work: Work, cells: _Cells) -> Table:
    first: dict[str, Score] = {}
    for one in cells.trainings:
        first.setdefault(one.camera, cells.own[one.name])
    inputs = "; ".join(
        f"{camera_named(camera).title.split()[0]} {scores(work, score, 'input ')}"
        for camera, score in first.items()
    )
    any_training = cells.trainings[0].name
    start = (
        UNTRAINED,
        "",
        inputs,
        *(
            scores(work, cells.cross[any_training, camera, False], "input ")
            for camera in cells.cameras
        ),
    )
    rows = [
        (
            one.label,
            trained(work, one)["scenes"],
            scores(work, cells.own[one.name]),
            *(scores(work, cells.cross[one.name, camera, False]) for camera in cells.cameras),
        )
        for one in cells.trainings
    ]
    return Table(
        caption="PSNR / SSIM",
        heads=("trained on", "scenes", "own test set", *_option_name(cells.cameras)),
        rows=(start, *rows),
    )


def _matched_table(work: Work, cells: _Cells) -> Table:
    rows = tuple(
        (one.label, *(_gained(work, cells, one, camera) for camera in cells.cameras))
        for one in cells.trainings
    )
    return Table(
        caption="With the frames brought into the training camera's colours",
        heads=("trained on", *_option_name(cells.cameras)),
        rows=rows,
        note="PSNR / SSIM with --match-colour, and what it changes.",
    )


def _gained(work: Work, cells: _Cells, training: Training, camera: str) -> str:
    plain, matched = (cells.cross[training.name, camera, how] for how in (False, True))
    before, after = result(work, plain)["psnr"], result(work, matched)["psnr"]
    change = f" ({after - before:+.2f} dB)" if None not in (before, after) else ""
    return f"{scores(work, matched)}{change}"


def _comparisons(work: Work, cells: _Cells) -> tuple[Comparison, ...]:
    """One pair from each camera, the same of all where they have one in common."""
    first = cells.trainings[0]
    plain = [cells.cross[first.name, camera, False] for camera in cells.cameras]
    pair = typical_of_all([images(work, score) for score in plain]) if plain else None

    def labelled(camera: str) -> list[tuple[str, Score]]:
        each = [(one.label, cells.cross[one.name, camera, False]) for one in cells.trainings]
        matched = (f"{first.label}, colours matched", cells.cross[first.name, camera, True])
        return [each[0], matched, *each[1:]]

    return tuple(
        compared(work, camera_named(camera).title, labelled(camera), pair)
        for camera in cells.cameras
    )


def _option_name(cameras: Sequence[str]) -> tuple[str, ...]:
    return tuple(camera_named(camera).title for camera in cameras)
