"""Things to put into scenes: fruit, bottles, books, furniture, houses, trees, and their colours.

The trade-off: a thing is a few solids with random colours and sizes, seen from one side; it has the
look of its kind and not the shape of any one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from darkprep.synth.renderer.solids import (
    Array,
    Box,
    Ellipsoid,
    Frustum,
    Material,
    Sheet,
    Solid,
    Vec,
)

Rng = np.random.Generator

_FINE_UP_TO = -26.0
"""The z beyond which houses lack fine parts: they would be a pixel or two."""

_PIGMENTS = (
    "b3241c d4582a e0992b e9c83d 8aa53a 3f7a3a 1f6e63 2a7fa8 2b4f9a 57408f 8e3a78 c2476b "
    "6b3b25 a06a3e d9c7a3 efe9dd 2a2a2c 7d7f80 c9ccd0 943b31 446e8e 5e6b3c"
).split()
"""Reflectances of painted, printed and dyed things, as sRGB."""
_WALLS = "d9d2c3 cfd6d8 e4dccb b9c4b5 c7b39a d8c0b4 a9b3c0 e6e4de b8a58e 93a39a".split()
_WOODS = ("6b4226 3a2213", "a9764a 6e4424", "caa06c 9a6e3e", "4a2d1c 26160d", "b98a5a 7d5530")
_SKINS = ("b3241c d9a53a", "d9761f e29a35", "7f9a2a c2b23c", "e3c33a b99a2a", "4a1f3d 6d2f52")
_LEAVES = ("5d7a3c 9aa556", "3f6b3e 6f915a", "7a6a34 b58a42", "527040 869956")
_CHART = (
    "735244 c29682 627a9d 576c43 8580b1 67bdaa d67e2c 505ba6 c15a63 5e3c6c 9dbc40 e0a32e "
    "383d96 469449 af363c e7c71f bb5695 0885a1 f3f3f2 c8c8c8 a0a0a0 7a7a79 555555 343434"
).split()
"""24 patches in the manner of photographers' test charts."""


# --- colours and materials -----------------------------------------------------------------------


def ink(code: str) -> Vec:
    """Returns the linear reflectance of an sRGB colour such as `b3241c`."""
    red, green, blue = (_linear(int(code[i : i + 2], 16) / 255.0) for i in (0, 2, 4))
    return (red, green, blue)


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def one_of(rng: Rng, choices: Sequence[str]) -> str:
    """Returns one of some words."""
    return choices[int(rng.integers(len(choices)))]


def _two_inks(rng: Rng, choices: Sequence[str]) -> tuple[Vec, Vec]:
    first, second = one_of(rng, choices).split()
    return ink(first), ink(second)


def pigment(rng: Rng) -> Vec:
    """Returns the colour of something painted or dyed."""
    return vary(rng, ink(one_of(rng, _PIGMENTS)))


def vary(rng: Rng, colour: Vec, amount: float = 0.12) -> Vec:
    """Returns a colour like this one, a little lighter or darker and of another hue."""
    shade = math.exp(rng.normal(0, amount))
    red, green, blue = (min(0.92, c * shade * math.exp(rng.normal(0, amount / 2))) for c in colour)
    return (red, green, blue)


def times(colour: Vec, factor: float) -> Vec:
    """Returns the colour scaled."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def stuff(
    rng: Rng,
    texture: str,
    first: Vec,
    second: Vec,
    size: float,
    *,
    gloss: float = 0.0,
    sharpness: float = 60.0,
    relief: float = 1.0,
    glow: float = 0.0,
    quarter: bool = False,
) -> Material:
    """Returns a textured material; where in the texture it starts is random."""
    return Material(
        first=first,
        second=second,
        texture=texture,
        size=size,
        shift=(float(rng.random()), float(rng.random())),
        gloss=gloss,
        sharpness=sharpness,
        relief=relief,
        glow=glow,
        quarter=quarter,
    )


def timber(rng: Rng, size: float, *, gloss: float = 0.1, texture: str = "wood") -> Material:
    """Returns wood, or with the texture `parquet` a floor of it."""
    return stuff(rng, texture, *_two_inks(rng, _WOODS), size, gloss=gloss)


def wall_material(rng: Rng, size: float) -> Material:
    """Returns plaster, brick, tiles or stone; `size` is about ten courses of bricks."""
    paint = vary(rng, ink(one_of(rng, _WALLS)))
    kind = one_of(rng, ("plaster", "plaster", "brick", "brick", "tile", "stone"))
    if kind == "brick":
        clay = one_of(rng, ("8c4a35", "a0573c", "7a3f33", "b08a63"))
        return stuff(rng, kind, vary(rng, ink(clay)), ink("b9ada0"), size)
    if kind == "tile":
        return stuff(rng, kind, paint, times(paint, 0.35), size * 0.8, gloss=0.15)
    return stuff(rng, kind, paint, times(paint, 0.8), size)


def wall_paint(rng: Rng, size: float) -> Material:
    """Returns painted plaster."""
    paint = vary(rng, ink(one_of(rng, _WALLS)))
    return stuff(rng, "plaster", paint, times(paint, 0.86), size)


def table_top(rng: Rng) -> Material:
    """Returns wood, marble, cloth or leather."""
    kind = one_of(rng, ("wood", "wood", "cloth", "marble", "leather"))
    if kind == "wood":
        return timber(rng, 0.5, gloss=0.22)
    if kind == "marble":
        return stuff(rng, kind, ink("d9d5cf"), ink("6f6a66"), 0.6, gloss=0.4, sharpness=100.0)
    if kind == "cloth":
        dye = pigment(rng)
        return stuff(rng, kind, dye, times(dye, 0.6), 0.16)
    return stuff(rng, kind, ink("4a2a1a"), ink("6b3f26"), 0.3, gloss=0.25)


def colour_cells(rng: Rng, rows: int, columns: int, make: Callable[[Rng], Vec] = pigment) -> Array:
    """Returns `(rows, columns, 3)` random colours."""
    return np.array([[make(rng) for _ in range(columns)] for _ in range(rows)], np.float32)


def _one_thing(rng: Rng, solids: Sequence[Solid]) -> list[Solid]:
    """Returns solids as one thing, whose parts do not shade each other."""
    group = int(rng.integers(1, 2**62))
    return [dataclasses.replace(solid, group=group) for solid in solids]


# --- on a table ----------------------------------------------------------------------------------


def chart(corner: Vec, along: Vec, up: Vec, patch: float) -> Sheet:
    """Returns a colour chart of 4 x 6 patches; `along` and `up` are unit vectors."""
    colours = np.array([ink(code) for code in _CHART], np.float32).reshape(4, 6, 3)
    card = Material(
        first=ink("1c1c1c"),
        second=ink("1c1c1c"),
        cells=np.ascontiguousarray(colours[::-1]),
        cell=(patch, patch),
        joint=0.14 * patch,
    )
    return Sheet(
        material=card,
        corner=corner,
        along=times(along, 6 * patch),
        up=times(up, 4 * patch),
        casts=False,
    )


def fruit(rng: Rng, x: float, z: float) -> list[Solid]:
    """Returns an apple, orange, plum or the like."""
    first, second = _two_inks(rng, _SKINS)
    r = rng.uniform(0.032, 0.046)
    skin = stuff(rng, "peel", first, second, 0.09, gloss=0.35, sharpness=90.0)
    body = Ellipsoid(material=skin, at=(x, r * 0.95, z), radii=(r, r * rng.uniform(0.88, 1.02), r))
    twig = Material(first=ink("3b2a18"))
    stalk = Frustum(
        material=twig, foot=(x, 1.8 * r, z), height=0.3 * r, bottom=0.002, top=0.003, casts=False
    )
    return [body, stalk]


def ball(rng: Rng, x: float, z: float) -> list[Solid]:
    """Returns a shiny ball."""
    r = rng.uniform(0.03, 0.055)
    lacquer = Material(
        first=pigment(rng), gloss=rng.uniform(0.7, 1.0), sharpness=rng.uniform(120, 300)
    )
    return [Ellipsoid(material=lacquer, at=(x, r, z), radii=(r, r, r))]


def bottle(rng: Rng, x: float, z: float) -> list[Solid]:
    """Returns a labelled bottle."""
    tint = ink(one_of(rng, ("1c4024", "4a2812", "16345a", "50401f", "b9c4c0")))
    glass = Material(first=tint, gloss=0.9, sharpness=250.0)
    label = stuff(rng, "print", ink("e8e0c8"), pigment(rng), 0.10)
    cork = Material(first=ink(one_of(rng, ("b3241c", "c9a877", "2a2a2c"))), gloss=0.2)
    r, h = rng.uniform(0.028, 0.040), rng.uniform(0.13, 0.19)
    neck = 0.38 * r
    parts = [
        Frustum(material=glass, foot=(x, 0, z), height=h, bottom=r, top=r),
        Frustum(
            material=label, foot=(x, 0.25 * h, z), height=0.5 * h, bottom=1.01 * r, top=1.01 * r
        ),
        Frustum(material=glass, foot=(x, h, z), height=0.05, bottom=r, top=neck),
        Frustum(material=glass, foot=(x, h + 0.05, z), height=0.055, bottom=neck, top=neck),
        Frustum(material=cork, foot=(x, h + 0.105, z), height=0.018, bottom=0.42 * r, top=0.42 * r),
    ]
    return _one_thing(rng, parts)


def mug(rng: Rng, x: float, z: float) -> list[Solid]:
    """Returns a mug of coffee."""
    glaze = pigment(rng)
    ware = stuff(rng, "marble", glaze, times(glaze, 0.8), 0.2, gloss=0.5, sharpness=150.0)
    r, h = rng.uniform(0.036, 0.045), rng.uniform(0.075, 0.1)
    coffee = Material(first=ink("24140a"), gloss=0.5)
    handle = Ellipsoid(
        material=ware, at=(x + 1.05 * r, h * 0.55, z), radii=(0.5 * r, 0.33 * h, 0.16 * r)
    )
    parts = [
        Frustum(material=ware, foot=(x, 0, z), height=h, bottom=0.86 * r, top=r),
        Frustum(material=coffee, foot=(x, h, z), height=0.0006, bottom=0.9 * r, top=0.9 * r),
        handle,
    ]
    return _one_thing(rng, parts)


def books(rng: Rng, x: float, z: float, turn: float) -> list[Solid]:
    """Returns a pile of books with its spines to the front."""
    y, pile = 0.0, list[Solid]()
    for _ in range(int(rng.integers(2, 6))):
        half = (rng.uniform(0.075, 0.105), rng.uniform(0.008, 0.02), rng.uniform(0.055, 0.075))
        pile += _book(rng, (x, y + half[1], z), half, turn + rng.normal(0, 0.12))
        y += 2 * half[1]
    return pile


def _book(rng: Rng, at: Vec, half: Vec, turn: float) -> list[Solid]:
    cloth = stuff(rng, "print", pigment(rng), vary(rng, ink("e9c83d")), 0.11, gloss=0.06)
    paper = stuff(rng, "wood", ink("e6dcc3"), ink("c9bda0"), 0.05, relief=0.4)
    x, y, z = at
    c, s = math.cos(turn), math.sin(turn)
    lid, spine = (half[0], 0.0013, half[2]), (half[0], half[1], 0.0015)
    pages = (half[0] - 0.003, half[1] - 0.0026, half[2] - 0.002)
    back = (x + s * half[2], y, z + c * half[2])
    parts = [
        Box(material=paper, at=at, half=pages, turn=turn),
        Box(material=cloth, at=(x, y - half[1] + 0.0013, z), half=lid, turn=turn, casts=False),
        Box(material=cloth, at=(x, y + half[1] - 0.0013, z), half=lid, turn=turn),
        Box(material=cloth, at=back, half=spine, turn=turn, casts=False),
    ]
    return _one_thing(rng, parts)


def candle(rng: Rng, x: float, z: float) -> list[Solid]:
    """Returns a burning candle; the flame is the last solid."""
    h = rng.uniform(0.06, 0.13)
    wax = Material(first=vary(rng, ink("eadfc6")), gloss=0.15)
    wick = Material(first=ink("1a1512"))
    flame = Material(first=(1.0, 0.62, 0.24), glow=26.0)
    return [
        Frustum(material=wax, foot=(x, 0, z), height=h, bottom=0.022, top=0.021),
        Frustum(material=wick, foot=(x, h, z), height=0.01, bottom=0.0012, top=0.001, casts=False),
        Ellipsoid(material=flame, at=(x, h + 0.022, z), radii=(0.0055, 0.015, 0.0055)),
    ]


def sheet_of_print(rng: Rng, at: Vec, half: tuple[float, float], turn: float) -> Solid:
    """Returns a printed page lying flat."""
    paper = stuff(
        rng, "print", vary(rng, ink("dcd7ca"), 0.05), ink("26262a"), rng.uniform(0.14, 0.24)
    )
    return Box(material=paper, at=at, half=(half[0], 0.0006, half[1]), turn=turn, bevel=0.0002)


def pen(rng: Rng, x: float, z: float) -> list[Solid]:
    """Returns a pencil lying flat."""
    turn = rng.uniform(-math.pi, math.pi)
    c, s = math.cos(turn), math.sin(turn)
    paint = Material(first=pigment(rng), gloss=0.5, sharpness=80.0)
    wood, lead = Material(first=ink("d8b383")), Material(first=ink("26262a"))
    y = 0.009
    return [
        Box(material=paint, at=(x, y, z), half=(0.07, 0.0038, 0.0038), turn=turn, bevel=0.003),
        Box(
            material=wood,
            at=(x + c * 0.077, y, z - s * 0.077),
            half=(0.007, 0.0028, 0.0028),
            turn=turn,
            bevel=0.002,
        ),
        Box(
            material=lead,
            at=(x + c * 0.087, y, z - s * 0.087),
            half=(0.003, 0.0012, 0.0012),
            turn=turn,
            casts=False,
        ),
    ]


def coin(rng: Rng, x: float, z: float) -> list[Solid]:
    """Returns a coin."""
    metal = ink(one_of(rng, ("b87a4b", "c9b06a", "b9bcc0")))
    face = stuff(rng, "leather", times(metal, 0.8), metal, 0.06, gloss=0.8, sharpness=40.0)
    r = rng.uniform(0.009, 0.013)
    return [Frustum(material=face, foot=(x, 0.004, z), height=0.002, bottom=r, top=r)]


def plant(rng: Rng, x: float, z: float) -> list[Solid]:
    """Returns a plant in a pot."""
    clay = stuff(rng, "stone", ink("b0653f"), ink("8c4a2e"), 0.2)
    pot = Frustum(material=clay, foot=(x, 0, z), height=0.1, bottom=0.05, top=0.068)
    return [pot, *crown(rng, (x, 0.19, z), wide=0.12, high=0.1, leaves=0.22, count=7)]


# --- in a room -----------------------------------------------------------------------------------


def picture(rng: Rng, x: float, y: float, wall: float) -> list[Solid]:
    """Returns a framed picture on a wall at z = wall."""
    w, h = rng.uniform(0.22, 0.3), rng.uniform(0.2, 0.3)
    frame = Box(material=timber(rng, 0.4, gloss=0.3), at=(x, y, wall + 0.015), half=(w, h, 0.015))
    if rng.random() < 0.5:
        n = int(rng.integers(3, 7))
        art = Material(
            first=ink("efe9dd"),
            second=ink("efe9dd"),
            cells=colour_cells(rng, n, n),
            cell=(1.72 * w / n, 1.72 * h / n),
            joint=0.012 if rng.random() < 0.5 else 0.0,
            texture="cloth",
            size=0.1,
            relief=0.6,
        )
    else:
        motif = one_of(rng, ("cloud", "marble", "leaf"))
        art = stuff(rng, motif, pigment(rng), pigment(rng), rng.uniform(0.5, 1.2))
    canvas = Sheet(
        material=art,
        corner=(x - 0.86 * w, y - 0.86 * h, wall + 0.031),
        along=(1.72 * w, 0, 0),
        up=(0, 1.72 * h, 0),
        casts=False,
    )
    return _one_thing(rng, [frame, canvas])


def shelf(rng: Rng, x: float, z: float) -> list[Solid]:
    """Returns a bookcase, filled."""
    wood = timber(rng, 0.8)
    w, d, h = 0.6, 0.15, 2.0
    solids: list[Solid] = [
        Box(material=wood, at=(x + side * w, h / 2, z), half=(0.015, h / 2, d)) for side in (-1, 1)
    ]
    solids.append(
        Box(material=wood, at=(x, h / 2, z - d + 0.01), half=(w, h / 2, 0.008), casts=False)
    )
    for level in np.linspace(0.08, h, 6).tolist():
        solids.append(Box(material=wood, at=(x, level, z), half=(w, 0.012, d)))
        if level < h - 0.1:
            solids += _row_of_books(rng, (x - w + 0.03, x + w - 0.03), level + 0.012, z)
    return solids


def _row_of_books(rng: Rng, span: tuple[float, float], y: float, z: float) -> list[Solid]:
    """Returns the books of one board; neighbours of one height are one box with a row of spines."""
    row: list[Solid] = []
    x, right = span
    while x < right - 0.1:
        if rng.random() < 0.14:
            x += rng.uniform(0.05, 0.15)
            continue
        thick, tall = rng.uniform(0.018, 0.034), rng.uniform(0.19, 0.31)
        count = min(int(rng.integers(2, 8)), int((right - x) / thick))
        spines = dataclasses.replace(
            stuff(rng, "print", ink("15110e"), ink("15110e"), 0.19),
            cells=colour_cells(rng, 1, count),
            cell=(thick, 9.0),
            joint=0.0022,
        )
        middle = (x + count * thick / 2, y + tall / 2, z + rng.uniform(-0.01, 0.03))
        half = (count * thick / 2, tall / 2, 0.1)
        row.append(Box(material=spines, at=middle, half=half, casts=False))
        x += count * thick
    return row


def sofa(rng: Rng, x: float, z: float) -> list[Solid]:
    """Returns a sofa with cushions."""
    dye = pigment(rng)
    weave = one_of(rng, ("cloth", "cloth", "leather"))
    cover = stuff(rng, weave, dye, times(dye, 0.7), 0.25, gloss=0.06)
    parts = (
        ((0, 0.2, 0), (0.95, 0.12, 0.42)),
        ((0, 0.5, -0.33), (0.95, 0.28, 0.1)),
        ((-0.98, 0.3, 0), (0.11, 0.26, 0.44)),
        ((0.98, 0.3, 0), (0.11, 0.26, 0.44)),
        ((-0.43, 0.37, 0.04), (0.42, 0.07, 0.38)),
        ((0.43, 0.37, 0.04), (0.42, 0.07, 0.38)),
    )
    solids: list[Solid] = [
        Box(material=cover, at=(x + px, py, z + pz), half=half, bevel=0.05)
        for (px, py, pz), half in parts
    ]
    for px in (-0.6, 0.05, 0.6):
        motif = one_of(rng, ("rug", "cloth", "leaf"))
        cushion = stuff(rng, motif, pigment(rng), pigment(rng), 0.35)
        at = (x + px + rng.normal(0, 0.05), 0.6, z - 0.13)
        solids.append(Ellipsoid(material=cushion, at=at, radii=(0.22, 0.18, 0.085), casts=False))
    return solids


def low_table(rng: Rng, x: float, z: float) -> list[Solid]:
    """Returns a table with a few things on it."""
    wood = timber(rng, 0.7, gloss=0.3)
    solids: list[Solid] = [Box(material=wood, at=(x, 0.4, z), half=(0.5, 0.02, 0.3))]
    for a in (-0.44, 0.44):
        for b in (-0.25, 0.25):
            solids.append(Box(material=wood, at=(x + a, 0.19, z + b), half=(0.025, 0.19, 0.025)))
    on_top = [
        *books(rng, x - 0.25, z, 0.3),
        *mug(rng, x + 0.18, z + 0.08),
        *fruit(rng, x + 0.33, z - 0.1),
        *fruit(rng, x + 0.36, z + 0.02),
        *bottle(rng, x + 0.02, z - 0.16),
    ]
    return solids + [thing.lifted(0.42) for thing in on_top]


def floor_lamp(x: float, z: float) -> list[Solid]:
    """Returns a lamp on a pole, lit; its light is at a height of 1.55 m."""
    iron = Material(first=ink("2a2a2c"), gloss=0.5)
    shade = Material(
        first=(1.0, 0.78, 0.5), second=(0.8, 0.55, 0.3), texture="cloth", size=0.12, glow=1.6
    )
    return [
        Frustum(material=iron, foot=(x, 0, z), height=1.4, bottom=0.015, top=0.015, casts=False),
        Frustum(material=iron, foot=(x, 0, z), height=0.03, bottom=0.16, top=0.15, casts=False),
        Frustum(material=shade, foot=(x, 1.38, z), height=0.3, bottom=0.22, top=0.15),
    ]


def window(x: float, z: tuple[float, float], y: tuple[float, float]) -> list[Solid]:
    """Returns a bright window with its frame in a wall at x, seen from inside."""
    day = Material(
        first=(0.8, 0.95, 1.15), second=(1.2, 1.2, 1.2), texture="cloud", size=2.0, glow=6.0
    )
    white = Material(first=ink("e9e6df"))
    inward = -0.01 if x > 0 else 0.01
    deep, high = z[1] - z[0], y[1] - y[0]
    pane = Sheet(material=day, corner=(x + inward, y[0], z[0]), along=(0, 0, deep), up=(0, high, 0))
    solids: list[Solid] = [pane]
    for at in (z[0], z[0] + deep / 2, z[1]):
        half = (0.05, high / 2 + 0.05, 0.03)
        solids.append(Box(material=white, at=(x, y[0] + high / 2, at), half=half, casts=False))
    for at in (y[0], y[0] + high / 2, y[1]):
        half = (0.05, 0.03, deep / 2 + 0.03)
        solids.append(Box(material=white, at=(x, at, z[0] + deep / 2), half=half, casts=False))
    return solids


# --- in a street ---------------------------------------------------------------------------------


def house(rng: Rng, side: float, z: float, half: float) -> list[Solid]:
    """Returns one house of a row; `side` is -1 on the left of the street and 1 on its right."""
    storey, storeys = rng.uniform(2.8, 3.2), int(rng.integers(2, 5))
    high = (storeys + 1) * storey + 0.7
    front = side * 7.0
    wall = wall_material(rng, 1.8)
    trim = Material(
        first=vary(rng, ink("cfc8b9")), texture="plaster", second=ink("b5ad9c"), size=1.1
    )
    solids: list[Solid] = [
        Box(
            material=wall,
            at=(side * 10.0, high / 2, z),
            half=(3.0, high / 2, half - 0.02),
            casts=False,
        ),
        Box(material=trim, at=(front, high, z), half=(0.35, 0.16, half - 0.01), casts=False),
        Box(
            material=trim, at=(front, storey + 0.35, z), half=(0.09, 0.1, half - 0.02), casts=False
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
    tone = vary(rng, ink(one_of(rng, ("ffd9a0", "ffe6c0", "ffc070", "e8f0ff"))), 0.2)
    bright = rng.uniform(0.35, 1.3)
    if lit:
        pane = stuff(rng, "cloud", tone, times(tone, 0.3), 2.6, glow=bright)
    else:
        pane = Material(first=ink("161b22"), gloss=0.9, sharpness=200.0)
    x, y, z = at
    frame = Material(first=ink(one_of(rng, ("d9d2c3", "4a4038", "2f3a3a"))))
    solids: list[Solid] = [
        Box(material=trim, at=at, half=(0.06, 0.86, 0.55), casts=False),
        Box(material=pane, at=(x - side * 0.04, y + 0.02, z), half=(0.03, 0.74, 0.44), casts=False),
    ]
    if z > _FINE_UP_TO:
        bar = x - side * 0.07
        solids += [
            Box(
                material=trim,
                at=(x - side * 0.06, y - 0.86, z),
                half=(0.1, 0.05, 0.62),
                casts=False,
            ),
            Box(material=frame, at=(bar, y, z), half=(0.01, 0.74, 0.03), casts=False),
            Box(material=frame, at=(bar, y + 0.25, z), half=(0.01, 0.03, 0.44), casts=False),
        ]
    return solids


def _shop(rng: Rng, side: float, front: float, z: float, half: float) -> list[Solid]:
    """Returns a shop's lit window with goods before the light, its sign and its door."""
    tone = vary(rng, ink(one_of(rng, ("ffdca0", "ffeccc", "dfe9ff"))), 0.15)
    wide = half - rng.uniform(0.5, 1.0)
    pane = stuff(rng, "cloud", tone, times(tone, 0.35), 4.0, glow=rng.uniform(0.5, 1.2))
    letters = vary(rng, ink("ffefcf"))
    sign = stuff(
        rng,
        "print",
        times(pigment(rng), 0.7),
        letters,
        rng.uniform(5.0, 8.0),
        glow=rng.uniform(0.4, 1.4),
    )
    frame = Material(first=vary(rng, ink("2f2a26")), gloss=0.2)
    x = front - side * 0.05
    solids: list[Solid] = [
        Box(material=pane, at=(front - side * 0.01, 1.5, z), half=(0.03, 1.1, wide), casts=False),
        Box(material=sign, at=(front - side * 0.12, 2.86, z), half=(0.1, 0.22, wide), casts=False),
        Box(material=frame, at=(x, 0.3, z), half=(0.06, 0.3, wide + 0.05), casts=False),
    ]
    for k in np.linspace(-wide, wide, int(rng.integers(3, 6))).tolist():
        solids.append(Box(material=frame, at=(x, 1.5, z + k), half=(0.05, 1.15, 0.05), casts=False))
    for _ in range(int(rng.integers(5, 12)) if z > _FINE_UP_TO else 3):
        solids.append(_goods(rng, (front - side * 0.06, 0.6, z + rng.uniform(-wide, wide))))
    return solids


def _goods(rng: Rng, foot: Vec) -> Solid:
    """Returns something for sale: dim before the bright window, and lit a little itself."""
    hue = stuff(
        rng, "cloth", pigment(rng), times(pigment(rng), 0.5), 0.8, glow=rng.uniform(0.1, 0.5)
    )
    tall, wide = rng.uniform(0.25, 1.3), rng.uniform(0.08, 0.28)
    if rng.random() < 0.5:
        half = (0.03, tall / 2, wide)
        return Box(material=hue, at=(foot[0], foot[1] + tall / 2, foot[2]), half=half, casts=False)
    at = (foot[0], foot[1] + tall / 2, foot[2])
    return Ellipsoid(material=hue, at=at, radii=(0.05, tall / 2, wide), casts=False)


def street_lamp(at: Vec) -> list[Solid]:
    """Returns a lamp post with its globe."""
    iron = Material(first=ink("22252a"), gloss=0.4)
    globe = Material(first=(1.0, 0.8, 0.5), glow=9.0)
    x, y, z = at
    return [
        Frustum(
            material=iron, foot=(x, 0.1, z), height=y - 0.25, bottom=0.07, top=0.045, casts=False
        ),
        Ellipsoid(material=globe, at=at, radii=(0.17, 0.2, 0.17)),
        Frustum(
            material=iron, foot=(x, y + 0.14, z), height=0.16, bottom=0.2, top=0.04, casts=False
        ),
    ]


def car(rng: Rng, x: float, z: float) -> list[Solid]:
    """Returns a car seen from behind."""
    paint = Material(first=pigment(rng), gloss=0.9, sharpness=120.0)
    glass = Material(first=ink("0e1114"), gloss=1.0, sharpness=200.0)
    tyre = Material(first=ink("17171a"))
    red = Material(first=(1.0, 0.05, 0.03), glow=2.4)
    plate = Material(
        first=ink("efe9dd"), texture="print", second=ink("15110e"), size=0.9, shift=(0.1, 0.3)
    )
    solids: list[Solid] = [
        Box(material=paint, at=(x, 0.62, z), half=(0.88, 0.3, 2.0), bevel=0.12),
        Box(material=glass, at=(x, 1.12, z - 0.15), half=(0.74, 0.24, 1.0), bevel=0.12),
        Box(material=paint, at=(x, 1.38, z - 0.15), half=(0.72, 0.04, 0.95), bevel=0.04),
        Box(material=plate, at=(x, 0.55, z + 2.0), half=(0.26, 0.06, 0.01)),
    ]
    for side in (-1.0, 1.0):
        at = (x + side * 0.68, 0.74, z + 2.0)
        solids.append(Box(material=red, at=at, half=(0.15, 0.06, 0.015)))
        for along in (-1.25, 1.3):
            wheel = (x + side * 0.78, 0.32, z + along)
            solids.append(Ellipsoid(material=tyre, at=wheel, radii=(0.12, 0.32, 0.32), casts=False))
    return _one_thing(rng, solids)


def walker(rng: Rng, x: float, z: float) -> list[Solid]:
    """Returns somebody in a coat."""
    coat = stuff(rng, "cloth", times(pigment(rng), 0.6), ink("1a1a1c"), 0.5)
    skin = Material(first=vary(rng, ink("a87a5c"), 0.25))
    hair = Material(first=vary(rng, ink("2a1d14"), 0.3))
    trousers = Material(first=vary(rng, ink("2a2d38"), 0.2))
    tall = rng.uniform(1.6, 1.85)
    solids: list[Solid] = [
        Frustum(material=coat, foot=(x, 0.42 * tall, z), height=0.4 * tall, bottom=0.22, top=0.17),
        Ellipsoid(material=coat, at=(x, 0.8 * tall, z), radii=(0.24, 0.1, 0.14)),
        Ellipsoid(material=skin, at=(x, 0.92 * tall, z), radii=(0.085, 0.12, 0.1)),
        Ellipsoid(material=hair, at=(x, 0.945 * tall, z + 0.015), radii=(0.092, 0.11, 0.1)),
    ]
    for step in (-1.0, 1.0):
        foot = (x + step * 0.09, 0.0, z + step * 0.12)
        leg = Frustum(material=trousers, foot=foot, height=0.46 * tall, bottom=0.06, top=0.1)
        solids.append(leg)
    return _one_thing(rng, solids)


# --- in a garden ---------------------------------------------------------------------------------


def crown(rng: Rng, at: Vec, *, wide: float, high: float, leaves: float, count: int) -> list[Solid]:
    """Returns leafy sheets around a dark core: a crown with holes and a ragged rim.

    `leaves` is the metres that one period of the leaf texture covers.
    """
    first, second = _two_inks(rng, _LEAVES)
    shaded = stuff(rng, "leaf", times(first, 0.3), times(second, 0.35), leaves * 0.8)
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
            stuff(rng, "leaf", vary(rng, first, 0.2), vary(rng, second, 0.2), leaves, relief=1.1),
            cut=0.2,
        )
        solids.append(
            Sheet(
                material=green,
                corner=(px - c * w, py - h, pz - s * w),
                along=(2 * c * w, 0, 2 * s * w),
                up=(0, 2 * h, 0),
                casts=False,
            )
        )
    return _one_thing(rng, solids)


def tree(rng: Rng, x: float, z: float) -> list[Solid]:
    """Returns a tree."""
    high = rng.uniform(1.6, 2.4)
    bark = stuff(rng, "wood", ink("5a4632"), ink("2e2318"), 0.5, quarter=True)
    trunk = Frustum(material=bark, foot=(x, 0, z), height=high + 0.6, bottom=0.16, top=0.09)
    wide, tall = rng.uniform(1.3, 1.9), rng.uniform(1.2, 1.6)
    return [trunk, *crown(rng, (x, high + 1.1, z), wide=wide, high=tall, leaves=3.2, count=10)]


def bush(rng: Rng, x: float, z: float) -> list[Solid]:
    """Returns a bush."""
    high = rng.uniform(0.4, 0.7)
    return crown(
        rng, (x, high * 0.8, z), wide=rng.uniform(0.7, 1.0), high=high, leaves=1.7, count=9
    )


def flowers(rng: Rng, x: float, z: float) -> list[Solid]:
    """Returns a bed of flowers of one colour."""
    solids = crown(rng, (x, 0.22, z), wide=0.85, high=0.3, leaves=1.2, count=7)
    bloom = ink(one_of(rng, ("d4582a", "c2476b", "e9c83d", "efe9dd", "8e3a78", "b3241c")))
    for _ in range(34):
        r = rng.uniform(0.02, 0.045)
        petal = stuff(rng, "peel", vary(rng, bloom), times(bloom, 0.6), 0.05)
        at = (x + rng.normal(0, 0.35), rng.uniform(0.26, 0.52), z + rng.uniform(0.1, 0.6))
        solids.append(Ellipsoid(material=petal, at=at, radii=(r, r * 0.6, r), casts=False))
    return solids


def bench(rng: Rng, x: float, z: float) -> list[Solid]:
    """Returns a garden bench."""
    wood = timber(rng, 0.6)
    iron = Material(first=ink("22252a"), gloss=0.4)
    solids: list[Solid] = []
    for k in (-1, 0, 1):
        solids.append(Box(material=wood, at=(x, 0.45, z + k * 0.13), half=(0.8, 0.018, 0.055)))
        solids.append(
            Box(material=wood, at=(x, 0.75 + k * 0.13, z - 0.24), half=(0.8, 0.05, 0.016))
        )
    for end in (-0.7, 0.7):
        solids.append(Box(material=iron, at=(x + end, 0.22, z), half=(0.025, 0.22, 0.22)))
        solids.append(Box(material=iron, at=(x + end, 0.65, z - 0.25), half=(0.025, 0.25, 0.025)))
    return solids


def fence(rng: Rng, z: float) -> list[Solid]:
    """Returns a garden wall with a coping and posts."""
    wall = wall_material(rng, 1.6)
    coping = stuff(rng, "stone", ink("a39d92"), ink("7d776c"), 0.8)
    solids: list[Solid] = [
        Box(material=wall, at=(0, 0.75, z), half=(14, 0.75, 0.25)),
        Box(material=coping, at=(0, 1.54, z), half=(14, 0.05, 0.32)),
    ]
    for x in np.arange(-12, 13, 4.0).tolist():
        solids.append(Box(material=wall, at=(x, 0.9, z), half=(0.3, 0.9, 0.33)))
        solids.append(Box(material=coping, at=(x, 1.84, z), half=(0.36, 0.05, 0.4)))
    return solids
