"""REDIRT's inference on a GPU: the published graph, ours step by step, streams, CUDA graphs; the roofline.

The trade-off: random weights of the released shapes, since the released ones may not be shipped; pace and
rounding do not depend on them.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial

import published
import torch
from bench_model import filled
from gpu_roofline import ceilings, roofline_row, work
from gpu_section import (
    PRECISIONS,
    Row,
    Section,
    interleaved,
    kernel_rows,
    peak_memory,
    set_precision,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import convert_conv2d_weight_memory_format

from darkprep.model import ready_for_inference
from darkprep.model.cuda import CudaGraph, StreamedRedirt
from darkprep.model.inference import fold_weight_norm, gpu_layout
from darkprep.model.redirt import Redirt

SIZES = ((2048, 4096), (2848, 4256))
TINY_SIZES = ((64, 128),)
BEST = "streams + graph"

Call = Callable[[], Tensor]


def main() -> None:
    """Measure each size at each precision, then the parts of the network, and the longest kernels."""
    section = Section(__doc__)
    ceiling = ceilings(section.device)
    section.show("Ceilings: copy GB/s, and TFLOP/s of a matrix product", [dict(ceiling)])
    roofline: list[Row] = []
    for size in TINY_SIZES if section.cpu else SIZES:
        rows: list[Row] = []
        for precision in section.precisions:
            if section.has_time(f"{size} {precision}", 8):
                with section.guarded(f"inference of {size} in {precision}"):
                    rows += measure(section, size, precision)
                    best = min(row["ms"] for row in rows if row["precision"] == precision)
                    case = {"size": f"{size[0]}x{size[1]}", "precision": precision}
                    done = work(body_of(section.device, precision), frame(section, size, precision))
                    roofline.append(case | roofline_row(done, ceiling, precision, best))
        section.show(f"REDIRT, one frame of {size[0]}x{size[1]}", rows)
    section.show("Roofline of the folded network", roofline)
    parts, kernels = [], []
    size = TINY_SIZES[0] if section.cpu else SIZES[0]
    for precision in section.profiled:
        with section.guarded(f"parts in {precision}"):
            parts.append({"precision": precision} | measure_parts(section, size, precision))
            set_precision(precision)
            call = partial(body_of(section.device, precision), frame(section, size, precision))
            with torch.no_grad():
                call()
                kernels += kernel_rows(precision, call, section.device)
    section.show("Parts alone, each as a CUDA graph where there is a GPU, ms", parts)
    section.show("Longest kernels of the sequential network", kernels)
    section.finish()


def measure(section: Section, size: tuple[int, int], precision: str) -> list[Row]:
    """Return a row of pace, memory and error for every variant; one that fails has no figures."""
    device = section.device
    mosaic = mosaic_of(size).to(device)
    with torch.no_grad():
        set_precision("fp32")
        truth = published.restore(to(published.checkpoint(seed=0), device, torch.float32), mosaic)
        set_precision(precision)
        calls: dict[str, Call] = {}
        rows: dict[str, Row] = {}
        for name, build in variants(section, mosaic, precision).items():
            with (
                section.guarded(f"{name}, {size} in {precision}"),
                peak_memory(device) as peak,
            ):
                calls[name] = build()
                difference = (calls[name]().float() - truth).abs()
                rows[name] = {"max difference": f"{difference.max().item():.1e}"}
                del difference
            if name in rows:
                rows[name] |= peak
        found = interleaved(calls, device, seconds=1.0)
    if device.type == "cuda" and "ready_for_inference" in rows:
        layout = str(gpu_layout(PRECISIONS[precision])).removeprefix("torch.")
        rows["ready_for_inference"]["chosen layout"] = layout.replace("_", " ")
    base = found.get("published")
    table = [
        {
            "variant": name,
            "precision": precision,
            "ms": ms,
            "x published": base / ms if base else None,
        }
        | rows[name]
        for name, ms in found.items()
        if name in rows
    ]
    calls.clear()
    gc.collect()
    return table


def variants(section: Section, mosaic: Tensor, precision: str) -> dict[str, Callable[[], Call]]:
    """Return what builds each variant; the graphs need a GPU."""
    device, dtype = section.device, PRECISIONS[precision]
    packed = F.pixel_unshuffle(mosaic, 2)
    folded = body_of(device, precision)
    planes = packed.to(dtype).contiguous(memory_format=torch.channels_last)
    found: dict[str, Callable[[], Call]] = {
        "published": lambda: partial(
            published.restore, to(published.checkpoint(seed=0), device, dtype), mosaic.to(dtype)
        ),
        "sequential": lambda: partial(folded, planes),
        "streams": lambda: partial(StreamedRedirt(folded), planes),
    }
    if device.type == "cuda":
        found["graph"] = lambda: partial(CudaGraph(folded), planes)
        if precision in ("fp32", "tf32"):
            found["graph, contiguous"] = lambda: partial(
                CudaGraph(body_of(device, precision, torch.contiguous_format)),
                planes.contiguous(),
            )
        found[BEST] = lambda: partial(CudaGraph(StreamedRedirt(folded)), planes)
    if precision != "fp16" or device.type == "cuda":
        model = filled(published.checkpoint(seed=0))
        name = "fp32" if precision == "tf32" else precision
        found["ready_for_inference"] = lambda: partial(
            ready_for_inference(model, precision=name, device=device),  # type: ignore[arg-type]
            packed,
        )
    return found


def measure_parts(section: Section, size: tuple[int, int], precision: str) -> Row:
    """Return the milliseconds of each encoder, of all, and of what remains of all for the fusion."""
    set_precision(precision)
    net, planes = body_of(section.device, precision), frame(section, size, precision)

    def captured(module: nn.Module) -> Callable[[Tensor], Tensor]:
        return CudaGraph(module) if section.device.type == "cuda" else module

    encoders = {
        "higher": net.higher_scale_encoder,
        "medium": net.medium_scale_encoder,
        "lower": net.lower_scale_encoder,
    }
    with torch.no_grad():
        calls: dict[str, Callable[[], object]] = {
            name: partial(captured(encoder), planes) for name, encoder in encoders.items()
        }
        calls["all in sequence"] = partial(captured(net), planes)
        calls["all in streams"] = partial(captured(StreamedRedirt(net)), planes)
        found = interleaved(calls, section.device, seconds=1.0)
    fusion = found["all in sequence"] - sum(found[name] for name in encoders)
    return found | {"fusion, the rest of the sequence": fusion}


def body_of(
    device: torch.device, precision: str, layout: torch.memory_format = torch.channels_last
) -> Redirt:
    """Return the network with folded weight norm on the device."""
    body = fold_weight_norm(filled(published.checkpoint(seed=0))).body
    assert isinstance(body, Redirt)
    convert_conv2d_weight_memory_format(body.to(device, PRECISIONS[precision]), layout)
    return body


def mosaic_of(size: tuple[int, int]) -> Tensor:
    """Return a random frame, `(1, 1, H, W)` on the CPU."""
    return torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0))


def frame(section: Section, size: tuple[int, int], precision: str) -> Tensor:
    """Return a random frame's packed planes, channels last, on the device."""
    packed = F.pixel_unshuffle(mosaic_of(size), 2).to(section.device, PRECISIONS[precision])
    return packed.contiguous(memory_format=torch.channels_last)


def to(state: published.State, device: torch.device, dtype: torch.dtype) -> published.State:
    """Return a checkpoint on a device."""
    return {name: tensor.to(device, dtype) for name, tensor in state.items()}


if __name__ == "__main__":
    main()
