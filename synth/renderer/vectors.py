"""Vector algebra: arrays of N vectors have the shape `(3, N)`, single vectors are tuples."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.floating[Any]]
"""float32 throughout; numpy's type stubs do not express its promotion rules."""


Vec: TypeAlias = tuple[float, float, float]


VectorLike: TypeAlias = Array | Vec | tuple[Array, Array, Array]
"""Anything with an x, y and z."""


def dot(a: VectorLike, b: VectorLike) -> Array:
    """Return the scalar products of the vectors of a and b."""
    return np.asarray(a[0] * b[0] + a[1] * b[1] + a[2] * b[2])


def column(v: Vec) -> Array:
    """Return a single vector or colour as an array `(3, 1)`."""
    return np.array(v, np.float32)[:, None]


def subtract(a: Vec, b: Vec) -> Vec:
    """Return a - b."""
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2])


def relative_to(p: VectorLike, centre: Vec) -> tuple[Array, Array, Array]:
    """Return p - centre."""
    return np.asarray(p[0] - centre[0]), np.asarray(p[1] - centre[1]), np.asarray(p[2] - centre[2])


def length(v: Vec) -> float:
    """Return the length of a single vector."""
    return math.sqrt(v[0] ** 2 + v[1] ** 2 + v[2] ** 2)


def unit(v: Vec) -> Vec:
    """Return a single vector, scaled to length 1."""
    n = length(v)
    return (v[0] / n, v[1] / n, v[2] / n)


def cross(a: Vec, b: Vec) -> Vec:
    """Return the vector product of two single vectors."""
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def normalised(v: Array) -> Array:
    """Return `(3, N)` vectors scaled to length 1."""
    return np.asarray(v / np.sqrt(dot(v, v)))


def smoothstep(t: Array) -> Array:
    """Return the smoothstep of t: 0 for t <= 0, 1 for t >= 1, smooth in between."""
    t = np.clip(t, 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t))


def nonzero(x: Array) -> Array:
    """Return x where values closer to 0 than 1e-9 are replaced by 1e-9 or -1e-9, for use as a divisor."""
    return np.copysign(np.maximum(np.abs(x), np.float32(1e-9)), x)


def points_along(origin: VectorLike, d: Array, t: Array) -> Array:
    """Return the points origin + t d, `(3, N)`."""
    return np.stack([origin[0] + t * d[0], origin[1] + t * d[1], origin[2] + t * d[2]])


def take(v: Array, indices: npt.NDArray[np.intp]) -> Array:
    """Return the vectors of `(3, N)` at the given indices; several times faster than numpy's indexing."""
    return np.take(v, indices, axis=1)


def put(v: Array, indices: npt.NDArray[np.intp], values: Array) -> None:
    """Assign to the vectors of `(3, N)` at the given indices."""
    for row, new in zip(v, values, strict=True):
        row[indices] = new
