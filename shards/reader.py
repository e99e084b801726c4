"""Streams a spool's samples as batches, in the plan's order, and releases each shard when it is used up.

One thread reads ahead into a ring of reused buffers: a sample is one preadv from the page cache into its
row of a batch, so each byte is copied once. A second thread reads half of each batch's rows, because one
core cannot use the whole memory bandwidth. The trade-off: the arrays of a batch are valid only until `hold`
newer batches were requested; then they are overwritten.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from darkprep.shards.batch import Batch, ReaderStats
from darkprep.shards.errors import OptionError, ShardDamaged
from darkprep.shards.format import U16, SampleMeta, ShardLayout
from darkprep.shards.open_shards import OpenShards
from darkprep.shards.order import Uses
from darkprep.shards.release import ShardRelease
from darkprep.shards.shard_file import ShardFile
from darkprep.shards.spool import Spool


@dataclass(frozen=True, kw_only=True)
class _Slot:
    """The buffers of one batch."""

    low: U16
    gt: U16


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One sample of a batch, and the open shard that holds it."""

    row: int
    shard: int
    sample: int
    opened: ShardFile


class SpoolReader:
    """An iterator of Batch over a spool.

    `batch_size` is the size of the global batch, of which rank `rank` of `world` gets every world-th
    sample. Where the spool holds part n of N, its node gets every N-th sample of the global batch, and its
    `world` ranks share those. `parts` is for a spool with the whole plan: its samples come in the order in
    which that many nodes would use them together.

    The stream begins with global batch `start` and ends before batch `stop_after`, and before shard
    `shards` of the plan; None means no end. Each sample is used `reuse` times before its shard is
    released. `keep` deletes nothing and repeats the plan's shards without end. `verify` checks the
    checksums of each sample at its first read. The event `stop` ends the stream, even during a wait.

    `depth` batches are read ahead, and the newest `hold` batches stay valid. `allocate(shape)` returns a
    buffer (uint16, C order; pinned memory for CUDA). `on_starving(shard, seconds)` is called from the
    reader's thread about twice a second while the next shard is missing; it may raise StreamEnded. `run` is
    the run directory, for display.

    Raises SpoolBusy when another trainer uses the spool, OptionError for an invalid value, and whatever
    `on_starving` raises, from `__next__`.
    """

    def __init__(
        self,
        spool: Spool,
        *,
        batch_size: int,
        seed: int = 0,
        start: int = 0,
        stop_after: int | None = None,
        shards: int | None = None,
        rank: int = 0,
        world: int = 1,
        parts: int = 1,
        reuse: int = 1,
        keep: bool = False,
        depth: int = 4,
        hold: int = 1,
        verify: bool = True,
        run: str = "",
        stop: threading.Event | None = None,
        allocate: Callable[[tuple[int, ...]], U16] | None = None,
        on_starving: Callable[[int, float], None] | None = None,
    ) -> None:
        stream = spool.stream
        nodes = spool.settings.parts
        _check_counts(batch_size=batch_size, world=world, reuse=reuse, depth=depth, hold=hold)
        _check_ranks(batch_size, rank, world, nodes)
        if keep and stream.shards is None:
            raise OptionError("keep-shards needs a plan with an end; build with --epochs N")
        self.stats = ReaderStats()
        self._batch_size, self._rank, self._world = batch_size // nodes, rank, world
        self._reuse, self._keep, self._hold = reuse, keep, hold
        self._next_batch, self._stop_after = start, stop_after
        self._unused_batch = start
        """The first global batch that the consumer has not used up."""
        self._returned_batch: int | None = None
        self._reading_position = 0
        self._released_before = 0
        self._held: deque[_Slot] = deque()
        # A stack: the slot that was read last is filled next, so that fewer are in use and more stay cached.
        self._free: queue.LifoQueue[_Slot | None] = queue.LifoQueue()
        self._filled: queue.SimpleQueue[tuple[Batch, _Slot] | BaseException | None] = (
            queue.SimpleQueue()
        )
        self._closing = threading.Event()
        self._stop = stop or self._closing
        self.order = spool.use_order(seed=seed, reuse=reuse, shards=shards, parts=parts)
        self._open = OpenShards(
            spool,
            self.stats,
            verify=verify,
            cycle=stream.shards - stream.shards % max(nodes, parts)
            if keep and stream.shards
            else None,
            closing=self._closing,
            should_stop=self._should_stop,
            on_starving=on_starving,
        )
        for slot in _slots(depth + hold, stream.layout(), self._batch_size // world, allocate):
            self._free.put(slot)
        self._release = ShardRelease(spool, self.stats, rank=rank, world=world, run=run)
        self._release.begin(start, self._cursor_shard(self._oldest_unused()))
        self._began = time.monotonic()
        self._helper = ThreadPoolExecutor(1, thread_name_prefix="spool-reader-2")
        self._thread = threading.Thread(target=self._run, name="spool-reader", daemon=True)
        self._thread.start()

    # -- called by the consumer -------------------------------------------------------------------

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Return the next batch; the oldest held one becomes invalid."""
        self._count_returned_as_used()
        while len(self._held) >= self._hold:
            self._free.put(self._held.popleft())
        self.stats.waiting_since = began = time.monotonic()
        item = self._filled.get()
        now = time.monotonic()
        self.stats.waiting_since = None
        if item is None:
            self._filled.put(None)
            raise StopIteration
        if isinstance(item, BaseException):
            self._filled.put(item)
            raise item
        batch, slot = item
        self._held.append(slot)
        self.stats.wait_s += now - began
        if not self.stats.batches:
            self.stats.first_batch_s = now - self._began
            self.stats.first_wait_s = now - began
        self.stats.batches += 1
        self.stats.bytes += batch.low.nbytes + batch.gt.nbytes
        self._returned_batch = batch.index
        return batch

    def close(self) -> None:
        """Stop reading, publish the cursor, delete what every rank has passed, release the lock.

        The batch that was returned last counts as used.
        """
        if self._closing.is_set():
            return
        self._count_returned_as_used()
        self._closing.set()
        self._free.put(None)
        self._thread.join()
        self._helper.shutdown()
        self._open.close()
        self._release.end(self._unused_batch, self._cursor_shard(self._oldest_unused()))

    def __enter__(self) -> SpoolReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _count_returned_as_used(self) -> None:
        if self._returned_batch is not None:
            self._unused_batch = max(self._unused_batch, self._returned_batch + 1)

    # -- the reader's thread ----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._should_stop() and (
                self._stop_after is None or self._next_batch < self._stop_after
            ):
                slot = self._free.get()
                self._release_before(self._oldest_unused())
                if slot is None:
                    break
                uses = self.order.uses(self._next_batch * self._batch_size, self._batch_size)
                if len(uses) < self._batch_size:
                    break
                batch = self._read_batch(slot, uses)
                if batch is None:
                    break
                self._filled.put((batch, slot))
                self._next_batch += 1
            self._filled.put(None)
        except BaseException as error:  # noqa: BLE001 # the consumer's thread raises it
            self._filled.put(error)

    def _should_stop(self) -> bool:
        return self._closing.is_set() or self._stop.is_set()

    def _read_batch(self, slot: _Slot, uses: Uses) -> Batch | None:
        """Read the next batch into a slot; return None when asked to stop."""
        mine = uses[self._rank :: self._world].tolist()
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
        in_order = tuple(metas[row] for row in range(len(mine)))
        counts = (use + self._reuse * self._open.repetitions(shard) for shard, _, use in mine)
        return Batch(self._next_batch, slot.low, slot.gt, in_order, tuple(counts))

    def _position(self, row: int) -> int:
        """Return the position in the stream of a row of the next batch."""
        return self._next_batch * self._batch_size + row * self._world

    def _read_rows(self, slot: _Slot, rows: Sequence[_Row], metas: dict[int, SampleMeta]) -> bool:
        """Read samples of open shards, half of them in the helper thread; return False when asked to stop."""
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

    def _read_rebuilt(self, one: _Row, slot: _Slot) -> SampleMeta | None:
        """Read a sample that could not be read, from its shard as it is or rebuilt; None when asked to stop."""
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
        """Return the oldest shard of what the consumer has not used up."""
        return self.order.oldest_shard(self._unused_batch * self._batch_size)

    def _release_read(self) -> None:
        """Release all that was read: a batch may need more shards than the budget holds at once."""
        self._release_before(self.order.oldest_shard(self._reading_position))

    def _release_before(self, oldest: int) -> None:
        """Close and release the shards before `oldest`, and before any earlier `oldest`.

        A cursor that went back would have a producer rebuild shards that were already read.
        """
        self._released_before = oldest = max(oldest, self._released_before)
        self._open.close_before(oldest)
        self._release.update(self._unused_batch, self._cursor_shard(oldest))

    def _cursor_shard(self, oldest: int) -> int:
        """Return the shard to publish when `oldest` is the oldest needed one; kept shards stay needed."""
        return 0 if self._keep else oldest


def _read_undamaged(slot: _Slot, rows: Sequence[_Row]) -> list[_Row]:
    """Read samples into their rows of a slot; return those that are damaged."""
    damaged = []
    for one in rows:
        try:
            one.opened.read(one.sample, slot.low[one.row], slot.gt[one.row])
        except ShardDamaged:
            damaged.append(one)
    return damaged


def _slots(
    count: int,
    layout: ShardLayout,
    rows: int,
    allocate: Callable[[tuple[int, ...]], U16] | None,
) -> list[_Slot]:
    """Allocate the buffers of `count` batches with `rows` samples each."""
    allocate = allocate or _allocate
    try:
        return [
            _Slot(low=allocate((rows, *layout.low_shape)), gt=allocate((rows, *layout.gt_shape)))
            for _ in range(count)
        ]
    except MemoryError as error:
        raise OptionError(
            f"batch-size: not enough memory for {count} batches of {rows} samples; choose a smaller one"
        ) from error


def _allocate(shape: tuple[int, ...]) -> U16:
    return np.empty(shape, np.uint16)


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise OptionError(f"{name.replace('_', '-')} must be at least 1, not {value}")


def _check_ranks(batch_size: int, rank: int, world: int, nodes: int) -> None:
    if batch_size % world:
        raise OptionError(
            f"batch-size {batch_size} cannot be divided among {world} ranks; choose a multiple of {world}"
        )
    if not 0 <= rank < world:
        raise OptionError(f"rank must be 0 to {world - 1}, not {rank}")
    if batch_size % (nodes * world):
        raise OptionError(
            f"batch-size {batch_size} cannot be divided among {nodes} nodes of {world} ranks; choose a multiple of {nodes * world}"
        )
