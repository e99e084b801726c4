"""The statistics of the dark frames of one ISO, in one pass: read, row and column noise, colour bias, fixed pattern.

The trade-off: one frame at a time is in memory beside the sum of all and the frame before. The distribution
of the read noise is therefore measured against the column pattern of the frames seen so far, in the middle of
the frame; what remains of fixed pattern in it is taken off its scale by variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from darkprep.pipeline.noise.tukey_lambda import F64, SUBDIVISIONS, TukeyFit, fit
from darkprep.shards.format import U16

F32 = npt.NDArray[np.float32]

_SIDE = 2048
"""Rows and columns in the middle of a frame whose codes are counted."""
_REACH = 4096
"""Largest residual in codes that is distinguished; those farther from 0 count as this far."""
_BAND = 256
"""Rows that are computed at once."""
_CLIPPED = 0.25
"""Share of pixels at code 0 from which the camera cuts off noise below a black level of 0."""
_HOT = 6.0


@dataclass(frozen=True, eq=False, kw_only=True)
class DarkStatistics:
    """What the dark frames of one ISO have in common. Standard deviations are in codes."""

    frames: int
    site_bias: F64
    """`(P, P)` mean above the black level of each site of the CFA's period, without hot pixels."""
    pixel_variance: float
    """Variance of a pixel from frame to frame without its row's, in codes squared; quantisation included."""
    read: TukeyFit | None
    """None if the codes have too few values."""
    read_scale: float
    """Scale of the read noise without fixed pattern."""
    row_sigma: float
    row_error: float
    """Standard error of `row_sigma`."""
    column_sigma: float
    """Of the columns' offsets from frame to frame, beyond what pixels explain."""
    fixed_column_sigma: float
    fixed_pixel_sigma: float
    """Of the pixels' fixed offsets, without columns and hot pixels."""
    hot_pixels: int
    step: int
    """Difference between neighbouring codes: 4 for 12-bit data in 14 bits."""
    clipped: float
    """Share of the pixels at code 0; above a quarter, noise below black is cut off."""
    row_spectrum: F64
    """`(n,)` power of the row offsets by frequency, from one period per frame on; mean 1 if white."""
    row_correlation: float
    """Correlation of neighbouring rows' offsets."""
    mean_map: F32
    """`(H, W)` mean above the black level."""

    @property
    def is_clipped(self) -> bool:
        """Whether noise below black is cut off, so that only the read noise's scale is known."""
        return self.clipped > _CLIPPED


@dataclass(eq=False)
class DarkStack:
    """Accumulates the dark frames of one ISO."""

    black: F64
    """`(P, P)` black level of each site of the CFA's period."""
    count: int = 0
    _sum: npt.NDArray[np.int32] | None = None
    _odd_sum: npt.NDArray[np.int32] | None = None
    """Of every second frame: what both halves have in common is fixed."""
    _before: U16 | None = None
    _row_means: list[F64] = field(default_factory=list)
    _column_means: list[F64] = field(default_factory=list)
    _site_means: list[F64] = field(default_factory=list)
    _difference: float = 0.0
    _histogram: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(2 * _REACH * SUBDIVISIONS, np.int64)
    )
    _codes: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(1 << 16, np.int64))

    def add(self, mosaic: U16) -> float:
        """Add a frame, `(H, W)` codes of whole periods; return its mean above black in codes."""
        period = len(self.black)
        height, width = mosaic.shape
        site_means = np.array(
            [
                [mosaic[y::period, x::period].mean(dtype=np.float64) for x in range(period)]
                for y in range(period)
            ]
        )
        of_row = np.tile(site_means.mean(axis=1), height // period)
        of_column = np.tile(site_means.mean(axis=0), width // period)
        rows = mosaic.mean(axis=1, dtype=np.float64) - of_row
        columns = mosaic.mean(axis=0, dtype=np.float64) - of_column
        self._row_means.append(rows)
        self._column_means.append(columns)
        self._site_means.append(site_means)
        self._count_codes(mosaic, rows, site_means)
        if self._sum is None or self._odd_sum is None:
            self._sum, self._odd_sum = mosaic.astype(np.int32), np.zeros(mosaic.shape, np.int32)
        else:
            self._sum += mosaic
            if self.count % 2:
                self._odd_sum += mosaic
        if self._before is not None:
            self._difference += _row_free_square(mosaic, self._before)
        self._before = mosaic
        self.count += 1
        return float((site_means - self.black).mean())

    def _count_codes(self, mosaic: U16, rows: F64, site_means: F64) -> None:
        """Add the codes of the middle to the histograms, against the means of their row, column and site."""
        period = len(self.black)
        top, left = (max(0, (side - _SIDE) // 2 // period * period) for side in mosaic.shape)
        middle = mosaic[top : top + _SIDE, left : left + _SIDE]
        self._codes += np.bincount(middle.ravel(), minlength=1 << 16)
        height, width = middle.shape
        pattern = np.mean(self._column_means, axis=0)[left : left + width]
        sites = np.tile(site_means, (1, width // period + 1))[:, :width]
        for first in range(0, height, _BAND):
            band = middle[first : first + _BAND]
            numbers = np.arange(first, first + len(band))
            offset = rows[top + numbers, None] + pattern + sites[numbers % period]
            bins = band.astype(np.int32) * SUBDIVISIONS
            bins -= np.floor(offset * SUBDIVISIONS).astype(np.int32)
            bins += _REACH * SUBDIVISIONS - 1
            np.clip(bins, 0, len(self._histogram) - 1, out=bins)
            self._histogram += np.bincount(bins.ravel(), minlength=len(self._histogram))

    def statistics(self) -> DarkStatistics:
        """Return the statistics of at least two frames."""
        assert self._sum is not None, "frames were added"
        assert self._odd_sum is not None, "frames were added"
        assert self.count > 1, "at least two frames"
        height, width = self._sum.shape
        period, count = len(self.black), self.count
        pairs = count - 1
        variance = self._difference / (2 * pairs * height * (width - 1))
        rows, row_error = _temporal_sigma(np.array(self._row_means), variance / width, period)
        columns, _ = _temporal_sigma(np.array(self._column_means), variance / height, period)
        mean_map = self._sum.astype(np.float32)
        mean_map /= np.float32(count)
        for y, x in np.ndindex(period, period):
            mean_map[y::period, x::period] -= np.float32(self.black[y, x])
        of_columns = np.mean(self._column_means, axis=0)
        bias, hot, kept = _without_hot_pixels(mean_map, of_columns, period)
        fixed = _fixed_sigma(self._sum, self._odd_sum, count, kept, period)
        deviation = np.median(np.abs(of_columns - np.median(of_columns)))
        fixed_columns = (1.4826 * deviation) ** 2 - variance / height / count
        step = _code_step(self._codes)
        clipped = float(self._codes[0] / self._codes.sum())
        found = _fitted(self._histogram, step, clipped)
        scale = found.scale if found else 0.0
        read_variance = max(0.0, variance - step**2 / 12)
        if fixed > 0 and read_variance > 0 and clipped <= _CLIPPED:
            scale *= math.sqrt(read_variance / (read_variance + fixed**2))
        spectrum, correlation = _row_structure(np.array(self._row_means), period)
        return DarkStatistics(
            frames=count,
            site_bias=bias,
            pixel_variance=variance,
            read=found,
            read_scale=scale,
            row_sigma=rows,
            row_error=row_error,
            column_sigma=columns,
            fixed_column_sigma=math.sqrt(max(0.0, float(fixed_columns))),
            fixed_pixel_sigma=fixed,
            hot_pixels=hot,
            step=step,
            clipped=clipped,
            row_spectrum=spectrum,
            row_correlation=correlation,
            mean_map=mean_map,
        )


def _row_free_square(first: U16, second: U16) -> float:
    """Return the sum of squares of two frames' difference without each row's mean."""
    total = 0.0
    for top in range(0, len(first), _BAND):
        difference = first[top : top + _BAND].astype(np.float32)
        difference -= second[top : top + _BAND]
        difference -= difference.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
        total += float(np.einsum("ij,ij->", difference, difference, dtype=np.float64))
    return total


def _temporal_sigma(means: F64, of_pixels: float, period: int) -> tuple[float, float]:
    """Return the standard deviation from frame to frame of the means of rows or columns, and its error.

    `means` is `(frames, n)`; `of_pixels` is the variance that pixels alone give to a mean.
    """
    frames, count = means.shape
    free = (frames - 1) * max(1, count - period)
    total = float(((means - means.mean(axis=0)) ** 2).sum() / free)
    if total <= 0:
        return 0.0, 0.0
    sigma = math.sqrt(max(0.0, total - of_pixels))
    error = total * math.sqrt(2 / free)
    return sigma, error / (2 * max(sigma, math.sqrt(error)))


def _without_hot_pixels(
    mean_map: F32, columns: F64, period: int
) -> tuple[F64, int, npt.NDArray[np.bool_]]:
    """Return the bias of each site without hot pixels, their number, and `(H, W)` whether a pixel is none."""
    bias = np.empty((period, period))
    kept = np.empty(mean_map.shape, np.bool_)
    for y, x in np.ndindex(period, period):
        values = mean_map[y::period, x::period] - columns[x::period].astype(np.float32)
        distance = np.abs(values - np.median(values))
        near = distance <= max(_HOT * 1.4826 * float(np.median(distance)), 1.0)
        bias[y, x] = values[near].mean(dtype=np.float64) + columns[x::period].mean()
        kept[y::period, x::period] = near
    return bias, int(kept.size - np.count_nonzero(kept)), kept


def _fixed_sigma(
    total: npt.NDArray[np.int32],
    odd: npt.NDArray[np.int32],
    count: int,
    kept: npt.NDArray[np.bool_],
    period: int,
) -> float:
    """Return the standard deviation of the pixels' fixed offsets: the covariance of the means of two halves."""
    odds, sums = count // 2, []
    for y, x in np.ndindex(period, period):
        sites = slice(y, None, period), slice(x, None, period)
        near = kept[sites]
        halves = (odd[sites] / odds, (total[sites] - odd[sites]) / (count - odds))
        first, second = (_centred(half.astype(np.float32), near) for half in halves)
        sums.append(float((first * second).sum(dtype=np.float64) / max(1, near.sum())))
    return math.sqrt(max(0.0, float(np.mean(sums))))


def _centred(values: F32, near: npt.NDArray[np.bool_]) -> F32:
    """Return values without the means of their rows and columns; 0 where a pixel is hot."""
    values = np.where(near, values, np.float32(np.median(values)))
    values -= values.mean(axis=1, keepdims=True)
    values -= values.mean(axis=0, keepdims=True)
    return np.where(near, values, np.float32(0))


def _code_step(codes: npt.NDArray[np.int64]) -> int:
    """Return the greatest common divisor of the differences between the codes that occur."""
    occurring = np.flatnonzero(codes)
    if len(occurring) < 2:
        return 1
    return int(np.gcd.reduce(np.diff(occurring)))


def _fitted(histogram: npt.NDArray[np.int64], step: int, clipped: float) -> TukeyFit | None:
    try:
        above = clipped + 0.01 if clipped > _CLIPPED else 0.0
        return fit(histogram, _REACH * SUBDIVISIONS, step=step, above=above)
    except ValueError:
        return None


def _row_structure(means: F64, period: int) -> tuple[F64, float]:
    """Return the spectrum of the rows' offsets from frame to frame, and the correlation of neighbouring rows."""
    offsets = means - means.mean(axis=0)
    for phase in range(period):
        offsets[:, phase::period] -= offsets[:, phase::period].mean(axis=1, keepdims=True)
    power = (np.abs(np.fft.rfft(offsets, axis=1)) ** 2).mean(axis=0)[1:]
    variance = float((offsets**2).mean())
    if not variance:
        return np.ones_like(power), 0.0
    correlation = float((offsets[:, 1:] * offsets[:, :-1]).mean() / variance)
    return power / power.mean(), correlation
