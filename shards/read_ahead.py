"""Read a spool's batches ahead, in separate threads, and release each shard when all its samples are used.

One thread reads ahead into a stack of reused buffers: each sample is copied once, by one preadv from the
page cache into its row of a batch. A second thread reads half of each batch's rows, because one core cannot
use the whole memory bandwidth. The trade-off: the threads hold no reference to the reader that uses them,
so that an unused reader is garbage-collected, which ends them; data that both need is in this module.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from darkprep.shards.batch import Batch, ReaderStats
from darkprep.shards.errors import ShardDamaged
from darkprep.shards.format import U16, SampleMeta
from darkprep.shards.open_shards import OpenShards
from darkprep.shards.order import InterleavedOrder, UseOrder, Uses
from darkprep.shards.read_only import KeptShardsWatch, NoRelease
from darkprep.shards.release import ShardRelease
from darkprep.shards.shard_file import ShardFile
from darkprep.shards.spool import Spool

log = logging.getLogger(__name__)

_THREAD_NAME = "spool-reader"
_REPORT_AFTER_S = 5.0
_COLLECTED_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Slot:
    """The buffers of one batch."""

    low: U16
    gt: U16

    def first(self, rows: int) -> Slot:
        """Return the first rows of the buffers; the whole buffers if these are all rows."""
        if rows == len(self.low):
            return self
        return Slot(low=self.low[:rows], gt=self.gt[:rows])


@dataclass(frozen=True, kw_only=True)
class BatchRange:
    """Which global batches are read, and which of their rows.

    `batch_size` is the size of a global batch, of which rank `rank` of `world` gets every world-th sample.
    The batches are those from `start` to `stop_after` (exclusive); None means no end. If fewer samples than
    a batch remain at the end of the stream, they form a smaller batch or are dropped.
    """

    batch_size: int
    rank: int
    world: int
    start: int
    stop_after: int | None
    drop_last: bool

    def uses(self, order: UseOrder | InterleavedOrder, batch: int) -> Uses | None:
        """Return the samples used by a global batch, an equal number for each rank; None after the end."""
        if self.stop_after is not None and batch >= self.stop_after:
            return None
        uses = order.uses(batch * self.batch_size, self.batch_size)
        if len(uses) < self.batch_size:
            uses = uses[: 0 if self.drop_last else len(uses) - len(uses) % self.world]
        return uses if len(uses) else None


@dataclass(frozen=True, kw_only=True)
class ShardUse:
    """How the shards of a spool are used: how often, in which order, and whether they are kept."""

    reuse: int
    """How many times each sample is used before its shard is released."""
    cycle: int | None
    """If not None, release no shards, and repeat this many shards without end."""
    verify: bool
    """Whether to check the checksums of each sample at its first read."""
    read_only: bool
    """Whether to change nothing in the spool: no lock, no cursor, no deletion, no quarantine."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One sample of a batch, and the open shard from which it is read."""

    row: int
    shard: int
    sample: int
    opened: ShardFile


class _StopRequest:
    """Whether reading must stop: because the reader is being closed, or because the event `stop` is set."""

    def __init__(self, stop: threading.Event | None) -> None:
        self.is_closing = False
        self._stop = stop

    def __call__(self) -> bool:
        return self.is_closing or (self._stop is not None and self._stop.is_set())


class ReadAhead:
    """Reads batches of `spool` into `slots` from its construction until `close`.

    It acquires the trainer lock unless it is read-only, and raises SpoolBusy or SpoolError if this fails. `run` is the run
    directory, for display. `stop` and `on_starving` are as for SpoolReader.
    """

    def __init__(
        self,
        spool: Spool,
        stats: ReaderStats,
        order: UseOrder | InterleavedOrder,
        batches: BatchRange,
        use: ShardUse,
        slots: Sequence[Slot],
        *,
        run: str,
        stop: threading.Event | None,
        on_starving: Callable[[int, float], None] | None,
    ) -> None:
        self._unused_batch = batches.start
        """The first global batch that the trainer has not finished using."""
        self._taken_batch: int | None = None
        self._path = spool.path
        self._order, self._batches, self._use = order, batches, use
        self._should_stop = _StopRequest(stop)
        self._next_batch = batches.start
        self._reading_position = 0
        self._released_before = 0
        # A stack: the slot that was read last is filled next, so that fewer are in use and more stay cached.
        self._free = list(slots)
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        """A queue with an item for each free slot and for the end; unlike a lock it is safe in a finalizer."""
        for _ in slots:
            self._wake.put(None)
        self._filled: queue.SimpleQueue[tuple[Batch, Slot] | BaseException | None] = (
            queue.SimpleQueue()
        )
        self._failure: BaseException | None = None
        self._open = OpenShards(
            spool,
            stats,
            verify=use.verify,
            cycle=use.cycle,
            should_stop=self._should_stop,
            on_starving=KeptShardsWatch(spool, on_starving).on_starving
            if use.read_only
            else on_starving,
            quarantines=not use.read_only,
        )
        self._release = (
            NoRelease(spool)
            if use.read_only
            else ShardRelease(spool, stats, rank=batches.rank, world=batches.world, run=run)
        )
        self._release.begin(batches.start, self._cursor_shard(self._oldest_unused()))
        self._helper = ThreadPoolExecutor(1, thread_name_prefix=f"{_THREAD_NAME}-2")
        self._thread = threading.Thread(target=self._run, name=_THREAD_NAME, daemon=True)
        self._thread.start()

    # -- called by the consumer -------------------------------------------------------------------

    def take(self) -> tuple[Batch, Slot] | None:
        """Wait for the next batch; return it with its slot, or None at the end. Raises the errors of reading.

        The previously taken batch then counts as used.
        """
        self._count_taken_as_used()
        item = self._filled.get()
        if item is None or isinstance(item, BaseException):
            self._filled.put(item)  # for the next call
        if isinstance(item, BaseException):
            raise item
        if item is not None:
            self._taken_batch = item[0].index
        return item

    def give_back(self, slot: Slot) -> None:
        """Allow the buffers of a slot to be filled with another batch."""
        self._free.append(slot)
        self._wake.put(None)

    def close(self) -> None:
        """Stop reading, publish the cursor, delete the shards that every rank has passed, and release the lock.

        The batch that was taken last counts as used.
        """
        self._ask_to_close()
        self._thread.join(_REPORT_AFTER_S)
        if self._thread.is_alive():
            log.warning("%s: waiting for the disk, which has not yet answered a read", self._path)
            self._thread.join()
        failure, self._failure = self._failure, None
        if failure:
            raise failure

    def abandon(self) -> None:
        """Close like `close`, for a reader that was garbage-collected; may run in any thread."""
        self._ask_to_close()
        # A reader's own thread cannot wait for itself, nor for one that waits for it.
        if not threading.current_thread().name.startswith(_THREAD_NAME):
            self._thread.join(_COLLECTED_TIMEOUT_S)

    def _ask_to_close(self) -> None:
        self._count_taken_as_used()
        self._should_stop.is_closing = True
        self._wake.put(None)

    def _count_taken_as_used(self) -> None:
        if self._taken_batch is not None:
            self._unused_batch = max(self._unused_batch, self._taken_batch + 1)

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._read_batches()
            self._filled.put(None)
        except BaseException as error:  # noqa: BLE001 # the consumer's thread raises it
            self._filled.put(error)
        while not self._should_stop.is_closing:
            self._wake.get()
        try:
            self._helper.shutdown()
            self._open.close()
            self._release.end(self._unused_batch, self._cursor_shard(self._oldest_unused()))
        except BaseException as error:  # noqa: BLE001 # `close` raises it
            self._failure = error

    def _read_batches(self) -> None:
        while not self._should_stop():
            uses = self._batches.uses(self._order, self._next_batch)
            if uses is None:
                return
            slot = self._take_slot()
            self._release_before(self._oldest_unused())
            if slot is None:
                return
            batch = self._read_batch(slot, uses)
            if batch is None:
                return
            self._filled.put((batch, slot))
            self._next_batch += 1

    def _take_slot(self) -> Slot | None:
        """Wait for a free slot and return it; None when asked to close."""
        self._wake.get()
        return None if self._should_stop.is_closing else self._free.pop()

    def _read_batch(self, slot: Slot, uses: Uses) -> Batch | None:
        """Read the next batch into a slot; return None when asked to stop."""
        mine = uses[self._batches.rank :: self._batches.world].tolist()
        metas: dict[int, SampleMeta] = {}
        found: list[_Row] = []
        for row, (shard, sample, _) in enumerate(mine):
            if shard not in self._open:
                # During the wait for it, shards before it may be released: read their samples first.
                if not self._read_rows(slot, found, metas):
                    return None
                found = []
            self._reading_position = self._position(row)
            opened = self._open.get(shard, self._release_read)
            if opened is None:
                return None
            found.append(_Row(row=row, shard=shard, sample=sample, opened=opened))
        if not self._read_rows(slot, found, metas):
            return None
        counts = (use + self._use.reuse * self._open.repetitions(shard) for shard, _, use in mine)
        filled = slot.first(len(mine))
        return Batch(
            index=self._next_batch,
            low=filled.low,
            gt=filled.gt,
            metas=tuple(metas[row] for row in range(len(mine))),
            uses=tuple(counts),
        )

    def _position(self, row: int) -> int:
        """Return the position in the stream of row `row` of the next batch."""
        return self._next_batch * self._batches.batch_size + row * self._batches.world

    def _read_rows(self, slot: Slot, rows: Sequence[_Row], metas: dict[int, SampleMeta]) -> bool:
        """Read the samples of open shards, half of them in the second thread; return False when asked to stop."""
        half = len(rows) // 2
        others = self._helper.submit(_read_undamaged, slot, rows[:half]) if half else None
        damaged = _read_undamaged(slot, rows[half:])
        # In row order: during the wait for one, shards that only earlier rows need may be released.
        damaged = [*(others.result() if others else []), *damaged]
        metas |= {one.row: one.opened.metas[one.sample] for one in rows}
        for one in damaged:
            self._reading_position = self._position(one.row)
            meta = self._read_rebuilt(one, slot)
            if meta is None:
                return False
            metas[one.row] = meta
        return True

    def _read_rebuilt(self, one: _Row, slot: Slot) -> SampleMeta | None:
        """Read a sample again that could not be read, after its shard is rebuilt if necessary; None when asked to stop."""
        while opened := self._open.get(one.shard, self._release_read):
            try:
                opened.read(one.sample, slot.low[one.row], slot.gt[one.row])
            except ShardDamaged as error:
                self._open.handle_damage(one.shard, error)
            else:
                return opened.metas[one.sample]
        return None

    # -- release ----------------------------------------------------------------------------------

    def _oldest_unused(self) -> int:
        """Return the oldest shard with samples that the trainer has not yet used."""
        return self._order.oldest_shard(self._unused_batch * self._batches.batch_size)

    def _release_read(self) -> None:
        """Release the samples already read: one batch may need more shards than the budget holds at once."""
        self._release_before(self._order.oldest_shard(self._reading_position))

    def _release_before(self, oldest: int) -> None:
        """Close and release the shards below the largest `oldest` passed so far.

        A smaller `oldest` has no effect: a cursor that goes back would make a producer rebuild shards that
        were already read.
        """
        self._released_before = oldest = max(oldest, self._released_before)
        self._open.close_before(oldest)
        self._release.update(self._unused_batch, self._cursor_shard(oldest))

    def _cursor_shard(self, oldest: int) -> int:
        """Return the shard number to publish as cursor: `oldest`, or the first shard if shards are kept."""
        return oldest if self._use.cycle is None else 0


def _read_undamaged(slot: Slot, rows: Sequence[_Row]) -> list[_Row]:
    """Read samples into their rows of a slot; return the samples that could not be read."""
    damaged = []
    for one in rows:
        try:
            one.opened.read(one.sample, slot.low[one.row], slot.gt[one.row])
        except ShardDamaged:
            damaged.append(one)
    return damaged
