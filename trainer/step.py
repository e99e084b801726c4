"""One step of the optimiser: from a batch on the device to changed weights.

The trade-off: one function for every device and precision; the loss scaler and the loss guard handle the
differences (loss scaling, losses that the host reads late).
"""

from __future__ import annotations

import torch
from torch import Tensor

from darkprep.model import build_model
from darkprep.trainer.checkpoint import TrainState
from darkprep.trainer.communicator import Communicator
from darkprep.trainer.config import Precision, TrainConfig
from darkprep.trainer.loss import target_loss
from darkprep.trainer.loss_guard import LossGuard
from darkprep.trainer.stream import DeviceBatch

_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


def new_train_state(config: TrainConfig, device: torch.device) -> TrainState:
    """Create a network, its optimiser and its loss scaler; also seed torch's random number generators."""
    torch.manual_seed(config.seed)
    network = build_model(config.model, config.cfa, config.target).to(device).train()
    return TrainState(
        network=network,
        optimiser=torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True),
        scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
    )


class TrainStep:
    """Trains the network of `state` on one batch per call, together with all ranks."""

    def __init__(
        self,
        config: TrainConfig,
        state: TrainState,
        communicator: Communicator,
        device: torch.device,
    ) -> None:
        self._config, self._state, self._communicator = config, state, communicator
        self._network = communicator.data_parallel(state.network, device)
        self._autocast = torch.autocast(
            device.type, _DTYPES[config.precision], enabled=config.precision != "fp32"
        )
        self.guard = LossGuard(device)
        """Reports the losses."""
        self.changes_weights = False
        """Whether a step that the caller has not yet counted may have changed the weights."""

    def __call__(self, batch: DeviceBatch, iteration: int) -> Tensor:
        """Do step number `iteration`, counted from 0, and return the restored batch, in the form of `DeviceBatch.gt`.

        Raises NonFiniteLoss or RankStopped (see LossGuard) and RankLost.
        """
        optimiser, scaler = self._state.optimiser, self._state.scaler
        for group in optimiser.param_groups:
            group["lr"] = self._config.learning_rate_at(iteration)
        with self._autocast:
            restored: Tensor = self._network(batch.low)
        own = target_loss(restored, batch.gt, self._config.target)
        loss = self.guard.check(own, batch, self._communicator.mean(own))
        with self._communicator.detect_lost_ranks():
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if not scaler.is_enabled():
            # As a scaler would do for fused Adam: decided on the device, without a wait of the host.
            optimiser.found_inf = self.guard.skip  # type: ignore[attr-defined]
        self.changes_weights = True
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad()
        return restored.detach()
