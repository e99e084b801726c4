"""ONNX files: equal to torch at every size, with the contract of their input, and refused where they would differ."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from torch import Tensor, nn
from torch.nn import functional as F

from darkprep.model import (
    MODELS,
    MOSAICS,
    TARGETS,
    CfaKind,
    InputForm,
    ModelError,
    Network,
    Target,
    build_model,
    export_onnx,
    own_network,
    ready_for_inference,
)
from darkprep.model.export import OPSET, TOLERANCE

SLIM = [
    *(("redirt", "xtrans", "linear"), ("unet", "bayer", "raw"), ("nafnet", "bayer", "srgb")),
    *(
        pytest.param(*one, marks=pytest.mark.slow)
        for one in (
            ("redirt", "bayer", "srgb"),
            ("redirt", "bayer", "raw"),
            ("sid", "bayer", "linear"),
        )
    ),
]
FULL = [(name, cfa, target) for name in MODELS for cfa in MOSAICS for target in TARGETS]


def random_network(name: str, cfa: CfaKind = "bayer", target: Target = "srgb") -> Network:
    """A network whose parts all have an effect: fresh weights of NAFNet's blocks are 0."""
    torch.manual_seed(0)
    model = build_model(name, cfa, target).eval()
    for part, tensor in model.named_parameters():
        if part.endswith(("scale1", "scale2")):
            nn.init.normal_(tensor, 0, 0.2)
    return model


def run(path: Path, planes: Tensor) -> Tensor:
    (found,) = InferenceSession(path).run(None, {"input": planes.numpy()})
    return torch.from_numpy(found)


def check(tmp_path: Path, name: str, cfa: CfaKind, target: Target) -> None:
    model = random_network(name, cfa, target)

    done = export_onnx(model, tmp_path / "m.onnx")

    assert done.largest_error <= TOLERANCE
    assert len({*done.sizes}) == 3
    (opset,) = onnx.load(done.path).opset_import
    assert opset.version == done.opset == OPSET
    planes = torch.rand(1, MOSAICS[cfa].planes, 96, 32) * 2 - 0.25  # no size that the export checks
    with torch.no_grad():
        expected = model(planes)
    assert (run(done.path, planes) - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize(("name", "cfa", "target"), SLIM)
def test_onnx_runtime_computes_what_torch_does(
    tmp_path: Path, slim: None, name: str, cfa: CfaKind, target: Target
):
    check(tmp_path, name, cfa, target)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cfa", "target"), FULL)
def test_every_network_is_exported_at_its_full_size(
    tmp_path: Path, name: str, cfa: CfaKind, target: Target
):
    check(tmp_path, name, cfa, target)


def test_the_form_of_the_input_is_part_of_the_model(tmp_path: Path, slim: None):
    model = random_network("unet", target="raw")
    model.input_form = InputForm(plane_order="RGBG", cut_at_black=True)
    planes = torch.rand(1, 4, 16, 32) - 0.5

    export_onnx(model, tmp_path / "m.onnx")

    expected = ready_for_inference(model)(planes)
    assert torch.allclose(run(tmp_path / "m.onnx", planes), expected, atol=TOLERANCE)


def test_the_file_states_what_its_input_is(tmp_path: Path, slim: None):
    model = random_network("sid", target="linear")
    model.note = "for tests only"
    export_onnx(model, tmp_path / "m.onnx")

    content = onnx.load(tmp_path / "m.onnx")
    stated = {entry.key: entry.value for entry in content.metadata_props}

    assert stated["darkprep.planes"].startswith("R,G1,G2,B")
    assert stated["darkprep.target"] == "linear"
    assert stated["darkprep.input_multiple"] == "16"
    assert stated["darkprep.note"] == "for tests only"
    assert {"darkprep.black_white", "darkprep.amplification", "darkprep.clip"} <= set(stated)
    axes = content.graph.input[0].type.tensor_type.shape.dim
    assert [axis.dim_param or axis.dim_value for axis in axes] == [1, 4, "height", "width"]
    assert __file__.encode() not in content.SerializeToString()
    assert b".py" not in content.SerializeToString()


def test_weight_norm_is_folded(tmp_path: Path):
    export_onnx(random_network("redirt"), tmp_path / "m.onnx")

    used = {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}
    assert "ReduceL2" not in used


class Enlarged(nn.Module):
    """A network of the user's own: right, or with a size that tracing takes for a constant, or without ONNX form."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 3, 3, padding=1)
        self.fault = fault

    def forward(self, low: Tensor) -> Tensor:
        x = self.conv(low)
        if self.fault == "size":
            return F.interpolate(x, size=(2 * int(x.shape[2]), 2 * int(x.shape[3])))
        if self.fault == "operation":
            x = torch.linalg.svd(x).U
        return F.interpolate(x, scale_factor=2)


def test_a_network_of_ones_own_is_exported(tmp_path: Path):
    model = own_network("mynet:Enlarged", Enlarged)

    done = export_onnx(model, tmp_path / "m.onnx")

    assert done.largest_error <= TOLERANCE
    assert run(done.path, torch.zeros(1, 4, 48, 16)).shape == (1, 3, 96, 32)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("size", "returns (1, 3, 96, 160) at 16x16 packed pixels"),
        ("operation", "cannot be written as ONNX"),
    ],
)
def test_what_would_not_compute_the_same_is_refused(tmp_path: Path, fault: str, reason: str):
    model = own_network("mynet:Enlarged", lambda: Enlarged(fault))

    with pytest.raises(ModelError, match="model mynet:Enlarged") as error:
        export_onnx(model, tmp_path / "m.onnx")

    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_other_results_than_torchs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def shifted(self: Enlarged, low: Tensor) -> Tensor:
        by = 0 if torch.onnx.is_in_onnx_export() else 2 * TOLERANCE
        return F.interpolate(self.conv(low), scale_factor=2) + by

    monkeypatch.setattr(Enlarged, "forward", shifted)

    with pytest.raises(ModelError, match=r"differs from torch by 0\.0002 at 16x16 packed pixels"):
        export_onnx(own_network("mynet:Enlarged", Enlarged), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_missing_packages_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
):
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(ModelError, match=r"pip install 'darkprep\[export\]'") as error:
        export_onnx(build_model("redirt"), tmp_path / "m.onnx")
    assert "\n" not in str(error.value)
