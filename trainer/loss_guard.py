"""Check each step's loss without making the device wait, and keep a non-finite loss from changing the weights.

The trade-off: on CUDA the host reads a loss a few steps late, because reading it at once would make the
device idle in every step. So the device skips a bad step without the host, and the host raises the error a
few steps later.
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
"""Maximum number of losses being copied to the host; the host is at most two batches ahead of the device."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pending:
    """A loss that is being copied from the device to the host."""

    batch: int
    keys: tuple[str, ...]
    losses: Tensor
    """`(2,)` on the host: this rank's own loss, and the mean over all ranks."""
    arrived: torch.cuda.Event | None
    """Recorded after the copy; None on a CPU, where nothing is copied."""


class LossGuard:
    """Receives the loss of every step and returns the finite ones as numbers, in order.

    Raises NonFiniteLoss, which names the samples of the batch. On a CPU, `check` raises it before the
    backward pass. On CUDA, the optimiser skips the step, and `check` or `report` raises it some steps
    later. If only another rank's loss is not finite, RankStopped is raised instead.
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
        """Return the loss to differentiate: the same value if it is finite, else a value that the optimiser ignores.

        `mean` is the mean loss over all ranks' parts of the batch, so that all ranks take the same
        decision.
        """
        losses, checked = self.mark(loss, mean)
        self.watch(losses, batch)
        return checked

    def mark(self, loss: Tensor, mean: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Do the part of `check` that runs on the device: set `skip`.

        Return the tensor for `watch`, and the loss to differentiate.
        """
        own = loss.detach()
        mean = own if mean is None else mean
        finite = torch.isfinite(mean)
        self.skip.copy_(~finite)
        return torch.stack([own, mean]), loss / finite

    def watch(self, losses: Tensor, batch: DeviceBatch) -> None:
        """Copy the losses that `mark` returned for `batch` to the host, and raise the errors of `check`."""
        slot = self._slots[self._next_slot % _SLOTS]
        self._next_slot += 1
        slot.copy_(losses, non_blocking=True)
        arrived = torch.cuda.Event() if self._cuda else None  # type: ignore[no-untyped-call]
        if arrived:
            arrived.record()
        self._pending.append(
            _Pending(batch=batch.index, keys=batch.keys, losses=slot, arrived=arrived)
        )
        self._collect(wait=len(self._pending) == _SLOTS)

    def wait(self) -> None:
        """Wait until all losses have been copied from the GPU. Raises the errors of `check`."""
        self._collect(wait=True)

    def report(self, *, wait: bool = False) -> list[float]:
        """Return the mean losses that arrived since the last call, oldest first; with `wait`, wait for all."""
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
                raise RankStopped(
                    f"the loss of batch {pending.batch} is {mean} on another rank; see that rank's message"
                )
            self._finite.append(mean)
