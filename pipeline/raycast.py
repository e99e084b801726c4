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

from pipeline.solids import (
    Array,
    Sheet,
    Solid,
    Three,
    Vec,
    along_ray,
    column,
    cross,
    dot,
    length,
    minus,
    normalised,
    smooth,
    unit,
)
from pipeline.textures import texture

F32 = npt.NDArray[np.float32]

TILE = (192, 320)
"""Rows and columns rendered at once: many enough to spread the cost of a call over the pixels, few
enough for the processor's cache."""
_HALO = 2
_BLUR = (0.23, 0.54, 0.23)
"""The point spread of lens and low-pass filter along one axis, in pixels."""
_EDGE = 0.05
"""A step between neighbouring pixels, in units of the displayed tone, that calls for more rays."""
_EXTRA_RAYS = ((-0.375, -0.125), (0.125, -0.375), (0.375, 0.125), (-0.125, 0.375))


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
            squared = dot(way, way) + 0.003
            ahead, strength = way / np.sqrt(squared), 1.0 / squared
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
        """The solids that wet ground mirrors."""
        return _Balls([s for s in self.solids if s.material.glow])

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
            may &= along - self.radii <= length(way)
        return np.flatnonzero(may).tolist()

    def in_cone(self, apex: Vec, axis: Vec, spread: float) -> list[Solid]:
        """Returns the solids that a cone may meet."""
        to = self.centres - apex
        distance = np.maximum(np.linalg.norm(to, axis=1), 1e-9)
        inside = distance <= self.radii * 1.02
        angle = np.arccos(np.clip(to @ np.array(axis) / distance, -1.0, 1.0))
        reach = spread + np.arcsin(np.minimum(self.radii * 1.02 / distance, 1.0))
        return [self.solids[i] for i in np.flatnonzero(inside | (angle < reach)).tolist()]


# --- the picture ---------------------------------------------------------------------------------


def render(scene: Scene, size: tuple[int, int]) -> F32:
    """Returns the picture `(H, W, 3)` float32, linear sRGB, full scale 1."""
    picture = np.empty((*size, 3), np.float32)
    for rows, columns, tile in tiles(scene, size):
        picture[rows, columns] = tile
    return picture


def tiles(scene: Scene, size: tuple[int, int]) -> Iterator[tuple[slice, slice, F32]]:
    """Yields the picture in tiles: rows, columns, `(h, w, 3)` float32 linear sRGB, full scale 1."""
    for top in range(0, size[0], TILE[0]):
        for left in range(0, size[1], TILE[1]):
            rows = slice(top, min(top + TILE[0], size[0]))
            columns = slice(left, min(left + TILE[1], size[1]))
            yield rows, columns, _tile(scene, size, rows, columns)


def meter(scene: Scene, size: tuple[int, int]) -> F32:
    """Returns `(H, W, 3)` radiance before exposure and lens, with one ray per pixel: a quick look."""
    faint = dataclasses.replace(scene, exposure=1e-4)  # far below the shoulder
    ys, xs = np.divmod(np.arange(size[0] * size[1]), size[1])
    y, x = (ys + 0.5).astype(np.float32), (xs + 0.5).astype(np.float32)
    seen = _Caster(faint, size, (0.0, float(size[0]), 0.0, float(size[1]))).cast(y, x) * np.float32(
        1e4
    )
    return np.ascontiguousarray(seen.T.reshape(*size, 3), np.float32)


def _tile(scene: Scene, size: tuple[int, int], rows: slice, columns: slice) -> F32:
    """Renders one tile with a halo, casts more rays at edges, and applies the lens."""
    y = np.arange(rows.start - _HALO, rows.stop + _HALO, dtype=np.float32) + np.float32(0.5)
    x = np.arange(columns.start - _HALO, columns.stop + _HALO, dtype=np.float32) + np.float32(0.5)
    ys, xs = np.repeat(y, x.size), np.tile(x, y.size)
    caster = _Caster(scene, size, (float(y[0]), float(y[-1]), float(x[0]), float(x[-1])))
    image = caster.cast(ys, xs)
    rough = np.flatnonzero(_edges(image.reshape(3, y.size, x.size)))
    if rough.size:
        more_y = np.concatenate([ys[rough] + np.float32(dy) for dy, _ in _EXTRA_RAYS])
        more_x = np.concatenate([xs[rough] + np.float32(dx) for _, dx in _EXTRA_RAYS])
        finer = caster.cast(more_y, more_x).reshape(3, len(_EXTRA_RAYS), rough.size)
        image[:, rough] = finer.mean(axis=1)
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
    """Returns the tile without its halo, `(h, w, 3)`, blurred as lens and low-pass filter blur."""
    side, middle, _ = (np.float32(w) for w in _BLUR)
    image = middle * image[:, 1:-1] + side * (image[:, :-2] + image[:, 2:])
    image = middle * image[:, :, 1:-1] + side * (image[:, :, :-2] + image[:, :, 2:])
    crop = _HALO - 1
    return np.ascontiguousarray(image[:, crop:-crop, crop:-crop].transpose(1, 2, 0), np.float32)


class _Caster:
    """Casts rays within one window of the image, knowing which things they can meet."""

    def __init__(
        self, scene: Scene, size: tuple[int, int], window: tuple[float, float, float, float]
    ) -> None:
        self.scene, self.size = scene, size
        self.pixel = 2.0 * math.tan(scene.width_angle / 2) / size[1]
        y0, y1, x0, x1 = window
        corners = normalised(
            scene.rays(
                np.array([(y0 + y1) / 2, y0, y0, y1, y1], np.float32),
                np.array([(x0 + x1) / 2, x0, x1, x0, x1], np.float32),
                size,
            )
        )
        a, b, c = corners[:, 0].tolist()
        spread = math.acos(min(1.0, float(dot((a, b, c), corners[:, 1:]).min()))) + 2 * self.pixel
        self.solids = _Balls(scene.solids).in_cone(scene.eye, (a, b, c), spread)
        self.discs = [
            disc
            for disc in scene.discs
            if disc.glare or _angle((a, b, c), unit(disc.towards)) < spread + 1.2 * disc.angle
        ]

    def cast(self, y: Array, x: Array) -> Array:
        """Returns exposed radiance `(3, N)` at image points."""
        d = self.scene.rays(y, x, self.size)
        nearest, what = _first_hits(self.solids, self.scene.eye, d)
        image = np.empty((3, y.size), np.float32)
        for index in np.unique(what).tolist():
            where = np.flatnonzero(what == index)
            if index < 0:
                image[:, where] = self._sky(normalised(d[:, where]))
            else:
                image[:, where] = self._surface(self.solids[index], d[:, where], nearest[where])
        return self._optics(image, d)

    def _sky(self, d: Array) -> Array:
        """Returns `(3, N)` of unit directions that meet no solid."""
        seen = self.scene.sky.radiance(d, self.pixel)
        for disc in self.discs:
            if not disc.glare:
                distance = (
                    np.sqrt(np.maximum(2.0 - 2.0 * dot(unit(disc.towards), d), 0.0)) / disc.angle
                )
                rim = 1.0 + 0.35 * smooth((distance - 0.55) / 0.4)
                seen = seen + column(disc.colour) * (rim * (1.0 - smooth((distance - 0.96) / 0.06)))
        return seen

    def _surface(self, solid: Solid, d: Array, t: Array) -> Array:
        """Returns `(3, N)` of what rays see that meet a solid at t."""
        scene, material = self.scene, solid.material
        p = along_ray(scene.eye, d, t)
        far = t * np.sqrt(dot(d, d))
        view = normalised(d)
        normal, u, v = solid.surface(p)
        facing = dot(normal, view)
        normal = np.where(facing > 0, -normal, normal)
        facing = np.maximum(np.abs(facing), 1e-3)
        footprint = far * np.float32(self.pixel) / np.sqrt(np.maximum(facing, 0.12))
        colour = material.colour(u, v, footprint)
        if material.glow:
            seen = colour * np.float32(material.glow)
        else:
            seen = self._lit(solid, p, normal, view, facing, colour)
        if material.mirror:
            seen = seen + self._mirrored(
                material.mirror, p, normal, view, facing, material.brightness(u, v)
            )
        if scene.fog:
            haze = 1.0 - np.exp(far * np.float32(-1.0 / scene.fog))
            seen = seen + (column(scene.sky.horizon) - seen) * haze
        return np.asarray(seen)

    def _lit(
        self, solid: Solid, p: Array, normal: Array, view: Array, facing: Array, colour: Array
    ) -> Array:
        """Returns `(3, N)`: the diffuse and glossy light of surfaces that do not glow."""
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
            strength = strength * self._unshaded(solid, lamp, p, ahead, middle, reach)
            light += column(lamp.colour) * (strength * cosine)
            if material.gloss:
                peak = np.exp(np.float32(material.sharpness) * (dot(bounced, ahead) - 1.0))
                shine += column(lamp.colour) * (peak * strength * (cosine > 0))
                if lamp.portal is not None:
                    shine += column(lamp.colour) * (0.5 * lamp.through(p, bounced))
        seen = colour * light
        if material.gloss:
            fresnel = 0.05 + 0.95 * (1.0 - np.minimum(facing, 1.0)) ** 5
            around = (below + (above - below) * smooth(bounced[1] * 0.7 + 0.5)) * open_
            seen += np.float32(material.gloss) * (0.6 * shine + fresnel * 2.0 * around)
        return np.asarray(seen)

    def _mirrored(
        self, strength: float, p: Array, normal: Array, view: Array, facing: Array, ripple: Array
    ) -> Array:
        """Returns `(3, N)`: what wet ground shows of the things that glow, broken up by ripples."""
        bounced = view + normal * (2.0 * facing)
        bounced[1] *= np.clip(1.0 + 1.2 * (ripple - 1.0), 0.3, 2.5)
        bounced[0] += np.float32(0.02) * (ripple - 1.0)
        seen = np.zeros_like(p)
        glowing = self.scene.glowing.solids
        nearest, what = _first_hits(glowing, p, bounced)
        for index in np.unique(what).tolist():
            if index >= 0:
                where = np.flatnonzero(what == index)
                at = along_ray(p[:, where], bounced[:, where], nearest[where])
                _, u, v = glowing[index].surface(at)
                colour = glowing[index].material.colour(u, v, nearest[where] * np.float32(0.05))
                seen[:, where] = colour * np.float32(glowing[index].material.glow)
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

    def _unshaded(
        self, solid: Solid, lamp: Light, p: Array, ahead: Array, middle: Vec, reach: float
    ) -> Array:
        """Returns the share of a lamp that points see past all other things, `(N,)`."""
        passed: Array = np.ones(p.shape[1], np.float32)
        shading = self.scene.shading
        for index in shading.between(middle, reach, lamp):
            other = shading.solids[index]
            if other is not solid and not (other.group and other.group == solid.group):
                passed = passed * other.shade(p, ahead, lamp.softness)
        return passed

    def _optics(self, image: Array, d: Array) -> Array:
        """Adds glare and the fall-off towards the corners, applies exposure and the shoulder."""
        d = normalised(d)
        for disc in self.discs:
            if disc.glare:
                squared = (2.0 - 2.0 * dot(unit(disc.towards), d)) / np.float32(disc.angle**2)
                image = image + column(disc.colour) / (1.0 + squared)
        fall = dot(self.scene.basis[2], d) ** 2
        return _shoulder(image * (fall * np.float32(self.scene.exposure)))


def _first_hits(
    solids: Sequence[Solid], origin: Three, d: Array
) -> tuple[Array, npt.NDArray[np.int16]]:
    """Returns per ray the t of the nearest solid and its index; infinity and -1 for none."""
    nearest: Array = np.full(d.shape[1], np.inf, np.float32)
    what = np.full(d.shape[1], -1, np.int16)
    for index, solid in enumerate(solids):
        t = solid.hit(origin, d)
        closer = t < nearest
        np.copyto(nearest, t, where=closer, casting="same_kind")
        what[closer] = index
    return nearest, what


def _shoulder(radiance: Array) -> Array:
    """Compresses highlights so that little clips, as film does, and pales the strongest.

    Up to 0.7 nothing changes, 1.3 becomes full scale, and a little more lies above it: sensors
    clip there.
    """
    peak = radiance.max(axis=0)
    over = np.clip(peak - 0.7, 0.0, 0.6)
    squeezed = np.minimum(peak, 0.7) + over - over * over / 1.2 + 0.02 * smooth((peak - 1.2) / 0.4)
    scaled = radiance * (squeezed / np.maximum(peak, 1e-6))
    pale = smooth((peak - 1.0) / 4.0)
    return np.asarray(scaled + (squeezed - scaled) * pale)


def _ball(p: Array) -> tuple[Vec, float]:
    """Returns middle and radius of a ball around points."""
    low, high = p.min(axis=1).tolist(), p.max(axis=1).tolist()
    middle = ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, (low[2] + high[2]) / 2)
    return middle, math.dist(low, high) / 2


def _angle(a: Vec, b: Vec) -> float:
    """Returns the angle between unit vectors."""
    return math.acos(max(-1.0, min(1.0, a[0] * b[0] + a[1] * b[1] + a[2] * b[2])))
