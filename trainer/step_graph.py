"""The forward and backward pass of a training step as one CUDA graph.

A step consists of over a thousand short kernels, and launching them takes longer than running them. A CUDA
graph launches all of them at once. The trade-off: a graph is captured for one shape of batch and keeps the
memory of its intermediate results; the optimiser is not part of it, so that learning rate, loss scaling and
skipped steps work as without a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

Outputs = tuple[Tensor, ...]

_WARM_UP_RUNS = 3


class StepGraph:
    """`run(low, gt)`, which computes gradients of `parameters`, captured for the shapes of a batch.

    `run` must be the same computation in every call, on the device only. Raises RuntimeError when it cannot
    be captured; the parameters then have no gradients.
    """

    def __init__(
        self,
        run: Callable[[Tensor, Tensor], Outputs],
        parameters: Iterable[nn.Parameter],
        low: Tensor,
        gt: Tensor,
    ) -> None:
        self._parameters = list(parameters)
        self._low, self._gt = low.clone(), gt.clone()

        def run_without_gradients() -> Outputs:
            # Gradients that exist would be added to; without them backward() allocates new ones.
            self._set_gradients([None] * len(self._parameters))
            return run(self._low, self._gt)

        try:
            self._replay, self._outputs = capture(run_without_gradients, low.device)
            self._gradients = [parameter.grad for parameter in self._parameters]
        finally:
            self._set_gradients([None] * len(self._parameters))

    def fits(self, low: Tensor, gt: Tensor) -> bool:
        """Whether the graph was captured for batches of these shapes."""
        return low.shape == self._low.shape and gt.shape == self._gt.shape

    def __call__(self, low: Tensor, gt: Tensor) -> Outputs:
        """Compute the gradients for a batch and return what `run` returns, valid until the next call."""
        self._low.copy_(low)
        self._gt.copy_(gt)
        self._replay()
        self._set_gradients(self._gradients)
        return self._outputs

    def _set_gradients(self, gradients: Iterable[Tensor | None]) -> None:
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient


def capture(run: Callable[[], Outputs], device: torch.device) -> tuple[Callable[[], None], Outputs]:
    """Return a function that repeats `run` as a CUDA graph, and the tensors to which it writes the results.

    `run` is called a few times first, because its first calls choose kernels and allocate workspaces, which
    a graph cannot capture. Raises RuntimeError if `run` cannot be captured.
    """
    with torch.cuda.device(device):
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP_RUNS):
                run()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # The threads that read and decode may allocate page-locked memory in the meantime.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            outputs = run()
    return graph.replay, outputs
