"""Scenes on a table: a still life, a table at night, and a desk from above."""

from __future__ import annotations

import dataclasses
import math

from darkprep.synth.renderer.scene import Disc, Light, Scene, Sky
from darkprep.synth.renderer.solid import Solid
from darkprep.synth.renderer.solids import Box, Sheet
from darkprep.synth.scenes import objects, plants
from darkprep.synth.scenes.materials import (
    Rng,
    choose,
    random_side,
    scaled,
    srgb,
    tabletop,
    wall_material,
    wooden,
)


def still_life(rng: Rng) -> Scene:
    """Return objects on a table in front of a wall, lit by a window at the side."""
    side = random_side(rng)
    wall = dataclasses.replace(wall_material(rng, 1.1), blur=rng.uniform(0.004, 0.012))
    solids: list[Solid] = [
        Box(material=tabletop(rng), at=(0, -0.02, -0.05), half_size=(0.85, 0.02, 0.5)),
        Sheet(material=wall, corner=(-2.0, -1.0, -0.75), along=(4.0, 0, 0), up=(0, 3.0, 0)),
        *_arranged_objects(rng),
    ]
    window = Sheet(
        material=wall, corner=(side * 1.3, 0.35, -0.5), along=(0, 0, 1.3), up=(0, 1.1, 0)
    )
    sun = Light(
        at=(side, rng.uniform(0.55, 0.8), rng.uniform(0.2, 0.5)),
        sun=True,
        colour=scaled((1.0, 0.93, 0.82), rng.uniform(1.6, 2.4)),
        softness=0.05,
        portal=window,
        panes=(2, 3),
    )
    daylight = Light(at=(side * 1.3, 0.95, 0.3), colour=scaled((0.9, 0.97, 1.1), 1.3), softness=0.4)
    return Scene(
        eye=(rng.uniform(-0.25, 0.25), rng.uniform(0.28, 0.42), 0.95),
        target=(0.0, 0.075, -0.05),
        field_of_view=math.radians(rng.uniform(34, 40)),
        solids=tuple(solids),
        lights=(sun, daylight),
        ambient=((0.16, 0.165, 0.18), (0.10, 0.085, 0.07)),
        kelvin=rng.uniform(4800, 6200),
    )


def _arranged_objects(rng: Rng) -> list[Solid]:
    """Return objects that stand on a table without intersecting, tall ones at the back, sometimes a colour chart."""
    tall = (
        objects.bottle,
        objects.bottle,
        objects.mug,
        objects.candle,
        objects.ball,
        objects.fruit,
    )
    solids, positions = list[Solid](), list[tuple[float, float]]()
    if rng.random() < 0.75:
        positions.append((rng.uniform(-0.26, 0.26), rng.uniform(-0.28, -0.18)))
        solids += objects.books(rng, *positions[0], rng.uniform(-0.5, 0.5))
    if rng.random() < 0.6:
        x = -0.36 if rng.random() < 0.5 else 0.2
        solids.append(
            objects.colour_chart((x, 0.001, -0.34), (0.989, 0, 0.148), (0.04, 0.966, -0.256), 0.034)
        )
        positions.append((x + 0.1, -0.3))
    positions.append((rng.uniform(-0.2, 0.2), rng.uniform(0.05, 0.2)))
    solids += objects.ball(rng, *positions[-1])
    for _ in range(200):
        x, z = rng.uniform(-0.36, 0.36), rng.uniform(-0.25, 0.25)
        if len(positions) < 11 and all(math.hypot(x - a, z - b) > 0.12 for a, b in positions):
            make = tall[int(rng.integers(len(tall)))] if z < 0.08 else objects.fruit
            solids += make(rng, x, z)
            positions.append((x, z))
    return solids


def night_table(rng: Rng) -> Scene:
    """Return a table at night in front of city lights that are out of focus."""
    wood = wooden(rng, 0.5, specular=0.5)
    solids: list[Solid] = [Box(material=wood, at=(0, -0.02, 0.1), half_size=(0.9, 0.02, 0.35))]
    x = rng.uniform(-0.12, 0.12)
    solids += objects.candle(rng, x, 0.0)
    flame_y = solids[-1].centre[1]
    positions = [(x, 0.0)]
    for _ in range(60):
        px, pz = rng.uniform(-0.3, 0.3), rng.uniform(-0.15, 0.2)
        if len(positions) < 8 and all(math.hypot(px - a, pz - b) > 0.1 for a, b in positions):
            makers = (
                (objects.ball, objects.mug, objects.fruit, objects.bottle)
                if pz < 0.03
                else (objects.fruit, objects.ball)
            )
            solids += makers[int(rng.integers(len(makers)))](rng, px, pz)
            positions.append((px, pz))
    solids.append(
        objects.printed_page(rng, (-x + 0.16, 0.0007, 0.2), (0.07, 0.05), rng.uniform(-0.6, 0.6))
    )
    lights = (
        Light(at=(x, flame_y, 0.0), colour=scaled((1.0, 0.6, 0.26), 0.055), softness=0.12),
        Light(
            at=(random_side(rng) * 0.9, 0.9, 0.5),
            colour=scaled((0.7, 0.85, 1.1), 0.32),
            softness=0.25,
        ),
    )
    eye = (rng.uniform(-0.15, 0.15), rng.uniform(0.16, 0.24), 0.85)
    glare = Disc(
        direction=(x - eye[0], flame_y - eye[1], -eye[2]),
        colour=(0.05, 0.03, 0.012),
        angular_radius=0.05,
        glare=True,
    )
    return Scene(
        eye=eye,
        target=(0.0, 0.1, 0.0),
        field_of_view=math.radians(rng.uniform(34, 40)),
        solids=tuple(solids),
        lights=lights,
        ambient=((0.035, 0.04, 0.06), (0.03, 0.022, 0.018)),
        sky=Sky(zenith=(0.008, 0.012, 0.03), horizon=(0.05, 0.035, 0.04)),
        discs=(*(_distant_light(rng) for _ in range(70)), glare),
        kelvin=rng.uniform(2900, 3600),
    )


def _distant_light(rng: Rng) -> Disc:
    """Return a light near the horizon that is out of focus."""
    tone = srgb(
        choose(
            rng, ("ffb45a", "ffd08a", "ff7a3a", "ff4a3a", "9ad0ff", "6affb0", "ffe9c8", "d08aff")
        )
    )
    direction = (rng.uniform(-0.42, 0.42), abs(rng.normal(0.0, 0.09)) - 0.06, -1.0)
    return Disc(
        direction=direction,
        colour=scaled(tone, math.exp(rng.normal(-1.6, 0.8))),
        angular_radius=rng.uniform(0.014, 0.03),
    )


def desk(rng: Rng) -> Scene:
    """Return a desk seen from above: papers, books, chart, pencils, coins and a mug in the light of a lamp."""
    solids: list[Solid] = [
        Sheet(material=tabletop(rng), corner=(-1.2, 0, -1.0), along=(2.4, 0, 0), up=(0, 0, 2.0))
    ]
    for k in range(int(rng.integers(2, 5))):
        at = (rng.uniform(-0.3, 0.3), 0.001 + 0.0012 * k, rng.uniform(-0.12, 0.2))
        solids.append(objects.printed_page(rng, at, (0.105, 0.1485), rng.uniform(-0.7, 0.7)))
    solids += objects.books(
        rng, rng.uniform(-0.36, -0.26), rng.uniform(-0.25, -0.1), rng.uniform(-0.4, 0.4)
    )
    solids += objects.mug(rng, rng.uniform(0.24, 0.34), rng.uniform(-0.26, -0.16))
    solids.append(
        objects.colour_chart((rng.uniform(-0.1, 0.1), 0.0075, -0.08), (1, 0, 0), (0, 0, -1), 0.033)
    )
    for _ in range(int(rng.integers(4, 8))):
        solids += objects.pencil(rng, rng.uniform(-0.3, 0.35), rng.uniform(-0.1, 0.25))
    for _ in range(int(rng.integers(5, 12))):
        solids += objects.coin(rng, rng.uniform(-0.35, 0.35), rng.uniform(-0.2, 0.25))
    for _ in range(int(rng.integers(0, 3))):
        solids += objects.fruit(rng, rng.uniform(0.2, 0.4), rng.uniform(0.0, 0.2))
    solids += plants.potted_plant(rng, rng.uniform(-0.1, 0.12), -0.3)
    solids += objects.ball(rng, rng.uniform(-0.4, -0.3), rng.uniform(0.1, 0.2))
    side = random_side(rng)
    lamp = (side * rng.uniform(0.4, 0.6), rng.uniform(0.45, 0.6), rng.uniform(-0.3, 0.1))
    return Scene(
        eye=(rng.uniform(-0.1, 0.1), rng.uniform(0.62, 0.8), 0.62),
        target=(0.0, 0.0, -0.02),
        field_of_view=math.radians(rng.uniform(42, 48)),
        solids=tuple(solids),
        lights=(
            Light(at=lamp, colour=scaled((1.0, 0.9, 0.74), 0.5), softness=0.09),
            Light(at=(-1.4 * side, 1.2, 0.2), colour=scaled((0.8, 0.93, 1.15), 0.35), softness=0.4),
        ),
        ambient=((0.09, 0.1, 0.12), (0.06, 0.05, 0.04)),
        occlusion_range=0.05,
        kelvin=rng.uniform(3000, 4200),
    )
