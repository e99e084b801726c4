"""Several pictures in one, side by side with white gaps: how evaluations and studies store what they compare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from darkprep.shards.format import U16
from darkprep.trainer.picture import quantised

_GAP_PX = 8
_WHITE = 255

Pixels8 = npt.NDArray[np.uint8]


def side_by_side(pictures: Sequence[npt.NDArray[np.float32] | U16]) -> Pixels8:
    """Return `(3, H, W)` pictures, as `quantised` takes them, as one `(H, W', 3)` uint8."""
    height = pictures[0].shape[1]
    gap = np.full((height, _GAP_PX, 3), _WHITE, dtype=np.uint8)
    parts = [part for picture in pictures for part in (gap, quantised(picture, 8))]
    row: Pixels8 = np.concatenate(parts[1:], axis=1, dtype=np.uint8)
    return row


def split_row(row: Pixels8, count: int) -> list[Pixels8]:
    """Return the `count` pictures, `(H, W, 3)`, of a row that `side_by_side` made."""
    step = (row.shape[1] + _GAP_PX) // count
    return [row[:, k * step : k * step + step - _GAP_PX] for k in range(count)]
