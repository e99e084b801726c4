"""Simulate a short exposure from a long one with a noise model, for training without short exposures.

The trade-off: the long exposure is treated as free of noise, because its noise is divided by the exposure
ratio like its signal. It is scaled to the levels of the camera whose noise is used, so that a file of another
bit depth, or one whose black level of 0 cannot hold noise below black, gets the right noise; the sample then
has the levels of that camera. Plans made before edition 2 of the calibrations treat the file's codes as that
camera's instead.

Each crop gets its own exposure ratio and ISO.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from darkprep.pipeline.noise.calibrations import NoiseTable
from darkprep.pipeline.noise.model import add_noise
from darkprep.pipeline.raw.mosaic import pack, unpack
from darkprep.shards.cfa import CANONICAL
from darkprep.shards.format import U16, CfaKind
from darkprep.shards.rng import RngStream

RATIOS = (100.0, 300.0)
"""Exposure ratios are uniform between these, SID's smallest and largest, as ELD's authors draw them."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Darkened:
    """A crop of a simulated short exposure."""

    planes: U16
    """`(C, h, w)` uint16 codes."""
    black: tuple[float, ...]
    white: int
    ratio: float
    iso: float


def noise_rng(seed: int, shard: int, slot: int) -> np.random.Generator:
    """Return the random generator for the noise of one sample.

    A rebuilt sample gets the same numbers with the same version of numpy. Numpy guarantees that the bit
    generator stays the same, but not how distributions are drawn from it.
    """
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(int(RngStream.NOISE), shard, slot))
    return np.random.Generator(np.random.Philox(sequence))


def darken(
    planes: U16,
    *,
    black: tuple[float, ...],
    white: int,
    cfa: CfaKind,
    noise: NoiseTable,
    rng: np.random.Generator,
    convert_levels: bool = True,
) -> Darkened:
    """Simulate a short exposure: divide a crop's light by a random ratio and add a camera's noise at a random ISO.

    `planes` are `(C, h, w)` codes of a long exposure in the canonical phase. They are scaled to the levels of
    `noise`, which the result has. Without `convert_levels`, the codes count as codes of that camera, and the
    result keeps `black` and `white`. The logarithm of ISO is uniform between the ISO values of `noise`.
    """
    ratio = float(rng.uniform(*RATIOS))
    lowest, highest = noise.drawn_isos
    iso = math.exp(float(rng.uniform(math.log(lowest), math.log(highest))))
    parameters = noise.parameters(iso, rng)
    level = np.array(black, np.float32)[:, None, None]
    light = np.maximum(planes - level, 0) / np.float32(ratio)
    if convert_levels:
        light *= np.float32(noise.white - noise.black) / (np.float32(white) - level)
        black, white = (float(noise.black),) * len(planes), noise.white
        level = np.array(black, np.float32)[:, None, None]
    noisy = add_noise(unpack(light, cfa), parameters, rng, CANONICAL[cfa])
    codes = np.rint(pack(noisy, cfa) + level)
    return Darkened(
        planes=np.clip(codes, 0, white, out=codes).astype(np.uint16),
        black=black,
        white=white,
        ratio=ratio,
        iso=iso,
    )
