"""Read a spool's samples as batches in the plan's order, and release each shard when all its samples are used.

The trade-off: the arrays of a batch, which shards/read_ahead.py reads, are valid only until `hold` newer
batches have been requested; then they are overwritten. Without `hold` they are lent by
shards/batch_memory.py for as long as they are used.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NoReturn

import numpy as np

from darkprep.shards.batch import Batch, ReaderStats
from darkprep.shards.batch_memory import SlotPool
from darkprep.shards.errors import DarkprepError, OptionError, SpoolError
from darkprep.shards.format import U16, ShardLayout
from darkprep.shards.read_ahead import BatchRange, ReadAhead, ShardUse, Slot
from darkprep.shards.spool import Spool


class SpoolReader:
    """An iterator of Batch over a spool.

    `batch_size` is the size of the global batch, of which rank `rank` of `world` gets every world-th
    sample. If the spool holds part n of N, its node gets every N-th sample of the global batch, and the
    `world` ranks of the node share these samples. `parts` is for a spool with the whole plan: its samples
    come in the order in which that many nodes would use them together.

    The stream begins with global batch `start`. It ends before batch `stop_after` and before shard
    `shards`, by default at the end of the plan; with `endless` it continues, because a producer can make
    any shard of a plan. If fewer samples than a batch remain at the end, they form a smaller batch (with
    several ranks, an equal number for each), or are left out with `drop_last`. Each sample is used `reuse`
    times before its shard is released. With `keep`, nothing is deleted and the plan's shards are repeated
    without end. With `read_only`, nothing in the spool is changed: any number of such readers may read shards that
    are kept, beside one trainer that keeps them too. With `verify`, the checksums of each sample are checked at its first read. Setting the
    event `stop` ends the stream, even during a wait.

    `depth` batches are read ahead, and the newest `hold` batches stay valid; with `hold=None` a batch stays valid as
    long as its arrays, or tensors made of them, are used. `allocate(shape)` returns a
    buffer (uint16, C order; pinned memory for CUDA). `on_starving(shard, seconds)` is called from the
    reader's thread about twice a second while the next shard is missing; it may raise StreamEnded. The
    default function raises StreamEnded after five seconds without a producer. `run` is the run directory,
    for display.

    A reader that is not read-only holds the spool's trainer lock until it is closed or garbage-collected, with `close_at_end`
    until the stream ends. It can be used only in the process that opened it.

    Raises SpoolBusy when another trainer uses the spool, OptionError for an invalid value, and for a read-only
    reader SpoolError where shards are deleted after use. `__next__`
    raises SpoolError in another process, and the errors of reading and of `on_starving`.
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
        endless: bool = False,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
        parts: int = 1,
        reuse: int = 1,
        keep: bool = False,
        read_only: bool = False,
        depth: int = 4,
        hold: int | None = 1,
        verify: bool = True,
        run: str = "",
        stop: threading.Event | None = None,
        allocate: Callable[[tuple[int, ...]], U16] | None = None,
        on_starving: Callable[[int, float], None] | None = None,
        close_at_end: bool = True,
    ) -> None:
        stream = spool.stream
        nodes = spool.settings.parts
        check_counts(
            batch_size=batch_size,
            world=world,
            reuse=reuse,
            depth=depth,
            hold=1 if hold is None else hold,
        )
        check_ranks(batch_size, rank, world, nodes)
        for option, is_given in (("--read-only", read_only), ("--keep-shards", keep)):
            if is_given:
                stream.shards_for(option)  # raises OptionError for a plan without end
        if shards is None and not keep and not endless:
            shards = stream.shards
        self.stats = ReaderStats()
        self.order = spool.use_order(seed=seed, reuse=reuse, shards=shards, parts=parts)
        self._path, self._process = spool.path, os.getpid()
        self._hold, self._close_at_end = hold, close_at_end
        self._held: deque[Slot] = deque()
        self._began = time.monotonic()
        self._is_closed = False
        own_batch_size = batch_size // nodes
        make_slots = functools.partial(
            _slots, stream.layout(), own_batch_size // world, allocate or _allocate
        )
        self._pool = SlotPool(lambda: make_slots(1)[0])
        self._reading = ReadAhead(
            spool,
            self.stats,
            self.order,
            BatchRange(
                batch_size=own_batch_size,
                rank=rank,
                world=world,
                start=start,
                stop_after=stop_after,
                drop_last=drop_last,
            ),
            ShardUse(
                reuse=reuse,
                cycle=stream.shards - stream.shards % max(nodes, parts)
                if keep and stream.shards
                else None,
                verify=verify,
                read_only=read_only,
            ),
            make_slots(depth + (hold or 1)),
            run=run,
            stop=stop,
            on_starving=on_starving,
        )
        self._finalizer = weakref.finalize(self, _abandon, self._reading, self._process)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Return the next batch; the oldest of the `hold` newest batches becomes invalid."""
        if self._process != os.getpid():
            raise SpoolError(
                f"{self._path}: a SpoolReader works only in the process that opened it (pid {self._process}), but is used here in a process forked from that one; open another reader in the forked process, or read in process {self._process} (DataLoader: num_workers=0)"
            )
        if self._is_closed:
            raise StopIteration
        while len(self._held) >= (self._hold or 1):
            slot = self._held.popleft()
            # Not before: by now the caller has dropped the batch before the last one, whose slot is still in the cache.
            self._reading.give_back(slot if self._hold else self._pool.take())
        self.stats.waiting_since = began = time.monotonic()
        try:
            found = self._reading.take()
        except Exception:
            if self._close_at_end:
                with contextlib.suppress(DarkprepError, OSError):
                    self.close()
            raise
        finally:
            self.stats.waiting_since = None
        if found is None:
            if self._close_at_end:
                self.close()
            raise StopIteration
        batch, slot = found
        now = time.monotonic()
        self._held.append(slot)
        if not self._hold:
            batch = self._pool.lend(batch, slot)
        self.stats.wait_s += now - began
        if not self.stats.batches:
            self.stats.first_batch_s = now - self._began
            self.stats.first_wait_s = now - began
        self.stats.batches += 1
        self.stats.bytes += batch.low.nbytes + batch.gt.nbytes
        return batch

    def close(self) -> None:
        """Stop reading, publish the cursor, delete the shards that every rank has passed, and release the lock.

        The batch that was returned last counts as used. In a forked process nothing is done.
        """
        if self._is_closed or self._process != os.getpid():
            return
        self._is_closed = True
        self._finalizer.detach()
        self._reading.close()

    def __enter__(self) -> SpoolReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> NoReturn:
        raise SpoolError(
            f"{self._path}: a SpoolReader cannot be sent to another process; open it in the process that reads (DataLoader: num_workers=0)"
        )


def _abandon(reading: ReadAhead, process: int) -> None:
    """Close the parts of a reader that was garbage-collected, or never closed before the interpreter ends."""
    if os.getpid() == process:
        reading.abandon()


def _slots(
    layout: ShardLayout, rows: int, allocate: Callable[[tuple[int, ...]], U16], count: int
) -> list[Slot]:
    """Allocate the buffers of `count` batches with `rows` samples each."""
    try:
        return [
            Slot(low=allocate((rows, *layout.low_shape)), gt=allocate((rows, *layout.gt_shape)))
            for _ in range(count)
        ]
    except MemoryError as error:
        raise OptionError(
            f"batch-size: not enough memory for {count} batch{'es' * (count > 1)} of {rows} samples; choose a smaller batch size"
        ) from error


def _allocate(shape: tuple[int, ...]) -> U16:
    return np.empty(shape, np.uint16)


def check_counts(**counts: int) -> None:
    """Raise OptionError for a count below 1."""
    for name, value in counts.items():
        if value < 1:
            raise OptionError(f"{name.replace('_', '-')} must be at least 1, not {value}")


def check_ranks(batch_size: int, rank: int, world: int, nodes: int) -> None:
    """Raise OptionError unless each of `world` ranks on each of `nodes` nodes gets an equal part of a batch."""
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
