"""Keeps the ranks of a training at the same step, whatever happens on one of them.

Before each step the ranks agree that each of them has its batch. So a signal, the end of the stream or an
error on one rank ends all of them at the same step, and rank 0 raises the error. The trade-off: a signal
takes effect one step later than in a single process.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from darkprep.shards.batch import ReaderStats
from darkprep.shards.errors import DarkprepError, RankLost, StreamEnded
from darkprep.trainer.communicator import Communicator, StepStatus
from darkprep.trainer.stream import DeviceBatch, DeviceStream


class Lockstep:
    """One rank's side of the agreement; a training in one process passes through it unchanged.

    `wait_for_losses` raises what the losses under way to the host may still show: on a GPU the other ranks
    may learn of a bad loss before the rank that has it.
    """

    def __init__(
        self,
        communicator: Communicator,
        stats: ReaderStats,
        stop: threading.Event,
        wait_for_losses: Callable[[], None],
    ) -> None:
        self._communicator = communicator
        self._stats = stats
        self._stop = stop
        self._wait_for_losses = wait_for_losses
        self._total = StepStatus()
        """Of the last agreement."""

    def next_batch(self, stream: DeviceStream) -> DeviceBatch | None:
        """Return this rank's next batch once every rank has one; None when the stream of any has ended.

        An error of the reader is raised on all ranks, see Communicator.raise_on_all_ranks. A reader that was stopped
        while it waited has ended.
        """
        batch: DeviceBatch | None = None
        error: Exception | None = None
        try:
            batch = next(stream, None)
        except StreamEnded as ended:
            error = None if self._stop.is_set() else ended
        except Exception as caught:  # noqa: BLE001 # raised by the agreement, on all ranks
            error = caught
        self._agree(ended=batch is None, error=error)
        return None if self._total.ended else batch

    @contextlib.contextmanager
    def errors_on_all_ranks(self) -> Iterator[None]:
        """Raise an error of the block on all ranks, the others' at their next agreement."""
        try:
            yield
        except RankLost:
            raise
        except DarkprepError as error:
            self._agree(error=error)
            raise

    def should_stop(self) -> bool:
        """Return whether all ranks must stop after the step at hand."""
        alone = self._communicator.world == 1
        return self._stop.is_set() if alone else self._total.stop > 0

    def finish(self) -> None:
        """Agree once more after the last step, for the final counts and for errors since then."""
        stop = self._total.stop
        self._agree()
        self._total = replace(self._total, stop=stop)

    def shards_deleted(self) -> int:
        """Return how many shards the readers of all ranks have deleted, as of the last agreement."""
        alone = self._communicator.world == 1
        return self._stats.shards_deleted if alone else self._total.shards_deleted

    def damaged(self) -> int:
        """Return how many damaged shards the readers of all ranks have found, as of the last agreement."""
        alone = self._communicator.world == 1
        return self._stats.damaged if alone else self._total.damaged

    def _agree(self, *, ended: bool = False, error: Exception | None = None) -> None:
        status = StepStatus(
            stop=int(self._stop.is_set()),
            ended=int(ended),
            failed=int(error is not None),
            shards_deleted=self._stats.shards_deleted,
            damaged=self._stats.damaged,
        )
        self._total = self._communicator.agree(status)
        if self._total.failed:
            self._communicator.raise_on_all_ranks(error or self._pending_error())

    def _pending_error(self) -> Exception | None:
        try:
            self._wait_for_losses()
        except DarkprepError as error:
            return error
        return None
