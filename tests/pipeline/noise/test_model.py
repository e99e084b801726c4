"""The noise has the statistics that physics and the calibration ask for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from darkprep.pipeline.noise.calibrations import CALIBRATIONS
from darkprep.pipeline.noise.iso_table import IsoTable
from darkprep.pipeline.noise.model import add_noise, noise_parameters, tukey_lambda
from darkprep.pipeline.noise.parameters import IsoNoise, NoiseParameters
from darkprep.pipeline.noise.tukey_lambda import standard_deviation
from darkprep.pipeline.raw.dng import BAYER
from darkprep.shards.cfa import CANONICAL
from darkprep.shards.errors import OptionError

RGGB = BAYER["RGGB"]
NO_BIAS = (0.0, 0.0, 0.0, 0.0)


def parameters(**changes: Any) -> NoiseParameters:
    silent: dict[str, Any] = {
        "gain": 1.5,
        "read_shape": 0.0,
        "read_scale": 0.0,
        "row_sigma": 0.0,
        "colour_bias": NO_BIAS,
    }
    return NoiseParameters(**{**silent, **changes})


def noisy(
    level: float,
    params: NoiseParameters,
    *,
    shape: tuple[int, int] = (512, 512),
    cfa: tuple[str, ...] = RGGB,
    seed: int = 0,
) -> npt.NDArray[np.float32]:
    clean = np.full(shape, level, np.float32)
    return add_noise(clean, params, np.random.default_rng(seed), cfa)


@pytest.mark.parametrize("gain", [0.094, 0.75, 3.0, 13.3])
def test_the_variance_rises_with_the_signal_by_the_gain(gain):
    levels = np.array([50.0, 200.0, 800.0, 3000.0])
    variances = [float(noisy(level, parameters(gain=gain)).var()) for level in levels]

    slope, intercept = np.polyfit(levels, variances, 1)

    assert slope == pytest.approx(gain, rel=0.02)
    assert intercept == pytest.approx(1 / 12, abs=0.03 * gain * 50 + 0.1)


@pytest.mark.parametrize("level", [0.3, 5.0, 900.0, 4000.0])
def test_shot_noise_keeps_the_mean(level):
    frame = noisy(level, parameters(gain=1.0))

    assert frame.mean() == pytest.approx(level, abs=5 * math.sqrt(level) / 512)


def test_bright_signals_take_the_normal_distribution_with_the_same_moments():
    frame = noisy(3000.0, parameters(gain=1.0))

    assert frame.mean() == pytest.approx(3000, abs=1)
    assert frame.var() == pytest.approx(3000, rel=0.02)


@pytest.mark.parametrize("shape", [-0.243, -0.1, 0.0, 0.05, 0.143])
def test_read_noise_is_tukeys_lambda(shape):
    drawn = tukey_lambda(shape, (2_000_000,), np.random.default_rng(0)).astype(np.float64)

    assert drawn.mean() == pytest.approx(0, abs=0.01)
    assert drawn.std() == pytest.approx(standard_deviation(shape), rel=0.01)
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        logit = math.log(share / (1 - share))
        exact = (share**shape - (1 - share) ** shape) / shape if shape else logit
        assert np.quantile(drawn, share) == pytest.approx(exact, abs=0.02 * (1 + abs(exact)))


def test_the_kurtosis_of_read_noise_is_the_theorys():
    """Of lambda 0, the logistic distribution, 6/5; of 0.14 about that of the normal, 0."""
    rng = np.random.default_rng(0)

    def excess(shape: float) -> float:
        drawn = tukey_lambda(shape, (4_000_000,), rng).astype(np.float64)
        return float((drawn**4).mean() / (drawn**2).mean() ** 2 - 3)

    assert excess(0.0) == pytest.approx(1.2, abs=0.05)
    assert excess(0.14) == pytest.approx(0.0, abs=0.05)
    assert excess(-0.1) > 2.5


def test_tukeys_standard_deviation_is_continuous_at_zero():
    assert standard_deviation(0.0) == pytest.approx(math.pi / math.sqrt(3))
    assert standard_deviation(1e-4) == pytest.approx(standard_deviation(0.0), rel=1e-3)


def test_rows_have_an_offset_each():
    frame = noisy(0.0, parameters(row_sigma=5.0), shape=(4000, 64))

    assert frame.mean(axis=1).std() == pytest.approx(5.0, rel=0.04)
    assert frame.std(axis=1).max() < 0.5, "within a row nothing else was asked for"


def test_the_colour_bias_falls_on_its_colours():
    frame = noisy(0.0, parameters(read_scale=2.0, colour_bias=(4.0, -1.0, 2.0, 7.0)))

    means = [[frame[y::2, x::2].mean() for x in (0, 1)] for y in (0, 1)]
    np.testing.assert_allclose(means, [[4.0, -1.0], [7.0, 2.0]], atol=0.06)


def test_the_colour_bias_follows_another_phase():
    params = parameters(read_scale=2.0, colour_bias=(4.0, -1.0, 2.0, 7.0))
    frame = noisy(0.0, params, cfa=BAYER["GBRG"])

    means = [[frame[y::2, x::2].mean() for x in (0, 1)] for y in (0, 1)]
    np.testing.assert_allclose(means, [[7.0, 2.0], [4.0, -1.0]], atol=0.06)


def test_x_trans_has_one_bias_per_colour():
    params = parameters(read_scale=2.0, colour_bias=(4.0, -1.0, 2.0, 7.0))
    frame = noisy(0.0, params, shape=(516, 516), cfa=CANONICAL["xtrans"])

    for y, row in enumerate(CANONICAL["xtrans"]):
        for x, letter in enumerate(row):
            expected = {"R": 4.0, "G": -1.0, "B": 2.0}[letter]
            assert frame[y::6, x::6].mean() == pytest.approx(expected, abs=0.2)


def test_codes_are_whole_and_may_lie_below_black():
    frame = noisy(2.0, noise_parameters("canon70d", 3200))

    assert frame.dtype == np.float32
    assert np.array_equal(frame, np.rint(frame))
    assert (frame < 0).mean() > 0.2


def test_quantisation_adds_a_twelfth():
    smooth = noisy(0.0, parameters(read_scale=3.0))

    expected = (3.0 * standard_deviation(0.0)) ** 2 + 1 / 12
    assert smooth.var() == pytest.approx(expected, rel=0.01)


def test_negative_expectations_count_as_darkness():
    assert (noisy(-50.0, parameters()) == 0).all()


def test_one_generator_state_gives_one_frame():
    params = noise_parameters("nikond850", 1600)

    assert np.array_equal(noisy(20.0, params, seed=3), noisy(20.0, params, seed=3))
    assert not np.array_equal(noisy(20.0, params, seed=3), noisy(20.0, params, seed=4))


@pytest.mark.parametrize(
    ("camera", "iso", "gain", "scale", "row"),
    [
        ("sonya7s2", 800, 0.751, 1.54, 0.48),
        ("sony", 3200, 3.005, 2.93, 0.99),
        ("nikond850", 1600, 6.64, 2.26, 0.39),
        ("canon70d", 3200, 13.0, 15.1, 2.55),
        ("canon700d", 800, 3.58, 9.98, 1.02),
        ("canon5d4", 1600, 3.49, 6.77, 0.80),
    ],
)
def test_medians_of_edition_1_are_elds(camera, iso, gain, scale, row):
    found = noise_parameters(camera, iso, edition=1)

    assert found.gain == pytest.approx(gain, rel=5e-3)
    assert found.read_scale == pytest.approx(scale, rel=5e-3)
    assert found.row_sigma == pytest.approx(row, rel=2e-2)


def test_lambda_of_a_fit_over_all_isos_is_that_of_the_nearest_stop():
    def sony(iso: float) -> NoiseParameters:
        return noise_parameters("sony", iso, edition=1)

    assert sony(400).read_shape == 0.0
    assert sony(500).read_shape == 0.0
    assert sony(640).read_shape == -0.05
    assert sony(50).read_shape == sony(100).read_shape
    assert noise_parameters("canon70d", 51200).read_shape == -0.029


def test_draws_spread_log_normally_around_the_median():
    rng = np.random.default_rng(0)
    median = noise_parameters("canon70d", 1600).read_scale

    draws = np.log([noise_parameters("canon70d", 1600, rng).read_scale for _ in range(3000)])

    assert draws.mean() == pytest.approx(math.log(median), abs=0.03)
    assert draws.std() == pytest.approx(0.382006, rel=0.05)


def test_nikon_has_a_second_profile_and_others_do_not():
    first, second = (noise_parameters("nikond850", 800, profile=k) for k in (1, 2))

    assert first.gain == second.gain
    assert first.read_scale != second.read_scale
    with pytest.raises(OptionError, match=r"has noise profiles 1 to 1, but no profile 2"):
        noise_parameters("sony", 800, profile=2)


@pytest.mark.parametrize(
    ("iso", "shape", "scale", "row"),
    [
        (800, -0.008, 1.935, 0.572),
        (1600, -0.044, 3.228, 0.989),
        (2000, -0.035, 1.437, 0.332),
        (3200, -0.035, 2.042, 0.445),
        (25600, -0.091, 12.18, 2.276),
    ],
)
def test_the_sonys_noise_is_that_of_its_two_gain_modes(iso, shape, scale, row):
    found = noise_parameters("sonya7s2", iso)

    assert found.read_shape == pytest.approx(shape)
    assert (found.read_scale, found.row_sigma) == pytest.approx((scale, row))
    assert found.gain == pytest.approx(0.00093916 * iso)


def test_nothing_is_interpolated_across_a_reset_or_a_gain_mode():
    biases = {iso: noise_parameters("sony", iso).colour_bias[0] for iso in (159, 160, 1999, 2000)}

    assert biases == {159: 1.48, 160: -1.03, 1999: 2.072, 2000: -1.347}
    assert noise_parameters("sony", 1750).read_scale == 3.228
    assert noise_parameters("sony", 1900).read_scale == 1.437
    assert noise_parameters("sony", 9999).colour_bias[0] == -1.46
    assert noise_parameters("sony", 10000).colour_bias[0] == 1.12


def test_between_two_isos_of_a_gain_mode_logarithms_are_interpolated():
    low, middle, high = (noise_parameters("sony", iso) for iso in (400, 400 * 2**0.5, 800))

    assert middle.read_scale == pytest.approx(math.sqrt(low.read_scale * high.read_scale))
    assert middle.row_sigma == pytest.approx(math.sqrt(low.row_sigma * high.row_sigma))
    assert middle.read_shape == pytest.approx((low.read_shape + high.read_shape) / 2)


@pytest.mark.parametrize("camera", ["sony", "canon5d4"])
def test_an_extended_iso_has_the_noise_of_twice_the_iso(camera):
    for iso in (50, 64, 80):
        assert noise_parameters(camera, iso) == noise_parameters(camera, 2 * iso)
    assert noise_parameters("nikond850", 80).gain < noise_parameters("nikond850", 100).gain


def test_the_nikon_has_the_larger_of_its_two_profiles():
    """At ISO 3200 PMN's authors measured a scale of 5.31, at 800 one of 1.51."""
    found = {iso: noise_parameters("nikond850", iso) for iso in (800, 3200)}

    assert found[800] == noise_parameters("nikond850", 800, profile=1)
    assert found[3200] == noise_parameters("nikond850", 3200, profile=2)
    assert [one.read_scale for one in found.values()] == pytest.approx([1.62, 5.01], abs=0.01)
    before = noise_parameters("nikond850", 3200, edition=1)
    assert before.read_scale == pytest.approx(3.14, abs=0.01)


@pytest.mark.parametrize("camera", CALIBRATIONS)
def test_every_camera_has_noise_at_every_iso(camera):
    for iso in (50, 100, 640, 25600, 51200):
        found = noise_parameters(camera, iso, np.random.default_rng(0))
        assert np.isfinite(noisy(3.0, found, shape=(8, 12))).all()


STOPS = [
    iso if iso == 1600 else pytest.param(iso, marks=pytest.mark.slow)
    for iso in (100, 200, 400, 800, 1600, 3200, 6400)
]


@pytest.mark.parametrize("iso", STOPS)
@pytest.mark.parametrize("camera", CALIBRATIONS)
def test_each_cameras_noise_is_the_theorys_at_each_iso(camera, iso):
    """Slope of the variance, spread of the rows, and the whole distribution of the read noise."""
    found = noise_parameters(camera, iso)
    levels = np.array([100.0, 1000.0, 4000.0])
    shot = replace(found, row_sigma=0.0)
    planes = [[noisy(x, shot)[y::2, x0::2] for y, x0 in np.ndindex(2, 2)] for x in levels]
    pixels = [float(np.mean([plane.var() for plane in of_level])) for of_level in planes]
    rows = noisy(0.0, replace(found, colour_bias=NO_BIAS), shape=(4000, 256)).mean(axis=1)
    read = noisy(0.0, replace(shot, colour_bias=NO_BIAS)).astype(np.float64)

    slope, _ = np.polyfit(levels, pixels, 1)
    own = found.read_scale * standard_deviation(found.read_shape)
    assert slope == pytest.approx(found.gain, rel=0.03)
    assert rows.var() == pytest.approx(found.row_sigma**2 + (own**2 + 1 / 12) / 256, rel=0.1)
    codes = np.arange(math.floor(-6 * own), math.ceil(6 * own) + 1)
    expected = tukey_lambda_share((codes + 0.5) / found.read_scale, found.read_shape)
    observed = np.searchsorted(np.sort(read.ravel()), codes, side="right") / read.size
    assert np.abs(observed - expected).max() < 0.004
    # The kurtosis is in the tails; its own estimate does not converge where lambda is below -1/8.
    tails = [1 - share[-1] + share[0] for share in (observed, expected)]
    assert tails[0] == pytest.approx(
        tails[1], abs=5 * math.sqrt(tails[1] / read.size) + 2 / read.size
    )


def tukey_lambda_share(values: npt.NDArray[np.float64], shape: float) -> npt.NDArray[np.float64]:
    """The distribution function, by interpolation in the quantile function."""
    logit = np.linspace(-30, 30, 60_001)
    log_low, log_high = -np.logaddexp(0, -logit), -np.logaddexp(0, logit)
    if shape:
        quantiles = (np.exp(shape * log_low) - np.exp(shape * log_high)) / shape
    else:
        quantiles = logit
    return np.asarray(np.interp(values, quantiles, np.exp(log_low)))


def iso_table(**changes: Any) -> IsoTable:
    one = IsoNoise(iso=800.0, parameters=parameters(colour_bias=(0.5, 0.0, -0.5, 0.0)))
    fields = {"black": 512.0, "white": 16383, "modes": ((one,),), "drawn_isos": (100.0, 800.0)}
    return IsoTable(**{**fields, **changes})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"black": 20_000.0}, "need 0 <= black < white"),
        ({"modes": ((),)}, "modes must not be empty"),
        ({"modes": iso_table().modes * 2}, "ISO values must ascend"),
        ({"drawn_isos": (0.0, 800.0)}, "drawn_isos must be positive"),
        ({"read_spread": 1.0}, "read_spread and row_spread must be"),
    ],
)
def test_an_invalid_table_is_refused_by_the_name_of_its_field(wrong, message):
    with pytest.raises(ValueError, match=message):
        iso_table(**wrong)


def test_a_table_without_bias_is_else_the_same():
    table = iso_table()
    plain = table.without_bias()

    assert plain.parameters(800.0).colour_bias == (0.0,) * 4
    assert replace(plain.parameters(800.0), colour_bias=(0.5, 0.0, -0.5, 0.0)) == table.parameters(
        800.0
    )


def test_where_one_of_two_isos_has_no_row_noise_it_is_interpolated_linearly():
    """A logarithm of 0 there is not."""
    low, high = parameters(row_sigma=0.0), parameters(row_sigma=2.0)
    mode = (IsoNoise(iso=400.0, parameters=low), IsoNoise(iso=1600.0, parameters=high))

    assert iso_table(modes=(mode,)).parameters(800.0).row_sigma == pytest.approx(1.0)


def test_unknown_cameras_and_isos_are_named():
    with pytest.raises(OptionError, match="'leica'; choose one of sony"):
        noise_parameters("leica", 100)
    with pytest.raises(OptionError, match="ISO must be positive"):
        noise_parameters("sony", 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gain": 0.0}, "gain"),
        ({"read_shape": 0.7}, "read_shape"),
        ({"row_sigma": -1.0}, "row_sigma"),
        ({"colour_bias": (math.nan, 0.0, 0.0, 0.0)}, "colour_bias"),
    ],
)
def test_invalid_parameters_are_rejected_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        parameters(**wrong)
