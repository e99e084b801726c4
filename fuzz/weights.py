"""A weights file of any bytes is refused by one ModelError, or its network can be used."""

from __future__ import annotations

import functools
import json
import struct
from pathlib import Path
from typing import Any

import torch
from torch import nn

from darkprep.model import load_model, save_weights
from darkprep.model.errors import ModelError
from darkprep.model.own import own_network
from darkprep.pipeline.raw.camera_colours import cameras_from_text
from fuzz.choices import Choices
from fuzz.memory import new_folder

PARTS = ("bytes", "header", "colours")
_NAME = "package.module:Network"
_COLOURS = [
    {"camera": "SONY ILCE-7SM2", "white_balance": [2.0, 1.0, 1.5], "to_srgb": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]},
]  # fmt: skip


def try_input(data: bytes) -> tuple[str, bool]:
    """Try one weights file; raise whatever its reader must not raise."""
    path, good = _prepared()
    choices = Choices(data)
    part = choices.one_of(PARTS)
    if part == "bytes":
        path.write_bytes(choices.edited(good))
    else:
        (size,) = struct.unpack("<Q", good[:8])
        header, tensors = json.loads(good[8 : 8 + size]), good[8 + size :]
        path.write_bytes(_with_header(_changed(header, part, choices), tensors))
    try:
        network = load_model(path, network=_module, name=_NAME)
    except ModelError as error:
        assert "\n" not in str(error), error
        return part, False
    with torch.no_grad():
        network.body(torch.ones(1, 4, 4, 4))
    found = cameras_from_text(network.cameras)
    return part, part != "colours" or bool(found)


def _changed(header: Any, part: str, choices: Choices) -> bytes:
    if part == "colours":
        header["__metadata__"]["cameras"] = choices.json(_COLOURS).decode("utf-8", "replace")
        return json.dumps(header).encode()
    return choices.json(header)


def _with_header(header: bytes, tensors: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + tensors


def _module() -> nn.Module:
    return nn.Conv2d(4, 3, 3)


@functools.cache
def _prepared() -> tuple[Path, bytes]:
    """The path of a weights file, and the good bytes of it."""
    torch.set_num_threads(1)
    path = new_folder() / "weights.safetensors"
    network = own_network(_NAME, _module)
    network.cameras = json.dumps(_COLOURS)
    save_weights(network, path, note="a note")
    return path, path.read_bytes()
