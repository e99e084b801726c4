"""Weights on disk: ours (safetensors, with the network's name) and the paper's released file.

The trade-off: strict in everything. A missing, extra, mis-shaped or non-finite tensor is refused
rather than skipped, and nothing that a file holds is ever executed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from darkprep.model.build import CfaKind, Network, build_model
from darkprep.model.errors import ModelError

PUBLISHED_LICENCE = (
    "The released REDIRT weights are the authors' (M. Lamba, K. Mitra, CVPR 2021): for "
    "non-commercial use only, patent pending (application 202141026548)."
)
"""To be shown to whoever imports the published file; it also travels in the imported file."""

FORMAT = "darkprep-weights-1"
_INPUT, _CUT_AT_BLACK = "input", "cut at black"
"""In the metadata of weights whose training made values below the black level 0 (REDIRT's code)."""

_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}

_PUBLISHED_MODULES = {
    "conv32x.0.0": "higher_scale_encoder.head.0",
    "conv32x.1.0": "higher_scale_encoder.head.1",
    "rdball.0": "higher_scale_encoder.gather",
    "resblock8x.conv1.0": "medium_scale_encoder.block.conv1",
    "resblock8x.conv2.0": "medium_scale_encoder.block.conv2",
    "conv2x.0": "lower_scale_encoder.conv",
    "conv_rdb8x.0": "fuse_block_1.lift",
    "conv32_8_cat.0.0": "fuse_block_1.mix",
    "conv32_8_cat.1.0": "fuse_block_1.expand",
    "conv_2_8_32.0": "fuse_block_2.conv",
}
_PUBLISHED_TENSORS = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
    "bias": "bias",
}
_PUBLISHED_LAYERS = (4, 5, 5)
"""Dense layers of RDB1, RDB2 and RDB3."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Stored:
    """A weights file that was read: whose it is, and its tensors under our names."""

    name: str
    cfa: CfaKind
    tensors: dict[str, Tensor]
    spoken: Mapping[str, str]
    """Our name of a tensor to the name that the file's owner knows it by."""
    cut_at_black: bool


def published_names() -> dict[str, str]:
    """Each tensor of the released checkpoint (63) under our name for it."""
    modules = dict(_PUBLISHED_MODULES)
    for block, layers in enumerate(_PUBLISHED_LAYERS):
        theirs, ours = f"RDB{block + 1}", f"higher_scale_encoder.blocks.{block}"
        for n in range(layers):
            # The convolution is the first thing in its layer, or the second, behind a rectifier.
            modules[f"{theirs}.dense_layers.{n}.conv.{min(n, 1)}"] = f"{ours}.dense.{n}"
        modules[f"{theirs}.conv_1x1.0"] = f"{ours}.squeeze"
    return {
        f"{theirs}.{their_tensor}": f"body.{ours}.{our_tensor}"
        for theirs, ours in modules.items()
        for their_tensor, our_tensor in _PUBLISHED_TENSORS.items()
        if their_tensor != "bias" or not _has_no_bias(theirs)
    }


def _has_no_bias(published_module: str) -> bool:
    return published_module.startswith(("RDB", "rdball"))


def load_weights(model: Network, path: str | os.PathLike[str]) -> None:
    """Fill `model` from our file or from the released checkpoint; all of it, or nothing.

    The released one was trained on inputs cut at the black level, which the model then knows.

    Raises ModelError when the file is missing, no weights file, of another network or colour
    filter array, or when a tensor is missing, unknown, mis-shaped or not finite.
    """
    _fill(model, _read(Path(path)), Path(path))


def load_model(path: str | os.PathLike[str]) -> Network:
    """Build the network that a weights file says it is for, and fill it. Raises ModelError."""
    stored = _read(Path(path))
    model = build_model(stored.name, stored.cfa)
    _fill(model, stored, Path(path))
    return model


def save_weights(model: Network, path: str | os.PathLike[str], *, note: str = "") -> None:
    """Write `model` as safetensors with its name and colour filter array; whole or not at all.

    `note` travels in the file's metadata. Raises OSError, which names `path`, when the disk refuses.
    """
    metadata = {"format": FORMAT, "name": model.name, "cfa": model.cfa} | (
        {"note": note} if note else {}
    )
    metadata |= {_INPUT: _CUT_AT_BLACK} if model.cut_at_black else {}
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    _replace(Path(path), save(tensors, metadata))


def import_published(
    source: str | os.PathLike[str], destination: str | os.PathLike[str]
) -> Network:
    """Turn the paper's released checkpoint into our file; PUBLISHED_LICENCE goes with it.

    Returns the filled network. Raises ModelError when `source` is anything else, or the file to write.
    """
    model = build_model("redirt", "bayer")
    stored = _read(Path(source))
    if not stored.spoken:
        raise ModelError(f"{source}: is a darkprep weights file already; nothing to import")
    _fill(model, stored, Path(source))
    if Path(destination).exists() and Path(source).samefile(destination):
        raise ModelError(f"{destination}: is the released file itself; name another one to write")
    save_weights(model, destination, note=PUBLISHED_LICENCE)
    return model


def _fill(model: Network, stored: _Stored, path: Path) -> None:
    if (stored.name, stored.cfa) != (model.name, model.cfa):
        raise ModelError(
            f"{path}: holds weights of {stored.name} ({stored.cfa}), not of {model.name} "
            f"({model.cfa}); build that one, or take another file"
        )
    wanted = model.state_dict()
    spoken = {name: stored.spoken.get(name, name) for name in wanted | stored.tensors}
    odd = {n for n, tensor in stored.tensors.items() if not _is_plain(tensor)}
    shaped = [n for n in wanted if n in stored.tensors and n not in odd]
    wrong = {
        "misses": [spoken[n] for n in wanted if n not in stored.tensors],
        "has unknown": [spoken[n] for n in stored.tensors if n not in wanted],
        "has other than plain floating-point numbers in": [spoken[n] for n in wanted if n in odd],
        "has mis-shaped": [
            f"{spoken[n]} {tuple(stored.tensors[n].shape)}, not {tuple(wanted[n].shape)}"
            for n in shaped
            if stored.tensors[n].shape != wanted[n].shape
        ],
        "has NaN or infinity in": [
            # As the network will hold them: a large float64 becomes infinite there.
            spoken[n]
            for n in shaped
            if not bool(torch.isfinite(stored.tensors[n].to(wanted[n].dtype)).all())
        ],
    }
    if any(wrong.values()):
        complaints = "; ".join(f"{what} {_some(names)}" for what, names in wrong.items() if names)
        raise ModelError(f"{path}: is not of {model.name} ({model.cfa}): {complaints}")
    model.load_state_dict(stored.tensors)
    model.cut_at_black = stored.cut_at_black


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor's numbers can be looked at: not sparse, quantised, of eight bits, or absent."""
    kind = (tensor.layout, tensor.device.type, tensor.is_nested)
    return tensor.dtype in _DTYPES and kind == (torch.strided, "cpu", False)


def _some(names: list[str]) -> str:
    """The first four names, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _read(path: Path) -> _Stored:
    """Read either kind of file; the first bytes tell which. Raises ModelError."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            # A pipe would wait for its other end.
            raise ModelError(f"{path}: is no regular file; name a file of weights")
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if start[8:] != b"{":
        return _read_published(path)
    if os.fsencode(path).decode(errors="replace") != str(path):
        raise ModelError(
            f"{path}: has a name that is not Unicode, which safetensors needs; rename it"
        )
    return _read_ours(path)


def _read_ours(path: Path) -> _Stored:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: is damaged: {_first_line(error)}") from error
    if metadata.get("format") != FORMAT:
        raise ModelError(f"{path}: is a safetensors file, but not one of darkprep's weights")
    cfa = cast(CfaKind, metadata.get("cfa", ""))
    return _Stored(
        name=metadata.get("name", ""),
        cfa=cfa,
        tensors=tensors,
        spoken={},
        cut_at_black=metadata.get(_INPUT) == _CUT_AT_BLACK,
    )


def _read_published(path: Path) -> _Stored:
    """Read the released torch file without ever executing what is in it."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # The unpickler meets arbitrary bytes here and answers with any exception there is.
        raise ModelError(
            f"{path}: is no weights file: neither safetensors nor a torch file of tensors alone "
            f"({type(error).__name__})"
        ) from error
    state = found.get("model") if isinstance(found, dict) else None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ModelError(f"{path}: is a torch file without the key 'model' of the released weights")
    ours = published_names()
    return _Stored(
        name="redirt",
        cfa="bayer",
        tensors={ours.get(str(name), str(name)): tensor for name, tensor in state.items()},
        spoken={our_name: name for name, our_name in ours.items()},
        cut_at_black=True,
    )


def _replace(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, flush it to the disk, and rename it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # nobody asked for the temporary
        raise


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
