"""Held-out frames that a training is judged by while it runs, and the pictures that show it.

The trade-off: one detailed piece of a few frames, not whole frames: seconds in each judgement instead of
minutes, and pictures that show single pixels. Its figures follow the training; they are not the data
set's, which `darkprep evaluate` computes.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from darkprep.model import Network
from darkprep.pipeline.pairs.table import Pair, camera_named, find_pairs
from darkprep.pipeline.pairs.whole_frame import whole_frame
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.raw.amplify import Amplification, parse_amplification
from darkprep.pipeline.raw.develop import develop_amplified
from darkprep.pipeline.raw.resample import XtransMode, parse_xtrans_mode
from darkprep.report.run_page import VALIDATION_FOLDER
from darkprep.shards import CELL, PERIOD, DarkprepError, RawError, Sample
from darkprep.shards.files import disk_errors, replace_atomically
from darkprep.shards.format import U16
from darkprep.trainer.evaluation import restore_frame
from darkprep.trainer.metrics import protocol_named, score
from darkprep.trainer.picture import quantised

log = logging.getLogger(__name__)

PROTOCOL = "redirt"
FRAMES = 4
"""How many scenes are looked at."""
_PIECE = (512, 768)
_KEPT = 10
"""Judgements whose pictures stay; their figures all stay."""
_QUALITY = 90


@dataclass(frozen=True, kw_only=True, eq=False)
class ValidationCrop:
    """A piece of a held-out pair, ready to be restored."""

    sample: Sample
    """Its `low` and `gt` are cut."""
    dark: U16
    """`(3, H, W)` sRGB: the short exposure as it is."""
    amplified: U16
    """The same, amplified by a plain developer: the picture to beat."""

    @property
    def name(self) -> str:
        """A file name for it."""
        return self.sample.meta.pair.replace("/", "_")


def validation_pairs(plan: Plan) -> tuple[Pair, ...]:
    """One pair each of a few scenes that the plan does not train on, spread over all there are.

    Of a scene, the darkest. The validation split is taken, or the test split where that is empty.
    """
    options = plan.options
    trained = {planned.pair.scene for planned in plan.pairs}
    found = find_pairs(plan.root, camera_named(options.camera))
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
) -> ValidationCrop:
    """Decode a pair and cut its most detailed piece. Raises RawError."""
    whole = whole_frame(
        root, pair, amplification=amplification, multiplier=multiplier, xtrans=xtrans
    )
    cfa = whole.meta.cfa
    multiple = Network.multiple * CELL[cfa]
    height, width = (
        min(wanted, side) // multiple * multiple
        for wanted, side in zip(_PIECE, whole.gt.shape[1:], strict=True)
    )
    if not height or not width:
        raise RawError(str(root / pair.short), f"is smaller than {multiple} pixels")
    y, x = most_detailed(whole.gt, height, width, align=PERIOD[cfa])
    cell = CELL[cfa]
    low = whole.low[:, y // cell : (y + height) // cell, x // cell : (x + width) // cell]
    rows, columns = slice(y, y + height), slice(x, x + width)
    amplification = whole.meta.amplification
    return ValidationCrop(
        sample=Sample(np.ascontiguousarray(low), whole.gt[:, rows, columns].copy(), whole.meta),
        dark=develop_amplified(root / pair.short, 1.0)[:, rows, columns].copy(),
        amplified=develop_amplified(root / pair.short, amplification)[:, rows, columns].copy(),
    )


def most_detailed(truth: U16, height: int, width: int, *, align: int) -> tuple[int, int]:
    """Row and column of the `height` x `width` piece of `(3, H, W)` with most going on in it.

    Detail is the sum of steps between neighbouring 8 x 8 blocks, in the square root of light so that
    shadows count. The origin is a multiple of `align`.
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
    places = [
        min(int(place) * block, side - size) // align * align
        for place, side, size in zip(best, truth.shape[1:], (height, width), strict=True)
    ]
    return places[0], places[1]


class ValidationFrames:
    """Judges a network by pieces of held-out frames, and writes down what it makes of them.

    The frames are decoded by a thread from the start on; the first judgement waits for what is left of
    that. Pictures go to `run_dir/heldout/PAIR/`: dark.jpg, amplified.jpg, truth.jpg, and one named by
    its iteration for each judgement kept.
    """

    def __init__(self, plan: Plan, run_dir: Path, device: torch.device) -> None:
        self._plan, self._folder, self._device = plan, run_dir / VALIDATION_FOLDER, device
        self._pairs = validation_pairs(plan)
        self._pieces: list[ValidationCrop] = []
        self._thread = threading.Thread(target=self._load, name="held-out-frames", daemon=True)
        self._closing = threading.Event()

    def start(self) -> None:
        """Begin to decode the frames; pictures of them go to the run's directory, which must be ours."""
        self._thread.start()

    def close(self) -> None:
        """End the decoding, after the frame at hand: from now on nothing is written."""
        self._closing.set()
        if self._thread.ident:
            self._thread.join()

    def __len__(self) -> int:
        return len(self._pairs)

    def judge(self, network: Network, iteration: int) -> dict[str, Any]:
        """A line of evaluations.jsonl: mean PSNR and SSIM, and each piece's; empty without pieces."""
        self._thread.join()
        rules = protocol_named(PROTOCOL)
        images: list[dict[str, Any]] = []
        for piece in self._pieces:
            try:
                restored = restore_frame(network, piece.sample, self._device)
            except DarkprepError as error:
                # A look must not end the training that it is for.
                log.warning("held-out frames cannot be restored: %s", error)
                self._pieces.clear()
                return {}
            scores = score(restored, piece.sample.gt, rules)
            images.append({"pair": piece.name, "psnr": scores.psnr, "ssim": scores.ssim})
            write_jpeg(self._folder / piece.name / f"{iteration:08d}.jpg", quantised(restored, 8))
            self._thin_out(self._folder / piece.name)
        if not images:
            return {}
        means = {
            name: sum(image[name] for image in images) / len(images) for name in ("psnr", "ssim")
        }
        return {**means, "protocol": PROTOCOL, "images": images}

    def _load(self) -> None:
        """Decode the frames; one that cannot be used is left out."""
        options = self._plan.options
        amplification = parse_amplification(options.amplify)
        for pair in self._pairs:
            if self._closing.is_set():
                return
            try:
                piece = cut_validation_crop(
                    self._plan.root,
                    pair,
                    amplification=amplification,
                    multiplier=options.multiplier or 1.0,
                    xtrans=parse_xtrans_mode(options.xtrans),
                )
                folder = self._folder / piece.name
                for name, picture in (
                    ("dark", piece.dark),
                    ("amplified", piece.amplified),
                    ("truth", piece.sample.gt),
                ):
                    write_jpeg(folder / f"{name}.jpg", quantised(picture, 8))
            except DarkprepError as error:
                log.warning("%s is not looked at: %s", pair.id, error)
                continue
            self._pieces.append(piece)

    @staticmethod
    def _thin_out(folder: Path) -> None:
        """Drop the picture whose neighbours are nearest in the training's course; first and last stay."""
        taken = sorted(folder.glob("[0-9]*.jpg"))
        if len(taken) <= _KEPT:
            return
        gaps = [
            int(after.stem) / max(1, int(before.stem))
            for before, after in zip(taken, taken[2:], strict=False)
        ]
        taken[1 + int(np.argmin(gaps))].unlink(missing_ok=True)


def write_jpeg(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    """Write `(H, W, 3)` uint8, whole or not at all. Raises DiskFull or SpoolError."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(file: BinaryIO) -> None:
        # 4:4:4, for colour noise is part of what is looked at.
        Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY, subsampling=0)

    replace_atomically(path, write, sync=False)
