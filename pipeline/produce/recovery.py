"""What a producer does when its workers die.

The trade-off: most workers are killed for reasons that pass (memory, a signal), so a producer starts new
ones a bounded number of times before it gives up.
"""

from __future__ import annotations

import logging
import threading
import time

from darkprep.pipeline.pairs.table import Skipped
from darkprep.pipeline.produce.frame_store import FrameStore
from darkprep.pipeline.produce.quarantine import FileQuarantine
from darkprep.shards import Spool, SpoolError

log = logging.getLogger(__name__)

_MAX_DEATHS_IN_ROW = 20
"""Deaths without a finished shard between them before the producer gives up."""
_WRITERS_POLL_S = 0.05
_WRITERS_WARNING_AFTER_S = 5.0


class WorkerRecovery:
    """Cleans up after workers that died, and finds out whether a file killed them."""

    def __init__(
        self, spool: Spool, store: FrameStore, quarantine: FileQuarantine, stop: threading.Event
    ) -> None:
        self._spool, self._store, self._file_quarantine, self._stop = spool, store, quarantine, stop
        self.deaths = 0
        self._deaths_in_row = 0

    def handle_death(self) -> Skipped | None:
        """Clean up after the workers died; return the file that is quarantined for it, if any.

        Raises SpoolError when they die again and again without finishing a shard.
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
        """Count deaths from zero again: a worker finished its task."""
        self._deaths_in_row = 0

    def remove_stale_files(self) -> None:
        """Wait until no worker of before can write any more, then remove the unfinished files that they left.

        Without the wait, such a worker could still publish a shard, which the producer would not count.
        Returns early, and removes nothing, when the producer is to stop.
        """
        began, warned = time.monotonic(), False
        while self._spool.has_writers():
            if not warned and time.monotonic() - began > _WRITERS_WARNING_AFTER_S:
                log.warning(
                    "%s: waiting until workers of an earlier producer have exited", self._spool.path
                )
                warned = True
            if self._stop.wait(_WRITERS_POLL_S):
                return
        self._spool.remove_stale_files()
        self._store.remove_stale_files()
