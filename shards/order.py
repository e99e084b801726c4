"""The order in which a trainer uses the samples: shuffled over a window of shards, computed rather than stored.

A stream is divided into intervals. Shard k is used during the intervals k .. k + window - 1, with an equal
share of its uses in each of them, and the uses in one interval are mixed. So each interval starts one shard
and finishes another, and `window` shards are open at a time; fewer in the first intervals, so that training
can start when shard 0 exists. The trade-off: a sample moves by at most `window` shards, which is less than a
full shuffle, but needs no memory.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from darkprep.shards.rng import RngStream, permutation

Uses = npt.NDArray[np.int64]
"""`(n, 3)` int64 rows of shard, sample, use number."""


@dataclass(frozen=True, kw_only=True)
class UseOrder:
    """The sequence of all uses of samples in a stream; the use at each position depends on these fields alone.

    Raises ValueError, which names the invalid field.
    """

    samples: int
    """Samples in a shard."""
    window: int
    """Number of consecutive shards that are mixed."""
    seed: int
    reuse: int = 1
    """How many times each sample is used before its shard is released (data echoing)."""
    shards: int | None = None
    """Number of shards in the plan; None for no end."""
    part: int = 0
    """Only shards k with k mod parts = part are used: the shards of one node among several."""
    parts: int = 1

    def __post_init__(self) -> None:
        for field in ("samples", "window", "reuse", "parts"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}")
        if self.shards is not None and self.shards < self.parts:
            raise ValueError(f"shards must be at least {self.parts} or None, not {self.shards}")
        if not 0 <= self.part < self.parts:
            raise ValueError(f"part must be 0 to {self.parts - 1}, not {self.part}")

    @property
    def total(self) -> int | None:
        """The number of uses in the stream; None if it has no end."""
        return None if self._shard_count is None else self._shard_count * self.samples * self.reuse

    def interval(self, index: int) -> Uses:
        """Return all uses of one interval, in order."""
        parts = [
            self._uses_in(index - age, age)
            for age in range(self.window)
            if index - age >= 0 and (self._shard_count is None or index - age < self._shard_count)
        ]
        uses = np.concatenate(parts) if parts else np.empty((0, 3), dtype=np.int64)
        return uses[permutation(len(uses), self.seed, RngStream.MIX, self._plan_number(index))]

    def start(self, interval: int) -> int:
        """Return the position of the first use in an interval."""
        started = self._uses_before(interval)
        return (
            started
            if self._shard_count is None
            else started - self._uses_before(interval - self._shard_count)
        )

    def interval_of(self, position: int) -> int:
        """Return the index of the interval that contains a position; for a position after the end, the number of intervals."""
        if self._shard_count is not None and self.total is not None and position >= self.total:
            return self._shard_count + self.window - 1
        low, high = 0, 1
        while self.start(high) <= position:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.start(middle) <= position else (low, middle)
        return low

    def uses(self, position: int, count: int) -> Uses:
        """Return the uses at positions `position` to `position + count - 1`; fewer at the end of the stream."""
        parts: list[Uses] = []
        interval = self.interval_of(position)
        skip = position - self.start(interval)
        while count > 0 and not self._ended(interval):
            part = _cached_interval(self, interval)[skip : skip + count]
            parts.append(part)
            count -= len(part)
            interval, skip = interval + 1, 0
        return np.concatenate(parts) if parts else np.empty((0, 3), dtype=np.int64)

    def oldest_shard(self, position: int) -> int:
        """Return the smallest number of a shard that is used at `position` or later."""
        return self._plan_number(max(0, self.interval_of(position) - self.window + 1))

    def newest_shard(self, position: int) -> int:
        """Return the largest number of a shard that is used at `position` or earlier."""
        newest = self.interval_of(position)
        last = newest if self._shard_count is None else min(newest, self._shard_count - 1)
        return self._plan_number(last)

    @property
    def _shard_count(self) -> int | None:
        """The number of shards in the part; all parts have the same number, so that they end together."""
        return None if self.shards is None else self.shards // self.parts

    def _plan_number(self, index: int) -> int:
        """Return the number in the plan of the part's shard number `index`."""
        return index * self.parts + self.part

    def _ended(self, interval: int) -> bool:
        return self._shard_count is not None and interval >= self._shard_count + self.window - 1

    def _uses_by_age(self, age: int) -> int:
        """Return how many of a shard's uses are in the first `age` intervals of the shard."""
        return min(age, self.window) * self.samples * self.reuse // self.window

    def _uses_before(self, interval: int) -> int:
        """Return how many uses lie before this interval in a stream without end."""
        full = max(0, interval - self.window)
        ramp = sum(self._uses_by_age(age + 1) for age in range(max(0, min(interval, self.window))))
        return ramp + full * self.samples * self.reuse

    def _uses_in(self, shard: int, age: int) -> Uses:
        """Return a shard's uses in interval number `age` of those in which the shard is used."""
        return _cached_uses(self, self._plan_number(shard))[
            self._uses_by_age(age) : self._uses_by_age(age + 1)
        ]


@functools.lru_cache(maxsize=256)
def _cached_uses(order: UseOrder, shard: int) -> Uses:
    rounds = []
    for use in range(order.reuse):
        samples = permutation(order.samples, order.seed, RngStream.USES, shard, use)
        rounds.append(
            np.stack([np.full_like(samples, shard), samples, np.full_like(samples, use)], axis=1)
        )
    return np.concatenate(rounds)


@functools.lru_cache(maxsize=64)
def _cached_interval(order: UseOrder, index: int) -> Uses:
    return order.interval(index)


@dataclass(frozen=True, kw_only=True)
class InterleavedOrder:
    """The sequence of uses when several nodes train together, each with its own part of the shards.

    Row r of every global batch comes from part r mod `len(parts)`, in the order of that part. So one
    machine that follows this order trains on exactly the batches of the nodes.
    """

    parts: tuple[UseOrder, ...]
    """Part n of N at index n."""

    def uses(self, position: int, count: int) -> Uses:
        """Return the uses at positions `position` to `position + count - 1`; fewer where a part ends."""
        world = len(self.parts)
        rows = np.zeros((count, 3), dtype=np.int64)
        complete = count
        for part, order in enumerate(self.parts):
            first = (part - position) % world
            wanted = len(range(first, count, world))
            uses = order.uses((position + first) // world, wanted)
            rows[first : first + len(uses) * world : world] = uses
            if len(uses) < wanted:
                complete = min(complete, first + len(uses) * world)
        return rows[:complete]

    def oldest_shard(self, position: int) -> int:
        """Return the smallest number of a shard that is used at `position` or later."""
        own = position // len(self.parts)
        return min(order.oldest_shard(own) for order in self.parts)

    def newest_shard(self, position: int) -> int:
        """Return the largest number of a shard that is used at `position` or earlier."""
        own = position // len(self.parts)
        return max(order.newest_shard(own) for order in self.parts)


def interleaved_order(
    *, samples: int, window: int, seed: int, reuse: int, shards: int | None, parts: int
) -> UseOrder | InterleavedOrder:
    """Return the order in which `parts` nodes together use a whole plan. Raises ValueError, which names the field."""
    orders = [
        UseOrder(
            samples=samples,
            window=window,
            seed=seed,
            reuse=reuse,
            shards=shards,
            part=part,
            parts=parts,
        )
        for part in range(parts)
    ]
    return orders[0] if parts == 1 else InterleavedOrder(parts=tuple(orders))
