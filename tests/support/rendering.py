"""Whole rendered images of scenes."""

from __future__ import annotations

import numpy as np

from darkprep.synth.renderer.render import F32, render_tiles
from darkprep.synth.renderer.scene import Scene


def render(scene: Scene, size: tuple[int, int]) -> F32:
    """Return the image `(H, W, 3)` float32, linear sRGB, full scale 1."""
    image = np.empty((*size, 3), np.float32)
    for rows, columns, tile in render_tiles(scene, size):
        image[rows, columns] = tile
    return image
