"""Published noise calibrations of SID's and ELD's cameras, in two editions.

Edition 1. Source: Wei et al., "Physics-based noise modeling for extreme low-light photography" (ELD, CVPR 2020
and TPAMI 2021) and their released code: one log-linear fit over all ISO values. K, the system gain, is
proportional to ISO within each camera's tables (Kmax / Kmin = 64 over ISO 100 to 6400). The tables have two
entries per stop: lambda is their mean, the bias the first.

Edition 2 differs for two cameras. Sony A7S II: read and row noise per ISO and gain mode, because the sensor
has two modes, whose read noise falls from 3.2 to 2.0 codes between ISO 1600 and 3200; source: Feng et al.,
"Learnability enhancement for low-light raw image denoising" (PMN, ACM MM 2022) and their released code. Nikon
D850: the larger of ELD's two profiles, the first up to ISO 1500 and the second from there on, because the
first alone has two thirds of the read noise that two other laboratories measured at ISO 3200, and the second
alone less than they measured at ISO 800. And an extended ISO below the lowest native one has the gain of twice the ISO.

The trade-off: Fuji's X-T2 was never calibrated in public; its numbers are Sony's of edition 1, scaled to its
pixels. Black levels drift with the exposure time (by 10 codes at ISO 25600 within 100 ms), which no table here
has; only `darkprep calibrate` measures it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from darkprep.pipeline.noise.iso_table import IsoTable, check_iso, hardware_iso
from darkprep.pipeline.noise.parameters import IsoNoise, NoiseParameters
from darkprep.shards.errors import OptionError

NoiseEdition = Literal[1, 2]
"""Edition of the published calibrations: plans made before edition 2 keep edition 1."""
PUBLISHED_ISOS = (100.0, 6400.0)
"""The span of ISO that the calibrations were published for."""


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
class LargerOf:
    """The larger of several linear fits in logarithms: noise that is constant up to some gain and then amplified."""

    fits: tuple[LogLinear, ...]

    def at(self, gain: float, rng: np.random.Generator | None) -> float:
        """Return the largest median of sigma at a system gain K, or with `rng` a random draw around it."""
        return max(self.fits, key=lambda one: one.at(gain, None)).at(gain, rng)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The noise calibration of one camera."""

    black: int
    """Black level of the codes in which the camera was calibrated."""
    white: int
    """White level of the codes in which the camera was calibrated."""
    gain_per_iso: float
    """K = gain_per_iso * ISO."""
    read: LogLinear | LargerOf
    row: LogLinear | LargerOf
    read_shapes: tuple[float, ...]
    """Tukey lambda at ISO 100, 200, 400, ..."""
    colour_biases: dict[int, tuple[float, float, float, float]]
    """By ISO."""
    lowest_iso: float = 0.0
    """The lowest ISO that is not extended; 0 if extended ISO values are not treated."""
    drawn_isos: tuple[float, float] = PUBLISHED_ISOS
    """The lowest and the highest ISO of simulated exposures."""

    def parameters(self, iso: float, rng: np.random.Generator | None = None) -> NoiseParameters:
        """Return the noise parameters at an ISO: the medians, or with `rng` one random draw.

        Lambda and colour bias were calibrated for each stop of ISO; those of the nearest stop are used. Raises
        OptionError for an ISO that is not positive.
        """
        check_iso(iso)
        iso = hardware_iso(iso, self.lowest_iso)
        gain = self.gain_per_iso * iso
        stop = round(math.log2(iso / 100.0))
        nearest = min(self.colour_biases, key=lambda known: abs(math.log2(known / iso)))
        return NoiseParameters(
            gain=gain,
            read_shape=self.read_shapes[min(max(stop, 0), len(self.read_shapes) - 1)],
            read_scale=self.read.at(gain, rng),
            row_sigma=self.row.at(gain, rng),
            colour_bias=self.colour_biases[nearest],
        )


NoiseTable: TypeAlias = Calibration | IsoTable
"""What gives noise parameters at any ISO."""


def calibration_of(
    camera: str, *, profile: int | None = None, edition: NoiseEdition = 2
) -> NoiseTable:
    """Return a camera's calibration; `profile` chooses one of the two of the Nikon D850 (None: the edition's).

    Raises OptionError if the camera or the profile has no calibration.
    """
    if camera not in CALIBRATIONS:
        raise OptionError(
            f"no noise calibration for camera {camera!r}; choose one of {', '.join(CALIBRATIONS)}"
        )
    profiles = CALIBRATIONS[camera]
    if profile is None:
        if edition > 1:
            return _SECOND_EDITION[camera]
        return profiles[0]
    if not 1 <= profile <= len(profiles):
        raise OptionError(
            f"camera {camera} has noise profiles 1 to {len(profiles)}, but no profile {profile}; choose one of these"
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
_NIKON_READ = (
    LogLinear(slope=0.477390, intercept=-0.090445, spread=0.239201),
    LogLinear(slope=1.090381, intercept=-1.208530, spread=0.004103),
)
_NIKON_ROW = (
    LogLinear(slope=0.448292, intercept=-1.797710, spread=0.232180),
    LogLinear(slope=0.966234, intercept=-2.695330, spread=0.029275),
)
_NIKON = Calibration(
    black=400,
    white=15520,
    gain_per_iso=0.00415039,
    read=_NIKON_READ[0],
    row=_NIKON_ROW[0],
    read_shapes=_NIKON_SHAPES,
    colour_biases=_NIKON_BIASES,
)
_NIKON_SECOND = replace(_NIKON, read=_NIKON_READ[1], row=_NIKON_ROW[1])
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
    colour_biases={100: (0.0, 0.0, 0.0, 0.0)},  # its biases are not published
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
PUBLISHED_CAMERAS = {
    "sony ilce-7sm2": "sonya7s2",
    "fujifilm x-t2": "fuji",
    "nikon d850": "nikond850",
    "canon eos 70d": "canon70d",
    "canon eos 700d": "canon700d",
    "canon eos 5d mark iv": "canon5d4",
}
"""Maker and model as files state them, in lower case, to a name in CALIBRATIONS."""

# -- edition 2 ----------------------------------------------------------------------------------------

_SONY_MODES = (
    (
        (100, 0.149, 0.702, 0.139),
        (200, 0.079, 0.812, 0.228),
        (400, 0.022, 1.182, 0.362),
        (800, -0.008, 1.935, 0.572),
        (1600, -0.044, 3.228, 0.989),
    ),
    (
        # ISO 2000 from the log-linear fit that PMN's authors made to this mode, with lambda of ISO 3200.
        (2000, -0.035, 1.437, 0.332),
        (3200, -0.035, 2.042, 0.445),
        (6400, -0.075, 3.450, 0.722),
        (12800, -0.065, 7.038, 1.275),
        (25600, -0.091, 12.18, 2.276),
    ),
)
"""ISO, lambda, scale of the read noise and row noise in codes, by gain mode, as PMN's authors measured them."""


def _sony_noise(iso: int, shape: float, scale: float, row: float) -> IsoNoise:
    return IsoNoise(
        iso=iso,
        parameters=NoiseParameters(
            gain=_SONY.gain_per_iso * iso,
            read_shape=shape,
            read_scale=scale,
            row_sigma=row,
            colour_bias=_SONY_BIASES[3200 if iso == 2000 else iso],
        ),
    )


_SONY_TABLE = IsoTable(
    black=512,
    white=16383,
    modes=tuple(tuple(_sony_noise(*values) for values in mode) for mode in _SONY_MODES),
    drawn_isos=PUBLISHED_ISOS,
    bias_resets=(160, 2000, 10000),
    lowest_iso=100,
    read_spread=0.0071,
    row_spread=0.028,
)
_SECOND_EDITION: dict[str, NoiseTable] = {
    "sony": _SONY_TABLE,
    "fuji": _FUJI,
    "sonya7s2": _SONY_TABLE,
    "nikond850": replace(
        _NIKON, read=LargerOf(fits=_NIKON_READ), row=LargerOf(fits=_NIKON_ROW), lowest_iso=64
    ),
    "canon70d": replace(_CANON_70D, lowest_iso=100),
    "canon700d": replace(_CANON_700D, lowest_iso=100),
    "canon5d4": replace(_CANON_5D4, lowest_iso=100),
}
