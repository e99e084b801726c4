"""Prepare a network for inference. Evaluation, restoration and the benchmarks use this module.

The trade-off: each device has one way of execution, the fastest that was measured (docs/models.md), and no
option to choose another. REDIRT runs by rows on a CPU (`rows.py`) and as a CUDA graph on a GPU
(`cuda.py`). A network of the user's own runs as it is, on the whole frame. On a CPU a U-Net runs in strips, and NAFNet, of which every output depends on the whole frame, in
one piece.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import convert_conv2d_weight_memory_format, parametrize

from darkprep.model.build import Network, check_planes
from darkprep.model.cuda import CudaGraph, StreamedRedirt
from darkprep.model.errors import ModelError
from darkprep.model.nafnet import NafNet
from darkprep.model.own import is_own
from darkprep.model.redirt import Redirt
from darkprep.model.rows import RowwiseRedirt

Precision = Literal["fp32", "bf16", "fp16"]

_FIRST_WITH_TF32 = (8, 0)
"""Compute capability of the first GPUs with TF32 (Ampere)."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

STRIP_ROWS = 512
"""Packed rows that a network other than REDIRT restores at a time on a CPU."""
CONTEXT_ROWS = 112
"""Packed rows above and below a strip that its result depends on: the U-Net's, in multiples of 16."""


class ReadyNetwork:
    """A network in its form for inference, for frames of any size; returned by `ready_for_inference`."""

    def __init__(
        self, model: Network, run: Callable[[Tensor], Tensor], device: torch.device
    ) -> None:
        self.name, self.cfa, self.target = model.name, model.cfa, model.target
        self.noise_map = model.noise_map
        """Whether the input is followed by as many planes with the noise level of each value."""
        self.cameras = model.cameras
        """The colours of the training cameras as the weights file holds them; "" if unknown."""
        self.device = device
        self._multiple, self._scale = model.multiple, model.scale
        self._input_form = model.input_form
        self._run = run

    @torch.no_grad()
    def __call__(self, packed: Tensor) -> Tensor:
        """Return RGB `(B, 3, cell*h, cell*w)` or planes `(B, C, h, w)`, float32 in [0, 1], for planes `(B, C, h, w)`.

        The input planes are as for `Network.forward`, but of any size and on any device; the result is on
        this network's device. Planes are padded to a multiple of 16 by mirroring at the bottom and at the
        right, and the result is cropped to the original size (docs/models.md states how far into the frame
        the padding has an effect). Raises ModelError for planes of another CFA and for an empty frame.
        """
        check_planes(packed, self.name, self.cfa, noise_map=self.noise_map)
        height, width = packed.shape[-2:]
        if not height or not width:
            raise ModelError(
                f"{self.name} cannot restore an empty frame of {height}x{width} pixels; give planes with at least one pixel"
            )
        planes = self._input_form.converted(packed.to(self.device, torch.float32))
        restored = self._run(
            _pad_by_mirroring(planes, -height % self._multiple, -width % self._multiple)
        )
        cropped = restored[..., : height * self._scale, : width * self._scale]
        return self._input_form.reordered(cropped) if self.target == "raw" else cropped


def ready_for_inference(
    model: Network, *, precision: Precision = "fp32", device: str | torch.device = "cpu"
) -> ReadyNetwork:
    """Return a copy of a network in the fastest form for inference on `device`.

    Weight norm is folded into plain weights, and tensors are in the fastest layout. `model` is not
    changed, and later changes to it have no effect on the copy. `precision` is the precision of the
    arithmetic: `fp32`, `bf16`, or on a GPU also `fp16`; docs/models.md states the errors. Raises
    ModelError.
    """
    if precision not in _DTYPES:
        names = ", ".join(get_args(Precision))
        raise ModelError(f"unknown precision {precision!r}; choose from {names}")
    target = torch.device(device)
    if target.type != "cuda" and precision == "fp16":
        raise ModelError(f"fp16 needs a GPU; on {target.type} choose bf16 or fp32")
    body = inference_copy(model).body.to(target)
    if is_own(model.name):
        run: Callable[[Tensor], Tensor] = _Autocast(body, _DTYPES[precision], target)
    elif target.type == "cuda":
        with torch.cuda.device(target):
            run = _on_gpu(body, _DTYPES[precision])
    else:
        run = _on_cpu(body, _DTYPES[precision])
    return ReadyNetwork(model, run, target)


def inference_copy(model: Network) -> Network:
    """Return a copy of `model` for inference: a built-in network without weight norm, the user's own as it is."""
    return _copied(model) if is_own(model.name) else fold_weight_norm(model)


def fold_weight_norm(model: Network) -> Network:
    """Return a copy of `model` with plain convolutions instead of weight-normed ones, for inference only."""
    folded = _copied(model)
    for parent in list(folded.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and parametrize.is_parametrized(child, "weight"):
                setattr(parent, name, _without_weight_norm(child))
    return folded


def _copied(model: Network) -> Network:
    return copy.deepcopy(model).eval().requires_grad_(False)


def _without_weight_norm(conv: nn.Conv2d) -> nn.Conv2d:
    # `remove_parametrizations` would change the original too, because a deep copy shares its class. On
    # "meta" no random numbers are drawn: a draw would change the results of a run that evaluates its network.
    with torch.device("meta"):
        plain = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size[0],
            padding=conv.kernel_size[0] // 2,
            groups=conv.groups,
            bias=conv.bias is not None,
        )
    plain.weight = nn.Parameter(conv.weight.detach().clone())
    if conv.bias is not None:
        plain.bias = nn.Parameter(conv.bias.detach().clone())
    return plain


def _on_cpu(body: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    convert_conv2d_weight_memory_format(body, torch.channels_last)
    if isinstance(body, Redirt):
        return RowwiseRedirt(body).to(dtype)
    if isinstance(body, NafNet):
        return _InOnePiece(body.to(dtype), dtype)
    return _InStrips(body.to(dtype), dtype)


def _on_gpu(body: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    layout = gpu_layout(dtype)
    body = body.to(dtype)
    convert_conv2d_weight_memory_format(body, layout)
    graph = CudaGraph(StreamedRedirt(body) if isinstance(body, Redirt) else body)

    def run(packed: Tensor) -> Tensor:
        return graph(packed.to(dtype, memory_format=layout)).float().contiguous()

    return run


def gpu_layout(dtype: torch.dtype) -> torch.memory_format:
    """Return the layout in which a GPU runs convolutions of `dtype` fastest.

    Tensor cores read channels-last tensors. Convolutions in full float32 do not use them, and cuDNN has few
    kernels for channels-last float32: REDIRT takes 49 ms instead of 10 for 12 megapixels.
    """
    tensor_cores = dtype != torch.float32 or (
        torch.backends.cudnn.allow_tf32
        and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0"
        and torch.cuda.get_device_capability() >= _FIRST_WITH_TF32
    )
    return torch.channels_last if tensor_cores else torch.contiguous_format


class _InOnePiece:
    """A network that restores the whole frame at once."""

    def __init__(self, body: nn.Module, dtype: torch.dtype) -> None:
        self._body = body
        self._dtype = dtype

    def __call__(self, packed: Tensor) -> Tensor:
        """Return the float32 output for `(B, C, h, w)`, where h and w are multiples of 16."""
        restored: Tensor = self._body(packed.to(self._dtype))
        return restored.to(torch.float32, memory_format=torch.contiguous_format)


class _Autocast:
    """A network of the user's own that restores the whole frame at once.

    Its parameters stay float32, as in training, because its code may compute with float32 tensors of its own.
    """

    def __init__(self, body: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        self._body = body
        self._dtype, self._device = dtype, device

    def __call__(self, packed: Tensor) -> Tensor:
        """Return the float32 output for `(B, C, h, w)`, where h and w are multiples of 16."""
        enabled = self._dtype != torch.float32
        with torch.autocast(self._device.type, self._dtype if enabled else None, enabled=enabled):
            restored: Tensor = self._body(packed)
        return restored.to(torch.float32, memory_format=torch.contiguous_format)


class _InStrips:
    """A network that runs on a frame in strips, each with the rows around it on which its result depends."""

    def __init__(self, body: nn.Module, dtype: torch.dtype) -> None:
        self._body = body
        self._dtype = dtype

    def __call__(self, packed: Tensor) -> Tensor:
        """Return the float32 output for `(B, C, h, w)`, where h and w are multiples of 16."""
        strips = []
        for begin in range(0, packed.shape[2], STRIP_ROWS):
            top = max(0, begin - CONTEXT_ROWS)
            rows = packed[:, :, top : begin + STRIP_ROWS + CONTEXT_ROWS]
            rgb = self._body(rows.to(self._dtype, memory_format=torch.channels_last))
            cell = rgb.shape[2] // rows.shape[2]
            strip = rgb[:, :, (begin - top) * cell : (begin - top + STRIP_ROWS) * cell]
            strips.append(strip.to(torch.float32, memory_format=torch.contiguous_format))
        return torch.cat(strips, dim=2)


def _pad_by_mirroring(planes: Tensor, below: int, beside: int) -> Tensor:
    """Add `below` rows at the bottom and `beside` columns at the right by mirroring `planes`.

    A frame that is too small to be mirrored repeats its last row or column instead.
    """
    if not below and not beside:
        return planes.contiguous()
    enough = below < planes.shape[2] and beside < planes.shape[3]
    return F.pad(planes, (0, beside, 0, below), mode="reflect" if enough else "replicate")
