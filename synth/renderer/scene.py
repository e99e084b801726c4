"""The parts of a scene: solids, lights, sky, and the camera that photographs them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from darkprep.synth.renderer.solid import Solid
from darkprep.synth.renderer.solids import Sheet
from darkprep.synth.renderer.textures import texture
from darkprep.synth.renderer.vectors import (
    Array,
    Vec,
    column,
    cross,
    dot,
    length,
    smoothstep,
    subtract,
    unit,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Light:
    """A lamp or the sun. If `portal` is set, its light enters through this window opening only."""

    at: Vec
    """Position of a lamp, direction of the sun."""
    colour: Vec
    """Radiance of a white surface that faces the light, for a lamp at a distance of 1 m."""
    sun: bool = False
    softness: float = 0.1
    """Width of penumbrae per metre of distance from what casts the shadow."""
    portal: Sheet | None = None
    panes: tuple[int, int] = (1, 1)
    """Panes of the portal, across and up."""

    def incident(self, p: Array) -> tuple[Array, Array]:
        """Return the unit directions `(3, N)` from points `(3, N)` to the light, and its strength `(N,)` there."""
        if self.sun:
            to_light: Array = np.broadcast_to(column(unit(self.at)), p.shape)
            strength: Array = np.ones(p.shape[1], np.float32)
        else:
            way = column(self.at) - p
            squared = dot(way, way)
            to_light, strength = way / np.sqrt(squared), 1.0 / (squared + 0.003)  # not a point
        if self.portal is not None:
            strength = strength * self.portal_share(p, to_light)
        return to_light, strength

    def portal_share(self, p: Array, d: Array) -> Array:
        """Return the share `(N,)` of light that passes through the portal, a window opening.

        p are the lit points, `(3, N)`, and d the unit directions from these points to the light, `(3, N)`.
        """
        assert self.portal is not None
        t, u, v = self.portal.intersect_plane(p, d)
        blur = 0.004 + 0.5 * self.softness * np.clip(t, 0.0, 1e3)
        passed = np.where(t > 0, np.float32(1.0), np.float32(0.0))
        for x, side, panes in zip((u, v), self.portal.sides, self.panes, strict=True):
            x = np.clip(x, -10.0, 10.0 + side)
            passed = passed * smoothstep((side / 2 - np.abs(x - side / 2)) / blur + 0.5)
            phase = x * (panes / side)
            bar = np.abs(phase - np.round(phase)) * (side / panes) - 0.03
            passed = passed * smoothstep(bar / blur + 0.5)
        return passed


@dataclass(frozen=True, kw_only=True, eq=False)
class Disc:
    """A disc in the sky: a distant light out of focus, or the glare around a bright light."""

    direction: Vec
    colour: Vec
    angular_radius: float
    """In radians."""
    glare: bool = False
    """Whether the disc is lens glare, which fades outwards and is added on top of the image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sky:
    """The radiance along rays that meet no solid."""

    zenith: Vec = (0.1, 0.1, 0.1)
    horizon: Vec = (0.1, 0.1, 0.1)
    clouds: float = 0.0
    """Cloud cover, 0 to 1."""
    cloud_colour: Vec = (0.8, 0.8, 0.8)

    def radiance(self, d: Array, pixel: float) -> Array:
        """Return the radiance `(3, N)` along unit directions; `pixel` is the angle of a pixel in radians."""
        height = np.clip(d[1], 0.0, 1.0) ** 0.6
        colour = column(self.horizon) + (column(self.zenith) - column(self.horizon)) * height
        if not self.clouds:
            return np.asarray(colour)
        stretch = 0.22 / (np.maximum(d[1], 0.0) + 0.12)
        wide = stretch * stretch * np.float32(12.0 * pixel)
        mix, light = texture("cloud").sample(d[0] * stretch, d[2] * stretch, wide)
        cover = self.clouds * mix * smoothstep(d[1] / 0.2)
        return np.asarray(colour + (column(self.cloud_colour) * light - colour) * cover)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """All that is rendered: solids, lights, sky and camera."""

    eye: Vec
    target: Vec
    field_of_view: float
    """Horizontal field of view in radians."""
    solids: tuple[Solid, ...]
    lights: tuple[Light, ...]
    ambient: tuple[Vec, Vec]
    """Light from above and from below."""
    sky: Sky = field(default_factory=Sky)
    discs: tuple[Disc, ...] = ()
    fog: float = 0.0
    """Metres after which haze covers 63 %, 0 for none; its colour is the horizon's."""
    occlusion_range: float = 0.3
    """Metres over which sheets occlude each other in corners."""
    kelvin: float = 5200.0
    """Colour temperature of the white balance."""
    exposure: float = 1.0
    """Factor from radiance to the sensor's full scale."""

    @cached_property
    def basis(self) -> tuple[Vec, Vec, Vec]:
        """Unit vectors from the camera: right, up and ahead."""
        ahead = unit(subtract(self.target, self.eye))
        right = unit(cross(ahead, (0.0, 1.0, 0.0)))
        return right, cross(right, ahead), ahead

    @cached_property
    def shadow_casters(self) -> BoundingSpheres:
        """The solids that cast shadows."""
        return BoundingSpheres(
            [
                s
                for s in self.solids
                if s.casts_shadow and not isinstance(s, Sheet) and not s.material.emission
            ]
        )

    @cached_property
    def occluders(self) -> BoundingSpheres:
        """The solids that darken their surroundings by ambient occlusion."""
        return BoundingSpheres(
            [
                s
                for s in self.solids
                if s.casts_shadow and not (s.material.emission or s.material.cutout)
            ]
        )

    @cached_property
    def emitters(self) -> BoundingSpheres:
        """The bright, large solids that wet ground mirrors."""
        return BoundingSpheres([s for s in self.solids if s.material.emission * s.radius > 0.3])

    def rays(self, y: Array, x: Array, size: tuple[int, int]) -> Array:
        """Return the directions `(3, N)` of image points, whose y and x are in pixels from the top left corner."""
        right, up, ahead = self.basis
        scale = 2.0 * math.tan(self.field_of_view / 2) / size[1]
        a, b = (x - size[1] / 2) * np.float32(scale), (size[0] / 2 - y) * np.float32(scale)
        return np.stack([ahead[i] + a * right[i] + b * up[i] for i in range(3)]).astype(np.float32)


class BoundingSpheres:
    """The bounding spheres of solids as arrays, to find quickly which solids matter for some points."""

    def __init__(self, solids: Sequence[Solid]) -> None:
        self.solids = solids
        self.centres = np.array([s.centre for s in solids], np.float64).reshape(-1, 3)
        self.radii = np.array([s.radius for s in solids], np.float64)

    def near(self, centre: Vec, radius: float, ranges: npt.NDArray[np.float64]) -> list[int]:
        """Return indices of the solids whose distance from a sphere is within their range."""
        distance = np.linalg.norm(self.centres - centre, axis=1)
        return np.flatnonzero(distance <= self.radii + radius + ranges).tolist()

    def between(self, centre: Vec, radius: float, lamp: Light) -> list[int]:
        """Return indices of the solids that may cast a shadow of a lamp on points inside a sphere."""
        way = lamp.at if lamp.sun else subtract(lamp.at, centre)
        to = self.centres - centre
        along = to @ np.array(unit(way))
        aside = np.sqrt(np.maximum((to * to).sum(axis=1) - along**2, 0.0))
        size = self.radii * 1.3 + radius
        may = (along >= -size) & (aside <= size + lamp.softness * (np.abs(along) + size) + 0.02)
        if not lamp.sun:
            may &= along - self.radii <= length(way) + radius
        return np.flatnonzero(may).tolist()

    def in_directions(self, centre: Vec, radius: float, directions: Array) -> list[int]:
        """Return indices of the solids that rays from inside a sphere may meet, by horizontal direction."""
        bearings = np.arctan2(directions[0], -directions[2])
        to = self.centres - centre
        distance = np.maximum(np.hypot(to[:, 0], to[:, 2]), 1e-9)
        wide = np.arcsin(np.minimum((self.radii + radius) / distance, 1.0)) + 0.02
        bearing = np.arctan2(to[:, 0], -to[:, 2])
        may = (bearing + wide >= bearings.min()) & (bearing - wide <= bearings.max())
        return np.flatnonzero(may | (distance <= self.radii + radius)).tolist()
