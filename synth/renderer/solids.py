"""The solids of which scenes consist: sheet, box, ellipsoid, frustum.

Each solid computes ray intersections, normals and surface coordinates, its soft shadow, and the distance of
points from it. The trade-off: shadows and distances are closed formulas that are exact in simple cases and
plausible otherwise, since an image needs millions of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from darkprep.synth.renderer.solid import MIN_T, MISS, Solid
from darkprep.synth.renderer.vectors import (
    Array,
    Vec,
    VectorLike,
    column,
    cross,
    dot,
    length,
    nonzero,
    normalised,
    points_along,
    relative_to,
    smoothstep,
    unit,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sheet(Solid):
    """A flat rectangle: a corner and two perpendicular edges. It casts no shadow."""

    corner: Vec
    along: Vec
    up: Vec

    @cached_property
    def sides(self) -> tuple[float, float]:
        """Lengths of the edges `along` and `up`, in metres."""
        return length(self.along), length(self.up)

    @cached_property
    def normal(self) -> Vec:
        """Unit normal of the rectangle."""
        return unit(cross(self.along, self.up))

    @property
    def centre(self) -> Vec:
        """Centre of the rectangle."""
        c, a, u = self.corner, self.along, self.up
        return (c[0] + (a[0] + u[0]) / 2, c[1] + (a[1] + u[1]) / 2, c[2] + (a[2] + u[2]) / 2)

    @property
    def radius(self) -> float:
        """Half the diagonal of the rectangle, in metres."""
        return math.hypot(*self.sides) / 2

    def corners(self) -> list[Vec]:
        """Return the four corners of the rectangle."""
        (x, y, z), a, u = self.corner, self.along, self.up
        return [
            (x + i * a[0] + k * u[0], y + i * a[1] + k * u[1], z + i * a[2] + k * u[2])
            for i in (0, 1)
            for k in (0, 1)
        ]

    def intersect_plane(self, origin: VectorLike, d: Array) -> tuple[Array, Array, Array]:
        """Return t, u, v of the points where rays meet the rectangle's plane; t may be negative."""
        t = -dot(self.normal, relative_to(origin, self.corner)) / nonzero(dot(self.normal, d))
        return (t, *self._coordinates(points_along(origin, d, t)))

    def _coordinates(self, p: Array) -> tuple[Array, Array]:
        relative = relative_to(p, self.corner)
        return dot(unit(self.along), relative), dot(unit(self.up), relative)

    def intersect(self, origin: VectorLike, d: Array, limit: Array) -> Array:
        """Return the t `(N,)` at which each ray meets the rectangle outside its holes; infinity where it misses."""
        t, u, v = self.intersect_plane(origin, d)
        width, height = self.sides
        inside = (t > MIN_T) & (t < limit) & (u >= 0) & (u <= width) & (v >= 0) & (v <= height)
        if self.material.cutout:
            where = np.flatnonzero(inside)
            inside[where] = self._has_leaf(u.take(where), v.take(where))
        return np.where(inside, t, MISS)

    def _has_leaf(self, u: Array, v: Array) -> npt.NDArray[np.bool_]:
        """Return whether a sheet of leaves has a leaf at (u, v): less often near its edges."""
        width, height = self.sides
        rim = (u / width * 2 - 1) ** 2 + (v / height * 2 - 1) ** 2
        return np.asarray(self.material.brightness(u, v) > self.material.cutout + 0.9 * rim**2)

    def surface(self, p: Array) -> tuple[Array, Array, Array]:
        """Return the constant normal `(3, N)` and the coordinates u, v along the two edges, in metres."""
        return (np.broadcast_to(column(self.normal), p.shape), *self._coordinates(p))

    def transmittance(self, p: Array, to_light: Array, softness: float) -> Array:
        """Return 1 for all points, `(N,)`: a sheet casts no shadow."""
        return np.ones(p.shape[1], np.float32)

    def distance(self, p: Array) -> Array:
        """Return the distance from points to the rectangle, `(N,)` metres."""
        u, v = self._coordinates(p)
        beside = [
            np.maximum(np.abs(x - w / 2) - w / 2, 0.0)
            for x, w in zip((u, v), self.sides, strict=True)
        ]
        above = dot(self.normal, relative_to(p, self.corner))
        return np.asarray(np.sqrt(beside[0] ** 2 + beside[1] ** 2 + above**2))

    def raised(self, by: float) -> Self:
        """Return a copy of the sheet that is moved up by `by` metres."""
        return replace(self, corner=(self.corner[0], self.corner[1] + by, self.corner[2]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Box(Solid):
    """A box rotated about the vertical axis; its edges are shaded as if rounded."""

    at: Vec
    """Centre."""
    half_size: Vec
    """Half the lengths of the sides."""
    rotation: float = 0.0
    """Rotation about the vertical axis, in radians."""
    bevel: float = 0.004
    """Width in metres of the rounding of edges in the shading."""

    @property
    def centre(self) -> Vec:
        """Centre of the box."""
        return self.at

    @property
    def radius(self) -> float:
        """Half the diagonal of the box, in metres."""
        return length(self.half_size)

    def corners(self) -> list[Vec]:
        """Return the eight corners of the box."""
        c, s = math.cos(self.rotation), math.sin(self.rotation)
        spots = _box_corners((0.0, 0.0, 0.0), self.half_size)
        x, y, z = self.at
        return [(x + c * a + s * b, y + h, z + c * b - s * a) for a, h, b in spots]

    def _local(self, v: VectorLike) -> tuple[Array, Array, Array]:
        if not self.rotation:
            return np.asarray(v[0]), np.asarray(v[1]), np.asarray(v[2])
        c, s = math.cos(self.rotation), math.sin(self.rotation)
        return np.asarray(c * v[0] - s * v[2]), np.asarray(v[1]), np.asarray(s * v[0] + c * v[2])

    def _slabs(self, origin: VectorLike, d: Array) -> tuple[Array, Array]:
        """Return t where each ray enters and leaves the box; the entry is larger where a ray misses."""
        entries, exits = [], []
        o = self._local(relative_to(origin, self.at))
        for o_i, d_i, half in zip(o, self._local(d), self.half_size, strict=True):
            m = 1.0 / nonzero(d_i)
            middle, reach = o_i * m, half * np.abs(m)
            entries.append(-middle - reach)
            exits.append(reach - middle)
        near = np.maximum(np.maximum(entries[0], entries[1]), entries[2])
        return near, np.minimum(np.minimum(exits[0], exits[1]), exits[2])

    def intersect(self, origin: VectorLike, d: Array, limit: Array) -> Array:
        """Return the t `(N,)` at which each ray enters the box; infinity where it misses."""
        near, far = self._slabs(origin, d)
        return np.where((near < far) & (near > MIN_T), near, MISS)

    def surface(self, p: Array) -> tuple[Array, Array, Array]:
        """Return the normals `(3, N)`, rounded at the edges, and coordinates u, v in metres on the nearest face."""
        local = self._local(relative_to(p, self.at))
        depth = [np.abs(x) - h for x, h in zip(local, self.half_size, strict=True)]
        bevel = min(self.bevel, 0.25 * min(self.half_size))
        x, y, z = (
            np.sign(a) * np.clip(1.0 + e / bevel, 1e-4, 1.0) ** 2
            for a, e in zip(local, depth, strict=True)
        )
        c, s = math.cos(self.rotation), math.sin(self.rotation)
        normal = normalised(np.stack([c * x + s * z, y, c * z - s * x]))
        on_x = (depth[0] > depth[1]) & (depth[0] > depth[2])
        on_y = ~on_x & (depth[1] > depth[2])
        u = np.where(on_x, local[2] + self.half_size[2], local[0] + self.half_size[0])
        v = np.where(on_y, local[2] + self.half_size[2], local[1] + self.half_size[1])
        return normal, u, v

    def transmittance(self, p: Array, to_light: Array, softness: float) -> Array:
        """Return the share of light that passes the box, `(N,)`, from the length of its path through the box."""
        near, far = self._slabs(p, to_light)
        near = np.maximum(near, 0.0)
        passed = 1.0 - smoothstep((far - near) / (4e-3 + 2 * softness * near) + 0.5)
        return np.where(far > 1e-3, passed, np.float32(1.0))

    def distance(self, p: Array) -> Array:
        """Return the distance from points to the box, `(N,)` metres; 0 inside."""
        local = self._local(relative_to(p, self.at))
        x, y, z = (
            np.maximum(np.abs(a) - h, 0.0) for a, h in zip(local, self.half_size, strict=True)
        )
        return np.asarray(np.sqrt(x * x + y * y + z * z))

    def raised(self, by: float) -> Self:
        """Return a copy of the box that is moved up by `by` metres."""
        return replace(self, at=(self.at[0], self.at[1] + by, self.at[2]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Ellipsoid(Solid):
    """An ellipsoid whose axes are parallel to x, y and z."""

    at: Vec
    """Centre."""
    radii: Vec

    @property
    def centre(self) -> Vec:
        """Centre of the ellipsoid."""
        return self.at

    @property
    def radius(self) -> float:
        """Longest half axis of the ellipsoid, in metres."""
        return max(self.radii)

    def corners(self) -> list[Vec]:
        """Return the eight corners of the box around the ellipsoid."""
        return _box_corners(self.at, self.radii)

    def _scaled(self, v: VectorLike) -> tuple[Array, Array, Array]:
        """Return a vector in the space in which the ellipsoid is the unit sphere."""
        a, b, c = self.radii
        return np.asarray(v[0] / a), np.asarray(v[1] / b), np.asarray(v[2] / c)

    def intersect(self, origin: VectorLike, d: Array, limit: Array) -> Array:
        """Return the t `(N,)` at which each ray enters the ellipsoid; infinity where it misses."""
        o, s = self._scaled(relative_to(origin, self.at)), self._scaled(d)
        a, b, c = dot(s, s), dot(o, s), dot(o, o) - 1.0
        under = b * b - a * c
        t = (-b - np.sqrt(np.maximum(under, 0.0))) / a
        return np.where((under > 0) & (t > MIN_T), t, MISS)

    def surface(self, p: Array) -> tuple[Array, Array, Array]:
        """Return the normals `(3, N)` and coordinates u, v in metres of points on the ellipsoid."""
        q = self._scaled(relative_to(p, self.at))
        u = np.arctan2(q[0], q[2]) * self.radii[0]
        v = np.arcsin(np.clip(q[1], -1.0, 1.0)) * self.radii[1]
        return normalised(np.stack(self._scaled(q))), u, v

    def transmittance(self, p: Array, to_light: Array, softness: float) -> Array:
        """Return the share of light that passes the solid, `(N,)`, from the distance between the light's path and the solid's centre."""
        o, s = self._scaled(relative_to(p, self.at)), self._scaled(to_light)
        t = np.maximum(-dot(o, s) / dot(s, s), 0.0)
        a, b, c = (x + t * y for x, y in zip(o, s, strict=True))
        miss = np.sqrt(dot((a, b, c), (a, b, c)))
        u, v, w = self.radii
        metres = np.sqrt((u * a) ** 2 + (v * b) ** 2 + (w * c) ** 2)
        radius = (metres + 1e-4 * min(self.radii)) / (
            miss + 1e-4
        )  # in the direction of the closest point
        return smoothstep((metres - radius) / (0.04 * metres + 2 * softness * t + 1e-6) + 0.5)

    def distance(self, p: Array) -> Array:
        """Return the distance from points to the ellipsoid, `(N,)` metres, measured towards its centre."""
        x, y, z = relative_to(p, self.at)
        q = self._scaled((x, y, z))
        share = 1.0 - 1.0 / np.maximum(np.sqrt(dot(q, q)), 1.0)
        return np.asarray(np.sqrt(dot((x, y, z), (x, y, z))) * share)

    def raised(self, by: float) -> Self:
        """Return a copy of the ellipsoid that is moved up by `by` metres."""
        return replace(self, at=(self.at[0], self.at[1] + by, self.at[2]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Frustum(Solid):
    """An upright truncated cone, closed at the top: cups, bottles, trunks, lamp shades."""

    base: Vec
    """Centre of the bottom."""
    height: float
    bottom_radius: float
    top_radius: float

    @property
    def centre(self) -> Vec:
        """Centre of the frustum's axis."""
        return (self.base[0], self.base[1] + self.height / 2, self.base[2])

    @property
    def radius(self) -> float:
        """Radius of the frustum's bounding sphere, in metres."""
        return math.hypot(self.height / 2, self._max_radius)

    def corners(self) -> list[Vec]:
        """Return the eight corners of the box around the frustum."""
        return _box_corners(self.centre, (self._max_radius, self.height / 2, self._max_radius))

    @property
    def _max_radius(self) -> float:
        return max(self.bottom_radius, self.top_radius)

    @property
    def _taper(self) -> float:
        return (self.top_radius - self.bottom_radius) / self.height

    def intersect(self, origin: VectorLike, d: Array, limit: Array) -> Array:
        """Return the t `(N,)` at which each ray meets the side or the top; infinity where it misses."""
        return np.minimum(self._intersect_side(origin, d), self._intersect_top(origin, d))

    def _intersect_side(self, origin: VectorLike, d: Array) -> Array:
        x, y, z = relative_to(origin, self.base)
        k = self._taper
        rim = self.bottom_radius + k * y
        a = d[0] * d[0] + d[2] * d[2] - (k * k) * d[1] * d[1]
        a = nonzero(a)
        b = x * d[0] + z * d[2] - (rim * k) * d[1]
        under = b * b - a * (x * x + z * z - rim * rim)
        t = (-b - np.sqrt(np.maximum(under, 0.0))) / a
        level = y + t * d[1]
        met = (under > 0) & (t > MIN_T) & (level >= 0) & (level <= self.height)
        return np.where(met, t, MISS)

    def _intersect_top(self, origin: VectorLike, d: Array) -> Array:
        x, y, z = relative_to(origin, self.base)
        t = (self.height - y) / nonzero(d[1])
        x, z = x + t * d[0], z + t * d[2]
        return np.where((t > MIN_T) & (x * x + z * z <= self.top_radius**2), t, MISS)

    def surface(self, p: Array) -> tuple[Array, Array, Array]:
        """Return the normals `(3, N)` and coordinates u, v in metres of points on the side or the top."""
        x, y, z = relative_to(p, self.base)
        around = np.sqrt(x * x + z * z) + 1e-6
        on_top = (y > self.height * 0.9999) & (around < self.top_radius * 0.999)
        top = np.where(on_top, np.float32(1.0), np.float32(0.0))
        wall = 1.0 - top
        normal = np.stack([wall * x / around, top - wall * self._taper, wall * z / around])
        u = np.where(on_top, x, np.arctan2(x, z) * self._max_radius)
        return normalised(normal), u, np.where(on_top, z, y)

    def transmittance(self, p: Array, to_light: Array, softness: float) -> Array:
        """Return the share of light that passes the solid, `(N,)`, approximated by that of an ellipsoid of the frustum's size."""
        radii = (self._max_radius, 0.62 * self.height, self._max_radius)
        return Ellipsoid(material=self.material, at=self.centre, radii=radii).transmittance(
            p, to_light, softness
        )

    def distance(self, p: Array) -> Array:
        """Return the distance from points to the cylinder around the frustum, `(N,)` metres; 0 inside."""
        x, y, z = relative_to(p, self.centre)
        beside = np.maximum(np.sqrt(x * x + z * z) - self._max_radius, 0.0)
        above = np.maximum(np.abs(y) - self.height / 2, 0.0)
        return np.asarray(np.sqrt(beside * beside + above * above))

    def raised(self, by: float) -> Self:
        """Return a copy of the frustum that is moved up by `by` metres."""
        return replace(self, base=(self.base[0], self.base[1] + by, self.base[2]))


def _box_corners(at: Vec, half: Vec) -> list[Vec]:
    """Return the eight corners of a box whose edges are parallel to the axes."""
    (x, y, z), (a, b, c) = at, half
    return [(x + i * a, y + j * b, z + k * c) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]
