"""A living-room scene."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from darkprep.synth.renderer.materials import Material
from darkprep.synth.renderer.scene import Light, Scene
from darkprep.synth.renderer.solid import Solid
from darkprep.synth.renderer.solids import Box, Ellipsoid, Frustum, Sheet
from darkprep.synth.scenes import objects
from darkprep.synth.scenes.materials import (
    Rng,
    choose,
    colour_cells,
    grouped,
    painted_wall,
    random_colour,
    random_side,
    scaled,
    srgb,
    textured,
    wall_material,
    wooden,
)


def living_room(rng: Rng) -> Scene:
    """Return a living room: bookcase, sofa, rug, lamp, pictures, sun through the window."""
    side = random_side(rng)
    half, rear, front, high = rng.uniform(2.1, 2.6), -2.3, 4.3, 2.7
    wall = painted_wall(rng, 1.2)
    back = wall_material(rng, 1.3) if rng.random() < 0.5 else wall
    floor = wooden(rng, 1.1, specular=0.18, texture="parquet")
    ceiling = Material(colour=srgb("e8e6e0"), texture="plaster", second_colour=srgb("dddad2"))
    wide, deep = (2 * half, 0.0, 0.0), (0.0, 0.0, front - rear)
    solids: list[Solid] = [
        Sheet(material=floor, corner=(-half, 0, rear), along=wide, up=deep),
        Sheet(material=ceiling, corner=(-half, high, rear), along=wide, up=deep),
        Sheet(material=back, corner=(-half, 0, rear), along=wide, up=(0, high, 0)),
        Sheet(material=wall, corner=(-half, 0, rear), along=deep, up=(0, high, 0)),
        Sheet(material=wall, corner=(half, 0, rear), along=deep, up=(0, high, 0)),
        *_furniture(rng, half, rear, side),
        *_window(side * (half - 0.01), (-1.35, 0.15), (0.95, 2.25)),
    ]
    portal = Sheet(
        material=wall, corner=(side * half, 0.95, -1.35), along=(0, 0, 1.5), up=(0, 1.3, 0)
    )
    sun = Light(
        at=(side, rng.uniform(0.5, 0.9), rng.uniform(-0.1, 0.4)),
        sun=True,
        colour=scaled((1.0, 0.9, 0.74), 3.5),
        softness=0.012,
        portal=portal,
        panes=(2, 2),
    )
    daylight = Light(
        at=(side * (half - 0.3), 1.6, -0.3), colour=scaled((0.85, 0.95, 1.1), 1.6), softness=0.5
    )
    bulb = Light(
        at=(-side * (half - 0.5), 1.55, rear + 0.5),
        colour=scaled((1.0, 0.72, 0.42), 0.55),
        softness=0.15,
    )
    return Scene(
        eye=(rng.uniform(-0.7, 0.7), rng.uniform(1.25, 1.6), 3.3),
        target=(rng.uniform(-0.3, 0.3), 1.0, rear),
        field_of_view=math.radians(rng.uniform(50, 58)),
        solids=tuple(solids),
        lights=(sun, daylight, bulb),
        ambient=((0.20, 0.20, 0.21), (0.17, 0.145, 0.12)),
        occlusion_range=0.7,
        kelvin=rng.uniform(3800, 5000),
    )


def _furniture(rng: Rng, half: float, rear: float, side: float) -> list[Solid]:
    rug = textured(rng, "rug", random_colour(rng), random_colour(rng), rng.uniform(1.2, 1.8))
    solids: list[Solid] = [
        *_bookcase(rng, x=side * (half - 1.0), z=rear + 0.17),
        *_sofa(rng, x=-side * 0.35, z=rear + 0.75),
        Box(
            material=rug,
            at=(-side * 0.2, 0.008, 0.35),
            half_size=(1.15, 0.008, 0.8),
            rotation=rng.normal(0, 0.1),
        ),
        *_coffee_table(rng, -side * 0.25, 0.2),
        *_floor_lamp(-side * (half - 0.5), rear + 0.5),
    ]
    for x in (-side * 0.8, -side * 0.05):
        solids += _framed_picture(rng, x, rng.uniform(1.5, 1.75), rear)
    return solids


def _framed_picture(rng: Rng, x: float, y: float, wall: float) -> list[Solid]:
    """Return a framed picture on a wall; `wall` is the z of the wall."""
    w, h = rng.uniform(0.22, 0.3), rng.uniform(0.2, 0.3)
    frame = Box(
        material=wooden(rng, 0.4, specular=0.3), at=(x, y, wall + 0.015), half_size=(w, h, 0.015)
    )
    if rng.random() < 0.5:
        n = int(rng.integers(3, 7))
        art = Material(
            colour=srgb("efe9dd"),
            second_colour=srgb("efe9dd"),
            cells=colour_cells(rng, n, n),
            cell_size=(1.72 * w / n, 1.72 * h / n),
            border=0.012 if rng.random() < 0.5 else 0.0,
            texture="cloth",
            size=0.1,
            contrast=0.6,
        )
    else:
        motif = choose(rng, ("cloud", "marble", "leaf"))
        art = textured(rng, motif, random_colour(rng), random_colour(rng), rng.uniform(0.5, 1.2))
    canvas = Sheet(
        material=art,
        corner=(x - 0.86 * w, y - 0.86 * h, wall + 0.031),
        along=(1.72 * w, 0, 0),
        up=(0, 1.72 * h, 0),
        casts_shadow=False,
    )
    return grouped(rng, [frame, canvas])


def _bookcase(rng: Rng, x: float, z: float) -> list[Solid]:
    """Return a bookcase full of books."""
    wood = wooden(rng, 0.8)
    w, d, h = 0.6, 0.15, 2.0
    solids: list[Solid] = [
        Box(material=wood, at=(x + side * w, h / 2, z), half_size=(0.015, h / 2, d))
        for side in (-1, 1)
    ]
    solids.append(
        Box(
            material=wood,
            at=(x, h / 2, z - d + 0.01),
            half_size=(w, h / 2, 0.008),
            casts_shadow=False,
        )
    )
    for level in np.linspace(0.08, h, 6).tolist():
        solids.append(Box(material=wood, at=(x, level, z), half_size=(w, 0.012, d)))
        if level < h - 0.1:
            solids += _row_of_books(rng, (x - w + 0.03, x + w - 0.03), level + 0.012, z)
    return solids


def _row_of_books(rng: Rng, span: tuple[float, float], y: float, z: float) -> list[Solid]:
    """Return the books of one shelf; adjacent books of equal height are one box with several spines."""
    row: list[Solid] = []
    x, right = span
    while x < right - 0.1:
        if rng.random() < 0.14:
            x += rng.uniform(0.05, 0.15)
            continue
        thick, tall = rng.uniform(0.018, 0.034), rng.uniform(0.19, 0.31)
        count = min(int(rng.integers(2, 8)), int((right - x) / thick))
        spines = dataclasses.replace(
            textured(rng, "print", srgb("15110e"), srgb("15110e"), 0.19),
            cells=colour_cells(rng, 1, count),
            cell_size=(thick, 9.0),
            border=0.0022,
        )
        middle = (x + count * thick / 2, y + tall / 2, z + rng.uniform(-0.01, 0.03))
        half = (count * thick / 2, tall / 2, 0.1)
        row.append(Box(material=spines, at=middle, half_size=half, casts_shadow=False))
        x += count * thick
    return row


def _sofa(rng: Rng, x: float, z: float) -> list[Solid]:
    """Return a sofa with cushions."""
    dye = random_colour(rng)
    weave = choose(rng, ("cloth", "cloth", "leather"))
    cover = textured(rng, weave, dye, scaled(dye, 0.7), 0.25, specular=0.06)
    parts = (
        ((0, 0.2, 0), (0.95, 0.12, 0.42)),
        ((0, 0.5, -0.33), (0.95, 0.28, 0.1)),
        ((-0.98, 0.3, 0), (0.11, 0.26, 0.44)),
        ((0.98, 0.3, 0), (0.11, 0.26, 0.44)),
        ((-0.43, 0.37, 0.04), (0.42, 0.07, 0.38)),
        ((0.43, 0.37, 0.04), (0.42, 0.07, 0.38)),
    )
    solids: list[Solid] = [
        Box(material=cover, at=(x + px, py, z + pz), half_size=half, bevel=0.05)
        for (px, py, pz), half in parts
    ]
    for px in (-0.6, 0.05, 0.6):
        motif = choose(rng, ("rug", "cloth", "leaf"))
        cushion = textured(rng, motif, random_colour(rng), random_colour(rng), 0.35)
        at = (x + px + rng.normal(0, 0.05), 0.6, z - 0.13)
        solids.append(
            Ellipsoid(material=cushion, at=at, radii=(0.22, 0.18, 0.085), casts_shadow=False)
        )
    return solids


def _coffee_table(rng: Rng, x: float, z: float) -> list[Solid]:
    """Return a table with a few objects on it."""
    wood = wooden(rng, 0.7, specular=0.3)
    solids: list[Solid] = [Box(material=wood, at=(x, 0.4, z), half_size=(0.5, 0.02, 0.3))]
    for a in (-0.44, 0.44):
        for b in (-0.25, 0.25):
            solids.append(
                Box(material=wood, at=(x + a, 0.19, z + b), half_size=(0.025, 0.19, 0.025))
            )
    on_top = [
        *objects.books(rng, x - 0.25, z, 0.3),
        *objects.mug(rng, x + 0.18, z + 0.08),
        *objects.fruit(rng, x + 0.33, z - 0.1),
        *objects.fruit(rng, x + 0.36, z + 0.02),
        *objects.bottle(rng, x + 0.02, z - 0.16),
    ]
    return solids + [solid.raised(0.42) for solid in on_top]


def _floor_lamp(x: float, z: float) -> list[Solid]:
    """Return a floor lamp that is switched on; its light is at a height of 1.55 m."""
    iron = Material(colour=srgb("2a2a2c"), specular=0.5)
    shade = Material(
        colour=(1.0, 0.78, 0.5),
        second_colour=(0.8, 0.55, 0.3),
        texture="cloth",
        size=0.12,
        emission=1.6,
    )
    return [
        Frustum(
            material=iron,
            base=(x, 0, z),
            height=1.4,
            bottom_radius=0.015,
            top_radius=0.015,
            casts_shadow=False,
        ),
        Frustum(
            material=iron,
            base=(x, 0, z),
            height=0.03,
            bottom_radius=0.16,
            top_radius=0.15,
            casts_shadow=False,
        ),
        Frustum(material=shade, base=(x, 1.38, z), height=0.3, bottom_radius=0.22, top_radius=0.15),
    ]


def _window(x: float, z: tuple[float, float], y: tuple[float, float]) -> list[Solid]:
    """Return a bright window with its frame, seen from inside; x is the position of its wall."""
    day = Material(
        colour=(0.8, 0.95, 1.15),
        second_colour=(1.2, 1.2, 1.2),
        texture="cloud",
        size=2.0,
        emission=6.0,
    )
    white = Material(colour=srgb("e9e6df"))
    inward = -0.01 if x > 0 else 0.01
    deep, high = z[1] - z[0], y[1] - y[0]
    pane = Sheet(material=day, corner=(x + inward, y[0], z[0]), along=(0, 0, deep), up=(0, high, 0))
    solids: list[Solid] = [pane]
    for at in (z[0], z[0] + deep / 2, z[1]):
        half = (0.05, high / 2 + 0.05, 0.03)
        solids.append(
            Box(material=white, at=(x, y[0] + high / 2, at), half_size=half, casts_shadow=False)
        )
    for at in (y[0], y[0] + high / 2, y[1]):
        half = (0.05, 0.03, deep / 2 + 0.03)
        solids.append(
            Box(material=white, at=(x, at, z[0] + deep / 2), half_size=half, casts_shadow=False)
        )
    return solids
