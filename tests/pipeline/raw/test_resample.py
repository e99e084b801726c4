"""An X-Trans mosaic becomes one that a Bayer network reads, and still shows the same scene."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.pairs.whole_frame import whole_frame
from darkprep.pipeline.raw.mosaic import canonical_origin
from darkprep.pipeline.raw.resample import (
    XTRANS_MODES,
    parse_xtrans_mode,
    sample_cfa,
    xtrans_to_rggb,
)
from darkprep.pipeline.raw.source import RawFile
from darkprep.shards.cfa import CANONICAL
from darkprep.shards.errors import OptionError
from tests.support.raw_scene import PHASES, mosaic_of, scene


def codes_of(colours: Any, pattern: tuple[str, ...]) -> Any:
    """What a sensor with `pattern` records of `(H, W, 3)` values."""
    height, width = colours.shape[:2]
    period = len(pattern)
    letters = np.array([["RGB".index(c) for c in row] for row in pattern])
    tiled = np.tile(letters, (-(-height // period), -(-width // period)))[:height, :width]
    return np.take_along_axis(colours, tiled[..., None], axis=2)[..., 0]


@given(
    levels=st.tuples(*[st.integers(0, 65535)] * 3),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_flat_colours_stay_exactly_what_they_are(levels, size):
    flat = np.broadcast_to(np.array(levels, np.uint16), (6 * size[0], 6 * size[1], 3))

    found = xtrans_to_rggb(codes_of(flat, CANONICAL["xtrans"]))

    np.testing.assert_array_equal(found, codes_of(flat, CANONICAL["bayer"]))


def test_gradients_of_each_colour_stay_in_place():
    y, x = np.mgrid[:36, :48].astype(np.float64)
    ramps = np.stack([2000 + 40 * y + 7 * x, 5000 - 20 * y + 31 * x, 3000 + 9 * y - 25 * x], axis=2)
    ramps = np.rint(ramps).astype(np.uint16)

    found = xtrans_to_rggb(codes_of(ramps, CANONICAL["xtrans"]))

    wanted = codes_of(ramps, CANONICAL["bayer"]).astype(np.int64)
    assert np.abs(found - wanted)[2:-2, 2:-2].max() <= 1


def test_pixels_that_have_their_colour_already_keep_their_code():
    mosaic = np.random.default_rng(0).integers(0, 65536, (24, 30), dtype=np.uint16)

    found = xtrans_to_rggb(mosaic)

    colours = np.indices((24, 30)).transpose(1, 2, 0)
    same = np.array(
        [
            [CANONICAL["xtrans"][y % 6][x % 6] == CANONICAL["bayer"][y % 2][x % 2] for y, x in row]
            for row in colours
        ]
    )
    assert same.mean() == pytest.approx(14 / 36)
    np.testing.assert_array_equal(found[same], mosaic[same])


def test_a_smooth_scene_is_resampled_to_what_a_bayer_sensor_would_see():
    seen = mosaic_of(PHASES["XTRANS"], top=0, left=0, height=120, width=180)
    wanted = mosaic_of(PHASES["RGGB"], top=0, left=0, height=120, width=180)

    error = (xtrans_to_rggb(seen).astype(np.float64) - wanted) / 15871

    assert -10 * np.log10(np.mean(np.square(error[6:-6, 6:-6]))) > 60


def test_a_mosaic_of_broken_periods_is_refused():
    with pytest.raises(ValueError, match="whole periods"):
        xtrans_to_rggb(np.zeros((6, 8), np.uint16))


def test_an_unknown_form_is_refused_with_the_names_of_all():
    assert [parse_xtrans_mode(name) for name in XTRANS_MODES] == list(XTRANS_MODES)
    with pytest.raises(OptionError, match="one of native, plain, rggb, not 'bayer'"):
        parse_xtrans_mode("bayer")


@pytest.mark.parametrize("xtrans", XTRANS_MODES)
def test_a_bayer_camera_is_the_same_in_every_mode(write_raw, xtrans):
    path = write_raw(phase="GRBG", size=(61, 81))

    found = RawFile(path).decode(xtrans=xtrans)

    assert found.cfa == sample_cfa("bayer", xtrans) == "bayer"
    np.testing.assert_array_equal(found.planes, RawFile(path).decode().planes)


@pytest.mark.parametrize("shift", [(0, 0), (2, 3), (5, 1)])
def test_every_xtrans_phase_is_fed_alike(write_raw, shift):
    dy, dx = shift
    array = PHASES["XTRANS"]
    pattern = tuple(row[dx:] + row[:dx] for row in array[dy:] + array[:dy])
    oy, ox = canonical_origin(pattern)
    path = write_raw(cfa=pattern, start=(-oy, -ox), size=(66, 72))

    rggb, plain = (RawFile(path).decode(xtrans=xtrans) for xtrans in ("rggb", "plain"))

    seen = mosaic_of(array, top=0, left=0, height=60, width=66)
    assert (rggb.cfa, plain.cfa) == ("bayer", "bayer")
    assert rggb.planes.shape == plain.planes.shape
    for plane, (y, x) in enumerate(np.ndindex(2, 2)):
        np.testing.assert_array_equal(plain.planes[plane, :30, :33], seen[y::2, x::2])
        world = scene(0, 0, 60, 66)[y::2, x::2, (0, 1, 1, 2)[plane]]
        light = (rggb.planes[plane, :30, :33] - 512.0) / 15871
        assert np.abs(light - world)[3:-3, 3:-3].max() < 0.004


def test_black_levels_follow_the_colours(write_raw):
    black = tuple(
        {"R": 1010.0, "G": 1024.0, "B": 1030.0}[letter]
        for row in PHASES["XTRANS"]
        for letter in row
    )
    path = write_raw(phase="XTRANS", size=(66, 72), black=black)
    native = RawFile(path).decode()

    rggb, plain = (RawFile(path).decode(xtrans=xtrans) for xtrans in ("rggb", "plain"))

    red, green, blue = (native.black[plane] for plane in (0, 1, 2))
    assert rggb.black == (red, green, green, blue)
    sites = [
        np.mean(
            [
                {"R": red, "G": green, "B": blue}[PHASES["XTRANS"][r][c]]
                for r in range(y, 6, 2)
                for c in range(x, 6, 2)
            ]
        )
        for y, x in np.ndindex(2, 2)
    ]
    assert plain.black == pytest.approx(sites)


def test_a_pair_in_another_form_still_fits_its_truth(tmp_path, write_raw):
    for name, gain in (("short", 0.01), ("long", 1.0)):
        write_raw(f"{name}.dng", phase="XTRANS", size=(516, 522), gain=gain)
    pair = Pair(
        id="a", scene="a", camera="fuji", split="test", short="short.dng", long="long.dng",
        ratio=100.0, iso=200,
    )  # fmt: skip

    sample = whole_frame(tmp_path, pair, xtrans="rggb")

    assert sample.meta.cfa == "bayer"
    assert sample.low.shape == (4, 258, 261)
    assert sample.gt.shape == (3, 516, 522)
