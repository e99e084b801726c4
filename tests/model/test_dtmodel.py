"""Packages for editors: tiles without seams, and a validator that finds each broken rule."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from torch import Tensor, nn
from torch.nn import functional as F

from darkprep.model import (
    ModelError,
    Network,
    build_model,
    dtmodel_rules,
    own_network,
)
from darkprep.model.dtmodel import check_dtmodel, export_dtmodel
from darkprep.model.dtmodel_rules import package_faults
from darkprep.model.editor import SEAM_LIMIT, EditorNetwork, seam
from tests.support.changed_records import REMOVED, VALUES, changed, places

TILE = 128
Files = dict[str, bytes]


class Near(nn.Module):
    """Restores each pixel from the cells around it; with `reach`, from those that many cells above too."""

    def __init__(self, reach: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 12, 3, padding=1)
        self.reach = reach
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.zero_()  # type: ignore[union-attr]
            for colour, plane in enumerate((0, 1, 3)):
                self.conv.weight[4 * colour : 4 * colour + 4, plane, 1, 1] = 0.95
                self.conv.weight[4 * colour : 4 * colour + 4, plane, 1, 2] = 0.05

    def forward(self, low: Tensor) -> Tensor:
        x = F.pixel_shuffle(self.conv(low), 2)
        if self.reach:
            x = x + 0.5 * F.pad(x, (0, 0, 2 * self.reach, 0))[..., : x.shape[2], :]
        return x.clamp(0, 1)


def near(reach: int = 0) -> Network:
    return own_network("mynet:Near", Near(reach), target="linear")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("package") / "night.dtmodel"
    export_dtmodel(near(), path, amplification=100, tile=TILE)
    return path


@pytest.fixture(scope="module")
def files(package: Path) -> Files:
    with zipfile.ZipFile(package) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(files: Files, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_a_package_holds_what_the_editor_reads(package: Path, files: Files):
    assert list(files) == ["night/config.json", "night/model_bayer.onnx"]
    check_dtmodel(package)
    config = json.loads(files["night/config.json"])
    assert config["attributes"]["model_bayer"]["output_scale"] == "absolute"
    session = InferenceSession(files["night/model_bayer.onnx"])
    assert session.get_inputs()[0].shape == [1, 4, TILE, TILE]
    assert session.get_outputs()[0].shape == [1, 3, 2 * TILE, 2 * TILE]


def test_any_value_at_any_place_of_the_configuration_is_accepted_or_a_fault_of_one_line(
    files: Files, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(dtmodel_rules, "_onnx_faults", lambda *_: ())  # they need no configuration
    config = json.loads(files["night/config.json"])
    for place in places(config):
        for value in (*VALUES, REMOVED):
            data = json.dumps(changed(config, place, value)).encode()
            faults = package_faults(zipped(files | {"night/config.json": data}), "night.dtmodel")
            assert not any("\n" in fault for fault in faults), (place, value)


def test_equal_weights_give_equal_bytes(package: Path, tmp_path: Path):
    export_dtmodel(near(), tmp_path / "night.dtmodel", amplification=100, tile=TILE)

    assert (tmp_path / "night.dtmodel").read_bytes() == package.read_bytes()


def test_the_model_amplifies_and_keeps_what_is_too_bright_for_the_network():
    network = EditorNetwork(near(), 100).eval()
    planes = torch.full((1, 4, 32, 32), 0.004)
    planes[..., 16:, :] = torch.tensor([0.5, 0.6, 0.8, 0.9])[:, None, None]  # a lamp

    with torch.no_grad():
        restored = network(planes)

    assert torch.allclose(restored[..., :30, 4:60], torch.tensor(0.004))
    lamp = restored[0, :, 40:42, 20:22]
    assert torch.allclose(lamp[0], torch.tensor(0.5))
    assert torch.allclose(
        lamp[1], torch.tensor([[0.7, 0.6], [0.8, 0.7]])
    )  # G1 and G2 at their sites
    assert torch.allclose(lamp[2], torch.tensor(0.9))


def test_a_network_that_looks_within_the_overlap_has_no_seams():
    assert seam(EditorNetwork(near(), 100).eval(), 100, TILE) <= SEAM_LIMIT
    assert seam(lambda x: F.pixel_shuffle(x.repeat(1, 3, 1, 1), 2), 100, TILE) < 0.01


def test_a_network_that_looks_beyond_the_overlap_is_refused(tmp_path: Path):
    with pytest.raises(
        ModelError, match=r"its tiles differ from the whole frame by up to [\d.]+ of 255"
    ):
        export_dtmodel(near(reach=48), tmp_path / "far.dtmodel", amplification=100, tile=TILE)
    assert list(tmp_path.iterdir()) == []


def test_a_brightness_taken_from_the_tile_shows(tmp_path: Path):
    """What an amplification computed in the graph would do."""

    def network(planes: Tensor) -> Tensor:
        return F.pixel_shuffle(planes.repeat(1, 3, 1, 1), 2) * (0.003 / planes.mean())

    assert seam(network, 100, TILE) > 4 * SEAM_LIMIT


@pytest.mark.parametrize(("cfa", "target"), [("xtrans", "linear"), ("bayer", "srgb")])
def test_networks_of_another_form_are_refused(tmp_path: Path, cfa: Any, target: Any):
    with pytest.raises(ModelError, match=r"export it as \.onnx"):
        export_dtmodel(
            build_model("redirt", cfa, target), tmp_path / "m.dtmodel", amplification=100
        )


def renamed(name: str) -> Callable[[Files], Files]:
    return lambda files: {f"{name}/{one.partition('/')[2]}": data for one, data in files.items()}


def without(name: str) -> Callable[[Files], Files]:
    return lambda files: {one: data for one, data in files.items() if one != f"night/{name}"}


def more(name: str, data: bytes = b"") -> Callable[[Files], Files]:
    return lambda files: files | {name: data}


def first(name: str) -> Callable[[Files], Files]:
    return lambda files: {name: b""} | files


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda files: {}, "is an empty archive"),
        (first("LICENSE"), "its first entry 'LICENSE' is not in a directory"),
        (first("../x"), "its first entry '../x' is not in a directory"),
        (first("./x"), "its first entry './x' is not in a directory"),
        (first("/x"), "its first entry '/x' is not in a directory"),
        (first("a\\b/x"), "is not in a directory"),
        (renamed("other"), "its directory is other: name it other.dtmodel"),
        (more("night/../x"), "entry 'night/../x' has '..' in its name"),
        (more("other/x"), "entry 'other/x' is outside the only top directory night/"),
        (without("config.json"), "has no config.json"),
        (more("night/config.json", b"{"), "config.json is not JSON"),
        (more("night/config.json", b"[]"), "config.json is not an object"),
        (more("night/config.json", b" " * (1 << 21)), "has no config.json of at most 1 MiB"),
        (without("model_bayer.onnx"), "has neither model_bayer.onnx nor model_linear.onnx"),
        (more("night/model_xtrans.onnx"), "xtrans_v1 is reserved"),
        (more("night/model_bayer.onnx", b"x"), "model_bayer.onnx is not a valid ONNX model"),
        (more("night/model_linear.onnx", b"x"), "attributes.model_linear is missing"),
    ],
)
def test_a_broken_archive_is_found(files: Files, change: Callable[[Files], Files], fault: str):
    assert fault in "; ".join(package_faults(zipped(change(files)), "night.dtmodel"))


def test_a_package_that_unpacks_to_gigabytes_is_not_unpacked(files: Files, monkeypatch):
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("unpacks"))
    many = {f"night/{number}": b"" for number in range(1001)}
    large = bytearray(zipped({"night/model_bayer.onnx": b""}))
    size = large.rindex(b"PK\x01\x02") + 24  # of the file, in the archive's directory
    large[size : size + 4] = (2 << 30).to_bytes(4, "little")

    for content in (zipped(many), bytes(large)):
        found = package_faults(content, "night.dtmodel")
        assert found == ["holds more than 1000 files, or more than 1 GiB"]


def test_other_compressions_and_other_files_are_found(files: Files):
    assert (
        "neither stored nor deflated"
        in package_faults(zipped(files, zipfile.ZIP_LZMA), "night.dtmodel")[0]
    )
    assert "is not a zip archive" in package_faults(b"no archive", "night.dtmodel")[0]
    assert package_faults(zipped(files | {"night/LICENSE": b""}), "night.dtmodel") == []


BAYER = ("attributes", "model_bayer")


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        *(((name,), None, f"{name} is missing") for name in ("name", "description")),
        (("name",), 3, "name is missing or not a string"),
        (("id",), "other", "id is 'other', but the directory is 'night'"),
        (("task",), "denoise", "task is 'denoise', not 'rawdenoise'"),
        (("backend",), "torch", "backend is 'torch', not 'onnx'"),
        (("version",), "1", "version is '1', not of the form '1.0'"),
        (("version",), 1.0, "version is missing or not a string"),
        (("cpu_only",), "CoreML", "cpu_only must be a list"),
        (("cpu_only",), {"model_bayer": "CoreML"}, "cpu_only must be a list"),
        (("coreml_format",), "neural", "coreml_format must be"),
        (("num_inputs",), 2, "num_inputs is 2"),
        (("spatial_dims",), ["height"], "spatial_dims must be"),
        (("model_card",), "text", "model_card must be an object"),
        (("attributes",), None, "attributes is missing"),
        (("attributes", "input_sizes"), None, "attributes.input_sizes must be"),
        (("attributes", "input_sizes"), [64], "attributes.input_sizes must be"),
        (
            ("attributes", "input_sizes"),
            [256],
            "its input is (1, 4, 128, 128), not (1, 4, 256, 256)",
        ),
        (("attributes", "model_bayer"), None, "attributes.model_bayer is missing"),
        (("attributes", "variants"), None, "attributes.variants is missing"),
        (("attributes", "variants", "bayer", "onnx"), "b.onnx", "variants.bayer must be"),
        (("attributes", "variants", "bayer", "wb_norm"), "as_shot", "variants.bayer differ"),
        (("attributes", "variants", "xtrans"), {}, "xtrans_v1 is reserved"),
        ((*BAYER, "input_kind"), "linear_v1", "input_kind is 'linear_v1', not 'bayer_v1'"),
        ((*BAYER, "input_kind"), "bayer_v2", "input_kind is 'bayer_v2', not one of"),
        ((*BAYER, "wb_norm"), "flash", "wb_norm is 'flash', not one of"),
        ((*BAYER, "output_scale"), "gain", "output_scale is 'gain', not one of"),
        ((*BAYER, "bayer_orientation"), "grbg", "bayer_orientation is 'grbg', not one of"),
        ((*BAYER, "edge_pad"), "zero", "edge_pad is 'zero', not one of"),
        ((*BAYER, "input_colorspace"), "srgb", "input_colorspace is 'srgb', not one of"),
        ((*BAYER, "input_colorspace"), "camRGB", "input_colorspace is for linear models only"),
        ((*BAYER, "target_mean"), 0.3, "target_mean is 0.3, not a number as a string"),
    ],
)
def test_a_broken_rule_of_the_configuration_is_found(
    files: Files, key: tuple[str, ...], value: Any, fault: str
):
    config = json.loads(files["night/config.json"])
    at = config
    for name in key[:-1]:
        at = at[name]
    if value is None:
        del at[key[-1]]
    else:
        at[key[-1]] = value

    found = package_faults(
        zipped(files | {"night/config.json": json.dumps(config).encode()}), "night.dtmodel"
    )

    assert fault in "; ".join(found)


def two_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("second", onnx.TensorProto.FLOAT, [1])
    )


def dynamic(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"


def integers(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT8


def external(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (two_inputs, "has 2 inputs and 1 outputs"),
        (dynamic, "its input is (1, 4, 0, 128)"),
        (integers, "its input is not of floating-point numbers"),
        (external, "has weights in another file"),
    ],
)
def test_a_model_of_another_form_is_found(
    files: Files, change: Callable[[onnx.ModelProto], None], fault: str
):
    model = onnx.load_from_string(files["night/model_bayer.onnx"])
    change(model)
    changed = files | {"night/model_bayer.onnx": model.SerializeToString()}

    assert fault in "; ".join(package_faults(zipped(changed), "night.dtmodel"))


def test_the_faults_of_a_file_are_one_line(tmp_path: Path):
    (tmp_path / "m.dtmodel").write_bytes(b"")

    with pytest.raises(ModelError, match=r"m\.dtmodel: is not a zip archive"):
        check_dtmodel(tmp_path / "m.dtmodel")
