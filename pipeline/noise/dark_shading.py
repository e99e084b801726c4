"""Dark shading: the fixed pattern of a sensor in the dark, per pixel a straight line over ISO.

Form: that of PMN (Feng et al., ACM MM 2022): the mean of the dark frames of each ISO without its own mean, as
`slope * ISO + offset` for each pixel, separately for each gain mode. The trade-off: the mean of a few frames
contains their noise, so columns and coarse shading are kept whole, and what single pixels add is reduced to
the share that is not noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

_BLOCK = 64
"""Pixels along the side of the blocks whose means are the coarse shading."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ShadingMaps:
    """The dark shading of one gain mode."""

    isos: tuple[float, float]
    """The lowest and the highest ISO that was measured."""
    slope: F32
    """`(H, W)` codes per ISO."""
    offset: F32
    """`(H, W)` codes."""

    def at(self, iso: float) -> F32:
        """Return the shading at an ISO, `(H, W)` codes with mean 0; beyond the measured ISO values, that of the nearest."""
        nearest = min(max(iso, self.isos[0]), self.isos[1])
        return np.asarray(self.slope * np.float32(nearest) + self.offset)


@dataclass(eq=False)
class ShadingFit:
    """Accumulates the dark shading of one gain mode as sums over the mode's ISO values, so that only two maps are in memory."""

    isos: list[float] = field(default_factory=list)
    _sum: F32 | None = None
    _moment: F32 | None = None

    def add(self, iso: float, shading: F32) -> None:
        """Add the shading at one ISO, `(H, W)` codes."""
        if self._sum is None or self._moment is None:
            self._sum, self._moment = np.zeros_like(shading), np.zeros_like(shading)
        self.isos.append(iso)
        self._sum += shading
        self._moment += np.float32(iso) * shading

    def maps(self) -> ShadingMaps:
        """Return the line through the ISO values; its slope is 0 if there is only one."""
        assert self._sum is not None, "an ISO was added"
        assert self._moment is not None, "an ISO was added"
        count, mean_iso = len(self.isos), float(np.mean(self.isos))
        spread = float(np.sum((np.array(self.isos) - mean_iso) ** 2))
        offset = self._sum / np.float32(count)
        slope = np.zeros_like(offset)
        if spread > 0:
            slope = (self._moment - np.float32(mean_iso) * self._sum) / np.float32(spread)
            offset -= np.float32(mean_iso) * slope
        return ShadingMaps(isos=(min(self.isos), max(self.isos)), slope=slope, offset=offset)


def shading_of(mean_map: F32, *, fixed_pixel_sigma: float, noise_variance: float) -> F32:
    """Return the shading in the mean of the dark frames of one ISO, `(H, W)` codes with mean 0.

    `noise_variance` is the variance that the frames' noise gives to a pixel of `mean_map`.
    """
    shading = mean_map - mean_map.mean(dtype=np.float64).astype(np.float32)
    columns = shading.mean(axis=0, dtype=np.float64).astype(np.float32)
    shading -= columns
    coarse = block_means(shading)
    height, width = shading.shape
    rows = np.minimum(np.arange(height) // _BLOCK, len(coarse) - 1)
    across = np.minimum(np.arange(width) // _BLOCK, coarse.shape[1] - 1)
    total = fixed_pixel_sigma**2 + noise_variance
    share = np.float32(fixed_pixel_sigma**2 / total if total > 0 else 0.0)
    for index, row in enumerate(rows):
        smooth = coarse[row][across]
        shading[index] = columns + smooth + share * (shading[index] - smooth)
    return np.asarray(shading, np.float32)


def block_means(values: F32) -> F32:
    """Return the means of blocks of 64 x 64 pixels, `(h, w)`; a frame smaller than a block is one block."""
    height, width = (max(1, side // _BLOCK) for side in values.shape)
    if min(values.shape) < _BLOCK:
        return np.full((1, 1), values.mean(), np.float32)
    whole = values[: height * _BLOCK, : width * _BLOCK]
    means = whole.reshape(height, _BLOCK, width, _BLOCK).mean(axis=(1, 3), dtype=np.float64)
    return np.asarray(means, np.float32)
