"""ELD's figures are of packed RAW, of the part of a frame that its authors score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from darkprep.protocols import packed_raw
from pipeline.datasets import Pair, camera_named, find_pairs
from pipeline.dng import DngTags, write_dng
from pipeline.resample import FORMS, Form
from pipeline.synth import synthesise
from pipeline.wholeframe import whole_frame
from trainer.metrics import PROTOCOLS, score


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """A smooth coloured frame and its thousandth."""
    y, x = np.mgrid[:80, :120]
    light = 0.4 + 0.2 * np.sin(y / 9) + 0.15 * np.cos(x / 7)
    light[::2, ::2] *= 0.6
    light[1::2, 1::2] *= 0.5
    for name, share, seconds in (("long", 1.0, 10.0), ("short", 0.01, 0.1)):
        codes = np.rint(512 + light * share * 15871).astype(np.uint16)
        write_dng(tmp_path / f"{name}.dng", codes, DngTags(exposure_s=seconds, iso=400))
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


def test_the_truth_itself_comes_back_as_its_raw_whatever_its_brightness(tmp_path, pair):
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


@pytest.mark.parametrize("form", FORMS)
def test_x_trans_is_scored_in_its_own_planes_whatever_the_network_was_fed(fuji, form: Form):
    one = find_pairs(fuji, camera_named("fuji")).pairs[0]
    sample = whole_frame(fuji, one, form=form)

    ours, theirs = packed_raw(fuji, {one.id: one}, centre=None)(sample, sample.gt)

    assert ours.shape == theirs.shape == (9, 172, 172)
    assert score(ours, theirs, PROTOCOLS["eld"]).psnr > 55
