"""`export-model`: ONNX and packages for editors from weights files, and what it refuses in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from darkprep.model import (
    PUBLISHED_LICENCE,
    CfaKind,
    Target,
    build_model,
    own_network,
    save_weights,
)
from darkprep.model.dtmodel import check_dtmodel
from tests.support.command_line import Call

NET = """
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 12, 3, padding=1)

    def forward(self, low):
        return F.pixel_shuffle(self.conv(low), 2).clamp(0, 1)
"""
DTMODEL = ("--amplify", "100", "night.dtmodel")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own_code() -> Iterator[None]:
    path = list(sys.path)
    Path("mynet.py").write_text(NET)
    yield
    sys.path[:] = path
    sys.modules.pop("mynet", None)


def weights(
    cfa: CfaKind = "bayer", target: Target = "srgb", name: str = "redirt", note: str = ""
) -> str:
    torch.manual_seed(0)
    save_weights(build_model(name, cfa, target), "w.safetensors", note=note)
    return "w.safetensors"


def own_weights() -> str:
    """Weights of NET that pass each pixel of the input on, and a tenth of the one beside it."""
    scope: dict[str, Any] = {}
    exec(NET, scope)
    net = scope["Net"]()
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.zero_()
        for colour, plane in ((0, 0), (1, 1), (2, 3)):
            net.conv.weight[4 * colour : 4 * colour + 4, plane, 1, 1] = 0.9
            net.conv.weight[4 * colour : 4 * colour + 4, plane, 1, 2] = 0.1
    save_weights(own_network("mynet:Net", net, target="linear"), "own.safetensors")
    return "own.safetensors"


def test_the_file_is_written_and_its_check_is_printed(call: Call):
    result = call("export-model", "--weights", weights(note=PUBLISHED_LICENCE), "night.onnx")

    assert result.exit_code == 0
    assert result.stdout.startswith("wrote night.onnx: ONNX opset 17, ")
    assert "differs from torch by at most" in result.stdout
    assert PUBLISHED_LICENCE in result.stdout
    stated = {entry.key: entry.value for entry in onnx.load("night.onnx").metadata_props}
    assert stated["darkprep.note"] == PUBLISHED_LICENCE


def test_a_network_of_ones_own_needs_its_name(
    call: Call, complaint: Callable[..., str], own_code: None
):
    file = own_weights()

    assert "give --model mynet:Net" in complaint("export-model", "--weights", file, "own.onnx")
    assert (
        call("export-model", "--weights", file, "--model", "mynet:Net", "own.onnx").exit_code == 0
    )
    assert Path("own.onnx").exists()


def test_a_network_that_looks_at_near_pixels_becomes_a_package(call: Call, own_code: None):
    result = call("export-model", "--weights", own_weights(), "--model", "mynet:Net", *DTMODEL)

    assert result.exit_code == 0, result.output
    assert "tiles differ from the whole frame by" in result.stdout
    check_dtmodel("night.dtmodel")


@pytest.mark.parametrize(
    ("cfa", "target", "arguments", "reason"),
    [
        ("bayer", "srgb", ["night.pt"], "ends in .onnx or .dtmodel"),
        (
            "bayer",
            "srgb",
            ["--amplify", "2", "night.onnx"],
            "--amplify can be used only for a .dtmodel",
        ),
        ("bayer", "linear", ["night.dtmodel"], "needs --amplify FACTOR"),
        ("bayer", "linear", ["--amplify", "0", "night.dtmodel"], "amplify must be 1 to"),
        ("bayer", "srgb", DTMODEL, "train on a spool that was built with --target linear"),
        ("bayer", "raw", DTMODEL, "train on a spool that was built with --target linear"),
        ("xtrans", "linear", DTMODEL, "reserves the name xtrans_v1"),
        ("bayer", "srgb", ["none/night.onnx"], "is not a directory"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    complaint: Callable[..., str], cfa: CfaKind, target: Target, arguments: list[str], reason: str
):
    file = weights(cfa, target)

    assert reason in complaint("export-model", "--weights", file, *arguments)
    assert [path.name for path in Path().iterdir()] == [file]


def test_a_package_whose_seams_would_show_is_refused_with_the_figure(
    complaint: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("darkprep.model.dtmodel.export_dtmodel.__kwdefaults__", {"tile": 128})
    file = weights("bayer", "linear")

    line = complaint("export-model", "--weights", file, *DTMODEL)

    assert "in tiles of 128 packed pixels" in line
    assert float(line.split("by up to ")[1].split(" of 255")[0]) > 1
    assert not Path("night.dtmodel").exists()


def test_the_weights_file_is_not_replaced(complaint: Callable[..., str]):
    Path("w.onnx").symlink_to(weights())

    assert "is the weights file itself" in complaint(
        "export-model", "--weights", "w.safetensors", "w.onnx"
    )
