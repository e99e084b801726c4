"""The borders of a sensor: the crop that a DNG file states, and the masked columns, which measure the black level.

The trade-off: values are used only if the file's other values confirm them. A crop that does not lie in the
visible area is ignored, and a measured black level replaces the stated one only if the two differ by less
than one code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from darkprep.pipeline.raw.frame import F32
from darkprep.shards.format import U16

Edition = Literal[1, 2]
"""Version of the treatment of borders. 1: the visible area and integer black levels as LibRaw returns them, as in
plans of older versions; 2: DNG's DefaultCrop, and black levels with fractions."""

_SMALLEST_SIDE = 12
_FEWEST_PIXELS = 1000
"""Minimum number of masked pixels of each colour to measure a black level, with noise below 0.1 code."""
_BESIDE = 2
"""Number of masked columns next to the visible area that are not used, because light leaks into them."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A rectangle of pixels in the visible area."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The window's rows and columns as slices, to index an array of the visible area."""
        rows = slice(self.top, self.top + self.height)
        return rows, slice(self.left, self.left + self.width)


def used_window(crop: tuple[float, float, float, float] | None, height: int, width: int) -> Window:
    """Return the part of a visible area of `height` x `width` pixels that is used.

    `crop` is DNG's DefaultCrop: top, left, height and width, which may be fractions. It is ignored if it
    does not lie in the visible area or is smaller than twelve pixels.
    """
    whole = Window(top=0, left=0, height=height, width=width)
    if crop is None or not all(math.isfinite(value) for value in crop):
        return whole
    top, left = math.ceil(crop[0]), math.ceil(crop[1])
    bottom, right = math.floor(crop[0] + crop[2]), math.floor(crop[1] + crop[3])
    if not (0 <= top and bottom <= height and bottom - top >= _SMALLEST_SIDE):
        return whole
    if not (0 <= left and right <= width and right - left >= _SMALLEST_SIDE):
        return whole
    return Window(top=top, left=left, height=bottom - top, width=right - left)


def measured_black(sensor: U16, visible: Window, stated: F32) -> F32:
    """Return the mean code of the masked columns for each position in the CFA's period, `(2, 2)`.

    `sensor` holds the codes of the whole sensor, `visible` is the visible area in it, and `stated` are the
    black levels that the file states, `(2, 2)`. The masked columns are those to the left and right of the
    visible area, in its rows. Returns `stated` if there are too few masked pixels or a mean differs from
    `stated` by a code or more.
    """
    rows = sensor[visible.slices[0]]
    left = np.arange(0, max(0, visible.left - _BESIDE))
    right = np.arange(visible.left + visible.width + _BESIDE, sensor.shape[1])
    columns = np.concatenate([left, right])
    black = np.empty_like(stated)
    for y, x in np.ndindex(stated.shape):
        own = columns[(columns - visible.left) % stated.shape[1] == x]
        codes = rows[y :: stated.shape[0], own]
        if codes.size < _FEWEST_PIXELS:
            return stated
        black[y, x] = codes.mean(dtype=np.float64)
    return stated if (np.abs(black - stated) >= 1).any() else black.round(3)
