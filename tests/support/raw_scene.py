"""One endless smooth scene, as a sensor of any colour filter array sees a window of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from darkprep.pipeline.raw.dng import BAYER
from darkprep.shards.cfa import CANONICAL

F64 = npt.NDArray[np.float64]
U16 = npt.NDArray[np.uint16]

PHASES: dict[str, tuple[str, ...]] = {**BAYER, "XTRANS": CANONICAL["xtrans"]}
NEUTRAL = (0.5, 1.0, 0.625)


def scene(top: int, left: int, height: int, width: int) -> F64:
    """Camera R, G, B of a window of one endless smooth scene, `(height, width, 3)` in (0, 1)."""
    y, x = np.mgrid[top : top + height, left : left + width].astype(np.float64)
    waves = [
        np.sin(2 * np.pi * (y * fy + x * fx) + phase)
        for fy, fx, phase in (
            (1 / 97, 1 / 61, 0.0),
            (1 / 53, -1 / 83, 1.0),
            (-1 / 71, 1 / 113, 2.0),
        )
    ]
    light = 0.45 + 0.15 * waves[0] + 0.1 * waves[1]
    tint = np.stack([1 + 0.2 * waves[2], np.ones_like(light), 1 - 0.2 * waves[2]], axis=-1)
    return np.asarray(light[..., None] * tint * np.array(NEUTRAL))


def mosaic_of(
    pattern: tuple[str, ...],
    *,
    top: int,
    left: int,
    height: int,
    width: int,
    black: float | F64 = 512.0,
    white: int = 16383,
    gain: float = 1.0,
) -> U16:
    """The window as a sensor with `pattern` at its top left sees it, in codes."""
    period = len(pattern)
    letters = np.array(["RGB".index(c) for row in pattern for c in row]).reshape(period, period)
    repeats = (-(-height // period), -(-width // period))
    colour = np.tile(letters, repeats)[:height, :width]
    level = np.tile(np.broadcast_to(black, (period, period)), repeats)[:height, :width]
    light = np.take_along_axis(scene(top, left, height, width), colour[..., None], axis=2)[..., 0]
    codes = level + np.minimum(light * gain, 1.0) * (white - level)
    return np.asarray(np.rint(codes), np.uint16)
