"""A calibration finds the parameters of frames whose noise is known, within what their number allows."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkprep.pipeline.noise.calibrate import CalibrationResult, calibrate
from darkprep.pipeline.noise.calibration_frames import check_same_camera
from darkprep.pipeline.noise.calibration_warnings import warnings_of
from darkprep.pipeline.noise.camera_calibration import (
    read_calibration,
    read_shading,
    write_calibration,
)
from darkprep.pipeline.noise.model import noise_parameters, tukey_lambda
from darkprep.pipeline.noise.parameters import NoiseParameters
from darkprep.pipeline.noise.tukey_lambda import SUBDIVISIONS, fit, standard_deviation
from darkprep.pipeline.raw.dng import DngTags, write_dng
from darkprep.pipeline.raw.reader import read_header
from darkprep.shards.errors import DatasetError, OptionError, RawError
from darkprep.synth.calibration_frames import FrameSettings, write_calibration_frames
from darkprep.synth.sensors import SENSORS, sensor_of

SMALL = FrameSettings(size=(264, 384), darks=6, levels=(0.03, 0.1, 0.3, 0.6))
ISOS = (1600, 3200)


def calibrated(root: Path, **options: Any) -> CalibrationResult:
    flats = sorted((root / "flats").glob("*.dng"))
    return calibrate(sorted((root / "darks").glob("*.dng")), flats, **options)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark frames and flat fields of the Sony at two ISO values in two gain modes."""
    root = tmp_path_factory.mktemp("frames")
    write_calibration_frames(root, sensor_of("sony"), ISOS, settings=SMALL)
    return root


@pytest.fixture(scope="module")
def result(frames: Path) -> CalibrationResult:
    return calibrated(frames, maps_beside=frames / "camera.json")


def check(result: CalibrationResult, truth: dict[int, NoiseParameters], *, frames: int) -> None:
    """Compare with the truth: five standard errors of the estimators, for `frames` small dark frames."""
    height, width = SMALL.size
    for one in result.calibration.isos:
        known = truth[int(one.iso)]
        assert one.gain is not None
        assert one.gain.value == pytest.approx(known.gain, abs=5 * one.gain.error + 1e-3)
        assert one.gain.error < 0.006 * known.gain
        assert one.read.shape == pytest.approx(known.read_shape, abs=0.01)
        assert one.read.scale == pytest.approx(known.read_scale, rel=0.015)
        rows = 5 / math.sqrt(2 * height * (frames - 1))
        assert one.row_sigma == pytest.approx(known.row_sigma, rel=rows + 0.02)
        own = known.read_scale * standard_deviation(known.read_shape)
        assert one.read.std == pytest.approx(own, rel=0.02)
        error = math.hypot(
            known.row_sigma / math.sqrt(height / 2 * frames),
            own / math.sqrt(height * width / 4 * frames),
        )
        red, green, blue, green_of_blue = known.colour_bias
        if result.calibration.cfa == "xtrans":  # its greens have one bias
            green_of_blue = green
        assert one.colour_bias == pytest.approx((red, green, blue, green_of_blue), abs=5 * error)


def test_every_parameter_is_found_within_its_error(result):
    check(result, {iso: noise_parameters("sony", iso) for iso in ISOS}, frames=6)
    assert result.calibration.camera == "SONY ILCE-7SM2"
    assert (result.calibration.black, result.calibration.white) == (512, 16383)


@pytest.mark.parametrize(
    ("camera", "changes"),
    [("fuji", {}), ("nikond850", {"bits_lost": 2})],
    ids=["X-Trans", "12 bits"],
)
def test_so_are_those_of_other_arrays_and_bit_depths(tmp_path, camera, changes):
    settings = replace(SMALL, **changes)
    truth = write_calibration_frames(tmp_path, sensor_of(camera), (3200,), settings=settings)

    check(calibrated(tmp_path), truth, frames=6)


def test_a_fixed_pattern_and_hot_pixels_are_told_apart_from_noise(tmp_path):
    rng = np.random.default_rng(0)
    pattern = rng.normal(0, 0.8, SMALL.size) + rng.normal(0, 0.5, (1, SMALL.size[1]))
    pattern[rng.random(SMALL.size) < 3e-4] += 300
    settings = replace(
        SMALL,
        fixed_pattern=pattern.astype(np.float32),
        response=rng.normal(1, 0.01, SMALL.size).astype(np.float32),
    )
    truth = write_calibration_frames(tmp_path, sensor_of("sony"), (1600,), settings=settings)[1600]

    found = calibrated(tmp_path)
    (one,) = found.calibration.isos

    assert one.gain is not None
    assert one.gain.value == pytest.approx(truth.gain, rel=0.02), "unequal pixels cancel in pairs"
    assert one.read.shape == pytest.approx(truth.read_shape, abs=0.03)
    assert one.read.scale == pytest.approx(truth.read_scale, rel=0.03)
    assert one.fixed_pixel_sigma == pytest.approx(0.8, rel=0.15)
    assert one.fixed_column_sigma == pytest.approx(0.5, rel=0.25)
    assert found.evidence[0].darks.hot_pixels == pytest.approx(30, abs=15)


def test_the_gain_modes_and_the_black_level_are_reported(result):
    modes = [(mode.lowest, mode.highest) for mode in result.calibration.modes]
    text = "\n".join(result.calibration.warnings)

    assert modes == [(1600, 1600), (3200, 3200)]
    assert "ISO 1600 to 3200: the gain mode changes, read noise falls from 6.3" in text
    assert "ISO 1600: the black level is off: dark frames are 2." in text
    assert "ISO 1600, 3200: only 6 dark frames; 16 or more are advised" in text


def test_what_a_camera_does_with_its_raw_values_is_reported(result):
    """Steps, scaled colours, bands, extended ISO values, and an ISO that gains nothing."""
    low, high = result.calibration.isos
    darks = {one.iso: one.darks for one in result.evidence}
    transfers = {one.iso: one.transfer for one in result.evidence}

    def reported(**changes: Any) -> str:
        mode = replace(result.calibration.modes[0], lowest=low.iso, highest=high.iso)
        calibration = replace(
            result.calibration, isos=(low, replace(high, **changes)), modes=(mode,)
        )
        return "\n".join(warnings_of(calibration, darks, transfers))

    assert "the gain mode changes" not in reported()
    assert "ISO 3200: raw values come in steps of 4: fewer bits" in reported(step=4)
    odd = replace(high.read, r2_tukey=0.9, r2_normal=0.8)
    assert "ISO 3200: the read noise is neither normal nor" in reported(read=odd)
    extended = replace(high.gain, value=low.gain.value)
    assert "K is -50% off the proportion of the other ISO values" not in reported()
    assert "the proportion of the other ISO values; is it an ext" in reported(gain=extended)
    same = replace(high.read, std=low.read.std * high.gain.value / low.gain.value)
    assert "electrons, so the higher ISO gains nothing" in reported(read=same)
    darks[3200] = replace(darks[3200], row_correlation=0.4)
    assert "ISO 3200: neighbouring rows are alike (correlation 0.40)" in reported(row_sigma=9.0)
    transfers[3200] = replace(transfers[3200], clipped=0.2, curvature=9.0, channels=(1.0, 1.1, 1.0))
    assert "20% of the flat fields' area is saturated" in reported()
    assert "the variance of the flat fields is no straight line" in reported()
    assert "K differs by 10.0% between colours: the camera scales them digitally" in reported()


def test_noise_from_the_file_is_that_of_the_frames(result, frames):
    path = frames / "camera.json"
    write_calibration(path, result.calibration)

    table = read_calibration(path).noise_table(str(path))

    for one in result.calibration.isos:
        found = table.parameters(one.iso)
        assert (found.read_shape, found.row_sigma) == (one.read.shape, one.row_sigma)
        assert found.colour_bias == one.colour_bias
    assert table.parameters(2200).read_scale == table.parameters(1600).read_scale
    assert table.drawn_isos == (1600, 3200)


def test_dark_shading_is_a_map_of_the_sensor(tmp_path):
    pattern = np.linspace(-2, 2, SMALL.size[1], dtype=np.float32) + np.zeros(SMALL.size, np.float32)
    settings = replace(SMALL, fixed_pattern=pattern, levels=())
    write_calibration_frames(tmp_path, sensor_of("sony"), (800, 1600), settings=settings)
    path = tmp_path / "camera.json"

    made = calibrated(tmp_path, maps_beside=path).calibration
    write_calibration(path, made)

    for iso in (800, 1131, 1600, 6400):
        found = read_shading(path, made, iso)
        assert found is not None
        assert found.shape == SMALL.size
        assert np.abs(found - pattern).mean() < 0.35
    offset = next(tmp_path.glob("*offset.npy"))
    np.save(offset, np.zeros(SMALL.size, np.float32))
    with pytest.raises(OptionError, match=r"offset.npy: is damaged \(its checksum differs\)"):
        read_shading(path, made, 800)


def test_without_flats_all_but_the_gain_is_measured(frames):
    found = calibrate(sorted((frames / "darks").glob("*1600*"))).calibration

    assert found.isos[0].gain is None
    assert found.isos[0].read.scale == pytest.approx(
        noise_parameters("sony", 1600).read_scale, rel=0.02
    )
    with pytest.raises(
        OptionError, match=r"a.json: has no gain K at ISO 1600; calibrate with --flats"
    ):
        found.noise_table("a.json")


def test_an_iso_without_flats_gets_its_gain_from_the_others(frames):
    darks = sorted((frames / "darks").glob("*.dng"))
    found = calibrate(darks, sorted((frames / "flats").glob("*1600*"))).calibration

    low, high = (one.gain for one in found.isos)
    assert low is not None
    assert high is not None
    assert high.value == pytest.approx(2 * low.value)
    assert (low.pairs, high.pairs) == (4, 0)


def test_a_camera_that_cuts_off_noise_below_black_is_noticed(tmp_path):
    settings = replace(SMALL, black=0)
    truth = write_calibration_frames(tmp_path, sensor_of("nikond850"), (3200,), settings=settings)
    found = calibrated(tmp_path).calibration
    (one,) = found.isos

    assert one.is_clipped
    assert one.read.scale == pytest.approx(truth[3200].read_scale, rel=0.05)
    with pytest.raises(OptionError, match="cuts off noise below black at ISO 3200"):
        found.noise_table("a.json")


def test_turned_files_are_noticed(tmp_path):
    settings = replace(SMALL, is_rotated=True, levels=())
    truth = write_calibration_frames(tmp_path, sensor_of("canon70d"), (1600,), settings=settings)
    found = calibrated(tmp_path).calibration

    assert found.isos[0].column_sigma == pytest.approx(truth[1600].row_sigma, rel=0.1)
    assert any("along columns instead of rows" in text for text in found.warnings)


# -- wrong frames -------------------------------------------------------------------------------------


def dng(path: Path, codes: np.ndarray | None = None, **tags: Any) -> Path:
    if codes is None:
        codes = np.random.default_rng(len(path.name)).normal(512, 4, (128, 128))
    write_dng(path, np.asarray(codes, np.uint16), DngTags(**{"iso": 800, **tags}))
    return path


def test_frames_that_do_not_belong_together_are_named(tmp_path):
    first, second = dng(tmp_path / "a.dng"), dng(tmp_path / "bb.dng")

    with pytest.raises(DatasetError, match=r"a.dng: is the only dark frame at ISO 800; at least 2"):
        calibrate([first])
    other = dng(tmp_path / "c.dng", model="Other")
    with pytest.raises(
        DatasetError, match=r"c.dng: is of camera darkprep Other, but .*a.dng of darkprep Synth"
    ):
        calibrate([first, second, other])
    small = dng(tmp_path / "d.dng", np.random.default_rng(0).normal(512, 4, (64, 128)))
    with pytest.raises(DatasetError, match=r"d.dng: is 64x128 .*, but .*a.dng is 128x128"):
        calibrate([first, second, small])
    flat = dng(tmp_path / "e.dng", iso=100)
    with pytest.raises(
        DatasetError, match=r"e.dng: is a flat field at ISO 100, but there are no dark"
    ):
        calibrate([first, second], [flat, flat])
    with pytest.raises(DatasetError, match="no dark frames"):
        calibrate([])
    unknown = replace(read_header(second), iso=0.0)
    with pytest.raises(DatasetError, match=r"bb.dng: states no ISO in its Exif data, by which fr"):
        check_same_camera([read_header(first), unknown])


def test_lit_darks_and_unusable_flats_are_named(tmp_path):
    rng = np.random.default_rng(0)
    darks = [dng(tmp_path / f"{'d' * k}.dng") for k in (1, 2)]
    copies = [dng(tmp_path / "copy.dng"), dng(tmp_path / "same.dng")]
    with pytest.raises(
        DatasetError, match=r"copy.dng: the dark frames at ISO 800 are copies of one"
    ):
        calibrate(copies)
    lit = dng(tmp_path / "lit.dng", rng.normal(2000, 40, (128, 128)))
    with pytest.raises(
        DatasetError, match=r"lit.dng: is not a dark frame: its mean is 14\d\d raw units above"
    ):
        calibrate([*darks, lit])

    white = [
        dng(tmp_path / f"w{k}.dng", np.where(rng.random((128, 128)) < 0.1, 16382, 16383))
        for k in range(2)
    ]
    with pytest.raises(DatasetError, match=r"w0.dng: the flat fields at ISO 800 are saturated"):
        calibrate(darks, white)
    same = [
        dng(tmp_path / f"s{k}.dng", rng.normal(3000, 60, (256, 256))[:128, :128]) for k in range(2)
    ]
    with pytest.raises(
        DatasetError, match=r"ISO 800 have one brightness only, 24.. raw units above black"
    ):
        calibrate(darks, same)
    unlit = [dng(tmp_path / f"u{'u' * k}.dng") for k in range(2)]
    with pytest.raises(DatasetError, match="ISO 800 have one brightness only, 0 raw units above"):
        calibrate(darks, unlit)
    full = [dng(tmp_path / f"f{k}.dng", np.full((128, 128), 16383.0)) for k in range(2)]
    with pytest.raises(
        RawError, match=r"f0.dng: 100.0% of its pixels are saturated: the picture is"
    ):
        calibrate(darks, full)
    apart = [
        dng(tmp_path / f"p{k}.dng", rng.normal(2000 * (k + 1), 60, (128, 128))) for k in range(2)
    ]
    with pytest.raises(DatasetError, match="ISO 800 have no pair"):
        calibrate(darks, apart)
    falling = [
        dng(tmp_path / f"{name}{k}.dng", rng.normal(mean, sigma, (128, 128)))
        for name, mean, sigma in (("x", 2000, 200), ("y", 8000, 20))
        for k in range(2)
    ]
    with pytest.raises(DatasetError, match="ISO 800 have a variance that does not rise with the"):
        calibrate(darks, falling)


# -- the file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 9}, "has version 9"),
        ({"format": "x"}, "is not a calibration"),
        ({"white": 2**40}, "is damaged"),
        ({"black": "512"}, "black must be a number"),
        ({"black": 10**400}, "black must be from"),
        ({"isos": []}, "isos must be a list of 1 to 200 positive"),
        ({"surplus": 1}, "is damaged"),
    ],
)
def test_a_damaged_file_is_refused(result, tmp_path, change, message):
    path = tmp_path / "c.json"
    write_calibration(path, result.calibration)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(OptionError, match=message):
        read_calibration(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": NaN}', "[" * 100_000])
def test_what_is_no_calibration_is_refused(tmp_path, text):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(OptionError, match="is not a calibration"):
        read_calibration(path)


def test_names_of_maps_lead_to_no_other_directory(result, tmp_path):
    path = tmp_path / "c.json"
    write_calibration(path, result.calibration)
    record = json.loads(path.read_text())
    record["modes"][0]["shading"] = "../../secret"
    path.write_text(json.dumps(record))

    with pytest.raises(OptionError, match="shading must be a file name"):
        read_calibration(path)


# -- the distribution ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [-0.243, -0.086, 0.0, 0.14])
@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_whole_codes_give_shape_and_scale(shape, scale):
    """Also where the noise has only a few codes."""
    rng = np.random.default_rng(1)
    offsets = rng.normal(0, 0.4, 2000)
    noise = scale * tukey_lambda(shape, (2000, 256), rng) + offsets[:, None]
    codes = np.rint(noise).astype(np.int64) * SUBDIVISIONS
    bins = codes - np.floor(offsets * SUBDIVISIONS).astype(np.int64)[:, None] - 1
    histogram = np.bincount((bins + 4000 * SUBDIVISIONS).clip(0).ravel())

    found = fit(histogram, 4000 * SUBDIVISIONS)

    assert found.shape == pytest.approx(shape, abs=0.02)
    assert found.scale == pytest.approx(scale, rel=0.015)
    assert found.r2 > 0.999
    assert standard_deviation(shape) == pytest.approx(standard_deviation(shape), rel=1e-4)


def test_a_distribution_of_too_few_codes_is_refused_and_one_of_heavy_tails_has_no_deviation():
    with pytest.raises(ValueError, match="too few different raw values"):
        fit(np.array([0, 5, 5, 0]), 1)

    assert standard_deviation(-0.5) == math.inf
    assert standard_deviation(0.0) == pytest.approx(standard_deviation(1e-4), rel=1e-3)


# -- acceptance ---------------------------------------------------------------------------------------

CAMERAS = sorted(set(SENSORS) - {"sonya7s2"})


@pytest.mark.slow
@pytest.mark.parametrize("camera", CAMERAS)
def test_twenty_frames_an_iso_give_the_promised_accuracy(tmp_path, camera):
    isos = (800, 1600, 3200)
    settings = FrameSettings(size=(2064, 768))
    truth = write_calibration_frames(tmp_path, sensor_of(camera), isos, settings=settings)

    for one in calibrated(tmp_path).calibration.isos:
        known = truth[int(one.iso)]
        assert one.gain is not None
        assert one.gain.value == pytest.approx(known.gain, rel=0.02)
        assert one.read.scale == pytest.approx(known.read_scale, rel=0.03)
        assert one.read.shape == pytest.approx(known.read_shape, abs=0.03)
        assert one.row_sigma == pytest.approx(known.row_sigma, rel=0.05)
        expected = list(known.colour_bias)
        if camera == "fuji":  # its greens have one bias
            expected[3] = expected[1]
        assert one.colour_bias == pytest.approx(expected, abs=0.05)
