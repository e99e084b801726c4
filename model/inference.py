"""Make a network ready for inference: the one way that evaluation, restoring and the benches take.

The trade-off: each device gets the one execution that was measured best there (docs/decisions.md),
and there is no switch between them. REDIRT runs by rows on a CPU (`rows.py`) and as a CUDA graph on
a GPU (`cuda.py`); any other network runs in strips on a CPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import convert_conv2d_weight_memory_format, parametrize

from darkprep.model.build import Network, check_planes
from darkprep.model.cuda import Graphed, StreamedRedirt
from darkprep.model.errors import ModelError
from darkprep.model.redirt import Redirt
from darkprep.model.rows import RowwiseRedirt

Precision = Literal["fp32", "bf16", "fp16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

STRIP = 512
"""Packed rows that a network other than REDIRT restores at a time on a CPU."""
REACH = 112
"""Packed rows around a strip that its result depends on: the U-Net's reach, in multiples of 16."""


class Ready:
    """A network that takes frames of any size. Made by `ready_for_inference`."""

    def __init__(
        self, model: Network, run: Callable[[Tensor], Tensor], device: torch.device
    ) -> None:
        self.name, self.cfa = model.name, model.cfa
        self.device = device
        self._multiple, self._cell = model.multiple, model.mosaic.cell
        self._cut_at_black = model.cut_at_black
        self._run = run

    @torch.no_grad()
    def __call__(self, packed: Tensor) -> Tensor:
        """Restore `(B, C, h, w)` planes to `(B, 3, cell*h, cell*w)` float32 RGB in [0, 1].

        The planes are as `Network.forward` wants them, but of any size and on any device; the
        result lies on this one's. What is missing to a multiple of 16 is mirrored at the bottom and
        at the right, and cut off again (docs/models.md says how far that reaches). Raises
        ModelError for planes of another mosaic.
        """
        check_planes(packed, self.name, self.cfa)
        height, width = packed.shape[-2:]
        if not height or not width:
            raise ModelError(f"{self.name} cannot restore an empty frame of {height}x{width}")
        planes = packed.to(self.device, torch.float32)
        if self._cut_at_black:
            planes = planes.clamp(min=0)
        rgb = self._run(_mirrored(planes, -height % self._multiple, -width % self._multiple))
        return rgb[..., : height * self._cell, : width * self._cell]


def ready_for_inference(
    model: Network, *, precision: Precision = "fp32", device: str | torch.device = "cpu"
) -> Ready:
    """Put a network's present weights into the fastest form known for `device`.

    Weight norm is folded into plain weights, the layout is channels-last; `model` itself stays as
    it is, and later changes to it do not show. `precision` is what the arithmetic runs in: `fp32`,
    `bf16`, or on a GPU also `fp16`; docs/models.md states the errors. Raises ModelError.
    """
    if precision not in _DTYPES:
        raise ModelError(f"no precision {precision!r}; there are {', '.join(get_args(Precision))}")
    place = torch.device(device)
    if place.type != "cuda" and precision == "fp16":
        raise ModelError(f"fp16 needs a GPU; on {place.type} take bf16 or fp32")
    body = fold_weight_norm(model).body.to(place)
    convert_conv2d_weight_memory_format(body, torch.channels_last)
    run = (_on_gpu if place.type == "cuda" else _on_cpu)(body, _DTYPES[precision])
    return Ready(model, run, place)


def fold_weight_norm(model: Network) -> Network:
    """Copy `model` with plain convolutions where it had weight-normed ones, for inference alone."""
    folded = copy.deepcopy(model)
    for parent in list(folded.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and parametrize.is_parametrized(child, "weight"):
                setattr(parent, name, _plain(child))
    return folded.eval().requires_grad_(False)


def _plain(conv: nn.Conv2d) -> nn.Conv2d:
    # `remove_parametrizations` would strip the original too: the copy shares its class. On "meta"
    # no random number is drawn, which a training that evaluates in between would notice.
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
    if isinstance(body, Redirt):
        return RowwiseRedirt(body).to(dtype)
    return _Striped(body.to(dtype), dtype)


def _on_gpu(body: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    body = body.to(dtype)
    graph = Graphed(StreamedRedirt(body) if isinstance(body, Redirt) else body)

    def run(packed: Tensor) -> Tensor:
        return graph(packed.to(dtype, memory_format=torch.channels_last)).float().contiguous()

    return run


class _Striped:
    """A network run in strips, each with the rows around it that its result depends on."""

    def __init__(self, body: nn.Module, dtype: torch.dtype) -> None:
        self._body = body
        self._dtype = dtype

    def __call__(self, packed: Tensor) -> Tensor:
        """`(B, C, h, w)` with h and w multiples of 16, to `(B, 3, cell*h, cell*w)`."""
        strips = []
        for begin in range(0, packed.shape[2], STRIP):
            top = max(0, begin - REACH)
            rows = packed[:, :, top : begin + STRIP + REACH]
            rgb = self._body(rows.to(self._dtype, memory_format=torch.channels_last))
            cell = rgb.shape[2] // rows.shape[2]
            strip = rgb[:, :, (begin - top) * cell : (begin - top + STRIP) * cell]
            strips.append(strip.to(torch.float32, memory_format=torch.contiguous_format))
        return torch.cat(strips, dim=2)


def _mirrored(planes: Tensor, below: int, beside: int) -> Tensor:
    """`planes` with so many more rows at the bottom and columns at the right, mirrored.

    A frame too small to mirror (a reflection needs more pixels than it adds) repeats its last ones.
    """
    if not below and not beside:
        return planes.contiguous()
    enough = below < planes.shape[2] and beside < planes.shape[3]
    return F.pad(planes, (0, beside, 0, below), mode="reflect" if enough else "replicate")
