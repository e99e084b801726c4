"""Run REDIRT on a GPU: three encoders on three CUDA streams, and the whole frame as one CUDA graph.

The encoders read the same input and do not depend on each other. Where one encoder does not fill the GPU,
another could run at the same time; on an H200 it does not, and the streams cost nothing in a graph. A CUDA
graph saves the launch of each kernel.

The trade-off: a graph is captured for one input shape and occupies memory; only the last graph is kept. On
a CPU the same code runs the encoders one after the other.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from darkprep.model.redirt import Redirt


class StreamedRedirt(nn.Module):
    """A REDIRT without weight norm whose encoders run concurrently on a GPU."""

    def __init__(self, net: Redirt) -> None:
        super().__init__()
        self.net = net

    def forward(self, packed: Tensor) -> Tensor:
        """Return `(B, 3, cell*h, cell*w)` RGB in [0, 1] for `(B, C, h, w)`."""
        net = self.net
        encoders = (net.higher_scale_encoder, net.medium_scale_encoder, net.lower_scale_encoder)
        run = _run_concurrently if packed.is_cuda else _run_sequentially
        return net.fuse(*run(encoders, packed))


class CudaGraph:
    """A module captured as a CUDA graph; it is captured again when the shape of its input changes."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.shape: torch.Size | None = None
        self.input: Tensor
        self.output: Tensor

    def __call__(self, packed: Tensor) -> Tensor:
        """Run the module on `packed` on the GPU; return a copy of the result, which later calls do not overwrite."""
        with torch.cuda.device(packed.device):
            if packed.shape != self.shape:
                self._capture(packed)
            self.input.copy_(packed)
            self.graph.replay()
            return self.output.clone()

    def _capture(self, packed: Tensor) -> None:
        self.input = packed.clone()
        # The first runs choose kernels and allocate workspaces, which a graph cannot capture.
        warmup = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        warmup.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warmup):
            for _ in range(3):
                self.module(self.input)
        torch.cuda.current_stream().wait_stream(warmup)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=warmup):
            self.output = self.module(self.input)
        self.shape = packed.shape


def _run_sequentially(encoders: tuple[nn.Module, ...], packed: Tensor) -> list[Tensor]:
    return [cast(Tensor, encoder(packed)) for encoder in encoders]


def _run_concurrently(encoders: tuple[nn.Module, ...], packed: Tensor) -> list[Tensor]:
    """Run each encoder on a CUDA stream of its own; the current stream waits for all of them."""
    current = torch.cuda.current_stream()
    results = []
    for encoder in encoders:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            out: Tensor = encoder(packed)
        out.record_stream(current)
        results.append((stream, out))
    for stream, _ in results:
        current.wait_stream(stream)
    return [out for _, out in results]
