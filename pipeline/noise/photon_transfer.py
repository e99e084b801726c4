"""The system gain K by photon transfer: the variance of pairs of flat fields against their mean.

Method: half the variance of the difference of two frames of one scene is K times their mean plus a constant, so
vignetting, dust and the pixels' unequal response cancel (Janesick, "Photon Transfer", 2007). The trade-off:
frames are compared tile by tile, and a tile with a saturated pixel is left out whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from darkprep.pipeline.noise.tukey_lambda import F64
from darkprep.shards.format import U16

_TILE_PERIODS = {2: 32, 6: 16}
"""Periods of the CFA along a tile's side, by the length of the period: tiles of 64 or 96 pixels."""
_WIDTH = 0.1
"""Width in powers of two of the bins of tiles with similar light."""
_SATURATED = 0.001
"""Share of a frame's pixels at its highest code from which this code counts as saturation."""
_SIGMAS = 6.0
"""Distance of a tile's mean from saturation: nearer, tiles with little noise would be chosen."""
_LEVELS_APART = 1.3
"""Smallest factor between the lowest and the highest mean of usable flats."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PhotonTransfer:
    """The gain of one ISO, and the points from which it was estimated."""

    gain: float
    """K in codes per electron, over all colours."""
    gain_error: float
    """Standard error of `gain`."""
    channels: tuple[float, float, float]
    """K of red, green and blue alone."""
    intercept: float
    """Variance at signal 0 in codes squared; its error is too large for a read noise."""
    curvature: float
    """Quadratic term of a fit with one, in its standard errors: large if pairs differ by more than noise."""
    pairs: int
    clipped: float
    """Share of the tiles that were left out as saturated or cut off at black."""
    means: F64
    """`(n,)` mean signals in codes above black, ascending: medians of tiles with similar light."""
    variances: F64
    """`(n,)` variances in codes squared."""


@dataclass(eq=False)
class FlatStack:
    """Accumulates the pairs of flat fields of one ISO."""

    black: F64
    """`(P, P)` mean code of dark frames at each site of the CFA's period."""
    colours: tuple[str, ...]
    """Letters of the CFA's period, row by row."""
    white: float
    """Code at which a pixel counts as saturated."""
    pairs: int = 0
    _tiles: int = 0
    _kept: int = 0
    _points: dict[str, list[npt.NDArray[np.float64]]] = field(
        default_factory=lambda: {letter: [] for letter in "RGB"}
    )

    def add(self, first: U16, second: U16) -> None:
        """Add two frames of one scene, `(H, W)` codes of whole periods."""
        period = len(self.black)
        side = _TILE_PERIODS[period] * period
        limit = min(_saturation(first, self.white), _saturation(second, self.white))
        height, width = (length // side * side for length in first.shape)
        for top in range(0, height, side):
            a, b = (frame[top : top + side, :width] for frame in (first, second))
            highest = np.maximum(a, b).reshape(side, -1, side).max(axis=(0, 2))
            lowest = np.minimum(a, b).reshape(side, -1, side).min(axis=(0, 2))
            usable = (highest < limit) & (lowest > 0)
            self._tiles += len(usable)
            self._add_tiles(a, b, usable, limit)
        self.pairs += 1

    def _add_tiles(self, a: U16, b: U16, usable: npt.NDArray[np.bool_], limit: float) -> None:
        """Add mean and variance of each usable tile of a band, site by site of the CFA, pooled by colour."""
        period = len(self.black)
        count = len(usable)
        sums = {letter: np.zeros((3, count)) for letter in "RGB"}
        for y, x in np.ndindex(period, period):
            one = a[y::period, x::period].astype(np.float64)
            other = b[y::period, x::period].astype(np.float64)
            cells = (len(one), count, -1)
            mean = (one + other).reshape(cells).mean(axis=(0, 2)) / 2
            variance = (one - other).reshape(cells).var(axis=(0, 2), ddof=1) / 2
            near = (mean + _SIGMAS * np.sqrt(variance) < limit) & usable
            of_colour = sums[self.colours[y][x]]
            of_colour += np.where(near, [mean - self.black[y, x], variance, np.ones(count)], 0.0)
        sites = {letter: "".join(self.colours).count(letter) for letter in "RGB"}
        whole = np.all([sums[letter][2] == sites[letter] for letter in "RGB"], axis=0)
        self._kept += int(whole.sum())
        pixels = _TILE_PERIODS[period] ** 2
        for letter, (mean, variance, number) in sums.items():
            freedom = (pixels - 1) * number[whole]
            self._points[letter].append(
                np.stack([mean[whole] / number[whole], variance[whole] / number[whole], freedom])
            )

    def result(self) -> PhotonTransfer:
        """Fit the gain. Raises ValueError with the reason if the flats cannot give it."""
        points = {letter: np.concatenate(own, axis=1) for letter, own in self._points.items()}
        clipped = 1 - self._kept / max(1, self._tiles)
        if self._kept < 4:
            raise ValueError("are saturated or cut off at black; change their exposure")
        every = np.concatenate(list(points.values()), axis=1)
        means, variances, weights = _binned(every)
        if len(means) < 2 or every[0].max() < _LEVELS_APART * every[0].min():
            raise ValueError(
                f"have one brightness only, {max(0.0, float(np.median(every[0]))):.0f} raw units above black; add flats of other exposures"
            )
        gain, error, intercept = _weighted_line(means, variances, weights)
        if gain <= 0:
            raise ValueError(
                "have a variance that does not rise with the light; the two of a pair must show the same scene"
            )
        channels = []
        for letter in "RGB":
            channels.append(_channel_gain(points[letter], gain))
        red, green, blue = channels
        return PhotonTransfer(
            gain=gain,
            gain_error=error,
            channels=(red, green, blue),
            intercept=intercept,
            curvature=_curvature(means, variances, weights),
            pairs=self.pairs,
            clipped=clipped,
            means=means,
            variances=variances,
        )


def _saturation(frame: U16, white: float) -> float:
    """Return the code from which pixels count as saturated: `white`, or the highest code if many pixels have it."""
    top = int(frame.max())
    is_common = np.count_nonzero(frame == top) > _SATURATED * frame.size
    return min(white, float(top)) if is_common else white


def _channel_gain(points: F64, gain: float) -> float:
    """Return the gain of one colour; that of all colours if its light does not vary enough."""
    binned = _binned(points)
    if len(binned[0]) < 2 or points[0].max() < _LEVELS_APART * points[0].min():
        return gain
    return _weighted_line(*binned)[0]


def _binned(points: F64) -> tuple[F64, F64, F64]:
    """Return medians of mean and variance of tiles with similar light, and the variances' relative precision.

    The median of a variance with f degrees of freedom is (1 - 2 / (9 f))^3 of its mean.
    """
    means, variances, freedom = points
    level = np.floor(np.log2(np.maximum(means, 1.0)) / _WIDTH)
    groups = [np.flatnonzero(level == one) for one in np.unique(level)]
    values = [
        (
            float(np.median(means[group])),
            float(np.median(variances[group] / (1 - 2 / (9 * freedom[group])) ** 3)),
            float(freedom[group].sum()) * 2 / math.pi,
        )
        for group in groups
    ]
    found = np.array(values).T
    return found[0], found[1], found[2]


def _weighted_line(means: F64, variances: F64, freedom: F64) -> tuple[float, float, float]:
    """Return slope, its error, and intercept; a variance v with f degrees of freedom has the variance 2 v^2 / f."""
    fitted = variances
    slope = error = intercept = 0.0
    for _ in range(4):
        weights = freedom / (2 * np.maximum(fitted, 1e-6) ** 2)
        total = weights.sum()
        mean_x, mean_y = (weights * means).sum() / total, (weights * variances).sum() / total
        spread = (weights * (means - mean_x) ** 2).sum()
        slope = float((weights * (means - mean_x) * (variances - mean_y)).sum() / spread)
        intercept = float(mean_y - slope * mean_x)
        error = float(1 / math.sqrt(spread))
        line = slope * means + intercept
        fitted = np.where(line > 0, line, variances)
    return slope, error, intercept


def _curvature(means: F64, variances: F64, freedom: F64) -> float:
    """Return the quadratic term of a parabola through the points, in its standard errors."""
    if len(means) < 4:
        return 0.0
    weights = np.sqrt(freedom / 2) / np.maximum(variances, 1e-6)
    unit = means / means.max()
    design = np.stack([np.ones_like(unit), unit, unit**2], axis=1) * weights[:, None]
    found, *_ = np.linalg.lstsq(design, variances * weights, rcond=None)
    covariance = np.linalg.pinv(design.T @ design)
    return float(found[2] / math.sqrt(max(covariance[2, 2], 1e-300)))
