"""Release shards: publish a rank's cursor and delete the shards that every rank has passed.

The trade-off: if a cursor cannot be written or a shard cannot be deleted, only a warning is logged, because
training can continue with the shards that exist, and deleting is what frees a full disk. An old cursor only
makes producers build shards that nobody needs.
"""

from __future__ import annotations

import contextlib
import logging
import time

from darkprep.shards.batch import ReaderStats
from darkprep.shards.cursor import Cursor
from darkprep.shards.errors import DiskFull, MachineError, SpoolBusy, SpoolError
from darkprep.shards.machine import with_retries
from darkprep.shards.rare_warning import RareWarning
from darkprep.shards.spool import Spool

log = logging.getLogger(__name__)

_MEASURE_EVERY_S = 1.0


class ShardRelease:
    """The cursor of one rank and, on rank 0, the trainer lock. `begin` acquires the lock, `end` releases it."""

    def __init__(
        self, spool: Spool, stats: ReaderStats, *, rank: int, world: int, run: str
    ) -> None:
        self._spool, self._stats = spool, stats
        self._rank, self._world, self._run = rank, world, run
        self._first = 0
        """The oldest shard that was needed at the start."""
        self._published = 0
        self._measured = 0.0
        self._began = time.monotonic()
        self._lock = spool.trainer_lock() if rank == 0 else None
        self._warn_of_cursor, self._warn_of_deletion = RareWarning(log), RareWarning(log)

    def begin(self, batch: int, oldest: int) -> None:
        """Acquire the trainer lock (rank 0 only) and publish the first cursor.

        Raises SpoolBusy when another trainer holds the lock, SpoolError when the spool cannot be written, and
        MachineError when its disk keeps failing.
        """
        with_retries(str(self._spool.cursors), lambda: self._begin(batch, oldest), "written")

    def _begin(self, batch: int, oldest: int) -> None:
        self._spool.restore_directories()
        if self._lock:
            self._lock.acquire()
        try:
            if self._lock:
                # Cursors of an earlier training run would let shards be deleted that this one still needs.
                self._spool.remove_cursors_from(1)
            self._first = oldest
            with contextlib.suppress(DiskFull):  # `update` warns of it
                self._write_cursor(batch, oldest)
        except BaseException:
            self._release_lock()
            raise

    def update(self, batch: int, oldest: int) -> None:
        """Publish the cursor if shards were passed or a second has gone by, and delete the passed shards.

        Raises SpoolBusy when the lock's file was removed and another trainer has acquired the lock since
        then.
        """
        now = time.monotonic()
        is_due = now - self._measured >= _MEASURE_EVERY_S
        if is_due:
            self._measured = now
            self._restore_lock()
            with contextlib.suppress(OSError):
                occupied = self._spool.disk_bytes()
                self._stats.peak_disk_bytes = max(self._stats.peak_disk_bytes, occupied)
        if is_due or oldest > self._published:
            self._publish(batch, oldest)
            self._delete()

    def end(self, batch: int, oldest: int) -> None:
        """Publish the last cursor, delete the shards that every rank has passed, and release the lock."""
        try:
            self._publish(batch, oldest)
            self._delete()
        finally:
            self._release_lock()

    def _release_lock(self) -> None:
        if self._lock:
            self._lock.release()

    def _restore_lock(self) -> None:
        try:
            if self._lock:
                self._lock.restore()
        except SpoolBusy:
            raise
        except (SpoolError, OSError) as error:
            self._warn_of_cursor(
                "the trainer lock was lost and cannot be acquired again: %s", error
            )

    def _publish(self, batch: int, oldest: int) -> None:
        try:
            self._write_cursor(batch, oldest)
        except (SpoolError, OSError) as error:
            self._warn_of_cursor("the cursor cannot be written: %s", error)

    def _write_cursor(self, batch: int, oldest: int) -> None:
        self._published = oldest
        cursor = Cursor(
            rank=self._rank,
            world=self._world,
            batch=batch,
            shard=oldest,
            run=self._run,
            wait_fraction=self._wait_fraction(),
            waiting_s=self._waiting_s(),
        )
        self._spool.write_cursor(cursor)

    def _wait_fraction(self) -> float:
        """Return the share of the time since the first batch in which the trainer waited for data."""
        running = time.monotonic() - self._began - self._stats.first_batch_s
        if self._stats.batches <= 1 or running <= 0:
            return 0.0
        waited = self._stats.wait_s + self._waiting_s() - self._stats.first_wait_s
        return min(1.0, max(0.0, waited / running))

    def _waiting_s(self) -> float:
        """Return for how many seconds the trainer has now been waiting for data."""
        since = self._stats.waiting_since
        return 0.0 if since is None else time.monotonic() - since

    def _delete(self) -> None:
        try:
            self._delete_passed()
        except (MachineError, OSError) as error:
            reason = error.reason if isinstance(error, MachineError) else error.strerror
            self._warn_of_deletion(
                "%s: used shards cannot be deleted: %s", self._spool.path, reason
            )

    def _delete_passed(self) -> None:
        passed = self._published
        if self._world > 1:
            cursors = self._spool.read_cursors()
            is_complete = len(cursors) >= self._world
            passed = min(cursor.shard for cursor in cursors) if is_complete else 0
        for shard in self._spool.ready_shards():
            if shard < passed:
                self._spool.delete(shard)
        if self._rank == 0:
            # Not what was deleted here: a producer that reads the cursor first deletes them itself.
            done = len(self._spool.shards_in_part(self._first, self._published))
            self._stats.shards_deleted = max(done, self._stats.shards_deleted)
