"""The levels experiment: one network, one set of scenes, four cameras, two ideas of black and white.

The released code takes 512 and 16383 for the black and white of every camera. That is one camera's. Here a
network restores each camera's frames twice: decoded so, and with the levels that the files state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from darkprep.jobs.weights import load_restorer
from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.groups import report_groups
from darkprep.pipeline.pairs.whole_frame import whole_frame
from darkprep.pipeline.raw.develop import develop_amplified
from darkprep.shards import DatasetError, Sample
from darkprep.shards.files import disk_errors
from darkprep.shards.format import U16
from darkprep.studies.cells import Machine, Training
from darkprep.studies.figures import decibels, result
from darkprep.studies.options import PROTOCOL_NOTE, Study, StudyOptions
from darkprep.studies.outcome import (
    Comparison,
    Outcome,
    Shown,
    Table,
    picture_row,
    typical,
    typical_of_all,
)
from darkprep.studies.work import Work
from darkprep.trainer.device import open_device
from darkprep.trainer.evaluation import restore_frame, side_by_side
from darkprep.trainer.metrics import F32, PROTOCOLS, score
from darkprep.trainer.picture import write_picture

PUBLISHED_BLACK, PUBLISHED_WHITE = 512, 16383
"""What SID's, REDIRT's and their successors' code subtracts and divides by, whatever the camera."""
CAMERAS = ("sonya7s2", "canon70d", "canon700d", "nikond850")
TRAINED_ON = "sony"
FACTOR = "x100"
"""The light factor of the frames that are looked at."""
_WHITE, _BLACK = 0.99, 0.01
_MEANS = (
    *("mean", "truth mean", "input white", "input black"),
    *("white", "black", "psnr", "ssim"),
)
"""What a table's entry has of all its frames."""

Levels = Literal["published", "file"]

_NOTE = (
    "White is the share of values above 0.99, black of those below 0.01: of the input, amplified and plainly "
    "developed, and of the restored picture. With the published levels a Canon's black of 2047 is a "
    "pedestal of 0.1, which any amplification above 10 drives to white; and nearly all of a Nikon's "
    "signal lies below 512 and is cut off. What a network answers to an input that is white everywhere "
    "depends on its training; no scene is left for it to restore."
)


def levels(options: StudyOptions) -> Study:
    """The same scenes from four cameras, decoded with the published levels and with the files' own."""
    cameras = options.there(CAMERAS)
    network: Training | Path
    if options.weights is None:
        options.there((TRAINED_ON,))
        network = options.training("Sony 100%", TRAINED_ON)
    else:
        network = options.weights
    trainings = (network,) if isinstance(network, Training) else ()
    hows: tuple[Levels, ...] = ("published", "file")
    cells = {
        (camera, how): LevelsScore(
            network=network,
            camera=camera,
            levels=how,
            machine=options.machine,
            synthetic=options.small is not None,
        )
        for camera in cameras
        for how in hows
    }

    def outcome(work: Work) -> Outcome:
        heads = (
            *("camera", "levels", "black, white", "input white", "input black"),
            *("restored white", "restored black", "mean", "mean of truth", "PSNR", "SSIM"),
        )
        rows = tuple(_row(work, cell) for cell in cells.values())
        shown = typical_of_all([_calmest(work, cells[camera, "file"]) for camera in cameras])
        return Outcome(
            name="levels",
            title="Black and white levels of other cameras",
            lead="One network trained on Sony, and the same scenes as four cameras record them, decoded "
            f"with the released code's {PUBLISHED_BLACK} and {PUBLISHED_WHITE} and with what each file "
            "states. Exposure ratio 100; figures over ISO 800, 1600 and 3200, pictures at ISO 800.",
            tables=(Table(caption="Restored frames", heads=heads, rows=rows, note=_NOTE),),
            notes=options.notes() if trainings else (PROTOCOL_NOTE,),
            comparisons=tuple(
                _comparison(work, cells[camera, "published"], cells[camera, "file"], shown)
                for camera in cameras
            ),
            trainings=trainings,
        )

    data = options.data([*cameras, *(one.camera for one in trainings)])
    return Study(cells=(*data, *trainings, *cells.values()), outcome=outcome)


def with_published_levels(sample: Sample) -> Sample:
    """The sample as the released code decodes it: its levels, and everything below its black cut off."""
    cut = np.maximum(sample.low, PUBLISHED_BLACK)
    black = (float(PUBLISHED_BLACK),) * len(sample.meta.black)
    return Sample(cut, sample.gt, replace(sample.meta, black=black, white=PUBLISHED_WHITE))


@dataclass(frozen=True, kw_only=True)
class LevelsScore:
    """One camera's x100 frames, restored with one idea of its levels."""

    network: Training | Path
    """A training of the study, or a file of weights."""
    camera: str
    levels: Levels
    machine: Machine
    synthetic: bool = False

    @property
    def name(self) -> str:
        """As for every cell."""
        by = "" if isinstance(self.network, Training) else f"-by-{self.network.stem}"
        return f"levels-{self.camera}-{self.levels}{by}"

    @property
    def needs(self) -> tuple[str, ...]:
        """As for every cell."""
        data = (f"data-{self.camera}",) if self.synthetic else ()
        return (self.network.name, *data) if isinstance(self.network, Training) else data

    def spec(self) -> dict[str, Any]:
        """As for every cell."""
        own = {"camera": self.camera, "levels": self.levels}
        if isinstance(self.network, Training):
            return {**own, "network": self.network.spec()}
        return {**own, "network": str(self.network.absolute())}

    def folder(self, work: Work) -> Path:
        """Where the pictures are."""
        return work.out / "levels" / self.name.removeprefix("levels-")

    def run(self, work: Work) -> dict[str, Any]:
        """Restore and measure all frames of the factor."""
        weights = self.network.weights(work) if isinstance(self.network, Training) else self.network
        device = open_device(self.machine.device)
        network = load_restorer(weights, device)
        found = find_pairs(work.root, camera_named(self.camera))
        pairs = [pair for pair in found.pairs if FACTOR in report_groups(pair)]
        if not pairs:
            raise DatasetError(f"{work.root}: no {FACTOR} pairs of {self.camera}")
        decode: Callable[[Sample], Sample] = (
            with_published_levels if self.levels == "published" else lambda sample: sample
        )
        with disk_errors(self.folder(work)):
            self.folder(work).mkdir(parents=True, exist_ok=True)
        measured = []
        published = float(PUBLISHED_BLACK), float(PUBLISHED_WHITE)
        for pair in pairs:
            work.check()
            sample = decode(whole_frame(found.root, pair))
            plain = develop_amplified(
                found.root / pair.short,
                sample.meta.amplification,
                levels=published if self.levels == "published" else None,
            )
            restored = restore_frame(network, sample, device)
            measured.append(_measured(pair.id, sample, plain, restored))
            picture = side_by_side([plain, restored, sample.gt])
            write_picture(self.folder(work) / f"{pair.id}.png", picture)
            work.progress.show(f"{self.camera}, {self.levels} levels: {pair.id}")
        means = {name: float(np.mean([one[name] for one in measured])) for name in _MEANS}
        return {**means, "pairs": len(measured), "images": measured}


def _calmest(work: Work, cell: LevelsScore) -> list[dict[str, Any]]:
    """The frames of the lowest ISO, where noise hides least of what levels do."""
    images = result(work, cell)["images"]
    lowest = min(image["iso"] for image in images)
    return [image for image in images if image["iso"] == lowest]


def _measured(pair: str, sample: Sample, plain: U16, restored: F32) -> dict[str, Any]:
    shown = plain.astype(np.float32) / np.float32(65535)
    scores = score(restored, sample.gt, PROTOCOLS["redirt"])
    return {
        "pair": pair,
        "iso": sample.meta.iso,
        "black level": sum(sample.meta.black) / len(sample.meta.black),
        "white level": sample.meta.white,
        "mean": float(restored.mean()),
        "truth mean": float(sample.gt.mean() / 65535),
        "input white": float((shown > _WHITE).mean()),
        "input black": float((shown < _BLACK).mean()),
        "white": float((restored > _WHITE).mean()),
        "black": float((restored < _BLACK).mean()),
        "psnr": scores.psnr,
        "ssim": scores.ssim,
    }


def _row(work: Work, cell: LevelsScore) -> tuple[str, ...]:
    found = result(work, cell)
    one = found["images"][0]
    return (
        camera_named(cell.camera).title,
        {"published": "published", "file": "the file's"}[cell.levels],
        f"{one['black level']:g}, {one['white level']:g}",
        f"{found['input white']:.1%}",
        f"{found['input black']:.1%}",
        f"{found['white']:.1%}",
        f"{found['black']:.1%}",
        f"{found['mean']:.3f}",
        f"{found['truth mean']:.3f}",
        decibels(found["psnr"]),
        f"{found['ssim']:.3f}",
    )


def _comparison(work: Work, published: LevelsScore, own: LevelsScore, wanted: str) -> Comparison:
    """The pair `wanted`, the same for all cameras; another one where a camera has it not."""
    there = {image["pair"]: image for image in result(work, own)["images"]}
    pair = wanted if wanted in there else typical(list(there.values()))
    given, wrong, truth = picture_row(published.folder(work) / f"{pair}.png", 3)
    _, right, _ = picture_row(own.folder(work) / f"{pair}.png", 3)
    return Comparison(
        name=camera_named(own.camera).title,
        pictures=(
            Shown(label=f"input, {PUBLISHED_BLACK} and {PUBLISHED_WHITE}", pixels=given),
            Shown(label=f"restored, {PUBLISHED_BLACK} and {PUBLISHED_WHITE}", pixels=wrong),
            Shown(label="restored, the file's levels", pixels=right),
            Shown(label="truth", pixels=truth),
        ),
    )
