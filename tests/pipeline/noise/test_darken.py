"""Short exposures made from long ones follow the noise model, crop by crop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xxhash

from darkprep.pipeline.noise.calibrations import CALIBRATIONS, PUBLISHED_ISOS, calibration_of
from darkprep.pipeline.noise.darken import RATIOS, Darkened, darken, noise_rng
from darkprep.pipeline.noise.model import noise_parameters
from darkprep.pipeline.noise.sampled_darks import DarkFile, SampledDarks, darken_with_frame
from darkprep.pipeline.noise.tukey_lambda import standard_deviation
from darkprep.pipeline.raw.mosaic import unpack
from darkprep.shards.cfa import PLANE_COLOURS
from darkprep.shards.format import CELL, PERIOD, PLANES, U16, CfaKind
from darkprep.synth.sensors import sensor_of

LEVELS: dict[CfaKind, tuple[tuple[float, ...], int]] = {
    "bayer": ((510.0, 512.0, 512.0, 514.0), 16383),
    "xtrans": ((1024.0,) * 9, 16383),
}


def long_crop(share: float, cfa: CfaKind = "bayer", side: int = 240) -> U16:
    """A flat crop of a long exposure, in codes."""
    black, white = LEVELS[cfa]
    level = np.array(black)[:, None, None]
    shape = (PLANES[cfa], side // CELL[cfa], side // CELL[cfa])
    return np.rint(np.broadcast_to(level + share * (white - level), shape)).astype(np.uint16)


def dark_crop(
    share: float,
    slot: int = 0,
    cfa: CfaKind = "bayer",
    camera: str = "sony",
    side: int = 240,
    seed: int = 7,
    shard: int = 3,
) -> Darkened:
    black, white = LEVELS[cfa]
    return darken(
        long_crop(share, cfa, side),
        black=black,
        white=white,
        cfa=cfa,
        noise=calibration_of(camera),
        rng=noise_rng(seed, shard, slot),
        convert_levels=False,
    )


def test_ratio_and_iso_are_drawn_over_their_whole_ranges():
    made = [dark_crop(0.2, slot, side=12) for slot in range(300)]

    ratios, isos = [one.ratio for one in made], [math.log(one.iso) for one in made]
    low, high = map(math.log, PUBLISHED_ISOS)
    assert RATIOS[0] <= min(ratios) < 105 and 295 < max(ratios) <= RATIOS[1]
    assert np.mean(ratios) == pytest.approx(200, abs=12)
    assert low <= min(isos) < low + 0.1 and high - 0.1 < max(isos) <= high
    assert np.mean(isos) == pytest.approx((low + high) / 2, abs=0.2)


@pytest.mark.parametrize("cfa", ["bayer", "xtrans"])
def test_the_mean_is_the_long_exposures_light_over_the_ratio(cfa):
    camera = "canon5d4"  # it has no colour bias
    black, white = LEVELS[cfa]
    for slot in range(6):
        made = dark_crop(0.5, slot, cfa, camera)

        assert made.planes.dtype == np.uint16
        for level, plane in zip(black, made.planes, strict=True):
            light = 0.5 * (white - level) / made.ratio
            parameters = noise_parameters(camera, made.iso)
            pixels = math.sqrt(parameters.gain * light) + 3 * parameters.read_scale
            deviation = math.hypot(
                2 * parameters.row_sigma / math.sqrt(len(plane)), pixels / math.sqrt(plane.size)
            )
            assert abs(plane.mean() - level - light) < 4 * deviation + 0.05


@pytest.mark.parametrize("camera", sorted(CALIBRATIONS))
def test_the_variance_grows_with_the_signal_by_the_cameras_gain(camera):
    """Of one draw of ratio, ISO and scales: only the light differs between the crops."""
    dark, bright = (dark_crop(share, slot=11, camera=camera, side=480) for share in (0.0, 1.0))
    black, white = LEVELS["bayer"]
    assert (dark.ratio, dark.iso) == (bright.ratio, bright.iso)

    def spread(made: Darkened) -> float:
        """Variance without what rows have in common."""
        planes = made.planes.astype(np.float64)
        return float(np.mean([np.var(p - p.mean(axis=1, keepdims=True)) for p in planes]))

    light = np.mean([(white - level) / bright.ratio for level in black])
    gain = noise_parameters(camera, dark.iso).gain
    assert (spread(bright) - spread(dark)) / light == pytest.approx(gain, rel=0.2)


def test_each_sample_is_reproducible_and_differs_from_all_others():
    first, again = dark_crop(0.2), dark_crop(0.2)
    others = [dark_crop(0.2, slot=1), dark_crop(0.2, seed=8), dark_crop(0.2, shard=4)]

    np.testing.assert_array_equal(first.planes, again.planes)
    assert (first.ratio, first.iso) == (again.ratio, again.iso)
    assert all(not np.array_equal(first.planes, other.planes) for other in others)


def test_noise_below_black_is_kept_and_codes_stay_in_range():
    planes = np.concatenate([dark_crop(0.0, slot).planes for slot in range(4)], axis=1)
    black, white = LEVELS["bayer"]

    below = np.mean([np.mean(p < level) for p, level in zip(planes, black, strict=True)])
    assert 0.2 < below < 0.8
    bright = darken(
        np.full((4, 12, 12), white, np.uint16),
        black=(0.0,) * 4,
        white=white,
        cfa="bayer",
        noise=calibration_of("sony"),
        rng=noise_rng(0, 0, 0),
        convert_levels=False,
    )
    assert bright.planes.max() <= white


@pytest.mark.parametrize("camera", ["sony", "canon70d", "nikond850"])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_shares_of_full_scale_get_the_noise_that_the_cameras_own_codes_get(camera, share):
    sensor = sensor_of(camera)
    own, shares = (
        darken(
            np.full((4, 120, 120), round(black + share * (white - black)), np.uint16),
            black=(float(black),) * 4,
            white=white,
            cfa="bayer",
            noise=calibration_of(camera),
            rng=noise_rng(7, 3, 2),
            convert_levels=convert,
        )
        for black, white, convert in (
            (sensor.black, sensor.white, False),
            (0, 65535, True),
        )
    )

    assert (shares.black, shares.white) == (own.black, own.white)
    assert (shares.ratio, shares.iso) == (own.ratio, own.iso)
    assert shares.planes.mean() == pytest.approx(own.planes.mean(), abs=0.3)
    assert shares.planes.std() == pytest.approx(own.planes.std(), rel=0.03)
    assert share or shares.planes.min() < sensor.black


@pytest.mark.parametrize("cfa", ["bayer", "xtrans"])
def test_rows_of_the_sensor_share_their_offset_whatever_their_planes(cfa):
    """Row noise is of the mosaic's rows: what even and odd columns of a row have in common."""
    made = dark_crop(0.0, slot=5, cfa=cfa, camera="canon70d", side=720)
    mosaic = unpack(made.planes, cfa).astype(np.float64)
    parameters = noise_parameters("canon70d", made.iso)
    period = PERIOD[cfa]

    even, odd = (mosaic[:, half::2].mean(axis=1).reshape(-1, period) for half in range(2))
    common = np.mean((even - even.mean(axis=0)) * (odd - odd.mean(axis=0)))

    read = parameters.read_scale * standard_deviation(parameters.read_shape)
    chance = read**2 / 360 / math.sqrt(720)
    # The drawn scale lies within three of its published spreads, 0.25 in the logarithm, of the median.
    assert math.exp(-0.8) < math.sqrt(common) / parameters.row_sigma < math.exp(0.8)
    assert common > 5 * chance


def test_every_plane_is_lit_by_its_own_colour():
    black, white = LEVELS["xtrans"]
    letters = np.array(list(PLANE_COLOURS["xtrans"]))
    lit = np.where(letters == "R", white, int(black[0])).astype(np.uint16)
    planes = np.ascontiguousarray(np.broadcast_to(lit[:, None, None], (9, 40, 40)))

    made = darken(
        planes, black=black, white=white, cfa="xtrans", noise=calibration_of("sony"),
        rng=noise_rng(1, 1, 1), convert_levels=False,
    )  # fmt: skip

    means = made.planes.mean(axis=(1, 2)) - black[0]
    assert means[letters == "R"].min() > 40
    assert means[letters != "R"].max() < 20


@pytest.mark.parametrize(
    ("black", "white"), [(256, 4095), (0, 4095), (64, 1023), (0, 1023)], ids=str
)
def test_a_file_of_another_bit_depth_gets_the_noise_of_the_cameras_own_files(black, white):
    """Before edition 2, a black level of 0 cut off half of the noise, and 12-bit light was lost in it."""
    own, other = (
        darken(
            np.full((4, 120, 120), round(low + 0.3 * (high - low)), np.uint16),
            black=(float(low),) * 4,
            white=high,
            cfa="bayer",
            noise=calibration_of("nikond850"),
            rng=noise_rng(7, 3, 2),
        )
        for low, high in ((400, 15520), (black, white))
    )

    assert (other.black, other.white) == (own.black, own.white) == ((400.0,) * 4, 15520)
    assert other.planes.mean() == pytest.approx(own.planes.mean(), abs=0.3)
    assert other.planes.std() == pytest.approx(own.planes.std(), rel=0.03)


@pytest.mark.parametrize(
    ("camera", "digest"),
    [
        ("sony", "7351527a251d4efc"),
        ("nikond850", "426388da035af72a"),
        ("canon70d", "bee8f30e81a01512"),
    ],
)
def test_the_first_edition_makes_the_bytes_that_it_always_made(camera, digest):
    made = darken(
        np.full((4, 60, 60), 3000, np.uint16),
        black=(512.0,) * 4,
        white=16383,
        cfa="bayer",
        noise=calibration_of(camera, edition=1),
        rng=noise_rng(7, 3, 2),
        convert_levels=False,
    )

    assert xxhash.xxh3_64_hexdigest(made.planes.tobytes()) == digest


def test_without_light_a_sampled_exposure_is_its_dark_frame():
    rng = np.random.default_rng(0)
    dark = rng.normal(1024, 30, (4, 24, 24)).round().astype(np.uint16)
    file = DarkFile(path="a.dng", fingerprint="", iso=800.0, gain=None)

    made = darken_with_frame(
        np.full((4, 24, 24), 512, np.uint16),
        dark,
        file,
        levels=((512.0,) * 4, 16383),
        dark_levels=((1024.0,) * 4, 16383),
        rng=noise_rng(1, 2, 3),
    )

    assert np.array_equal(made.planes, dark)
    assert (made.black, made.white, made.iso) == ((1024.0,) * 4, 16383, 800.0)


@pytest.mark.parametrize(("gain", "low", "high"), [(0.75, 0.73, 0.77), (None, 0.7, 3.7)])
def test_the_shot_noise_of_a_sampled_exposure_is_that_of_its_gain(gain, low, high):
    """Without a calibration K lies between those of known cameras."""
    flat = np.full((4, 200, 200), 1024, np.uint16)
    found = []
    for slot in range(12):
        made = darken_with_frame(
            np.full((4, 200, 200), 12000, np.uint16),
            flat,
            DarkFile(path="a.dng", fingerprint="", iso=800.0, gain=gain),
            levels=((512.0,) * 4, 16383),
            dark_levels=((1024.0,) * 4, 16383),
            rng=noise_rng(1, 2, slot),
        )
        light = (12000 - 512) * (16383 - 1024) / (16383 - 512) / made.ratio
        assert made.planes.mean() - 1024 == pytest.approx(light, rel=0.01)
        found.append((made.planes.var() - 1 / 12) / light)

    assert low < min(found) <= max(found) < high
    assert gain or max(found) > 1.5 * min(found)


def test_every_iso_is_drawn_equally_often():
    files = [DarkFile(path=f"{k}.dng", fingerprint="", iso=800.0, gain=None) for k in range(9)]
    files.append(DarkFile(path="x.dng", fingerprint="", iso=1600.0, gain=None))
    darks = SampledDarks(files=tuple(files), cfa="bayer", height=24, width=24)

    drawn = [darks.of_visit(3, visit).path for visit in range(400)]

    assert drawn.count("x.dng") == pytest.approx(200, abs=50)
    assert len(set(drawn)) == 10


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"files": ()}, "files must not be empty"),
        ({"cfa": "foveon"}, "cfa must be one of bayer, xtrans"),
        ({"height": 0}, "height and width must be positive"),
    ],
)
def test_dark_frames_that_cannot_be_sampled_are_refused(wrong, message):
    file = DarkFile(path="a.dng", fingerprint="", iso=800.0, gain=None)
    with pytest.raises(ValueError, match=message):
        SampledDarks(**{"files": (file,), "cfa": "bayer", "height": 24, "width": 24, **wrong})


@pytest.mark.parametrize("path", ["../a.dng", "/a.dng", "x/../../a.dng"])
def test_a_dark_frame_lies_below_its_directory(path):
    with pytest.raises(ValueError, match="must lie below the directory"):
        DarkFile(path=path, fingerprint="", iso=800.0, gain=None)
