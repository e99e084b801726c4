"""Published noise calibrations of SID's and ELD's cameras.

Source: Wei et al., "Physics-based noise modeling for extreme low-light photography" (ELD, CVPR 2020 and
TPAMI 2021) and their released code. The trade-off: Fuji's X-T2 was never calibrated in public; its
numbers are Sony's, scaled to its pixels.

K, the system gain, is proportional to ISO within each camera's tables (Kmax / Kmin = 64 over ISO 100 to
6400). The tables have two entries per stop: lambda is their mean, the bias the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from darkprep.shards.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class LogLinear:
    """A linear fit in logarithms: log(sigma) = slope * log(K) + intercept + normal(0, spread); sigma in codes."""

    slope: float
    intercept: float
    spread: float

    def at(self, gain: float, rng: np.random.Generator | None) -> float:
        """Return the median of sigma at a system gain K, or with `rng` a random draw."""
        drawn = 0.0 if rng is None else self.spread * float(rng.standard_normal())
        return math.exp(self.slope * math.log(gain) + self.intercept + drawn)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The noise calibration of one camera."""

    black: int
    """Black level of the codes in which the camera was calibrated."""
    white: int
    """White level of the codes in which the camera was calibrated."""
    gain_per_iso: float
    """K = gain_per_iso * ISO."""
    read: LogLinear
    row: LogLinear
    read_shapes: tuple[float, ...]
    """Tukey lambda at ISO 100, 200, 400, ..."""
    colour_biases: dict[int, tuple[float, float, float, float]]
    """By ISO."""


def calibration_of(camera: str, *, profile: int = 1) -> Calibration:
    """Return a camera's calibration; `profile` 2 is the second one of the Nikon D850.

    Raises OptionError if the camera or the profile has no calibration.
    """
    if camera not in CALIBRATIONS:
        raise OptionError(
            f"no noise calibration for camera {camera!r}; choose one of {', '.join(CALIBRATIONS)}"
        )
    profiles = CALIBRATIONS[camera]
    if not 1 <= profile <= len(profiles):
        raise OptionError(
            f"camera {camera} has {len(profiles)} noise profile(s): profile must be 1 to that number, not {profile}"
        )
    return profiles[profile - 1]


_SONY_MEAN_BIAS = {100: 1.48, 200: -1.03, 400: -0.28, 6400: -1.46, 12800: 1.12, 25600: 4.08}
"""Colour bias at ISO values for which only the mean over the channels was published."""

_SONY_READ = LogLinear(slope=0.462105, intercept=0.565715, spread=0.263371)
_SONY_ROW = LogLinear(slope=0.527536, intercept=-0.591700, spread=0.294288)
_SONY_SHAPES = (0.121, 0.050, 0.0, -0.050, -0.086, -0.086, -0.114, -0.136, -0.143)
_SONY_BIASES = {
    **{iso: (mean, mean, mean, mean) for iso, mean in _SONY_MEAN_BIAS.items()},
    800: (0.611, 0.577, 0.610, 0.576),
    1600: (2.072, 2.009, 2.306, 2.243),
    3200: (-1.347, -1.371, -1.349, -1.366),
}
_NIKON_SHAPES = (-0.114, -0.200, -0.214, -0.229, -0.243, -0.171, -0.143, -0.100)
_NIKON_BIASES = {
    800: (-2.757, -1.628, -2.169, -1.078),
    1600: (-1.416, -0.700, -1.371, -0.616),
    3200: (0.404, 0.579, 0.534, -0.288),
}

_SONY = Calibration(
    black=512,
    white=16383,
    gain_per_iso=0.00093916,
    read=_SONY_READ,
    row=_SONY_ROW,
    read_shapes=_SONY_SHAPES,
    colour_biases=_SONY_BIASES,
)
_NIKON = Calibration(
    black=400,
    white=15520,
    gain_per_iso=0.00415039,
    read=LogLinear(slope=0.477390, intercept=-0.090445, spread=0.239201),
    row=LogLinear(slope=0.448292, intercept=-1.797710, spread=0.232180),
    read_shapes=_NIKON_SHAPES,
    colour_biases=_NIKON_BIASES,
)
_NIKON_SECOND = Calibration(
    black=400,
    white=15520,
    gain_per_iso=0.00415039,
    read=LogLinear(slope=1.090381, intercept=-1.208530, spread=0.004103),
    row=LogLinear(slope=0.966234, intercept=-2.695330, spread=0.029275),
    read_shapes=_NIKON_SHAPES,
    colour_biases=_NIKON_BIASES,
)
_CANON_70D = Calibration(
    black=2047,
    white=15303,
    gain_per_iso=0.00407497,
    read=LogLinear(slope=0.486806, intercept=1.464268, spread=0.382006),
    row=LogLinear(slope=0.729222, intercept=-0.937057, spread=0.250216),
    read_shapes=(0.143, 0.114, 0.029, -0.093, -0.171, -0.157, -0.086, -0.029),
    colour_biases={
        800: (0.900, 0.829, 0.189, 0.282),
        1600: (1.145, 1.403, 0.750, 0.419),
        3200: (1.778, 1.953, 1.147, 0.687),
    },
)
_CANON_700D = Calibration(
    black=2048,
    white=15360,
    gain_per_iso=0.00447629,
    read=LogLinear(slope=0.598236, intercept=1.537044, spread=0.388819),
    row=LogLinear(slope=0.622059, intercept=-0.775647, spread=0.248481),
    read_shapes=(0.129, 0.100, 0.014, -0.093, -0.150, -0.129, -0.029, 0.014),
    colour_biases={
        800: (0.656, 0.730, 0.291, 0.212),
        1600: (0.712, 0.131, 0.446, 0.063),
        3200: (0.516, 1.512, 0.152, -0.617),
    },
)
_CANON_5D4 = Calibration(
    black=2048,  # assumed, as is the white level: no published value was found
    white=15360,
    gain_per_iso=0.00218190,
    read=LogLinear(slope=0.655876, intercept=1.092687, spread=0.286047),
    row=LogLinear(slope=0.471280, intercept=-0.807896, spread=0.243618),
    read_shapes=(0.150, 0.086, 0.200, 0.093, 0.064, 0.029, 0.021, 0.079, 0.114),
    colour_biases={100: (0.0, 0.0, 0.0, 0.0)},  # its biases are not at hand: none is added
)
_FUJI = Calibration(
    black=1024,
    white=16383,
    # Never calibrated in public. Sony's, with the gain scaled by the pixels' areas (8.40 and 3.92
    # micrometres pitch) and the full scales (15871 and 15359 codes): the same exposure fills a
    # smaller well to the same share. The result, 0.417 at ISO 100, is what the Canon 70D and Nikon
    # D850 with pixels of that size were calibrated to.
    gain_per_iso=0.00093916 * (8.40 / 3.92) ** 2 * 15359 / 15871,
    read=_SONY_READ,
    row=_SONY_ROW,
    read_shapes=_SONY_SHAPES,
    colour_biases=_SONY_BIASES,
)

CALIBRATIONS: dict[str, tuple[Calibration, ...]] = {
    "sony": (_SONY,),
    "fuji": (_FUJI,),
    "sonya7s2": (_SONY,),
    "nikond850": (_NIKON, _NIKON_SECOND),
    "canon70d": (_CANON_70D,),
    "canon700d": (_CANON_700D,),
    "canon5d4": (_CANON_5D4,),
}
"""The profiles of each camera, by the camera's name on the command line."""
