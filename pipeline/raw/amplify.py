"""The amplification of a short exposure: the exposure ratio, the paper's estimate, or a constant.

The trade-off: the estimate sums over a histogram of the integer codes instead of over pixels, which gives
the same number hundreds of times faster, but is possible for integer codes only.

The factor is applied to the network's input on the device (trainer/stream.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from darkprep.shards.errors import OptionError
from darkprep.shards.format import U16

F64 = npt.NDArray[np.float64]

Amplification = Literal["ratio", "estimate"] | float
"""How an amplification is found: by the exposure ratio, by the paper's estimate, or a constant factor."""
MAX_AMPLIFICATION = 1e6
"""Largest constant factor: it brings one code of a 16-bit sensor to 15 times full scale."""

DEFAULT_MULTIPLIER = 5.0
"""The paper's m when the user gives none: the value of its training code. Its demo uses 1, which is
four to five times too dark for a network that was trained on exposure ratios."""
MIN_ESTIMATE, MAX_ESTIMATE = 1.0, 300.0
"""The estimate is clipped to this range (REDIRT, get_na)."""

_CODES = 1 << 16
_CHUNK = 1 << 16
"""Codes counted at a time: the widened copy that bincount makes then stays in the cache."""


def parse_amplification(text: str, *, has_ratio: bool = True) -> Amplification:
    """Parse `ratio`, `estimate` or a number. Raises OptionError for other texts.

    Without `has_ratio`, for a file that has no long exposure, `ratio` is refused too.
    """
    if text == "ratio" and has_ratio:
        return "ratio"
    if text == "estimate":
        return "estimate"
    try:
        factor = float(text)
    except ValueError:
        factor = -1.0
    if not 0 < factor <= MAX_AMPLIFICATION:
        number = f"a positive number up to {MAX_AMPLIFICATION:g}"
        choices = f"estimate, {number} or ratio" if has_ratio else f"estimate or {number}"
        why = " (a single file has no exposure ratio)" if text == "ratio" else ""
        raise OptionError(f"amplify must be {choices}, not {text!r}{why}")
    return factor


def exposure_ratio(
    *,
    short_s: float,
    long_s: float,
    short_iso: float = 1.0,
    long_iso: float = 1.0,
    maximum: float = float("inf"),
) -> float:
    """Return the ratio of the light that the long and the short exposure collect, rounded to six decimals.

    SID: the ratio of the times (both photographs have the same ISO), at most 300. ELD: the ratio of ISO
    times exposure time, without a limit. `maximum` is this limit. The ratio is rounded because files store
    times as 1/30 or 0.033. Raises ValueError for a time or ISO that is not positive.
    """
    if not all(0 < value < float("inf") for value in (short_s, long_s, short_iso, long_iso)):
        raise ValueError("exposure times and ISO must be positive")
    return round(min(long_iso * long_s / (short_iso * short_s), maximum), 6)


def estimate_amplification(
    mosaic: U16,
    black: float | Sequence[float] | npt.NDArray[np.floating],
    white: float,
    m: float = 1.0,
) -> float:
    """Return the paper's estimate: the factor that brings the mean, weighted towards dark pixels, to 0.01 * m.

    With x = max(code - black, 0) / (white - black) and a weight W(x) that falls from 1 in the
    darkest of 127 bins to 1e-5 in the brightest (bins spaced by powers of two, 0 from x = 1 on):
    A = 0.01 * m * sum W(x) / sum x W(x), clipped to [1, 300] (REDIRT, CVPR 2021; its code's get_na).

    `mosaic` holds uint16 codes: `(H, W)` with one black level or an array `(p, p)` of them per site
    of the colour filter array; or packed `(C, h, w)` with one black level or one per plane.

    An all-black frame, whose scene may be arbitrarily dark, gives 300. One without a single
    pixel below white gives 1. Never NaN; nine significant digits. Raises ValueError for other dtypes
    and shapes, for white that is not above black, and for m that is not positive and finite.
    """
    if mosaic.dtype != np.uint16:
        raise ValueError(f"mosaic must be uint16 codes, not {mosaic.dtype}")
    if not 0 < m < float("inf"):
        raise ValueError(f"m must be positive and finite, not {m}")
    weights = light = 0.0
    for level, parts in _by_black(mosaic, np.asarray(black, np.float64)).items():
        counts = _histogram(parts)
        codes = np.flatnonzero(counts)
        x, weight = _weighted(codes, level, float(white))
        weights += float(np.sum(counts[codes] * weight))
        light += float(np.sum(counts[codes] * x * weight))
    if light == 0:
        return MAX_ESTIMATE if weights > 0 else MIN_ESTIMATE
    estimate = min(max(0.01 * m * weights / light, MIN_ESTIMATE), MAX_ESTIMATE)
    return float(f"{estimate:.9g}")  # the last bits of a sum and of a power differ between machines


def _by_black(mosaic: U16, black: F64) -> dict[float, list[U16]]:
    """Divide a mosaic into views with one black level each; most files give one view."""
    if black.size and (black == black.flat[0]).all() and black.ndim < 3:
        return {float(black.flat[0]): [mosaic]}
    groups: dict[float, list[U16]] = {}
    if mosaic.ndim == 3 and black.shape == (len(mosaic),):
        for level, plane in zip(black, mosaic, strict=True):
            groups.setdefault(float(level), []).append(plane)
    elif mosaic.ndim == 2 and black.ndim == 2 and black.size:
        rows, columns = black.shape
        for (y, x), level in np.ndenumerate(black):
            groups.setdefault(float(level), []).append(mosaic[y::rows, x::columns])
    else:
        raise ValueError(f"black of shape {black.shape} does not fit a mosaic of {mosaic.shape}")
    return groups


def _histogram(parts: list[U16]) -> npt.NDArray[np.int64]:
    """Count how often each of the 65536 codes occurs."""
    counts = np.zeros(_CODES, np.int64)
    for part in parts:
        for chunk in _chunks(part):
            counted = np.bincount(chunk)
            counts[: len(counted)] += counted
    return counts


def _chunks(part: U16) -> Iterator[U16]:
    """Yield flat arrays of about `_CHUNK` codes each."""
    rows = part.reshape(-1, part.shape[-1])
    step = max(1, _CHUNK // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        yield rows[start : start + step].ravel()


@cache
def _edges() -> tuple[npt.NDArray[np.float32], F64]:
    """Return the 128 bin edges, and the 127 weights followed by weight 0 for values beyond the last edge."""
    k = np.arange(128, dtype=np.float64)
    edges = (np.exp2(8 * k / 127) - 1) / 255
    weights = 10 ** (-5 * k[:127] / 126)
    return edges.astype(np.float32), np.append(weights, 0.0)


def _weighted(codes: npt.NDArray[np.intp], black: float, white: float) -> tuple[F64, F64]:
    """Return x and W(x) of the paper for each raw value, with x in 32 bits as in the authors' program."""
    if not white > black:
        raise ValueError(f"white {white:g} must be above black {black:g}")
    x = np.maximum(codes.astype(np.float32) - np.float32(black), 0) / np.float32(white - black)
    edges, weights = _edges()
    return x.astype(np.float64), weights[np.searchsorted(edges, x, side="right") - 1]
