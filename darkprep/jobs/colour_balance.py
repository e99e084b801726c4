"""Correct the tint of a picture that was restored by a network trained on another camera.

The trade-off: three factors, one per colour, so that what the network restored stays as it is; a tint that
differs within the picture remains. The reference is the file itself: the mean colours of large blocks of the
amplified mosaic, developed with the file's own white balance and matrix, are right even where single pixels are
noise.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from darkprep.pipeline.raw.colour import Colours, developed_light, linear_light
from darkprep.pipeline.raw.source import PackedFrame
from darkprep.shards.cfa import PLANE_COLOURS
from darkprep.shards.format import CELL, U16
from darkprep.trainer.picture import Bits, Pixels

F64 = npt.NDArray[np.float64]

_BLOCK = 16
"""Side of a block in packed pixels."""
_DARKEST, _BRIGHTEST = 0.002, 0.9
"""Blocks with a mean outside this range, in linear light, are not used."""
_MIN_BLOCKS = 16
_MIN_FACTOR, _MAX_FACTOR = 0.25, 4.0


def tint_factors(
    restored: U16, decoded: PackedFrame, colours: Colours, amplification: float
) -> F64 | None:
    """Return the factors of linear R, G, B, `(3,)`, that give a restored picture the mean colours of its file.

    `restored` is `(H, W, 3)` uint16 sRGB of the decoded frame. The brightness becomes that of the amplified file
    too. Returns None where too few blocks are neither black nor white.
    """
    wanted = _own_colours(decoded, colours, amplification)
    cell = CELL[decoded.cfa]
    found = np.stack(
        [
            _block_means(linear_light(np.ascontiguousarray(restored[::cell, ::cell, channel])))
            for channel in range(3)
        ]
    ).reshape(3, -1)
    usable = (found.max(axis=0) < _BRIGHTEST) & (wanted.max(axis=0) < _BRIGHTEST)
    usable &= (found.min(axis=0) > _DARKEST) & (wanted.min(axis=0) > _DARKEST)
    if usable.sum() < _MIN_BLOCKS:
        return None
    found, wanted = found[:, usable], wanted[:, usable]
    factors = (found * wanted).sum(axis=1) / (found * found).sum(axis=1)
    return np.asarray(np.clip(factors, _MIN_FACTOR, _MAX_FACTOR))


def with_tint(pixels: U16, factors: F64, bits: Bits) -> Pixels:
    """Return `(H, W, 3)` uint16 sRGB with linear R, G, B multiplied by `factors`, rounded to 8 or 16 bits."""
    dtype = np.uint8 if bits == 8 else np.uint16
    full = np.float32(np.iinfo(dtype).max)
    light = linear_light(np.arange(1 << 16, dtype=np.uint16))
    out = np.empty(pixels.shape, dtype)
    for channel, factor in enumerate(factors):
        curve = np.rint(developed_light(light * np.float32(factor)) * full).astype(dtype)
        out[..., channel] = curve[pixels[..., channel]]
    return out


def _own_colours(decoded: PackedFrame, colours: Colours, amplification: float) -> F64:
    """Return the mean linear sRGB of each block of the amplified mosaic, `(3, blocks)`, not clipped."""
    black = np.array(decoded.black)[:, None, None]
    planes = np.stack([_block_means(plane) for plane in decoded.planes])
    light = (planes - black) / (decoded.white - black) * amplification
    letters = np.array(list(PLANE_COLOURS[decoded.cfa]))
    camera = np.stack([light[letters == letter].mean(axis=0) for letter in "RGB"]).reshape(3, -1)
    camera *= (colours.gains / colours.gains.min())[:, None]
    return np.asarray(colours.to_srgb @ camera)


def _block_means(plane: npt.NDArray[np.generic]) -> F64:
    height, width = (side // _BLOCK * _BLOCK for side in plane.shape)
    blocks = plane[:height, :width].reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float64))
