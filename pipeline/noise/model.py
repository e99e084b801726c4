"""A physical model of a camera's noise in the dark: shot noise, read noise, row noise, colour bias, quantisation.

Model: Wei et al., "Physics-based noise modeling for extreme low-light photography" (ELD, CVPR 2020 and
TPAMI 2021). Their released code has only shot noise and Gaussian read noise; this module has all terms of
the papers. The trade-off: fixed-pattern noise other than the colour bias is left out, since it was never
published.

Units: codes (DN) above the black level. `gain` is K, codes per electron, so that the shot noise of a signal
of D codes has the variance K D.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from darkprep.pipeline.noise.calibrations import NoiseEdition, calibration_of
from darkprep.pipeline.noise.parameters import NoiseParameters

F32 = npt.NDArray[np.float32]
Rng: TypeAlias = np.random.Generator

_BAND = 64
"""Number of rows that are computed at once, so that temporary arrays fit into the processor's cache."""
GAUSSIAN_ABOVE = 1000.0
"""Electrons above which a normal distribution replaces Poisson's: its skewness is below 0.03."""


def noise_parameters(
    camera: str,
    iso: float,
    rng: Rng | None = None,
    *,
    profile: int | None = None,
    edition: NoiseEdition = 2,
) -> NoiseParameters:
    """Return the noise parameters of a camera at an ISO: the medians, or with `rng` one random draw.

    `profile` 1 or 2 is one of the two calibrations of the Nikon D850; None is the edition's choice. Raises
    OptionError for a camera, ISO or profile without a calibration.
    """
    return calibration_of(camera, profile=profile, edition=edition).parameters(iso, rng)


def add_noise(clean: F32, parameters: NoiseParameters, rng: Rng, cfa: tuple[str, ...]) -> F32:
    """Return the mosaic as the sensor would record it: `(H, W)` float32, whole codes above black.

    `clean` is the noiseless signal, `(H, W)` float32 codes above black; negative values count as 0. `cfa`
    holds the filter colours of one period from the mosaic's origin, row by row. The result is rounded
    (quantisation) but not clipped: noise below the black level is part of the signal, and clipping would
    bias the shadows. Rows are drawn in a fixed order, so the result depends on `rng` alone.
    """
    noisy = np.empty(clean.shape, np.float32)
    biases = _bias_of_rows(cfa, parameters.colour_bias, clean.shape[1])
    for top in range(0, clean.shape[0], _BAND):
        band = shot_noise(clean[top : top + _BAND], parameters.gain, rng)
        band += np.float32(parameters.read_scale) * tukey_lambda(
            parameters.read_shape, band.shape, rng
        )
        band += np.float32(parameters.row_sigma) * rng.standard_normal((len(band), 1), np.float32)
        band += biases[np.arange(top, top + len(band)) % len(cfa)]
        np.rint(band, out=noisy[top : top + _BAND])
    return noisy


def tukey_lambda(shape: float, size: tuple[int, ...], rng: Rng) -> F32:
    """Return float32 random numbers from Tukey's lambda distribution with location 0 and scale 1.

    The quantile function is (u^l - (1-u)^l) / l, or the logit of u if l = 0. It is odd around u = 1/2, so u
    is drawn from (0, 1/2), and the sign separately. This gives the tail 31 bits in float32, and avoids the
    logarithm of 0.
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


def shot_noise(clean: F32, gain: float, rng: Rng) -> F32:
    """Return the signal with shot noise, K * Poisson(clean / K), float32."""
    electrons = np.maximum(clean, 0.0) / np.float32(gain)
    if electrons.size and electrons.min() > GAUSSIAN_ABOVE:
        drawn = electrons + np.sqrt(electrons) * rng.standard_normal(electrons.shape, np.float32)
    else:
        drawn = rng.poisson(electrons).astype(np.float32)
    return np.asarray(drawn * np.float32(gain), np.float32)


def _bias_of_rows(cfa: tuple[str, ...], bias: tuple[float, float, float, float], width: int) -> F32:
    """Return the colour bias of the rows of one period, `(period, width)`.

    In X-Trans, where rows contain both red and blue, all green pixels get the bias of the first green.
    """
    red, green, blue, green_of_blue = bias
    rows = []
    for row in cfa:
        row_green = green_of_blue if "B" in row and "R" not in row else green
        value = {"R": red, "G": row_green, "B": blue}
        rows.append([value[letter] for letter in row])
    period = np.array(rows, np.float32)
    return np.asarray(period[:, np.arange(width) % len(cfa)])
