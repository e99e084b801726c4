"""The studies: which cells each is made of, and how their figures become its tables.

The trade-off: a study is a function, not a configuration; its text and its numbers stand in one place.
Trainings are shared: what two studies have in common is trained once in an output folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darkprep.studies.cells import DATA, Machine, Scale, Score, SyntheticData, Training
from darkprep.studies.levels import PUBLISHED_BLACK, PUBLISHED_WHITE, LevelsScore
from darkprep.studies.outcome import (
    Comparison,
    Outcome,
    Shown,
    Table,
    picture_row,
    typical,
    write_outcome,
)
from darkprep.studies.work import Cell, Work, carry_out
from darkprep.values import spelled_seconds
from pipeline.datasets import camera_named, find_pairs
from shards import DatasetError, OptionError
from shards.durable import read_json

CROSS = ("canon70d", "canon700d", "nikond850")
"""The cameras that the papers try a network of another camera on."""
SPELLED = {
    "sony": "Sony A7S II",
    "fuji": "Fuji X-T2",
    "sonya7s2": "Sony A7S II (ELD)",
    "canon70d": "Canon 70D",
    "canon700d": "Canon 700D",
    "nikond850": "Nikon D850",
}

SMALL_SIZE = (516, 768)
"""Frame of the small runs: whole periods of both arrays, and no smaller than LibRaw's X-Trans tile."""
SMALL_SCENES = {"SID": 14, "ELD": 2}
SMALL_SHORTS = 3
SMALL_ITERATIONS = 1000
SMALL = Scale(
    iterations=SMALL_ITERATIONS,
    batch_size=4,
    crop=192,
    learning_rate=1e-3,
    samples_per_shard=16,
    crops_per_visit=4,
    looks=4,
)
"""For minutes on two CPU cores. The learning rate is ten times the published one, for so few steps."""
SMALL_BUDGET = 250_000_000

_SMALL_NOTE = (
    "A small run: {scenes} synthetic scenes of {size}, {iterations:,} iterations of {batch} crops of "
    "{crop} pixels, learning rate {rate:g}. It shows that every part works and which way effects go. "
    "Its figures do not compare with published ones: those are of real photographs, a thousand times "
    "as many iterations and whole sensors."
)
_PROTOCOL_NOTE = (
    "PSNR and SSIM by the protocol redirt: sRGB cut to 8 bits, 7x7 uniform windows, mean over all test "
    "frames, amplified by the exposure ratio."
)


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What a user chooses of a study. Raises OptionError naming the field."""

    out: Path
    root: Path
    small: bool = False
    iterations: int | None = None
    machine: Machine = field(default_factory=Machine)
    fuji_form: str = "rggb"
    """How section 5 feeds Fuji's X-Trans to networks that are to read Bayer cameras too."""
    weights: Path | None = None
    """A trained network for the levels experiment, instead of training one."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.iterations is not None and self.iterations < 1:
            raise OptionError(f"iterations must be at least 1, not {self.iterations}")
        if self.fuji_form not in ("plain", "rggb"):
            raise OptionError(
                f"cfa must be plain or rggb here, not {self.fuji_form!r}: a network of nine planes "
                "reads no Bayer camera"
            )
        if self.weights is not None and not self.weights.is_file():
            raise OptionError(f"{self.weights}: no such file")

    def scale(self) -> Scale:
        """What each training may cost."""
        scale = SMALL if self.small else Scale()
        changes: dict[str, Any] = {"seed": self.seed}
        if self.iterations is not None:
            changes["iterations"] = self.iterations
        return Scale(**{**vars(scale), **changes})

    def data_root(self) -> Path:
        """Where the photographs lie: the study's own synthetic ones in a small run."""
        return self.out / DATA if self.small else self.root

    def notes(self) -> tuple[str, ...]:
        """What every table of the study has to say of itself."""
        if not self.small:
            return (_PROTOCOL_NOTE,)
        scale = self.scale()
        small = _SMALL_NOTE.format(
            scenes=SMALL_SCENES["SID"],
            size="x".join(map(str, SMALL_SIZE)),
            iterations=scale.iterations,
            batch=scale.batch_size,
            crop=scale.crop,
            rate=scale.learning_rate,
        )
        return small, _PROTOCOL_NOTE


@dataclass(frozen=True, kw_only=True)
class Study:
    """Cells to carry out, and what becomes of them."""

    cells: tuple[Cell, ...]
    outcome: Callable[[Work], Outcome]


def run_study(name: str, options: StudyOptions, work: Work) -> Path:
    """Carry out a study, or go on with it, and write its files; its page. Raises as `carry_out`."""
    study = study_named(name)(options)
    carry_out(study.cells, work)
    return write_outcome(study.outcome(work), work)


def study_named(name: str) -> Callable[[StudyOptions], Study]:
    """The study of that name; raises OptionError, which lists them all."""
    if name not in STUDIES:
        raise OptionError(f"no study {name!r}; there are {', '.join(STUDIES)}")
    return STUDIES[name]


# -- section 5: other cameras -------------------------------------------------------------------------


def section_5(options: StudyOptions) -> Study:
    """Networks of two cameras and two amounts of data, on their own and on three other cameras."""
    trained, others = _there(options, ("sony", "fuji")), _there(options, CROSS, needed=False)
    trainings = [
        _training(
            options,
            f"{SPELLED[camera].split()[0]} {share:.0%}",
            camera,
            fraction=share,
            form=options.fuji_form if camera == "fuji" else "native",
        )
        for camera in trained
        for share in (1.0, 0.2)
    ]
    own = {one.name: _score(options, one, one.camera, form=one.form) for one in trainings}
    cross = {
        (one.name, camera, matched): _score(options, one, camera, matched=matched)
        for one in trainings
        for camera in others
        for matched in (False, True)
    }

    def outcome(work: Work) -> Outcome:
        heads = ("trained on", "scenes", "own test set", *(SPELLED[camera] for camera in others))
        rows = [
            (
                one.label,
                str(_result(work, one)["scenes"]),
                _figures(work, own[one.name]),
                *(_figures(work, cross[one.name, camera, False]) for camera in others),
            )
            for one in trainings
        ]
        matched = [
            (one.label, *(_gained(work, cross, one, camera) for camera in others))
            for one in trainings
        ]
        tables = [
            Table(
                caption="PSNR / SSIM",
                heads=heads,
                rows=(*_inputs(work, own, cross, others, trainings), *rows),
            ),
        ]
        if others:
            tables.append(
                Table(
                    caption="With the frames brought into the training camera's colours",
                    heads=("trained on", *(SPELLED[camera] for camera in others)),
                    rows=tuple(matched),
                    note="PSNR / SSIM with --match-colour, and what it changes.",
                )
            )
        return Outcome(
            name="section-5",
            title="Other cameras, less data",
            lead="Networks trained on one camera's scenes, all or a fifth of them, on the test frames of "
            "their own camera and of three that they never saw. Levels, phases and colours come from "
            "the files.",
            tables=(*tables, _PUBLISHED_SECTION_5),
            notes=(
                *options.notes(),
                *_missing(options, CROSS, others),
                _FORM_NOTES[options.fuji_form],
            ),
            comparisons=tuple(
                _compared(
                    work,
                    SPELLED[camera],
                    [(one.label, cross[one.name, camera, False]) for one in trainings],
                    last=(
                        f"{trainings[0].label}, colours matched",
                        cross[trainings[0].name, camera, True],
                    ),
                )
                for camera in others
            ),
            trainings=tuple(trainings),
        )

    scores = [*own.values(), *cross.values()]
    return Study(cells=(*_data(options, [*trained, *others]), *trainings, *scores), outcome=outcome)


_FORM_NOTES = {
    "rggb": "Fuji's X-Trans mosaic is resampled to RGGB, so that its network reads Bayer cameras.",
    "plain": "Fuji's X-Trans mosaic is unshuffled as if it were Bayer, as the published code does.",
}

_PUBLISHED_SECTION_5 = Table(
    caption="Published figures",
    heads=("trained on", "own test set", "Canon 70D, 700D, Nikon D850"),
    rows=(
        ("Sony, the paper (Lamba & Mitra, CVPR 2021)", "28.66 / 0.790", "not at hand"),
        ("Fuji, the paper", "26.60 / 0.682", "-"),
        ("Sony, a student reproduction", "27.96 / 0.78", "Canon all white, Nikon all dark"),
    ),
    note="Of real photographs at full size and, for PSNR and SSIM, from other implementations: the order "
    "of rows compares, their values do not. The reproduction's cross-camera failure is what the levels "
    "experiment explains.",
)


def _inputs(
    work: Work,
    own: dict[str, Score],
    cross: dict[tuple[str, str, bool], Score],
    others: Sequence[str],
    trainings: Sequence[Training],
) -> list[tuple[str, ...]]:
    """The row of what is to be beaten: the input, amplified by a plain developer."""
    first: dict[str, Score] = {}
    for one in trainings:
        first.setdefault(one.camera, own[one.name])
    cells = [
        f"{SPELLED[camera].split()[0]} {_figures(work, score, 'input ')}"
        for camera, score in first.items()
    ]
    rest = [_figures(work, cross[trainings[0].name, camera, False], "input ") for camera in others]
    return [("none: the input, amplified", "", "; ".join(cells), *rest)]


def _gained(
    work: Work, cross: dict[tuple[str, str, bool], Score], training: Training, camera: str
) -> str:
    plain, matched = (cross[training.name, camera, with_match] for with_match in (False, True))
    before, after = _result(work, plain)["psnr"], _result(work, matched)["psnr"]
    change = f" ({after - before:+.2f} dB)" if before is not None and after is not None else ""
    return f"{_figures(work, matched)}{change}"


# -- section 7: other networks ------------------------------------------------------------------------


def section_7(options: StudyOptions) -> Study:
    """The standard network, one block less, and group normalisation with all and a fifth of the data."""
    (camera,) = _there(options, ("sony",))
    trainings = [
        _training(options, "standard", camera),
        _training(options, "2 RDB", camera, model="redirt-2rdb"),
        _training(options, "group norm, 100%", camera, model="redirt-gn"),
        _training(options, "group norm, 20%", camera, model="redirt-gn", fraction=0.2),
    ]
    scores = {one.name: _score(options, one, camera) for one in trainings}

    def outcome(work: Work) -> Outcome:
        heads = ("network", "scenes", "parameters", "loss", "PSNR", "SSIM", "training time")
        rows = tuple(
            (
                one.label,
                str(_result(work, one)["scenes"]),
                f"{_result(work, one)['parameters']:,}",
                f"{_result(work, one)['last loss']:.4f}",
                _decibels(_result(work, scores[one.name])["psnr"]),
                f"{_result(work, scores[one.name])['ssim']:.3f}",
                spelled_seconds(_result(work, one)["seconds"]),
            )
            for one in trainings
        )
        reference = _result(work, scores[trainings[0].name])
        start = ("none: the input, amplified", "", "", "", _decibels(reference["input psnr"]), f"{reference['input ssim']:.3f}", "")  # fmt: skip
        return Outcome(
            name="section-7",
            title="Variants of the network",
            lead="The published network, the same with one residual dense block less, and with group "
            "instead of weight normalisation, trained alike.",
            tables=(Table(caption="Sony", heads=heads, rows=(start, *rows)), _PUBLISHED_SECTION_7),
            notes=options.notes(),
            comparisons=(
                _compared(
                    work, SPELLED[camera], [(one.label, scores[one.name]) for one in trainings]
                ),
            ),
            trainings=tuple(trainings),
        )

    cells = (*_data(options, [camera]), *trainings, *scores.values())
    return Study(cells=cells, outcome=outcome)


_PUBLISHED_SECTION_7 = Table(
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


# -- levels -------------------------------------------------------------------------------------------


def levels(options: StudyOptions) -> Study:
    """The same scenes from four cameras, decoded with the published levels and with the files' own."""
    cameras = _there(options, ("sonya7s2", *CROSS))
    training = None
    if options.weights is None:
        (trained,) = _there(options, ("sony",))
        training = _training(options, "Sony 100%", trained)
    scores = {
        (camera, how): LevelsScore(
            network=training or _given(options),
            camera=camera,
            levels=how,
            machine=options.machine,
            synthetic=options.small,
        )
        for camera in cameras
        for how in ("published", "file")
    }

    def outcome(work: Work) -> Outcome:
        rows = tuple(_levels_row(work, camera, how, one) for (camera, how), one in scores.items())
        heads = ("camera", "levels", "black", "white", "mean output", "mean truth", "white pixels", "black pixels", "PSNR", "SSIM")  # fmt: skip
        return Outcome(
            name="levels",
            title="Black and white levels of other cameras",
            lead="One network trained on Sony, and the same scenes as four cameras record them, decoded "
            f"with the released code's {PUBLISHED_BLACK} and {PUBLISHED_WHITE} and with what each file "
            "states. Exposure ratio 100.",
            tables=(Table(caption="Restored frames", heads=heads, rows=rows, note=_LEVELS_NOTE),),
            notes=options.notes() if options.small else (_PROTOCOL_NOTE,),
            comparisons=tuple(_levels_comparison(work, camera, scores) for camera in cameras),
            trainings=(training,) if training else (),
        )

    needed = [*cameras, *([training.camera] if training else [])]
    cells = (*_data(options, needed), *([training] if training else []), *scores.values())
    return Study(cells=cells, outcome=outcome)


_LEVELS_NOTE = (
    "White pixels are the share of output values above 0.99, black ones below 0.01. With the published "
    "levels a Canon's black of 2047 is a pedestal of 0.1 that any amplification above 10 drives to "
    "white, and a Nikon's whole signal lies below 512 and is cut off."
)


def _given(options: StudyOptions) -> Path:
    assert options.weights is not None, "only asked where no training is"
    return options.weights


def _levels_row(work: Work, camera: str, how: str, cell: LevelsScore) -> tuple[str, ...]:
    found = _result(work, cell)
    one = found["images"][0]
    return (
        SPELLED[camera],
        {"published": "published", "file": "the file's"}[how],
        f"{sum(one['file black']) / len(one['file black']):g}",
        f"{one['file white']:g}",
        f"{found['mean']:.3f}",
        f"{found['truth mean']:.3f}",
        f"{found['white']:.1%}",
        f"{found['black']:.1%}",
        _decibels(found["psnr"]),
        f"{found['ssim']:.3f}",
    )


def _levels_comparison(
    work: Work, camera: str, scores: dict[tuple[str, str], LevelsScore]
) -> Comparison:
    chosen = typical(_result(work, scores[camera, "file"])["images"])
    shown, truth = [], None
    for how, label in (("published", "512 / 16383"), ("file", "the file's levels")):
        restored, truth = picture_row(scores[camera, how].folder(work) / f"{chosen}.png", 2)
        shown.append(Shown(label=label, pixels=restored))
    assert truth is not None, "two pictures were read"
    return Comparison(name=SPELLED[camera], pictures=(*shown, Shown(label="truth", pixels=truth)))


# -- X-Trans ------------------------------------------------------------------------------------------


def x_trans(options: StudyOptions) -> Study:
    """Fuji's mosaic fed in three ways, and what each network makes of a Bayer camera."""
    (camera,) = _there(options, ("fuji",))
    bayer = _there(options, ("sony",), needed=False)
    trainings = [
        _training(options, form, camera, form=form) for form in ("native", "plain", "rggb")
    ]
    own = {one.name: _score(options, one, camera, form=one.form) for one in trainings}
    cross = {one.name: _score(options, one, other) for one in trainings[1:] for other in bayer}

    def outcome(work: Work) -> Outcome:
        heads = ("fed as", "planes", "parameters", "loss", "Fuji PSNR / SSIM", "Sony PSNR / SSIM", "training time")  # fmt: skip
        rows = [
            (
                one.label,
                "9" if one.form == "native" else "4",
                f"{_result(work, one)['parameters']:,}",
                f"{_result(work, one)['last loss']:.4f}",
                _figures(work, own[one.name]),
                _figures(work, cross[one.name]) if one.name in cross else "reads X-Trans only",
                spelled_seconds(_result(work, one)["seconds"]),
            )
            for one in trainings
        ]
        start = ("none: the input, amplified", "", "", "", _figures(work, own[trainings[0].name], "input "), "", "")  # fmt: skip
        return Outcome(
            name="x-trans",
            title="Three ways to feed an X-Trans camera",
            lead="The same Fuji scenes: nine planes for a network of their own, the published code's "
            "unshuffle that is blind to colours, and resampled to the RGGB mosaic that every network "
            "of a Bayer camera reads.",
            tables=(Table(caption="Trained on Fuji", heads=heads, rows=(start, *rows)),),
            notes=options.notes(),
            comparisons=(
                _compared(work, SPELLED[camera], [(one.label, own[one.name]) for one in trainings]),
            ),
            trainings=tuple(trainings),
        )

    cells = (*_data(options, [camera, *bayer]), *trainings, *own.values(), *cross.values())
    return Study(cells=cells, outcome=outcome)


# -- noise --------------------------------------------------------------------------------------------


def noise(options: StudyOptions) -> Study:
    """Training on photographed pairs against training on long exposures with made noise."""
    (camera,) = _there(options, ("sony",))
    trainings = [
        _training(options, "photographed pairs", camera),
        _training(options, "long exposures, made noise", camera, noise=camera),
    ]
    tested = [camera, *_there(options, ("sonya7s2",), needed=False)]
    scores = {(one.name, on): _score(options, one, on) for one in trainings for on in tested}

    def outcome(work: Work) -> Outcome:
        groups = {
            on: [
                name
                for name in _result(work, scores[trainings[0].name, on])["groups"]
                if name.startswith("x")
            ]
            for on in tested
        }
        heads = ("trained on", "loss", *(f"{SPELLED[on]} {name}" for on in tested for name in groups[on]))  # fmt: skip
        rows = tuple(
            (
                one.label,
                f"{_result(work, one)['last loss']:.4f}",
                *(
                    _group_figures(_result(work, scores[one.name, on])["groups"][name])
                    for on in tested
                    for name in groups[on]
                ),
            )
            for one in trainings
        )
        return Outcome(
            name="noise",
            title="Noise as a source of data",
            lead="Short exposures made from long ones by the noise model, a fresh one for each crop, "
            "against short exposures that were taken.",
            tables=(Table(caption="PSNR / SSIM", heads=heads, rows=rows),),
            notes=options.notes() + ((_NOISE_NOTE,) if options.small else ()),
            comparisons=(
                _compared(
                    work,
                    SPELLED[camera],
                    [(one.label, scores[one.name, camera]) for one in trainings],
                ),
            ),
            trainings=tuple(trainings),
        )

    cells = (*_data(options, tested), *trainings, *scores.values())
    return Study(cells=cells, outcome=outcome)


_NOISE_NOTE = (
    "In a small run the photographs' own noise comes from the same model, at each scene's ISO; so this "
    "shows that training on made noise loses nothing when the model is right, not that it is right."
)


# -- shared -------------------------------------------------------------------------------------------


def _training(options: StudyOptions, label: str, camera: str, **chosen: Any) -> Training:
    return Training(
        label=label,
        camera=camera,
        scale=options.scale(),
        machine=options.machine,
        synthetic=options.small,
        **chosen,
    )


def _score(options: StudyOptions, training: Training, camera: str, **chosen: Any) -> Score:
    return Score(training=training, camera=camera, synthetic=options.small, **chosen)


def _there(
    options: StudyOptions, cameras: Sequence[str], *, needed: bool = True
) -> tuple[str, ...]:
    """The cameras whose photographs are at hand; raises DatasetError where one is `needed` and none is."""
    if options.small:
        return tuple(cameras)
    found, complaint = [], None
    for camera in cameras:
        try:
            find_pairs(options.root, camera_named(camera))
        except DatasetError as error:
            complaint = complaint or error
        else:
            found.append(camera)
    if needed and not found and complaint:
        raise complaint
    return tuple(found)


def _missing(options: StudyOptions, wanted: Sequence[str], found: Sequence[str]) -> tuple[str, ...]:
    absent = [SPELLED[camera] for camera in wanted if camera not in found]
    return (f"Not below {options.root}, so left out: {', '.join(absent)}.",) if absent else ()


def _data(options: StudyOptions, cameras: Sequence[str]) -> tuple[Cell, ...]:
    """The cells that make what a small run needs."""
    if not options.small:
        return ()
    return tuple(
        SyntheticData(
            camera=camera,
            scenes=SMALL_SCENES[camera_named(camera).dataset],
            shorts=SMALL_SHORTS,
            size=SMALL_SIZE,
            seed=options.seed,
            jobs=2,
        )
        for camera in dict.fromkeys(cameras)
    )


def _result(work: Work, cell: Cell) -> dict[str, Any]:
    found = work.result(cell.name)
    assert found is not None, f"{cell.name} was carried out"
    return found


def _figures(work: Work, cell: Cell, of: str = "") -> str:
    found = _result(work, cell)
    return f"{_decibels(found[f'{of}psnr'])} / {found[f'{of}ssim']:.3f}"


def _group_figures(group: dict[str, Any]) -> str:
    return f"{_decibels(group['psnr'])} / {group['ssim']:.3f}"


def _decibels(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.2f}"


def _compared(
    work: Work,
    name: str,
    scores: Sequence[tuple[str, Score]],
    last: tuple[str, Score] | None = None,
) -> Comparison:
    """One typical pair: the amplified input, each network's picture, and the truth."""
    labelled = [*scores, *([last] if last else [])]
    metrics = read_json(labelled[0][1].folder(work) / "metrics.json") or {}
    chosen = typical(metrics["images"]).replace("/", "_")
    rows = [picture_row(score.folder(work) / f"{chosen}.png", 3) for _, score in labelled]
    return Comparison(
        name=name,
        pictures=(
            Shown(label="amplified", pixels=rows[0][0]),
            *(
                Shown(label=label, pixels=row[1])
                for (label, _), row in zip(labelled, rows, strict=True)
            ),
            Shown(label="truth", pixels=rows[0][2]),
        ),
    )


STUDIES: dict[str, Callable[[StudyOptions], Study]] = {
    "section-5": section_5,
    "section-7": section_7,
    "levels": levels,
    "x-trans": x_trans,
    "noise": noise,
}
"""By the names that the command line takes."""
