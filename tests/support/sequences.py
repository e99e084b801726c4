"""What a loop over a spool was given: the number, the keys and a hash of the pixels of each batch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import xxhash
from torch import Tensor

Seen = tuple[int, list[str], str]


def hashed(
    index: int, keys: Iterable[str], low: Tensor | np.ndarray, gt: Tensor | np.ndarray
) -> Seen:
    digest = xxhash.xxh3_64()
    for pixels in (low, gt):
        digest.update(np.ascontiguousarray(pixels))
    return index, list(keys), digest.hexdigest()
