"""Watches the loss: reads it without holding the device up, and lets no bad one reach the weights.

The trade-off: on CUDA the host learns of a loss a few steps late, as asking at once would make the
device idle in every step. So the verdict that protects the weights is the device's own, and what
comes late is only the exception.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from darkprep.shards.errors import NonFiniteLoss, RankStopped
from darkprep.trainer.stream import DeviceBatch

_PLACES = 64
"""Losses under way to the host at most; a stream keeps the host within two batches of the device."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Seen:
    batch: int
    keys: tuple[str, ...]
    losses: Tensor
    """This rank's own, and the mean over all ranks."""
    arrived: torch.cuda.Event | None


class LossGuard:
    """Takes every step's loss and gives finite ones back as numbers, in order.

    Raises NonFiniteLoss, which names the batch's samples: on a CPU from `admit`, before the backward
    pass; on CUDA from `admit` or `known` some steps later, the optimiser having skipped that step.
    Where the bad loss is another rank's, raises RankStopped at the same step.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._waiting: deque[_Seen] = deque()
        self._places = torch.zeros(_PLACES, 2, pin_memory=self._cuda)
        self._turn = 0
        self._known: list[float] = []
        self.skip = torch.zeros((), device=device)
        """1 where the last admitted loss was not finite, else 0; in the form fused Adam takes as `found_inf`."""

    def admit(self, loss: Tensor, batch: DeviceBatch, mean: Tensor | None = None) -> Tensor:
        """The loss to differentiate: the same value, or one whose gradients no scaler lets pass.

        `mean` is the mean loss of all ranks' parts of the batch, on which all of them decide alike.
        """
        own = loss.detach()
        mean = own if mean is None else mean
        finite = torch.isfinite(mean)
        self.skip.copy_(~finite)
        place = self._places[self._turn % _PLACES]
        self._turn += 1
        place.copy_(torch.stack([own, mean]), non_blocking=True)
        arrived = torch.cuda.Event() if self._cuda else None  # type: ignore[no-untyped-call]
        if arrived:
            arrived.record()
        self._waiting.append(
            _Seen(batch=batch.index, keys=batch.keys, losses=place, arrived=arrived)
        )
        self._collect(wait=len(self._waiting) == _PLACES)
        return loss / finite

    def known(self, *, wait: bool = False) -> list[float]:
        """Losses that became known since the last call, oldest first; with `wait`, all admitted ones."""
        self._collect(wait=wait)
        known, self._known = self._known, []
        return known

    def _collect(self, *, wait: bool) -> None:
        while self._waiting:
            seen = self._waiting[0]
            if seen.arrived and wait:
                seen.arrived.synchronize()
            elif seen.arrived and not seen.arrived.query():  # type: ignore[no-untyped-call]
                return
            self._waiting.popleft()
            own, mean = seen.losses.tolist()
            if not math.isfinite(own):
                raise NonFiniteLoss(
                    f"the loss of batch {seen.batch} is {own}; the weights are as before it; "
                    f"look at samples {', '.join(seen.keys)}, or train in fp32 with a lower rate"
                )
            if not math.isfinite(mean):
                raise RankStopped(f"the loss of batch {seen.batch} is {mean} on another rank")
            self._known.append(mean)
