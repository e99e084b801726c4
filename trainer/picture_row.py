"""Join several pictures side by side with white gaps, as evaluations and studies store them, and split them again."""

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
    """Join `(3, H, W)` pictures, each as `quantised` takes it, to one `(H, W', 3)` uint8 picture."""
    height = pictures[0].shape[1]
    gap = np.full((height, _GAP_PX, 3), _WHITE, dtype=np.uint8)
    parts = [part for picture in pictures for part in (gap, quantised(picture, 8))]
    row: Pixels8 = np.concatenate(parts[1:], axis=1, dtype=np.uint8)
    return row


def picture_file_name(pair: str) -> str:
    """Return the name of the file that holds the pictures of a pair, given by its id."""
    return f"{pair.replace('/', '_')}.png"


def split_row(row: Pixels8, count: int) -> list[Pixels8]:
    """Split a picture made by `side_by_side` into its `count` pictures, each `(H, W, 3)`."""
    step = (row.shape[1] + _GAP_PX) // count
    return [row[:, k * step : k * step + step - _GAP_PX] for k in range(count)]
