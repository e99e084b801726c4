"""The noise is its theory's: shot variance, read quantiles and kurtosis, row variance, bias, per camera and ISO."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from pipeline.noise import (
    CALIBRATIONS,
    NoiseParameters,
    add_noise,
    noise_parameters,
    tukey_lambda,
    tukey_lambda_std,
)
from pipeline.pack import PLANE_COLOURS, pack
from shards.cfa import CANONICAL
from shards.errors import OptionError
from shards.format import CfaKind

ISOS = (100, 400, 800, 1600, 3200, 6400)
EVERY = [(camera, iso) for camera in sorted(CALIBRATIONS) for iso in ISOS]
SIDE = 256


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng((20, *key))


def noisy(light: float, parameters: NoiseParameters, seed: int = 0, side: int = SIDE):
    """Noise of a flat mosaic, the light taken off, `(side, side)` float64."""
    clean = np.full((side, side), light, np.float32)
    return add_noise(clean, parameters, rng(seed), ("RG", "GB")).astype(np.float64) - light


def without(parameters: NoiseParameters, **zeroed: float) -> NoiseParameters:
    return replace(parameters, **{"row_sigma": 0.0, "colour_bias": (0.0, 0.0, 0.0, 0.0), **zeroed})


@pytest.mark.parametrize(("camera", "iso"), EVERY)
def test_the_variance_grows_with_the_signal_by_k(camera, iso):
    """The photon transfer curve: slope K, intercept the read and quantisation variance."""
    parameters = without(noise_parameters(camera, iso), read_scale=0.0)
    signals = np.array([20.0, 200.0, 1000.0, 4000.0]) * parameters.gain

    variances = [noisy(light, parameters, k).var() for k, light in enumerate(signals)]

    slope, intercept = np.polyfit(signals, variances, 1, w=1 / signals)
    assert slope == pytest.approx(parameters.gain, rel=0.03)
    assert intercept == pytest.approx(1 / 12, abs=1 + parameters.gain**2)


@pytest.mark.parametrize(("camera", "iso"), EVERY)
def test_read_noise_has_the_quantiles_of_its_tukey_lambda(camera, iso):
    parameters = without(noise_parameters(camera, iso))
    shape, scale = parameters.read_shape, parameters.read_scale

    values = np.sort(noisy(0.0, parameters, side=512).ravel())

    for u in (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99):
        theory = scale * (
            math.log(u / (1 - u)) if shape == 0 else (u**shape - (1 - u) ** shape) / shape
        )
        density = (u ** (shape - 1) + (1 - u) ** (shape - 1)) * scale
        chance = 4 * math.sqrt(u * (1 - u) / values.size) * density
        assert values[int(u * values.size)] == pytest.approx(theory, abs=chance + 0.6)


def excess_kurtosis(shape: float) -> float:
    """Of Tukey's lambda, by its moments' integrals; finite for shapes above -1/4."""
    u = (np.arange(4_000_000) + 0.5) / 4_000_000
    q = np.log(u / (1 - u)) if shape == 0 else (u**shape - (1 - u) ** shape) / shape
    return float(np.mean(q**4) / np.mean(q**2) ** 2 - 3)


@pytest.mark.parametrize("shape", [0.2, 0.121, 0.0, -0.05])
def test_read_noise_has_the_kurtosis_of_its_tukey_lambda(shape):
    values = tukey_lambda(shape, (2_000_000,), rng(1)).astype(np.float64)

    found = np.mean(values**4) / np.mean(values**2) ** 2 - 3

    assert found == pytest.approx(
        excess_kurtosis(shape), abs=0.02 + 0.05 * abs(excess_kurtosis(shape))
    )
    assert values.std() == pytest.approx(tukey_lambda_std(shape), rel=0.003)
    assert (shape < 0.135) == (found > 0), "lambda 0.14 is nearly a normal distribution"


@pytest.mark.parametrize(("camera", "iso"), EVERY)
def test_rows_share_an_offset_of_the_published_spread(camera, iso):
    """Row means vary by the row noise, and a little by what is left of the pixels' own noise."""
    parameters = noise_parameters(camera, iso)
    pixel = without(parameters)

    means = noisy(0.0, replace(parameters, colour_bias=(0.0,) * 4), side=512).mean(axis=1)

    own = (parameters.read_scale * tukey_lambda_std(parameters.read_shape)) ** 2 + 1 / 12
    theory = parameters.row_sigma**2 + own / 512
    assert means.var() == pytest.approx(theory, rel=0.25)
    assert noisy(0.0, pixel, side=512).mean(axis=1).var() == pytest.approx(own / 512, rel=0.25)


@pytest.mark.parametrize("cfa", ["bayer", "xtrans"])
@pytest.mark.parametrize("camera", sorted(CALIBRATIONS))
def test_each_colour_has_its_bias(camera, cfa: CfaKind):
    parameters = replace(noise_parameters(camera, 1600), row_sigma=0.0)
    mosaic = add_noise(np.zeros((360, 360), np.float32), parameters, rng(3), CANONICAL[cfa])

    red, green, blue, green_of_blue = parameters.colour_bias
    chance = 5 * parameters.read_scale * tukey_lambda_std(parameters.read_shape)
    for plane, letter in zip(pack(mosaic, cfa), PLANE_COLOURS[cfa], strict=True):
        found = plane.mean()
        wanted = {"R": [red], "G": [green, green_of_blue], "B": [blue]}[letter]
        slack = chance / math.sqrt(plane.size)
        assert min(wanted) - slack <= found <= max(wanted) + slack


@pytest.mark.parametrize("camera", sorted(CALIBRATIONS))
def test_k_doubles_with_iso_and_scales_are_drawn_around_their_line(camera):
    table = CALIBRATIONS[camera][0]
    for iso in ISOS:
        assert noise_parameters(camera, iso).gain == pytest.approx(table.gain_per_iso * iso)
    drawn = [noise_parameters(camera, 1600, rng(4, k)) for k in range(400)]
    median = noise_parameters(camera, 1600)

    for name, line in (("read_scale", table.read), ("row_sigma", table.row)):
        logs = np.log([getattr(one, name) for one in drawn])
        assert logs.mean() == pytest.approx(math.log(getattr(median, name)), abs=0.2 * line.spread)
        assert logs.std() == pytest.approx(line.spread, rel=0.15)
    assert {one.gain for one in drawn} == {median.gain}


def test_medians_are_the_published_ones():
    """K, read scale and row spread at ISO 1600 as computed from the released calibration files."""
    published = {
        "sonya7s2": (1.503, 2.13, 0.69),
        "nikond850": (6.64, 2.26, 0.39),
        "canon70d": (6.52, 10.8, 1.54),
        "canon700d": (7.16, 15.1, 1.57),
        "canon5d4": (3.49, 6.77, 0.80),
    }
    for camera, (gain, read, row) in published.items():
        found = noise_parameters(camera, 1600)
        assert (found.gain, found.read_scale, found.row_sigma) == pytest.approx(
            (gain, read, row), rel=0.01
        )


def test_nikons_second_profile_is_another():
    first, second = (noise_parameters("nikond850", 1600, profile=n) for n in (1, 2))

    assert first.gain == second.gain
    assert first.read_scale != second.read_scale


def test_no_noise_is_left_of_none():
    silent = NoiseParameters(
        gain=1e-6, read_shape=0.0, read_scale=0.0, row_sigma=0.0, colour_bias=(0.0,) * 4
    )
    clean = rng(6).uniform(0, 5000, (64, 64)).astype(np.float32)

    found = add_noise(clean, silent, rng(7), ("RG", "GB"))

    assert (
        np.abs(found - clean).max() <= 0.5 + 0.4
    )  # whole codes; K = 1e-6 leaves 0.07 of shot noise
    assert (found == np.rint(found)).all()


def test_rows_are_drawn_in_order_so_a_taller_mosaic_begins_alike():
    parameters = noise_parameters("sony", 800)
    tall, low = (
        add_noise(np.full((height, 40), 50, np.float32), parameters, rng(8), ("RG", "GB"))
        for height in (192, 64)
    )

    np.testing.assert_array_equal(tall[:64], low)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"gain": 0.0}, "gain must be positive"),
        ({"read_shape": 0.5}, "read_shape must lie"),
        ({"read_scale": -1.0}, "must not be negative"),
        ({"colour_bias": (0.0, 0.0, math.nan, 0.0)}, "colour_bias must be finite"),
    ],
)
def test_impossible_parameters_are_refused(wrong, why):
    with pytest.raises(ValueError, match=why):
        replace(noise_parameters("sony", 800), **wrong)


@pytest.mark.parametrize(
    ("camera", "iso", "profile", "why"),
    [
        ("pentax", 800, 1, "no noise calibration for camera 'pentax'; there are: sony"),
        ("sony", 0, 1, "ISO must be positive"),
        ("sony", 800, 2, r"has 1 noise profile\(s\), not 2"),
    ],
)
def test_what_was_never_calibrated_is_refused(camera, iso, profile, why):
    with pytest.raises(OptionError, match=why):
        noise_parameters(camera, iso, profile=profile)
