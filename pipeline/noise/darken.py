"""Simulate a short exposure from a long one with a noise model, for training without short exposures.

The trade-off: the long exposure is treated as free of noise, because its noise is divided by the exposure
ratio like its signal. And its codes are treated as codes of the camera whose noise is used: the full scales
of the known cameras differ by a fifth, their noise at one ISO by a factor of three. Only the patches of
ELD's LMDB files, which are shares of full scale, are first scaled to that camera's levels.

Each crop gets its own exposure ratio and ISO.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from darkprep.pipeline.noise.calibrations import calibration_of
from darkprep.pipeline.noise.model import add_noise, noise_parameters
from darkprep.pipeline.raw.mosaic import pack, unpack
from darkprep.shards.cfa import CANONICAL
from darkprep.shards.format import U16, CfaKind
from darkprep.shards.rng import RngStream

RATIOS = (100.0, 300.0)
"""Exposure ratios are uniform between these, SID's smallest and largest, as ELD's authors draw them."""
ISOS = (100.0, 6400.0)
"""The logarithm of ISO is uniform between these, the span that the calibrations were published for."""


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
    camera: str,
    rng: np.random.Generator,
    shares: bool = False,
) -> Darkened:
    """Simulate a short exposure: divide a crop's light by a random ratio and add `camera`'s noise at a random ISO.

    `planes` are `(C, h, w)` codes of a long exposure in the canonical phase; the result keeps their black
    and white levels. With `shares`, `planes` are shares of full scale; the result then has the levels of
    `camera`, whose black level is above 0 so that noise can be negative. Raises OptionError for a camera
    without a calibration.
    """
    ratio = float(rng.uniform(*RATIOS))
    iso = math.exp(float(rng.uniform(math.log(ISOS[0]), math.log(ISOS[1]))))
    parameters = noise_parameters(camera, iso, rng)
    level = np.array(black, np.float32)[:, None, None]
    light = np.maximum(planes - level, 0) / np.float32(ratio)
    if shares:
        levels = calibration_of(camera)
        light *= np.float32(levels.white - levels.black) / (np.float32(white) - level)
        black, white = (float(levels.black),) * len(planes), levels.white
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
