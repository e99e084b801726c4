"""The colours of a camera by name: its usual white balance and its matrix, from some of its photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from darkprep.pipeline.pairs.cameras import CAMERAS, camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.raw.colour import Colours, colours_of
from darkprep.pipeline.raw.reader import read_raw

_LOOKED_AT = 9
"""Photographs that a camera's usual white balance is taken from."""


def reference_colours(source: str, root: Path) -> Colours:
    """Returns the colours of a RAW file, or of a camera by name: the median white balance of some of its
    photographs below `root`, spread over them all, and their matrix.

    Raises DatasetError when there is neither such a camera's photograph nor such a file.
    """
    if source.lower() not in CAMERAS:
        return colours_of(read_raw(source), source)
    pairs = find_pairs(root, camera_named(source)).pairs
    step = -(-len(pairs) // _LOOKED_AT)
    paths = [str(root / pair.short) for pair in pairs[::step]]
    seen = [colours_of(read_raw(path), path) for path in paths]
    gains = np.exp(np.median(np.log([one.gains for one in seen]), axis=0))
    return Colours(gains=gains / gains[1], to_srgb=seen[0].to_srgb)
