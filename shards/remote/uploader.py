"""The producer's end of a spool in object storage: carries finished shards from a directory to the bucket.

One thread looks at the bucket about once a second (cursor, listing) and hands shards to a few carriers;
each shard is one PUT, and leaves the directory when that is done. What the store lists may be late, so
what was there and is no longer listed is asked for by its name before it counts as gone. The
trade-off: the producer learns of a release a second late, which a budget of some shards hides.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from darkprep.shards.heartbeat import ProducerStatus
from darkprep.shards.remote.bucket import Bucket
from darkprep.shards.remote.lease import Lease
from darkprep.shards.spool import Spool

log = logging.getLogger(__name__)

CARRIERS = 2
"""Shards that are carried at once, and so lie in two places."""
LOOK_EVERY_S = 1.0
_MISSES = 64
"""So many shards in a row must at least be missing before those after them count as missing too.

They are begun in order, so before one that was put at most the others in work and those in the carriers'
hands can be missing. Whoever put them may have had more jobs than we have: hence not fewer, and not many
more, for in an empty bucket each is a request, one after the other, before anything is made.
"""


class Uploader:
    """A destination (pipeline/produce/destination.py) in object storage, for a producer with `jobs` workers.

    `session` acquires the producer's lease and starts carrying.
    """

    in_transit = CARRIERS

    def __init__(
        self,
        spool: Spool,
        bucket: Bucket,
        *,
        jobs: int = 1,
        lease: Lease | None = None,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._spool, self._bucket = spool, bucket
        self._misses = max(_MISSES, jobs + CARRIERS)
        self._lease = lease or bucket.producer_lease()
        self._look_every_s = look_every_s
        self._size = spool.stream.layout().shard_bytes
        self._lock = threading.Lock()
        self._there: set[int] = set()
        """Shards that are objects, as far as is known."""
        self._carried: set[int] = set()
        """Shards that a carrier has in hand."""
        self._needed = 0
        self._trouble: Exception | None = None
        self._closing = threading.Event()
        self._carriers = ThreadPoolExecutor(CARRIERS, thread_name_prefix="outbox")

    @contextlib.contextmanager
    def session(self) -> Iterator[Uploader]:
        """Carry for the time of the block; what is not carried at its end waits for the next time."""
        with self._lease:
            self._look(first=True)
            thread = threading.Thread(target=self._run, name="outbox", daemon=True)
            thread.start()
            try:
                yield self
            finally:
                self._closing.set()
                thread.join()
                self._carriers.shutdown(cancel_futures=True)

    # -- what the producer asks -------------------------------------------------------------------

    def ready_shards(self) -> list[int]:
        """The finished shards, here and there; raises what went wrong on the way."""
        self._check()
        # In this order: a shard is an object before it leaves the directory.
        here = self._spool.ready_shards()
        with self._lock:
            return sorted({*here, *self._there})

    def oldest_needed(self) -> int:
        """The oldest shard that the trainer needs, as its cursor said last."""
        return self._needed

    def delete(self, shard: int) -> bool:
        """Delete a finished shard here and there."""
        here = self._spool.delete(shard)
        with self._lock:
            there = shard in self._there
        if there:
            self._bucket.delete(shard, check=self._lease.check)
            with self._lock:
                self._there.discard(shard)
        return here or there

    def all_delivered(self) -> bool:
        """Whether nothing is left to carry."""
        self._check()
        return not self._carried and not self._spool.ready_shards()

    def disk_bytes(self) -> int:
        """What the directory and the objects occupy."""
        with self._lock:
            objects = len(self._there)
        return self._spool.disk_bytes() + objects * self._size

    def publish_status(self, status: ProducerStatus) -> None:
        """Let the lease say what the producer does."""
        own = {"directory_bytes": self._spool.disk_bytes()}
        self._lease.report(status.to_json() | own)

    def _check(self) -> None:
        if self._trouble:
            raise self._trouble
        self._lease.check()

    # -- carrying ---------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing.wait(self._look_every_s):
                self._look()
        except Exception as error:  # noqa: BLE001 # the producer's thread raises it
            self._trouble = error

    def _look(self, *, first: bool = False) -> None:
        """See how far the trainer is and what is there, then carry what is not."""
        self._needed = self._told_by_cursor()
        self._take_in(self._bucket.list_shards())
        if first:
            self._survey()
        for shard in self._spool.ready_shards():
            with self._lock:
                taken = shard in self._carried
                self._carried.add(shard)
            if not taken:
                self._carriers.submit(self._carry, shard)

    def _told_by_cursor(self) -> int:
        """The oldest shard that the trainer needs."""
        cursor = self._bucket.read_cursor()
        return cursor.shard if cursor else 0

    def _take_in(self, listed: dict[int, int]) -> None:
        """Believe a listing, but for what it left out and what has the wrong size."""
        for shard in [shard for shard, size in listed.items() if size != self._size]:
            del listed[shard]
            size = self._bucket.size(shard)
            if size == self._size:
                listed[shard] = size
            elif size is not None:
                log.warning("%s: shard %d has %d bytes, not %d; it is deleted and made again", self._bucket, shard, size, self._size)  # fmt: skip
                self._bucket.delete(shard, check=self._lease.check)
        with self._lock:
            unlisted = self._there - listed.keys()
        gone = {shard for shard in unlisted if self._bucket.size(shard) != self._size}
        with self._lock:
            self._there |= listed.keys()
            self._there -= gone

    def _survey(self) -> None:
        """Ask by name for what an earlier producer may have put and the listing does not show yet."""
        part, parts = self._spool.part
        end = self._spool.stream.shards
        shard = self._needed + (part - self._needed) % parts
        misses = 0
        while misses < self._misses and (end is None or shard < end):
            if shard in self._there or self._bucket.size(shard) == self._size:
                self._there.add(shard)
                misses = 0
            else:
                misses += 1
            shard += parts

    def _carry(self, shard: int) -> None:
        try:
            with self._lock:
                there = shard in self._there
            if not there and shard >= self._needed and not self._closing.is_set():
                self._bucket.upload(shard, self._spool.shard_path(shard), check=self._lease.check)
                with self._lock:
                    self._there.add(shard)
                there = True
                if shard < self._told_by_cursor() or not self._spool.shard_path(shard).exists():
                    # The answer to a first try was lost, the shard used and deleted, then put once
                    # more; or the producer needed its room meanwhile.
                    self.delete(shard)
            if there or shard < self._needed:
                self._spool.delete(shard)
        except FileNotFoundError:
            pass  # the producer needed its room
        except Exception as error:  # noqa: BLE001 # the producer's thread raises it
            self._trouble = error
        finally:
            with self._lock:
                self._carried.discard(shard)
