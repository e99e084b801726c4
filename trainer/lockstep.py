"""Keep the ranks of a training run at the same step, even if one of them stops or fails.

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
    """Agrees with the other ranks before each step whether to continue; in a single process there is nothing to agree on.

    `wait_for_losses` waits for the losses that the device has not yet copied to the host, and raises if one
    of them is not finite. This is needed because on a GPU the other ranks may detect a bad loss earlier
    than the rank that caused it.
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
        """Sum of the ranks' statuses when they last exchanged them."""

    def next_batch(self, stream: DeviceStream) -> DeviceBatch | None:
        """Return this rank's next batch once every rank has its batch; None when the stream of any rank has ended.

        An error of the reader is raised on all ranks, see Communicator.raise_on_all_ranks. A reader that
        was stopped while it waited for a shard counts as ended.
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
        """Report an error of the block to the other ranks, so that all ranks raise at their next agreement."""
        try:
            yield
        except RankLost:
            raise
        except DarkprepError as error:
            self._agree(error=error)
            raise

    def should_stop(self) -> bool:
        """Return whether all ranks must stop after the current step."""
        alone = self._communicator.world == 1
        return self._stop.is_set() if alone else self._total.stop > 0

    def finish(self) -> None:
        """Agree once more after the last step, to sum the final counts and to raise errors that occurred since."""
        stop = self._total.stop
        self._agree()
        self._total = replace(self._total, stop=stop)

    def shards_deleted(self) -> int:
        """Return how many shards the readers of all ranks had deleted when the ranks last exchanged their status."""
        alone = self._communicator.world == 1
        return self._stats.shards_deleted if alone else self._total.shards_deleted

    def damaged(self) -> int:
        """Return how many damaged shards the readers of all ranks had found when the ranks last exchanged their status."""
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
