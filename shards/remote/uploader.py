"""The producer's side of a spool in object storage: upload finished shards from a directory to the bucket.

A thread reads cursor and listing about once a second and starts uploads; each upload is one PUT, after
which the shard is deleted from the directory. A listing may be out of date, so a shard that is no longer
listed is requested by its name before it counts as deleted. The trade-off: the producer learns up to a
second late that the trainer has passed a shard; a budget of a few more shards makes up for it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from darkprep.shards.heartbeat import ProducerStatus
from darkprep.shards.remote.bucket import Bucket
from darkprep.shards.remote.lease import Lease
from darkprep.shards.spool import Spool

log = logging.getLogger(__name__)

UPLOADS = 2
"""Number of shards that are uploaded at the same time, and so exist twice."""
LIST_EVERY_S = 1.0
_MISSES = 64
"""Number of consecutive missing shards after which the search for uploaded shards ends.

Shards are started in order, so the gap before an uploaded shard is at most the number of shards in work. An earlier
producer may have had more jobs than this one, so not fewer; in an empty bucket each costs a request, so not
many more.
"""


class Uploader:
    """A destination (pipeline/produce/destination.py) in object storage, for a producer with `jobs` workers.

    The producer's thread and those of this class change `_objects` and `_uploading` without a lock: each
    change is one operation of a set, which is atomic in CPython.
    """

    in_transit = UPLOADS

    def __init__(
        self,
        spool: Spool,
        bucket: Bucket,
        *,
        jobs: int = 1,
        lease: Lease | None = None,
        list_every_s: float = LIST_EVERY_S,
    ) -> None:
        self._spool, self._bucket = spool, bucket
        self._misses = max(_MISSES, jobs + UPLOADS)
        self._lease = lease or bucket.producer_lease()
        self._list_every_s = list_every_s
        self._size = spool.stream.layout().shard_bytes
        self._objects: set[int] = set()
        """Shards that are in the bucket, as far as is known."""
        self._uploading: set[int] = set()
        self._needed = 0
        self._failure: Exception | None = None
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(UPLOADS, thread_name_prefix="uploader")

    @contextlib.contextmanager
    def session(self) -> Iterator[Uploader]:
        """Hold the producer's lease and upload during a `with` block; shards left over are uploaded in the next session."""
        with self._lease:
            self._synchronise()
            self._find_unlisted()
            thread = threading.Thread(target=self._run, name="uploader", daemon=True)
            thread.start()
            try:
                yield self
            finally:
                self._closing.set()
                thread.join()
                self._pool.shutdown(cancel_futures=True)

    # -- Destination ------------------------------------------------------------------------------

    def ready_shards(self) -> list[int]:
        """Return the finished shards in the directory and in the bucket; raise an error that occurred in a thread."""
        self._check()
        # In this order: a shard is an object before it leaves the directory.
        local = self._spool.ready_shards()
        return sorted({*local, *self._objects.copy()})

    def oldest_needed(self) -> int:
        """Return the oldest shard that the trainer needs, from its last known cursor."""
        return self._needed

    def has_trainer(self) -> bool:
        """Return False: whether a trainer on another host is running is not known here."""
        return False

    def delete(self, shard: int) -> bool:
        """Delete a finished shard from directory and bucket; return whether it existed."""
        local, remote = self._spool.delete(shard), shard in self._objects
        if remote:
            self._bucket.delete(shard, check=self._lease.check)
            self._objects.discard(shard)
        return local or remote

    def all_delivered(self) -> bool:
        """Return whether all finished shards are uploaded."""
        self._check()
        return not self._uploading and not self._spool.ready_shards()

    def disk_bytes(self) -> int:
        """Return the bytes that the directory and the objects occupy together."""
        return self._spool.disk_bytes() + len(self._objects) * self._size

    def publish_status(self, status: ProducerStatus) -> None:
        """Publish the producer's status, as part of its lease."""
        status = replace(status, directory_bytes=self._spool.disk_bytes())
        self._lease.report(status.to_json())

    def _check(self) -> None:
        if self._failure:
            raise self._failure
        self._lease.check()

    # -- the bucket -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                self._submit_uploads()
                if self._closing.wait(self._list_every_s):
                    return
                self._synchronise()
        except Exception as error:  # noqa: BLE001 # the producer's thread raises it
            self._failure = error

    def _submit_uploads(self) -> None:
        for shard in self._spool.ready_shards():
            if shard not in self._uploading:
                self._uploading.add(shard)
                self._pool.submit(self._upload, shard)

    def _synchronise(self) -> None:
        """Read the trainer's cursor and the listing; delete objects of a wrong size."""
        self._needed = self._read_position()
        known = self._objects.copy()
        found = self._bucket.complete_shards(self._size, self._delete_damaged, known)
        self._objects |= found
        self._objects -= known - found

    def _delete_damaged(self, shard: int, reason: str) -> None:
        log.warning("%s: shard %d has %s; it is deleted and rebuilt", self._bucket, shard, reason)
        self._bucket.delete(shard, check=self._lease.check)

    def _read_position(self) -> int:
        cursor = self._bucket.read_cursor()
        return cursor.shard if cursor else 0

    def _find_unlisted(self) -> None:
        """Request by name the shards that an earlier producer may have uploaded but the listing does not show yet."""
        part, parts = self._spool.part
        end = self._spool.stream.shards
        shard = self._needed + (part - self._needed) % parts
        misses = 0
        while misses < self._misses and (end is None or shard < end):
            if shard in self._objects or self._bucket.size(shard) == self._size:
                self._objects.add(shard)
                misses = 0
            else:
                misses += 1
            shard += parts

    def _upload(self, shard: int) -> None:
        try:
            path, wanted = self._spool.shard_path(shard), shard >= self._needed
            if wanted and shard not in self._objects and not self._closing.is_set():
                self._bucket.upload(shard, path, check=self._lease.check)
                self._objects.add(shard)
                if shard < self._read_position() or not path.exists():
                    # A PUT was repeated after its answer was lost, and the trainer has used and deleted the
                    # shard between; or the producer deleted it to make room.
                    self.delete(shard)
            if shard in self._objects or not wanted:
                self._spool.delete(shard)
        except FileNotFoundError:
            pass  # the producer deleted it to make room
        except Exception as error:  # noqa: BLE001 # the producer's thread raises it
            self._failure = error
        finally:
            self._uploading.discard(shard)
