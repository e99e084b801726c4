"""The state of a training run of one small layer, for tests of checkpoints."""

from __future__ import annotations

import torch

from darkprep.trainer.adam import EagerAdam
from darkprep.trainer.checkpoint import TrainState


def new_state() -> TrainState:
    network = torch.nn.Conv2d(4, 3, 3)
    return TrainState(
        network=network,
        optimiser=EagerAdam(network.parameters(), fused=True),
        scaler=torch.amp.GradScaler("cpu"),
    )
