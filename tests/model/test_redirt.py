"""The networks: the published function, their sizes, and the inputs that they refuse."""

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F

from darkprep.model import MODELS, MOSAICS, CfaKind, ModelError, build_model, load_weights
from darkprep.model.blocks import shuffle_channels

COUNTS = {
    ("redirt", "bayer"): 784_768,
    ("redirt-2rdb", "bayer"): 581_792,
    ("redirt-gn", "bayer"): 785_408,
    ("sid", "bayer"): 7_760_748,
    ("redirt", "xtrans"): 964_745,
    ("redirt-2rdb", "xtrans"): 761_769,
    ("redirt-gn", "xtrans"): 965_385,
    ("sid", "xtrans"): 7_762_683,
    ("unet", "bayer"): 7_760_748,
    ("unet", "xtrans"): 7_762_683,
    ("nafnet", "bayer"): 29_162_604,
    ("nafnet", "xtrans"): 29_168_379,
}


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (160, 128)])
def test_redirt_computes_the_published_function(
    published: ModuleType, released: Path, height: int, width: int
):
    model = build_model("redirt")
    load_weights(model, released)
    mosaic = torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(1)) * 1.5

    with torch.no_grad():
        ours = model(F.pixel_unshuffle(mosaic, 2))
        theirs = published.restore(torch.load(released, weights_only=True)["model"], mosaic)

    assert 0.3 < ((theirs > 0) & (theirs < 1)).float().mean()  # the clamp hides nothing
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_the_first_loss_and_its_gradients_are_the_published_ones(
    published: ModuleType, released: Path
):
    model = build_model("redirt")
    load_weights(model, released)
    state = torch.load(released, weights_only=True)["model"]
    for tensor in state.values():
        tensor.requires_grad_(True)
    mosaic, truth = torch.rand(2, 1, 64, 64), torch.rand(2, 3, 64, 64)

    ours = F.l1_loss(model(F.pixel_unshuffle(mosaic, 2)), truth)
    theirs = F.l1_loss(published.restore(state, mosaic), truth)
    torch.autograd.backward([ours, theirs])

    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    grad = model.get_parameter("body.higher_scale_encoder.head.0.parametrizations.weight.original1")
    torch.testing.assert_close(grad.grad, state["conv32x.0.0.weight_v"].grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("cfa", MOSAICS)
@pytest.mark.parametrize("name", MODELS)
def test_every_variant_has_its_size_and_restores_both_mosaics(name: str, cfa: CfaKind):
    model = build_model(name, cfa)
    mosaic = MOSAICS[cfa]

    rgb = model(torch.rand(2, mosaic.planes, 32, 48))

    assert sum(p.numel() for p in model.parameters()) == COUNTS[name, cfa]
    assert rgb.shape == (2, 3, 32 * mosaic.cell, 48 * mosaic.cell)
    assert rgb.min() >= 0
    assert rgb.max() <= 1


def test_redirt_2rdb_has_no_third_block():
    names = [name for name, _ in build_model("redirt-2rdb").named_parameters()]

    assert any("blocks.1." in name for name in names)
    assert not any("blocks.2." in name for name in names)


def test_the_unet_clips_its_input_as_published():
    model = build_model("sid").eval()
    wild = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))

    assert torch.equal(model(wild), model(wild.clamp(0, 1)))


def test_the_unets_gradient_passes_its_clamp_in_training():
    model = build_model("sid")
    torch.nn.init.constant_(model.get_parameter("body.out.bias"), -5.0)

    model(torch.rand(1, 4, 16, 16)).mean().backward()

    gradient = model.get_parameter("body.out.bias").grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_channels_are_interleaved_as_published():
    x = torch.arange(8.0).reshape(1, 8, 1, 1)

    assert shuffle_channels(x, 2).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_an_unknown_model_is_refused_with_all_names():
    with pytest.raises(ModelError, match="redirt, redirt-2rdb, redirt-gn, sid, unet, nafnet"):
        build_model("resnet")


def test_an_unknown_mosaic_is_refused():
    with pytest.raises(ModelError, match="bayer, xtrans"):
        build_model("redirt", "foveon")


def test_planes_of_another_mosaic_are_refused():
    with pytest.raises(ModelError, match=r"reads \(B, 4, h, w\), not \(1, 9, 16, 16\)"):
        build_model("redirt")(torch.rand(1, 9, 16, 16))


@pytest.mark.parametrize("size", [(16, 24), (15, 16), (0, 16)])
def test_a_size_that_does_not_fit_is_refused(size: tuple[int, int]):
    with pytest.raises(ModelError, match="multiples of 16"):
        build_model("redirt")(torch.rand(1, 4, *size))


def test_the_same_seed_draws_the_same_network():
    torch.manual_seed(3)
    first = build_model("redirt").state_dict()
    torch.manual_seed(3)
    second = build_model("redirt").state_dict()

    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_the_table_in_the_docs_equals_the_measured_one(model_table: ModuleType):
    page = Path(__file__).parents[2] / "docs" / "models.md"

    assert model_table.table() in page.read_text()
