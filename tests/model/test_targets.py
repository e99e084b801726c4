"""Networks of every target: sizes, results, input forms, weights, and that each of them learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from darkprep.model import (
    MODELS,
    MOSAICS,
    TARGETS,
    CfaKind,
    InputForm,
    ModelError,
    Target,
    build_model,
    load_model,
    load_weights,
    ready_for_inference,
    save_weights,
)
from darkprep.trainer.adam import EagerAdam

RAW_COUNTS = {"redirt": 779_952, "sid": 7_760_484, "unet": 7_760_484, "nafnet": 29_160_292}


@pytest.mark.parametrize(("name", "count"), RAW_COUNTS.items())
def test_networks_of_raw_planes_have_their_size(name: str, count: int):
    model = build_model(name, "bayer", "raw")
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize("cfa", ["bayer", pytest.param("xtrans", marks=pytest.mark.slow)])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", MODELS)
def test_every_network_restores_every_target(slim: None, name: str, target: Target, cfa: CfaKind):
    model = build_model(name, cfa, target).eval()
    mosaic = MOSAICS[cfa]
    packed = torch.rand(1, mosaic.planes, 34, 20) * 1.5

    restored = ready_for_inference(model)(packed)

    if target == "raw":
        assert restored.shape == packed.shape
    else:
        assert restored.shape == (1, 3, 34 * mosaic.cell, 20 * mosaic.cell)
    assert restored.min() >= 0
    assert restored.max() <= 1


@pytest.mark.parametrize("noise_map", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    "target", ["raw", *(pytest.param(one, marks=pytest.mark.slow) for one in ("srgb", "linear"))]
)
@pytest.mark.parametrize("name", MODELS)
def test_every_network_restores_every_target_in_bf16(
    slim: None, name: str, target: Target, noise_map: bool
):
    model = build_model(name, "bayer", target, noise_map=noise_map).eval()
    packed = torch.rand(1, 8 if noise_map else 4, 34, 20)

    rough = ready_for_inference(model, precision="bf16")(packed)

    assert rough.dtype == torch.float32
    assert (rough - ready_for_inference(model)(packed)).abs().mean() < 0.01


@pytest.mark.parametrize("cfa", ["bayer", pytest.param("xtrans", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["redirt", "unet", "nafnet"])
def test_the_fast_form_restores_the_same_planes(name: str, cfa: CfaKind):
    model = build_model(name, cfa, "raw").eval()
    packed = torch.rand(1, MOSAICS[cfa].planes, 176, 32)

    with torch.no_grad():
        whole = model(packed)

    torch.testing.assert_close(ready_for_inference(model)(packed), whole, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["redirt", "unet", pytest.param("nafnet", marks=pytest.mark.slow)])
def test_networks_learn_to_restore_planes(name: str):
    torch.manual_seed(1)
    model = build_model(name, "bayer", "raw").train()
    truth = F.interpolate(torch.rand(1, 4, 4, 4), size=(16, 16), mode="bilinear")
    optimiser = EagerAdam(model.parameters(), lr=1e-3)

    noisy = truth + 0.3 * torch.randn_like(truth)
    losses = []
    for _ in range(10):
        loss = F.l1_loss(model(noisy), truth)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())

    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_the_unet_keeps_what_is_below_black_and_clips_at_white():
    model = build_model("unet", "bayer", "raw").eval()
    wild = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))

    assert torch.equal(model(wild), model(wild.clamp(max=1)))
    assert not torch.equal(model(wild), model(wild.clamp(min=0)))
    model.input_form = InputForm(cut_at_black=True)
    assert torch.equal(model(wild), model(wild.clamp(min=0)))


def test_a_network_of_other_plane_order_gets_and_returns_darkpreps_order():
    torch.manual_seed(2)
    model = build_model("unet", "bayer", "raw").eval()
    packed = torch.rand(1, 4, 16, 16)
    swapped = packed[:, [0, 1, 3, 2]]
    expected = model(swapped)[:, [0, 1, 3, 2]].detach()

    model.input_form = InputForm(plane_order="RGBG")

    assert torch.equal(model(packed).detach(), expected)
    torch.testing.assert_close(ready_for_inference(model)(packed), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "form", [InputForm(), InputForm(plane_order="RGBG", cut_at_black=True)], ids=str
)
def test_weights_remember_target_and_input_form(tmp_path: Path, form: InputForm):
    model = build_model("redirt", "bayer", "raw")
    model.input_form = form
    save_weights(model, tmp_path / "w.safetensors")

    loaded = load_model(tmp_path / "w.safetensors")

    assert (loaded.target, loaded.input_form) == ("raw", form)


def test_weights_of_another_target_are_refused(tmp_path: Path):
    save_weights(build_model("redirt", "bayer", "raw"), tmp_path / "w.safetensors")

    with pytest.raises(ModelError, match=r"redirt \(bayer, raw\), not of redirt \(bayer\)"):
        load_weights(build_model("redirt"), tmp_path / "w.safetensors")


def test_an_unknown_target_or_plane_order_is_refused():
    with pytest.raises(ModelError, match="srgb, linear, raw"):
        build_model("unet", "bayer", "xyz")
    with pytest.raises(ModelError, match="plane_order"):
        InputForm(plane_order="BGGR")
