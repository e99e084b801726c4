"""A garden scene."""

from __future__ import annotations

import math

import numpy as np

from darkprep.synth.renderer.materials import Material
from darkprep.synth.renderer.scene import Light, Scene, Sky
from darkprep.synth.renderer.solid import Solid
from darkprep.synth.renderer.solids import Box, Sheet
from darkprep.synth.scenes import plants
from darkprep.synth.scenes.materials import (
    Rng,
    choose,
    random_side,
    scaled,
    srgb,
    textured,
    wall_material,
    wooden,
)


def garden(rng: Rng) -> Scene:
    """Return a garden in late afternoon sun: lawn, path, bushes, trees, flowers, a bench and a wall."""
    lawn = textured(rng, "grass", srgb("6f8a3f"), srgb("a3a05a"), 1.2)
    path = textured(
        rng, choose(rng, ("brick", "tile", "stone")), srgb("a08d78"), srgb("6e6a5c"), 1.5
    )
    bend = rng.uniform(-0.12, 0.12)
    solids: list[Solid] = [
        Sheet(material=lawn, corner=(-30, 0, -40), along=(60, 0, 0), up=(0, 0, 50)),
        Box(
            material=path,
            at=(rng.uniform(-0.6, 0.6), 0.005, -8),
            half_size=(0.75, 0.01, 14),
            rotation=bend,
        ),
        *_garden_wall(rng, -16.0),
    ]
    growing = (plants.bush, plants.tree, plants.flower_bed, plants.flower_bed)
    for side in (-1.0, 1.0):
        for z in (-3.5, -6.5, -10.0, -13.5):
            grow = growing[int(rng.integers(len(growing)))]
            solids += grow(rng, side * rng.uniform(1.9, 3.4), z + rng.uniform(-0.8, 0.8))
    for x in np.linspace(-11, 11, 7).tolist():
        solids += plants.tree(rng, x + rng.uniform(-1, 1), -18.5 - rng.uniform(0, 3))
    solids += _bench(rng, random_side(rng) * 1.5, rng.uniform(-5.5, -4.5))
    late = rng.random()
    sun = Light(
        at=(random_side(rng), rng.uniform(0.45, 0.8), rng.uniform(-0.2, 0.7)),
        sun=True,
        colour=scaled((1.0, 0.88 - 0.1 * late, 0.7 - 0.2 * late), 1.9),
        softness=0.03,
    )
    sky = Sky(
        zenith=(0.18, 0.37, 0.82),
        horizon=(0.8, 0.9, 1.0),
        clouds=rng.uniform(0.6, 1.0),
        cloud_colour=(2.9, 2.75, 2.6),
    )
    return Scene(
        eye=(rng.uniform(-0.4, 0.4), rng.uniform(1.3, 1.6), 2.2),
        target=(rng.uniform(-0.4, 0.4), 1.15, -8.0),
        field_of_view=math.radians(rng.uniform(44, 54)),
        solids=tuple(solids),
        lights=(sun,),
        ambient=((0.24, 0.30, 0.40), (0.10, 0.11, 0.06)),
        sky=sky,
        fog=600.0,
        occlusion_range=0.4,
        kelvin=rng.uniform(5000, 6000),
    )


def _bench(rng: Rng, x: float, z: float) -> list[Solid]:
    """Return a garden bench."""
    wood = wooden(rng, 0.6)
    iron = Material(colour=srgb("22252a"), specular=0.4)
    solids: list[Solid] = []
    for k in (-1, 0, 1):
        solids.append(Box(material=wood, at=(x, 0.45, z + k * 0.13), half_size=(0.8, 0.018, 0.055)))
        solids.append(
            Box(material=wood, at=(x, 0.75 + k * 0.13, z - 0.24), half_size=(0.8, 0.05, 0.016))
        )
    for end in (-0.7, 0.7):
        solids.append(Box(material=iron, at=(x + end, 0.22, z), half_size=(0.025, 0.22, 0.22)))
        solids.append(
            Box(material=iron, at=(x + end, 0.65, z - 0.25), half_size=(0.025, 0.25, 0.025))
        )
    return solids


def _garden_wall(rng: Rng, z: float) -> list[Solid]:
    """Return a wall with a coping (its top course) and posts."""
    wall = wall_material(rng, 1.6)
    coping = textured(rng, "stone", srgb("a39d92"), srgb("7d776c"), 0.8)
    solids: list[Solid] = [
        Box(material=wall, at=(0, 0.75, z), half_size=(14, 0.75, 0.25)),
        Box(material=coping, at=(0, 1.54, z), half_size=(14, 0.05, 0.32)),
    ]
    for x in np.arange(-12, 13, 4.0).tolist():
        solids.append(Box(material=wall, at=(x, 0.9, z), half_size=(0.3, 0.9, 0.33)))
        solids.append(Box(material=coping, at=(x, 1.84, z), half_size=(0.36, 0.05, 0.4)))
    return solids
