"""A street scene after dusk."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from darkprep.synth.renderer.materials import Material
from darkprep.synth.renderer.scene import Disc, Light, Scene, Sky
from darkprep.synth.renderer.solid import Solid
from darkprep.synth.renderer.solids import Box, Ellipsoid, Frustum, Sheet
from darkprep.synth.renderer.vectors import Vec
from darkprep.synth.scenes.materials import (
    Rng,
    choose,
    grouped,
    random_colour,
    random_side,
    scaled,
    srgb,
    textured,
    varied,
    wall_material,
)

_DETAIL_FROM_Z = -26.0
"""Houses farther away than this z have no small parts, which would cover a pixel or two."""
_EYE: Vec = (0.6, 1.65, 4.0)


def street(rng: Rng) -> Scene:
    """Return a street at dusk after rain: lit windows, shop signs, lamps, wet asphalt."""
    wet = dataclasses.replace(
        textured(rng, "stone", srgb("6a6b6e"), srgb("35363a"), 1.4, specular=0.25, shininess=12.0),
        mirror=0.9,
    )
    kerb = textured(rng, "tile", srgb("8b867d"), srgb("4b4844"), 4.0)
    paint = textured(rng, "plaster", srgb("d8d6cf"), srgb("a8a69f"), 1.0)
    solids: list[Solid] = [
        Sheet(material=wet, corner=(-4, 0, -90), along=(8, 0, 0), up=(0, 0, 100))
    ]
    solids += [
        Box(material=paint, at=(0, 0.002, z), half_size=(0.07, 0.002, 1.2), casts_shadow=False)
        for z in range(-60, 2, 5)
    ]
    lights, discs = list[Light](), list[Disc]()
    for side in (-1.0, 1.0):
        solids.append(
            Box(
                material=kerb,
                at=(side * 5.5, 0.06, -46),
                half_size=(1.5, 0.08, 49.5),
                casts_shadow=False,
            )
        )
        z = 1.0
        while z > -62:
            half = rng.uniform(3.5, 6.5)
            solids += _house(rng, side, z - half, half)
            z -= 2 * half
        for z in (-7.0, -19.0, -33.0):
            at = (side * 4.2, 5.0, z + side * 2.5)
            solids += _street_lamp(at)
            direction = (at[0] - _EYE[0], at[1] - _EYE[1], at[2] - _EYE[2])
            discs.append(
                Disc(
                    direction=direction, colour=(0.16, 0.1, 0.045), angular_radius=0.03, glare=True
                )
            )
            if z > -30:
                lights.append(Light(at=at, colour=scaled((1.0, 0.66, 0.33), 10.0), softness=0.05))
    solids += _car(rng, random_side(rng) * 2.6, rng.uniform(-12, -8))
    solids += _car(rng, random_side(rng) * 2.6, rng.uniform(-22, -17))
    for _ in range(int(rng.integers(3, 7))):
        solids += [
            solid.raised(0.14)
            for solid in _pedestrian(
                rng, random_side(rng) * rng.uniform(4.6, 6.3), rng.uniform(-22, -4)
            )
        ]
    dusk = rng.uniform(0.6, 1.2)
    sky = Sky(
        zenith=scaled((0.05, 0.09, 0.22), dusk),
        horizon=scaled((0.40, 0.27, 0.24), dusk),
        clouds=rng.uniform(0.4, 0.9),
        cloud_colour=scaled((0.24, 0.17, 0.2), dusk),
    )
    return Scene(
        eye=_EYE,
        target=(rng.uniform(-0.8, 0.8), rng.uniform(1.9, 2.5), -12.0),
        field_of_view=math.radians(rng.uniform(52, 62)),
        solids=tuple(solids),
        lights=tuple(lights),
        ambient=(scaled((0.10, 0.13, 0.22), dusk), (0.05, 0.04, 0.035)),
        sky=sky,
        discs=tuple(discs),
        fog=220.0,
        occlusion_range=0.5,
        kelvin=rng.uniform(3400, 4200),
    )


def _house(rng: Rng, side: float, z: float, half: float) -> list[Solid]:
    """Return a terraced house; `side` is -1 on the left of the street and 1 on the right."""
    storey, storeys = rng.uniform(2.8, 3.2), int(rng.integers(2, 5))
    high = (storeys + 1) * storey + 0.7
    front = side * 7.0
    wall = wall_material(rng, 1.8)
    trim = Material(
        colour=varied(rng, srgb("cfc8b9")),
        texture="plaster",
        second_colour=srgb("b5ad9c"),
        size=1.1,
    )
    solids: list[Solid] = [
        Box(
            material=wall,
            at=(side * 10.0, high / 2, z),
            half_size=(3.0, high / 2, half - 0.02),
            casts_shadow=False,
        ),
        Box(
            material=trim,
            at=(front, high, z),
            half_size=(0.35, 0.16, half - 0.01),
            casts_shadow=False,
        ),
        Box(
            material=trim,
            at=(front, storey + 0.35, z),
            half_size=(0.09, 0.1, half - 0.02),
            casts_shadow=False,
        ),
    ]
    pitch = rng.uniform(1.5, 2.0)
    count = max(1, int((2 * half - 0.4) / pitch))
    lit = rng.uniform(0.25, 0.6)
    for level in range(1, storeys + 1):
        for k in range(count):
            at = (front, level * storey + 1.55, z + (k - (count - 1) / 2) * pitch)
            solids += _house_window(rng, side, at, trim, lit=bool(rng.random() < lit))
    return solids + _shop(rng, side, front, z, half)


def _house_window(rng: Rng, side: float, at: Vec, trim: Material, *, lit: bool) -> list[Solid]:
    tone = varied(rng, srgb(choose(rng, ("ffd9a0", "ffe6c0", "ffc070", "e8f0ff"))), 0.2)
    bright = rng.uniform(0.35, 1.3)
    if lit:
        pane = textured(rng, "cloud", tone, scaled(tone, 0.3), 2.6, emission=bright)
    else:
        pane = Material(colour=srgb("161b22"), specular=0.9, shininess=200.0)
    x, y, z = at
    frame = Material(colour=srgb(choose(rng, ("d9d2c3", "4a4038", "2f3a3a"))))
    solids: list[Solid] = [
        Box(material=trim, at=at, half_size=(0.06, 0.86, 0.55), casts_shadow=False),
        Box(
            material=pane,
            at=(x - side * 0.04, y + 0.02, z),
            half_size=(0.03, 0.74, 0.44),
            casts_shadow=False,
        ),
    ]
    if z > _DETAIL_FROM_Z:
        bar = x - side * 0.07
        solids += [
            Box(
                material=trim,
                at=(x - side * 0.06, y - 0.86, z),
                half_size=(0.1, 0.05, 0.62),
                casts_shadow=False,
            ),
            Box(material=frame, at=(bar, y, z), half_size=(0.01, 0.74, 0.03), casts_shadow=False),
            Box(
                material=frame,
                at=(bar, y + 0.25, z),
                half_size=(0.01, 0.03, 0.44),
                casts_shadow=False,
            ),
        ]
    return solids


def _shop(rng: Rng, side: float, front: float, z: float, half: float) -> list[Solid]:
    """Return a shop: a lit window with items for sale in front of the light, and a sign."""
    tone = varied(rng, srgb(choose(rng, ("ffdca0", "ffeccc", "dfe9ff"))), 0.15)
    wide = half - rng.uniform(0.5, 1.0)
    pane = textured(rng, "cloud", tone, scaled(tone, 0.35), 4.0, emission=rng.uniform(0.5, 1.2))
    letters = varied(rng, srgb("ffefcf"))
    sign = textured(
        rng,
        "print",
        scaled(random_colour(rng), 0.7),
        letters,
        rng.uniform(5.0, 8.0),
        emission=rng.uniform(0.4, 1.4),
    )
    frame = Material(colour=varied(rng, srgb("2f2a26")), specular=0.2)
    x = front - side * 0.05
    solids: list[Solid] = [
        Box(
            material=pane,
            at=(front - side * 0.01, 1.5, z),
            half_size=(0.03, 1.1, wide),
            casts_shadow=False,
        ),
        Box(
            material=sign,
            at=(front - side * 0.12, 2.86, z),
            half_size=(0.1, 0.22, wide),
            casts_shadow=False,
        ),
        Box(material=frame, at=(x, 0.3, z), half_size=(0.06, 0.3, wide + 0.05), casts_shadow=False),
    ]
    for k in np.linspace(-wide, wide, int(rng.integers(3, 6))).tolist():
        solids.append(
            Box(
                material=frame, at=(x, 1.5, z + k), half_size=(0.05, 1.15, 0.05), casts_shadow=False
            )
        )
    for _ in range(int(rng.integers(5, 12)) if z > _DETAIL_FROM_Z else 3):
        solids.append(_shop_item(rng, (front - side * 0.06, 0.6, z + rng.uniform(-wide, wide))))
    return solids


def _shop_item(rng: Rng, foot: Vec) -> Solid:
    """Return an item in a shop window: dark in front of the bright background, with a little light of its own."""
    hue = textured(
        rng,
        "cloth",
        random_colour(rng),
        scaled(random_colour(rng), 0.5),
        0.8,
        emission=rng.uniform(0.1, 0.5),
    )
    tall, wide = rng.uniform(0.25, 1.3), rng.uniform(0.08, 0.28)
    if rng.random() < 0.5:
        half = (0.03, tall / 2, wide)
        return Box(
            material=hue,
            at=(foot[0], foot[1] + tall / 2, foot[2]),
            half_size=half,
            casts_shadow=False,
        )
    at = (foot[0], foot[1] + tall / 2, foot[2])
    return Ellipsoid(material=hue, at=at, radii=(0.05, tall / 2, wide), casts_shadow=False)


def _street_lamp(at: Vec) -> list[Solid]:
    """Return a lamp post with its globe."""
    iron = Material(colour=srgb("22252a"), specular=0.4)
    globe = Material(colour=(1.0, 0.8, 0.5), emission=9.0)
    x, y, z = at
    return [
        Frustum(
            material=iron,
            base=(x, 0.1, z),
            height=y - 0.25,
            bottom_radius=0.07,
            top_radius=0.045,
            casts_shadow=False,
        ),
        Ellipsoid(material=globe, at=at, radii=(0.17, 0.2, 0.17)),
        Frustum(
            material=iron,
            base=(x, y + 0.14, z),
            height=0.16,
            bottom_radius=0.2,
            top_radius=0.04,
            casts_shadow=False,
        ),
    ]


def _car(rng: Rng, x: float, z: float) -> list[Solid]:
    """Return a car seen from behind."""
    paint = Material(colour=random_colour(rng), specular=0.9, shininess=120.0)
    glass = Material(colour=srgb("0e1114"), specular=1.0, shininess=200.0)
    tyre = Material(colour=srgb("17171a"))
    red = Material(colour=(1.0, 0.05, 0.03), emission=2.4)
    plate = Material(
        colour=srgb("efe9dd"),
        texture="print",
        second_colour=srgb("15110e"),
        size=0.9,
        offset=(0.1, 0.3),
    )
    solids: list[Solid] = [
        Box(material=paint, at=(x, 0.62, z), half_size=(0.88, 0.3, 2.0), bevel=0.12),
        Box(material=glass, at=(x, 1.12, z - 0.15), half_size=(0.74, 0.24, 1.0), bevel=0.12),
        Box(material=paint, at=(x, 1.38, z - 0.15), half_size=(0.72, 0.04, 0.95), bevel=0.04),
        Box(material=plate, at=(x, 0.55, z + 2.0), half_size=(0.26, 0.06, 0.01)),
    ]
    for side in (-1.0, 1.0):
        at = (x + side * 0.68, 0.74, z + 2.0)
        solids.append(Box(material=red, at=at, half_size=(0.15, 0.06, 0.015)))
        for along in (-1.25, 1.3):
            wheel = (x + side * 0.78, 0.32, z + along)
            solids.append(
                Ellipsoid(material=tyre, at=wheel, radii=(0.12, 0.32, 0.32), casts_shadow=False)
            )
    return grouped(rng, solids)


def _pedestrian(rng: Rng, x: float, z: float) -> list[Solid]:
    """Return a pedestrian in a coat."""
    coat = textured(rng, "cloth", scaled(random_colour(rng), 0.6), srgb("1a1a1c"), 0.5)
    skin = Material(colour=varied(rng, srgb("a87a5c"), 0.25))
    hair = Material(colour=varied(rng, srgb("2a1d14"), 0.3))
    trousers = Material(colour=varied(rng, srgb("2a2d38"), 0.2))
    tall = rng.uniform(1.6, 1.85)
    solids: list[Solid] = [
        Frustum(
            material=coat,
            base=(x, 0.42 * tall, z),
            height=0.4 * tall,
            bottom_radius=0.22,
            top_radius=0.17,
        ),
        Ellipsoid(material=coat, at=(x, 0.8 * tall, z), radii=(0.24, 0.1, 0.14)),
        Ellipsoid(material=skin, at=(x, 0.92 * tall, z), radii=(0.085, 0.12, 0.1)),
        Ellipsoid(material=hair, at=(x, 0.945 * tall, z + 0.015), radii=(0.092, 0.11, 0.1)),
    ]
    for step in (-1.0, 1.0):
        foot = (x + step * 0.09, 0.0, z + step * 0.12)
        leg = Frustum(
            material=trousers, base=foot, height=0.46 * tall, bottom_radius=0.06, top_radius=0.1
        )
        solids.append(leg)
    return grouped(rng, solids)
