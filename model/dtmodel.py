"""Write a network as a package for darktable's raw denoise: a `.dtmodel` of the form `bayer_v1`.

The trade-off: a package whose tiles would show in the picture is not written, though darktable would run it.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from darkprep.model.build import Network
from darkprep.model.dtmodel_rules import CONFIG, model_file, package_faults
from darkprep.model.editor import SEAM_LIMIT, TILE, EditorNetwork, artificial_frame, seam
from darkprep.model.errors import ModelError
from darkprep.model.export import (
    OPSET,
    TOLERANCE,
    ExportedOnnx,
    contract,
    largest_error,
    onnx_bytes,
    require_packages,
)
from darkprep.model.files import write_atomically

_BLOCK = {
    "input_kind": "bayer_v1",
    "bayer_orientation": "force_rggb",
    "edge_pad": "mirror_cropped",
    "wb_norm": "none",  # networks are trained on codes without white balance
    "output_scale": "absolute",  # a gain for each tile would make tiles of different brightness
}
_TIME = (1980, 1, 1, 0, 0, 0)
"""Of every entry, so that equal weights give equal bytes."""


@dataclass(frozen=True, kw_only=True)
class ExportedPackage:
    """What was written, and how it was checked."""

    onnx: ExportedOnnx
    """The model in the package; `path` is the package's."""
    seam: float
    """Largest difference between tiles and whole frame, in steps of an 8-bit picture."""


def export_dtmodel(
    model: Network, path: str | os.PathLike[str], *, amplification: float, tile: int = TILE
) -> ExportedPackage:
    """Write `model`, of Bayer and the target `linear`, to `path` as a package for editors.

    `path` ends in `.dtmodel`; its stem becomes the package's id. The model multiplies its input by `amplification`
    and divides its result by it. `tile` is the packed size of a tile, a multiple of `model.multiple` and at least
    128.

    Raises ModelError when the network has another form or onnx is not installed, when tiles differ from the whole
    frame by more than SEAM_LIMIT steps of an 8-bit picture, when ONNX Runtime differs from torch, or when the package
    breaks a rule of darktable. Then nothing is written. Raises OSError, which names `path`.
    """
    path = Path(path)
    require_packages()
    network = EditorNetwork(model, amplification).eval()
    difference = seam(network, amplification, tile)
    if not difference <= SEAM_LIMIT:  # true for NaN
        raise ModelError(
            f"{model.name}: photo editors run it in tiles of {tile} packed pixels; its tiles differ from the whole frame by up to {difference:.1f} of 255, and seams are visible above {SEAM_LIMIT:g} of 255; export the network as .onnx, or train a network with a smaller receptive field"
        )
    content = onnx_bytes(
        network,
        artificial_frame(tile) / amplification,
        model.name,
        properties=contract(model) | _editor_contract(amplification, tile),
    )
    frame = artificial_frame(tile)
    dark = [frame / amplification, torch.zeros_like(frame)]
    error = max(
        largest_error(content, network, model.name, dark, scale=amplification),
        largest_error(content, network, model.name, [3 * frame - 1]),  # far out of range
    )
    package = _package(path.stem, model, amplification, tile, content)
    faults = package_faults(package, path.name)
    if faults:
        raise ModelError(f"{path}: is not a valid package: {'; '.join(faults)}")
    write_atomically(path, package)
    return ExportedPackage(
        onnx=ExportedOnnx(
            path=path,
            size_bytes=len(package),
            opset=OPSET,
            largest_error=error,
            sizes=((tile, tile),),
        ),
        seam=difference,
    )


def check_dtmodel(path: str | os.PathLike[str]) -> None:
    """Raise ModelError, which names each rule of darktable that the package at `path` breaks; OSError if it cannot be read."""
    path = Path(path)
    require_packages()
    faults = package_faults(path.read_bytes(), path.name)
    if faults:
        raise ModelError(f"{path}: {'; '.join(faults)}")


def _editor_contract(amplification: float, tile: int) -> dict[str, str]:
    """Return the metadata in which the editor's form differs from the network's own."""
    return {
        "darkprep.input": f"float32 (1, 4, {tile}, {tile})",
        "darkprep.amplification": f"none before the model: it multiplies its input by {amplification:g} and divides its result by it",
        "darkprep.output": f"float32 (1, 3, {2 * tile}, {2 * tile})",
        "darkprep.output_values": "linear camera RGB, black 0, white 1, at the input's exposure",
    }


def _package(name: str, model: Network, amplification: float, tile: int, content: bytes) -> bytes:
    file = model_file("bayer")
    attributes = {
        "input_sizes": [tile],
        "model_bayer": _BLOCK,  # darktable 5.6
        "variants": {"bayer": {"onnx": file} | _BLOCK},  # its development version before
    }
    config: dict[str, Any] = {
        "id": name,
        "name": f"{name} (x{amplification:g})",
        "description": f"Raw denoise for Bayer frames that are too dark by a factor of about {amplification:g}",
        "task": "rawdenoise",
        "backend": "onnx",
        "version": "1.0",
        "arch": model.name,
        "num_inputs": 1,
        "attributes": attributes,
        "model_card": {
            "long_description": f"The network {model.name}, trained and exported by darkprep; amplification {amplification:g}, "
            f"ONNX opset {OPSET}, compared with torch to {TOLERANCE:g}.",
            "license": "not stated",
            "notes": model.note,
        },
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for entry, data in (
            (CONFIG, (json.dumps(config, indent=2) + "\n").encode()),
            (file, content),
        ):
            info = zipfile.ZipInfo(f"{name}/{entry}", _TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return buffer.getvalue()
