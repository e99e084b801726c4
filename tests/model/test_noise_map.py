"""Networks that read a noise-level map: twice as many planes in, the same target out, and weights that record it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from darkprep.model import (
    MODELS,
    MOSAICS,
    CfaKind,
    InputForm,
    ModelError,
    build_model,
    export_onnx,
    load_model,
    load_weights,
    own_network,
    ready_for_inference,
    save_weights,
)
from darkprep.model.editor import check_editor_network


@pytest.mark.parametrize("cfa", ["bayer", pytest.param("xtrans", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MODELS)
def test_every_network_reads_twice_the_planes_and_is_equal_in_its_fast_form(
    slim: None, name: str, cfa: CfaKind
):
    mosaic = MOSAICS[cfa]
    for target in ("srgb", "raw"):
        model = build_model(name, cfa, target, noise_map=True).eval()
        planes = torch.rand(1, 2 * mosaic.planes, 32, 16)

        with torch.no_grad():
            restored = model(planes)

        size = (32, 16) if target == "raw" else (32 * mosaic.cell, 16 * mosaic.cell)
        assert restored.shape == (1, mosaic.planes if target == "raw" else 3, *size)
        ready = ready_for_inference(model)(planes)
        torch.testing.assert_close(ready, restored, rtol=0, atol=2e-5)
    with torch.no_grad():
        other = model(torch.cat([planes[:, : mosaic.planes], planes[:, mosaic.planes :] / 2], 1))
    assert name == "nafnet" or not torch.equal(other, restored), "the map has an effect"


def test_planes_without_a_map_are_refused():
    model = build_model("redirt", noise_map=True)

    with pytest.raises(ModelError, match=r"with a noise-level map reads \(B, 8, h, w\), not"):
        model(torch.zeros(1, 4, 16, 16))
    with pytest.raises(ModelError, match=r"redirt for bayer reads \(B, 4, h, w\), not"):
        build_model("redirt")(torch.zeros(1, 8, 16, 16))


def test_weights_record_the_map(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    save_weights(build_model("redirt", noise_map=True), path)

    assert load_model(path).noise_map
    with pytest.raises(
        ModelError, match=r"redirt \(bayer, with a noise-level map\), not of redirt"
    ):
        load_weights(build_model("redirt"), path)
    save_weights(build_model("redirt"), path)
    assert not load_model(path).noise_map


def test_another_plane_order_moves_the_map_with_the_planes():
    planes = torch.arange(8.0).view(1, 8, 1, 1)

    converted = InputForm(plane_order="RGBG").converted(planes)

    assert converted.flatten().tolist() == [0, 1, 3, 2, 4, 5, 7, 6]


def test_a_network_of_ones_own_is_given_the_map():
    def build(cfa: CfaKind, noise_map: bool) -> nn.Module:
        return nn.Conv2d(8 if noise_map else 4, 4, 1)

    own = own_network("mine:build", build, "bayer", "raw", noise_map=True)

    assert own.noise_map
    assert own(torch.zeros(1, 8, 16, 16)).shape == (1, 4, 16, 16)


def test_the_map_is_exported_with_its_meaning(tmp_path: Path, slim: None):
    onnx = pytest.importorskip("onnx")
    torch.manual_seed(0)
    model = build_model("unet", target="raw", noise_map=True)

    export_onnx(model, tmp_path / "m.onnx")

    properties = {one.key: one.value for one in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert properties["darkprep.input"] == "float32 (1, 8, height, width)"
    assert "sqrt(shot * max(value, 0) + read^2)" in properties["darkprep.noise_map"]
    assert properties["darkprep.output"] == "float32 (1, 4, 1*height, 1*width)"
    linear = build_model("unet", target="linear", noise_map=True)
    with pytest.raises(ModelError, match="noise-level map, which editors do not give to a model"):
        check_editor_network(linear)
