"""Refuse decoded codes that are not in the file: LibRaw decodes a gap or an early end of a file without an error.

The trade-off: only codes that no sensor can produce count as damage. A few missing rows are not detected
here, nor missing rows of zeros beside a dark part of a frame whose black level is 0. Most damaged files are
refused earlier, because their image data end too early (`image_data.py`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from darkprep.shards.errors import RawError
from darkprep.shards.format import U16

_MAX_ZEROS = 0.01
_MAX_EQUAL = 0.999
_BLACK_ABOVE_NOISE = 64
"""A black level from which noise never reaches 0: 20 sigma for the noisiest camera known."""
_MAX_REPEATED = 0.02
_MIN_REPEATED_ROWS = 8
_SATURATED = 0.9
"""Share of the range from black to white above which rows may be equal because they are overexposed."""
_SAMPLED_COLUMNS = 64
_REPLACE = "its image data is damaged; copy it again from its source"


def check_codes(path: str, mosaic: U16, black: npt.NDArray[np.float32], white: int) -> None:
    """Raise RawError for a mosaic `(H, W)` that is all zeros, all one value, or has rows that repeat each other."""
    zeros = 0.0
    if black.min() >= _BLACK_ABOVE_NOISE:
        zeros = 1 - np.count_nonzero(mosaic) / mosaic.size
    if zeros > _MAX_ZEROS:
        raise RawError(
            path, f"{zeros:.0%} of its pixels are 0 though black is {black.min():g}: {_REPLACE}"
        )
    rows = mosaic[::17]  # an odd step, so that rows of both parities are counted
    # If nearly all pixels are equal, nearly all of every eighth column are; counting the others takes milliseconds.
    share = _largest_share(rows[:, ::8])
    if share > 1 - 8 * (1 - _MAX_EQUAL):
        share = _largest_share(rows)
    if share > _MAX_EQUAL:
        if np.median(rows) > black.max() + _SATURATED * (white - black.max()):
            raise RawError(
                path,
                f"{share:.1%} of its pixels are saturated: the picture is overexposed; use one with a shorter exposure time",
            )
        raise RawError(
            path, f"{share:.1%} of its pixels have one value: the picture is blank, or {_REPLACE}"
        )
    for first, end in _repeated_rows(mosaic):
        if not _may_be_a_photograph(mosaic, first, end, black, white):
            raise RawError(
                path, f"rows {first} to {end - 1} of {len(mosaic)} repeat the one above: {_REPLACE}"
            )


def _largest_share(codes: U16) -> float:
    """Return the share of the most frequent code."""
    return float(np.bincount(codes.ravel()).max() / codes.size)


def _repeated_rows(mosaic: U16) -> list[tuple[int, int]]:
    """Return first and last + 1 of each long run of rows that are equal to the row, or to the two rows, above.

    A mosaic that repeats itself from top to bottom is a test chart, not damage, and gives no runs.
    """
    runs = []
    least = max(_MIN_REPEATED_ROWS, int(_MAX_REPEATED * len(mosaic)))
    middle = mosaic.shape[1] // 2
    sample = mosaic[:, max(0, middle - _SAMPLED_COLUMNS) : middle]
    for period in (1, 2):
        equal = (sample[period:] == sample[:-period]).all(axis=1)
        edges = np.flatnonzero(np.diff(equal, prepend=False, append=False))
        for first, end in zip(edges[::2] + period, edges[1::2] + period, strict=True):
            is_long = least <= end - first < len(mosaic) - period
            if is_long and np.array_equal(mosaic[first:end], mosaic[first - period : end - period]):
                runs.append((int(first), int(end)))
    return runs


def _may_be_a_photograph(
    mosaic: U16, first: int, end: int, black: npt.NDArray[np.float32], white: int
) -> bool:
    """Return whether equal rows may be real: overexposed, or so dark that a black level of 0 clips all noise."""
    lowest = float(black.min())
    run = mosaic[first:end]
    if run[0].min() >= lowest + _SATURATED * (white - lowest):
        return True
    if lowest > 0 or run.any():
        return False
    before = mosaic[max(0, first - 1 - _MIN_REPEATED_ROWS) : first - 1]
    after = mosaic[end : end + _MIN_REPEATED_ROWS]
    return not any(part.size and np.count_nonzero(part) > part.size / 2 for part in (before, after))
