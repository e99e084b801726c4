"""The colours of a camera (typical white balance and colour matrix), from some of its photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from darkprep.pipeline.pairs.cameras import CAMERAS, camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.raw.colour import Colours, colours_of
from darkprep.pipeline.raw.reader import read_raw

_SAMPLED = 9
"""Photographs whose median white balance is taken."""


def reference_colours(source: str, root: Path) -> Colours:
    """Return the colours of a RAW file, or of a camera given by name.

    For a camera: the median white balance of photographs that are spread evenly over those below `root`,
    and their colour matrix. Raises DatasetError if there is no photograph of the camera, RawError for a
    file that cannot be used.
    """
    if source.lower() not in CAMERAS:
        return colours_of(read_raw(source), source)
    pairs = find_pairs(root, camera_named(source)).pairs
    step = -(-len(pairs) // _SAMPLED)
    paths = [str(root / pair.short) for pair in pairs[::step]]
    colours = [colours_of(read_raw(path), path) for path in paths]
    gains = np.exp(np.median(np.log([one.gains for one in colours]), axis=0))
    return Colours(gains=gains / gains[1], to_srgb=colours[0].to_srgb)
