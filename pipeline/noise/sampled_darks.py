"""Simulate a short exposure from a long one and a real dark frame, with shot noise from the gain K.

Method: the noise that does not depend on light is a dark frame's own, cut at the crop's place on the sensor (Zhang
et al., "Rethinking noise synthesis and modeling in raw denoising", ICCV 2021). Without a calibration, K is drawn
between those of published cameras, because a coarse K is enough ("Noise modeling in one hour", CVPR 2025).
The trade-off: all crops of a visit have the noise of one dark frame, so that it is decoded once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from darkprep.pipeline.noise.darken import RATIOS, Darkened
from darkprep.pipeline.noise.model import shot_noise
from darkprep.pipeline.noise.parameters import checked_number
from darkprep.shards.format import PERIOD, U16, CfaKind
from darkprep.shards.rng import RngStream, random_below

MOST_DARKS = 20_000
"""Dark frames of a plan at most; a plan of someone else with many more would take minutes to read."""
_GAINS_PER_ISO = (0.0938e-2, 0.448e-2)
"""K per ISO in codes of 14 bits: the smallest and the largest of the published calibrations."""
_FULL_SCALE = 15871.0
"""Codes from black to white for which these gains hold."""
_GAIN_JITTER = 0.01
"""Standard error that a measured K is given, as PMN's authors do."""


@dataclass(frozen=True, kw_only=True)
class DarkFile:
    """A dark frame. Raises ValueError, which names the invalid field."""

    path: str
    """Below the directory of the dark frames."""
    fingerprint: str
    iso: float
    gain: float | None
    """K in codes per electron; None if unknown."""

    def __post_init__(self) -> None:
        if not (isinstance(self.path, str) and isinstance(self.fingerprint, str)):
            raise TypeError("path and fingerprint must be strings")
        if "\0" in self.path or self.path.startswith("/") or ".." in self.path.split("/"):
            raise ValueError(f"path {self.path!r} must lie below the directory of the dark frames")
        if checked_number("iso", self.iso, low=0) == 0:
            raise ValueError("iso must be positive")
        if self.gain is not None and checked_number("gain", self.gain, low=0) == 0:
            raise ValueError("gain must be positive")


@dataclass(frozen=True, kw_only=True)
class SampledDarks:
    """The dark frames from which noise is drawn. Raises ValueError, which names the invalid field."""

    files: tuple[DarkFile, ...]
    cfa: CfaKind
    height: int
    """Rows of their canonical mosaic."""
    width: int

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("files must not be empty")
        if len(self.files) > MOST_DARKS:
            raise ValueError(f"files must be at most {MOST_DARKS:,}")
        if self.cfa not in PERIOD:
            raise ValueError(f"cfa must be one of {', '.join(PERIOD)}")
        if not (0 < self.height < 1 << 20 and 0 < self.width < 1 << 20):
            raise ValueError("height and width must be positive")

    def of_visit(self, seed: int, visit: int) -> DarkFile:
        """Return the dark frame of a visit: each ISO equally often, then each of its frames."""
        isos = sorted({one.iso for one in self.files})
        first, second = random_below([len(isos), 1 << 40], seed, RngStream.DARKS, visit).tolist()
        own = [one for one in self.files if one.iso == isos[first]]
        return own[int(second) % len(own)]


def darken_with_frame(
    planes: U16,
    dark: U16,
    file: DarkFile,
    *,
    levels: tuple[tuple[float, ...], int],
    dark_levels: tuple[tuple[float, ...], int],
    rng: np.random.Generator,
) -> Darkened:
    """Simulate a short exposure: divide a crop's light by a random ratio, add shot noise, and add a dark frame.

    `planes` and `dark` are `(C, h, w)` codes of a long exposure and of the dark frame `file`, with black per
    plane and white in `levels` and `dark_levels`. The result has the levels of the dark frame.
    """
    ratio = float(rng.uniform(*RATIOS))
    black, white = (np.array(levels[0], np.float32)[:, None, None], np.float32(levels[1]))
    dark_black, dark_white = dark_levels
    low = np.array(dark_black, np.float32)[:, None, None]
    light = np.maximum(planes - black, 0) * ((np.float32(dark_white) - low) / (white - black))
    light /= np.float32(ratio)
    codes = shot_noise(light, _gain(file, dark_white - float(low.mean()), rng), rng)
    codes += dark
    np.rint(codes, out=codes)
    return Darkened(
        planes=np.clip(codes, 0, dark_white, out=codes).astype(np.uint16),
        black=dark_black,
        white=dark_white,
        ratio=ratio,
        iso=file.iso,
    )


def _gain(file: DarkFile, full_scale: float, rng: np.random.Generator) -> float:
    drawn = float(rng.standard_normal()), float(rng.random())
    if file.gain is not None:
        return file.gain * math.exp(_GAIN_JITTER * drawn[0])
    lowest, highest = (math.log(gain) for gain in _GAINS_PER_ISO)
    per_iso = math.exp(lowest + drawn[1] * (highest - lowest))
    return per_iso * file.iso * full_scale / _FULL_SCALE
