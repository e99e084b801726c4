"""Streams a spool's samples as batches, in the plan's order, and releases each shard when it is used up.

One thread reads ahead into a ring of buffers that are used again and again: a sample is one preadv from
the page cache into its row of a batch, so each byte is touched once, in warm memory. A second one takes
half of each batch's rows, for a single core copies slower than the memory could. The trade-off: a
batch is lent, not given; its arrays are overwritten once `hold` newer batches were asked for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from darkprep.shards.cursor import Cursor
from darkprep.shards.errors import DiskFull, OptionError, ShardDamaged, StreamEnded
from darkprep.shards.format import U16, SampleMeta
from darkprep.shards.order import Uses
from darkprep.shards.shard_file import ShardFile
from darkprep.shards.spool import Spool

if TYPE_CHECKING:
    import webdataset

log = logging.getLogger(__name__)

_POLL_S = 0.01
_STARVING_EVERY_S = 0.5
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, eq=False)
class Batch:
    """One rank's part of a global batch. The arrays are lent: copy what must outlive the next batch."""

    index: int
    """Number of the global batch, from 0."""
    low: U16
    """`(B, C, h, w)` uint16 packed sensor codes."""
    gt: U16
    """`(B, 3, H, W)` uint16 sRGB."""
    metas: tuple[SampleMeta, ...]
    uses: tuple[int, ...]
    """For each sample, how many times it was used before."""


@dataclass(kw_only=True)
class ReaderStats:
    """What a reader has done so far."""

    wait_s: float = 0.0
    """Time that the consumer stood still for want of a batch, without a wait that is not over."""
    waiting_since: float | None = None
    """The `time.monotonic()` since which it stands still; None while it does not."""
    first_batch_s: float = 0.0
    """From the start to the first batch."""
    first_wait_s: float = 0.0
    """How much of it the consumer stood still; part of `wait_s`."""
    batches: int = 0
    bytes: int = 0
    shards_deleted: int = 0
    """Shards that training is through with, whether the reader deleted them or a producer was first; told by rank 0."""
    damaged: int = 0
    peak_disk_bytes: int = 0
    """Largest weight of the spool directory seen, looked at about once a second."""


@dataclass(frozen=True, kw_only=True)
class _Slot:
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

    `batch_size` is the global batch, of which rank `rank` of `world` gets every world-th sample. Where the
    spool holds part n of N, the node has every N-th sample of the batch, and its `world` ranks share those;
    `parts` has a whole spool used in the order in which N such nodes would. `start`
    is the global batch to begin with, `stop_after` the one to end before; `shards` is where the stream
    itself ends, None for no end. `reuse` uses every sample so
    often before its shard goes. `keep` deletes nothing and goes round the plan's shards without end.
    `stop` set from outside ends the stream even while it waits. `allocate(shape)` supplies the buffers (uint16, C order; pinned ones for CUDA). `hold` is how many of
    the newest batches stay valid. `on_starving(shard, seconds)` is called from the reader's thread about
    twice a second while the next shard is missing; it may raise StreamEnded to give up.

    Raises SpoolBusy when another trainer uses the spool, OptionError for a value that cannot work, and
    whatever `on_starving` raises, from `__next__`.
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
        _check_options(
            batch_size=batch_size, rank=rank, world=world, reuse=reuse, depth=depth, hold=hold
        )
        nodes = spool.part[1]
        if batch_size % (nodes * world):
            raise OptionError(
                f"batch-size {batch_size} cannot be dealt to {nodes} nodes of {world} ranks; choose a multiple of {nodes * world}"
            )
        if keep and stream.shards is None:
            raise OptionError("keep-shards needs a plan with an end; build with --epochs N")
        self.stats = ReaderStats()
        self._spool = spool
        self._layout = stream.layout()
        self._files = (
            stream.shards - stream.shards % max(nodes, parts) if keep and stream.shards else None
        )
        self._batch_size, self._rank, self._world = batch_size // nodes, rank, world
        self._reuse, self._verify = reuse, verify
        self._next, self._stop_after = start, stop_after
        self._on_starving = on_starving
        self.order = spool.use_order(seed=seed, reuse=reuse, shards=shards, parts=parts)
        self._open: dict[int, ShardFile] = {}
        self._seen: os.stat_result | None = None
        self._gone = 0
        self._held: deque[_Slot] = deque()
        self._hold = hold
        # The last slot that was read is filled next: the fewer are in use, the more of them stay cached.
        self._free: queue.LifoQueue[_Slot | None] = queue.LifoQueue()
        self._filled: queue.SimpleQueue[tuple[Batch, _Slot] | BaseException | None] = (
            queue.SimpleQueue()
        )
        self._consumed = start
        self._handed_out: int | None = None
        self._reading = 0
        self._closing = threading.Event()
        self._stop = stop or self._closing
        for _ in range(depth + hold):
            self._free.put(self._new_slot(self._batch_size // world, allocate or _allocate))
        self._release = _Release(spool, self.stats, rank=rank, world=world, run=run)
        self._release.begin(start, self._released(self._oldest_needed()))
        self._begun = time.monotonic()
        self._second = ThreadPoolExecutor(1, thread_name_prefix="spool-reader-2")
        self._thread = threading.Thread(target=self._run, name="spool-reader", daemon=True)
        self._thread.start()

    # -- the consumer's side ----------------------------------------------------------------------

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch; the oldest lent one becomes invalid."""
        self._consumed = max(self._consumed, self._next_to_consume())
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
            self.stats.first_batch_s = now - self._begun
            self.stats.first_wait_s = now - began
        self.stats.batches += 1
        self.stats.bytes += batch.low.nbytes + batch.gt.nbytes
        self._handed_out = batch.index
        return batch

    def close(self) -> None:
        """Stop reading, publish the cursor, delete what every rank has passed, give the role back.

        The batch that was handed out last counts as used.
        """
        if self._closing.is_set():
            return
        self._consumed = max(self._consumed, self._next_to_consume())
        self._closing.set()
        self._free.put(None)
        self._thread.join()
        self._second.shutdown()
        for shard in self._open.values():
            shard.close()
        self._release.end(self._consumed, self._released(self._oldest_needed()))

    def __enter__(self) -> SpoolReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _next_to_consume(self) -> int:
        return self._consumed if self._handed_out is None else self._handed_out + 1

    # -- the thread's side ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._is_told_to_stop() and (
                self._stop_after is None or self._next < self._stop_after
            ):
                slot = self._free.get()
                self._let_go(self._oldest_needed())
                if slot is None:
                    break
                uses = self.order.uses(self._next * self._batch_size, self._batch_size)
                if len(uses) < self._batch_size:
                    break
                batch = self._fill(slot, uses)
                if batch is None:
                    break
                self._filled.put((batch, slot))
                self._next += 1
            self._filled.put(None)
        except BaseException as error:  # noqa: BLE001 # the consumer's thread raises it
            self._filled.put(error)

    def _is_told_to_stop(self) -> bool:
        return self._closing.is_set() or self._stop.is_set()

    def _fill(self, slot: _Slot, uses: Uses) -> Batch | None:
        """Read the next batch into a slot; None when asked to stop."""
        mine = uses[self._rank :: self._world].tolist()
        metas: dict[int, SampleMeta] = {}
        found: list[_Row] = []
        for row, (shard, sample, _) in enumerate(mine):
            if shard not in self._open:
                # While it is waited for, shards before it may be let go: read what they hold first.
                if not self._read_rows(slot, found, metas):
                    return None
                found = []
            self._reading = self._position(row)
            opened = self._whole(shard)
            if opened is None:
                return None
            found.append(_Row(row=row, shard=shard, sample=sample, opened=opened))
        if not self._read_rows(slot, found, metas):
            return None
        counts = (use + self._reuse * self._round_and_file(shard)[0] for shard, _, use in mine)
        in_order = tuple(metas[row] for row in range(len(mine)))
        return Batch(self._next, slot.low, slot.gt, in_order, tuple(counts))

    def _position(self, row: int) -> int:
        """Where in the stream a row of the next batch stands."""
        return self._next * self._batch_size + row * self._world

    def _read_rows(self, slot: _Slot, rows: Sequence[_Row], metas: dict[int, SampleMeta]) -> bool:
        """Read samples of open shards, half of them in the second thread; false when asked to stop."""
        half = len(rows) // 2
        others = self._second.submit(self._read_some, slot, rows[:half]) if half else None
        damaged = self._read_some(slot, rows[half:])
        # By rows: while one is waited for, what earlier ones need may be let go.
        damaged = [*(others.result() if others else []), *damaged]
        metas |= {one.row: one.opened.metas[one.sample] for one in rows}
        for one in damaged:
            self._reading = self._position(one.row)
            meta = self._read(one.shard, one.sample, slot.low[one.row], slot.gt[one.row])
            if meta is None:
                return False
            metas[one.row] = meta
        return True

    def _read_some(self, slot: _Slot, rows: Sequence[_Row]) -> list[_Row]:
        """Read samples into their rows of a slot; those that turned out damaged."""
        damaged = []
        for one in rows:
            try:
                one.opened.read(one.sample, slot.low[one.row], slot.gt[one.row])
            except ShardDamaged:
                damaged.append(one)
        return damaged

    def _read(self, shard: int, sample: int, low: U16, gt: U16) -> SampleMeta | None:
        """Read one sample, waiting for its shard and refusing damaged ones until a good one comes."""
        while True:
            opened = self._whole(shard)
            if opened is None:
                return None
            try:
                opened.read(sample, low, gt)
            except ShardDamaged as error:
                self._refuse(shard, error)
            else:
                return opened.metas[sample]

    def _whole(self, shard: int) -> ShardFile | None:
        """The open shard, waiting for it and refusing damaged ones until a good one comes."""
        while True:
            try:
                return self._opened(shard)
            except ShardDamaged as error:
                self._refuse(shard, error)

    def _round_and_file(self, shard: int) -> tuple[int, int]:
        """How often the kept shards were gone round before this one of the stream, and which of them it is."""
        return (0, shard) if self._files is None else divmod(shard, self._files)

    def _opened(self, shard: int) -> ShardFile | None:
        if shard not in self._open:
            _, file = self._round_and_file(shard)
            began, reported = time.monotonic(), 0.0
            while True:
                with contextlib.suppress(FileNotFoundError):
                    path = self._spool.shard_path(file)
                    self._seen = path.lstat()
                    self._open[shard] = ShardFile(
                        path, self._layout, file, self._spool.digest, verify=self._verify
                    )
                    break
                waited = time.monotonic() - began
                if self._on_starving and waited - reported >= _STARVING_EVERY_S:
                    self._on_starving(file, waited)
                    reported = waited
                # A batch may span more shards than the budget holds: let go of all that was read.
                self._let_go(self._oldest_needed(self._reading))
                if self._closing.wait(_POLL_S) or self._is_told_to_stop():
                    return None
        return self._open[shard]

    def _refuse(self, shard: int, error: ShardDamaged) -> None:
        opened = self._open.pop(shard, None)
        self.stats.damaged += 1
        log.warning("%s; it is set aside and made again", error)
        _, file = self._round_and_file(shard)
        self._spool.quarantine.add(
            self._spool.shard_path(file),
            file,
            str(error),
            seen=opened.seen if opened else self._seen,
        )
        if opened:
            opened.close()

    def _oldest_needed(self, position: int | None = None) -> int:
        """The oldest shard for what follows `position`, by default for what the consumer has not had."""
        return self.order.oldest_shard(
            self._consumed * self._batch_size if position is None else position
        )

    def _let_go(self, oldest: int) -> None:
        """Close and release the shards before `oldest`, and before any earlier `oldest`.

        A cursor that went back here would have a producer make again what is read already.
        """
        self._gone = oldest = max(oldest, self._gone)
        for shard in [shard for shard in self._open if shard < oldest]:
            self._open.pop(shard).close()
        self._release.update(self._consumed, self._released(oldest))

    def _released(self, oldest: int) -> int:
        """Before which shard all may go, where the reader needs none before `oldest`."""
        return oldest if self._files is None else 0

    def _new_slot(self, rows: int, allocate: Callable[[tuple[int, ...]], U16]) -> _Slot:
        try:
            low = allocate((rows, *self._layout.low_shape))
            return _Slot(low=low, gt=allocate((rows, *self._layout.gt_shape)))
        except MemoryError as error:
            raise OptionError(
                f"batch-size {self._batch_size}: no memory for so many samples; choose fewer"
            ) from error


class _Release:
    """Publishes one rank's cursor and deletes the shards that every rank has passed."""

    def __init__(
        self, spool: Spool, stats: ReaderStats, *, rank: int, world: int, run: str
    ) -> None:
        self._spool, self._stats = spool, stats
        self._rank, self._world, self._run = rank, world, run
        self._first = 0
        """The oldest shard that was needed when this rank began."""
        self._published = 0
        self._looked = 0.0
        self._begun = time.monotonic()
        self._lock = spool.trainer_lock() if rank == 0 else None

    def begin(self, batch: int, oldest: int) -> None:
        """Take the trainer's role (rank 0) and say where this rank starts; raises SpoolBusy."""
        if self._lock:
            self._lock.acquire()
        try:
            if self._lock:
                # All others: with a cursor of an earlier training one would seem to have passed
                # what it has not begun.
                self._spool.remove_cursors_from(1)
            self._first = oldest
            self._publish(batch, oldest)
        except BaseException:
            self._release_lock()
            raise

    def update(self, batch: int, oldest: int) -> None:
        """Say how far this rank is, when that matters, and delete what all have passed."""
        now = time.monotonic()
        due = now - self._looked >= _LOOK_EVERY_S
        if due:
            self._looked = now
            weight = self._spool.disk_bytes()
            self._stats.peak_disk_bytes = max(self._stats.peak_disk_bytes, weight)
        if due or oldest > self._published:
            self._publish(batch, oldest)
            self._delete()

    def end(self, batch: int, oldest: int) -> None:
        """Say where this rank stopped and give the role back."""
        try:
            self._publish(batch, oldest)
            self._delete()
        finally:
            self._release_lock()

    def _release_lock(self) -> None:
        if self._lock:
            self._lock.release()

    def _publish(self, batch: int, oldest: int) -> None:
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
        try:
            self._spool.write_cursor(cursor)
        except DiskFull as error:
            # Deleting is what frees the disk; an older cursor only costs a shard made in vain.
            log.warning("the cursor could not be written: %s", error)

    def _wait_fraction(self) -> float:
        """Share of the time since the first batch that the consumer stood still."""
        running = time.monotonic() - self._begun - self._stats.first_batch_s
        waited = self._stats.wait_s + self._waiting_s() - self._stats.first_wait_s
        return (
            min(1.0, max(0.0, waited / running)) if self._stats.batches > 1 and running > 0 else 0.0
        )

    def _waiting_s(self) -> float:
        """For how long the consumer has stood still now."""
        since = self._stats.waiting_since
        return 0.0 if since is None else time.monotonic() - since

    def _delete(self) -> None:
        passed = self._published
        if self._world > 1:
            cursors = self._spool.read_cursors()
            silent = len(cursors) < self._world
            passed = 0 if silent else min(cursor.shard for cursor in cursors)
        for shard in self._spool.ready_shards():
            if shard < passed:
                self._spool.delete(shard)
        if self._rank == 0:
            # Not what was unlinked here: a producer that sees the cursor first makes room by itself.
            done = len(self._spool.shards_in_part(self._first, self._published))
            self._stats.shards_deleted = max(done, self._stats.shards_deleted)


def _allocate(shape: tuple[int, ...]) -> U16:
    return np.empty(shape, np.uint16)


def _check_options(
    *, batch_size: int, rank: int, world: int, reuse: int, depth: int, hold: int
) -> None:
    for name, value in (
        ("batch-size", batch_size),
        ("world", world),
        ("reuse", reuse),
        ("depth", depth),
        ("hold", hold),
    ):
        if value < 1:
            raise OptionError(f"{name} must be at least 1, not {value}")
    if batch_size % world:
        raise OptionError(
            f"batch-size {batch_size} cannot be dealt to {world} ranks; choose a multiple of {world}"
        )
    if not 0 <= rank < world:
        raise OptionError(f"rank must be 0 to {world - 1}, not {rank}")


def open_webdataset(spool: Spool) -> webdataset.WebDataset:
    """A plain webdataset over the shards that are ready now: dicts with `low.npy`, `gt.npy`, `json`.

    Every shard is checked first, so that nothing but arrays and JSON can be in them. Nothing is deleted.
    Raises StreamEnded when no shard is ready, ShardDamaged when one is not what the plan says.
    """
    import webdataset  # here, for it loads torch, which the producers never need

    layout, plan = spool.stream.layout(), spool.digest
    paths = [spool.shard_path(shard) for shard in spool.ready_shards()]
    if not paths:
        raise StreamEnded(f"{spool.path}: no shard is ready; make some with `darkprep build`")
    for path in paths:
        ShardFile(path, layout, int(path.stem), plan).close()
    return webdataset.WebDataset([str(path) for path in paths], shardshuffle=False).decode()
