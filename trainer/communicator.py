"""The interface through which the ranks of a training run communicate, and its implementation for one process.

`ProcessGroup` (distributed.py) is the implementation for several ranks. The trade-off: the ranks exchange
one small message before each step. On a GPU this costs no time, because the host runs ahead of the device;
on a CPU it costs a fraction of a millisecond.
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
    """What a rank reports before each step. The ranks agree on the sum of their statuses."""

    stop: int = 0
    """Number of ranks that received a signal to stop."""
    ended: int = 0
    """Number of ranks whose stream of batches has ended."""
    failed: int = 0
    """Number of ranks on which an error occurred."""
    shards_deleted: int = 0
    damaged: int = 0


class Communicator(Protocol):
    """What one rank uses to communicate with the other ranks of its training run. Every method raises RankLost.

    All ranks must call the same methods in the same order.
    """

    rank: int
    world: int
    local_rank: int
    """Number of this rank among the ranks of its machine, from 0."""
    local_world: int

    def agree(self, status: StepStatus) -> StepStatus:
        """Return the sum of the statuses of all ranks."""

    def raise_on_all_ranks(self, error: Exception | None) -> NoReturn:
        """Raise an error on every rank, after `agree` has returned that a rank failed; `error` is this rank's own error.

        Rank 0 raises the error of the first rank that has one; the other ranks raise RankStopped.
        """

    def fail_together(self) -> contextlib.AbstractContextManager[None]:
        """Wait at the end of the block for all ranks; if the block failed on any rank, raise on all of them."""

    def detect_lost_ranks(self) -> contextlib.AbstractContextManager[None]:
        """Raise RankLost in place of the errors that torch raises in the block when a rank is lost."""

    def broadcast(self, text: str) -> str:
        """Return the text that rank 0 passes."""

    def gather(self, text: str) -> list[str]:
        """Return the texts that all ranks pass, in the order of the ranks."""

    def check_same(self, settings: Mapping[str, object]) -> None:
        """Check that all ranks pass the same settings; otherwise raise OptionError (rank 0) or RankStopped."""

    def data_parallel(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return the network with its gradients averaged over all ranks."""

    def mean(self, loss: Tensor) -> Tensor:
        """Return the mean of `loss` over all ranks, a scalar tensor that is detached from the autograd graph."""

    def broadcast_state(self, state: TrainState, progress: Progress) -> Progress:
        """Copy rank 0's train state into `state` on every rank, and return rank 0's progress."""


class SingleProcess:
    """The communicator of a training run in one process."""

    rank = local_rank = 0
    world = local_world = 1

    def agree(self, status: StepStatus) -> StepStatus:
        """Return `status`: the sum over one process."""
        return status

    def raise_on_all_ranks(self, error: Exception | None) -> NoReturn:
        """Raise `error`."""
        assert error is not None, "there is no other rank that can have failed"
        raise error

    def fail_together(self) -> contextlib.AbstractContextManager[None]:
        """Do nothing: an error of the block is raised as it is."""
        return contextlib.nullcontext()

    def detect_lost_ranks(self) -> contextlib.AbstractContextManager[None]:
        """Do nothing: there are no other ranks."""
        return contextlib.nullcontext()

    def broadcast(self, text: str) -> str:
        """Return `text` unchanged."""
        return text

    def gather(self, text: str) -> list[str]:
        """Return a list of `text` alone."""
        return [text]

    def check_same(self, settings: Mapping[str, object]) -> None:
        """Do nothing: there is nothing to compare with."""

    def data_parallel(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return `network` unchanged."""
        return network

    def mean(self, loss: Tensor) -> Tensor:
        """Return `loss` detached from the autograd graph: it is the mean over one process."""
        return loss.detach()

    def broadcast_state(self, state: TrainState, progress: Progress) -> Progress:
        """Return `progress` unchanged."""
        return progress

    def __enter__(self) -> SingleProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Do nothing: there is no connection to close."""


class Closeable(Protocol):
    """Any object with a method `close`."""

    def close(self) -> None:
        """Release all resources."""


Opened = TypeVar("Opened", bound=Closeable)


def open_in_turn(communicator: Communicator, open_one: Callable[[], Opened]) -> Opened:
    """Call `open_one` on the ranks one group after another, and return what it opens on this rank.

    Rank 0 is first, then one rank of each machine, then the others. So leftovers of an earlier run are
    removed before any other rank opens the same files. If `open_one` fails on any rank, what was opened is
    closed and the error is raised on all ranks.
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
