"""Trees, bushes, flowers and other plants, built from sheets of leaves."""

from __future__ import annotations

import dataclasses
import math

from darkprep.synth.renderer.solid import Solid
from darkprep.synth.renderer.solids import Ellipsoid, Frustum, Sheet
from darkprep.synth.renderer.vectors import Vec
from darkprep.synth.scenes.materials import (
    Rng,
    choose,
    choose_pair,
    grouped,
    scaled,
    srgb,
    textured,
    varied,
)

_LEAF_COLOURS = ("5d7a3c 9aa556", "3f6b3e 6f915a", "7a6a34 b58a42", "527040 869956")


def _foliage(
    rng: Rng, at: Vec, *, wide: float, high: float, leaves: float, count: int
) -> list[Solid]:
    """Return sheets of leaves around a dark core, with holes and an irregular outline.

    `leaves` is the size of one period of the leaf texture in metres.
    """
    first, second = choose_pair(rng, _LEAF_COLOURS)
    shaded = textured(rng, "leaf", scaled(first, 0.3), scaled(second, 0.35), leaves * 0.8)
    x, y, z = at
    radii = (wide * 0.55, high * 0.55, wide * 0.3)
    solids: list[Solid] = [Ellipsoid(material=shaded, at=at, radii=radii)]
    for k in range(count):
        turn = rng.uniform(-0.7, 0.7)
        c, s = math.cos(turn), math.sin(turn)
        w, h = wide * rng.uniform(0.6, 0.95), high * rng.uniform(0.6, 0.95)
        px, py = x + rng.normal(0, 0.36) * wide, y + rng.normal(0, 0.32) * high
        pz = z + (k / max(count - 1, 1) - 0.4) * wide
        green = dataclasses.replace(
            textured(
                rng, "leaf", varied(rng, first, 0.2), varied(rng, second, 0.2), leaves, contrast=1.1
            ),
            cutout=0.2,
        )
        solids.append(
            Sheet(
                material=green,
                corner=(px - c * w, py - h, pz - s * w),
                along=(2 * c * w, 0, 2 * s * w),
                up=(0, 2 * h, 0),
                casts_shadow=False,
            )
        )
    return grouped(rng, solids)


def tree(rng: Rng, x: float, z: float) -> list[Solid]:
    """Return a tree."""
    high = rng.uniform(1.6, 2.4)
    bark = textured(rng, "wood", srgb("5a4632"), srgb("2e2318"), 0.5, rotated=True)
    trunk = Frustum(
        material=bark, base=(x, 0, z), height=high + 0.6, bottom_radius=0.16, top_radius=0.09
    )
    wide, tall = rng.uniform(1.3, 1.9), rng.uniform(1.2, 1.6)
    return [trunk, *_foliage(rng, (x, high + 1.1, z), wide=wide, high=tall, leaves=3.2, count=10)]


def bush(rng: Rng, x: float, z: float) -> list[Solid]:
    """Return a bush."""
    high = rng.uniform(0.4, 0.7)
    return _foliage(
        rng, (x, high * 0.8, z), wide=rng.uniform(0.7, 1.0), high=high, leaves=1.7, count=9
    )


def flower_bed(rng: Rng, x: float, z: float) -> list[Solid]:
    """Return a bed of flowers of one colour."""
    solids = _foliage(rng, (x, 0.22, z), wide=0.85, high=0.3, leaves=1.2, count=7)
    bloom = srgb(choose(rng, ("d4582a", "c2476b", "e9c83d", "efe9dd", "8e3a78", "b3241c")))
    for _ in range(34):
        r = rng.uniform(0.02, 0.045)
        petal = textured(rng, "peel", varied(rng, bloom), scaled(bloom, 0.6), 0.05)
        at = (x + rng.normal(0, 0.35), rng.uniform(0.26, 0.52), z + rng.uniform(0.1, 0.6))
        solids.append(Ellipsoid(material=petal, at=at, radii=(r, r * 0.6, r), casts_shadow=False))
    return solids


def potted_plant(rng: Rng, x: float, z: float) -> list[Solid]:
    """Return a plant in a pot."""
    clay = textured(rng, "stone", srgb("b0653f"), srgb("8c4a2e"), 0.2)
    pot = Frustum(material=clay, base=(x, 0, z), height=0.1, bottom_radius=0.05, top_radius=0.068)
    return [pot, *_foliage(rng, (x, 0.19, z), wide=0.12, high=0.1, leaves=0.22, count=7)]
