"""The shards that a reader has open: waits for missing ones, quarantines damaged ones, closes passed ones.

The trade-off: a missing shard is polled for, a hundred times a second. Notification by the file system
would not work for every network file system.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable

from darkprep.shards.batch import ReaderStats
from darkprep.shards.errors import ShardDamaged
from darkprep.shards.shard_file import ShardFile
from darkprep.shards.spool import Spool

log = logging.getLogger(__name__)

_POLL_S = 0.01
_STARVING_EVERY_S = 0.5


class OpenShards:
    """Open shards of `spool`, by their number in the stream.

    With `cycle` the stream repeats the first `cycle` shards of the spool without end. `should_stop` ends
    a wait, and `closing` ends it at once. `on_starving(shard, seconds)` is called about twice a second
    while a shard is missing; what it raises is passed on.
    """

    def __init__(
        self,
        spool: Spool,
        stats: ReaderStats,
        *,
        verify: bool,
        cycle: int | None,
        closing: threading.Event,
        should_stop: Callable[[], bool],
        on_starving: Callable[[int, float], None] | None,
    ) -> None:
        self._spool, self._stats = spool, stats
        self._layout, self._digest = spool.stream.layout(), spool.digest
        self._verify, self._cycle = verify, cycle
        self._closing, self._should_stop = closing, should_stop
        self._on_starving = on_starving
        self._open: dict[int, ShardFile] = {}
        self._seen: os.stat_result | None = None
        """The status of the file that was opened last, before it was checked."""

    def __contains__(self, shard: int) -> bool:
        return shard in self._open

    def get(self, shard: int, while_waiting: Callable[[], None]) -> ShardFile | None:
        """Return the shard, opened; wait while it is missing or damaged. None when asked to stop.

        `while_waiting` is called again and again during the wait.
        """
        while True:
            try:
                if shard in self._open or self._wait_and_open(shard, while_waiting):
                    return self._open[shard]
            except ShardDamaged as error:
                self.quarantine(shard, error)
            else:
                return None

    def quarantine(self, shard: int, error: ShardDamaged) -> None:
        """Close a damaged shard and move it to quarantine, so that a producer rebuilds it."""
        opened = self._open.pop(shard, None)
        self._stats.damaged += 1
        log.warning("%s; it is quarantined and will be rebuilt", error)
        number = self._number(shard)
        seen = opened.seen if opened else self._seen
        self._spool.quarantine.add(self._spool.shard_path(number), number, str(error), seen=seen)
        if opened:
            opened.close()

    def repetitions(self, shard: int) -> int:
        """Return how many times the stream repeated all kept shards before this one."""
        return shard // self._cycle if self._cycle else 0

    def close_before(self, oldest: int) -> None:
        """Close the shards before `oldest`."""
        for shard in [shard for shard in self._open if shard < oldest]:
            self._open.pop(shard).close()

    def close(self) -> None:
        """Close all shards."""
        for shard in self._open.values():
            shard.close()

    def _number(self, shard: int) -> int:
        """Return the spool's number of a shard of the stream."""
        return shard % self._cycle if self._cycle else shard

    def _wait_and_open(self, shard: int, while_waiting: Callable[[], None]) -> bool:
        """Open a shard as soon as it exists; return False when asked to stop. Raises ShardDamaged."""
        number = self._number(shard)
        path = self._spool.shard_path(number)
        began, reported = time.monotonic(), 0.0
        while True:
            with contextlib.suppress(FileNotFoundError):
                self._seen = path.lstat()
                self._open[shard] = ShardFile(
                    path, self._layout, number, self._digest, verify=self._verify
                )
                return True
            waited = time.monotonic() - began
            if self._on_starving and waited - reported >= _STARVING_EVERY_S:
                self._on_starving(number, waited)
                reported = waited
            while_waiting()
            if self._closing.wait(_POLL_S) or self._should_stop():
                return False
