"""A short exposure made from a long one, by physics: for training where no short exposures were taken.

The trade-off: the long exposure counts as free of noise, whose own noise is divided by the exposure
ratio with its signal; and a photograph's codes count as those of the camera that the noise was
calibrated for. Full scales of the cameras known differ by a fifth, their noise at one ISO threefold.
What holds shares of full scale instead of a sensor's codes (ELD's LMDB patches) is brought to that
camera's levels first.

Each crop is darkened by itself, with an exposure ratio and an ISO of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from darkprep.pipeline.noise.model import add_noise, noise_parameters
from darkprep.pipeline.noise.sensors import sensor_of
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
    """A crop of a short exposure that was never taken."""

    planes: U16
    """`(C, h, w)` uint16 codes."""
    black: tuple[float, ...]
    white: int
    ratio: float
    iso: float


def noise_rng(seed: int, shard: int, slot: int) -> np.random.Generator:
    """Returns the random numbers of one sample.

    They are the same whenever the sample is made again with one version of numpy; numpy keeps the bit
    generator's stream for good, but may change how distributions are drawn from it.
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
    """Divides a crop's light by a drawn ratio and adds `camera`'s noise at a drawn ISO.

    `planes` are `(C, h, w)` codes of a long exposure that starts with the canonical phase, with their
    levels, which the result keeps. With `shares` they are no sensor's codes but shares of full scale:
    the result has the levels of `camera`, in whose codes its noise is told, and a black level above 0,
    below which noise reaches too. Raises OptionError for a camera without a calibration.
    """
    ratio = float(rng.uniform(*RATIOS))
    iso = math.exp(float(rng.uniform(math.log(ISOS[0]), math.log(ISOS[1]))))
    parameters = noise_parameters(camera, iso, rng)
    level = np.array(black, np.float32)[:, None, None]
    light = np.maximum(planes - level, 0) / np.float32(ratio)
    if shares:
        sensor = sensor_of(camera)
        light *= np.float32(sensor.white - sensor.black) / (np.float32(white) - level)
        black, white = (float(sensor.black),) * len(planes), sensor.white
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
