"""Watch the producer of a spool while a reader waits for a shard, and end the wait for a shard that no process makes.

The trade-off: a producer that starts more than a few seconds after the reader is too late for it.
"""

from __future__ import annotations

import logging
import time

from darkprep.shards.errors import StreamEnded
from darkprep.shards.rare_warning import RareWarning
from darkprep.shards.spool import Spool

log = logging.getLogger(__name__)

_REPORT_AFTER_S = 5.0
_ABSENT_S = 5.0
"""Seconds without a producer after which a reader stops waiting for a missing shard."""


class ProducerWatch:
    """The default reaction of a reader to a missing shard."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._report = RareWarning(log)
        self._waited_s = 0.0
        self._absent_since: float | None = None

    def on_starving(self, shard: int, seconds: float) -> None:
        """Log a wait of several seconds; raise StreamEnded if no producer has been running for that long."""
        if seconds < self._waited_s:  # another wait
            self._absent_since = None
        self._waited_s = seconds
        if self._spool.has_producer() or self._spool.shard_path(shard).exists():
            self._absent_since = None
            if seconds > _REPORT_AFTER_S:
                self._report(
                    "%s: waiting for the producer to make shard %d", self._spool.path, shard
                )
            return
        now = time.monotonic()
        if self._absent_since is None:
            self._absent_since = now
        if now - self._absent_since >= _ABSENT_S:
            raise StreamEnded(
                f"{self._spool.path}: shard {shard} is missing and no producer is running; run the same `darkprep build --spool {self._spool.path}` command again"
            )
