"""The noise of a camera in the dark, by physics: shot, read, row, colour bias, quantisation.

Model and calibrated numbers: Wei et al., "Physics-based noise modeling for extreme low-light
photography" (ELD, CVPR 2020 and TPAMI 2021); their released code has the shot and a Gaussian read
term alone, here are all of them. The trade-off: fixed-pattern noise beyond the colour bias is left
out, since it was never published.

Units: codes (DN) above the black level. `gain` is K, codes per electron, so that the shot noise of
a signal of D codes has the variance K D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from darkprep.shards.errors import OptionError

F32 = npt.NDArray[np.float32]
Rng: TypeAlias = np.random.Generator

_BAND = 64
"""Rows that are made at once: temporaries stay in the processor's cache, and small."""
GAUSSIAN_ABOVE = 1000.0
"""Electrons above which a normal distribution stands for Poisson's: its skewness is below 0.03."""


@dataclass(frozen=True, kw_only=True)
class NoiseParameters:
    """The noise of one exposure."""

    gain: float
    """K, codes per electron."""
    read_shape: float
    """Tukey lambda of the read noise: 0 is the logistic distribution, negative has longer tails."""
    read_scale: float
    """Scale of the read noise in codes; NOT its standard deviation (see `tukey_lambda_std`)."""
    row_sigma: float
    """Standard deviation in codes of the offset that each row has as a whole."""
    colour_bias: tuple[float, float, float, float]
    """Offset in codes of R, G (in the rows of R), B, G (in the rows of B)."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.gain) and self.gain > 0):
            raise ValueError(f"gain must be positive, not {self.gain}")
        if not (math.isfinite(self.read_shape) and abs(self.read_shape) < 0.5):
            raise ValueError(f"read_shape must lie within (-0.5, 0.5), not {self.read_shape}")
        if not (self.read_scale >= 0 and self.row_sigma >= 0):
            raise ValueError("read_scale and row_sigma must not be negative")
        if not all(map(math.isfinite, self.colour_bias)):
            raise ValueError("colour_bias must be finite")


@dataclass(frozen=True, kw_only=True)
class _LogLinear:
    """log(sigma) = slope * log(K) + intercept + normal(0, spread); natural logarithms, codes."""

    slope: float
    intercept: float
    spread: float

    def at(self, gain: float, rng: Rng | None) -> float:
        """Returns the median at a gain, or with `rng` a draw."""
        drawn = 0.0 if rng is None else self.spread * float(rng.standard_normal())
        return math.exp(self.slope * math.log(gain) + self.intercept + drawn)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """One camera's published noise calibration."""

    gain_per_iso: float
    """K = gain_per_iso * ISO."""
    read: _LogLinear
    row: _LogLinear
    read_shapes: tuple[float, ...]
    """Tukey lambda at ISO 100, 200, 400, ..."""
    colour_biases: dict[int, tuple[float, float, float, float]]
    """By ISO."""


def noise_parameters(
    camera: str, iso: float, rng: Rng | None = None, *, profile: int = 1
) -> NoiseParameters:
    """Returns the noise of a camera at an ISO: the medians, or with `rng` one draw of the scales.

    Lambda and colour bias were calibrated per stop of ISO: the nearest stop counts. `profile` 2 is
    Nikon D850's second calibration. Raises OptionError for a camera, ISO or profile without one.
    """
    if camera not in CALIBRATIONS:
        raise OptionError(
            f"no noise calibration for camera {camera!r}; there are: {', '.join(CALIBRATIONS)}"
        )
    if not (math.isfinite(iso) and iso > 0):
        raise OptionError(f"ISO must be positive, not {iso}")
    if not 1 <= profile <= len(CALIBRATIONS[camera]):
        raise OptionError(
            f"camera {camera} has {len(CALIBRATIONS[camera])} noise profile(s), not {profile}"
        )
    table = CALIBRATIONS[camera][profile - 1]
    gain = table.gain_per_iso * iso
    stop = round(math.log2(iso / 100.0))
    nearest = min(table.colour_biases, key=lambda known: abs(math.log2(known / iso)))
    return NoiseParameters(
        gain=gain,
        read_shape=table.read_shapes[min(max(stop, 0), len(table.read_shapes) - 1)],
        read_scale=table.read.at(gain, rng),
        row_sigma=table.row.at(gain, rng),
        colour_bias=table.colour_biases[nearest],
    )


def add_noise(clean: F32, parameters: NoiseParameters, rng: Rng, cfa: tuple[str, ...]) -> F32:
    """Returns the mosaic as the sensor would record it: `(H, W)` float32, whole codes above black.

    `clean` is `(H, W)` float32 codes above black, the expectation; negative values count as 0. `cfa`
    names the colours at its origin, row by row. The result is rounded (that is the quantisation)
    but not clipped: noise below the black level is part of the signal, and clipping it would bias
    the shadows. Rows are drawn in one order, so the result depends on `rng` alone.
    """
    noisy = np.empty(clean.shape, np.float32)
    biases = _bias_of_rows(cfa, parameters.colour_bias, clean.shape[1])
    for top in range(0, clean.shape[0], _BAND):
        band = _shot(clean[top : top + _BAND], parameters.gain, rng)
        band += np.float32(parameters.read_scale) * tukey_lambda(
            parameters.read_shape, band.shape, rng
        )
        band += np.float32(parameters.row_sigma) * rng.standard_normal((len(band), 1), np.float32)
        band += biases[np.arange(top, top + len(band)) % len(cfa)]
        np.rint(band, out=noisy[top : top + _BAND])
    return noisy


def tukey_lambda(shape: float, size: tuple[int, ...], rng: Rng) -> F32:
    """Returns float32 draws of Tukey's lambda distribution with location 0 and scale 1.

    The quantile function is (u^l - (1-u)^l) / l, and the logit of u where l = 0. It is odd around
    u = 1/2, so u is drawn in (0, 1/2) with a sign: in float32 its tail then has 31 bits and neither
    logarithm meets 0.
    """
    bits = rng.integers(-(2**31), 2**31, size, np.int32)
    signed = bits.astype(np.float32)
    tail = np.abs(signed)
    tail += np.float32(0.5)
    tail *= np.float32(2.0**-32)
    np.minimum(tail, np.float32(0.5), out=tail)
    log_high = np.log1p(-tail)
    log_low = np.log(tail, out=tail)
    if shape == 0.0:
        drawn = log_high - log_low
    else:
        power = np.float32(shape)
        drawn = np.exp(power * log_high) - np.exp(power * log_low)
        drawn /= power
    np.copysign(drawn, signed, out=drawn)
    return drawn


def tukey_lambda_std(shape: float) -> float:
    """Returns the standard deviation of Tukey's lambda distribution of scale 1 (Joiner, Rosenblatt 1971)."""
    if abs(shape) < 1e-6:
        return math.pi / math.sqrt(3.0)
    beta = math.gamma(shape + 1.0) ** 2 / math.gamma(2.0 * shape + 2.0)
    return math.sqrt(2.0 / shape**2 * (1.0 / (2.0 * shape + 1.0) - beta))


def _shot(clean: F32, gain: float, rng: Rng) -> F32:
    """Returns K * Poisson(clean / K), float32."""
    electrons = np.maximum(clean, 0.0) / np.float32(gain)
    if electrons.size and electrons.min() > GAUSSIAN_ABOVE:
        drawn = electrons + np.sqrt(electrons) * rng.standard_normal(electrons.shape, np.float32)
    else:
        drawn = rng.poisson(electrons).astype(np.float32)
    return np.asarray(drawn * np.float32(gain), np.float32)


def _bias_of_rows(cfa: tuple[str, ...], bias: tuple[float, float, float, float], width: int) -> F32:
    """Returns `(period, width)` colour bias of the rows of one period.

    X-Trans rows hold red and blue alike; there all greens take the first green's bias.
    """
    red, green, blue, green_of_blue = bias
    rows = []
    for row in cfa:
        its_green = green_of_blue if "B" in row and "R" not in row else green
        value = {"R": red, "G": its_green, "B": blue}
        rows.append([value[letter] for letter in row])
    period = np.array(rows, np.float32)
    return np.asarray(period[:, np.arange(width) % len(cfa)])


# Published calibration. K is proportional to ISO within each camera's tables (Kmax / Kmin = 64 over
# ISO 100 to 6400). The tables hold two entries per stop: lambda is their mean, the bias the first.
_SONY_MEAN_BIAS = {100: 1.48, 200: -1.03, 400: -0.28, 6400: -1.46, 12800: 1.12, 25600: 4.08}
"""Stops of which only the mean over channels is known."""

_SONY_READ = _LogLinear(slope=0.462105, intercept=0.565715, spread=0.263371)
_SONY_ROW = _LogLinear(slope=0.527536, intercept=-0.591700, spread=0.294288)
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
    gain_per_iso=0.00093916,
    read=_SONY_READ,
    row=_SONY_ROW,
    read_shapes=_SONY_SHAPES,
    colour_biases=_SONY_BIASES,
)
_NIKON = Calibration(
    gain_per_iso=0.00415039,
    read=_LogLinear(slope=0.477390, intercept=-0.090445, spread=0.239201),
    row=_LogLinear(slope=0.448292, intercept=-1.797710, spread=0.232180),
    read_shapes=_NIKON_SHAPES,
    colour_biases=_NIKON_BIASES,
)
_NIKON_SECOND = Calibration(
    gain_per_iso=0.00415039,
    read=_LogLinear(slope=1.090381, intercept=-1.208530, spread=0.004103),
    row=_LogLinear(slope=0.966234, intercept=-2.695330, spread=0.029275),
    read_shapes=_NIKON_SHAPES,
    colour_biases=_NIKON_BIASES,
)
_CANON_70D = Calibration(
    gain_per_iso=0.00407497,
    read=_LogLinear(slope=0.486806, intercept=1.464268, spread=0.382006),
    row=_LogLinear(slope=0.729222, intercept=-0.937057, spread=0.250216),
    read_shapes=(0.143, 0.114, 0.029, -0.093, -0.171, -0.157, -0.086, -0.029),
    colour_biases={
        800: (0.900, 0.829, 0.189, 0.282),
        1600: (1.145, 1.403, 0.750, 0.419),
        3200: (1.778, 1.953, 1.147, 0.687),
    },
)
_CANON_700D = Calibration(
    gain_per_iso=0.00447629,
    read=_LogLinear(slope=0.598236, intercept=1.537044, spread=0.388819),
    row=_LogLinear(slope=0.622059, intercept=-0.775647, spread=0.248481),
    read_shapes=(0.129, 0.100, 0.014, -0.093, -0.150, -0.129, -0.029, 0.014),
    colour_biases={
        800: (0.656, 0.730, 0.291, 0.212),
        1600: (0.712, 0.131, 0.446, 0.063),
        3200: (0.516, 1.512, 0.152, -0.617),
    },
)
_CANON_5D4 = Calibration(
    gain_per_iso=0.00218190,
    read=_LogLinear(slope=0.655876, intercept=1.092687, spread=0.286047),
    row=_LogLinear(slope=0.471280, intercept=-0.807896, spread=0.243618),
    read_shapes=(0.150, 0.086, 0.200, 0.093, 0.064, 0.029, 0.021, 0.079, 0.114),
    colour_biases={100: (0.0, 0.0, 0.0, 0.0)},  # its biases are not at hand: none is added
)
_FUJI = Calibration(
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
