"""Added light has the shot noise of its electrons, keeps the brightness, and depends on samples and uses alone."""

from __future__ import annotations

import pytest
import torch

from darkprep.shards import OptionError, SampleMeta
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.shot_noise import ShotNoiseAugmentation
from darkprep.trainer.stream import DeviceStream

ELECTRONS = 160_000.0


def meta(**changes: object) -> SampleMeta:
    return SampleMeta(
        **{
            "key": "00000001-0000", "pair": "a", "camera": "sony", "cfa": "bayer", "origin": (0, 0),
            "black": (512.0,) * 4, "white": 16383, "ratio": 100.0, "amplification": 100.0,
            "amplification_source": "ratio", "iso": 1600.0, "target": "raw",
            "gt_black": (512.0,) * 4, "gt_white": 16383,
            **changes,
        }
    )  # fmt: skip


def augmented(share: float, light: float = 0.5, use: int = 0, seed: int = 0) -> torch.Tensor:
    truth = torch.full((2, 4, 96, 96), light)
    metas = (meta(), meta(key="00000001-0001"))
    one = ShotNoiseAugmentation(most=share, full_scale_electrons=ELECTRONS, seed=seed)
    return one.apply(truth.clone(), truth, metas, (use, use))


def test_the_brightness_stays_and_the_variance_is_that_of_the_electrons():
    share = 4.0
    for use in range(5):
        made = augmented(share, use=use)
        for sample in made:
            # Of light L per electron count n = a * L * N / ratio, amplified and divided by 1 + a.
            assert sample.mean().item() == pytest.approx(0.5, rel=0.01)
            scale = 0.5 * 100 / (ELECTRONS * 100 / 1600)
            variance = sample.var().item() / scale  # a / (1 + a)^2
            assert 0 < variance <= 0.26
    spread = {round(augmented(share, use=use)[0].var().item(), 7) for use in range(5)}
    assert len(spread) == 5, "each use has a share of its own"


def test_more_light_lowers_the_noise_of_the_input():
    torch.manual_seed(0)
    truth = torch.full((1, 4, 96, 96), 0.5)
    noisy = truth + 0.5 * torch.randn_like(truth)
    one = ShotNoiseAugmentation(most=8.0, full_scale_electrons=ELECTRONS)

    errors = [(one.apply(noisy, truth, (meta(),), (use,)) - truth).std().item() for use in range(8)]

    assert max(errors) < 0.51
    assert min(errors) < 0.2


def test_the_same_use_gives_the_same_light():
    assert torch.equal(augmented(2.0), augmented(2.0))
    assert not torch.equal(augmented(2.0), augmented(2.0, use=1))
    assert not torch.equal(augmented(2.0), augmented(2.0, seed=1))


def test_what_cannot_work_is_refused_by_name():
    with pytest.raises(OptionError, match="shot_noise must be above 0"):
        ShotNoiseAugmentation(most=0, full_scale_electrons=ELECTRONS)
    with pytest.raises(OptionError, match="full_scale_electrons must be from 100"):
        ShotNoiseAugmentation(most=1, full_scale_electrons=1)
    with pytest.raises(
        OptionError, match="shot_noise and full_scale_electrons can be used only together"
    ):
        TrainConfig(shot_noise=1.0)
    one = ShotNoiseAugmentation(most=1, full_scale_electrons=ELECTRONS)
    with pytest.raises(OptionError, match="but a lacks at least one"):
        one.apply(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2), (meta(iso=0.0),), (0,))
    with pytest.raises(OptionError, match="but the target is srgb; train on a spool"):
        DeviceStream(None, torch.device("cpu"), cfa="bayer", crop=32, shot_noise=one)


def test_configurations_without_it_stay_as_they_were():
    record = TrainConfig().record()

    assert not {"shot_noise", "full_scale_electrons"} & set(record)
    assert TrainConfig.from_record(record) == TrainConfig()
    with_it = TrainConfig(shot_noise=2.0, full_scale_electrons=1e5, target="raw")
    assert TrainConfig.from_record(with_it.record()) == with_it
