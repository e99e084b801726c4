"""The trainer's side of a spool in object storage: download shards into a directory before they are needed.

The reader uses this directory like any other spool, and the downloader is its producer. So the downloader
holds the producer lock of the directory, and the trainer's lease of the bucket. Objects that the reader has
passed are deleted after the cursor is published. The trade-off: a shard is verified after the download and
again when it is read, which costs a few per cent of a core; in return no damaged object ever reaches the
reader.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from darkprep.shards.cursor import Cursor
from darkprep.shards.errors import ShardDamaged, SpoolError, StreamEnded
from darkprep.shards.file_names import partial_file_name
from darkprep.shards.files import rename
from darkprep.shards.heartbeat import ProducerStatus
from darkprep.shards.remote.bucket import Bucket
from darkprep.shards.remote.lease import Lease
from darkprep.shards.spool import Spool
from darkprep.shards.supply import REPORT_EVERY_S, ShardSupply

log = logging.getLogger(__name__)

_DOWNLOADS = 3
"""Shards that are downloaded at once."""
_LIST_EVERY_S = 1.0
_CURSOR_EVERY_S = 5.0
_MAX_DAMAGED = 10
"""Damaged downloads of one shard before giving up."""
_DISK_FULL_TIMEOUT_S = 60.0
_DELETED_AT_ONCE = 100
"""Each costs a request, during which no cursor is published; anyone may have put many objects there."""


@dataclass(frozen=True, kw_only=True)
class DownloaderConfig:
    """How many shards are downloaded, and how long to wait when there is no producer."""

    max_shards: int
    """Number of shards for which the directory has room: finished, being downloaded, or damaged."""
    until: int | None
    """Number of the first shard that is not downloaded; None for no end."""
    list_every_s: float = _LIST_EVERY_S
    producer_timeout_s: float = 120.0
    """How long to wait for a shard that is needed now while no producer is running."""


class Downloader(ShardSupply[bool]):
    """The downloader of one trainer group. `run` returns when `stop` is set.

    Raises SpoolBusy when another trainer uses the bucket or the directory, StreamEnded when a shard is needed
    and no producer has run for `producer_timeout_s`, DiskFull, and SpoolError when the store fails.
    """

    def __init__(
        self,
        spool: Spool,
        bucket: Bucket,
        config: DownloaderConfig,
        *,
        lease: Lease | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        super().__init__(spool, spool, until=config.until, stop=stop, disk_full_timeout_s=_DISK_FULL_TIMEOUT_S)  # fmt: skip
        self._bucket, self._config = bucket, config
        self._lease = lease or bucket.trainer_lease()
        self._size = spool.stream.layout().shard_bytes
        self._objects: set[int] = set()
        """Complete objects that were listed or found by their names and have not been deleted since."""
        self._damaged: Counter[int] = Counter()
        self._downloaded = 0
        self._deleted: set[int] = set()
        """Objects already deleted, which an old listing may still show."""
        self._cursor: Cursor | None = None
        self._published = self._listed = self._watched = self._reported = -float("inf")
        self._began = time.monotonic()
        self._producer = bucket.watch_producer()
        self._no_producer_since: float | None = None
        self._pool = ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="downloader")

    def run(self) -> None:
        """Download the shards needed next, write the trainer's position to the bucket, and delete the shards there that the trainer has passed."""
        with self._lock, self._lease:
            self._spool.remove_stale_files()
            self._spool.remove_dead_heartbeats()
            try:
                while not self._stop.is_set():
                    self._reconcile()
            except BaseException as error:
                self._close(error)
                raise
            self._close()

    def _close(self, error: BaseException | None = None) -> None:
        """Stop downloading and publish the last cursor; after an `error`, further errors are only logged."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)
        try:
            try:
                self._spool.remove_stale_files()
                self._publish_cursor(last=True)
            finally:
                self._publish_status("stopped")
        except (SpoolError, OSError) as another:
            if error is None:
                raise
            if another is not error:
                log.warning("%s", another)

    # -- one turn of the loop ---------------------------------------------------------------------

    def _reconcile(self) -> None:
        self._publish_cursor()
        # In this order: the trainer publishes its cursor before it deletes a shard.
        ready = self._spool.ready_shards()
        end = self._spool.oldest_needed() + self._config.max_shards * self._spool.part[1]
        missing = list(itertools.takewhile(lambda shard: shard < end, self._missing(ready)))
        now = time.monotonic()
        if missing and now - self._listed >= self._config.list_every_s:
            self._listed = now
            self._list_objects(missing[0])
        state = self._submit_downloads(missing)
        if state == "waiting for shards" and self._is_in_window(missing[0]):
            self._check_producer(missing[0])
        else:
            self._no_producer_since = None
        self._collect_results()
        if now - self._reported >= REPORT_EVERY_S:
            self._reported = now
            self._publish_status(state)

    def _is_in_window(self, shard: int) -> bool:
        return shard < self._spool.oldest_needed() + self._spool.stream.window * self._spool.part[1]

    def _list_objects(self, first: int) -> None:
        """Add the objects of a new listing, and shard `first` if it exists, to the known objects.

        A listing may be out of date, so objects that it lacks are not removed.
        """
        first_unknown = {first} - self._objects
        found = self._bucket.complete_shards(self._size, self._delete_damaged, first_unknown)
        self._objects |= found
        self._delete_objects(self._spool.oldest_needed())

    def _submit_downloads(self, missing: list[int]) -> str:
        """Start downloads of missing shards that are in the bucket, while there is room; return the state."""
        if self._disk_full.is_active:
            return "waiting for disk space"
        for shard in [shard for shard in missing if shard in self._objects]:
            if len(self._in_flight) >= _DOWNLOADS:
                return "making"
            if not self._make_room(shard, self._spool.ready_shards(), self._config.max_shards):
                return "waiting for the trainer"
            self._in_flight[self._pool.submit(self._download, shard)] = shard
        if self._in_flight:
            return "making"
        return "waiting for shards" if missing else "waiting for the trainer"

    def _take(self, future: Future[bool], shard: int) -> None:
        if future.result():
            self._downloaded += 1
            self._disk_full.end()
        else:
            self._objects.discard(shard)

    def _download(self, shard: int) -> bool:
        """Download and verify one shard; return whether it is now ready. A damaged object is deleted."""
        path = self._spool.partial / partial_file_name(shard)
        try:
            if not self._bucket.download(shard, path):
                return False
        except ShardDamaged as error:
            self._spool.quarantine.add(path, shard, str(error))
            self._delete_damaged(shard, str(error))
            return False
        rename(path, self._spool.shard_path(shard))
        return True

    def _delete_damaged(self, shard: int, reason: str) -> None:
        """Delete a damaged object, so that the producer rebuilds it."""
        self._damaged[shard] += 1
        log.warning("%s: shard %d is damaged (%s); it is deleted and rebuilt", self._bucket, shard, reason)  # fmt: skip
        if self._damaged[shard] > _MAX_DAMAGED:
            raise SpoolError(
                f"{self._bucket}: shard {shard} was damaged {_MAX_DAMAGED} times ({reason}); check the store, and run the same version of darkprep for producer and trainer"
            )
        self._bucket.delete(shard, check=self._lease.check)

    # -- the trainer and the bucket ---------------------------------------------------------------

    def _publish_cursor(self, *, last: bool = False) -> None:
        """Publish the cursor of the slowest rank, then delete the objects that it has passed.

        This never happens after the lease is lost, because another trainer may need the objects. A delayed
        write by an earlier holder of the lease may overwrite the cursor, so it is published again from time
        to time even if it has not changed. Raises the errors of Lease.check.
        """
        self._lease.check()
        cursors = self._spool.read_cursors()
        if len(cursors) < max((cursor.world for cursor in cursors), default=1):
            return  # a rank that has published nothing yet may need what the others have passed
        slowest = min(cursors, key=lambda cursor: cursor.shard)
        newest = replace(
            slowest,
            rank=0,
            world=1,
            batch=min(cursor.batch for cursor in cursors),
            wait_fraction=max(cursor.wait_fraction for cursor in cursors),
            waiting_s=max(cursor.waiting_s for cursor in cursors),
        )
        moved = self._cursor is None or newest.shard != self._cursor.shard
        due = time.monotonic() - self._published >= _CURSOR_EVERY_S
        if moved or due or (last and newest != self._cursor):
            self._published = time.monotonic()
            self._bucket.write_cursor(newest, check=self._lease.check)
            self._cursor = newest
        if last:
            self._objects.update(self._bucket.list_shards())
        if moved or last:
            self._delete_objects(newest.shard)

    def _delete_objects(self, needed: int) -> None:
        """Delete the objects before shard `needed`, at most 100 in one turn; the cursor must be published first, or they are rebuilt."""
        if self._cursor is None or self._cursor.shard < needed:
            return
        passed = sorted(shard for shard in self._objects if shard < needed)
        for shard in passed[:_DELETED_AT_ONCE]:
            self._bucket.delete(shard, check=self._lease.check)
            self._objects.discard(shard)
            self._deleted.add(shard)

    def _check_producer(self, shard: int) -> None:
        """Raise StreamEnded if `shard` is missing and there has been no running producer for too long."""
        now, timeout_s = time.monotonic(), self._config.producer_timeout_s
        if now - self._watched < self._config.list_every_s:
            return
        self._watched = now
        if self._producer.is_alive(self._producer.look()) is not False:
            self._no_producer_since = None
            return
        missing = f"{self._bucket}: shard {shard} is missing and no producer is running"
        if self._no_producer_since is None:
            self._no_producer_since = now
            log.warning("%s; waiting for up to %.0f s", missing, timeout_s)
        if now - self._no_producer_since >= timeout_s:
            raise StreamEnded(
                f"{missing}; run `darkprep build --spool {self._bucket}` where the photographs are, then continue with --resume"
            )

    def _publish_status(self, state: str) -> None:
        running = time.monotonic() - self._began
        status = ProducerStatus(
            state=state,
            shards_made=self._downloaded,
            shards_ready=len(self._spool.ready_shards()),
            next_needed=self._spool.oldest_needed(),
            until=self._until,
            shard_bytes=self._size,
            disk_bytes=self._spool.disk_bytes(),
            running_s=running,
            mb_per_s=self._downloaded * self._size / 1e6 / max(running, 1e-9),
            damaged=self._damaged.total(),
            deleted=len(self._deleted),
        )
        self._lease.report(status.to_json())
        self._write_heartbeat(status)
