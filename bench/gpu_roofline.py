"""The two ceilings of a GPU, measured, and the work of a network, counted.

The trade-off: bytes are counted as if every operation read its inputs from memory and wrote its results
there once. A cache or a fused kernel moves fewer; the least that any implementation moves is reported too.
"""

from __future__ import annotations

from typing import Any

import torch
from gpu_section import PRECISIONS, Row, milliseconds, set_precision
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

_COPY_BYTES = 2 << 30
_SIDE = 8192
_TINY = 16
"""By how much sizes are divided with --cpu."""


def ceilings(device: torch.device) -> dict[str, float]:
    """Return `GB/s` of a copy, counting bytes read and written, and TFLOP/s of a product by precision."""
    tiny = device.type == "cpu"
    values = _COPY_BYTES // (4 * _TINY**3 if tiny else 4)
    found = {"GB/s": 8 * values / _fastest_copy_ms(values, device) / 1e6}
    for name, dtype in PRECISIONS.items():
        set_precision(name)
        side = (_SIDE // 2 if name == "fp32" else _SIDE) // (_TINY * 2 if tiny else 1)
        left, right = (torch.rand(side, side, device=device).sub_(0.5).to(dtype) for _ in range(2))
        best = min(milliseconds(lambda a=left, b=right: a @ b, device) for _ in range(8))  # type: ignore[misc]
        found[name] = 2 * side**3 / best / 1e9
    return found


def _fastest_copy_ms(values: int, device: torch.device) -> float:
    source = torch.rand(values, device=device)
    target = torch.empty_like(source)
    return min(milliseconds(lambda: target.copy_(source), device) for _ in range(10))


class TrafficCounter(TorchDispatchMode):
    """Adds up the bytes of the inputs and results of all operations but views."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count it."""
        result = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        if not is_view and "empty" not in func._schema.name:
            self.bytes += sum(_bytes(tensor) for tensor in (*_tensors(args), *_tensors(result)))
        return result


def work(module: nn.Module, example: Tensor) -> dict[str, float]:
    """Return `GFLOP`, `MB` moved operation by operation, and `least MB`: input, result and weights once."""
    with torch.no_grad():
        with FlopCounterMode(display=False) as flops:
            result = module(example)
        with TrafficCounter() as traffic:
            module(example)
    weights = sum(_bytes(parameter) for parameter in module.parameters())
    return {
        "GFLOP": flops.get_total_flops() / 1e9,
        "MB": traffic.bytes / 1e6,
        "least MB": (_bytes(example) + _bytes(result) + weights) / 1e6,
    }


def roofline_row(
    work_of: dict[str, float], ceiling: dict[str, float], precision: str, measured_ms: float
) -> Row:
    """Return a table row: counted work over measured ceilings, and the measured time over the larger."""
    arithmetic = work_of["GFLOP"] / ceiling[precision]
    traffic = work_of["MB"] / ceiling["GB/s"]
    return {
        "GFLOP": work_of["GFLOP"],
        "MB by operation": work_of["MB"],
        "least MB": work_of["least MB"],
        "arithmetic ms": arithmetic,
        "traffic ms": traffic,
        "least traffic ms": work_of["least MB"] / ceiling["GB/s"],
        "best measured ms": measured_ms,
        "x the larger": measured_ms / max(arithmetic, traffic),
    }


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
