"""What darktable demands of a package for its raw denoise (`.dtmodel`), as checks of a file's content.

The trade-off: what darktable accepts with a warning and a default, such as a value that it does not have, is a
fault here. A package that passes behaves as it states, in the release 5.6 and in the development version before it.

Source: darktable, src/common/ai_models.c and src/common/ai/restore.c; darktable-ai-sdk, docs/dtmodel-format.md.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

CONFIG = "config.json"
SMALLEST_TILE = 128
"""Packed pixels: below four overlaps of 32 the ramps of neighbouring tiles do not add up to 1."""

_LARGEST_CONFIG = 1 << 20
_LARGEST_PACKAGE, _MOST_ENTRIES = 1 << 30, 1000
"""Bytes of what is unpacked in memory, and files, at most."""
_TEXTS = ("id", "name", "description", "task", "backend", "version")
_VERSION = re.compile(r"\d+\.\d+")
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1
"""Flag of an encrypted entry of a zip archive."""

_VALUES = {
    "input_kind": ("bayer_v1", "xtrans_v1", "linear_v1"),
    "wb_norm": ("daylight", "as_shot", "none"),
    "output_scale": ("match_gain", "absolute"),
    "bayer_orientation": ("force_rggb", "native"),
    "edge_pad": ("mirror_cropped", "mirror"),
    "input_colorspace": ("lin_rec2020", "camRGB", "srgb_linear"),
}
"""The values that darktable has for each attribute of a model."""
_LINEAR_ONLY = ("input_colorspace", "target_mean")


@dataclass(frozen=True, kw_only=True)
class _Slot:
    """One of the models that a package may hold."""

    kind: str
    """Its `input_kind`."""
    planes: int
    """Channels of the input; the output has three."""
    scale: int
    """Pixels of the output per pixel of the input, in each direction."""


_SLOTS = {
    "bayer": _Slot(kind="bayer_v1", planes=4, scale=2),
    "linear": _Slot(kind="linear_v1", planes=3, scale=1),
}


def model_file(slot: str) -> str:
    """Return the name of a slot's ONNX file, which is fixed."""
    return f"model_{slot}.onnx"


def package_faults(content: bytes, file_name: str) -> list[str]:
    """Return a line for each rule that a package breaks; an empty list for a valid one.

    `content` is that of the file `file_name`. Nothing is unpacked to the disk. Needs the package onnx.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            faults = list(_archive_faults(entries, file_name))
            if faults:
                return faults
            top = PurePosixPath(entries[0].filename).parts[0]
            files = {
                entry.filename.removeprefix(f"{top}/"): archive.read(entry)
                for entry in entries
                if _is_read(entry, top)
            }
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        return [f"is not a zip archive that can be read ({error})"]
    return list(_file_faults(files, top))


def _is_read(entry: zipfile.ZipInfo, top: str) -> bool:
    """Whether an entry is a file that darktable reads."""
    name = entry.filename.removeprefix(f"{top}/")
    return (name == CONFIG and entry.file_size <= _LARGEST_CONFIG) or name.endswith(".onnx")


def _archive_faults(entries: list[zipfile.ZipInfo], file_name: str) -> Iterator[str]:
    if not entries:
        yield "is an empty archive"
        return
    if len(entries) > _MOST_ENTRIES or sum(one.file_size for one in entries) > _LARGEST_PACKAGE:
        yield f"holds more than {_MOST_ENTRIES} files, or more than {_LARGEST_PACKAGE >> 30} GiB"
        return
    top = entries[0].filename.partition("/")[0]
    if top in ("", ".", "..") or "\\" in top or "/" not in entries[0].filename:
        yield f"its first entry {entries[0].filename!r} is not in a directory that can be the model's id"
        return
    if file_name != f"{top}.dtmodel":
        yield f"is named {file_name}, but its directory is {top}: name it {top}.dtmodel"
    for entry in entries:
        name = entry.filename
        if ".." in name:
            yield f"entry {name!r} has '..' in its name and is not installed"
        elif not name.startswith(f"{top}/"):
            yield f"entry {name!r} is outside the only top directory {top}/"
        if entry.compress_type not in _COMPRESSIONS or entry.flag_bits & _ENCRYPTED:
            yield f"entry {name!r} is neither stored nor deflated plainly"


def _file_faults(files: dict[str, bytes], top: str) -> Iterator[str]:
    try:
        config = json.loads(files[CONFIG])
    except KeyError:
        yield f"has no {CONFIG} of at most 1 MiB"
        return
    except (ValueError, RecursionError) as error:
        yield f"{CONFIG} is not JSON ({error})"
        return
    if not isinstance(config, dict):
        yield f"{CONFIG} is not an object"
        return
    yield from _config_faults(config, top)
    yield from _option_faults(config)
    attributes = config.get("attributes")
    if not isinstance(attributes, dict):
        yield "attributes is missing or not an object"
        return
    tile = _tile(attributes)
    if tile is None:
        yield f"attributes.input_sizes must be a list of whole numbers from {SMALLEST_TILE}, the tile's size first"
    yield from _slots_faults(attributes, files, tile)


def _config_faults(config: dict[str, Any], top: str) -> Iterator[str]:
    for name in _TEXTS:
        if not isinstance(config.get(name), str) or not config[name]:
            yield f"{name} is missing or not a string"
    if config.get("id") != top:
        yield f"id is {config.get('id')!r}, but the directory is {top!r}"
    if config.get("task") != "rawdenoise":
        yield f"task is {config.get('task')!r}, not 'rawdenoise'"
    if config.get("backend") != "onnx":
        yield f"backend is {config.get('backend')!r}, not 'onnx'"
    if not _VERSION.fullmatch(str(config.get("version"))):
        yield f"version is {config.get('version')!r}, not of the form '1.0'"


def _option_faults(config: dict[str, Any]) -> Iterator[str]:
    """Check the keys that a package need not have."""
    providers = config.get("cpu_only", [])
    lists = list(providers.values()) if isinstance(providers, dict) else [providers]
    if not all(_is_texts(one) for one in lists):
        yield "cpu_only must be a list of providers, or an object of such lists by model"
    formats = config.get("coreml_format", "mlprogram")
    of_models = formats.values() if isinstance(formats, dict) else [formats]
    if any(one != "mlprogram" for one in of_models):
        yield "coreml_format must be 'mlprogram', or an object with it by model"
    if config.get("num_inputs", 1) != 1:
        yield f"num_inputs is {config['num_inputs']!r}, but a raw denoise model has one input"
    if "spatial_dims" in config and not (
        _is_texts(config["spatial_dims"]) and len(config["spatial_dims"]) == 2
    ):
        yield "spatial_dims must be the names of two axes, such as ['height', 'width']"
    if not isinstance(config.get("model_card", {}), dict):
        yield "model_card must be an object"


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _tile(attributes: dict[str, Any]) -> int | None:
    """Return the size of a tile, the first of `input_sizes`; None if it is invalid."""
    sizes = attributes.get("input_sizes")
    if not isinstance(sizes, list) or not sizes:
        return None
    valid = all(type(one) is int and one >= SMALLEST_TILE for one in sizes)
    return sizes[0] if valid else None


def _slots_faults(
    attributes: dict[str, Any], files: dict[str, bytes], tile: int | None
) -> Iterator[str]:
    variants = attributes.get("variants")
    if not isinstance(variants, dict):
        yield "attributes.variants is missing or not an object (read before darktable 5.6)"
        variants = {}
    if model_file("xtrans") in files or "model_xtrans" in attributes or "xtrans" in variants:
        yield "holds a model for X-Trans, whose form xtrans_v1 is reserved and not defined"
    slots = [slot for slot in _SLOTS if model_file(slot) in files]
    if not slots:
        yield f"has neither {' nor '.join(map(model_file, _SLOTS))}"
    for slot in slots:
        released, earlier = attributes.get(f"model_{slot}"), variants.get(slot)
        if not isinstance(released, dict):
            yield f"attributes.model_{slot} is missing or not an object (read by darktable 5.6)"
            released = {}
        if not isinstance(earlier, dict) or earlier.get("onnx") != model_file(slot):
            yield f"attributes.variants.{slot} must be an object with onnx {model_file(slot)!r}"
            earlier = {"onnx": model_file(slot)}
        if {**released, "onnx": model_file(slot)} != earlier:
            yield f"attributes.model_{slot} and attributes.variants.{slot} differ"
        yield from _value_faults(released, slot)
        yield from _onnx_faults(files[model_file(slot)], slot, tile)


def _value_faults(block: dict[str, Any], slot: str) -> Iterator[str]:
    for name, value in block.items():
        if name in _VALUES and value not in _VALUES[name]:
            yield f"model_{slot}: {name} is {value!r}, not one of {', '.join(_VALUES[name])}"
        if name in _LINEAR_ONLY and slot != "linear":
            yield f"model_{slot}: {name} is for linear models only"
    if block.get("input_kind", _SLOTS[slot].kind) != _SLOTS[slot].kind:
        yield f"model_{slot}: input_kind is {block['input_kind']!r}, not {_SLOTS[slot].kind!r}"
    mean = block.get("target_mean", "null")
    if not (isinstance(mean, str) and (mean == "null" or re.fullmatch(r"\d+(\.\d+)?", mean))):
        yield f"model_{slot}: target_mean is {mean!r}, not a number as a string or 'null'"


def _onnx_faults(content: bytes, slot: str, tile: int | None) -> Iterator[str]:
    import onnx
    from google.protobuf.message import DecodeError

    name = model_file(slot)
    try:
        model = onnx.load_from_string(content)
        if any(
            tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer
        ):
            yield f"{name} has weights in another file, which is not installed with it"
            return
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        yield f"{name} is not a valid ONNX model ({str(error).splitlines()[0] if str(error) else 'no reason given'})"
        return
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in weights]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        yield f"{name} has {len(inputs)} inputs and {len(model.graph.output)} outputs, not one of each"
        return
    form, side = _SLOTS[slot], tile or 0
    pixels = form.scale * side
    wanted = {"input": (1, form.planes, side, side), "output": (1, 3, pixels, pixels)}
    for what, found in (("input", inputs[0]), ("output", model.graph.output[0])):
        kind = found.type.tensor_type
        if kind.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
            yield f"{name}: its {what} is not of floating-point numbers"
        shape = tuple(axis.dim_value for axis in kind.shape.dim)  # 0 where the size is not fixed
        if tile and shape != wanted[what]:
            yield f"{name}: its {what} is {shape}, not {wanted[what]} as input_sizes states"
