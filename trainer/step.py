"""One step of the optimiser: from a batch on the device to changed weights.

The trade-off: one function for every device and precision; the loss scaler and the loss guard handle the
differences (loss scaling, losses that the host reads late). On CUDA, one process captures the forward and
backward pass as a CUDA graph; several ranks do not, because they exchange gradients in the backward pass, nor does a
network or loss of the user's own, which may decide on the host.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from darkprep.shards.errors import first_line
from darkprep.trainer.checkpoint import TrainState
from darkprep.trainer.communicator import Communicator
from darkprep.trainer.config import Precision, TrainConfig
from darkprep.trainer.loss_guard import LossGuard
from darkprep.trainer.recipe import Recipe
from darkprep.trainer.step_graph import StepGraph
from darkprep.trainer.stream import DeviceBatch

log = logging.getLogger(__name__)

_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


class TrainStep:
    """Trains the network of `state` on one batch per call, together with all ranks.

    With `graph`, batches of the first batch's shape run as a CUDA graph where possible.
    """

    def __init__(
        self,
        config: TrainConfig,
        state: TrainState,
        communicator: Communicator,
        device: torch.device,
        recipe: Recipe,
        *,
        graph: bool = True,
    ) -> None:
        self._recipe = recipe
        self._config, self._state, self._communicator = config, state, communicator
        self._network = communicator.data_parallel(state.network, device)
        self._autocast = torch.autocast(
            device.type, _DTYPES[config.precision], enabled=config.precision != "fp32"
        )
        self._graph: StepGraph | None = None
        is_alone = self._network is state.network
        self._captures = graph and device.type == "cuda" and is_alone and not recipe.is_own
        """Whether the next batch is to be captured as a CUDA graph."""
        self.guard = LossGuard(device)
        """Reports the losses."""
        self.changes_weights = False
        """Whether a step that the caller has not yet counted may have changed the weights."""

    def __call__(self, batch: DeviceBatch, iteration: int) -> Tensor:
        """Do step number `iteration`, counted from 0, and return the restored batch, in the form of `DeviceBatch.gt`.

        The result is valid until the next call. Raises NonFiniteLoss or RankStopped (see LossGuard) and RankLost.
        """
        optimiser, scaler = self._state.optimiser, self._state.scaler
        learning_rate = self._recipe.learning_rate_at(self._config, iteration)
        if learning_rate is not None:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate
        if self._captures:
            self._captures = False
            self._graph = self._capture(batch)
        if self._graph and self._graph.fits(batch.low, batch.gt):
            restored, losses = self._graph(batch.low, batch.gt)
            self.guard.watch(losses, batch)
        else:
            restored = self._differentiate(batch)
        if getattr(optimiser, "_step_supports_amp_scaling", False):
            if not scaler.is_enabled():
                # As a scaler would do for fused Adam: decided on the device, without a wait of the host.
                optimiser.found_inf = self.guard.skip  # type: ignore[attr-defined]
        else:
            self.guard.wait()  # an optimiser that cannot skip a step must not begin a bad one
        self.changes_weights = True
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad()
        return restored

    def _differentiate(self, batch: DeviceBatch) -> Tensor:
        """Compute the gradients for a batch, and return the restored batch."""
        restored, own = self._forward(batch.low, batch.gt)
        loss = self.guard.check(own, batch, self._communicator.mean(own))
        with self._communicator.detect_lost_ranks():
            self._state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return restored.detach()

    def _forward(self, low: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
        """Return the restored batch and its loss."""
        with self._autocast:
            restored: Tensor = self._network(low)
        return restored, self._recipe.loss_of(restored, gt, self._config.target)

    def _capture(self, batch: DeviceBatch) -> StepGraph | None:
        """Return the forward and backward pass as a CUDA graph; None, with a warning, where that is impossible."""

        def run(low: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
            restored, own = self._forward(low, gt)
            losses, loss = self.guard.mark(own)
            self._state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            return restored.detach(), losses

        try:
            return StepGraph(run, self._network.parameters(), batch.low, batch.gt)
        except RuntimeError as error:
            log.warning(
                "the training step cannot be captured as a CUDA graph (%s); training continues without one, which is slower",
                first_line(error),
            )
            return None
