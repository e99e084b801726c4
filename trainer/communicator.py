"""What the processes of one training, a rank each, exchange: the interface, and one process alone.

`ProcessGroup` (distributed.py) is the implementation for several ranks. The trade-off: one small message
round before each step. A GPU does not notice it, as the host runs ahead; on a CPU it costs a fraction of a
millisecond.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, Protocol, TypeVar

import torch
from torch import Tensor, nn

from darkprep.trainer.checkpoint import Progress, TrainState


@dataclass(frozen=True, kw_only=True)
class StepStatus:
    """The state of a rank before a step; or, after an agreement, the sum over all ranks."""

    stop: int = 0
    """Ranks that were told to stop."""
    ended: int = 0
    """Ranks whose stream has ended."""
    failed: int = 0
    """Ranks that have an error."""
    shards_deleted: int = 0
    damaged: int = 0


class Communicator(Protocol):
    """The ranks of a training as one of them sees them. Every method raises RankLost.

    All ranks must call the same methods in the same order.
    """

    rank: int
    world: int
    local_rank: int
    """Number of this rank among those of its machine."""
    local_world: int

    def agree(self, status: StepStatus) -> StepStatus:
        """Return the sum of all ranks' statuses."""

    def raise_on_all_ranks(self, error: Exception | None) -> NoReturn:
        """Raise on every rank, after an agreement in which any has failed; `error` is this rank's own.

        Rank 0 raises the error of the first rank that has one, the others raise RankStopped.
        """

    def fail_together(self) -> contextlib.AbstractContextManager[None]:
        """Raise an error of the block on all ranks, as `raise_on_all_ranks` does, when they leave it."""

    def detect_lost_ranks(self) -> contextlib.AbstractContextManager[None]:
        """Raise RankLost instead of torch's errors of communication, in a block that communicates."""

    def broadcast(self, text: str) -> str:
        """Return rank 0's text."""

    def gather(self, text: str) -> list[str]:
        """Return the texts of all ranks, by rank."""

    def check_same(self, settings: Mapping[str, object]) -> None:
        """Raise OptionError on rank 0, RankStopped on the others, when the ranks' settings differ."""

    def data_parallel(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return the network with gradients that are the mean over all ranks."""

    def mean(self, loss: Tensor) -> Tensor:
        """Return the mean of all ranks' losses, without a gradient."""

    def broadcast_state(self, state: TrainState, progress: Progress) -> Progress:
        """Load rank 0's state into `state` and return rank 0's progress."""


class SingleProcess:
    """The communicator of a training in one process."""

    rank = local_rank = 0
    world = local_world = 1

    def agree(self, status: StepStatus) -> StepStatus:
        """Return `status`."""
        return status

    def raise_on_all_ranks(self, error: Exception | None) -> NoReturn:
        """Raise `error`."""
        assert error is not None, "there is no other rank that can have failed"
        raise error

    def fail_together(self) -> contextlib.AbstractContextManager[None]:
        """Do nothing."""
        return contextlib.nullcontext()

    def detect_lost_ranks(self) -> contextlib.AbstractContextManager[None]:
        """Do nothing."""
        return contextlib.nullcontext()

    def broadcast(self, text: str) -> str:
        """Return `text`."""
        return text

    def gather(self, text: str) -> list[str]:
        """Return `text` alone."""
        return [text]

    def check_same(self, settings: Mapping[str, object]) -> None:
        """Do nothing."""

    def data_parallel(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return `network`."""
        return network

    def mean(self, loss: Tensor) -> Tensor:
        """Return `loss` without its gradient."""
        return loss.detach()

    def broadcast_state(self, state: TrainState, progress: Progress) -> Progress:
        """Return `progress`."""
        return progress

    def __enter__(self) -> SingleProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Do nothing."""


class Closeable(Protocol):
    """Anything with `close`."""

    def close(self) -> None:
        """Release what is held."""


Opened = TypeVar("Opened", bound=Closeable)


def open_in_turn(communicator: Communicator, open_one: Callable[[], Opened]) -> Opened:
    """Return what `open_one` opens, called on rank 0 first, then on one rank of each machine, then on the others.

    So whichever rank removes what an earlier training left behind has done so before the others begin.
    If any rank fails, what was opened is closed and the error is raised on all ranks.
    """
    own_turn = 0 if communicator.rank == 0 else 1 if communicator.local_rank == 0 else 2
    opened: Opened | None = None
    try:
        for turn in range(3):
            with communicator.fail_together():
                if turn == own_turn:
                    opened = open_one()
    except BaseException:
        if opened is not None:
            opened.close()
        raise
    assert opened is not None
    return opened
