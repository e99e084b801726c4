"""Write a network as ONNX, and compare what ONNX Runtime computes from it with what torch computes.

The trade-off: torch's TorchScript exporter, not the one of torch.export. For these networks both give the same
numbers at any height and width, but the newer one takes ten times as long, needs two more packages, and leaves
arithmetic in the names of the axes (docs/export.md has the measurements).
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from darkprep.model.build import Network
from darkprep.model.errors import ModelError
from darkprep.model.files import write_atomically
from darkprep.model.inference import inference_copy
from darkprep.model.own import is_own

OPSET = 17
"""ONNX Runtime reads it since 1.13; no later opset has an operation that these networks need."""
TOLERANCE = 1e-4
"""Largest difference between ONNX Runtime and torch, where the results are in [0, 1]."""
INPUT, OUTPUT = "input", "output"
"""Names of a model's only input and output."""

_SIZES = ((1, 1), (3, 5), (8, 4))
"""Heights and widths at which ONNX Runtime and torch are compared, in multiples of what the network needs."""
_PLANE_NAMES = {
    "bayer": "R,G1,G2,B of the RGGB cell",
    "xtrans": "nine planes, packed as in SID (darkprep's shards/FORMAT.md)",
}
_NOISE_MAP = "as many planes follow, with the standard deviation of each value of the first: sqrt(shot * max(value, 0) + read^2), shot = K * amplification / (white - black), read = read noise * amplification / (white - black); K in codes per electron, read noise in codes"
_OUTPUTS = {
    "srgb": "sRGB picture (R, G, B) in [0, 1]",
    "linear": "linear camera RGB in [0, 1], without white balance and colour matrix; amplified as the input is",
    "raw": "planes of the input's form and order in [0, 1]: (code - black) / (white - black), amplified as the input is",
}


@dataclass(frozen=True, kw_only=True)
class ExportedOnnx:
    """What was written, and how it was checked."""

    path: Path
    size_bytes: int
    opset: int
    largest_error: float
    """Largest absolute difference between ONNX Runtime and torch, over all checked sizes."""
    sizes: tuple[tuple[int, int], ...]
    """The checked packed heights and widths."""


def export_onnx(model: Network, path: str | os.PathLike[str]) -> ExportedOnnx:
    """Write `model` to `path` as ONNX for inputs of any height and width, after it was checked.

    The model's input is float32 `(1, C, h, w)`, with a noise-level map `(1, 2C, h, w)`, its output float32 `(1, 3, cell*h, cell*w)` or, with the target
    `raw`, `(1, C, h, w)`. h and w must be multiples of `model.multiple`, as for `Network.forward`. What the planes
    are is written into the model's metadata. Weights and computation are float32.

    Raises ModelError when onnx or onnxruntime are not installed, when the network cannot be exported, or when ONNX
    Runtime's results differ from torch's by more than TOLERANCE at one of three sizes; then nothing is written.
    Raises OSError, which names `path`.
    """
    require_packages()
    network = PlanesNetwork(model)
    multiple = model.multiple
    sizes = tuple((rows * multiple, columns * multiple) for rows, columns in _SIZES)
    example = torch.rand(1, model.mosaic.inputs, *sizes[1])
    content = onnx_bytes(
        network,
        example,
        model.name,
        dynamic_axes={
            INPUT: {2: "height", 3: "width"},
            OUTPUT: {2: "output_height", 3: "output_width"},
        },
        properties=contract(model),
    )
    planes = model.mosaic.inputs
    error = largest_error(content, network, model.name, (_test_planes(planes, *s) for s in sizes))
    write_atomically(Path(path), content)
    return ExportedOnnx(
        path=Path(path), size_bytes=len(content), opset=OPSET, largest_error=error, sizes=sizes
    )


class PlanesNetwork(nn.Module):
    """A network for inference as a single module, which takes darkprep's planes and returns the network's target; it does not check sizes."""

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.body = inference_copy(model).body
        self._form, self._returns_planes = model.input_form, model.target == "raw"

    def forward(self, packed: Tensor) -> Tensor:
        """Return what `Network.forward` returns for planes of a size that the network takes."""
        restored: Tensor = self.body(self._form.converted(packed))
        return self._form.reordered(restored) if self._returns_planes else restored


def require_packages() -> None:
    """Raise ModelError when onnx or onnxruntime are not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"exporting needs the packages onnx and onnxruntime ({error}); install them with pip install 'darkprep[export]'"
        ) from error


def contract(model: Network) -> dict[str, str]:
    """Return what a program needs to know to run the model on a RAW frame, for ONNX's metadata."""
    mosaic = model.mosaic
    channels = mosaic.planes if model.target == "raw" else 3
    properties = {
        "darkprep.model": model.name,
        "darkprep.cfa": model.cfa,
        "darkprep.target": model.target,
        "darkprep.opset": str(OPSET),
        "darkprep.input": f"float32 (1, {mosaic.inputs}, height, width)",
        "darkprep.planes": _PLANE_NAMES[model.cfa],
        "darkprep.input_multiple": str(model.multiple),
        "darkprep.padding": "mirror planes at the bottom and at the right up to the multiple, and crop the output",
        "darkprep.black_white": "(code - black) / (white - black), with the file's black level of each plane and its white level",
        "darkprep.amplification": "multiply by the exposure ratio of the wanted to the present exposure, after black and white",
        "darkprep.clip": "none before the model: values below 0 and above 1 are passed on, and the model clips what it needs to",
        "darkprep.output": f"float32 (1, {channels}, {model.scale}*height, {model.scale}*width)",
        "darkprep.output_values": _OUTPUTS[model.target],
    }
    properties |= {"darkprep.noise_map": _NOISE_MAP} if model.noise_map else {}
    return properties | ({"darkprep.note": model.note} if model.note else {})


def onnx_bytes(
    network: nn.Module,
    example: Tensor,
    name: str,
    *,
    properties: Mapping[str, str],
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
) -> bytes:
    """Return `network`, a model from one tensor to another, as ONNX of opset OPSET.

    `example` is an input; without `dynamic_axes`, every input must have its size. `name` names the network in
    messages. Raises ModelError when the network holds what ONNX cannot express.
    """
    import onnx

    buffer: Any = io.BytesIO()  # torch accepts it, its annotation does not
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The exporter warns that it is the older one, and of each size that it takes for a constant; the
            # comparison with torch finds sizes that are none.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.eval(),
                (example,),
                buffer,
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes=dynamic_axes,
            )
    except Exception as error:  # the exporter runs the network and raises exceptions of any class
        raise ModelError(
            f"model {name}: cannot be written as ONNX: {type(error).__name__}: {_first_line(error)}; use operations of ONNX opset {OPSET}"
        ) from error
    model = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, dict(properties))
    for node in model.graph.node:
        node.ClearField("doc_string")  # it may hold paths of source files
    if dynamic_axes is None:  # the exporter does not derive every fixed size
        with torch.no_grad():
            sizes = network(example).shape
        for axis, size in zip(model.graph.output[0].type.tensor_type.shape.dim, sizes, strict=True):
            axis.dim_value = size
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def largest_error(
    content: bytes, network: nn.Module, name: str, inputs: Iterable[Tensor], *, scale: float = 1.0
) -> float:
    """Return the largest absolute difference between ONNX Runtime and torch, multiplied by `scale`.

    Raises ModelError when it exceeds TOLERANCE, and when ONNX Runtime cannot run the model or gives another shape.
    """
    session = open_session(content)
    largest = 0.0
    for planes in inputs:
        with torch.inference_mode():
            expected = network(planes)
        size = "x".join(map(str, planes.shape[2:]))
        try:
            found = torch.from_numpy(session.run([OUTPUT], {INPUT: planes.numpy()})[0])
        except Exception as error:  # ONNX Runtime's exceptions have no common class of their own
            raise ModelError(
                f"model {name}: its ONNX form fails at {size} packed pixels: {_first_line(error)}; {_remedy(name)}"
            ) from error
        if found.shape != expected.shape:
            raise ModelError(
                f"model {name}: its ONNX form returns {tuple(found.shape)} at {size} packed pixels, torch {tuple(expected.shape)}; {_remedy(name)}"
            )
        error_here = float((found - expected).abs().max()) * scale
        if not error_here <= TOLERANCE:  # true for NaN
            raise ModelError(
                f"model {name}: ONNX Runtime differs from torch by {error_here:.2g} at {size} packed pixels, more than {TOLERANCE:g}; {_remedy(name)}"
            )
        largest = max(largest, error_here)
    return largest


def open_session(content: bytes) -> Any:
    """Return ONNX Runtime's session of a model, on the CPU. Raises the exceptions of onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _test_planes(planes: int, height: int, width: int) -> Tensor:
    """Return planes `(1, planes, height, width)` from -0.25 to 1.75: below black and above white too."""
    generator = torch.Generator().manual_seed(height * 65536 + width)
    return torch.rand(1, planes, height, width, generator=generator) * 2 - 0.25


def _remedy(name: str) -> str:
    if is_own(name):
        return "do not compute sizes or conditions in Python from the input's values or sizes"
    return "report it as an error of darkprep"


def _first_line(error: Exception) -> str:
    lines = (line.strip().rstrip(".") for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)
