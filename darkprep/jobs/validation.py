"""Validation frames: crops of a few scenes on which a network is evaluated while it is trained, and pictures of them.

The trade-off: one detailed crop of each of a few frames, not whole frames: an evaluation takes seconds
instead of minutes, and its pictures show single pixels. The scores show how training progresses; scores of
the whole data set come from `darkprep evaluate`.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from darkprep.jobs.pictures import colours_for_show, shown
from darkprep.jobs.protocols import planes_at_full_scale
from darkprep.model import Network
from darkprep.pipeline.pairs.cameras import CAMERAS
from darkprep.pipeline.pairs.origin import PairOrigin
from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.pairs.whole_frame import Correction, NoiseOfFrame, whole_frame
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.raw.amplify import Amplification, parse_amplification
from darkprep.pipeline.raw.colour import Colours
from darkprep.pipeline.raw.develop import develop_amplified
from darkprep.pipeline.raw.guard import guarded_call
from darkprep.pipeline.raw.resample import XtransMode, parse_xtrans_mode
from darkprep.report.run_page import VALIDATION_FOLDER
from darkprep.shards import CELL, PERIOD, DarkprepError, RawError, Sample, Target
from darkprep.shards.files import disk_errors, refuse_link, remove, replace_atomically
from darkprep.shards.format import U16
from darkprep.shards.machine import retries_end_with
from darkprep.trainer.evaluation import amplified_planes, restore_frame, truth_of
from darkprep.trainer.metrics import F32, Protocol, Scores, protocol_for, score
from darkprep.trainer.picture import developed_simply, quantised

log = logging.getLogger(__name__)

FRAMES = 4
"""Number of scenes."""
_CROP = (512, 768)
"""Height and width in pixels."""
_MOST_PICTURES = 10
"""Maximum number of evaluations whose pictures are kept; all scores are kept."""
_JPEG_QUALITY = 90


@dataclass(frozen=True, kw_only=True, eq=False)
class ValidationCrop:
    """A crop of a validation pair, ready to be restored."""

    sample: Sample
    """The sample, with `low` and `gt` cropped."""
    dark: F32 | U16
    """`(3, H, W)` sRGB: the short exposure developed without amplification, for planes simply."""
    amplified: F32 | U16
    """The same amplified, as a baseline."""
    colours: Colours | None
    """The file's colours, for results that are shown simply developed; None for sRGB."""

    @property
    def name(self) -> str:
        """The pair's id, as a file name; an id of a plan of someone else may be `..`."""
        name = self.sample.meta.pair.replace("/", "_")
        return name if name.strip(".") else f"_{name}"

    def show(self, picture: F32 | U16) -> F32 | U16:
        """Return an sRGB picture of the restored target, or of the truth."""
        if self.colours is None:
            return picture
        return shown(picture, self.sample.meta.cfa, self.colours)


def validation_pairs(plan: Plan) -> tuple[Pair, ...]:
    """Return pairs from up to FRAMES scenes on which the plan does not train, spread evenly over all such scenes.

    From each scene the pair with the largest exposure ratio is taken. The scenes are of the validation
    split, or of the test split if the validation split is empty.
    """
    options = plan.options
    trained = {planned.pair.scene for planned in plan.pairs}
    origin = PairOrigin(root=plan.root, camera=options.camera, table=plan.table, layout=plan.layout)
    if origin.is_data_set and options.camera not in CAMERAS:
        return ()
    found = origin.find()
    for split in ("val", "test"):
        darkest: dict[str, Pair] = {}
        for pair in found.pairs:
            if pair.split != split or pair.scene in trained:
                continue
            if pair.scene not in darkest or pair.ratio > darkest[pair.scene].ratio:
                darkest[pair.scene] = pair
        scenes = sorted(darkest)
        if scenes:
            every = max(1, len(scenes) / FRAMES)
            return tuple(
                darkest[scenes[int(index * every)]] for index in range(min(FRAMES, len(scenes)))
            )
    return ()


def cut_validation_crop(
    root: Path,
    pair: Pair,
    *,
    amplification: Amplification,
    multiplier: float,
    xtrans: XtransMode = "native",
    target: Target = "srgb",
    correct: Correction | None = None,
    noise: NoiseOfFrame | None = None,
) -> ValidationCrop:
    """Decode a pair, apply `correct` to its short exposure, and crop it to its most detailed region. Raises RawError."""
    whole = whole_frame(
        root,
        pair,
        amplification=amplification,
        multiplier=multiplier,
        xtrans=xtrans,
        target=target,
        correct=correct,
        noise=noise,
    )
    cfa = whole.meta.cfa
    cell, multiple = CELL[cfa], Network.multiple * CELL[cfa]
    height, width = (
        min(wanted, side * cell) // multiple * multiple
        for wanted, side in zip(_CROP, whole.low.shape[1:], strict=True)
    )
    if not height or not width:
        raise RawError(
            str(root / pair.short), f"is smaller than a validation crop of {multiple} pixels"
        )
    step = cell if target == "raw" else 1  # pixels of the mosaic per pixel of the truth
    picture = developed_simply(truth_of(whole), cfa) if target == "raw" else whole.gt
    top, left = most_detailed(picture, height // step, width // step, align=PERIOD[cfa] // step)
    rows, columns = (slice(top, top + height // step), slice(left, left + width // step))
    y, x = top * step // cell, left * step // cell
    low = whole.low[:, y : y + height // cell, x : x + width // cell]
    truth = whole.gt[:, rows, columns].copy()
    sample = Sample(np.ascontiguousarray(low), truth, whole.meta, whole.noise)
    path, factor = root / pair.short, whole.meta.amplification
    if target == "raw":
        colours = colours_for_show(path)
        light = amplified_planes(sample)
        dark, amplified = (shown(part, cfa, colours) for part in (light / factor, light))
        return ValidationCrop(sample=sample, dark=dark, amplified=amplified, colours=colours)
    return ValidationCrop(
        sample=sample,
        dark=develop_amplified(path, 1.0)[:, rows, columns].copy(),
        amplified=develop_amplified(path, factor)[:, rows, columns].copy(),
        colours=colours_for_show(path) if target == "linear" else None,
    )


def most_detailed(truth: F32 | U16, height: int, width: int, *, align: int) -> tuple[int, int]:
    """Return row and column of the `height` x `width` region of `(3, H, W)` with the most detail.

    Detail is the sum of differences between neighbouring 8 x 8 blocks of the square root of the green
    channel; the square root makes shadows count. Row and column are multiples of `align`.
    """
    block = 8
    rows, columns = (side // block for side in truth.shape[1:])
    green = truth[1, : rows * block, : columns * block].astype(np.float32)
    small = np.sqrt(green.reshape(rows, block, columns, block).mean(axis=(1, 3)))
    steps = np.zeros_like(small)
    steps[:, 1:] += np.abs(np.diff(small, axis=1))
    steps[1:] += np.abs(np.diff(small, axis=0))
    sums = np.pad(steps.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    high, wide = min(rows, height // block), min(columns, width // block)
    inside = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    best = np.unravel_index(int(inside.argmax()), inside.shape)
    y, x = (
        min(int(index) * block, side - size) // align * align
        for index, side, size in zip(best, truth.shape[1:], (height, width), strict=True)
    )
    return y, x


class ValidationFrames:
    """Evaluates a network on crops of validation frames, and writes pictures of the results.

    A thread decodes the frames while training starts; the first evaluation waits for it. Pictures are
    written to `run_dir/heldout/PAIR/`: dark.jpg, amplified.jpg, truth.jpg, and one named after the
    iteration for each evaluation that is kept. `noise` returns the noise level of a frame, for a network that reads
    a noise-level map.
    """

    def __init__(
        self,
        plan: Plan,
        run_dir: Path,
        device: torch.device,
        noise: NoiseOfFrame | None = None,
    ) -> None:
        self._noise = noise
        self._plan, self._directory, self._device = plan, run_dir / VALIDATION_FOLDER, device
        self._pairs = validation_pairs(plan)
        self._crops: list[ValidationCrop] = []
        self._thread = threading.Thread(target=self._load, name="validation-frames", daemon=True)
        self._closing = threading.Event()

    def start(self) -> None:
        """Start decoding in a thread; this process must hold the lock of the run's directory."""
        self._thread.start()

    def close(self) -> None:
        """Stop decoding after the current frame; nothing is written afterwards."""
        self._closing.set()
        if self._thread.ident:
            self._thread.join()

    def __len__(self) -> int:
        return len(self._pairs)

    def evaluate(self, network: Network, iteration: int) -> dict[str, Any]:
        """Return the content of a line of evaluations.jsonl: mean PSNR and SSIM, and those of each crop."""
        self._thread.join()
        rules = protocol_for(self._plan.options.target)
        images: list[dict[str, Any]] = []
        for crop in self._crops:
            try:
                restored = restore_frame(network, crop.sample, self._device)
            except DarkprepError as error:
                # A failed evaluation must not end the training.
                log.warning(
                    "evaluation on validation frames is switched off, because they cannot be restored: %s",
                    error,
                )
                self._crops.clear()
                return {}
            scores = _scores(crop.sample, restored, rules)
            images.append({"pair": crop.name, "psnr": scores.psnr, "ssim": scores.ssim})
            write_jpeg(
                self._directory / crop.name / f"{iteration:08d}.jpg",
                quantised(crop.show(restored), 8),
            )
            self._delete_pictures(self._directory / crop.name)
        if not images:
            return {}
        means = {
            name: sum(image[name] for image in images) / len(images) for name in ("psnr", "ssim")
        }
        return {**means, "protocol": rules.name, "images": images}

    def _load(self) -> None:
        """Decode the frames; those that cannot be used are left out."""
        with retries_end_with(self._closing):
            self._load_crops()

    def _load_crops(self) -> None:
        options = self._plan.options
        amplification = parse_amplification(options.amplify)
        for pair in self._pairs:
            if self._closing.is_set():
                return
            try:
                cut = partial(
                    cut_validation_crop,
                    self._plan.root,
                    pair,
                    amplification=amplification,
                    multiplier=options.multiplier or 1.0,
                    xtrans=parse_xtrans_mode(options.xtrans),
                    target=options.target,
                    correct=self._plan.correction,
                    noise=self._noise,
                )
                crop = guarded_call(cut, self._plan.root / pair.short)
                if crop.sample.meta.cfa != self._plan.cfa:
                    raise RawError(
                        str(self._plan.root / pair.short),
                        f"has the CFA {crop.sample.meta.cfa}, but the samples of the plan have {self._plan.cfa}",
                    )
                directory = self._directory / crop.name
                for name, picture in (
                    ("dark", crop.dark),
                    ("amplified", crop.amplified),
                    ("truth", crop.show(truth_of(crop.sample))),
                ):
                    write_jpeg(directory / f"{name}.jpg", quantised(picture, 8))
            except DarkprepError as error:
                log.warning("validation frame %s cannot be used: %s", pair.id, error)
                continue
            self._crops.append(crop)

    @staticmethod
    def _delete_pictures(directory: Path) -> None:
        """If there are more than _MOST_PICTURES pictures, delete one, so that the others cover all of the training run.

        File names are iterations. The picture is deleted whose neighbours have the smallest ratio of
        iterations, so that the remaining iterations are spaced about evenly on a logarithmic scale. The
        first and the last picture stay.
        """
        pictures = sorted(directory.glob("[0-9]*.jpg"))
        if len(pictures) <= _MOST_PICTURES:
            return
        gaps = [
            int(after.stem) / max(1, int(before.stem))
            for before, after in zip(pictures, pictures[2:], strict=False)
        ]
        remove(pictures[1 + int(np.argmin(gaps))])


def _scores(sample: Sample, restored: F32, rules: Protocol) -> Scores:
    if sample.meta.target == "raw":
        return score(*planes_at_full_scale(sample, restored), rules)
    return score(restored, sample.gt, rules)


def write_jpeg(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    """Write `(H, W, 3)` uint8 as a JPEG file, atomically. Raises DiskFull or SpoolError."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    refuse_link(path.parent)

    def write(file: BinaryIO) -> None:
        # 4:4:4, because colour noise is part of what the pictures show.
        Image.fromarray(pixels).save(file, "JPEG", quality=_JPEG_QUALITY, subsampling=0)

    replace_atomically(path, write, sync=False)
