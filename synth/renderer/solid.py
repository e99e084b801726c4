"""The interface of solids: what the renderer asks of each.

Conventions: metres, y up, right-handed. Points, directions and colours of N rays are `(3, N)` float32. A
direction may have any length; `t` is in multiples of that length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import numpy as np

from darkprep.synth.renderer.materials import Material
from darkprep.synth.renderer.vectors import Array, Vec, VectorLike

MISS = np.float32(np.inf)
"""The t of a ray that does not meet a solid."""
MIN_T = 1e-4
"""Intersections nearer than this are ignored."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Solid(ABC):
    """The base class of the four kinds of solids."""

    material: Material
    casts_shadow: bool = True
    """Whether it casts shadows and occludes its surroundings; small details need not."""
    group: int = 0
    """Solids of the same group do not shade each other, since they are one object; 0 for none."""

    @property
    @abstractmethod
    def centre(self) -> Vec:
        """Centre of the solid's bounding sphere, in metres."""

    @property
    @abstractmethod
    def radius(self) -> float:
        """Radius of the solid's bounding sphere, in metres."""

    @abstractmethod
    def corners(self) -> list[Vec]:
        """Return points whose convex hull contains the solid."""

    @abstractmethod
    def intersect(self, origin: VectorLike, d: Array, limit: Array) -> Array:
        """Return the first t > 0 at which each ray meets the solid, `(N,)`; infinity where a ray misses it.

        Intersections beyond `limit` may be returned as infinity, because callers do not need them.
        """

    @abstractmethod
    def surface(self, p: Array) -> tuple[Array, Array, Array]:
        """Return the normals `(3, N)` and the surface coordinates u, v in metres of points on the solid."""

    @abstractmethod
    def transmittance(self, p: Array, to_light: Array, softness: float) -> Array:
        """Return the share of a light that passes the solid on its way to points, `(N,)`.

        `to_light` are unit directions from the points; `softness` is the width of penumbrae per metre of
        distance.
        """

    @abstractmethod
    def distance(self, p: Array) -> Array:
        """Return the approximate distance from points to the solid, `(N,)` metres; 0 inside."""

    @abstractmethod
    def raised(self, by: float) -> Self:
        """Return a copy of the solid that is moved up by `by` metres."""
