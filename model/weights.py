"""Weights files: darkprep's (safetensors, with the network's name) and the checkpoint of REDIRT's authors.

Reading is strict: a file is refused if a tensor is missing, unknown, of the wrong shape or
not finite, and nothing in a file is ever executed.
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

from darkprep.model.build import CfaKind, Network, Target, build_model
from darkprep.model.errors import ModelError
from darkprep.model.files import write_atomically
from darkprep.model.input_form import InputForm, PlaneOrder
from darkprep.model.own import NetworkSource, is_own, own_network
from darkprep.model.torch_file import check_torch_file

PUBLISHED_LICENCE = (
    "The released REDIRT weights are the authors' (M. Lamba, K. Mitra, CVPR 2021): for "
    "non-commercial use only, patent pending (application 202141026548)."
)
"""Shown when the published file is imported, and written into the imported file."""

FORMAT = "darkprep-weights-1"
_INPUT, _CUT_AT_BLACK = "input", "cut at black"
"""Metadata of weights whose training clipped the input at the black level, as REDIRT's code does."""
_TARGET, _PLANE_ORDER = "target", "plane order"
"""Metadata of weights of another target than `srgb`, or of another plane order than RGGB."""

_NOISE_MAP, _SHOT_AND_READ = "noise map", "shot and read noise"
"""Metadata of weights of a network that reads a noise-level map."""
_CAMERAS = "cameras"
"""Metadata with the colours of the training cameras."""

_LARGEST_FILE = 4 << 30
"""Bytes of a weights file at most: a thousand times those of the networks here, because all of it is read into memory."""
_LARGEST_HEADER = 4 << 20
"""Bytes of names and metadata of a safetensors file at most: enough for 30,000 tensors."""
_LARGEST_PUBLISHED = 64 << 20
"""Bytes of the released torch file at most: it has 3 MB, and torch copies all of it into memory."""
_LONGEST_NOTE = 2000
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
class _WeightsFile:
    """The content of a weights file."""

    name: str
    """Of the network."""
    cfa: CfaKind
    tensors: dict[str, Tensor]
    """By darkprep's names."""
    published_names: Mapping[str, str]
    """darkprep's name of a tensor to its name in the released file; empty for a darkprep file."""
    target: Target
    input_form: InputForm
    noise_map: bool = False
    cameras: str = ""
    """The colours of the training cameras as text."""
    note: str = ""


def published_names() -> dict[str, str]:
    """Map each of the 63 tensor names of the released checkpoint to darkprep's name."""
    modules = dict(_PUBLISHED_MODULES)
    for block, layers in enumerate(_PUBLISHED_LAYERS):
        theirs, ours = f"RDB{block + 1}", f"higher_scale_encoder.blocks.{block}"
        for n in range(layers):
            # In its layer the convolution comes first, or second after a rectifier.
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
    """Load a darkprep weights file or the released checkpoint into `model`; on an error `model` is not changed.

    With the released weights, inference clips the input at the black level, as the authors' training did.

    Raises ModelError when the file is missing, not a weights file, or of another network or colour filter
    array, and when a tensor is missing, unknown, of the wrong shape or not finite.
    """
    _load_into(model, _read(Path(path)), Path(path))


def load_model(
    path: str | os.PathLike[str], *, network: NetworkSource | None = None, name: str = ""
) -> Network:
    """Build the network that a weights file names, load the weights, and return the network. Raises ModelError.

    For weights of a user's own network, pass the network as `network` (as for `own_network`) and the `name`
    under which it was trained: for safety, code that only a file names is never imported.
    """
    stored = _read(Path(path))
    if is_own(stored.name) and network is None:
        raise ModelError(
            f"{path}: holds weights of {stored.name}, a network of your own; give --model {stored.name} (for safety, darkprep imports only code that you name yourself)"
        )
    if network is None:
        model = build_model(stored.name, stored.cfa, stored.target, noise_map=stored.noise_map)
    else:
        model = own_network(
            name or stored.name, network, stored.cfa, stored.target, noise_map=stored.noise_map
        )
    _load_into(model, stored, Path(path))
    return model


def save_weights(model: Network, path: str | os.PathLike[str], *, note: str = "") -> None:
    """Write `model` as safetensors with its name and the form of its input and output; on an error no file is left.

    `note` is written into the file's metadata. Raises OSError, which names `path`.
    """
    metadata = {"format": FORMAT, "name": model.name, "cfa": model.cfa} | (
        {"note": note} if note else {}
    )
    form = model.input_form
    metadata |= {_INPUT: _CUT_AT_BLACK} if form.cut_at_black else {}
    metadata |= {_TARGET: model.target} if model.target != "srgb" else {}
    metadata |= {_PLANE_ORDER: form.plane_order} if form.plane_order != "RGGB" else {}
    metadata |= {_NOISE_MAP: _SHOT_AND_READ} if model.noise_map else {}
    metadata |= {_CAMERAS: model.cameras} if model.cameras else {}
    # Copies, because safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    write_atomically(Path(path), save(tensors, metadata))


def import_published(
    source: str | os.PathLike[str], destination: str | os.PathLike[str], *, cameras: str = ""
) -> Network:
    """Convert the checkpoint released by REDIRT's authors to a darkprep file that includes PUBLISHED_LICENCE.

    `cameras` are the colours of its training camera, as `Network.cameras` holds them. Returns the network with its weights. Raises ModelError when `source` is not the released checkpoint or
    is the same file as `destination`, OSError when `destination` cannot be written.
    """
    model = build_model("redirt", "bayer")
    stored = _read(Path(source))
    if not stored.published_names:
        raise ModelError(
            f"{source}: is already a darkprep weights file; use it without importing it"
        )
    _load_into(model, stored, Path(source))
    if Path(destination).exists() and Path(source).samefile(destination):
        raise ModelError(f"{destination}: is the released file itself; choose another output file")
    model.cameras = cameras
    save_weights(model, destination, note=PUBLISHED_LICENCE)
    return model


def _load_into(model: Network, stored: _WeightsFile, path: Path) -> None:
    wanted_kind = (model.name, model.cfa, model.target, model.noise_map)
    if (stored.name, stored.cfa, stored.target, stored.noise_map) != wanted_kind:
        raise ModelError(
            f"{path}: holds weights of {stored.name} ({_kind(stored)}), not of {model.name} "
            f"({_kind(model)}); create the network {stored.name} ({_kind(stored)}) instead, or choose a file for {model.name}"
        )
    wanted = model.state_dict()
    in_file = {name: stored.published_names.get(name, name) for name in wanted | stored.tensors}
    unusable = {n for n, tensor in stored.tensors.items() if not _is_usable(tensor, wanted.get(n))}
    shared = [n for n in wanted if n in stored.tensors and n not in unusable]
    wrong = {
        "lacks": [in_file[n] for n in wanted if n not in stored.tensors],
        "has unknown": [in_file[n] for n in stored.tensors if n not in wanted],
        "has no dense floating-point numbers in": [in_file[n] for n in wanted if n in unusable],
        "has the wrong shape in": [
            f"{in_file[n]} {tuple(stored.tensors[n].shape)}, not {tuple(wanted[n].shape)}"
            for n in shared
            if stored.tensors[n].shape != wanted[n].shape
        ],
        "has NaN or infinity in": [
            # In the network's type, in which a large float64 becomes infinite.
            in_file[n]
            for n in shared
            if stored.tensors[n].shape == wanted[n].shape  # others may be of any size
            and not bool(torch.isfinite(stored.tensors[n].to(wanted[n].dtype)).all())
        ],
    }
    if any(wrong.values()):
        problems = "; ".join(
            f"{what} {_abbreviated(names)}" for what, names in wrong.items() if names
        )
        raise ModelError(
            f"{path}: does not fit {model.name} ({model.cfa}): {problems}; choose another file"
        )
    model.load_state_dict(stored.tensors)
    model.input_form = stored.input_form
    model.cameras = stored.cameras
    model.note = stored.note


def _kind(network: _WeightsFile | Network) -> str:
    """Return the CFA, the target unless it is `srgb`, and whether there is a noise-level map, as text."""
    target = [] if network.target == "srgb" else [network.target]
    noise = ["with a noise-level map"] if network.noise_map else []
    return ", ".join([network.cfa, *target, *noise])


def _is_usable(tensor: Tensor, wanted: Tensor | None) -> bool:
    """Whether a tensor can be loaded: dense, with data, and floating point of 16 bits or more, or a count if that is wanted."""
    kind = (tensor.layout, tensor.device.type, tensor.is_nested)
    is_count = (
        wanted is not None and not wanted.is_floating_point() and tensor.dtype == wanted.dtype
    )
    return (tensor.dtype in _DTYPES or is_count) and kind == (torch.strided, "cpu", False)


def _abbreviated(names: list[str]) -> str:
    """Return the first four names as text, followed by the number of further names."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _read(path: Path) -> _WeightsFile:
    """Read a weights file; its first bytes show whether it is a darkprep or a released file. Raises ModelError."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            # Opening a pipe would wait for its other end.
            raise ModelError(f"{path}: is not a regular file; choose a weights file")
        with path.open("rb") as file:
            start = file.read(9)
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    if size > _LARGEST_FILE:
        raise ModelError(
            f"{path}: is larger than {_LARGEST_FILE >> 30} GiB, so it is not a weights file; choose another file"
        )
    if start[8:] != b"{":
        if size > _LARGEST_PUBLISHED:
            raise ModelError(
                f"{path}: is not a weights file: it is not of safetensors, and larger than the released checkpoint; choose another file"
            )
        return _read_published(path)
    if int.from_bytes(start[:8], "little") > _LARGEST_HEADER:
        raise ModelError(
            f"{path}: is not a weights file: its header is larger than {_LARGEST_HEADER >> 20} MiB; choose another file"
        )
    if os.fsencode(path).decode(errors="replace") != str(path):
        raise ModelError(
            f"{path}: has a name that is not Unicode, which safetensors requires; rename it"
        )
    return _read_darkprep(path)


def _read_darkprep(path: Path) -> _WeightsFile:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: is damaged ({_first_line(error)}); copy or create it again"
        ) from error
    if metadata.get("format") != FORMAT:
        raise ModelError(
            f"{path}: is a safetensors file, but does not hold weights of darkprep; choose a file that darkprep wrote"
        )
    cfa = cast(CfaKind, metadata.get("cfa", ""))
    try:
        form = InputForm(
            plane_order=cast(PlaneOrder, metadata.get(_PLANE_ORDER, "RGGB")),
            cut_at_black=metadata.get(_INPUT) == _CUT_AT_BLACK,
        )
    except ModelError as error:
        raise ModelError(f"{path}: is damaged ({error}); copy or create it again") from error
    note = metadata.get("note", "")
    if len(note) > _LONGEST_NOTE:
        raise ModelError(
            f"{path}: is damaged (its note has more than {_LONGEST_NOTE} characters); copy or create it again"
        )
    return _WeightsFile(
        name=metadata.get("name", ""),
        cfa=cfa,
        tensors=tensors,
        published_names={},
        target=cast(Target, metadata.get(_TARGET, "srgb")),
        input_form=form,
        noise_map=metadata.get(_NOISE_MAP) == _SHOT_AND_READ,
        cameras=metadata.get(_CAMERAS, ""),
        note=note,
    )


def _read_published(path: Path) -> _WeightsFile:
    """Read the released torch file without executing anything in it."""
    try:
        with path.open("rb") as file:
            if check_torch_file(file) is not None:
                raise ValueError("wrong checksum")
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # On arbitrary bytes the unpickler raises exceptions of any class.
        raise ModelError(
            f"{path}: is not a weights file: neither safetensors nor a torch file of tensors only "
            f"({type(error).__name__}); choose another file"
        ) from error
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ModelError(
            f"{path}: is a torch file, but not the released checkpoint: it has no key 'model'; choose another file"
        )
    ours = published_names()
    return _WeightsFile(
        name="redirt",
        cfa="bayer",
        tensors={ours.get(str(name), str(name)): tensor for name, tensor in state.items()},
        published_names={our_name: name for name, our_name in ours.items()},
        target="srgb",
        input_form=InputForm(cut_at_black=True),
        note=PUBLISHED_LICENCE,
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
