"""The common part of producer and downloader: which shard is needed next, and whether there is room for it.

Both repeat the same loop: compare the shards that the trainer needs next with those in the directory, and
start tasks for the missing ones, earliest first, never more than there is room for. The trade-off: the loop
lists the directory twenty times a second instead of waiting for notifications.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Generic, Protocol, TypeVar

from darkprep.shards.errors import DiskFull
from darkprep.shards.heartbeat import ProducerStatus
from darkprep.shards.rare_warning import RareWarning
from darkprep.shards.spool import Spool

log = logging.getLogger(__name__)

DISK_RETRY_S = 1.0
REPORT_EVERY_S = 0.5
_POLL_S = 0.05

Result = TypeVar("Result")


class ReadyShards(Protocol):
    """The store of finished shards: a Spool, or object storage."""

    def ready_shards(self) -> list[int]:
        """Return the numbers of the finished shards, ascending."""

    def oldest_needed(self) -> int:
        """Return the oldest shard that a trainer may still need."""

    def delete(self, shard: int) -> bool:
        """Delete a finished shard; return whether it existed."""


class DiskFullPause:
    """Pauses the work while the disk is full, for at most `timeout_s` seconds."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._full_since: float | None = None
        self._paused_until = 0.0
        self._warn = RareWarning(log)

    @property
    def is_active(self) -> bool:
        """Whether the disk was full a moment ago, so that the producer must wait before its next write."""
        return time.monotonic() < self._paused_until

    def begin(self, error: DiskFull) -> None:
        """Start a short pause after `error`; raise the error if the disk has been full for too long."""
        now = time.monotonic()
        if self._full_since is None:
            self._full_since = now
        limit = f" up to {self._timeout_s:.0f} s" if math.isfinite(self._timeout_s) else ""
        self._warn("%s (waiting%s for space)", error, limit)
        if now - self._full_since > self._timeout_s:
            raise error
        self._paused_until = now + DISK_RETRY_S

    def end(self) -> None:
        """End the pause after a successful write, and forget earlier errors."""
        self._full_since = None


class ShardSupply(ABC, Generic[Result]):
    """Base class of the producer and the downloader. Subclasses start tasks and keep them in `_in_flight`.

    `shards` is the store of finished shards. The plan ends before shard `until`; None means no end.
    """

    def __init__(
        self,
        spool: Spool,
        shards: ReadyShards,
        *,
        until: int | None,
        stop: threading.Event | None,
        disk_full_timeout_s: float,
    ) -> None:
        self._spool, self._shards, self._until = spool, shards, until
        self._stop = stop or threading.Event()
        self._lock = spool.producer_lock()
        """The lock that is held while shards are made or downloaded."""
        self._disk_full = DiskFullPause(disk_full_timeout_s)
        self._in_flight: dict[Future[Result], int] = {}
        """The shard number of each unfinished task."""

    @abstractmethod
    def _take(self, future: Future[Result], shard: int) -> None:
        """Process the result of a finished task; raise DiskFull if the task failed with it."""

    def _missing(self, present: Collection[int]) -> Iterator[int]:
        """Yield the shards that the trainer needs and that are neither `present` nor in progress, earliest first."""
        part, parts = self._spool.part
        not_missing = {*present, *self._in_flight.values()}
        shard = self._shards.oldest_needed()
        shard += (part - shard) % parts
        while self._until is None or shard < self._until:
            if shard not in not_missing:
                yield shard
            shard += parts

    def _make_room(self, shard: int, ready: list[int], max_shards: int) -> bool:
        """Return whether there is room for one more shard, after deleting shards that are less needed than `shard`.

        Deleted are shards that every rank has passed, damaged shards kept for inspection, and, after the
        trainer resumed from an older checkpoint, the shard that it will need last.
        """
        ready = self._delete_passed(ready)
        occupied = len(ready) + len(self._in_flight)
        if occupied + self._spool.quarantine.count() < max_shards:
            return True
        self._spool.quarantine.trim(max(0, max_shards - occupied - 1))
        if occupied < max_shards:
            return True
        if ready and ready[-1] > shard:
            self._shards.delete(ready[-1])
            return True
        return False

    def _delete_passed(self, ready: list[int]) -> list[int]:
        """Delete the shards that every rank has passed; return the others."""
        needed = self._shards.oldest_needed()
        for shard in ready:
            if shard < needed:
                self._shards.delete(shard)
        return [shard for shard in ready if shard >= needed]

    def _collect_results(self) -> None:
        """Wait a moment for tasks to finish, and process their results."""
        if not self._in_flight:
            self._stop.wait(_POLL_S)
            return
        for future in wait(self._in_flight, timeout=_POLL_S, return_when=FIRST_COMPLETED).done:
            shard = self._in_flight.pop(future)
            try:
                self._take(future, shard)
            except DiskFull as error:
                self._disk_full.begin(error)

    def _write_heartbeat(self, status: ProducerStatus) -> None:
        self._lock.restore()
        # What prevents the heartbeat need not prevent the work.
        with contextlib.suppress(DiskFull, OSError):
            self._spool.write_heartbeat(status)
