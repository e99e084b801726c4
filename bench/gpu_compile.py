"""torch.compile against CUDA graphs: REDIRT's inference, and a training step.

The trade-off: compiling takes most of this section's time, which is not in the figures but reported beside
them. On a CPU nothing is compiled: the same code runs through torch.compile's backend `eager`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gpu_inference import SIZES, TINY_SIZES, body_of, frame
from gpu_section import Row, Section, interleaved, set_precision
from gpu_steps import our_step, random_batch
from torch import nn

from darkprep.model.cuda import CudaGraph, StreamedRedirt

_COMPILE_S = 35.0


def main() -> None:
    """Compile and measure the network, then the step, in the order of their value."""
    section = Section(__doc__)
    size = TINY_SIZES[0] if section.cpu else SIZES[0]
    rows: list[Row] = []
    for precision in ("fp32",) if section.cpu else ("bf16", "fp16", "tf32", "fp32"):
        if section.has_time(f"compiling for {precision}", _COMPILE_S):
            with section.guarded(f"compiled inference in {precision}"), torch.no_grad():
                rows += inference(section, size, precision)
            section.save(f"torch.compile, one frame of {size[0]}x{size[1]}", rows)
    steps: list[Row] = []
    for precision in ("fp32",) if section.cpu else ("bf16", "tf32"):
        if section.has_time(f"compiling the step for {precision}", 2 * _COMPILE_S):
            with section.guarded(f"compiled step in {precision}"):
                steps += training(section, precision)
            section.save("torch.compile, a training step", steps)
    section.finish()


def inference(section: Section, size: tuple[int, int], precision: str) -> list[Row]:
    """Return the time of the compiled network, alone and in a CUDA graph, beside streams in a graph."""
    set_precision(precision)
    body, planes = body_of(section.device, precision), frame(section, size, precision)
    began = time.perf_counter()
    compiled = compile_for(section, body)
    compiled(planes)
    took = time.perf_counter() - began
    calls: dict[str, Callable[[], Any]] = {"compiled": partial(compiled, planes)}
    if section.device.type == "cuda":
        calls["compiled, graph"] = partial(CudaGraph(compiled), planes)
        calls["streams + graph"] = partial(CudaGraph(StreamedRedirt(body)), planes)
    return [
        {"variant": name, "precision": precision, "ms": ms, "compiling s": took}
        for name, ms in interleaved(calls, section.device).items()
    ]


def training(section: Section, precision: str) -> list[Row]:
    """Return the time of the step with a compiled network, beside that of the plain one."""
    set_precision(precision)
    batch = random_batch(section)
    began = time.perf_counter()
    compiled = our_step(section, batch, precision, change=partial(compile_for, section))
    compiled()
    took = time.perf_counter() - began
    calls = {"darkprep": our_step(section, batch, precision), "darkprep, compiled": compiled}
    return [
        {"step": name, "precision": precision, "ms": ms, "compiling s": took}
        for name, ms in interleaved(calls, section.device).items()
    ]


def compile_for(section: Section, module: nn.Module) -> nn.Module:
    """Return the module compiled for inputs of one shape."""
    torch._dynamo.reset()
    backend = "eager" if section.cpu else "inductor"
    compiled: nn.Module = torch.compile(module, dynamic=False, backend=backend)  # type: ignore[assignment]
    return compiled


if __name__ == "__main__":
    main()
