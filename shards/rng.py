"""Random numbers as a function of a key: the same on every machine, in any order, and after any restart.

Only numpy's bit generator and seed sequence are used: numpy keeps their output stable between releases,
unlike the output of Generator's methods. The trade-off: a permutation needs a sort.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt


class RngStream(enum.IntEnum):
    """The purpose of a random number; it is part of the key, so that no two purposes share random numbers."""

    SCENES = 1
    VISITS = 2
    CROPS = 3
    SLOTS = 4
    USES = 5
    MIX = 6
    NOISE = 7
    AUGMENT = 8
    SUBSTITUTES = 9
    DARKS = 10
    LIGHT = 11


def random_bits(count: int, seed: int, purpose: RngStream, *key: int) -> npt.NDArray[np.uint64]:
    """Return `(count,)` uniform 64-bit words keyed by (seed, purpose, key...); all parts of the key are >= 0."""
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(int(purpose), *key))
    return np.asarray(np.random.Philox(sequence).random_raw(count), dtype=np.uint64)


def random_below(
    bounds: npt.ArrayLike, seed: int, purpose: RngStream, *key: int
) -> npt.NDArray[np.int64]:
    """Return a random integer in [0, bound) for each bound in `bounds` (all >= 1), in the shape of `bounds`.

    For image sizes the bias is below 2**-40.
    """
    limits = np.asarray(bounds, dtype=np.uint64)
    bits = random_bits(limits.size, seed, purpose, *key).reshape(limits.shape)
    return (bits % limits).astype(np.int64)


def permutation(count: int, seed: int, purpose: RngStream, *key: int) -> npt.NDArray[np.int64]:
    """Return the integers 0 .. count-1 in a random order keyed by (seed, purpose, key...)."""
    return np.argsort(random_bits(count, seed, purpose, *key), kind="stable")
