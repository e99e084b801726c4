"""Render a scene to an image, antialiased and with the blur of a lens.

A scene is a function from a direction to linear sRGB radiance, so images of any size show the same scene.
The trade-off: only edges get more than one ray per pixel, so fine texture relies on mip levels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from darkprep.synth.renderer.raycaster import RayCaster
from darkprep.synth.renderer.scene import Scene
from darkprep.synth.renderer.vectors import Array, put

F32 = npt.NDArray[np.float32]

TILE = (128, 256)
"""Rows and columns rendered at once: enough to spread the cost of a call over the pixels, few enough for
the processor's cache."""
_KERNEL = (0.056, 0.242, 0.404, 0.242, 0.056)
"""The point spread of lens, pixel and low-pass filter along one axis: a normal curve of 0.95 pixels,
which leaves half the contrast at 0.2 cycles per pixel, as sharp as cameras are at full aperture."""
_KERNEL_RADIUS = len(_KERNEL) // 2
_HALO = 4
"""Extra pixels rendered around a tile, for the blur and for edges of its outermost pixels. The number is
even, so that neighbouring tiles interpolate light between the same points."""
_EDGE_THRESHOLD = 0.07
"""A step in tone between neighbouring pixels from which on they get more rays."""
_EXTRA_RAYS = ((-0.33, -0.2), (0.05, 0.36), (0.3, -0.17))


def render_tiles(scene: Scene, size: tuple[int, int]) -> Iterator[tuple[slice, slice, F32]]:
    """Yield the image in tiles: the rows, the columns, and `(h, w, 3)` float32 linear sRGB with full scale 1."""
    caster = RayCaster(scene, size)
    for top in range(0, size[0], TILE[0]):
        for left in range(0, size[1], TILE[1]):
            rows = slice(top, min(top + TILE[0], size[0]))
            columns = slice(left, min(left + TILE[1], size[1]))
            yield rows, columns, _tile(caster, rows, columns)


def render_preview(scene: Scene, size: tuple[int, int]) -> F32:
    """Return radiance `(H, W, 3)` before exposure and lens blur, with one ray per pixel."""
    faint = dataclasses.replace(scene, exposure=1e-4)  # in the linear part of the film response
    ys, xs = np.divmod(np.arange(size[0] * size[1]), size[1])
    y, x = (ys + 0.5).astype(np.float32), (xs + 0.5).astype(np.float32)
    radiance = RayCaster(faint, size).cast(y, x) * np.float32(1e4)
    return np.ascontiguousarray(radiance.T.reshape(*size, 3), np.float32)


def _tile(caster: RayCaster, rows: slice, columns: slice) -> F32:
    """Return one tile of the image: rendered with a halo, with more rays at edges, then blurred."""
    y = np.arange(rows.start - _HALO, rows.stop + _HALO, dtype=np.float32) + np.float32(0.5)
    x = np.arange(columns.start - _HALO, columns.stop + _HALO, dtype=np.float32) + np.float32(0.5)
    ys, xs = np.repeat(y, x.size), np.tile(x, y.size)
    image = caster.cast(ys, xs, width=x.size)
    edges = np.flatnonzero(_edge_pixels(image.reshape(3, y.size, x.size)))
    if edges.size:
        extra = np.array(_EXTRA_RAYS, np.float32)
        more_y = (ys[edges] + extra[:, :1]).ravel()
        more_x = (xs[edges] + extra[:, 1:]).ravel()
        order = np.argsort(more_y, kind="stable")
        finer = np.empty((3, order.size), np.float32)
        finer[:, order] = caster.cast(more_y[order], more_x[order])
        put(image, edges, finer.reshape(3, len(extra), edges.size).mean(axis=1))
    return _blur(image.reshape(3, y.size, x.size))


def _edge_pixels(image: Array) -> npt.NDArray[np.bool_]:
    """Return which pixels differ in tone from a neighbour, `(h * w,)` bool."""
    tone = np.sqrt(np.maximum(image.max(axis=0), 0.0))
    edges = np.zeros(tone.shape, bool)
    down = np.abs(np.diff(tone, axis=0)) > _EDGE_THRESHOLD
    edges[:-1] |= down
    edges[1:] |= down
    right = np.abs(np.diff(tone, axis=1)) > _EDGE_THRESHOLD
    edges[:, :-1] |= right
    edges[:, 1:] |= right
    return edges.ravel()


def _blur(image: Array) -> F32:
    """Convolve a tile with the point spread function and remove its halo; return `(h, w, 3)`."""
    spare = _HALO - _KERNEL_RADIUS
    image = image[:, spare:-spare, spare:-spare]
    high, wide = image.shape[1] - 2 * _KERNEL_RADIUS, image.shape[2] - 2 * _KERNEL_RADIUS
    weights = [np.float32(w) for w in _KERNEL]
    across = weights[0] * image[:, :high]
    for k in range(1, len(_KERNEL)):
        across += weights[k] * image[:, k : k + high]
    both = weights[0] * across[:, :, :wide]
    for k in range(1, len(_KERNEL)):
        both += weights[k] * across[:, :, k : k + wide]
    return np.ascontiguousarray(both.transpose(1, 2, 0), np.float32)
