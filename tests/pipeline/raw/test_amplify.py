"""The estimate is the paper's formula, finite for every frame; ratios are the data sets'."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from darkprep.pipeline.raw.amplify import estimate_amplification, exposure_ratio
from darkprep.pipeline.raw.mosaic import pack
from darkprep.shards.format import U16


def plain_estimate(codes: U16, black: float, white: float, m: float) -> float:
    """The formula pixel by pixel: 127 bins, dark ones weigh most."""
    x = np.maximum(codes.astype(np.float32) - np.float32(black), 0) / np.float32(white - black)
    edges = [np.float32((2 ** (8 * k / 127) - 1) / 255) for k in range(128)]
    weight = np.zeros(x.shape)
    for k in range(127):
        weight[(x >= edges[k]) & (x < edges[k + 1])] = 10 ** (-5 * k / 126)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = 0.01 * m * weight.sum() / (x.astype(np.float64) * weight).sum()
    return float(min(max(factor, 1.0), 300.0))


def dark_frame(seed: int = 0, shape: tuple[int, int] = (120, 160), mean: float = 30.0) -> U16:
    rng = np.random.default_rng(seed)
    light = rng.gamma(2.0, mean / 2, shape)
    codes = np.rint(512 + light + rng.normal(0, 3, shape)).clip(0, 16383)
    return np.asarray(codes, np.uint16)


@pytest.mark.parametrize("m", [0.1, 1.0, 5.0, 8.0])
@pytest.mark.parametrize("mean", [2.0, 30.0, 800.0, 9000.0])
def test_the_estimate_is_the_papers_formula(mean, m):
    frame = dark_frame(mean=mean)

    expected = plain_estimate(frame, 512, 16383, m)

    assert estimate_amplification(frame, 512, 16383, m) == pytest.approx(expected, rel=1e-6)


@given(hnp.arrays(np.uint16, (4, 6), elements=st.integers(0, 16500)), st.floats(0.1, 9))
def test_any_frame_gets_a_finite_estimate_in_range(frame, m):
    estimate = estimate_amplification(frame, 512, 16383, m)

    assert 1 <= estimate <= 300
    if (frame < 16383).any() and (frame > 512).any():
        assert estimate == pytest.approx(plain_estimate(frame, 512, 16383, m), rel=1e-6)


def test_an_all_black_frame_gets_the_most():
    assert estimate_amplification(np.full((4, 4), 512, np.uint16), 512, 16383) == 300


def test_an_all_white_frame_gets_the_least():
    assert estimate_amplification(np.full((4, 4), 16383, np.uint16), 512, 16383) == 1


def test_an_empty_frame_gets_the_least():
    assert estimate_amplification(np.empty((0, 4), np.uint16), 512, 16383) == 1


def test_black_and_white_pixels_alone_get_the_most():
    frame = np.array([[512, 16383]], np.uint16)

    assert estimate_amplification(frame, 512, 16383) == 300


def test_equal_blacks_and_packing_change_nothing():
    frame = dark_frame()
    planes = pack(frame, "bayer")

    one = estimate_amplification(frame, 512, 16383)

    assert estimate_amplification(frame, np.full((2, 2), 512.0), 16383) == one
    assert estimate_amplification(planes, 512.0, 16383) == one
    assert estimate_amplification(planes, (512.0,) * 4, 16383) == one


def test_each_plane_has_its_own_black():
    frame = dark_frame()
    black = np.array([[500.0, 512.0], [514.0, 530.0]])
    shifted = frame + np.tile(black - 512, (60, 80)).astype(np.int64).astype(np.uint16)

    site = estimate_amplification(shifted, black, 16383)
    plane = estimate_amplification(pack(shifted, "bayer"), tuple(black.ravel()), 16383)

    assert site == plane
    assert site == pytest.approx(estimate_amplification(frame, 512, 16383), rel=0.01)


def test_xtrans_sites_have_their_own_black():
    frame = dark_frame(shape=(60, 66))
    black = np.full((6, 6), 512.0)
    black[1, 2] = 400.0

    grown = frame.copy()
    grown[1::6, 2::6] -= 112

    assert estimate_amplification(grown, black, 16383) == pytest.approx(
        estimate_amplification(frame, 512, 16383), rel=0.01
    )


def test_a_view_counts_as_its_copy():
    frame = dark_frame()

    view = frame[1:-1, 3:-5]

    assert estimate_amplification(view, 512, 16383) == estimate_amplification(
        view.copy(), 512, 16383
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mosaic": np.zeros((2, 2), np.float32)}, "uint16"),
        ({"black": (1.0, 2.0, 3.0)}, "does not fit"),
        ({"black": (np.nan, 2.0)}, "does not fit"),
        ({"white": 512}, "must be above black"),
        ({"m": 0.0}, "m must be"),
        ({"m": math.nan}, "m must be"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    arguments = {"mosaic": np.zeros((2, 2), np.uint16), "black": 512.0, "white": 16383, "m": 1.0}
    with pytest.raises(ValueError, match=message):
        estimate_amplification(**{**arguments, **change})


@pytest.mark.parametrize(
    ("long_s", "short_s", "ratio"),
    [(10, 0.1, 100), (10, 0.04, 250), (10, 0.033, 300), (30, 0.1, 300)],
)
def test_sid_ratios_are_the_published_ones(long_s, short_s, ratio):
    assert exposure_ratio(long_s=long_s, short_s=short_s, maximum=300) == ratio


def test_eld_ratios_count_iso_and_have_no_cap():
    assert (
        exposure_ratio(long_s=30, short_s=30 * 100 / 3200 / 400, long_iso=100, short_iso=3200)
        == 400
    )


def test_a_third_of_a_second_over_a_thirtieth_is_ten():
    assert exposure_ratio(long_s=1 / 3, short_s=1 / 30) == 10


@pytest.mark.parametrize("times", [(0.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, math.nan)])
def test_unknown_times_have_no_ratio(times):
    with pytest.raises(ValueError, match="positive"):
        exposure_ratio(short_s=times[0], long_s=times[1])
