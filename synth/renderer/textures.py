"""Seamless procedural textures with mip levels: brick, wood, cloth, print, leaves and more.

A texture is the same for every scene and seed; materials choose its colours, scale, rotation and offset.
The trade-off: a texture is a square of 1024 texels, so its pattern repeats. In return it is computed only
once per process, in about 0.1 s, and a lookup takes nanoseconds, however detailed the texture is.

Each texel has two numbers: a mix in [0, 1] between the material's two colours, and a brightness around 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.floating[Any]]
"""float32 throughout; numpy's type stubs do not express its promotion rules."""
C64 = npt.NDArray[np.complex64]
I32 = npt.NDArray[np.int32]
Rng = np.random.Generator

SIDE = 1024
_LEVELS = 11
_SIZES = np.array([SIDE >> level for level in range(_LEVELS)], np.int32)
_STARTS = np.concatenate([[0], np.cumsum(_SIZES.astype(np.int64) ** 2)])[:-1].astype(np.int32)


class Texture:
    """The mip levels of a texture's mix and brightness, sampled trilinearly; the texture repeats with period 1."""

    def __init__(self, mix: Array, brightness: Array) -> None:
        # A texel is a complex number, so that one lookup returns both values.
        levels: list[C64] = [(mix + 1j * brightness).astype(np.complex64)]
        while levels[-1].shape[0] > 1:
            side = levels[-1].shape[0] // 2
            folded = levels[-1].reshape(side, 2, side, 2)
            levels.append(folded.mean(axis=(1, 3)).astype(np.complex64))
        self._texels: C64 = np.concatenate([level.ravel() for level in levels])

    def sample(self, u: Array, v: Array, footprint: Array) -> tuple[Array, Array]:
        """Return mix and brightness, each `(N,)`, at `(N,)` coordinates in periods of the texture.

        `footprint` is the width of a pixel in periods; detail finer than it is averaged.
        """
        level = np.clip(np.log2(np.maximum(footprint * SIDE, 0.5)), 0.0, _LEVELS - 1.01)
        whole = level.astype(np.int32)
        fine = self._bilinear(u, v, _SIZES.take(whole), _STARTS.take(whole))
        coarse = self._bilinear(u, v, _SIZES.take(whole + 1), _STARTS.take(whole + 1))
        fine += (coarse - fine) * (level - whole).astype(np.float32)
        return np.ascontiguousarray(fine.real), np.ascontiguousarray(fine.imag)

    def _bilinear(self, u: Array, v: Array, side: I32, start: I32) -> C64:
        """Return interpolated texels of the mip level with `side` texels that starts at index `start`."""
        x, y = u * side - np.float32(0.5), v * side - np.float32(0.5)
        x, y = x.astype(np.float32, copy=False), y.astype(np.float32, copy=False)
        left, top = np.floor(x), np.floor(y)
        x -= left
        y -= top
        column, row = left.astype(np.int32), top.astype(np.int32)
        mask = side - 1
        x0, x1 = column & mask, (column + 1) & mask
        y0, y1 = (row & mask) * side + start, ((row + 1) & mask) * side + start
        upper = self._texels.take(y0 + x0)
        upper += (self._texels.take(y0 + x1) - upper) * x
        lower = self._texels.take(y1 + x0)
        lower += (self._texels.take(y1 + x1) - lower) * x
        upper += (lower - upper) * y
        return np.asarray(upper)


@functools.cache
def texture(name: str) -> Texture:
    """Return the texture of the given name, one of NAMES; it is computed at its first use in a process."""
    rng = np.random.Generator(np.random.Philox(key=[0x7E87, NAMES.index(name)]))
    mix, brightness = _MAKERS[name](rng)
    return Texture(
        np.clip(mix, 0.0, 1.0).astype(np.float32), np.clip(brightness, 0.05, 2.5).astype(np.float32)
    )


# --- building blocks -----------------------------------------------------------------------------


def _spectral(rng: Rng, exponent: float, *, stretch: float = 1.0, lowest: float = 0.0) -> Array:
    """Return a seamless random field with mean 0, variance 1 and spectral amplitude 1/f^exponent.

    With `stretch` > 1, features are longer along x than along y. Frequencies below `lowest` periods per
    side are damped.
    """
    y = np.fft.fftfreq(SIDE, 1 / SIDE).astype(np.float32)[:, None]
    x = np.fft.rfftfreq(SIDE, 1 / SIDE).astype(np.float32)[None, :] * np.float32(stretch)
    frequency = np.sqrt(x * x + y * y)
    frequency[0, 0] = 1.0
    amplitude = frequency**-exponent * (1.0 - np.exp(-((frequency / max(lowest, 0.5)) ** 2)))
    amplitude[0, 0] = 0.0
    white = np.fft.rfft2(rng.standard_normal((SIDE, SIDE), np.float32))
    field = np.fft.irfft2(white * amplitude, (SIDE, SIDE)).astype(np.float32)
    return np.asarray(field / field.std(), np.float32)


def _smoothstep(low: float, high: float, value: Array) -> Array:
    """Return a smooth step in x: 0 below `low`, 1 above `high`."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), np.float32)


def _grid() -> tuple[Array, Array]:
    """Return coordinates y `(SIDE, 1)` and x `(1, SIDE)` in [0, 1)."""
    line = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE
    return line[:, None], line[None, :]


def _blocks(
    rng: Rng, rows: int, columns: int, *, gap: float, shift: bool
) -> tuple[Array, Array, Array]:
    """Return a pattern of rectangular blocks: the mask of joints, a random number per block, and the relief.

    `gap` is the joint's width as a share of a block's height.
    """
    y, x = _grid()
    row = np.floor(y * rows)
    moved = x * columns + (0.5 * (row % 2) if shift else 0.0) + 0.0 * y
    column = np.floor(moved) % columns
    in_y, in_x = np.abs(y * rows - row - 0.5) + 0.0 * x, np.abs(moved - np.floor(moved) - 0.5)
    wobble = 0.02 * _spectral(rng, 1.2)
    aspect = rows / columns
    edge = np.minimum(0.5 - in_y, (0.5 - in_x) * aspect).astype(np.float32) + wobble * gap * 4
    number = rng.random((rows, columns)).astype(np.float32)[row.astype(int), column.astype(int)]
    slope = _smoothstep(0.5 * gap, 1.6 * gap, edge)
    return 1.0 - _smoothstep(0.35 * gap, 0.75 * gap, edge), number, 0.75 + 0.25 * slope


# --- materials -----------------------------------------------------------------------------------

_Fields = tuple[Array, Array]


def _plaster(rng: Rng) -> _Fields:
    bumps = _spectral(rng, 0.7, lowest=12)
    return 0.5 + 0.22 * _spectral(rng, 1.5), 1.0 + 0.055 * bumps + 0.03 * _spectral(rng, 1.2)


def _stone(rng: Rng) -> _Fields:
    grains = _spectral(rng, 0.35, lowest=40)
    return 0.5 + 0.3 * grains, 1.0 + 0.14 * grains + 0.08 * _spectral(rng, 1.1)


def _marble(rng: Rng) -> _Fields:
    y, x = _grid()
    warp = _spectral(rng, 1.6)
    veins = np.abs(np.sin(2 * math.pi * (2 * x + y) + 2.2 * warp))
    fine = np.abs(np.sin(2 * math.pi * (x - 3 * y) + 3.0 * _spectral(rng, 1.4)))
    mix = 0.75 * (1 - _smoothstep(0.0, 0.35, veins)) + 0.35 * (1 - _smoothstep(0.0, 0.12, fine))
    return mix + 0.07 * warp, 1.0 + 0.03 * _spectral(rng, 0.9)


def _wood(rng: Rng, planks: int = 5) -> _Fields:
    y, x = _grid()
    row = np.floor(y * planks).astype(int) + np.zeros((1, SIDE), int)
    number = rng.random(planks).astype(np.float32)[row]
    warp = 0.6 * _spectral(rng, 1.7, stretch=5.0) + 4.0 * number
    rings = 0.5 + 0.5 * np.sin(2 * math.pi * (7 * y * planks / 2 + warp))
    pores = _spectral(rng, 0.5, stretch=26.0, lowest=24)
    calm = _smoothstep(-1.2, 1.4, _spectral(rng, 1.5, stretch=3.0))
    mix = 0.25 + 0.34 * rings * calm + 0.16 * pores + 0.25 * (number - 0.5)
    seam = np.abs(y * planks - np.round(y * planks)) + 0.0 * x
    light = (
        (0.9 + 0.2 * number) * (1.0 + 0.05 * pores) * (0.35 + 0.65 * _smoothstep(0.004, 0.02, seam))
    )
    return mix, light


def _brick(rng: Rng) -> _Fields:
    joint, number, relief = _blocks(rng, 14, 5, gap=0.10, shift=True)
    rough = _spectral(rng, 0.6, lowest=10)
    stains = _spectral(rng, 1.4)
    light = relief * (0.62 + 0.55 * number + 0.10 * rough + 0.08 * stains)
    return joint + 0.12 * (1 - joint) * rough, light * (1 - joint) + joint * (0.95 + 0.08 * rough)


def _tile(rng: Rng) -> _Fields:
    joint, number, relief = _blocks(rng, 8, 8, gap=0.035, shift=False)
    cloud = _spectral(rng, 1.3)
    mix = joint + (1 - joint) * (0.18 * number + 0.08 * cloud)
    return mix, relief * (0.94 + 0.1 * number + 0.02 * cloud)


def _parquet(rng: Rng) -> _Fields:
    mix, light = _wood(rng, planks=8)
    joint, number, relief = _blocks(rng, 8, 2, gap=0.03, shift=True)
    return mix + 0.35 * (number - 0.5), light * relief * (1 - 0.6 * joint) * (0.8 + 0.4 * number)


def _cloth(rng: Rng) -> _Fields:
    y, x = _grid()
    threads = 128
    warp, weft = np.sin(2 * math.pi * threads * x), np.sin(2 * math.pi * threads * y)
    over = np.where((np.floor(x * threads) + np.floor(y * threads)) % 2 > 0, warp**2, weft**2)
    slub = _spectral(rng, 0.6, stretch=12.0) + _spectral(rng, 0.6, stretch=1 / 12.0)
    return 0.35 * over + 0.12 * slub + 0.2, 0.78 + 0.32 * over + 0.05 * slub


def _leather(rng: Rng) -> _Fields:
    pebbles = np.abs(_spectral(rng, 0.8, lowest=30)) + 0.5 * np.abs(_spectral(rng, 0.9, lowest=18))
    crease = _smoothstep(0.0, 0.55, pebbles)
    return 0.3 + 0.2 * _spectral(rng, 1.5), 0.72 + 0.32 * crease


def _peel(rng: Rng) -> _Fields:
    dimples = _spectral(rng, 0.9, lowest=26)
    blush = _spectral(rng, 1.8)
    return 0.45 + 0.3 * blush, 1.0 + 0.045 * dimples


def _rug(rng: Rng) -> _Fields:
    half = SIDE // 2
    quarter = _smoothstep(-0.1, 0.1, _spectral(rng, 0.9, lowest=10)[:half, :half])
    quarter = np.maximum(quarter, quarter.T)
    mix = np.block([[quarter, quarter[:, ::-1]], [quarter[::-1], quarter[::-1, ::-1]]])
    pile = _spectral(rng, 0.1, lowest=90)
    return 0.08 + 0.84 * mix, 0.9 + 0.16 * pile + 0.05 * _spectral(rng, 1.2)


def _cloud(rng: Rng) -> _Fields:
    billow = _spectral(rng, 1.75)
    return _smoothstep(-0.3, 1.7, billow), 1.0 + 0.04 * _spectral(rng, 1.3)


def _print(rng: Rng) -> _Fields:
    """Return lines of text in invented glyphs, dark (mix 1) on paper (mix 0)."""
    page = np.zeros((SIDE, SIDE), np.float32)
    glyphs = [_glyph(rng) for _ in range(26)]
    for top in range(20, SIDE - 30, 32):
        x = 36 + (40 if rng.random() < 0.15 else 0)
        end = SIDE - 40 if rng.random() < 0.8 else int(rng.integers(SIDE // 3, SIDE - 80))
        if rng.random() < 0.07:
            continue
        while x < end - 150:
            for _ in range(int(rng.integers(2, 10))):
                glyph = glyphs[int(rng.integers(26))]
                page[top : top + 24, x : x + 14] = np.maximum(
                    page[top : top + 24, x : x + 14], glyph
                )
                x += 15
            x += 11
    return 0.9 * page[::-1], 1.0 + 0.015 * _spectral(rng, 0.4)


def _glyph(rng: Rng) -> Array:
    """Return a glyph similar to a letter, 24 x 14 texels: one or two stems, bars, sometimes a bowl."""
    y, x = np.mgrid[0:24, 0:14].astype(np.float32) + 0.5
    ink = np.zeros((24, 14), np.float32)
    tall = 3.0 if rng.random() < 0.35 else 8.0
    for stem in rng.choice([2.6, 11.0], size=int(rng.integers(1, 3)), replace=False):
        ink = np.maximum(ink, (np.abs(x - stem) < 1.3) & (y > tall) & (y < 19.0))
    for bar in rng.choice([8.8, 13.4, 18.2], size=int(rng.integers(1, 3)), replace=False):
        ink = np.maximum(ink, (np.abs(y - bar) < 0.9) & (x > 2.0) & (x < 11.6))
    if rng.random() < 0.5:
        ring = np.abs(np.hypot((x - 6.8) / 4.6, (y - 13.5) / 5.2) - 0.85)
        ink = np.maximum(ink, ring < 0.22)
    return np.asarray(ink, np.float32)


def _leaf(rng: Rng) -> _Fields:
    mix, light = np.zeros((2, SIDE, SIDE), np.float32)
    light += 0.16
    for depth in np.linspace(0.0, 1.0, 2400):
        _paint_leaf(
            rng, mix, light, float(depth), length=rng.uniform(26, 52), slim=rng.uniform(0.34, 0.5)
        )
    return mix, light


def _grass(rng: Rng) -> _Fields:
    mix, light = np.zeros((2, SIDE, SIDE), np.float32)
    light += 0.3
    for depth in np.linspace(0.0, 1.0, 3000):
        _paint_leaf(
            rng,
            mix,
            light,
            float(depth),
            length=rng.uniform(40, 80),
            slim=rng.uniform(0.05, 0.09),
            upright=0.5,
        )
    return mix, light


def _paint_leaf(
    rng: Rng,
    mix: Array,
    light: Array,
    depth: float,
    *,
    length: float,
    slim: float,
    upright: float = math.pi,
) -> None:
    """Paint one leaf over the fields at a random position; nearer leaves (depth 1) are brighter."""
    angle = rng.uniform(-upright, upright) + math.pi / 2
    c, s, half = math.cos(angle), math.sin(angle), length / 2
    high = int(half * (abs(s) + 1.2 * slim * abs(c))) + 2
    wide = int(half * (abs(c) + 1.2 * slim * abs(s))) + 2
    y = np.arange(-high, high + 1, dtype=np.float32)[:, None] / half
    x = np.arange(-wide, wide + 1, dtype=np.float32)[None, :] / half
    along, across = x * c + y * s, y * c - x * s
    beside = np.abs(across)
    outline = slim * (1 - along**2) * (1.15 - 0.35 * along)
    cover = np.clip((outline - beside) * half + 0.5, 0.0, 1.0) * (np.abs(along) < 1)
    brightness = (0.48 + 0.55 * depth) * (1 + rng.normal(0, 0.14))
    lit = (
        brightness
        * (1 + 0.25 * rng.uniform(-1, 1) * np.sign(across))
        * (1 + 0.25 * (beside < 0.03))
    )
    hue = float(np.clip(rng.normal(0.4, 0.25), 0, 1))
    rows = (int(rng.integers(SIDE)) + np.arange(-high, high + 1)) % SIDE
    columns = (int(rng.integers(SIDE)) + np.arange(-wide, wide + 1)) % SIDE
    where = np.ix_(rows, columns)
    light[where] += cover * (lit - light[where])
    mix[where] += cover * (hue - mix[where])


_MAKERS: dict[str, Callable[[Rng], _Fields]] = {
    "plaster": _plaster,
    "stone": _stone,
    "marble": _marble,
    "wood": _wood,
    "brick": _brick,
    "tile": _tile,
    "parquet": _parquet,
    "cloth": _cloth,
    "leather": _leather,
    "peel": _peel,
    "rug": _rug,
    "cloud": _cloud,
    "print": _print,
    "leaf": _leaf,
    "grass": _grass,
}

NAMES = tuple(_MAKERS)
"""The textures by name."""
