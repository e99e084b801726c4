"""Colours and materials of the objects in scenes, with random variation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from darkprep.synth.renderer.materials import Material
from darkprep.synth.renderer.solid import Solid
from darkprep.synth.renderer.vectors import Array, Vec

Rng = np.random.Generator


_COLOURS = (
    "b3241c d4582a e0992b e9c83d 8aa53a 3f7a3a 1f6e63 2a7fa8 2b4f9a 57408f 8e3a78 c2476b "
    "6b3b25 a06a3e d9c7a3 efe9dd 2a2a2c 7d7f80 c9ccd0 943b31 446e8e 5e6b3c"
).split()
"""sRGB colours of painted, printed and dyed objects."""
_WALL_COLOURS = "d9d2c3 cfd6d8 e4dccb b9c4b5 c7b39a d8c0b4 a9b3c0 e6e4de b8a58e 93a39a".split()
_WOOD_COLOURS = (
    "6b4226 3a2213",
    "a9764a 6e4424",
    "caa06c 9a6e3e",
    "4a2d1c 26160d",
    "b98a5a 7d5530",
)


def srgb(code: str) -> Vec:
    """Return the linear reflectance of an sRGB colour given as hexadecimal digits, such as `b3241c`."""
    red, green, blue = (_srgb_to_linear(int(code[i : i + 2], 16) / 255.0) for i in (0, 2, 4))
    return (red, green, blue)


def _srgb_to_linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def choose(rng: Rng, choices: Sequence[str]) -> str:
    """Return one of the choices at random."""
    return choices[int(rng.integers(len(choices)))]


def choose_pair(rng: Rng, choices: Sequence[str]) -> tuple[Vec, Vec]:
    """Return the two linear colours of a randomly chosen pair of sRGB colours."""
    first, second = choose(rng, choices).split()
    return srgb(first), srgb(second)


def random_colour(rng: Rng) -> Vec:
    """Return a random linear colour, as of a painted or dyed object."""
    return varied(rng, srgb(choose(rng, _COLOURS)))


def varied(rng: Rng, colour: Vec, amount: float = 0.12) -> Vec:
    """Return a colour with small random changes of lightness and hue."""
    shade = math.exp(rng.normal(0, amount))
    red, green, blue = (min(0.92, c * shade * math.exp(rng.normal(0, amount / 2))) for c in colour)
    return (red, green, blue)


def scaled(colour: Vec, factor: float) -> Vec:
    """Return the colour times a factor."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def textured(
    rng: Rng,
    texture: str,
    colour: Vec,
    second_colour: Vec,
    size: float,
    *,
    specular: float = 0.0,
    shininess: float = 60.0,
    contrast: float = 1.0,
    emission: float = 0.0,
    rotated: bool = False,
) -> Material:
    """Return a textured material with a random offset in the texture."""
    return Material(
        colour=colour,
        second_colour=second_colour,
        texture=texture,
        size=size,
        offset=(float(rng.random()), float(rng.random())),
        specular=specular,
        shininess=shininess,
        contrast=contrast,
        emission=emission,
        rotated=rotated,
    )


def wooden(rng: Rng, size: float, *, specular: float = 0.1, texture: str = "wood") -> Material:
    """Return a wood material; with the texture `parquet` it is a wooden floor."""
    return textured(rng, texture, *choose_pair(rng, _WOOD_COLOURS), size, specular=specular)


def wall_material(rng: Rng, size: float) -> Material:
    """Return a random material: plaster, brick, tiles or stone; `size` is the height in metres of ten rows of bricks."""
    paint = varied(rng, srgb(choose(rng, _WALL_COLOURS)))
    kind = choose(rng, ("plaster", "plaster", "brick", "brick", "tile", "stone"))
    if kind == "brick":
        clay = choose(rng, ("8c4a35", "a0573c", "7a3f33", "b08a63"))
        return textured(rng, kind, varied(rng, srgb(clay)), srgb("b9ada0"), size)
    if kind == "tile":
        return textured(rng, kind, paint, scaled(paint, 0.35), size * 0.8, specular=0.15)
    return textured(rng, kind, paint, scaled(paint, 0.8), size)


def painted_wall(rng: Rng, size: float) -> Material:
    """Return painted plaster of a random colour."""
    paint = varied(rng, srgb(choose(rng, _WALL_COLOURS)))
    return textured(rng, "plaster", paint, scaled(paint, 0.86), size)


def tabletop(rng: Rng) -> Material:
    """Return a random material of a tabletop: wood, marble, cloth or leather."""
    kind = choose(rng, ("wood", "wood", "cloth", "marble", "leather"))
    if kind == "wood":
        return wooden(rng, 0.5, specular=0.22)
    if kind == "marble":
        return textured(
            rng, kind, srgb("d9d5cf"), srgb("6f6a66"), 0.6, specular=0.4, shininess=100.0
        )
    if kind == "cloth":
        dye = random_colour(rng)
        return textured(rng, kind, dye, scaled(dye, 0.6), 0.16)
    return textured(rng, kind, srgb("4a2a1a"), srgb("6b3f26"), 0.3, specular=0.25)


def colour_cells(rng: Rng, rows: int, columns: int) -> Array:
    """Return a grid of random colours, `(rows, columns, 3)`."""
    return np.array([[random_colour(rng) for _ in range(columns)] for _ in range(rows)], np.float32)


def grouped(rng: Rng, solids: Sequence[Solid]) -> list[Solid]:
    """Return the solids as one object; parts of an object cast no shadows on each other."""
    group = int(rng.integers(1, 2**62))
    return [dataclasses.replace(solid, group=group) for solid in solids]


def random_side(rng: Rng) -> float:
    """Return -1 (left) or 1 (right) at random."""
    return -1.0 if rng.random() < 0.5 else 1.0
