"""The trainer's end of a spool in object storage: fetches shards into a directory, in time and within its room.

To the reader the directory is a spool like any other, and this is its producer: it takes that role there,
and the trainer's role in the bucket. What the reader has released is deleted in the bucket, after the
cursor says so. The trade-off: a shard is checked whole when it comes, and once more when it is read,
which costs a few per cent of a core, and no damaged object ever reaches the directory.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from typing import Literal

from darkprep.shards.cursor import Cursor
from darkprep.shards.errors import DiskFull, ShardDamaged, SpoolError, StreamEnded
from darkprep.shards.file_names import partial_file_name
from darkprep.shards.heartbeat import ProducerStatus
from darkprep.shards.remote.bucket import Bucket
from darkprep.shards.remote.lease import Lease
from darkprep.shards.shard_file import verify_shard
from darkprep.shards.spool import Spool

log = logging.getLogger(__name__)

_FETCHERS = 3
_POLL_S = 0.05
_LOOK_EVERY_S = 1.0
_CURSOR_EVERY_S = 5.0
_REPORT_EVERY_S = 0.5
_ABANDONED_AFTER_S = 5.0
"""How long a trainer may be away, as between two attempts to start, before its shards are no longer fetched."""
_MOST_DAMAGED = 10
"""So often may one shard come damaged before somebody must look at the store."""
_DISK_PATIENCE_S = 60.0

State = Literal["waiting for shards", "waiting for room", "making", "stopped"]
"""`making` is what every producer of a spool is at that works: here, fetching."""


@dataclass(frozen=True, kw_only=True)
class DownloaderConfig:
    """How much is fetched, and how long nobody's making shards is borne."""

    room: int
    """How many shards may be in the directory at once: fetched, being fetched, refused."""
    until: int | None
    """Fetch shards before this one only; None for no end."""
    look_every_s: float = _LOOK_EVERY_S
    patience_s: float = 120.0
    """How long to wait for a shard that is needed now while nobody makes shards."""


@dataclass(frozen=True, kw_only=True)
class DownloaderReport:
    """What an inbox has done and does."""

    state: State
    shards_made: int
    """Shards fetched."""
    shards_ready: int
    next_needed: int
    until: int | None
    shard_bytes: int
    disk_bytes: int
    running_s: float
    mb_per_s: float
    damaged: int
    """Objects that were not what the plan says."""
    deleted: int
    """Objects deleted after use."""


class Downloader:
    """Fetches for one trainer group. `run` returns when `stop` is set or the trainer is gone.

    Raises SpoolBusy when another trainer uses the bucket or another inbox the directory, StreamEnded when
    a shard is needed and nobody has made it within the patience, DiskFull, and SpoolError when the store
    does not do its part.
    """

    def __init__(
        self,
        spool: Spool,
        bucket: Bucket,
        config: DownloaderConfig,
        *,
        lease: Lease | None = None,
        report: Callable[[DownloaderReport], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._spool, self._bucket, self._config = spool, bucket, config
        self._lease = lease or bucket.trainer_lease()
        self._report = report
        self._stop = stop or threading.Event()
        self._layout, self._plan = spool.stream.layout(), spool.digest
        self._there: dict[int, int] = {}
        """Objects and their bytes, as far as is known: what was listed, what was found by its name."""
        self._flying: dict[Future[bool], int] = {}
        self._damaged: Counter[int] = Counter()
        self._fetched = 0
        self._deleted: set[int] = set()
        """A late listing may go on to show them; each counts once."""
        self._cursor: Cursor | None = None
        self._told_cursor = self._looked = self._asked = self._reported = -float("inf")
        self._trainer_seen = self._began = time.monotonic()
        self._producer = bucket.watch_producer()
        self._alone_since: float | None = None
        self._full_since: float | None = None
        self._fetchers = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="inbox")

    def run(self) -> None:
        """Fetch, follow the trainer, delete what it has released."""
        with self._spool.producer_lock(), self._lease:
            self._spool.remove_stale_files()
            self._spool.remove_dead_heartbeats()
            try:
                while not self._stop.is_set() and self._is_trainer_there():
                    self._tell(self._step())
            except BaseException as cause:
                self._end(cause)
                raise
            self._end()

    def _end(self, cause: BaseException | None = None) -> None:
        """Stop fetching, and tell where the trainer is; after a `cause` what else goes wrong is only logged."""
        self._stop.set()
        self._fetchers.shutdown(cancel_futures=True)
        try:
            try:
                self._spool.remove_stale_files()
                self._follow(last=True)
            finally:
                self._tell("stopped", last=True)
        except (SpoolError, OSError) as error:
            if cause is None:
                raise
            if error is not cause:
                log.warning("%s", error)

    # -- one turn of the loop ---------------------------------------------------------------------

    def _step(self) -> State:
        self._follow()
        wanted = self._wanted()
        missing = [shard for shard in wanted if shard not in self._flying.values()]
        missing = [shard for shard in missing if not self._spool.shard_path(shard).exists()]
        now = time.monotonic()
        if missing and now - self._looked >= self._config.look_every_s:
            self._looked = now
            self._look(missing[0])
        state = self._order(missing, set(wanted))
        if state == "waiting for shards" and missing[0] in wanted[: self._spool.stream.window]:
            self._expect(missing[0])
        else:
            self._alone_since = None
        self._collect()
        return state

    def _wanted(self) -> list[int]:
        """The next shards in order, as many as there is room for."""
        needed, until = self._spool.oldest_needed(), self._config.until
        part, parts = self._spool.part
        first = needed + (part - needed) % parts
        wanted = range(first, first + self._config.room * parts, parts)
        return [shard for shard in wanted if until is None or shard < until]

    def _look(self, first: int) -> None:
        """See what is there. A listing may be late: it makes nothing forgotten, and what is needed first is asked for by name."""
        self._there |= self._bucket.list_shards()
        if first not in self._there and (size := self._bucket.size(first)) is not None:
            self._there[first] = size
        self._delete_passed(self._spool.oldest_needed())

    def _order(self, missing: list[int], wanted: set[int]) -> State:
        """Begin to fetch what is there and missing, as far as there is room."""
        there = [shard for shard in missing if shard in self._there]
        for shard in there:
            if len(self._flying) >= _FETCHERS:
                return "making"
            if not self._make_room(wanted):
                return "waiting for room"
            self._flying[self._fetchers.submit(self._fetch, shard, self._there[shard])] = shard
        if missing and not self._flying:
            return "waiting for shards"
        return "making" if self._flying else "waiting for room"

    def _make_room(self, wanted: set[int]) -> bool:
        """Whether one more shard fits, after dropping what the trainer has passed or needs only later."""
        ready = self._spool.ready_shards()
        occupied = len(ready) + len(self._flying)
        for shard in [shard for shard in ready if shard not in wanted]:
            if occupied + self._spool.quarantine.count() < self._config.room:
                break
            occupied -= self._spool.delete(shard)
        self._spool.quarantine.trim(max(0, self._config.room - occupied - 1))
        return occupied + self._spool.quarantine.count() < self._config.room

    def _fetch(self, shard: int, listed: int) -> bool:
        """Bring one shard and check it whole; whether it is there now. An object that is damaged is deleted."""
        path = self._spool.partial / partial_file_name(shard)
        # A late listing may tell of an object that was replaced since.
        size = listed if listed == self._layout.shard_bytes else self._bucket.size(shard)
        if size is None:
            return False
        if size != self._layout.shard_bytes:
            self._refuse(shard, f"{size} bytes, the plan's shards have {self._layout.shard_bytes}")
            return False
        if not self._bucket.download(shard, path):
            return False
        try:
            verify_shard(path, self._layout, shard, self._plan)
        except ShardDamaged as error:
            self._spool.quarantine.add(path, shard, str(error))
            self._refuse(shard, str(error))
            return False
        path.replace(self._spool.shard_path(shard))
        return True

    def _refuse(self, shard: int, why: str) -> None:
        """Delete a damaged object, so that it is made again."""
        self._damaged[shard] += 1
        log.warning("%s: shard %d is damaged (%s); it is deleted and made again", self._bucket, shard, why)  # fmt: skip
        if self._damaged[shard] > _MOST_DAMAGED:
            raise SpoolError(
                f"{self._bucket}: shard {shard} came damaged {_MOST_DAMAGED} times ({why}); is the producer of another version, or the store failing?"
            )
        self._bucket.delete(shard, check=self._lease.check)

    def _collect(self) -> None:
        """Take in what was fetched, waiting a moment for it."""
        if not self._flying:
            self._stop.wait(_POLL_S)
            return
        for future in wait(self._flying, timeout=_POLL_S, return_when=FIRST_COMPLETED).done:
            shard = self._flying.pop(future)
            try:
                if future.result():
                    self._fetched += 1
                    self._full_since = None
                else:
                    self._there.pop(shard, None)
            except DiskFull as error:
                self._wait_for_space(error)

    # -- the trainer and the bucket ---------------------------------------------------------------

    def _is_trainer_there(self) -> bool:
        """Whether the directory's trainer lives; a trainer that dies takes its inbox with it."""
        now = time.monotonic()
        if self._spool.has_trainer():
            self._trainer_seen = now
        return now - self._trainer_seen < _ABANDONED_AFTER_S

    def _follow(self, *, last: bool = False) -> None:
        """Tell the bucket how far the trainer is, then delete what it has passed; raises as Lease.check.

        Who has lost the role, or may have, tells no more: the other's trainer may need what ours has passed.
        What was on its way by then may still come, so a cursor is told again now and then though it has not moved.
        """
        self._lease.check()
        cursors = self._spool.read_cursors()
        if len(cursors) < max((cursor.world for cursor in cursors), default=1):
            return  # a rank that has not said where it begins may need what the others have passed
        now = time.monotonic()
        newest = Cursor(
            rank=0,
            world=1,
            batch=min(cursor.batch for cursor in cursors),
            shard=min(cursor.shard for cursor in cursors),
            run=cursors[0].run,
            wait_fraction=max(cursor.wait_fraction for cursor in cursors),
            waiting_s=max(cursor.waiting_s for cursor in cursors),
        )
        moved = self._cursor is None or newest.shard != self._cursor.shard
        due = now - self._told_cursor >= _CURSOR_EVERY_S
        if moved or due or (last and newest != self._cursor):
            self._bucket.write_cursor(newest, check=self._lease.check)
            self._cursor, self._told_cursor = newest, now
        if last:
            self._there |= self._bucket.list_shards()
        if moved or last:
            self._delete_passed(newest.shard)

    def _delete_passed(self, needed: int) -> None:
        """Delete the objects before `needed`; only once the cursor is told, lest they be made again."""
        if self._cursor is None or self._cursor.shard < needed:
            return
        for shard in [shard for shard in self._there if shard < needed]:
            self._bucket.delete(shard, check=self._lease.check)
            del self._there[shard]
            self._deleted.add(shard)

    def _expect(self, shard: int) -> None:
        """Bear it for a while that a needed shard is missing and nobody makes it; raises StreamEnded."""
        now = time.monotonic()
        if now - self._asked < self._config.look_every_s:
            return
        self._asked = now
        holder = self._producer.look()
        if self._producer.is_alive(holder) is not False:
            self._alone_since = None
            return
        if self._alone_since is None:
            self._alone_since = now
            log.warning("%s: shard %d is missing and nobody makes it; waiting for up to %.0f s", self._bucket, shard, self._config.patience_s)  # fmt: skip
        if now - self._alone_since >= self._config.patience_s:
            raise StreamEnded(
                f"{self._bucket}: shard {shard} is missing and nobody makes it; run `darkprep build --spool {self._bucket}` where the photographs are, then go on with --resume"
            )

    def _wait_for_space(self, error: DiskFull) -> None:
        """Pause after the file system refused bytes; raise when it has for too long."""
        now = time.monotonic()
        self._full_since = now if self._full_since is None else self._full_since
        if now - self._full_since > _DISK_PATIENCE_S:
            raise error
        self._stop.wait(1.0)

    def _tell(self, state: State, *, last: bool = False) -> None:
        now = time.monotonic()
        if now - self._reported < _REPORT_EVERY_S and not last:
            return
        self._reported = now
        running = now - self._began
        report = DownloaderReport(
            state=state,
            shards_made=self._fetched,
            shards_ready=len(self._spool.ready_shards()),
            next_needed=self._spool.oldest_needed(),
            until=self._config.until,
            shard_bytes=self._layout.shard_bytes,
            disk_bytes=self._spool.disk_bytes(),
            running_s=running,
            mb_per_s=self._fetched * self._layout.shard_bytes / 1e6 / max(running, 1e-9),
            damaged=self._damaged.total(),
            deleted=len(self._deleted),
        )
        self._lease.report(asdict(report))
        try:
            self._spool.write_heartbeat(ProducerStatus(**asdict(report)))
        except DiskFull as error:
            log.debug("no heartbeat: %s", error)
        if self._report:
            self._report(report)
