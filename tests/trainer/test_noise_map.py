"""The noise-level map holds the standard deviation that the noise of each value has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from darkprep.model import build_model
from darkprep.pipeline.noise.calibrations import calibration_of
from darkprep.pipeline.noise.model import add_noise
from darkprep.pipeline.noise.noise_levels import NoiseLevels, noise_level
from darkprep.pipeline.raw.mosaic import pack
from darkprep.shards import NoiseLevel, OptionError, Sample, SampleMeta, WeightsError
from darkprep.shards.cfa import CANONICAL
from darkprep.shards.format import CELL, CfaKind
from darkprep.trainer import SpoolDataset, TrainConfig, restore_frame
from darkprep.trainer.noise_map import with_noise_map
from darkprep.trainer.shot_noise import ShotNoiseAugmentation
from darkprep.trainer.stream import DeviceStream, network_input
from tests.support.fake_reader import meta_of

CPU = torch.device("cpu")


def exposure(
    cfa: CfaKind, iso: float, signal: float, *, camera: str = "sonya7s2", bits: int = 14
) -> tuple[torch.Tensor, SampleMeta]:
    """An evenly lit exposure of `signal` codes above black with a camera's noise, as the network reads it."""
    table = calibration_of(camera)
    side, parameters = 90 * CELL[cfa], replace(table.parameters(iso), colour_bias=(0.0,) * 4)
    clean = np.full((side, side), signal, np.float32)
    noisy = add_noise(clean, parameters, np.random.default_rng(1), CANONICAL[cfa])
    share = (table.white - round(table.black)) >> (14 - bits)
    black, white = float(table.black), int(table.black + share)
    codes = np.rint(pack(noisy, cfa) * (share / (table.white - table.black)) + black)
    meta = replace(meta_of("a", cfa), black=(black,) * len(codes), white=white, iso=iso)
    low = torch.from_numpy(np.clip(codes, 0, 65535).astype(np.uint16))[None]
    return network_input(low, (meta,)), meta


@pytest.mark.parametrize("bits", [14, 12])
@pytest.mark.parametrize("cfa", ["bayer", "xtrans"])
@pytest.mark.parametrize("iso", [800, 3200])
def test_the_map_is_the_standard_deviation_of_the_made_noise(cfa: CfaKind, iso: float, bits: int):
    for signal in (10.0, 100.0):
        low, meta = exposure(cfa, iso, signal, bits=bits)
        level = noise_level(calibration_of("sonya7s2"), iso, meta.white - meta.black[0])

        mapped = with_noise_map(low, (meta,), (level,))

        planes = low.shape[1]
        assert torch.equal(mapped[:, :planes], low)
        deviation = mapped[:, planes:].square().mean().sqrt()  # values below black count as 0
        assert low.std().item() == pytest.approx(deviation.item(), rel=0.05)


def test_added_light_lowers_the_map_as_it_lowers_the_noise():
    electrons, iso = 160_000.0, 1600.0
    full = 16383 - 512
    gain = full / (electrons * 100 / iso)
    meta = replace(meta_of("a"), iso=iso, black=(512.0,) * 4, target="raw", gt_black=(512.0,) * 4, gt_white=16383)  # fmt: skip
    truth = torch.full((1, 4, 128, 128), 0.3)
    electrons_short = 0.3 * electrons * 100 / iso / meta.ratio
    low = torch.poisson(torch.full_like(truth, electrons_short)) * (gain / full * 100)
    light = ShotNoiseAugmentation(most=8.0, full_scale_electrons=electrons)
    for use in range(3):
        lit, more = light.lit(low, truth, (meta,), (use,))

        mapped = with_noise_map(lit, (meta,), (NoiseLevel(gain=gain, read_sigma=0.0),), light=more)

        assert lit.std().item() == pytest.approx(
            mapped[:, 4:].square().mean().sqrt().item(), rel=0.02
        )


def test_a_stream_and_a_dataset_give_the_map_after_the_planes(make_reader, make_meta):
    levels = NoiseLevels()
    stream = DeviceStream(
        make_reader(stop_after=1, side=64), CPU, cfa="bayer", crop=64, augment="none", noise_of=levels.of_sample
    )  # fmt: skip
    plain = DeviceStream(
        make_reader(stop_after=1, side=64), CPU, cfa="bayer", crop=64, augment="none"
    )

    batch, wanted = next(stream), next(plain)

    assert batch.low.shape == (2, 8, 32, 32)
    assert torch.equal(batch.low[:, :4], wanted.low)
    expected = with_noise_map(
        wanted.low, batch.metas, [levels.of_sample(one) for one in batch.metas]
    )
    assert torch.equal(batch.low, expected)


def test_a_dataset_gives_the_map_too(make_spool):
    spool = make_spool(ready=range(6))
    with_map = SpoolDataset(spool, batch_size=2, keep=True, noise_of=NoiseLevels().of_sample)

    batch = next(iter(with_map))

    assert batch["low"].shape[1] == 8
    plain = next(iter(SpoolDataset(spool, batch_size=2, keep=True)))
    assert torch.equal(batch["low"][:, :4], plain["low"])


def test_a_whole_frame_is_restored_with_its_noise_level_or_refused():
    meta = replace(meta_of("a"), black=(512.0,) * 4)
    codes = np.random.default_rng(0).integers(500, 700, (4, 16, 32), np.uint16)
    gt = np.zeros((3, 32, 64), np.uint16)
    model = build_model("redirt", noise_map=True).eval()
    level = NoiseLevel(gain=0.7, read_sigma=3.0)

    restored = restore_frame(model, Sample(codes, gt, meta, level))

    low = network_input(torch.from_numpy(codes)[None], (meta,))
    with torch.no_grad():
        wanted = model(with_noise_map(low, (meta,), (level,)))[0]
    assert np.array_equal(restored, wanted.numpy())
    with pytest.raises(WeightsError, match="a: the network reads a noise-level map, but the noise"):
        restore_frame(model, Sample(codes, gt, replace(meta, pair="a")))


def test_unknown_cameras_and_isos_are_refused_with_the_remedy():
    known = meta_of("a")
    with pytest.raises(
        OptionError, match=r"camera 'mine' of .* is not known; give --noise-map FILE"
    ):
        NoiseLevels().of_sample(replace(known, camera="mine"))
    with pytest.raises(OptionError, match=r"the ISO of .* is not known"):
        NoiseLevels().of_sample(replace(known, iso=0.0))
    other = NoiseLevels(table=calibration_of("nikond850"))
    assert other.of_sample(replace(known, camera="mine")) != NoiseLevels().of_sample(known)
    for wrong in ({"gain": 0.0, "read_sigma": 1.0}, {"gain": 1.0, "read_sigma": -1.0}):
        with pytest.raises(ValueError, match="must be"):
            NoiseLevel(**wrong)


def test_configurations_without_a_map_stay_as_they_were():
    record = TrainConfig().record()

    assert not {"noise_map", "noise_levels"} & set(record)
    with_map = TrainConfig(noise_map="auto", noise_levels="auto")
    assert TrainConfig.from_record(with_map.record()) == with_map
    assert with_map.has_noise_map
    assert not TrainConfig().has_noise_map
