"""Make a short exposure from a long one with the noise model, for training without short exposures.

The trade-off: the long exposure is taken to be free of noise, since its own noise is divided by the
exposure ratio like its signal; and its codes are taken to be those of the camera that the noise was
calibrated for. The full scales of the known cameras differ by a fifth, their noise at one ISO by a
factor of three. Shares of full scale (ELD's LMDB patches) are scaled to that camera's levels first.

Each crop is darkened by itself, with an exposure ratio and an ISO of its own.
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
    """A crop of a made short exposure."""

    planes: U16
    """`(C, h, w)` uint16 codes."""
    black: tuple[float, ...]
    white: int
    ratio: float
    iso: float


def noise_rng(seed: int, shard: int, slot: int) -> np.random.Generator:
    """Return the random generator of one sample.

    Its numbers are the same whenever the sample is rebuilt with one version of numpy; numpy guarantees
    the bit generator's stream, but may change how distributions are drawn from it.
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
    """Divide a crop's light by a drawn ratio and add `camera`'s noise at a drawn ISO.

    `planes` are `(C, h, w)` codes of a long exposure that starts with the canonical phase, with their
    levels, which the result keeps. With `shares` they are shares of full scale: the result then has the
    levels of `camera`, in whose codes the noise is calibrated, with a black level above 0 that noise
    falls below. Raises OptionError for a camera without a calibration.
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
