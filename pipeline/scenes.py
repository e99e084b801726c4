"""Makes scenes to photograph: six kinds of places, each one different by its seed and number.

The trade-off: places are put together from few kinds of solids, so that a scene is some hundred
lines of data and renders in seconds; they stand in for photographs (light that falls off, fine
texture, saturated and deep colours, print, foliage, highlights), not for a film.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.raycast import F32, Disc, Light, Scene, Sky, meter
from pipeline.solids import Box, Ellipsoid, Frustum, Material, Sheet, Solid, Vec

Rng = np.random.Generator

_METER = (72, 108)
"""Size of the small picture that the exposure is measured on."""
_MEAN_LEVEL = 0.15
"""Mean linear level that the exposure aims at."""

_PIGMENTS = (
    "b3241c d4582a e0992b e9c83d 8aa53a 3f7a3a 1f6e63 2a7fa8 2b4f9a 57408f 8e3a78 c2476b "
    "6b3b25 a06a3e d9c7a3 efe9dd 2a2a2c 7d7f80 c9ccd0 943b31 446e8e 5e6b3c"
).split()
"""Reflectances of painted, printed and dyed things, as sRGB."""
_WALLS = "d9d2c3 cfd6d8 e4dccb b9c4b5 c7b39a d8c0b4 a9b3c0 e6e4de b8a58e 93a39a".split()
_WOODS = ("6b4226 3a2213", "a9764a 6e4424", "caa06c 9a6e3e", "4a2d1c 26160d", "b98a5a 7d5530")
_CHART = (
    "735244 c29682 627a9d 576c43 8580b1 67bdaa d67e2c 505ba6 c15a63 5e3c6c 9dbc40 e0a32e "
    "383d96 469449 af363c e7c71f bb5695 0885a1 f3f3f2 c8c8c8 a0a0a0 7a7a79 555555 343434"
).split()
"""A chart of 24 patches in the manner of photographers' test charts."""


def make_scene(seed: int, number: int) -> Scene:
    """Returns scene `number` (from 0) of a seed. Six in a row are of six different kinds."""
    order = np.random.Generator(np.random.Philox(key=[seed, number // len(_KINDS)])).permutation(
        len(_KINDS)
    )
    kind = _KINDS[int(order[number % len(_KINDS)])]
    rng = np.random.Generator(np.random.Philox(key=[seed, (number + 1) << 32]))
    return _exposed(kind(rng))


def _exposed(scene: Scene) -> Scene:
    """Returns the scene with the exposure that a photographer would choose."""
    picture = meter(scene, _METER)
    peak = picture.max(axis=2)
    high, higher = np.quantile(peak, [0.98, 0.999]).tolist()
    mean = float(np.minimum(picture, high).mean())
    exposure = min(_MEAN_LEVEL / mean, 1.6 / high)
    return dataclasses.replace(scene, exposure=max(exposure, 1.3 / higher))


# --- colours and materials -----------------------------------------------------------------------


def _ink(code: str) -> Vec:
    """Returns the linear reflectance of an sRGB colour such as `b3241c`."""
    red, green, blue = ((int(code[i : i + 2], 16) / 255.0) for i in (0, 2, 4))
    return (_linear(red), _linear(green), _linear(blue))


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def _pick(rng: Rng, colours: Sequence[str]) -> str:
    return colours[int(rng.integers(len(colours)))]


def _pigment(rng: Rng) -> Vec:
    return _vary(rng, _ink(_pick(rng, _PIGMENTS)))


def _vary(rng: Rng, colour: Vec, amount: float = 0.12) -> Vec:
    shade = math.exp(rng.normal(0, amount))
    red, green, blue = (min(0.92, c * shade * math.exp(rng.normal(0, amount / 2))) for c in colour)
    return (red, green, blue)


def _times(colour: Vec, factor: float) -> Vec:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def _shift(rng: Rng) -> tuple[float, float]:
    return (float(rng.random()), float(rng.random()))


def _stuff(
    rng: Rng, texture: str, first: Vec, second: Vec, size: float, **more: object
) -> Material:
    """Returns a textured material placed at random."""
    return Material(
        first=first, second=second, texture=texture, size=size, shift=_shift(rng), **more
    )  # type: ignore[arg-type]


def _timber(rng: Rng, size: float, **more: object) -> Material:
    light, dark = _pick(rng, _WOODS).split()
    return _stuff(rng, "wood", _ink(light), _ink(dark), size, **more)


def _wall(rng: Rng, size: float, **more: object) -> Material:
    """Returns plaster, brick, tiles or stone."""
    paint = _vary(rng, _ink(_pick(rng, _WALLS)))
    kind = rng.choice(["plaster", "plaster", "brick", "tile", "stone"])
    if kind == "brick":
        return _stuff(rng, "brick", _vary(rng, _ink("8c4a35")), _ink("b9ada0"), size, **more)
    if kind == "tile":
        return _stuff(rng, "tile", paint, _times(paint, 0.35), size * 0.8, gloss=0.15, **more)
    return _stuff(rng, str(kind), paint, _times(paint, 0.82), size, **more)


def _cells(rng: Rng, rows: int, columns: int, make: Callable[[Rng], Vec]) -> F32:
    """Returns `(rows, columns, 3)` colours."""
    return np.array([[make(rng) for _ in range(columns)] for _ in range(rows)], np.float32)


def _chart(corner: Vec, along: Vec, up: Vec, patch: float) -> Sheet:
    colours = np.array([_ink(c) for c in _CHART], np.float32).reshape(4, 6, 3)[::-1]
    card = Material(
        first=(0.0, 0.0, 0.0),
        second=_ink("1c1c1c"),
        cells=colours.copy(),
        cell=(patch, patch),
        joint=0.14,
    )
    return Sheet(
        material=card, corner=corner, along=_times(along, 6 * patch), up=_times(up, 4 * patch)
    )


# --- things --------------------------------------------------------------------------------------


def _fruit(rng: Rng, x: float, z: float, y: float = 0.0) -> list[Solid]:
    first, second = [
        ("b3241c", "d9a53a"),
        ("d9761f", "e29a35"),
        ("7f9a2a", "c2b23c"),
        ("e3c33a", "b99a2a"),
        ("4a1f3d", "6d2f52"),
    ][int(rng.integers(5))].__iter__()
    r = rng.uniform(0.032, 0.046)
    skin = _stuff(rng, "peel", _ink(first), _ink(second), 0.09, gloss=0.35, sharpness=90.0)
    body = Ellipsoid(
        material=skin, at=(x, y + r * 0.95, z), radii=(r, r * rng.uniform(0.88, 1.02), r)
    )
    stalk = Frustum(
        material=Material(first=_ink("3b2a18")),
        foot=(x, y + 1.80 * r, z),
        height=0.3 * r,
        bottom=0.002,
        top=0.003,
    )
    return [body, stalk]


def _ball(rng: Rng, x: float, z: float) -> list[Solid]:
    r = rng.uniform(0.03, 0.055)
    shiny = Material(first=_pigment(rng), gloss=rng.uniform(0.6, 1.0), sharpness=400.0)
    return [Ellipsoid(material=shiny, at=(x, r, z), radii=(r, r, r))]


def _bottle(rng: Rng, x: float, z: float) -> list[Solid]:
    glass = Material(
        first=_ink(_pick(rng, ("16331c", "3a1d0c", "10263a", "40301a", "d5d8d6"))),
        gloss=0.9,
        sharpness=250.0,
    )
    r, h = rng.uniform(0.028, 0.040), rng.uniform(0.13, 0.19)
    paper = _stuff(rng, "print", _ink("e8e0c8"), _pigment(rng), 0.10)
    cork = Material(first=_ink("b3241c") if rng.random() < 0.4 else _ink("c9a877"))
    return [
        Frustum(material=glass, foot=(x, 0, z), height=h, bottom=r, top=r),
        Frustum(
            material=paper, foot=(x, 0.25 * h, z), height=0.5 * h, bottom=r * 1.01, top=r * 1.01
        ),
        Frustum(material=glass, foot=(x, h, z), height=0.05, bottom=r, top=r * 0.38),
        Frustum(material=glass, foot=(x, h + 0.05, z), height=0.055, bottom=r * 0.38, top=r * 0.36),
        Frustum(material=cork, foot=(x, h + 0.105, z), height=0.018, bottom=r * 0.42, top=r * 0.42),
    ]


def _mug(rng: Rng, x: float, z: float) -> list[Solid]:
    glaze = _pigment(rng)
    ware = _stuff(rng, "marble", glaze, _times(glaze, 0.8), 0.2, gloss=0.5, sharpness=150.0)
    r, h = rng.uniform(0.036, 0.045), rng.uniform(0.075, 0.1)
    coffee = Material(first=_ink("24140a"), gloss=0.5)
    return [
        Frustum(material=ware, foot=(x, 0, z), height=h, bottom=r * 0.86, top=r),
        Frustum(material=coffee, foot=(x, h, z), height=0.0006, bottom=r * 0.9, top=r * 0.9),
    ]


def _books(rng: Rng, x: float, z: float, turn: float) -> list[Solid]:
    y, pile = 0.0, list[Solid]()
    for _ in range(int(rng.integers(2, 6))):
        half = (rng.uniform(0.075, 0.105), rng.uniform(0.008, 0.02), rng.uniform(0.055, 0.075))
        cover = _pigment(rng)
        cloth = _stuff(rng, "print", cover, _vary(rng, _ink("e9c83d")), 0.11, gloss=0.06)
        paper = _stuff(rng, "wood", _ink("e6dcc3"), _ink("c9bda0"), 0.05, relief=0.4)
        angle = turn + rng.normal(0, 0.12)
        c, s = math.cos(angle), math.sin(angle)
        inner = (x + c * 0.004, y + half[1], z - s * 0.004)
        pile.append(
            Box(
                material=paper,
                at=inner,
                half=(half[0] - 0.002, half[1] - 0.0025, half[2] - 0.003),
                turn=angle,
            )
        )
        for lid in (0.0013, 2 * half[1] - 0.0013):
            pile.append(
                Box(material=cloth, at=(x, y + lid, z), half=(half[0], 0.0013, half[2]), turn=angle)
            )
        pile.append(
            Box(
                material=cloth,
                at=(x + s * half[2], y + half[1], z + c * half[2]),
                half=(half[0], half[1], 0.0015),
                turn=angle,
            )
        )
        y += 2 * half[1]
    return pile


def _candle(rng: Rng, x: float, z: float) -> list[Solid]:
    h = rng.uniform(0.06, 0.13)
    wax = Material(first=_vary(rng, _ink("eadfc6")), gloss=0.15)
    flame = Material(first=(1.0, 0.62, 0.24), glow=26.0)
    return [
        Frustum(material=wax, foot=(x, 0, z), height=h, bottom=0.022, top=0.021),
        Frustum(
            material=Material(first=_ink("1a1512")),
            foot=(x, h, z),
            height=0.01,
            bottom=0.0012,
            top=0.001,
        ),
        Ellipsoid(material=flame, at=(x, h + 0.022, z), radii=(0.0055, 0.015, 0.0055)),
    ]


# --- kinds of places -----------------------------------------------------------------------------


def _still_life(rng: Rng) -> Scene:
    """Things on a table before a wall, lit by a window at the side."""
    side = -1.0 if rng.random() < 0.5 else 1.0
    table = _table_top(rng)
    wall = _wall(rng, 1.1, blur=rng.uniform(0.004, 0.012))
    solids: list[Solid] = [
        Box(material=table, at=(0, -0.02, -0.05), half=(0.85, 0.02, 0.5)),
        Sheet(material=wall, corner=(-2.0, -1.0, -0.75), along=(4.0, 0, 0), up=(0, 3.0, 0)),
    ]
    solids += _arranged(rng)
    window = Sheet(
        material=Material(first=(1, 1, 1)),
        corner=(side * 1.3, 0.35, -0.5),
        along=(0, 0, 1.3),
        up=(0, 1.1, 0),
    )
    sun = Light(
        at=(side * 1.0, rng.uniform(0.55, 0.8), rng.uniform(0.2, 0.5)),
        sun=True,
        colour=_times((1.0, 0.93, 0.82), rng.uniform(1.6, 2.4)),
        softness=0.05,
        portal=window,
        panes=(2, 3),
    )
    skylight = Light(at=(side * 1.3, 0.95, 0.3), colour=_times((0.9, 0.97, 1.1), 1.3), softness=0.4)
    return Scene(
        eye=(rng.uniform(-0.25, 0.25), rng.uniform(0.28, 0.42), 0.95),
        target=(0.0, 0.075, -0.05),
        width_angle=math.radians(rng.uniform(34, 40)),
        solids=tuple(solids),
        lights=(sun, skylight),
        ambient=((0.16, 0.165, 0.18), (0.10, 0.085, 0.07)),
    )


def _table_top(rng: Rng) -> Material:
    kind = rng.choice(["wood", "cloth", "marble", "leather"])
    if kind == "wood":
        return _timber(rng, 0.5, gloss=0.22)
    if kind == "marble":
        return _stuff(
            rng, "marble", _ink("e9e5df"), _ink("6f6a66"), 0.6, gloss=0.4, sharpness=200.0
        )
    if kind == "cloth":
        dye = _pigment(rng)
        return _stuff(rng, "cloth", dye, _times(dye, 0.6), 0.16)
    return _stuff(rng, "leather", _ink("4a2a1a"), _ink("6b3f26"), 0.3, gloss=0.25)


def _arranged(rng: Rng) -> list[Solid]:
    """Returns things on a table, none within another, the tall ones behind; a chart at times."""
    makers: list[Callable[[Rng, float, float], list[Solid]]] = [
        _bottle,
        _mug,
        _fruit,
        _fruit,
        _ball,
        _candle,
    ]
    solids, places = list[Solid](), list[tuple[float, float]]()
    if rng.random() < 0.75:
        x, z = rng.uniform(-0.26, 0.26), rng.uniform(-0.28, -0.18)
        solids += _books(rng, x, z, rng.uniform(-0.5, 0.5))
        places.append((x, z))
    if rng.random() < 0.6:
        x = rng.choice([-0.36, 0.2])
        solids.append(_chart((x, 0.001, -0.34), (1, 0, 0.15), (0, 0.97, -0.25), 0.034))
        places.append((x + 0.1, -0.3))
    for _ in range(200):
        if len(places) >= 10:
            break
        x, z = rng.uniform(-0.36, 0.36), rng.uniform(-0.25, 0.25)
        apart = 0.12 if len(places) > 2 else 0.16
        if all(math.hypot(x - a, z - b) > apart for a, b in places):
            maker = makers[int(rng.integers(len(makers)))] if z < 0.08 else _fruit
            solids += maker(rng, x, z)
            places.append((x, z))
    return solids


def _room(rng: Rng) -> Scene:
    """A living room: shelves, sofa, rug, lamp, pictures, sun through the window."""
    side = -1.0 if rng.random() < 0.5 else 1.0
    wide, deep, high = rng.uniform(4.2, 5.2), 4.6, 2.7
    half = wide / 2
    paint = _vary(rng, _ink(_pick(rng, _WALLS)))
    wall = _stuff(rng, "plaster", paint, _times(paint, 0.88), 1.2)
    back = _wall(rng, 1.3) if rng.random() < 0.5 else wall
    floor = _stuff(
        rng,
        "parquet",
        *(_ink(c) for c in _pick(rng, _WOODS).split()),
        1.1,
        gloss=0.18,
        quarter=True,
    )
    solids: list[Solid] = [
        Sheet(
            material=floor, corner=(-half, 0, -deep / 2), along=(wide, 0, 0), up=(0, 0, deep + 2)
        ),
        Sheet(material=back, corner=(-half, 0, -deep / 2), along=(wide, 0, 0), up=(0, high, 0)),
        Sheet(material=wall, corner=(-half, 0, -deep / 2), along=(0, 0, deep + 2), up=(0, high, 0)),
        Sheet(material=wall, corner=(half, 0, -deep / 2), along=(0, 0, deep + 2), up=(0, high, 0)),
        Sheet(
            material=Material(first=_ink("e8e6e0"), texture="plaster", second=_ink("dddad2")),
            corner=(-half, high, -deep / 2),
            along=(wide, 0, 0),
            up=(0, 0, deep + 2),
        ),
    ]
    solids += _furniture(rng, half, deep, side)
    solids += _window(side * (half - 0.01), deep)
    portal = Sheet(
        material=wall, corner=(side * half, 0.95, -1.35), along=(0, 0, 1.5), up=(0, 1.3, 0)
    )
    sun = Light(
        at=(side, rng.uniform(0.55, 0.9), rng.uniform(0.0, 0.5)),
        sun=True,
        colour=_times((1.0, 0.9, 0.74), 4.5),
        softness=0.012,
        portal=portal,
        panes=(2, 2),
    )
    glow = Light(
        at=(side * (half - 0.3), 1.6, -0.6), colour=_times((0.85, 0.95, 1.1), 1.5), softness=0.5
    )
    lamp_x = -side * (half - 0.5)
    lamp = Light(
        at=(lamp_x, 1.55, -deep / 2 + 0.5), colour=_times((1.0, 0.72, 0.42), 0.9), softness=0.15
    )
    return Scene(
        eye=(rng.uniform(-0.7, 0.7), rng.uniform(1.25, 1.6), deep / 2 + 1.0),
        target=(rng.uniform(-0.3, 0.3), 1.05, -deep / 2),
        width_angle=math.radians(rng.uniform(50, 58)),
        solids=tuple(solids),
        lights=(sun, glow, lamp),
        ambient=((0.17, 0.17, 0.18), (0.13, 0.11, 0.09)),
        corner_gap=0.7,
    )


def _window(x: float, deep: float) -> list[Solid]:
    """Returns a bright window in a side wall with its frame."""
    inward = -0.01 if x > 0 else 0.01
    day = Material(
        first=(0.85, 0.95, 1.1), second=(1.2, 1.2, 1.2), texture="cloud", size=2.0, glow=6.0
    )
    white = Material(first=_ink("e9e6df"))
    panes: list[Solid] = [
        Sheet(material=day, corner=(x + inward, 0.95, -1.35), along=(0, 0, 1.5), up=(0, 1.3, 0))
    ]
    for z in (-1.37, -0.6, 0.17):
        panes.append(Box(material=white, at=(x, 1.6, z), half=(0.05, 0.7, 0.03)))
    for y in (0.93, 1.6, 2.27):
        panes.append(Box(material=white, at=(x, y, -0.6), half=(0.05, 0.03, 0.78)))
    return panes


def _furniture(rng: Rng, half: float, deep: float, side: float) -> list[Solid]:
    rear = -deep / 2
    solids: list[Solid] = []
    solids += _shelf(rng, x=side * (half - 1.0), z=rear + 0.17)
    solids += _sofa(rng, x=-side * 0.35, z=rear + 0.75)
    first, second = _pigment(rng), _pigment(rng)
    rug = _stuff(rng, "rug", first, second, rng.uniform(1.2, 1.8))
    solids.append(
        Box(
            material=rug,
            at=(-side * 0.2, 0.008, 0.35),
            half=(1.15, 0.008, 0.8),
            turn=rng.normal(0, 0.1),
        )
    )
    solids += _low_table(rng, -side * 0.25, 0.3)
    lamp_x = -side * (half - 0.5)
    solids += [
        Frustum(
            material=Material(first=_ink("2a2a2c"), gloss=0.5),
            foot=(lamp_x, 0, rear + 0.5),
            height=1.4,
            bottom=0.015,
            top=0.015,
        ),
        Frustum(
            material=Material(first=_ink("2a2a2c"), gloss=0.5),
            foot=(lamp_x, 0, rear + 0.5),
            height=0.03,
            bottom=0.16,
            top=0.15,
        ),
        Frustum(
            material=Material(
                first=(1.0, 0.78, 0.5),
                second=(0.8, 0.55, 0.3),
                texture="cloth",
                size=0.12,
                glow=1.9,
            ),
            foot=(lamp_x, 1.38, rear + 0.5),
            height=0.3,
            bottom=0.22,
            top=0.15,
        ),
    ]
    for x in (-side * 0.75, -side * 0.05):
        solids += _picture(rng, x, rng.uniform(1.65, 1.8), rear)
    return solids


def _picture(rng: Rng, x: float, y: float, wall: float) -> list[Solid]:
    w, h = rng.uniform(0.22, 0.3), rng.uniform(0.2, 0.3)
    frame = Box(material=_timber(rng, 0.4, gloss=0.3), at=(x, y, wall + 0.015), half=(w, h, 0.015))
    if rng.random() < 0.5:
        n = int(rng.integers(3, 7))
        art = Material(
            first=(0, 0, 0),
            second=_ink("efe9dd"),
            cells=_cells(rng, n, n, _pigment),
            cell=(2 * w / n * 0.86, 2 * h / n * 0.86),
            joint=rng.choice([0.0, 0.1]),
            texture="cloth",
            size=0.1,
            relief=0.6,
        )
    else:
        art = _stuff(
            rng,
            rng.choice(["cloud", "marble", "leaf"]),
            _pigment(rng),
            _pigment(rng),
            rng.uniform(0.5, 1.2),
        )
    canvas = Sheet(
        material=art,
        corner=(x - 0.86 * w, y - 0.86 * h, wall + 0.031),
        along=(1.72 * w, 0, 0),
        up=(0, 1.72 * h, 0),
    )
    return [frame, canvas]


def _shelf(rng: Rng, x: float, z: float) -> list[Solid]:
    wood = _timber(rng, 0.8, gloss=0.1)
    w, d, h = 0.6, 0.15, 2.0
    solids: list[Solid] = [
        Box(material=wood, at=(x + s * w, h / 2, z), half=(0.015, h / 2, d)) for s in (-1.0, 1.0)
    ]
    solids.append(Box(material=wood, at=(x, h / 2, z - d + 0.01), half=(w, h / 2, 0.008)))
    for level in np.linspace(0.08, h, 6).tolist():
        solids.append(Box(material=wood, at=(x, level, z), half=(w, 0.012, d)))
        if level < h - 0.1:
            solids += _row_of_books(rng, x - w + 0.03, x + w - 0.03, level + 0.012, z)
    return solids


def _row_of_books(rng: Rng, left: float, right: float, y: float, z: float) -> list[Solid]:
    """Returns books of one shelf, neighbours of one height bound in one row of spines."""
    row: list[Solid] = []
    x = left
    while x < right - 0.1:
        count = int(rng.integers(2, 8))
        thick, tall = rng.uniform(0.018, 0.034), rng.uniform(0.19, 0.31)
        count = min(count, int((right - x) / thick))
        if rng.random() < 0.14:
            x += rng.uniform(0.05, 0.15)
            continue
        spines = Material(
            first=(0, 0, 0),
            second=_ink("15110e"),
            cells=_cells(rng, 1, count, _pigment),
            cell=(thick, 9.0),
            joint=0.07,
            texture="print",
            size=0.19,
            relief=1.0,
            shift=_shift(rng),
        )
        row.append(
            Box(
                material=spines,
                at=(x + count * thick / 2, y + tall / 2, z + rng.uniform(-0.01, 0.03)),
                half=(count * thick / 2, tall / 2, 0.1),
            )
        )
        x += count * thick
    return row


def _sofa(rng: Rng, x: float, z: float) -> list[Solid]:
    dye = _pigment(rng)
    cloth = _stuff(
        rng, str(rng.choice(["cloth", "leather"])), dye, _times(dye, 0.7), 0.25, gloss=0.06
    )

    def part(px: float, py: float, pz: float, hx: float, hy: float, hz: float) -> Solid:
        return Box(material=cloth, at=(x + px, py, z + pz), half=(hx, hy, hz), bevel=0.05)

    solids = [
        part(0, 0.2, 0, 0.95, 0.12, 0.42),
        part(0, 0.5, -0.33, 0.95, 0.28, 0.1),
        part(-0.98, 0.3, 0, 0.11, 0.26, 0.44),
        part(0.98, 0.3, 0, 0.11, 0.26, 0.44),
        part(-0.43, 0.37, 0.04, 0.42, 0.07, 0.38),
        part(0.43, 0.37, 0.04, 0.42, 0.07, 0.38),
    ]
    for px in (-0.55, 0.1, 0.6):
        hue = _pigment(rng)
        pillow = _stuff(rng, rng.choice(["rug", "cloth"]), hue, _pigment(rng), 0.35)
        solids.append(
            Ellipsoid(material=pillow, at=(x + px, 0.58, z - 0.12), radii=(0.22, 0.18, 0.085))
        )
    return solids


def _low_table(rng: Rng, x: float, z: float) -> list[Solid]:
    wood = _timber(rng, 0.7, gloss=0.3)
    solids: list[Solid] = [Box(material=wood, at=(x, 0.4, z), half=(0.5, 0.02, 0.3))]
    for a in (-0.44, 0.44):
        for b in (-0.25, 0.25):
            solids.append(Box(material=wood, at=(x + a, 0.19, z + b), half=(0.025, 0.19, 0.025)))
    for thing in (
        *_books(rng, x - 0.2, z, 0.3),
        *_mug(rng, x + 0.18, z + 0.08),
        *_fruit(rng, x + 0.33, z - 0.1),
        *_bottle(rng, x + 0.05, z - 0.16),
    ):
        solids.append(thing.lifted(0.42))
    return solids


def _street(rng: Rng) -> Scene:
    """A street in the blue hour: lit windows, shop signs, lamps, wet asphalt."""
    solids: list[Solid] = []
    asphalt = _stuff(rng, "stone", _ink("4a4b4e"), _ink("2f3033"), 1.4, gloss=0.35, sharpness=12.0)
    kerb = _stuff(rng, "tile", _ink("8b867d"), _ink("4b4844"), 4.0)
    solids.append(Sheet(material=asphalt, corner=(-4, 0, -90), along=(8, 0, 0), up=(0, 0, 100)))
    lights, discs = list[Light](), list[Disc]()
    for side in (-1.0, 1.0):
        solids.append(Box(material=kerb, at=(side * 5.5, 0.06, -40), half=(1.5, 0.08, 50)))
        z = 1.0
        while z > -70:
            length = rng.uniform(7, 13)
            solids += _house(rng, side, z - length / 2, length / 2)
            z -= length
        for z in (-7.0, -19.0, -33.0):
            at = (side * 4.2, 5.0, z + side * 2.5)
            solids += _street_lamp(at)
            discs.append(
                Disc(towards=_from_eye(at), colour=(0.16, 0.1, 0.045), angle=0.035, glare=True)
            )
            if z > -30:
                lights.append(Light(at=at, colour=_times((1.0, 0.66, 0.33), 10.0), softness=0.05))
    solids += _car(rng, rng.choice([-2.6, 2.6]), rng.uniform(-12, -8)) + _car(
        rng, rng.choice([-2.6, 2.6]), rng.uniform(-22, -17)
    )
    dusk = rng.uniform(0.6, 1.2)
    sky = Sky(
        zenith=_times((0.05, 0.09, 0.22), dusk),
        horizon=_times((0.42, 0.26, 0.2), dusk),
        clouds=0.5,
        cloud_colour=_times((0.22, 0.16, 0.2), dusk),
    )
    return Scene(
        eye=_STREET_EYE,
        target=(rng.uniform(-0.5, 0.5), 2.3, -12.0),
        width_angle=math.radians(rng.uniform(52, 62)),
        solids=tuple(solids),
        lights=tuple(lights),
        ambient=(_times((0.10, 0.14, 0.26), dusk), (0.05, 0.04, 0.035)),
        sky=sky,
        discs=tuple(discs),
        fog=160.0,
        corner_gap=0.5,
    )


_STREET_EYE: Vec = (0.6, 1.65, 4.0)


def _from_eye(at: Vec) -> Vec:
    return (at[0] - _STREET_EYE[0], at[1] - _STREET_EYE[1], at[2] - _STREET_EYE[2])


def _house(rng: Rng, side: float, z: float, half: float) -> list[Solid]:
    """Returns one house of a row, with windows towards the street, some of them lit."""
    high = rng.uniform(6.5, 13.0)
    front = side * 7.0
    wall = _wall(rng, 1.8)
    solids: list[Solid] = [
        Box(
            material=wall,
            at=(side * 10.0, high / 2, z),
            half=(3.0, high / 2, half - 0.02),
            bevel=0.02,
        )
    ]
    pitch, storey = rng.uniform(1.6, 2.2), 2.9
    frame = Material(first=_vary(rng, _ink("d9d2c3")))
    count = max(1, int((2 * half - 0.6) / pitch))
    for level in range(1, int((high - 0.8) / storey)):
        for k in range(count):
            at = z - (count - 1) / 2 * pitch + k * pitch
            solids += _house_window(rng, front, side, level * storey + 1.5, at, frame)
    solids += _shop(rng, front, side, z, half)
    return solids


def _house_window(
    rng: Rng, front: float, side: float, y: float, z: float, frame: Material
) -> list[Solid]:
    lit = rng.random() < 0.42
    tone = _vary(rng, _ink(_pick(rng, ("ffd9a0", "ffe6c0", "ffc070", "e8f0ff"))), 0.2)
    pane = (
        Material(
            first=tone,
            second=_times(tone, 0.45),
            texture="cloud",
            size=1.7,
            shift=_shift(rng),
            glow=rng.uniform(0.5, 1.6),
        )
        if lit
        else Material(first=_ink("14181e"), gloss=0.9, sharpness=200.0)
    )
    x = front - side * 0.02
    return [
        Box(material=frame, at=(front, y, z), half=(0.05, 0.82, 0.5)),
        Box(material=pane, at=(front - side * 0.03, y + 0.02, z), half=(0.03, 0.72, 0.42)),
        Box(material=frame, at=(x - side * 0.05, y, z), half=(0.01, 0.72, 0.025)),
        Box(material=frame, at=(x - side * 0.05, y + 0.2, z), half=(0.01, 0.025, 0.42)),
    ]


def _shop(rng: Rng, front: float, side: float, z: float, half: float) -> list[Solid]:
    tone = _vary(rng, _ink(_pick(rng, ("ffe2b0", "fff2dc", "e0ecff"))), 0.15)
    goods = Material(
        first=(0, 0, 0),
        second=_times(tone, 1.0),
        cells=np.clip(_cells(rng, 5, 9, _pigment) * np.array(tone, np.float32) * 1.6, 0, 1),
        cell=(0.42, 0.5),
        joint=0.3,
        glow=rng.uniform(0.5, 1.4),
        texture="peel",
        size=1.0,
        relief=2.0,
    )
    sign = _stuff(
        rng,
        "print",
        _times(_pigment(rng), 0.8),
        (1.0, 1.0, 0.95),
        rng.uniform(5.0, 8.0),
        glow=rng.uniform(0.8, 2.0),
    )
    wide = min(half - 0.5, 3.2)
    return [
        Box(material=goods, at=(front - side * 0.02, 1.45, z), half=(0.04, 1.05, wide)),
        Box(material=sign, at=(front - side * 0.1, 2.85, z), half=(0.1, 0.24, wide)),
    ]


def _street_lamp(at: Vec) -> list[Solid]:
    iron = Material(first=_ink("22252a"), gloss=0.4)
    return [
        Frustum(
            material=iron, foot=(at[0], 0.1, at[2]), height=at[1] - 0.25, bottom=0.07, top=0.045
        ),
        Ellipsoid(
            material=Material(first=(1.0, 0.8, 0.5), glow=9.0), at=at, radii=(0.17, 0.2, 0.17)
        ),
        Frustum(
            material=iron, foot=(at[0], at[1] + 0.14, at[2]), height=0.16, bottom=0.2, top=0.04
        ),
    ]


def _car(rng: Rng, x: float, z: float) -> list[Solid]:
    paint = Material(first=_pigment(rng), gloss=0.9, sharpness=120.0)
    glass = Material(first=_ink("0e1114"), gloss=1.0, sharpness=200.0)
    tyre = Material(first=_ink("17171a"))
    red = Material(first=(1.0, 0.05, 0.03), glow=2.4)
    solids: list[Solid] = [
        Box(material=paint, at=(x, 0.62, z), half=(0.88, 0.3, 2.0), bevel=0.12),
        Box(material=glass, at=(x, 1.12, z - 0.15), half=(0.74, 0.24, 1.0), bevel=0.12),
        Box(material=paint, at=(x, 1.38, z - 0.15), half=(0.72, 0.04, 0.95), bevel=0.04),
        Box(
            material=Material(
                first=_ink("efe9dd"), texture="print", second=_ink("15110e"), size=0.9
            ),
            at=(x, 0.55, z + 2.0),
            half=(0.26, 0.06, 0.01),
        ),
    ]
    for s in (-1.0, 1.0):
        solids.append(Box(material=red, at=(x + s * 0.68, 0.74, z + 2.0), half=(0.15, 0.06, 0.015)))
        for along in (-1.25, 1.3):
            solids.append(
                Ellipsoid(
                    material=tyre, at=(x + s * 0.78, 0.32, z + along), radii=(0.12, 0.32, 0.32)
                )
            )
    return solids


def _garden(rng: Rng) -> Scene:
    """A garden in late sun: lawn, path, hedges, trees, a brick wall, flowers."""
    solids: list[Solid] = []
    lawn = _stuff(rng, "grass", _ink("6f8a35"), _ink("a3a04a"), 0.9)
    path = _stuff(rng, "brick", _ink("a08d78"), _ink("6e6a5c"), 1.5)
    solids.append(Sheet(material=lawn, corner=(-30, 0, -40), along=(60, 0, 0), up=(0, 0, 50)))
    bend = rng.uniform(-0.12, 0.12)
    solids.append(
        Box(material=path, at=(rng.uniform(-0.6, 0.6), 0.005, -8), half=(0.75, 0.01, 14), turn=bend)
    )
    solids.append(Box(material=_wall(rng, 1.6), at=(0, 0.8, -16), half=(12, 0.8, 0.25)))
    for side in (-1.0, 1.0):
        for z in (-3.5, -6.5, -10.0, -13.5):
            x = side * rng.uniform(1.9, 3.4)
            solids += rng.choice([_bush, _tree, _flowers])(rng, x, z + rng.uniform(-0.8, 0.8))
    for x in np.linspace(-11, 11, 7).tolist():
        solids += _tree(rng, x + rng.uniform(-1, 1), -18.5 - rng.uniform(0, 3))
    solids += _bench(rng, rng.choice([-1.5, 1.5]), rng.uniform(-5.5, -4.5))
    evening = rng.random()
    sun = Light(
        at=(rng.choice([-1.0, 1.0]), rng.uniform(0.45, 0.8), rng.uniform(-0.3, 0.6)),
        sun=True,
        colour=_times((1.0, 0.88 - 0.1 * evening, 0.7 - 0.2 * evening), 1.7),
        softness=0.03,
    )
    sky = Sky(
        zenith=(0.16, 0.32, 0.72),
        horizon=(0.75, 0.78, 0.8),
        clouds=rng.uniform(0.4, 0.95),
        cloud_colour=(1.05, 0.98, 0.92),
    )
    return Scene(
        eye=(rng.uniform(-0.4, 0.4), rng.uniform(1.3, 1.6), 2.2),
        target=(rng.uniform(-0.4, 0.4), 1.15, -8.0),
        width_angle=math.radians(rng.uniform(44, 54)),
        solids=tuple(solids),
        lights=(sun,),
        ambient=((0.26, 0.33, 0.45), (0.10, 0.11, 0.06)),
        sky=sky,
        fog=300.0,
        corner_gap=0.1,
    )


def _greenery(rng: Rng, size: float) -> Material:
    first, second = [
        ("5d7a2c", "9aa544"),
        ("3f6b34", "6f9150"),
        ("7a6a25", "b58a2e"),
        ("52702f", "86994a"),
    ][int(rng.integers(4))].__iter__()
    return _stuff(rng, "leaf", _ink(first), _ink(second), size, cut=0.22, relief=1.1)


def _crown(
    rng: Rng, x: float, y: float, z: float, wide: float, high: float, leaves: float, count: int
) -> list[Solid]:
    """Returns leafy sheets around a dark core: a crown with holes and a ragged rim."""
    green = _greenery(rng, leaves)
    core = Material(
        first=_times(green.first, 0.25),
        second=_times(green.second, 0.3),
        texture="leaf",
        size=leaves * 0.8,
        shift=_shift(rng),
    )
    solids: list[Solid] = [
        Ellipsoid(material=core, at=(x, y, z), radii=(wide * 0.66, high * 0.66, wide * 0.55))
    ]
    for k in range(count):
        turn = rng.uniform(-0.7, 0.7)
        c, s = math.cos(turn), math.sin(turn)
        w, h = wide * rng.uniform(0.7, 1.1), high * rng.uniform(0.7, 1.1)
        px, py = x + rng.normal(0, 0.33) * wide, y + rng.normal(0, 0.3) * high
        pz = z + (k / max(count - 1, 1) - 0.4) * wide
        material = dataclasses.replace(
            green, shift=_shift(rng), first=_vary(rng, green.first, 0.15)
        )
        solids.append(
            Sheet(
                material=material,
                corner=(px - c * w, py - h, pz - s * w),
                along=(2 * c * w, 0, 2 * s * w),
                up=(0, 2 * h, 0),
            )
        )
    return solids


def _tree(rng: Rng, x: float, z: float) -> list[Solid]:
    high = rng.uniform(1.6, 2.4)
    bark = _stuff(rng, "wood", _ink("5a4632"), _ink("2e2318"), 0.5, quarter=True)
    trunk = Frustum(material=bark, foot=(x, 0, z), height=high + 0.6, bottom=0.16, top=0.09)
    return [
        trunk,
        *_crown(rng, x, high + 1.1, z, rng.uniform(1.2, 1.7), rng.uniform(1.1, 1.5), 2.2, 7),
    ]


def _bush(rng: Rng, x: float, z: float) -> list[Solid]:
    high = rng.uniform(0.4, 0.65)
    return _crown(rng, x, high * 0.9, z, rng.uniform(0.6, 0.9), high, 1.0, 6)


def _flowers(rng: Rng, x: float, z: float) -> list[Solid]:
    solids = _crown(rng, x, 0.22, z, 0.8, 0.26, 0.7, 5)
    bloom = _ink(_pick(rng, ("d4582a", "c2476b", "e9c83d", "efe9dd", "8e3a78", "b3241c")))
    for _ in range(26):
        r = rng.uniform(0.02, 0.04)
        petal = Material(first=_vary(rng, bloom), gloss=0.05)
        at = (x + rng.normal(0, 0.35), rng.uniform(0.28, 0.5), z + rng.uniform(0.0, 0.6))
        solids.append(Ellipsoid(material=petal, at=at, radii=(r, r * 0.7, r)))
    return solids


def _bench(rng: Rng, x: float, z: float) -> list[Solid]:
    wood = _timber(rng, 0.6, gloss=0.1)
    iron = Material(first=_ink("22252a"), gloss=0.4)
    solids: list[Solid] = [
        Box(material=wood, at=(x, 0.45, z + k * 0.13), half=(0.8, 0.018, 0.055)) for k in (-1, 0, 1)
    ]
    solids += [
        Box(material=wood, at=(x, 0.62 + k * 0.13, z - 0.24), half=(0.8, 0.05, 0.016))
        for k in (0, 1, 2)
    ]
    solids += [
        Box(material=iron, at=(x + s * 0.7, 0.22, z), half=(0.025, 0.22, 0.22)) for s in (-1.0, 1.0)
    ]
    return solids


def _night(rng: Rng) -> Scene:
    """A table in the dark before the lights of a town that are out of focus."""
    solids: list[Solid] = [
        Box(
            material=_timber(rng, 0.5, gloss=0.5, sharpness=40.0),
            at=(0, -0.02, 0.1),
            half=(0.9, 0.02, 0.35),
        )
    ]
    x = rng.uniform(-0.12, 0.12)
    solids += _candle(rng, x, 0.0)
    places = [(x, 0.0)]
    for _ in range(60):
        px, pz = rng.uniform(-0.3, 0.3), rng.uniform(-0.15, 0.2)
        if len(places) < 8 and all(math.hypot(px - a, pz - b) > 0.1 for a, b in places):
            makers = (_ball, _mug, _fruit, _bottle) if pz < 0.03 else (_fruit, _ball)
            solids += makers[int(rng.integers(len(makers)))](rng, px, pz)
            places.append((px, pz))
    card = _stuff(rng, "print", _ink("efe9dd"), _ink("2a2a2c"), 0.14)
    solids.append(
        Box(
            material=card,
            at=(-x + 0.16, 0.0005, 0.2),
            half=(0.07, 0.0008, 0.05),
            turn=rng.uniform(-0.6, 0.6),
        )
    )
    flame_y = next(s.at[1] for s in solids if isinstance(s, Ellipsoid) and s.material.glow)
    lights = (
        Light(at=(x, flame_y, 0.0), colour=_times((1.0, 0.6, 0.26), 0.055), softness=0.12),
        Light(
            at=(rng.choice([-1.0, 1.0]) * 0.9, 0.9, 0.5),
            colour=_times((0.7, 0.85, 1.1), 0.32),
            softness=0.25,
        ),
    )
    discs = [_town_light(rng) for _ in range(70)]
    return Scene(
        eye=(rng.uniform(-0.15, 0.15), rng.uniform(0.16, 0.24), 0.85),
        target=(0.0, 0.1, 0.0),
        width_angle=math.radians(rng.uniform(34, 40)),
        solids=tuple(solids),
        lights=lights,
        ambient=((0.035, 0.04, 0.06), (0.03, 0.022, 0.018)),
        sky=Sky(zenith=(0.008, 0.012, 0.03), horizon=(0.05, 0.035, 0.04)),
        discs=(
            *discs,
            Disc(
                towards=(x, flame_y - 0.2, -0.85),
                colour=(0.05, 0.03, 0.012),
                angle=0.05,
                glare=True,
            ),
        ),
    )


def _town_light(rng: Rng) -> Disc:
    tone = _ink(
        _pick(rng, ("ffb45a", "ffd08a", "ff7a3a", "ff4a3a", "9ad0ff", "6affb0", "ffe9c8", "d08aff"))
    )
    towards = (rng.uniform(-0.42, 0.42), abs(rng.normal(0.0, 0.09)) - 0.06, -1.0)
    return Disc(
        towards=towards,
        colour=_times(tone, math.exp(rng.normal(-1.6, 0.8))),
        angle=rng.uniform(0.014, 0.03),
    )


def _desk(rng: Rng) -> Scene:
    """A desk from above: papers, books, chart, pens, coins, cup, in a lamp's light."""
    top = _table_top(rng)
    solids: list[Solid] = [
        Sheet(material=top, corner=(-1.2, 0, -1.0), along=(2.4, 0, 0), up=(0, 0, 2.0))
    ]
    for k in range(int(rng.integers(2, 5))):
        paper = Material(
            first=_vary(rng, _ink("ece7da"), 0.05),
            second=_ink("26262a"),
            texture="print",
            size=rng.uniform(0.14, 0.24),
            shift=_shift(rng),
        )
        half = (0.105, 0.0006, 0.1485)
        solids.append(
            Box(
                material=paper,
                at=(rng.uniform(-0.3, 0.3), 0.001 + 0.0012 * k, rng.uniform(-0.12, 0.2)),
                half=half,
                turn=rng.uniform(-0.7, 0.7),
                bevel=0.0002,
            )
        )
    solids += _books(
        rng, rng.uniform(-0.36, -0.26), rng.uniform(-0.25, -0.1), rng.uniform(-0.4, 0.4)
    )
    solids += _mug(rng, rng.uniform(0.24, 0.34), rng.uniform(-0.26, -0.16))
    solids.append(_chart((rng.uniform(-0.1, 0.1), 0.006, -0.08), (1, 0, 0), (0, 0, -1), 0.033))
    for _ in range(int(rng.integers(4, 8))):
        solids += _pen(rng, rng.uniform(-0.3, 0.35), rng.uniform(-0.1, 0.25))
    for _ in range(int(rng.integers(5, 12))):
        solids += _coin(rng, rng.uniform(-0.35, 0.35), rng.uniform(-0.2, 0.25))
    for _ in range(3):
        solids += (
            _fruit(rng, rng.uniform(0.2, 0.4), rng.uniform(0.0, 0.2)) if rng.random() < 0.3 else []
        )
    solids += _plant(rng, rng.uniform(-0.1, 0.12), -0.34)
    lamp = (
        rng.choice([-1.0, 1.0]) * rng.uniform(0.4, 0.6),
        rng.uniform(0.45, 0.6),
        rng.uniform(-0.3, 0.1),
    )
    return Scene(
        eye=(rng.uniform(-0.1, 0.1), rng.uniform(0.62, 0.8), 0.62),
        target=(0.0, 0.0, -0.02),
        width_angle=math.radians(rng.uniform(42, 48)),
        solids=tuple(solids),
        lights=(
            Light(at=lamp, colour=_times((1.0, 0.8, 0.56), 0.55), softness=0.09),
            Light(
                at=(-1.4 * math.copysign(1, lamp[0]), 1.2, 0.2),
                colour=_times((0.8, 0.93, 1.15), 0.35),
                softness=0.4,
            ),
        ),
        ambient=((0.09, 0.1, 0.12), (0.06, 0.05, 0.04)),
        corner_gap=0.05,
    )


def _pen(rng: Rng, x: float, z: float) -> list[Solid]:
    turn = rng.uniform(-math.pi, math.pi)
    c, s = math.cos(turn), math.sin(turn)
    body = Material(first=_pigment(rng), gloss=0.5, sharpness=80.0)
    wood = Material(first=_ink("d8b383"))
    return [
        Box(material=body, at=(x, 0.009, z), half=(0.07, 0.0038, 0.0038), turn=turn, bevel=0.003),
        Box(
            material=wood,
            at=(x + c * 0.077, 0.009, z - s * 0.077),
            half=(0.007, 0.0028, 0.0028),
            turn=turn,
            bevel=0.002,
        ),
        Box(
            material=Material(first=_ink("26262a")),
            at=(x + c * 0.087, 0.009, z - s * 0.087),
            half=(0.003, 0.0012, 0.0012),
            turn=turn,
        ),
    ]


def _coin(rng: Rng, x: float, z: float) -> list[Solid]:
    metal = _ink(_pick(rng, ("b87a4b", "c9b06a", "b9bcc0")))
    face = _stuff(rng, "leather", _times(metal, 0.8), metal, 0.06, gloss=0.8, sharpness=40.0)
    r = rng.uniform(0.009, 0.013)
    return [Frustum(material=face, foot=(x, 0.004, z), height=0.002, bottom=r, top=r)]


def _plant(rng: Rng, x: float, z: float) -> list[Solid]:
    clay = _stuff(rng, "stone", _ink("b0653f"), _ink("8c4a2e"), 0.2)
    pot = Frustum(material=clay, foot=(x, 0, z), height=0.1, bottom=0.05, top=0.068)
    return [pot, *_crown(rng, x, 0.2, z, 0.11, 0.1, 0.2, 6)]


_KINDS: tuple[Callable[[Rng], Scene], ...] = (_still_life, _room, _street, _garden, _night, _desk)
