"""Checks each step's loss without making the device wait, and keeps a bad one away from the weights.

The trade-off: on CUDA the host learns of a loss a few steps late, because asking at once would make the
device idle in every step. So the device itself skips a bad step, and only the exception comes late.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from darkprep.shards.errors import NonFiniteLoss, RankStopped
from darkprep.trainer.stream import DeviceBatch

_SLOTS = 64
"""Most losses on their way to the host; a stream keeps the host within two batches of the device."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pending:
    """A loss on its way to the host."""

    batch: int
    keys: tuple[str, ...]
    losses: Tensor
    """`(2,)` on the host: this rank's own loss, and the mean over all ranks."""
    arrived: torch.cuda.Event | None
    """None on a CPU, where nothing is under way."""


class LossGuard:
    """Receives every step's loss, and reports the finite ones as numbers, in order.

    Raises NonFiniteLoss, which names the batch's samples: on a CPU from `check`, before the backward
    pass; on CUDA from `check` or `report` some steps later, the optimiser having skipped that step.
    Where the bad loss is another rank's, raises RankStopped instead.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._pending: deque[_Pending] = deque()
        self._slots = torch.zeros(_SLOTS, 2, pin_memory=self._cuda)
        self._next_slot = 0
        self._finite: list[float] = []
        self.skip = torch.zeros((), device=device)
        """1 if the last checked loss was not finite, else 0; as fused Adam takes it in `found_inf`."""

    def check(self, loss: Tensor, batch: DeviceBatch, mean: Tensor | None = None) -> Tensor:
        """Return the loss to differentiate: the same value, or one that no optimiser step uses.

        `mean` is the mean loss of all ranks' parts of the batch, so that all ranks decide alike.
        """
        own = loss.detach()
        mean = own if mean is None else mean
        finite = torch.isfinite(mean)
        self.skip.copy_(~finite)
        slot = self._slots[self._next_slot % _SLOTS]
        self._next_slot += 1
        slot.copy_(torch.stack([own, mean]), non_blocking=True)
        arrived = torch.cuda.Event() if self._cuda else None  # type: ignore[no-untyped-call]
        if arrived:
            arrived.record()
        self._pending.append(
            _Pending(batch=batch.index, keys=batch.keys, losses=slot, arrived=arrived)
        )
        self._collect(wait=len(self._pending) == _SLOTS)
        return loss / finite

    def report(self, *, wait: bool = False) -> list[float]:
        """Return the mean losses that arrived since the last call, oldest first; with `wait`, all of them."""
        self._collect(wait=wait)
        finite, self._finite = self._finite, []
        return finite

    def _collect(self, *, wait: bool) -> None:
        while self._pending:
            pending = self._pending[0]
            if pending.arrived and wait:
                pending.arrived.synchronize()
            elif pending.arrived and not pending.arrived.query():  # type: ignore[no-untyped-call]
                return
            self._pending.popleft()
            own, mean = pending.losses.tolist()
            if not math.isfinite(own):
                raise NonFiniteLoss(
                    f"the loss of batch {pending.batch} is {own}; the weights were not changed by this batch; "
                    f"check samples {', '.join(pending.keys)}, or train in fp32 with a lower learning rate"
                )
            if not math.isfinite(mean):
                raise RankStopped(f"the loss of batch {pending.batch} is {mean} on another rank")
            self._finite.append(mean)
