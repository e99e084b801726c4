"""Cast rays into a scene and compute the radiance that arrives along them.

The trade-off: shadows, occlusion and reflections are smooth closed-form estimates, not sampled light
transport. They take seconds for 12 MP on one core and have no sampling noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from darkprep.synth.renderer.scene import BoundingSpheres, Light, Scene
from darkprep.synth.renderer.solid import Solid
from darkprep.synth.renderer.vectors import (
    Array,
    Vec,
    column,
    dot,
    normalised,
    points_along,
    put,
    smoothstep,
    subtract,
    take,
    unit,
)

_INTERPOLATE_FROM = 600
"""The light on a solid is interpolated in tiles where it covers more pixels than this."""
_MAX_INTERPOLATED_SHININESS = 100.0
"""Narrower highlights would be lost between the sampled points."""


@dataclass(frozen=True, eq=False)
class _SurfacePoints:
    """N points at which rays meet one solid."""

    p: Array
    """`(3, N)` positions."""
    normal: Array
    """`(3, N)` unit normals on the viewer's side."""
    view: Array
    """`(3, N)` unit directions of the rays."""
    facing: Array
    """`(N,)` cosines between normal and viewer."""

    def take(self, indices: npt.NDArray[np.intp]) -> _SurfacePoints:
        """Return the points at the given indices."""
        return _SurfacePoints(
            take(self.p, indices),
            take(self.normal, indices),
            take(self.view, indices),
            self.facing.take(indices),
        )

    def reflected(self) -> Array:
        """Return `(3, N)` directions of the reflected rays."""
        return self.view + self.normal * (2.0 * self.facing)


class RayCaster:
    """Casts rays through image points; skips solids whose bounds in the image are outside the tile."""

    def __init__(self, scene: Scene, size: tuple[int, int]) -> None:
        self.scene, self.size = scene, size
        self.pixel = 2.0 * math.tan(scene.field_of_view / 2) / size[1]
        spheres = BoundingSpheres(scene.solids)
        self.bounds = np.array([self._bounds_of(solid) for solid in scene.solids]).reshape(-1, 4)
        self.order = np.argsort(np.linalg.norm(spheres.centres - scene.eye, axis=1) - spheres.radii)

    def _bounds_of(self, solid: Solid) -> tuple[float, float, float, float]:
        """Return the bounds of a solid in the image: top, bottom, left and right in pixels.

        The bounds are infinite for a solid that is partly behind the camera, and empty for a solid that is
        entirely behind it.
        """
        right, up, ahead = self.scene.basis
        corners = [subtract(corner, self.scene.eye) for corner in solid.corners()]
        depths = [float(dot(ahead, v)) for v in corners]
        if max(depths) <= 0:
            return (math.inf, -math.inf, math.inf, -math.inf)
        if min(depths) < 1e-3:
            return (-math.inf, math.inf, -math.inf, math.inf)
        x = [float(dot(right, v)) / z / self.pixel for v, z in zip(corners, depths, strict=True)]
        y = [-float(dot(up, v)) / z / self.pixel for v, z in zip(corners, depths, strict=True)]
        row, column_ = self.size[0] / 2, self.size[1] / 2
        return row + min(y) - 2, row + max(y) + 2, column_ + min(x) - 2, column_ + max(x) + 2

    def cast(self, y: Array, x: Array, *, width: int = 0) -> Array:
        """Return exposed radiance `(3, N)` at image points sorted by y.

        If the points are a grid with rows of `width`, light is computed only at every other point of every
        other row and interpolated within each solid, because light changes slowly and takes most of the
        time.
        """
        d = self.scene.rays(y, x, self.size)
        nearest, found = self._nearest_solids(y, x, d)
        image: Array = np.empty((3, y.size), np.float32)
        for index in np.unique(found).tolist():
            where = np.flatnonzero(found == index)
            rays, t = take(d, where), nearest.take(where)
            if index < 0:
                put(image, where, self._sky_radiance(normalised(rays)))
            else:
                solid = self.scene.solids[index]
                interpolate = (
                    width
                    and where.size > _INTERPOLATE_FROM
                    and solid.material.shininess <= _MAX_INTERPOLATED_SHININESS
                )
                sparse = _SparseGrid(where, width) if interpolate else None
                put(image, where, self._surface_radiance(solid, rays, t, sparse))
        return self._apply_optics(image, d)

    def _nearest_solids(self, y: Array, x: Array, d: Array) -> tuple[Array, npt.NDArray[np.int16]]:
        """Return the distance t and the index of the nearest solid on each ray; infinity and -1 without a solid.

        Nearer solids are tested first, so that foliage behind them need not be tested for gaps.
        """
        nearest: Array = np.full(y.size, np.inf, np.float32)
        found = np.full(y.size, -1, np.int16)
        top, bottom, left, right = self.bounds.T
        low, high = x.min(), x.max()
        first, last = np.searchsorted(y, top), np.searchsorted(y, bottom)
        for index in self.order[
            ((first < last) & (left <= high) & (right >= low))[self.order]
        ].tolist():
            solid, rows = self.scene.solids[index], slice(first[index], last[index])
            if left[index] <= low and right[index] >= high:
                limit = nearest[rows]
                t = solid.intersect(self.scene.eye, d[:, rows], limit)
                found[rows][t < limit] = index
                np.minimum(limit, t, out=limit)
            else:
                beside = (x[rows] >= left[index]) & (x[rows] <= right[index])
                inside = np.flatnonzero(beside) + first[index]
                limit = nearest.take(inside)
                t = solid.intersect(self.scene.eye, take(d, inside), limit)
                closer = np.flatnonzero(t < limit)
                inside = inside.take(closer)
                nearest[inside], found[inside] = t.take(closer), index
        return nearest, found

    def _sky_radiance(self, d: Array) -> Array:
        """Return the radiance `(3, N)` along unit directions in which there is no solid."""
        radiance = self.scene.sky.radiance(d, self.pixel)
        low, high = d[0].min() - 0.05, d[0].max() + 0.05
        for disc in self.scene.discs:
            if not disc.glare and low <= unit(disc.direction)[0] <= high:
                distance = (
                    np.sqrt(np.maximum(2.0 - 2.0 * dot(unit(disc.direction), d), 0.0))
                    / disc.angular_radius
                )
                rim = 1.0 + 0.35 * smoothstep((distance - 0.55) / 0.4)
                radiance = radiance + column(disc.colour) * (
                    rim * (1.0 - smoothstep((distance - 0.96) / 0.06))
                )
        return radiance

    def _surface_radiance(
        self, solid: Solid, d: Array, t: Array, sparse: _SparseGrid | None
    ) -> Array:
        """Return the radiance `(3, N)` along rays that meet a solid at distance t."""
        scene, material = self.scene, solid.material
        p = points_along(scene.eye, d, t)
        distance = t * np.sqrt(dot(d, d))
        view = normalised(d)
        normal, u, v = solid.surface(p)
        facing = dot(normal, view)
        normal = np.where(facing > 0, -normal, normal)
        facing = np.maximum(np.abs(facing), 1e-3)
        footprint = distance * np.float32(1.3 * self.pixel) / np.sqrt(np.maximum(facing, 0.12))
        points = _SurfacePoints(p, normal, view, facing)
        radiance = material.reflectance(u, v, footprint)
        if material.emission:
            radiance = radiance * np.float32(material.emission)
        elif sparse is None:
            light, highlight = self._illumination(solid, points)
            radiance = radiance * light + highlight
        else:
            radiance = self._interpolated_light(sparse, solid, points, radiance)
        if material.mirror:
            ripples = material.brightness(u, v)
            radiance = radiance + self._mirror_reflections(material.mirror, points, ripples)
        if scene.fog:
            haze = 1.0 - np.exp(distance * np.float32(-1.0 / scene.fog))
            radiance = radiance + (column(scene.sky.horizon) - radiance) * haze
        return np.asarray(radiance)

    def _interpolated_light(
        self, sparse: _SparseGrid, solid: Solid, points: _SurfacePoints, colour: Array
    ) -> Array:
        """Return colour times light plus highlights, `(3, N)`; light and highlights are interpolated."""

        def lit(indices: npt.NDArray[np.intp]) -> Array:
            return np.concatenate(self._illumination(solid, points.take(indices)))

        sample = np.concatenate([lit(sparse.sampled), take(points.normal, sparse.sampled)])
        sums, weight = sparse.interpolate(sample)
        same_face = dot(sums[6:], points.normal) > 0.98 * np.maximum(weight, 0.5)
        sums /= np.maximum(weight, 0.5)
        isolated = np.flatnonzero(~same_face)  # without a sample beside them on the same face
        if isolated.size:
            sums[:6, isolated] = lit(isolated)
        return np.asarray(colour * sums[:3] + sums[3:6])

    def _illumination(self, solid: Solid, points: _SurfacePoints) -> tuple[Array, Array]:
        """Return diffuse light and specular highlights on surfaces, each `(3, N)`."""
        scene, material = self.scene, solid.material
        p, normal, facing = points.p, points.normal, points.facing
        centre, radius = _bounding_sphere(p)
        above, below = (column(c) for c in scene.ambient)
        openness = self._ambient_occlusion(solid, p, centre, radius)
        light = (below + (above - below) * (0.5 + 0.5 * normal[1])) * openness
        reflected = points.reflected()
        highlight = np.zeros_like(light)
        for lamp in scene.lights:
            to_light, strength = lamp.incident(p)
            cosine = np.maximum(dot(normal, to_light), 0.0)
            strength = self._unshadowed_strength(
                solid, lamp, p, to_light, strength * (cosine > 0), centre, radius
            )
            light += column(lamp.colour) * (strength * cosine)
            if material.specular:
                peak = np.exp(np.float32(material.shininess) * (dot(reflected, to_light) - 1.0))
                peak *= np.float32(
                    1.0 + material.shininess / 30.0
                )  # narrow highlights are brighter
                highlight += column(lamp.colour) * (peak * strength)
                if lamp.portal is not None:
                    highlight += column(lamp.colour) * (3.0 * lamp.portal_share(p, reflected))
        if material.specular:
            fresnel = 0.05 + 0.95 * (1.0 - np.minimum(facing, 1.0)) ** 5
            around = (below + (above - below) * smoothstep(reflected[1] * 0.7 + 0.5)) * openness
            highlight = np.float32(material.specular) * (0.6 * highlight + fresnel * 2.0 * around)
        return light, highlight

    def _mirror_reflections(self, strength: float, points: _SurfacePoints, ripples: Array) -> Array:
        """Return the light of lamps and windows mirrored by wet ground with ripples, `(3, N)`."""
        p, reflected = points.p, points.reflected()
        reflected[1] *= np.clip(1.0 + 1.2 * (ripples - 1.0), 0.3, 2.5)
        reflected[0] += np.float32(0.02) * (ripples - 1.0)
        mirrored = np.zeros_like(p)
        nearest: Array = np.full(p.shape[1], np.inf, np.float32)
        found = np.full(p.shape[1], -1, np.int16)
        emitters = self.scene.emitters
        for index in emitters.in_directions(*_bounding_sphere(p), reflected):
            t = emitters.solids[index].intersect(p, reflected, nearest)
            found[t < nearest] = index
            np.minimum(nearest, t, out=nearest)
        for index in np.unique(found[found >= 0]).tolist():
            where = np.flatnonzero(found == index)
            distance = nearest.take(where)
            at = points_along(take(p, where), take(reflected, where), distance)
            _, u, v = emitters.solids[index].surface(at)
            material = emitters.solids[index].material
            mirrored[:, where] = (
                material.reflectance(u, v, nearest[where] * np.float32(0.05)) * material.emission
            )
        fresnel = 0.04 + 0.96 * (1.0 - np.minimum(points.facing, 1.0)) ** 4
        return np.asarray(mirrored * (fresnel * strength))

    def _ambient_occlusion(self, solid: Solid, p: Array, centre: Vec, radius: float) -> Array:
        """Return the share `(N,)` of the surroundings that is visible at points: small in corners and gaps."""
        openness: Array = np.ones(p.shape[1], np.float32)
        occluders = self.scene.occluders
        ranges = np.minimum(0.9 * occluders.radii, self.scene.occlusion_range)
        for index in occluders.near(centre, radius, ranges):
            other = occluders.solids[index]
            if other is solid or (other.group and other.group == solid.group):
                continue
            near = 1.0 - np.minimum(other.distance(p) / np.float32(ranges[index]), 1.0)
            openness = openness * (1.0 - 0.5 * near * near * near)
        return 0.2 + 0.8 * openness

    def _unshadowed_strength(
        self,
        solid: Solid,
        lamp: Light,
        p: Array,
        to_light: Array,
        strength: Array,
        centre: Vec,
        radius: float,
    ) -> Array:
        """Return a lamp's strength at points, `(N,)`, after the shadows of all other solids."""
        lit = np.flatnonzero(strength > 1e-5)
        passed = strength.take(lit)
        if not lit.size:
            return strength
        p, to_light = take(p, lit), take(to_light, lit)
        casters = self.scene.shadow_casters
        for index in casters.between(centre, radius, lamp):
            other = casters.solids[index]
            if other is solid or (other.group and other.group == solid.group):
                continue
            share = other.transmittance(p, to_light, lamp.softness)
            if not lamp.sun:  # solids behind the lamp cast no shadow
                before = dot(subtract(other.centre, lamp.at), to_light) < 0
                share = np.where(before, share, np.float32(1.0))
            passed = passed * share
        result = np.zeros_like(strength)
        result[lit] = passed
        return result

    def _apply_optics(self, image: Array, d: Array) -> Array:
        """Return the image with lens glare, vignetting, exposure and film response applied."""
        d = normalised(d)
        for disc in self.scene.discs:
            if disc.glare:
                squared = (2.0 - 2.0 * dot(unit(disc.direction), d)) / np.float32(
                    disc.angular_radius**2
                )
                image = image + column(disc.colour) / (1.0 + squared)
        fall = dot(self.scene.basis[2], d) ** 2
        return film_response(image * (fall * np.float32(self.scene.exposure)))


class _SparseGrid:
    """The points of a solid on even rows and columns of a grid, from which the other points are interpolated."""

    def __init__(self, where: npt.NDArray[np.intp], width: int) -> None:
        rows, columns = np.divmod(where, width)
        self.sampled = np.flatnonzero((rows | columns) & 1 == 0)
        """Indices of these points among all points of the solid."""
        stride = width // 2 + 2
        cells = (rows >> 1) * stride + (columns >> 1)
        self._slot = np.full(int(cells.max()) + stride + 2, self.sampled.size, np.intp)
        self._slot[cells[self.sampled]] = np.arange(self.sampled.size)
        right, down = columns & 1, (rows & 1) * stride
        self._corners = (cells, cells + right, cells + down, cells + right + down)

    def interpolate(self, values: Array) -> tuple[Array, Array]:
        """Return, for each point, the sum of its neighbours' values `(K, N)` and the number of neighbours."""
        weighted = np.zeros((len(values) + 1, values.shape[1] + 1), np.float32)
        weighted[:-1, :-1], weighted[-1, :-1] = values, 1.0
        total = take(weighted, self._slot[self._corners[0]])
        for corner in self._corners[1:]:
            total += take(weighted, self._slot[corner])
        return total[:-1], total[-1]


def film_response(radiance: Array) -> Array:
    """Compress and desaturate the highlights of exposed radiance `(3, N)`, as film does.

    Values up to 0.7 do not change, 1.3 becomes full scale (1), and higher values become slightly more than
    1, so that the sensor clips them.
    """
    peak = radiance.max(axis=0)
    over = np.clip(peak - 0.7, 0.0, 0.6)
    squeezed = (
        np.minimum(peak, 0.7) + over - over * over / 1.2 + 0.02 * smoothstep((peak - 1.2) / 0.4)
    )
    scaled = radiance * (squeezed / np.maximum(peak, 1e-6))
    pale = smoothstep((peak - 0.9) / 1.2)
    return np.asarray(scaled + (squeezed - scaled) * pale)


def _bounding_sphere(p: Array) -> tuple[Vec, float]:
    """Return the centre and the radius of a sphere around points."""
    low, high = p.min(axis=1).tolist(), p.max(axis=1).tolist()
    centre = ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, (low[2] + high[2]) / 2)
    return centre, math.dist(low, high) / 2
