"""The protocol of ELD: packed RAW relative to its full scale, on the part of a frame that its authors score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from darkprep.jobs.protocols import packed_raw
from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.pairs.whole_frame import whole_frame
from darkprep.pipeline.raw.colour import colours_of, undevelop
from darkprep.pipeline.raw.dng import DngTags, write_dng
from darkprep.pipeline.raw.mosaic import pack
from darkprep.pipeline.raw.reader import read_raw
from darkprep.pipeline.raw.resample import XTRANS_MODES, XtransMode
from darkprep.synth.dataset import synthesise
from darkprep.trainer.metrics import PROTOCOLS, score

pytestmark = pytest.mark.usefixtures("quick_networks")


def photographed(root: Path, *, black: int = 512, white: int = 16383) -> Pair:
    """A smooth coloured frame, and one with a hundredth of its brightness."""
    y, x = np.mgrid[:80, :120]
    light = 0.4 + 0.2 * np.sin(y / 9) + 0.15 * np.cos(x / 7)
    light[::2, ::2] *= 0.6
    light[1::2, 1::2] *= 0.5
    for name, share, seconds in (("long", 1.0, 10.0), ("short", 0.01, 0.1)):
        codes = np.rint(black + light * share * (white - black)).astype(np.uint16)
        tags = DngTags(exposure_s=seconds, iso=400, black=(float(black),), white=white)
        write_dng(root / f"{name}.dng", codes, tags)
    return Pair(
        id="10003_00_0.1s",
        scene="10003",
        camera="sony",
        split="test",
        short="short.dng",
        long="long.dng",
        ratio=100.0,
        iso=400,
    )


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return photographed(tmp_path)


def test_the_ground_truth_is_converted_back_to_its_raw_at_any_brightness(tmp_path, pair):
    sample = whole_frame(tmp_path, pair)
    compared = packed_raw(tmp_path, {pair.id: pair}, centre=None)

    ours, theirs = compared(sample, sample.gt)

    assert ours.shape == theirs.shape == (4, 40, 60)
    assert score(ours, theirs, PROTOCOLS["eld"]).psnr > 55
    darker = score(ours * np.float32(0.7), theirs, PROTOCOLS["eld"])
    assert darker.psnr > 55
    assert score(ours[:, :, 1:], theirs[:, :, :-1], PROTOCOLS["eld"]).psnr < 40


def test_only_the_middle_of_sids_frames_is_scored(tmp_path, pair):
    sample = whole_frame(tmp_path, pair)
    whole = packed_raw(tmp_path, {pair.id: pair}, centre=None)(sample, sample.gt)
    middle = packed_raw(tmp_path, {pair.id: pair}, centre=32)(sample, sample.gt)

    for part, all_of_it in zip(middle, whole, strict=True):
        np.testing.assert_array_equal(part, all_of_it[:, 4:36, 14:46])
    large = packed_raw(tmp_path, {pair.id: pair}, centre=512)(sample, sample.gt)
    np.testing.assert_array_equal(large[1], whole[1])


@pytest.fixture(scope="module")
def fuji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small X-Trans scene."""
    root = tmp_path_factory.mktemp("fuji")
    synthesise(root, "fuji", scenes=1, shorts=1, size=(516, 516), seed=1)
    return root


@pytest.mark.parametrize("xtrans", XTRANS_MODES)
def test_x_trans_is_scored_in_its_own_planes_in_every_mode(fuji, xtrans: XtransMode):
    one = find_pairs(fuji, camera_named("fuji")).pairs[0]
    sample = whole_frame(fuji, one, xtrans=xtrans)

    ours, theirs = packed_raw(fuji, {one.id: one}, centre=None)(sample, sample.gt)

    assert ours.shape == theirs.shape == (9, 172, 172)
    assert score(ours, theirs, PROTOCOLS["eld"]).psnr > 55


@pytest.mark.parametrize(
    ("black", "white", "full", "higher"),
    [
        (512, 16383, 16383, 0.0),
        (512, 16300, 16383, 0.05),
        (2047, 15303, 16383, 0.68),
        (2048, 15360, 16383, 0.64),
        (400, 15520, 16383, 0.48),
        (100, 3880, 4095, 0.48),
    ],
)
def test_figures_are_relative_to_elds_full_scale_at_any_white_level(
    tmp_path, black, white, full, higher
):
    """In ELD's code 16383 is 1 for all cameras, so a Canon's published PSNR is 0.7 dB higher than with its own white level."""
    one = photographed(tmp_path, black=black, white=white)
    sample = whole_frame(tmp_path, one)
    noisy = sample.gt ^ np.random.default_rng(0).integers(0, 2048, sample.gt.shape, np.uint16)

    ours, theirs = packed_raw(tmp_path, {one.id: one}, centre=None)(sample, noisy)

    codes = pack(read_raw(tmp_path / "long.dng").mosaic, "bayer").astype(np.float64)
    np.testing.assert_allclose(theirs, (codes - black) / (full - black), rtol=1e-5)
    assert np.median(ours / theirs) == pytest.approx(1, abs=0.01)
    restored = np.clip(
        undevelop(noisy, colours_of(read_raw(tmp_path / "long.dng"), ""), "bayer"), 0, 1
    )
    of_white = score(
        restored, ((codes - black) / (white - black)).astype(np.float32), PROTOCOLS["eld"]
    )
    found = score(ours, theirs, PROTOCOLS["eld"])
    assert found.psnr - of_white.psnr == pytest.approx(higher, abs=0.01)


def test_the_illuminance_factor_leaves_out_pixels_that_eld_treats_as_saturated(tmp_path):
    """A Canon's saturated pixels, at 15303, are below 1 on ELD's scale and count like others."""
    one = photographed(tmp_path, black=2047, white=15303)
    codes = read_raw(tmp_path / "long.dng").mosaic
    codes[:8, :16], codes[8:16, :16] = 15303, 16383
    tags = DngTags(exposure_s=10.0, iso=400, black=(2047.0,), white=15303)
    write_dng(tmp_path / "long.dng", codes, tags)
    sample = whole_frame(tmp_path, one)

    _, theirs = packed_raw(tmp_path, {one.id: one}, centre=None)(sample, sample.gt)

    assert (theirs[:, :4, :8] < 1).all()
    assert (theirs[:, 4:8, :8] == 1).all()
    assert (theirs[:, 8:] < 1).all()
