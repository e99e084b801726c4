"""Recovery of a producer whose workers died.

The trade-off: most workers are killed for temporary reasons (memory, a signal), so a producer starts new
workers a limited number of times before it raises an error.
"""

from __future__ import annotations

import logging
import threading
import time

from darkprep.pipeline.pairs.table import Skipped
from darkprep.pipeline.produce.frame_store import FrameStore
from darkprep.pipeline.produce.quarantine import FileQuarantine
from darkprep.pipeline.raw.guard import DECODE_S
from darkprep.shards import Spool, SpoolError

log = logging.getLogger(__name__)

_MAX_DEATHS_IN_ROW = 20
"""Number of consecutive deaths without a finished shard after which the producer raises an error."""
_WRITERS_POLL_S = 0.05
_WRITERS_WARNING_AFTER_S = 5.0
_WRITERS_TIMEOUT_S = DECODE_S
"""A worker on another host may decode for so long before it exits."""


class WorkerRecovery:
    """Removes leftovers of workers that died, and finds out whether a file crashed them."""

    def __init__(
        self, spool: Spool, store: FrameStore, quarantine: FileQuarantine, stop: threading.Event
    ) -> None:
        self._spool, self._store, self._file_quarantine, self._stop = spool, store, quarantine, stop
        self.deaths = 0
        self._deaths_in_row = 0

    def handle_death(self) -> Skipped | None:
        """Remove leftovers after workers died; return the file that was quarantined as the cause, if any.

        Raises SpoolError when workers die repeatedly without finishing a shard.
        """
        self.remove_stale_files()
        self.deaths += 1
        self._deaths_in_row += 1
        skipped = self._file_quarantine.handle_worker_death()
        if self._deaths_in_row > _MAX_DEATHS_IN_ROW:
            decoding = ", ".join(self._file_quarantine.decoding_at_death) or "none"
            raise SpoolError(
                f"{self._spool.path}: workers died {_MAX_DEATHS_IN_ROW} times in a row without finishing a shard "
                f"(files being decoded at the last death: {decoding}); if memory is short, try fewer --jobs"
            )
        return skipped

    def handle_success(self) -> None:
        """Reset the count of deaths: a worker finished its task."""
        self._deaths_in_row = 0

    def remove_stale_files(self) -> None:
        """Wait until no worker of before can write any more, then remove the unfinished files that they left.

        Without the wait, such a worker could still publish a shard, which the producer would not count.
        Returns early, and removes nothing, when the producer is to stop. Raises SpoolError if they do not
        exit in the time that the slowest file may take.
        """
        began, warned = time.monotonic(), False
        while self._spool.has_writers():
            if not warned and time.monotonic() - began > _WRITERS_WARNING_AFTER_S:
                log.warning(
                    "%s: waiting until workers of an earlier producer have exited", self._spool.path
                )
                warned = True
            if time.monotonic() - began > _WRITERS_TIMEOUT_S:
                raise SpoolError(
                    f"{self._spool.producers / 'workers'}: workers of an earlier producer have held this lock for {_WRITERS_TIMEOUT_S:.0f} s; find them with `lslocks`, on every host that uses the spool, and stop them"
                )
            if self._stop.wait(_WRITERS_POLL_S):
                return
        self._spool.remove_stale_files()
        self._store.remove_stale_files()
