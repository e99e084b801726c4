"""PSNR and SSIM follow the named protocols and do not depend on the strips they are computed in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import skimage.metrics

from darkprep.shards.errors import OptionError
from darkprep.trainer.metrics import PROTOCOLS, illuminance_factor, protocol_named, score

SKIMAGE: Any = skimage.metrics
"""scikit-image has no type annotations."""


def pictures(height: int, width: int = 40, channels: int = 3):
    rng = np.random.default_rng(11)
    truth = rng.integers(0, 65536, (channels, height, width), dtype=np.uint16)
    noise = rng.normal(0, 0.1, truth.shape)
    return (truth / 65535 + noise).astype(np.float32), truth


@pytest.mark.parametrize("height", [30, 262, 263, 600], ids=lambda rows: f"{rows} rows")
def test_redirt_truncates_to_bytes_and_equals_scikit_image_on_the_whole_picture(height):
    restored, truth = pictures(height)

    scores = score(restored, truth, PROTOCOLS["redirt"])

    ours = (np.clip(restored, 0, 1) * 255).astype(np.uint8)
    theirs = (truth / np.float32(65535) * 255).astype(np.uint8)
    assert scores.psnr == pytest.approx(SKIMAGE.peak_signal_noise_ratio(theirs, ours), abs=1e-9)
    expected = SKIMAGE.structural_similarity(ours, theirs, channel_axis=0)
    assert scores.ssim == pytest.approx(expected, abs=1e-9)


def test_sid_rounds_and_uses_a_gaussian_window():
    restored, truth = pictures(300)

    scores = score(restored, truth, PROTOCOLS["sid"])

    ours = np.rint(np.clip(restored, 0, 1) * 255).astype(np.uint8)
    theirs = np.rint(truth / 65535 * 255).astype(np.uint8)
    expected = SKIMAGE.structural_similarity(
        ours, theirs, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert scores.psnr == pytest.approx(SKIMAGE.peak_signal_noise_ratio(theirs, ours), abs=1e-9)
    assert scores.ssim == pytest.approx(expected, abs=1e-9)


def test_eld_corrects_the_brightness_and_accepts_packed_planes():
    restored, truth = pictures(64, channels=4)
    darker = np.clip(restored, 0, 1) / 3

    corrected = score(darker, truth, PROTOCOLS["eld"])

    assert corrected.psnr == pytest.approx(score(restored, truth, PROTOCOLS["eld"]).psnr, abs=1e-4)
    assert corrected.psnr > score(darker, truth, PROTOCOLS["redirt"]).psnr + 5


def test_the_illuminance_factor_is_the_least_squares_solution_over_unsaturated_values():
    restored, truth = pictures(20)
    truth[:, :5] = 65535

    factor = illuminance_factor(restored, truth)

    p, r = np.clip(restored, 0, 1).astype(np.float64), truth / 65535
    valid = truth != 65535
    assert factor == pytest.approx((p * r)[valid].sum() / np.square(p[valid]).sum(), rel=1e-6)
    assert illuminance_factor(np.zeros_like(restored), truth) == 1


def test_equal_pictures_score_infinity_and_one():
    _, truth = pictures(32)

    scores = score(truth.astype(np.float32) / np.float32(65535), truth, PROTOCOLS["redirt"])

    assert scores.psnr == math.inf
    assert scores.ssim == pytest.approx(1)


def test_an_unknown_protocol_is_refused_with_the_names_of_all():
    with pytest.raises(OptionError, match="unknown protocol 'psnr'; choose from redirt, sid, eld"):
        protocol_named("psnr")
