"""Makes scenes to photograph: six kinds of places, each one different by its seed and number.

The trade-off: places are put together from few kinds of solids, so that a scene is a list and
renders in seconds; they stand in for photographs (light that falls off, fine texture, saturated and
deep colours, print, foliage, highlights), not for a film.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from darkprep.synth.renderer.raycast import Disc, Light, Scene, Sky, film, meter
from darkprep.synth.renderer.solids import Box, Material, Sheet, Solid, Vec
from darkprep.synth.scenes import props
from darkprep.synth.scenes.props import Rng, ink, one_of, times

_METER = (120, 180)
"""Size of the small picture that the exposure is measured on."""
_MEAN_LEVEL = 0.15
"""Mean linear level that the exposure aims at."""


def make_scene(seed: int, number: int) -> Scene:
    """Returns scene `number` (from 0) of a seed. Six in a row are of six different kinds."""
    turn = number // len(_KINDS)
    order = np.random.Generator(np.random.Philox(key=[seed, turn])).permutation(len(_KINDS))
    rng = np.random.Generator(np.random.Philox(key=[seed, (number + 1) << 32]))
    return _exposed(_KINDS[int(order[number % len(_KINDS)])](rng))


def _exposed(scene: Scene) -> Scene:
    """Returns the scene with the exposure that a photographer would choose.

    A few pixels in ten thousand should reach full scale in the sensor's green, which sees some red
    and blue too: where none does, developers of RAW files take the brightest code for white. Scenes
    have highlights for that; dull ones are exposed longer.
    """
    picture = meter(scene, _METER).reshape(-1, 3).T
    peak = picture.max(axis=0)
    high = float(np.quantile(peak, 0.98))
    exposure = min(_MEAN_LEVEL / float(np.minimum(peak, high).mean()), 1.4 / high)
    for longer in np.geomspace(1.0, 3.0, 12).tolist():
        red, green, blue = film(picture * np.float32(exposure * longer))
        if np.quantile(0.1 * red + 0.65 * green + 0.25 * blue, 0.9996) >= 0.995:
            break
    return dataclasses.replace(scene, exposure=exposure * longer)


def _side(rng: Rng) -> float:
    return -1.0 if rng.random() < 0.5 else 1.0


def _still_life(rng: Rng) -> Scene:
    """Things on a table before a wall, lit by a window at the side."""
    side = _side(rng)
    wall = dataclasses.replace(props.wall_material(rng, 1.1), blur=rng.uniform(0.004, 0.012))
    solids: list[Solid] = [
        Box(material=props.table_top(rng), at=(0, -0.02, -0.05), half=(0.85, 0.02, 0.5)),
        Sheet(material=wall, corner=(-2.0, -1.0, -0.75), along=(4.0, 0, 0), up=(0, 3.0, 0)),
        *_arranged(rng),
    ]
    window = Sheet(
        material=wall, corner=(side * 1.3, 0.35, -0.5), along=(0, 0, 1.3), up=(0, 1.1, 0)
    )
    sun = Light(
        at=(side, rng.uniform(0.55, 0.8), rng.uniform(0.2, 0.5)),
        sun=True,
        colour=times((1.0, 0.93, 0.82), rng.uniform(1.6, 2.4)),
        softness=0.05,
        portal=window,
        panes=(2, 3),
    )
    daylight = Light(at=(side * 1.3, 0.95, 0.3), colour=times((0.9, 0.97, 1.1), 1.3), softness=0.4)
    return Scene(
        eye=(rng.uniform(-0.25, 0.25), rng.uniform(0.28, 0.42), 0.95),
        target=(0.0, 0.075, -0.05),
        width_angle=math.radians(rng.uniform(34, 40)),
        solids=tuple(solids),
        lights=(sun, daylight),
        ambient=((0.16, 0.165, 0.18), (0.10, 0.085, 0.07)),
        kelvin=rng.uniform(4800, 6200),
    )


def _arranged(rng: Rng) -> list[Solid]:
    """Returns things on a table, none within another, the tall ones behind; a chart at times."""
    tall = (props.bottle, props.bottle, props.mug, props.candle, props.ball, props.fruit)
    solids, places = list[Solid](), list[tuple[float, float]]()
    if rng.random() < 0.75:
        places.append((rng.uniform(-0.26, 0.26), rng.uniform(-0.28, -0.18)))
        solids += props.books(rng, *places[0], rng.uniform(-0.5, 0.5))
    if rng.random() < 0.6:
        x = -0.36 if rng.random() < 0.5 else 0.2
        solids.append(
            props.chart((x, 0.001, -0.34), (0.989, 0, 0.148), (0.04, 0.966, -0.256), 0.034)
        )
        places.append((x + 0.1, -0.3))
    places.append((rng.uniform(-0.2, 0.2), rng.uniform(0.05, 0.2)))
    solids += props.ball(rng, *places[-1])
    for _ in range(200):
        x, z = rng.uniform(-0.36, 0.36), rng.uniform(-0.25, 0.25)
        if len(places) < 11 and all(math.hypot(x - a, z - b) > 0.12 for a, b in places):
            make = tall[int(rng.integers(len(tall)))] if z < 0.08 else props.fruit
            solids += make(rng, x, z)
            places.append((x, z))
    return solids


def _room(rng: Rng) -> Scene:
    """A living room: shelves, sofa, rug, lamp, pictures, sun through the window."""
    side = _side(rng)
    half, rear, front, high = rng.uniform(2.1, 2.6), -2.3, 4.3, 2.7
    wall = props.wall_paint(rng, 1.2)
    back = props.wall_material(rng, 1.3) if rng.random() < 0.5 else wall
    floor = props.timber(rng, 1.1, gloss=0.18, texture="parquet")
    ceiling = Material(first=ink("e8e6e0"), texture="plaster", second=ink("dddad2"))
    wide, deep = (2 * half, 0.0, 0.0), (0.0, 0.0, front - rear)
    solids: list[Solid] = [
        Sheet(material=floor, corner=(-half, 0, rear), along=wide, up=deep),
        Sheet(material=ceiling, corner=(-half, high, rear), along=wide, up=deep),
        Sheet(material=back, corner=(-half, 0, rear), along=wide, up=(0, high, 0)),
        Sheet(material=wall, corner=(-half, 0, rear), along=deep, up=(0, high, 0)),
        Sheet(material=wall, corner=(half, 0, rear), along=deep, up=(0, high, 0)),
        *_furniture(rng, half, rear, side),
        *props.window(side * (half - 0.01), (-1.35, 0.15), (0.95, 2.25)),
    ]
    portal = Sheet(
        material=wall, corner=(side * half, 0.95, -1.35), along=(0, 0, 1.5), up=(0, 1.3, 0)
    )
    sun = Light(
        at=(side, rng.uniform(0.5, 0.9), rng.uniform(-0.1, 0.4)),
        sun=True,
        colour=times((1.0, 0.9, 0.74), 3.5),
        softness=0.012,
        portal=portal,
        panes=(2, 2),
    )
    daylight = Light(
        at=(side * (half - 0.3), 1.6, -0.3), colour=times((0.85, 0.95, 1.1), 1.6), softness=0.5
    )
    bulb = Light(
        at=(-side * (half - 0.5), 1.55, rear + 0.5),
        colour=times((1.0, 0.72, 0.42), 0.55),
        softness=0.15,
    )
    return Scene(
        eye=(rng.uniform(-0.7, 0.7), rng.uniform(1.25, 1.6), 3.3),
        target=(rng.uniform(-0.3, 0.3), 1.0, rear),
        width_angle=math.radians(rng.uniform(50, 58)),
        solids=tuple(solids),
        lights=(sun, daylight, bulb),
        ambient=((0.20, 0.20, 0.21), (0.17, 0.145, 0.12)),
        corner_gap=0.7,
        kelvin=rng.uniform(3800, 5000),
    )


def _furniture(rng: Rng, half: float, rear: float, side: float) -> list[Solid]:
    rug = props.stuff(rng, "rug", props.pigment(rng), props.pigment(rng), rng.uniform(1.2, 1.8))
    solids: list[Solid] = [
        *props.shelf(rng, x=side * (half - 1.0), z=rear + 0.17),
        *props.sofa(rng, x=-side * 0.35, z=rear + 0.75),
        Box(
            material=rug,
            at=(-side * 0.2, 0.008, 0.35),
            half=(1.15, 0.008, 0.8),
            turn=rng.normal(0, 0.1),
        ),
        *props.low_table(rng, -side * 0.25, 0.2),
        *props.floor_lamp(-side * (half - 0.5), rear + 0.5),
    ]
    for x in (-side * 0.8, -side * 0.05):
        solids += props.picture(rng, x, rng.uniform(1.5, 1.75), rear)
    return solids


_STREET_EYE: Vec = (0.6, 1.65, 4.0)


def _street(rng: Rng) -> Scene:
    """A street in the blue hour after rain: lit windows, shop signs, lamps, wet asphalt."""
    wet = dataclasses.replace(
        props.stuff(rng, "stone", ink("6a6b6e"), ink("35363a"), 1.4, gloss=0.25, sharpness=12.0),
        mirror=0.9,
    )
    kerb = props.stuff(rng, "tile", ink("8b867d"), ink("4b4844"), 4.0)
    paint = props.stuff(rng, "plaster", ink("d8d6cf"), ink("a8a69f"), 1.0)
    solids: list[Solid] = [
        Sheet(material=wet, corner=(-4, 0, -90), along=(8, 0, 0), up=(0, 0, 100))
    ]
    solids += [
        Box(material=paint, at=(0, 0.002, z), half=(0.07, 0.002, 1.2), casts=False)
        for z in range(-60, 2, 5)
    ]
    lights, discs = list[Light](), list[Disc]()
    for side in (-1.0, 1.0):
        solids.append(
            Box(material=kerb, at=(side * 5.5, 0.06, -46), half=(1.5, 0.08, 49.5), casts=False)
        )
        z = 1.0
        while z > -62:
            half = rng.uniform(3.5, 6.5)
            solids += props.house(rng, side, z - half, half)
            z -= 2 * half
        for z in (-7.0, -19.0, -33.0):
            at = (side * 4.2, 5.0, z + side * 2.5)
            solids += props.street_lamp(at)
            towards = (at[0] - _STREET_EYE[0], at[1] - _STREET_EYE[1], at[2] - _STREET_EYE[2])
            discs.append(Disc(towards=towards, colour=(0.16, 0.1, 0.045), angle=0.03, glare=True))
            if z > -30:
                lights.append(Light(at=at, colour=times((1.0, 0.66, 0.33), 10.0), softness=0.05))
    solids += props.car(rng, _side(rng) * 2.6, rng.uniform(-12, -8))
    solids += props.car(rng, _side(rng) * 2.6, rng.uniform(-22, -17))
    for _ in range(int(rng.integers(3, 7))):
        solids += [
            part.lifted(0.14)
            for part in props.walker(rng, _side(rng) * rng.uniform(4.6, 6.3), rng.uniform(-22, -4))
        ]
    dusk = rng.uniform(0.6, 1.2)
    sky = Sky(
        zenith=times((0.05, 0.09, 0.22), dusk),
        horizon=times((0.40, 0.27, 0.24), dusk),
        clouds=rng.uniform(0.4, 0.9),
        cloud_colour=times((0.24, 0.17, 0.2), dusk),
    )
    return Scene(
        eye=_STREET_EYE,
        target=(rng.uniform(-0.8, 0.8), rng.uniform(1.9, 2.5), -12.0),
        width_angle=math.radians(rng.uniform(52, 62)),
        solids=tuple(solids),
        lights=tuple(lights),
        ambient=(times((0.10, 0.13, 0.22), dusk), (0.05, 0.04, 0.035)),
        sky=sky,
        discs=tuple(discs),
        fog=220.0,
        corner_gap=0.5,
        kelvin=rng.uniform(3400, 4200),
    )


def _garden(rng: Rng) -> Scene:
    """A garden in late sun: lawn, path, hedges, trees, a wall, flowers."""
    lawn = props.stuff(rng, "grass", ink("6f8a3f"), ink("a3a05a"), 1.2)
    path = props.stuff(
        rng, one_of(rng, ("brick", "tile", "stone")), ink("a08d78"), ink("6e6a5c"), 1.5
    )
    bend = rng.uniform(-0.12, 0.12)
    solids: list[Solid] = [
        Sheet(material=lawn, corner=(-30, 0, -40), along=(60, 0, 0), up=(0, 0, 50)),
        Box(
            material=path, at=(rng.uniform(-0.6, 0.6), 0.005, -8), half=(0.75, 0.01, 14), turn=bend
        ),
        *props.fence(rng, -16.0),
    ]
    growing = (props.bush, props.tree, props.flowers, props.flowers)
    for side in (-1.0, 1.0):
        for z in (-3.5, -6.5, -10.0, -13.5):
            grow = growing[int(rng.integers(len(growing)))]
            solids += grow(rng, side * rng.uniform(1.9, 3.4), z + rng.uniform(-0.8, 0.8))
    for x in np.linspace(-11, 11, 7).tolist():
        solids += props.tree(rng, x + rng.uniform(-1, 1), -18.5 - rng.uniform(0, 3))
    solids += props.bench(rng, _side(rng) * 1.5, rng.uniform(-5.5, -4.5))
    late = rng.random()
    sun = Light(
        at=(_side(rng), rng.uniform(0.45, 0.8), rng.uniform(-0.2, 0.7)),
        sun=True,
        colour=times((1.0, 0.88 - 0.1 * late, 0.7 - 0.2 * late), 1.9),
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
        width_angle=math.radians(rng.uniform(44, 54)),
        solids=tuple(solids),
        lights=(sun,),
        ambient=((0.24, 0.30, 0.40), (0.10, 0.11, 0.06)),
        sky=sky,
        fog=600.0,
        corner_gap=0.4,
        kelvin=rng.uniform(5000, 6000),
    )


def _night(rng: Rng) -> Scene:
    """A table in the dark before the lights of a town that are out of focus."""
    wood = props.timber(rng, 0.5, gloss=0.5)
    solids: list[Solid] = [Box(material=wood, at=(0, -0.02, 0.1), half=(0.9, 0.02, 0.35))]
    x = rng.uniform(-0.12, 0.12)
    solids += props.candle(rng, x, 0.0)
    flame_y = solids[-1].centre[1]
    places = [(x, 0.0)]
    for _ in range(60):
        px, pz = rng.uniform(-0.3, 0.3), rng.uniform(-0.15, 0.2)
        if len(places) < 8 and all(math.hypot(px - a, pz - b) > 0.1 for a, b in places):
            makers = (
                (props.ball, props.mug, props.fruit, props.bottle)
                if pz < 0.03
                else (props.fruit, props.ball)
            )
            solids += makers[int(rng.integers(len(makers)))](rng, px, pz)
            places.append((px, pz))
    solids.append(
        props.sheet_of_print(rng, (-x + 0.16, 0.0007, 0.2), (0.07, 0.05), rng.uniform(-0.6, 0.6))
    )
    lights = (
        Light(at=(x, flame_y, 0.0), colour=times((1.0, 0.6, 0.26), 0.055), softness=0.12),
        Light(at=(_side(rng) * 0.9, 0.9, 0.5), colour=times((0.7, 0.85, 1.1), 0.32), softness=0.25),
    )
    eye = (rng.uniform(-0.15, 0.15), rng.uniform(0.16, 0.24), 0.85)
    glare = Disc(
        towards=(x - eye[0], flame_y - eye[1], -eye[2]),
        colour=(0.05, 0.03, 0.012),
        angle=0.05,
        glare=True,
    )
    return Scene(
        eye=eye,
        target=(0.0, 0.1, 0.0),
        width_angle=math.radians(rng.uniform(34, 40)),
        solids=tuple(solids),
        lights=lights,
        ambient=((0.035, 0.04, 0.06), (0.03, 0.022, 0.018)),
        sky=Sky(zenith=(0.008, 0.012, 0.03), horizon=(0.05, 0.035, 0.04)),
        discs=(*(_town_light(rng) for _ in range(70)), glare),
        kelvin=rng.uniform(2900, 3600),
    )


def _town_light(rng: Rng) -> Disc:
    """Returns one light out of focus, near the horizon."""
    tone = ink(
        one_of(
            rng, ("ffb45a", "ffd08a", "ff7a3a", "ff4a3a", "9ad0ff", "6affb0", "ffe9c8", "d08aff")
        )
    )
    towards = (rng.uniform(-0.42, 0.42), abs(rng.normal(0.0, 0.09)) - 0.06, -1.0)
    return Disc(
        towards=towards,
        colour=times(tone, math.exp(rng.normal(-1.6, 0.8))),
        angle=rng.uniform(0.014, 0.03),
    )


def _desk(rng: Rng) -> Scene:
    """A desk from above: papers, books, chart, pens, coins, cup, in a lamp's light."""
    solids: list[Solid] = [
        Sheet(
            material=props.table_top(rng), corner=(-1.2, 0, -1.0), along=(2.4, 0, 0), up=(0, 0, 2.0)
        )
    ]
    for k in range(int(rng.integers(2, 5))):
        at = (rng.uniform(-0.3, 0.3), 0.001 + 0.0012 * k, rng.uniform(-0.12, 0.2))
        solids.append(props.sheet_of_print(rng, at, (0.105, 0.1485), rng.uniform(-0.7, 0.7)))
    solids += props.books(
        rng, rng.uniform(-0.36, -0.26), rng.uniform(-0.25, -0.1), rng.uniform(-0.4, 0.4)
    )
    solids += props.mug(rng, rng.uniform(0.24, 0.34), rng.uniform(-0.26, -0.16))
    solids.append(
        props.chart((rng.uniform(-0.1, 0.1), 0.0075, -0.08), (1, 0, 0), (0, 0, -1), 0.033)
    )
    for _ in range(int(rng.integers(4, 8))):
        solids += props.pen(rng, rng.uniform(-0.3, 0.35), rng.uniform(-0.1, 0.25))
    for _ in range(int(rng.integers(5, 12))):
        solids += props.coin(rng, rng.uniform(-0.35, 0.35), rng.uniform(-0.2, 0.25))
    for _ in range(int(rng.integers(0, 3))):
        solids += props.fruit(rng, rng.uniform(0.2, 0.4), rng.uniform(0.0, 0.2))
    solids += props.plant(rng, rng.uniform(-0.1, 0.12), -0.3)
    solids += props.ball(rng, rng.uniform(-0.4, -0.3), rng.uniform(0.1, 0.2))
    side = _side(rng)
    lamp = (side * rng.uniform(0.4, 0.6), rng.uniform(0.45, 0.6), rng.uniform(-0.3, 0.1))
    return Scene(
        eye=(rng.uniform(-0.1, 0.1), rng.uniform(0.62, 0.8), 0.62),
        target=(0.0, 0.0, -0.02),
        width_angle=math.radians(rng.uniform(42, 48)),
        solids=tuple(solids),
        lights=(
            Light(at=lamp, colour=times((1.0, 0.9, 0.74), 0.5), softness=0.09),
            Light(at=(-1.4 * side, 1.2, 0.2), colour=times((0.8, 0.93, 1.15), 0.35), softness=0.4),
        ),
        ambient=((0.09, 0.1, 0.12), (0.06, 0.05, 0.04)),
        corner_gap=0.05,
        kelvin=rng.uniform(3000, 4200),
    )


_KINDS: tuple[Callable[[Rng], Scene], ...] = (_still_life, _room, _street, _garden, _night, _desk)
