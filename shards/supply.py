"""What the producer and the downloader have in common: which shard is needed next, and whether it fits.

Both are reconciling loops: the shards from the trainer's cursor on are wanted, a directory lists those that
exist, and tasks supply the difference, earliest first, never more than there is room for. The trade-off:
the loop polls the directory twenty times a second instead of being notified.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
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
    """Where finished shards wait for the trainer: a Spool, or object storage."""

    def ready_shards(self) -> list[int]:
        """Return the finished shards, ascending."""

    def oldest_needed(self) -> int:
        """Return the oldest shard that a trainer can still ask for."""

    def delete(self, shard: int) -> bool:
        """Delete a finished shard; return whether there was one."""


class DiskFullPause:
    """Pauses the work while the disk is full, for `timeout_s` at most."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._full_since: float | None = None
        self._paused_until = 0.0
        self._warn = RareWarning(log)

    @property
    def is_active(self) -> bool:
        """Whether to wait before the next write."""
        return time.monotonic() < self._paused_until

    def begin(self, error: DiskFull) -> None:
        """Pause for a moment after `error`; raise it when the disk has been full for too long."""
        now = time.monotonic()
        if self._full_since is None:
            self._full_since = now
        self._warn("%s (waiting up to %.0f s for space)", error, self._timeout_s)
        if now - self._full_since > self._timeout_s:
            raise error
        self._paused_until = now + DISK_RETRY_S

    def end(self) -> None:
        """Forget earlier errors: a write succeeded."""
        self._full_since = None


class ShardSupply(Generic[Result]):
    """Base of the producer and the downloader of a spool. Subclasses submit tasks into `_in_flight`.

    `shards` is where finished shards wait; the plan ends before shard `until`, or never for None.
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
        """Held while shards are made or fetched."""
        self._disk_full = DiskFullPause(disk_full_timeout_s)
        self._in_flight: dict[Future[Result], int] = {}
        """The shard of each task that was submitted and has not finished."""

    def _take(self, future: Future[Result], shard: int) -> None:
        """Take the result of a task that finished; raise DiskFull when it failed for that reason."""
        raise NotImplementedError

    def _missing(self, present: Collection[int]) -> Iterator[int]:
        """Yield the shards that the trainer needs and that are neither `present` nor in flight, earliest first."""
        part, parts = self._spool.part
        not_missing = {*present, *self._in_flight.values()}
        shard = self._shards.oldest_needed()
        shard += (part - shard) % parts
        while self._until is None or shard < self._until:
            if shard not in not_missing:
                yield shard
            shard += parts

    def _make_room(self, shard: int, ready: list[int], max_shards: int) -> bool:
        """Return whether one more shard fits, after deleting what is needed less than `shard`.

        That is: shards that every rank has passed, damaged ones kept for inspection, and, after the
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
        """Wait a moment for tasks to finish and take their results."""
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
        # A full disk prevents the heartbeat, not the work.
        with contextlib.suppress(DiskFull):
            self._spool.write_heartbeat(status)
