"""Training towards linear colours and RAW planes: decoding, augmentation, loss and configuration."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from darkprep.shards.batch import Batch
from darkprep.shards.errors import OptionError
from darkprep.shards.format import CfaKind
from darkprep.trainer.config import AUGMENT_MODES, AugmentMode, TrainConfig
from darkprep.trainer.loss import restoration_loss, target_loss
from darkprep.trainer.picture import developed_simply
from darkprep.trainer.stream import DeviceStream
from tests.support.fake_reader import BLACK, WHITE, FakeReader

CPU = torch.device("cpu")
RAW_RANGE = 158
"""Codes between the black and the white level of the truth."""


def with_raw_truth(batch: Batch) -> Batch:
    """The batch with its own input, whose codes are a hundredth of the light, as the truth."""
    gt_black = BLACK[batch.metas[0].cfa]
    metas = tuple(
        replace(meta, target="raw", gt_black=gt_black, gt_white=int(gt_black[0]) + RAW_RANGE)
        for meta in batch.metas
    )
    return Batch(batch.index, batch.low, batch.low.copy(), metas, batch.uses)


@pytest.mark.parametrize(
    ("mode", "cfa", "crop"),
    [(m, *c) for m, c in product(AUGMENT_MODES, [("bayer", 64), ("xtrans", 48)])],
)
def test_input_and_truth_of_a_raw_target_move_together(mode: AugmentMode, cfa: CfaKind, crop: int):
    """The truth has the input's codes, so both are the same light wherever a flip or a shift moves it."""
    rng = np.random.default_rng(1)

    def alter(batch: Batch) -> Batch:
        black = int(BLACK[cfa][0])
        batch.low[:] = rng.integers(black - 20, black + 170, batch.low.shape)
        return with_raw_truth(batch)

    reader = FakeReader(side=72, batch_size=8, cfa=cfa, alter=alter)
    stream = DeviceStream(reader, CPU, cfa=cfa, crop=crop, augment=mode, target="raw")

    batch = next(stream)

    assert batch.gt.shape == batch.low.shape
    black = BLACK[cfa][0]
    ours = batch.low * (WHITE - black) / 100 / RAW_RANGE
    torch.testing.assert_close(batch.gt, ours.clamp(0, 1), rtol=0, atol=0.03)
    assert batch.gt.std() > 0.2


def test_the_truth_of_a_raw_target_is_clipped_to_the_unit_range():
    reader = FakeReader(side=72, alter=with_raw_truth)
    for row in (0, 1):
        reader._low[row] = 0
    stream = DeviceStream(reader, CPU, cfa="bayer", crop=64, target="raw")

    batch = next(stream)

    assert batch.gt.min() >= 0
    assert batch.gt.max() <= 1


def test_samples_of_another_target_are_refused():
    stream = DeviceStream(FakeReader(side=72), CPU, cfa="bayer", crop=64, target="raw")
    with pytest.raises(OptionError, match="target srgb, but the network restores raw"):
        next(stream)


def test_linear_samples_are_scaled_to_the_unit_range():
    reader = FakeReader(side=72, alter=lambda batch: _towards_linear(batch))
    stream = DeviceStream(reader, CPU, cfa="bayer", crop=64, augment="none", target="linear")

    batch = next(stream)

    np.testing.assert_allclose(batch.gt[0], reader._gt[0][:, 4:68, 4:68] / 65535, atol=1e-6)


def _towards_linear(batch: Batch) -> Batch:
    metas = tuple(replace(meta, target="linear") for meta in batch.metas)
    return Batch(batch.index, batch.low, batch.gt, metas, batch.uses)


def test_each_target_has_its_loss():
    restored, truth = torch.rand(1, 3, 176, 176), torch.rand(1, 3, 176, 176)

    assert target_loss(restored, truth, "srgb") == restoration_loss(restored, truth)
    for target in ("linear", "raw"):
        assert target_loss(restored, truth, target) == F.l1_loss(restored, truth)


def test_small_crops_are_allowed_where_the_loss_has_no_ms_ssim():
    assert TrainConfig(crop=64, target="raw", model="unet").record()["target"] == "raw"
    with pytest.raises(OptionError, match="crop must be at least 161"):
        TrainConfig(crop=64)
    with pytest.raises(OptionError, match="target must be one of srgb, linear, raw"):
        TrainConfig(target="rgb")


def test_the_configuration_of_the_target_srgb_is_recorded_as_before():
    assert "target" not in TrainConfig().record()
    assert TrainConfig.from_record(TrainConfig(target="raw").record()).target == "raw"
    assert TrainConfig.from_record(TrainConfig().record()).target == "srgb"


def test_planes_are_shown_as_a_picture_of_their_size():
    planes = np.zeros((4, 6, 8), np.float32)
    planes[0], planes[1], planes[2], planes[3] = 0.25, 0.2, 0.6, 0.1

    picture = developed_simply(planes, "bayer", gains=(2.0, 1.0, 3.0))

    assert picture.shape == (3, 6, 8)
    np.testing.assert_allclose(picture[:, 0, 0] ** 2.2, [0.5, 0.4, 0.3], rtol=1e-5)
    assert developed_simply(np.zeros((9, 4, 4), np.float32), "xtrans").shape == (3, 4, 4)
