"""Materials and the solids that scenes are put together from: sheet, box, ellipsoid, frustum.

Each solid knows where rays meet it, its normals and surface coordinates, the soft shadow it throws
and how far away it is. The trade-off: shadows and distances are closed formulas that are right
where things are simple and plausible elsewhere, since a picture asks for millions of them.

Conventions: metres, y up, right-handed. Points, directions and colours of N rays are `(3, N)`
float32; a direction's length is free, and `t` counts in its lengths.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from darkprep.synth.renderer.textures import texture

Array: TypeAlias = npt.NDArray[np.floating[Any]]
"""float32 throughout; the type checker cannot follow numpy's promotion that far."""
Vec: TypeAlias = tuple[float, float, float]
Three: TypeAlias = Array | Vec | tuple[Array, Array, Array]
"""Anything with an x, y and z."""

_NEVER = np.float32(np.inf)
_NEAR = 1e-4
"""Rays meet nothing nearer than this."""


# --- small vector algebra ------------------------------------------------------------------------


def dot(a: Three, b: Three) -> Array:
    """Returns the scalar product."""
    return np.asarray(a[0] * b[0] + a[1] * b[1] + a[2] * b[2])


def column(v: Vec) -> Array:
    """Returns a vector or colour as `(3, 1)`."""
    return np.array(v, np.float32)[:, None]


def minus(a: Vec, b: Vec) -> Vec:
    """Returns a - b."""
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2])


def away(p: Three, centre: Vec) -> tuple[Array, Array, Array]:
    """Returns p - centre."""
    return np.asarray(p[0] - centre[0]), np.asarray(p[1] - centre[1]), np.asarray(p[2] - centre[2])


def length(v: Vec) -> float:
    """Returns the length of a vector."""
    return math.sqrt(v[0] ** 2 + v[1] ** 2 + v[2] ** 2)


def unit(v: Vec) -> Vec:
    """Returns the vector of length 1."""
    n = length(v)
    return (v[0] / n, v[1] / n, v[2] / n)


def cross(a: Vec, b: Vec) -> Vec:
    """Returns the vector product."""
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def normalised(v: Array) -> Array:
    """Returns `(3, N)` vectors of length 1."""
    return np.asarray(v / np.sqrt(dot(v, v)))


def smooth(t: Array) -> Array:
    """Returns the smooth step of t from 0 at 0 to 1 at 1."""
    t = np.clip(t, 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t))


def safe(x: Array) -> Array:
    """Returns numbers to divide by: those next to 0 moved away from it."""
    return np.copysign(np.maximum(np.abs(x), np.float32(1e-9)), x)


def along_ray(origin: Three, d: Array, t: Array) -> Array:
    """Returns `(3, N)` points at t."""
    return np.stack([origin[0] + t * d[0], origin[1] + t * d[1], origin[2] + t * d[2]])


def take(v: Array, where: npt.NDArray[np.intp]) -> Array:
    """Returns some of `(3, N)` vectors; several times faster than indexing."""
    return np.take(v, where, axis=1)


def put(v: Array, where: npt.NDArray[np.intp], values: Array) -> None:
    """Sets some of `(3, N)` vectors."""
    for row, new in zip(v, values, strict=True):
        row[where] = new


# --- what things are made of ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """How a surface looks. Colours are linear sRGB reflectances."""

    first: Vec
    second: Vec = (0.0, 0.0, 0.0)
    """The colour that the texture's mix goes to, and of the border of cells."""
    texture: str = ""
    """A name of `darkprep.synth.renderer.textures`, or none."""
    size: float = 1.0
    """Metres that one period of the texture covers."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Where in the texture the surface starts, in periods."""
    quarter: bool = False
    """Whether the texture is turned by 90 degrees."""
    relief: float = 1.0
    """How strongly the texture's brightness shows."""
    blur: float = 0.0
    """Metres over which the texture is out of focus."""
    gloss: float = 0.0
    """Strength of highlights and reflections, 0 to 1."""
    sharpness: float = 60.0
    """Narrowness of the highlight."""
    mirror: float = 0.0
    """How well it mirrors what glows (wet ground)."""
    glow: float = 0.0
    """Emitted radiance; a glowing surface takes no light."""
    cells: Array | None = None
    """`(R, C, 3)` colours of a grid that lies over the surface, instead of `first`."""
    cell: tuple[float, float] = (1.0, 1.0)
    """Metres of one cell along u and v."""
    joint: float = 0.0
    """Metres of border between cells, in the colour `second`."""
    cut: float = 0.0
    """Where the texture's brightness is below this, the surface has a hole (leaves)."""

    def colour(self, u: Array, v: Array, footprint: Array) -> Array:
        """Returns `(3, N)` reflectance at surface coordinates in metres."""
        base = column(self.first) if self.cells is None else self._cell_colour(u, v, self.cells)
        if not self.texture:
            return np.broadcast_to(base, (3, u.size)).astype(np.float32)
        mix, light = self._texels(u, v, footprint)
        other = base if self.cells is not None else column(self.second)
        return np.asarray((base + (other - base) * mix) * (1.0 + (light - 1.0) * self.relief))

    def brightness(self, u: Array, v: Array) -> Array:
        """Returns the texture's brightness without filtering: where holes and ripples are."""
        return self._texels(u, v, np.full(u.shape, 1e-4, np.float32))[1]

    def _texels(self, u: Array, v: Array, footprint: Array) -> tuple[Array, Array]:
        a, b = (v, u) if self.quarter else (u, v)
        scale = 1.0 / self.size
        wide = np.maximum(footprint, self.blur) * scale
        return texture(self.texture).sample(
            a * scale + self.shift[0], b * scale + self.shift[1], wide
        )

    def _cell_colour(self, u: Array, v: Array, cells: Array) -> Array:
        x, y = u / self.cell[0], v / self.cell[1]
        column_, row = np.floor(x), np.floor(y)
        rows, columns = cells.shape[:2]
        index = (row.astype(np.int32) % rows) * columns + column_.astype(np.int32) % columns
        picked = cells.reshape(-1, 3).T[:, index]
        across = (0.5 - np.abs(x - column_ - 0.5)) * self.cell[0]
        inside = np.minimum(across, (0.5 - np.abs(y - row - 0.5)) * self.cell[1])
        return np.where(inside < 0.5 * self.joint, column(self.second), picked)


# --- solids --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Solid(ABC):
    """A thing that rays hit; the base of the four kinds."""

    material: Material
    casts: bool = True
    """Whether it shades others and darkens what is near; small details need not."""
    group: int = 0
    """Solids of one group other than 0 do not shade each other: they are one thing."""

    @property
    @abstractmethod
    def centre(self) -> Vec:
        """Middle of a ball around it."""

    @property
    @abstractmethod
    def radius(self) -> float:
        """Radius of the ball around it."""

    @abstractmethod
    def corners(self) -> list[Vec]:
        """Returns points whose convex hull has all of it."""

    @abstractmethod
    def hit(self, origin: Three, d: Array, limit: Array) -> Array:
        """Returns `(N,)` the first t > 0 at which each ray meets it, infinity where it does not.

        `limit` is the t beyond which nobody looks; a solid may call a hit beyond it a miss.
        """

    @abstractmethod
    def surface(self, p: Array) -> tuple[Array, Array, Array]:
        """Returns normals `(3, N)` and coordinates u, v in metres of points on its surface."""

    @abstractmethod
    def shade(self, p: Array, to_light: Array, softness: float) -> Array:
        """Returns the share `(N,)` of a light that passes it on the way to points.

        `to_light` holds unit directions; `softness` is a penumbra's width per metre of distance.
        """

    @abstractmethod
    def gap(self, p: Array) -> Array:
        """Returns about how far outside it points are, `(N,)` metres."""

    @abstractmethod
    def lifted(self, by: float) -> Self:
        """Returns it moved up."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sheet(Solid):
    """A flat rectangle: a corner and two perpendicular edges. It throws no shadow."""

    corner: Vec
    along: Vec
    up: Vec

    @cached_property
    def sides(self) -> tuple[float, float]:
        """Lengths of the edges `along` and `up`."""
        return length(self.along), length(self.up)

    @cached_property
    def normal(self) -> Vec:
        """Unit normal."""
        return unit(cross(self.along, self.up))

    @property
    def centre(self) -> Vec:
        """See Solid."""
        c, a, u = self.corner, self.along, self.up
        return (c[0] + (a[0] + u[0]) / 2, c[1] + (a[1] + u[1]) / 2, c[2] + (a[2] + u[2]) / 2)

    @property
    def radius(self) -> float:
        """See Solid."""
        return math.hypot(*self.sides) / 2

    def corners(self) -> list[Vec]:
        """See Solid."""
        (x, y, z), a, u = self.corner, self.along, self.up
        return [
            (x + i * a[0] + k * u[0], y + i * a[1] + k * u[1], z + i * a[2] + k * u[2])
            for i in (0, 1)
            for k in (0, 1)
        ]

    def plane(self, origin: Three, d: Array) -> tuple[Array, Array, Array]:
        """Returns t, u, v where rays meet the rectangle's plane; t may be negative."""
        t = -dot(self.normal, away(origin, self.corner)) / safe(dot(self.normal, d))
        return (t, *self._coordinates(along_ray(origin, d, t)))

    def _coordinates(self, p: Array) -> tuple[Array, Array]:
        relative = away(p, self.corner)
        return dot(unit(self.along), relative), dot(unit(self.up), relative)

    def hit(self, origin: Three, d: Array, limit: Array) -> Array:
        """See Solid."""
        t, u, v = self.plane(origin, d)
        width, height = self.sides
        inside = (t > _NEAR) & (t < limit) & (u >= 0) & (u <= width) & (v >= 0) & (v <= height)
        if self.material.cut:
            where = np.flatnonzero(inside)
            inside[where] = self._leafy(u.take(where), v.take(where))
        return np.where(inside, t, _NEVER)

    def _leafy(self, u: Array, v: Array) -> npt.NDArray[np.bool_]:
        """Returns where a sheet of leaves has leaves: fewer towards its rim, none beyond."""
        width, height = self.sides
        rim = (u / width * 2 - 1) ** 2 + (v / height * 2 - 1) ** 2
        return np.asarray(self.material.brightness(u, v) > self.material.cut + 0.9 * rim**2)

    def surface(self, p: Array) -> tuple[Array, Array, Array]:
        """See Solid."""
        return (np.broadcast_to(column(self.normal), p.shape), *self._coordinates(p))

    def shade(self, p: Array, to_light: Array, softness: float) -> Array:
        """See Solid."""
        return np.ones(p.shape[1], np.float32)

    def gap(self, p: Array) -> Array:
        """See Solid."""
        u, v = self._coordinates(p)
        beside = [
            np.maximum(np.abs(x - w / 2) - w / 2, 0.0)
            for x, w in zip((u, v), self.sides, strict=True)
        ]
        above = dot(self.normal, away(p, self.corner))
        return np.asarray(np.sqrt(beside[0] ** 2 + beside[1] ** 2 + above**2))

    def lifted(self, by: float) -> Self:
        """See Solid."""
        return replace(self, corner=(self.corner[0], self.corner[1] + by, self.corner[2]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Box(Solid):
    """A box turned around the vertical, its edges rounded in the shading."""

    at: Vec
    """Middle."""
    half: Vec
    """Half the sides."""
    turn: float = 0.0
    """Radians."""
    bevel: float = 0.004
    """Metres over which an edge is rounded."""

    @property
    def centre(self) -> Vec:
        """See Solid."""
        return self.at

    @property
    def radius(self) -> float:
        """See Solid."""
        return length(self.half)

    def corners(self) -> list[Vec]:
        """See Solid."""
        c, s = math.cos(self.turn), math.sin(self.turn)
        spots = _cuboid((0.0, 0.0, 0.0), self.half)
        x, y, z = self.at
        return [(x + c * a + s * b, y + h, z + c * b - s * a) for a, h, b in spots]

    def _local(self, v: Three) -> tuple[Array, Array, Array]:
        if not self.turn:
            return np.asarray(v[0]), np.asarray(v[1]), np.asarray(v[2])
        c, s = math.cos(self.turn), math.sin(self.turn)
        return np.asarray(c * v[0] - s * v[2]), np.asarray(v[1]), np.asarray(s * v[0] + c * v[2])

    def _slabs(self, origin: Three, d: Array) -> tuple[Array, Array]:
        """Returns where rays enter and leave; entry is beyond exit where they miss."""
        entries, exits = [], []
        o = self._local(away(origin, self.at))
        for o_i, d_i, half in zip(o, self._local(d), self.half, strict=True):
            m = 1.0 / safe(d_i)
            middle, reach = o_i * m, half * np.abs(m)
            entries.append(-middle - reach)
            exits.append(reach - middle)
        near = np.maximum(np.maximum(entries[0], entries[1]), entries[2])
        return near, np.minimum(np.minimum(exits[0], exits[1]), exits[2])

    def hit(self, origin: Three, d: Array, limit: Array) -> Array:
        """See Solid."""
        near, far = self._slabs(origin, d)
        return np.where((near < far) & (near > _NEAR), near, _NEVER)

    def surface(self, p: Array) -> tuple[Array, Array, Array]:
        """See Solid."""
        local = self._local(away(p, self.at))
        depth = [np.abs(x) - h for x, h in zip(local, self.half, strict=True)]
        bevel = min(self.bevel, 0.25 * min(self.half))
        x, y, z = (
            np.sign(a) * np.clip(1.0 + e / bevel, 1e-4, 1.0) ** 2
            for a, e in zip(local, depth, strict=True)
        )
        c, s = math.cos(self.turn), math.sin(self.turn)
        normal = normalised(np.stack([c * x + s * z, y, c * z - s * x]))
        on_x = (depth[0] > depth[1]) & (depth[0] > depth[2])
        on_y = ~on_x & (depth[1] > depth[2])
        u = np.where(on_x, local[2] + self.half[2], local[0] + self.half[0])
        v = np.where(on_y, local[2] + self.half[2], local[1] + self.half[1])
        return normal, u, v

    def shade(self, p: Array, to_light: Array, softness: float) -> Array:
        """See Solid: the length of the path through the box decides how deep the shadow is."""
        near, far = self._slabs(p, to_light)
        near = np.maximum(near, 0.0)
        passed = 1.0 - smooth((far - near) / (4e-3 + 2 * softness * near) + 0.5)
        return np.where(far > 1e-3, passed, np.float32(1.0))

    def gap(self, p: Array) -> Array:
        """See Solid."""
        local = self._local(away(p, self.at))
        x, y, z = (np.maximum(np.abs(a) - h, 0.0) for a, h in zip(local, self.half, strict=True))
        return np.asarray(np.sqrt(x * x + y * y + z * z))

    def lifted(self, by: float) -> Self:
        """See Solid."""
        return replace(self, at=(self.at[0], self.at[1] + by, self.at[2]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Ellipsoid(Solid):
    """An ellipsoid with upright axes."""

    at: Vec
    """Middle."""
    radii: Vec

    @property
    def centre(self) -> Vec:
        """See Solid."""
        return self.at

    @property
    def radius(self) -> float:
        """See Solid."""
        return max(self.radii)

    def corners(self) -> list[Vec]:
        """See Solid."""
        return _cuboid(self.at, self.radii)

    def _scaled(self, v: Three) -> tuple[Array, Array, Array]:
        """Returns a vector in the space where the ellipsoid is the unit ball."""
        a, b, c = self.radii
        return np.asarray(v[0] / a), np.asarray(v[1] / b), np.asarray(v[2] / c)

    def hit(self, origin: Three, d: Array, limit: Array) -> Array:
        """See Solid."""
        o, s = self._scaled(away(origin, self.at)), self._scaled(d)
        a, b, c = dot(s, s), dot(o, s), dot(o, o) - 1.0
        under = b * b - a * c
        t = (-b - np.sqrt(np.maximum(under, 0.0))) / a
        return np.where((under > 0) & (t > _NEAR), t, _NEVER)

    def surface(self, p: Array) -> tuple[Array, Array, Array]:
        """See Solid."""
        q = self._scaled(away(p, self.at))
        u = np.arctan2(q[0], q[2]) * self.radii[0]
        v = np.arcsin(np.clip(q[1], -1.0, 1.0)) * self.radii[1]
        return normalised(np.stack(self._scaled(q))), u, v

    def shade(self, p: Array, to_light: Array, softness: float) -> Array:
        """See Solid: how closely the ray passes the middle decides."""
        o, s = self._scaled(away(p, self.at)), self._scaled(to_light)
        t = np.maximum(-dot(o, s) / dot(s, s), 0.0)
        a, b, c = (x + t * y for x, y in zip(o, s, strict=True))
        miss = np.sqrt(dot((a, b, c), (a, b, c)))
        u, v, w = self.radii
        metres = np.sqrt((u * a) ** 2 + (v * b) ** 2 + (w * c) ** 2)
        radius = (metres + 1e-4 * min(self.radii)) / (miss + 1e-4)  # towards the point of passage
        return smooth((metres - radius) / (0.04 * metres + 2 * softness * t + 1e-6) + 0.5)

    def gap(self, p: Array) -> Array:
        """See Solid: measured towards the middle."""
        x, y, z = away(p, self.at)
        q = self._scaled((x, y, z))
        share = 1.0 - 1.0 / np.maximum(np.sqrt(dot(q, q)), 1.0)
        return np.asarray(np.sqrt(dot((x, y, z), (x, y, z))) * share)

    def lifted(self, by: float) -> Self:
        """See Solid."""
        return replace(self, at=(self.at[0], self.at[1] + by, self.at[2]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Frustum(Solid):
    """An upright cone cut flat, closed at the top: cups, bottles, trunks, lamp shades."""

    foot: Vec
    """Middle of the bottom."""
    height: float
    bottom: float
    """Radius."""
    top: float
    """Radius."""

    @property
    def centre(self) -> Vec:
        """See Solid."""
        return (self.foot[0], self.foot[1] + self.height / 2, self.foot[2])

    @property
    def radius(self) -> float:
        """See Solid."""
        return math.hypot(self.height / 2, self._wide)

    def corners(self) -> list[Vec]:
        """See Solid."""
        return _cuboid(self.centre, (self._wide, self.height / 2, self._wide))

    @property
    def _wide(self) -> float:
        return max(self.bottom, self.top)

    @property
    def _taper(self) -> float:
        return (self.top - self.bottom) / self.height

    def hit(self, origin: Three, d: Array, limit: Array) -> Array:
        """See Solid."""
        return np.minimum(self._hit_side(origin, d), self._hit_lid(origin, d))

    def _hit_side(self, origin: Three, d: Array) -> Array:
        x, y, z = away(origin, self.foot)
        k = self._taper
        rim = self.bottom + k * y
        a = d[0] * d[0] + d[2] * d[2] - (k * k) * d[1] * d[1]
        a = safe(a)
        b = x * d[0] + z * d[2] - (rim * k) * d[1]
        under = b * b - a * (x * x + z * z - rim * rim)
        t = (-b - np.sqrt(np.maximum(under, 0.0))) / a
        level = y + t * d[1]
        met = (under > 0) & (t > _NEAR) & (level >= 0) & (level <= self.height)
        return np.where(met, t, _NEVER)

    def _hit_lid(self, origin: Three, d: Array) -> Array:
        x, y, z = away(origin, self.foot)
        t = (self.height - y) / safe(d[1])
        x, z = x + t * d[0], z + t * d[2]
        return np.where((t > _NEAR) & (x * x + z * z <= self.top**2), t, _NEVER)

    def surface(self, p: Array) -> tuple[Array, Array, Array]:
        """See Solid."""
        x, y, z = away(p, self.foot)
        around = np.sqrt(x * x + z * z) + 1e-6
        on_lid = (y > self.height * 0.9999) & (around < self.top * 0.999)
        lid = np.where(on_lid, np.float32(1.0), np.float32(0.0))
        wall = 1.0 - lid
        normal = np.stack([wall * x / around, lid - wall * self._taper, wall * z / around])
        u = np.where(on_lid, x, np.arctan2(x, z) * self._wide)
        return normalised(normal), u, np.where(on_lid, z, y)

    def shade(self, p: Array, to_light: Array, softness: float) -> Array:
        """See Solid: its shadow is that of an ellipsoid of its size, near enough when soft."""
        radii = (self._wide, 0.62 * self.height, self._wide)
        return Ellipsoid(material=self.material, at=self.centre, radii=radii).shade(
            p, to_light, softness
        )

    def gap(self, p: Array) -> Array:
        """See Solid."""
        x, y, z = away(p, self.centre)
        beside = np.maximum(np.sqrt(x * x + z * z) - self._wide, 0.0)
        above = np.maximum(np.abs(y) - self.height / 2, 0.0)
        return np.asarray(np.sqrt(beside * beside + above * above))

    def lifted(self, by: float) -> Self:
        """See Solid."""
        return replace(self, foot=(self.foot[0], self.foot[1] + by, self.foot[2]))


def _cuboid(at: Vec, half: Vec) -> list[Vec]:
    """Returns the eight corners of an upright cuboid."""
    (x, y, z), (a, b, c) = at, half
    return [(x + i * a, y + j * b, z + k * c) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]
