"""Small objects that lie or stand on a table."""

from __future__ import annotations

import math

import numpy as np

from darkprep.synth.renderer.materials import Material
from darkprep.synth.renderer.solid import Solid
from darkprep.synth.renderer.solids import Box, Ellipsoid, Frustum, Sheet
from darkprep.synth.renderer.vectors import Vec
from darkprep.synth.scenes.materials import (
    Rng,
    choose,
    choose_pair,
    grouped,
    random_colour,
    scaled,
    srgb,
    textured,
    varied,
)

_FRUIT_COLOURS = (
    "b3241c d9a53a",
    "d9761f e29a35",
    "7f9a2a c2b23c",
    "e3c33a b99a2a",
    "4a1f3d 6d2f52",
)
_CHART_COLOURS = (
    "735244 c29682 627a9d 576c43 8580b1 67bdaa d67e2c 505ba6 c15a63 5e3c6c 9dbc40 e0a32e "
    "383d96 469449 af363c e7c71f bb5695 0885a1 f3f3f2 c8c8c8 a0a0a0 7a7a79 555555 343434"
).split()
"""24 patches similar to those of photographers' colour charts."""


def colour_chart(corner: Vec, along: Vec, up: Vec, patch: float) -> Sheet:
    """Return a colour chart of 4 x 6 patches; `along` and `up` are unit vectors."""
    colours = np.array([srgb(code) for code in _CHART_COLOURS], np.float32).reshape(4, 6, 3)
    card = Material(
        colour=srgb("1c1c1c"),
        second_colour=srgb("1c1c1c"),
        cells=np.ascontiguousarray(colours[::-1]),
        cell_size=(patch, patch),
        border=0.14 * patch,
    )
    return Sheet(
        material=card,
        corner=corner,
        along=scaled(along, 6 * patch),
        up=scaled(up, 4 * patch),
        casts_shadow=False,
    )


def fruit(rng: Rng, x: float, z: float) -> list[Solid]:
    """Return a fruit such as an apple, an orange or a plum."""
    first, second = choose_pair(rng, _FRUIT_COLOURS)
    r = rng.uniform(0.032, 0.046)
    skin = textured(rng, "peel", first, second, 0.09, specular=0.35, shininess=90.0)
    body = Ellipsoid(material=skin, at=(x, r * 0.95, z), radii=(r, r * rng.uniform(0.88, 1.02), r))
    twig = Material(colour=srgb("3b2a18"))
    stalk = Frustum(
        material=twig,
        base=(x, 1.8 * r, z),
        height=0.3 * r,
        bottom_radius=0.002,
        top_radius=0.003,
        casts_shadow=False,
    )
    return [body, stalk]


def ball(rng: Rng, x: float, z: float) -> list[Solid]:
    """Return a shiny ball."""
    r = rng.uniform(0.03, 0.055)
    lacquer = Material(
        colour=random_colour(rng), specular=rng.uniform(0.7, 1.0), shininess=rng.uniform(120, 300)
    )
    return [Ellipsoid(material=lacquer, at=(x, r, z), radii=(r, r, r))]


def bottle(rng: Rng, x: float, z: float) -> list[Solid]:
    """Return a labelled bottle."""
    tint = srgb(choose(rng, ("1c4024", "4a2812", "16345a", "50401f", "b9c4c0")))
    glass = Material(colour=tint, specular=0.9, shininess=250.0)
    label = textured(rng, "print", srgb("e8e0c8"), random_colour(rng), 0.10)
    cork = Material(colour=srgb(choose(rng, ("b3241c", "c9a877", "2a2a2c"))), specular=0.2)
    r, h = rng.uniform(0.028, 0.040), rng.uniform(0.13, 0.19)
    neck = 0.38 * r
    parts = [
        Frustum(material=glass, base=(x, 0, z), height=h, bottom_radius=r, top_radius=r),
        Frustum(
            material=label,
            base=(x, 0.25 * h, z),
            height=0.5 * h,
            bottom_radius=1.01 * r,
            top_radius=1.01 * r,
        ),
        Frustum(material=glass, base=(x, h, z), height=0.05, bottom_radius=r, top_radius=neck),
        Frustum(
            material=glass, base=(x, h + 0.05, z), height=0.055, bottom_radius=neck, top_radius=neck
        ),
        Frustum(
            material=cork,
            base=(x, h + 0.105, z),
            height=0.018,
            bottom_radius=0.42 * r,
            top_radius=0.42 * r,
        ),
    ]
    return grouped(rng, parts)


def mug(rng: Rng, x: float, z: float) -> list[Solid]:
    """Return a mug of coffee."""
    glaze = random_colour(rng)
    ware = textured(rng, "marble", glaze, scaled(glaze, 0.8), 0.2, specular=0.5, shininess=150.0)
    r, h = rng.uniform(0.036, 0.045), rng.uniform(0.075, 0.1)
    coffee = Material(colour=srgb("24140a"), specular=0.5)
    handle = Ellipsoid(
        material=ware, at=(x + 1.05 * r, h * 0.55, z), radii=(0.5 * r, 0.33 * h, 0.16 * r)
    )
    parts = [
        Frustum(material=ware, base=(x, 0, z), height=h, bottom_radius=0.86 * r, top_radius=r),
        Frustum(
            material=coffee,
            base=(x, h, z),
            height=0.0006,
            bottom_radius=0.9 * r,
            top_radius=0.9 * r,
        ),
        handle,
    ]
    return grouped(rng, parts)


def books(rng: Rng, x: float, z: float, rotation: float) -> list[Solid]:
    """Return a pile of books with their spines to the front."""
    y, pile = 0.0, list[Solid]()
    for _ in range(int(rng.integers(2, 6))):
        half = (rng.uniform(0.075, 0.105), rng.uniform(0.008, 0.02), rng.uniform(0.055, 0.075))
        pile += _book(rng, (x, y + half[1], z), half, rotation + rng.normal(0, 0.12))
        y += 2 * half[1]
    return pile


def _book(rng: Rng, at: Vec, half_size: Vec, rotation: float) -> list[Solid]:
    cloth = textured(
        rng, "print", random_colour(rng), varied(rng, srgb("e9c83d")), 0.11, specular=0.06
    )
    paper = textured(rng, "wood", srgb("e6dcc3"), srgb("c9bda0"), 0.05, contrast=0.4)
    x, y, z = at
    c, s = math.cos(rotation), math.sin(rotation)
    lid, spine = (half_size[0], 0.0013, half_size[2]), (half_size[0], half_size[1], 0.0015)
    pages = (half_size[0] - 0.003, half_size[1] - 0.0026, half_size[2] - 0.002)
    back = (x + s * half_size[2], y, z + c * half_size[2])
    parts = [
        Box(material=paper, at=at, half_size=pages, rotation=rotation),
        Box(
            material=cloth,
            at=(x, y - half_size[1] + 0.0013, z),
            half_size=lid,
            rotation=rotation,
            casts_shadow=False,
        ),
        Box(material=cloth, at=(x, y + half_size[1] - 0.0013, z), half_size=lid, rotation=rotation),
        Box(material=cloth, at=back, half_size=spine, rotation=rotation, casts_shadow=False),
    ]
    return grouped(rng, parts)


def candle(rng: Rng, x: float, z: float) -> list[Solid]:
    """Return the solids of a burning candle; the last one is its flame."""
    h = rng.uniform(0.06, 0.13)
    wax = Material(colour=varied(rng, srgb("eadfc6")), specular=0.15)
    wick = Material(colour=srgb("1a1512"))
    flame = Material(colour=(1.0, 0.62, 0.24), emission=26.0)
    return [
        Frustum(material=wax, base=(x, 0, z), height=h, bottom_radius=0.022, top_radius=0.021),
        Frustum(
            material=wick,
            base=(x, h, z),
            height=0.01,
            bottom_radius=0.0012,
            top_radius=0.001,
            casts_shadow=False,
        ),
        Ellipsoid(material=flame, at=(x, h + 0.022, z), radii=(0.0055, 0.015, 0.0055)),
    ]


def printed_page(rng: Rng, at: Vec, half_size: tuple[float, float], rotation: float) -> Solid:
    """Return a printed page lying flat."""
    paper = textured(
        rng, "print", varied(rng, srgb("dcd7ca"), 0.05), srgb("26262a"), rng.uniform(0.14, 0.24)
    )
    return Box(
        material=paper,
        at=at,
        half_size=(half_size[0], 0.0006, half_size[1]),
        rotation=rotation,
        bevel=0.0002,
    )


def pencil(rng: Rng, x: float, z: float) -> list[Solid]:
    """Return a pencil lying flat."""
    turn = rng.uniform(-math.pi, math.pi)
    c, s = math.cos(turn), math.sin(turn)
    paint = Material(colour=random_colour(rng), specular=0.5, shininess=80.0)
    wood, lead = Material(colour=srgb("d8b383")), Material(colour=srgb("26262a"))
    y = 0.009
    return [
        Box(
            material=paint,
            at=(x, y, z),
            half_size=(0.07, 0.0038, 0.0038),
            rotation=turn,
            bevel=0.003,
        ),
        Box(
            material=wood,
            at=(x + c * 0.077, y, z - s * 0.077),
            half_size=(0.007, 0.0028, 0.0028),
            rotation=turn,
            bevel=0.002,
        ),
        Box(
            material=lead,
            at=(x + c * 0.087, y, z - s * 0.087),
            half_size=(0.003, 0.0012, 0.0012),
            rotation=turn,
            casts_shadow=False,
        ),
    ]


def coin(rng: Rng, x: float, z: float) -> list[Solid]:
    """Return a coin."""
    metal = srgb(choose(rng, ("b87a4b", "c9b06a", "b9bcc0")))
    face = textured(rng, "leather", scaled(metal, 0.8), metal, 0.06, specular=0.8, shininess=40.0)
    r = rng.uniform(0.009, 0.013)
    return [Frustum(material=face, base=(x, 0.004, z), height=0.002, bottom_radius=r, top_radius=r)]
