"""The paper's parallelism on a GPU: three encoders on three streams, the whole frame one CUDA graph.

The encoders read the same input and do not wait for one another, so a GPU that one of them leaves
half empty can run the next beside it. Capturing the frame in a graph takes away the launch of each
kernel, which is what a 785,000-parameter network mostly waits for.

The trade-off: a graph belongs to one input shape and keeps its memory; the last shape's is kept.
On a CPU the same code runs the encoders one after the other.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from darkprep.model.redirt import Redirt


class StreamedRedirt(nn.Module):
    """A folded REDIRT whose encoders run side by side where there is a GPU."""

    def __init__(self, net: Redirt) -> None:
        super().__init__()
        self.net = net

    def forward(self, packed: Tensor) -> Tensor:
        """`(B, C, h, w)` to `(B, 3, cell*h, cell*w)` in [0, 1]."""
        net = self.net
        encoders = (net.higher_scale_encoder, net.medium_scale_encoder, net.lower_scale_encoder)
        run = _side_by_side if packed.is_cuda else _in_turn
        return net.fuse(*run(encoders, packed))


class Graphed:
    """A module captured as a CUDA graph, again for each new shape of its input."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.shape: torch.Size | None = None
        self.input: Tensor
        self.output: Tensor

    def __call__(self, packed: Tensor) -> Tensor:
        """Run on `packed`, on the GPU; the result is the caller's own."""
        if packed.shape != self.shape:
            self._capture(packed)
        self.input.copy_(packed)
        self.graph.replay()
        return self.output.clone()

    def _capture(self, packed: Tensor) -> None:
        self.input = packed.clone(memory_format=torch.channels_last)
        # Kernels are chosen and workspaces allocated at the first runs, which no graph may hold.
        warm = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        warm.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm):
            for _ in range(3):
                self.module(self.input)
        torch.cuda.current_stream().wait_stream(warm)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = self.module(self.input)
        self.shape = packed.shape


def _in_turn(encoders: tuple[nn.Module, ...], packed: Tensor) -> list[Tensor]:
    return [cast(Tensor, encoder(packed)) for encoder in encoders]


def _side_by_side(encoders: tuple[nn.Module, ...], packed: Tensor) -> list[Tensor]:
    """Run each encoder on a stream of its own; the present stream waits for all."""
    here = torch.cuda.current_stream()
    found = []
    for encoder in encoders:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            out: Tensor = encoder(packed)
        out.record_stream(here)
        found.append((stream, out))
    for stream, _ in found:
        here.wait_stream(stream)
    return [out for _, out in found]
