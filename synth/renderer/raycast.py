"""A small ray caster in numpy: solids in soft light, antialiased, seen through a lens.

A scene is a function from a direction to linear sRGB radiance, so an image of any size shows the
same scene. The trade-off: shadows, occlusion and reflections are smooth closed-form estimates, not
sampled light transport, which makes 12 MP cost seconds on one core and leaves no sampling noise.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from darkprep.synth.renderer.solids import (
    Array,
    Sheet,
    Solid,
    Vec,
    along_ray,
    column,
    cross,
    dot,
    length,
    minus,
    normalised,
    put,
    smooth,
    take,
    unit,
)
from darkprep.synth.renderer.textures import texture

F32 = npt.NDArray[np.float32]

TILE = (128, 256)
"""Rows and columns rendered at once: many enough to spread the cost of a call over the pixels, few
enough for the processor's cache."""
_BLUR = (0.056, 0.242, 0.404, 0.242, 0.056)
"""The point spread of lens, pixel and low-pass filter along one axis: a normal curve of 0.95 pixels,
which leaves half the contrast at 0.2 cycles per pixel, as sharp as cameras are at full aperture."""
_REACH = len(_BLUR) // 2
_HALO = 4
"""Pixels that a tile is rendered larger on each side: for the blur, for the edges that its outermost
pixels need, and even, so that neighbouring tiles interpolate light between the same points."""
_EDGE = 0.07
"""A step between neighbouring pixels, in units of the displayed tone, that calls for more rays."""
_SPARSE_FROM = 600
"""Pixels of a solid in a tile from which on its light is interpolated."""
_EXTRA_RAYS = ((-0.33, -0.2), (0.05, 0.36), (0.3, -0.17))


# --- light ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Light:
    """A lamp at a place, or the sun when `at` is a direction; `portal` lets it through a window."""

    at: Vec
    colour: Vec
    """Radiance that a white surface facing it returns; for a lamp at 1 m."""
    sun: bool = False
    softness: float = 0.1
    """Width of penumbrae per metre from the thing that throws the shadow."""
    portal: Sheet | None = None
    panes: tuple[int, int] = (1, 1)
    """Panes of the portal, across and up."""

    def towards(self, p: Array) -> tuple[Array, Array]:
        """Returns unit directions to the light `(3, N)` and its strength `(N,)` at points."""
        if self.sun:
            ahead: Array = np.broadcast_to(column(unit(self.at)), p.shape)
            strength: Array = np.ones(p.shape[1], np.float32)
        else:
            way = column(self.at) - p
            squared = dot(way, way)
            ahead, strength = way / np.sqrt(squared), 1.0 / (squared + 0.003)  # lamps have a size
        if self.portal is not None:
            strength = strength * self.through(p, ahead)
        return ahead, strength

    def through(self, p: Array, d: Array) -> Array:
        """Returns how much of a ray from p along unit d gets through the portal's panes, `(N,)`."""
        assert self.portal is not None
        t, u, v = self.portal.plane(p, d)
        blur = 0.004 + 0.5 * self.softness * np.clip(t, 0.0, 1e3)
        passed = np.where(t > 0, np.float32(1.0), np.float32(0.0))
        for x, side, panes in zip((u, v), self.portal.sides, self.panes, strict=True):
            x = np.clip(x, -10.0, 10.0 + side)
            passed = passed * smooth((side / 2 - np.abs(x - side / 2)) / blur + 0.5)
            phase = x * (panes / side)
            bar = np.abs(phase - np.round(phase)) * (side / panes) - 0.03
            passed = passed * smooth(bar / blur + 0.5)
        return passed


@dataclass(frozen=True, kw_only=True, eq=False)
class Disc:
    """An out-of-focus light in the sky, or the glare of a bright one."""

    towards: Vec
    colour: Vec
    angle: float
    """Radius in radians."""
    glare: bool = False
    """Falls off smoothly and lies over everything, as glare in the lens does."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sky:
    """What rays see that meet nothing."""

    zenith: Vec = (0.1, 0.1, 0.1)
    horizon: Vec = (0.1, 0.1, 0.1)
    clouds: float = 0.0
    """Cover, 0 to 1."""
    cloud_colour: Vec = (0.8, 0.8, 0.8)

    def radiance(self, d: Array, pixel: float) -> Array:
        """Returns `(3, N)` for unit directions; `pixel` is a pixel's angle."""
        height = np.clip(d[1], 0.0, 1.0) ** 0.6
        colour = column(self.horizon) + (column(self.zenith) - column(self.horizon)) * height
        if not self.clouds:
            return np.asarray(colour)
        reach = 0.22 / (np.maximum(d[1], 0.0) + 0.12)
        wide = reach * reach * np.float32(12.0 * pixel)
        mix, light = texture("cloud").sample(d[0] * reach, d[2] * reach, wide)
        cover = self.clouds * mix * smooth(d[1] / 0.2)
        return np.asarray(colour + (column(self.cloud_colour) * light - colour) * cover)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Everything that a picture shows. `exposure` scales radiance to the sensor's full scale."""

    eye: Vec
    target: Vec
    width_angle: float
    """Horizontal field of view in radians."""
    solids: tuple[Solid, ...]
    lights: tuple[Light, ...]
    ambient: tuple[Vec, Vec]
    """Light from above and from below."""
    sky: Sky = field(default_factory=Sky)
    discs: tuple[Disc, ...] = ()
    fog: float = 0.0
    """Metres after which haze covers 63 %, 0 for none; its colour is the horizon's."""
    corner_gap: float = 0.3
    """Metres over which sheets darken each other in corners."""
    kelvin: float = 5200.0
    """Colour temperature that the picture is balanced for."""
    exposure: float = 1.0

    @cached_property
    def basis(self) -> tuple[Vec, Vec, Vec]:
        """Unit vectors to the right, up and ahead of the camera."""
        ahead = unit(minus(self.target, self.eye))
        right = unit(cross(ahead, (0.0, 1.0, 0.0)))
        return right, cross(right, ahead), ahead

    @cached_property
    def shading(self) -> _Balls:
        """The solids that throw shadows."""
        return _Balls(
            [s for s in self.solids if s.casts and not isinstance(s, Sheet) and not s.material.glow]
        )

    @cached_property
    def crowding(self) -> _Balls:
        """The solids that darken what is near them."""
        return _Balls(
            [s for s in self.solids if s.casts and not (s.material.glow or s.material.cut)]
        )

    @cached_property
    def glowing(self) -> _Balls:
        """The solids that wet ground mirrors: the bright and the large."""
        return _Balls([s for s in self.solids if s.material.glow * s.radius > 0.3])

    def rays(self, y: Array, x: Array, size: tuple[int, int]) -> Array:
        """Returns directions `(3, N)` of image points in pixels from the top left corner."""
        right, up, ahead = self.basis
        scale = 2.0 * math.tan(self.width_angle / 2) / size[1]
        a, b = (x - size[1] / 2) * np.float32(scale), (size[0] / 2 - y) * np.float32(scale)
        return np.stack([ahead[i] + a * right[i] + b * up[i] for i in range(3)]).astype(np.float32)


class _Balls:
    """Solids with the balls around them as arrays, to find quickly which ones matter."""

    def __init__(self, solids: Sequence[Solid]) -> None:
        self.solids = solids
        self.centres = np.array([s.centre for s in solids], np.float64).reshape(-1, 3)
        self.radii = np.array([s.radius for s in solids], np.float64)

    def near(self, middle: Vec, reach: float, ranges: npt.NDArray[np.float64]) -> list[int]:
        """Returns indices of the solids closer than their range to a ball."""
        distance = np.linalg.norm(self.centres - middle, axis=1)
        return np.flatnonzero(distance <= self.radii + reach + ranges).tolist()

    def between(self, middle: Vec, reach: float, lamp: Light) -> list[int]:
        """Returns indices of the solids that may shade points of a ball from a lamp."""
        way = lamp.at if lamp.sun else minus(lamp.at, middle)
        to = self.centres - middle
        along = to @ np.array(unit(way))
        aside = np.sqrt(np.maximum((to * to).sum(axis=1) - along**2, 0.0))
        size = self.radii * 1.3 + reach
        may = (along >= -size) & (aside <= size + lamp.softness * (np.abs(along) + size) + 0.02)
        if not lamp.sun:
            may &= along - self.radii <= length(way) + reach
        return np.flatnonzero(may).tolist()

    def ahead(self, middle: Vec, reach: float, directions: Array) -> list[int]:
        """Returns indices of the solids that rays from a ball may meet, judged from above."""
        bearings = np.arctan2(directions[0], -directions[2])
        to = self.centres - middle
        distance = np.maximum(np.hypot(to[:, 0], to[:, 2]), 1e-9)
        wide = np.arcsin(np.minimum((self.radii + reach) / distance, 1.0)) + 0.02
        bearing = np.arctan2(to[:, 0], -to[:, 2])
        may = (bearing + wide >= bearings.min()) & (bearing - wide <= bearings.max())
        return np.flatnonzero(may | (distance <= self.radii + reach)).tolist()


# --- the picture ---------------------------------------------------------------------------------


def render(scene: Scene, size: tuple[int, int]) -> F32:
    """Returns the picture `(H, W, 3)` float32, linear sRGB, full scale 1."""
    picture = np.empty((*size, 3), np.float32)
    for rows, columns, tile in tiles(scene, size):
        picture[rows, columns] = tile
    return picture


def tiles(scene: Scene, size: tuple[int, int]) -> Iterator[tuple[slice, slice, F32]]:
    """Yields the picture in tiles: rows, columns, `(h, w, 3)` float32 linear sRGB, full scale 1."""
    caster = _Caster(scene, size)
    for top in range(0, size[0], TILE[0]):
        for left in range(0, size[1], TILE[1]):
            rows = slice(top, min(top + TILE[0], size[0]))
            columns = slice(left, min(left + TILE[1], size[1]))
            yield rows, columns, _tile(caster, rows, columns)


def meter(scene: Scene, size: tuple[int, int]) -> F32:
    """Returns `(H, W, 3)` radiance before exposure and lens, with one ray per pixel: a quick look."""
    faint = dataclasses.replace(scene, exposure=1e-4)  # far below the shoulder
    ys, xs = np.divmod(np.arange(size[0] * size[1]), size[1])
    y, x = (ys + 0.5).astype(np.float32), (xs + 0.5).astype(np.float32)
    seen = _Caster(faint, size).cast(y, x) * np.float32(1e4)
    return np.ascontiguousarray(seen.T.reshape(*size, 3), np.float32)


def _tile(caster: _Caster, rows: slice, columns: slice) -> F32:
    """Renders one tile with a halo, casts more rays at edges, and applies the lens."""
    y = np.arange(rows.start - _HALO, rows.stop + _HALO, dtype=np.float32) + np.float32(0.5)
    x = np.arange(columns.start - _HALO, columns.stop + _HALO, dtype=np.float32) + np.float32(0.5)
    ys, xs = np.repeat(y, x.size), np.tile(x, y.size)
    image = caster.cast(ys, xs, width=x.size)
    rough = np.flatnonzero(_edges(image.reshape(3, y.size, x.size)))
    if rough.size:
        extra = np.array(_EXTRA_RAYS, np.float32)
        more_y = (ys[rough] + extra[:, :1]).ravel()
        more_x = (xs[rough] + extra[:, 1:]).ravel()
        order = np.argsort(more_y, kind="stable")
        finer = np.empty((3, order.size), np.float32)
        finer[:, order] = caster.cast(more_y[order], more_x[order])
        put(image, rough, finer.reshape(3, len(extra), rough.size).mean(axis=1))
    return _lens(image.reshape(3, y.size, x.size))


def _edges(image: Array) -> npt.NDArray[np.bool_]:
    """Returns `(h * w,)`: the pixels whose tone differs from a neighbour's."""
    tone = np.sqrt(np.maximum(image.max(axis=0), 0.0))
    rough = np.zeros(tone.shape, bool)
    down = np.abs(np.diff(tone, axis=0)) > _EDGE
    rough[:-1] |= down
    rough[1:] |= down
    right = np.abs(np.diff(tone, axis=1)) > _EDGE
    rough[:, :-1] |= right
    rough[:, 1:] |= right
    return rough.ravel()


def _lens(image: Array) -> F32:
    """Returns the tile without its halo, `(h, w, 3)`, blurred as the camera blurs."""
    spare = _HALO - _REACH
    image = image[:, spare:-spare, spare:-spare]
    high, wide = image.shape[1] - 2 * _REACH, image.shape[2] - 2 * _REACH
    weights = [np.float32(w) for w in _BLUR]
    across = weights[0] * image[:, :high]
    for k in range(1, len(_BLUR)):
        across += weights[k] * image[:, k : k + high]
    both = weights[0] * across[:, :, :wide]
    for k in range(1, len(_BLUR)):
        both += weights[k] * across[:, :, k : k + wide]
    return np.ascontiguousarray(both.transpose(1, 2, 0), np.float32)


class _Caster:
    """Casts rays through points of the image, knowing where in it each thing is."""

    def __init__(self, scene: Scene, size: tuple[int, int]) -> None:
        self.scene, self.size = scene, size
        self.pixel = 2.0 * math.tan(scene.width_angle / 2) / size[1]
        balls = _Balls(scene.solids)
        self.windows = np.array([self._window(solid) for solid in scene.solids]).reshape(-1, 4)
        self.order = np.argsort(np.linalg.norm(balls.centres - scene.eye, axis=1) - balls.radii)

    def _window(self, solid: Solid) -> tuple[float, float, float, float]:
        """Returns top, bottom, left and right in pixels of a solid as the camera sees it.

        One that reaches behind the camera may be anywhere, one wholly behind it is nowhere.
        """
        right, up, ahead = self.scene.basis
        seen = [minus(corner, self.scene.eye) for corner in solid.corners()]
        depths = [float(dot(ahead, v)) for v in seen]
        if max(depths) <= 0:
            return (math.inf, -math.inf, math.inf, -math.inf)
        if min(depths) < 1e-3:
            return (-math.inf, math.inf, -math.inf, math.inf)
        x = [float(dot(right, v)) / z / self.pixel for v, z in zip(seen, depths, strict=True)]
        y = [-float(dot(up, v)) / z / self.pixel for v, z in zip(seen, depths, strict=True)]
        row, column_ = self.size[0] / 2, self.size[1] / 2
        return row + min(y) - 2, row + max(y) + 2, column_ + min(x) - 2, column_ + max(x) + 2

    def cast(self, y: Array, x: Array, *, width: int = 0) -> Array:
        """Returns exposed radiance `(3, N)` at image points, their y in ascending order.

        Where the points are a grid with rows of `width`, light is worked out at every other point of
        every other row and interpolated within each solid: it changes slowly, and costs most.
        """
        d = self.scene.rays(y, x, self.size)
        nearest, what = self._first_hits(y, x, d)
        image: Array = np.empty((3, y.size), np.float32)
        for index in np.unique(what).tolist():
            where = np.flatnonzero(what == index)
            some, t = take(d, where), nearest.take(where)
            if index < 0:
                put(image, where, self._sky(normalised(some)))
            else:
                solid = self.scene.solids[index]
                gently = width and where.size > _SPARSE_FROM and solid.material.sharpness <= 100
                sparse = _Sparse(where, width) if gently else None
                put(image, where, self._surface(solid, some, t, sparse))
        return self._optics(image, d)

    def _first_hits(self, y: Array, x: Array, d: Array) -> tuple[Array, npt.NDArray[np.int16]]:
        """Returns per ray the t of the nearest solid and its index; infinity and -1 for none.

        Nearer solids come first, so that those behind need not look for holes where they are hidden.
        """
        nearest: Array = np.full(y.size, np.inf, np.float32)
        what = np.full(y.size, -1, np.int16)
        top, bottom, left, right = self.windows.T
        low, high = x.min(), x.max()
        first, last = np.searchsorted(y, top), np.searchsorted(y, bottom)
        for index in self.order[
            ((first < last) & (left <= high) & (right >= low))[self.order]
        ].tolist():
            solid, rows = self.scene.solids[index], slice(first[index], last[index])
            if left[index] <= low and right[index] >= high:
                limit = nearest[rows]
                t = solid.hit(self.scene.eye, d[:, rows], limit)
                what[rows][t < limit] = index
                np.minimum(limit, t, out=limit)
            else:
                beside = (x[rows] >= left[index]) & (x[rows] <= right[index])
                inside = np.flatnonzero(beside) + first[index]
                limit = nearest.take(inside)
                t = solid.hit(self.scene.eye, take(d, inside), limit)
                closer = np.flatnonzero(t < limit)
                inside = inside.take(closer)
                nearest[inside], what[inside] = t.take(closer), index
        return nearest, what

    def _sky(self, d: Array) -> Array:
        """Returns `(3, N)` of unit directions that meet no solid."""
        seen = self.scene.sky.radiance(d, self.pixel)
        low, high = d[0].min() - 0.05, d[0].max() + 0.05
        for disc in self.scene.discs:
            if not disc.glare and low <= unit(disc.towards)[0] <= high:
                distance = (
                    np.sqrt(np.maximum(2.0 - 2.0 * dot(unit(disc.towards), d), 0.0)) / disc.angle
                )
                rim = 1.0 + 0.35 * smooth((distance - 0.55) / 0.4)
                seen = seen + column(disc.colour) * (rim * (1.0 - smooth((distance - 0.96) / 0.06)))
        return seen

    def _surface(self, solid: Solid, d: Array, t: Array, sparse: _Sparse | None) -> Array:
        """Returns `(3, N)` of what rays see that meet a solid at t."""
        scene, material = self.scene, solid.material
        p = along_ray(scene.eye, d, t)
        far = t * np.sqrt(dot(d, d))
        view = normalised(d)
        normal, u, v = solid.surface(p)
        facing = dot(normal, view)
        normal = np.where(facing > 0, -normal, normal)
        facing = np.maximum(np.abs(facing), 1e-3)
        footprint = far * np.float32(1.3 * self.pixel) / np.sqrt(np.maximum(facing, 0.12))
        seen = material.colour(u, v, footprint)
        if material.glow:
            seen = seen * np.float32(material.glow)
        elif sparse is None:
            light, shine = self._lit(solid, p, normal, view, facing)
            seen = seen * light + shine
        else:
            seen = self._sparsely_lit(sparse, solid, (p, normal, view, facing), seen)
        if material.mirror:
            seen = seen + self._mirrored(
                material.mirror, p, normal, view, facing, material.brightness(u, v)
            )
        if scene.fog:
            haze = 1.0 - np.exp(far * np.float32(-1.0 / scene.fog))
            seen = seen + (column(scene.sky.horizon) - seen) * haze
        return np.asarray(seen)

    def _sparsely_lit(
        self, sparse: _Sparse, solid: Solid, rays: tuple[Array, Array, Array, Array], colour: Array
    ) -> Array:
        """Returns `(3, N)` colour times light plus shine, both worked out at the sparse points."""

        def lit(where: npt.NDArray[np.intp]) -> Array:
            p, normal, view, facing = rays
            some = take(p, where), take(normal, where), take(view, where), facing.take(where)
            return np.concatenate(self._lit(solid, *some))

        normal = rays[1]
        sample = np.concatenate([lit(sparse.chosen), take(normal, sparse.chosen)])
        spread, weight = sparse.spread(sample)
        alike = dot(spread[6:], normal) > 0.98 * np.maximum(weight, 0.5)
        spread /= np.maximum(weight, 0.5)
        alone = np.flatnonzero(~alike)  # no sample beside them, or from another face
        if alone.size:
            spread[:6, alone] = lit(alone)
        return np.asarray(colour * spread[:3] + spread[3:6])

    def _lit(
        self, solid: Solid, p: Array, normal: Array, view: Array, facing: Array
    ) -> tuple[Array, Array]:
        """Returns the light on surfaces and the shine on top of them, each `(3, N)`."""
        scene, material = self.scene, solid.material
        middle, reach = _ball(p)
        above, below = (column(c) for c in scene.ambient)
        open_ = self._openness(solid, p, middle, reach)
        light = (below + (above - below) * (0.5 + 0.5 * normal[1])) * open_
        bounced = view + normal * (2.0 * facing)
        shine = np.zeros_like(light)
        for lamp in scene.lights:
            ahead, strength = lamp.towards(p)
            cosine = np.maximum(dot(normal, ahead), 0.0)
            strength = self._reaching(solid, lamp, p, ahead, strength * (cosine > 0), middle, reach)
            light += column(lamp.colour) * (strength * cosine)
            if material.gloss:
                peak = np.exp(np.float32(material.sharpness) * (dot(bounced, ahead) - 1.0))
                peak *= np.float32(1.0 + material.sharpness / 30.0)  # narrow ones are brighter
                shine += column(lamp.colour) * (peak * strength)
                if lamp.portal is not None:
                    shine += column(lamp.colour) * (3.0 * lamp.through(p, bounced))
        if material.gloss:
            fresnel = 0.05 + 0.95 * (1.0 - np.minimum(facing, 1.0)) ** 5
            around = (below + (above - below) * smooth(bounced[1] * 0.7 + 0.5)) * open_
            shine = np.float32(material.gloss) * (0.6 * shine + fresnel * 2.0 * around)
        return light, shine

    def _mirrored(
        self, strength: float, p: Array, normal: Array, view: Array, facing: Array, ripple: Array
    ) -> Array:
        """Returns `(3, N)`: what wet ground shows of the things that glow, broken up by ripples."""
        bounced = view + normal * (2.0 * facing)
        bounced[1] *= np.clip(1.0 + 1.2 * (ripple - 1.0), 0.3, 2.5)
        bounced[0] += np.float32(0.02) * (ripple - 1.0)
        seen = np.zeros_like(p)
        nearest: Array = np.full(p.shape[1], np.inf, np.float32)
        what = np.full(p.shape[1], -1, np.int16)
        glowing = self.scene.glowing
        for index in glowing.ahead(*_ball(p), bounced):
            t = glowing.solids[index].hit(p, bounced, nearest)
            what[t < nearest] = index
            np.minimum(nearest, t, out=nearest)
        for index in np.unique(what[what >= 0]).tolist():
            where = np.flatnonzero(what == index)
            far = nearest.take(where)
            at = along_ray(take(p, where), take(bounced, where), far)
            _, u, v = glowing.solids[index].surface(at)
            material = glowing.solids[index].material
            seen[:, where] = (
                material.colour(u, v, nearest[where] * np.float32(0.05)) * material.glow
            )
        fresnel = 0.04 + 0.96 * (1.0 - np.minimum(facing, 1.0)) ** 4
        return np.asarray(seen * (fresnel * strength))

    def _openness(self, solid: Solid, p: Array, middle: Vec, reach: float) -> Array:
        """Returns the share of the surroundings that points see, `(N,)`: dark in corners and gaps."""
        open_: Array = np.ones(p.shape[1], np.float32)
        crowd = self.scene.crowding
        ranges = np.minimum(0.9 * crowd.radii, self.scene.corner_gap)
        for index in crowd.near(middle, reach, ranges):
            other = crowd.solids[index]
            if other is solid or (other.group and other.group == solid.group):
                continue
            near = 1.0 - np.minimum(other.gap(p) / np.float32(ranges[index]), 1.0)
            open_ = open_ * (1.0 - 0.5 * near * near * near)
        return 0.2 + 0.8 * open_

    def _reaching(
        self,
        solid: Solid,
        lamp: Light,
        p: Array,
        ahead: Array,
        strength: Array,
        middle: Vec,
        reach: float,
    ) -> Array:
        """Returns how much of a lamp's strength reaches points past all other things, `(N,)`."""
        lit = np.flatnonzero(strength > 1e-5)
        passed = strength.take(lit)
        if not lit.size:
            return strength
        p, ahead = take(p, lit), take(ahead, lit)
        shading = self.scene.shading
        for index in shading.between(middle, reach, lamp):
            other = shading.solids[index]
            if other is solid or (other.group and other.group == solid.group):
                continue
            share = other.shade(p, ahead, lamp.softness)
            if not lamp.sun:  # what stands behind the lamp takes nothing of its light
                before = dot(minus(other.centre, lamp.at), ahead) < 0
                share = np.where(before, share, np.float32(1.0))
            passed = passed * share
        result = np.zeros_like(strength)
        result[lit] = passed
        return result

    def _optics(self, image: Array, d: Array) -> Array:
        """Adds glare and the fall-off towards the corners, applies exposure and the shoulder."""
        d = normalised(d)
        for disc in self.scene.discs:
            if disc.glare:
                squared = (2.0 - 2.0 * dot(unit(disc.towards), d)) / np.float32(disc.angle**2)
                image = image + column(disc.colour) / (1.0 + squared)
        fall = dot(self.scene.basis[2], d) ** 2
        return film(image * (fall * np.float32(self.scene.exposure)))


class _Sparse:
    """The points of a solid in a grid that have even rows and columns, to interpolate between."""

    def __init__(self, where: npt.NDArray[np.intp], width: int) -> None:
        rows, columns = np.divmod(where, width)
        self.chosen = np.flatnonzero((rows | columns) & 1 == 0)
        """Which of the solid's points are sparse ones."""
        stride = width // 2 + 2
        cells = (rows >> 1) * stride + (columns >> 1)
        self._slot = np.full(int(cells.max()) + stride + 2, self.chosen.size, np.intp)
        self._slot[cells[self.chosen]] = np.arange(self.chosen.size)
        right, down = columns & 1, (rows & 1) * stride
        self._corners = (cells, cells + right, cells + down, cells + right + down)

    def spread(self, values: Array) -> tuple[Array, Array]:
        """Returns sums `(K, N)` over each point's neighbours of `(K, n)` values, and their weights."""
        weighted = np.zeros((len(values) + 1, values.shape[1] + 1), np.float32)
        weighted[:-1, :-1], weighted[-1, :-1] = values, 1.0
        total = take(weighted, self._slot[self._corners[0]])
        for corner in self._corners[1:]:
            total += take(weighted, self._slot[corner])
        return total[:-1], total[-1]


def film(radiance: Array) -> Array:
    """Returns exposed radiance `(3, N)` with its highlights compressed and paled, as film does.

    Up to 0.7 nothing changes, 1.3 becomes full scale, and a little more lies above it: there the
    sensor clips.
    """
    peak = radiance.max(axis=0)
    over = np.clip(peak - 0.7, 0.0, 0.6)
    squeezed = np.minimum(peak, 0.7) + over - over * over / 1.2 + 0.02 * smooth((peak - 1.2) / 0.4)
    scaled = radiance * (squeezed / np.maximum(peak, 1e-6))
    pale = smooth((peak - 0.9) / 1.2)
    return np.asarray(scaled + (squeezed - scaled) * pale)


def _ball(p: Array) -> tuple[Vec, float]:
    """Returns middle and radius of a ball around points."""
    low, high = p.min(axis=1).tolist(), p.max(axis=1).tolist()
    middle = ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, (low[2] + high[2]) / 2)
    return middle, math.dist(low, high) / 2
