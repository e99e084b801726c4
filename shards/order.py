"""In which order a trainer uses the samples of the stream: shuffled over a window of shards, computed, not stored.

Shard k is used during the intervals k .. k + window - 1, an equal part of its uses in each, and the
uses of one interval are mixed. So at any time `window` shards are open, one is finished and one is
begun per interval, and training starts when shard 0 is there. The trade-off: a sample moves at most
`window` shards from its place, which is less than a full shuffle and needs no memory.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.draws import Draw, permutation

Uses = npt.NDArray[np.int64]
"""`(n, 3)` rows of shard, sample, use number."""


@dataclass(frozen=True, kw_only=True)
class UseOrder:
    """The sequence of all uses of a stream; position p of it is a function of these fields alone.

    Raises ValueError naming the field.
    """

    samples: int
    """Samples in a shard."""
    window: int
    """Shards that are mixed."""
    seed: int
    reuse: int = 1
    """How many times each sample is used before its shard is released (data echoing)."""
    shards: int | None = None
    """How many shards there are; None for a stream without end."""

    def __post_init__(self) -> None:
        for field in ("samples", "window", "reuse"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}")
        if self.shards is not None and self.shards < 1:
            raise ValueError(f"shards must be at least 1 or None, not {self.shards}")

    @property
    def total(self) -> int | None:
        """How many uses there are; None without end."""
        return None if self.shards is None else self.shards * self.samples * self.reuse

    def interval(self, index: int) -> Uses:
        """All uses of one interval, in order."""
        parts = [
            self._stratum(index - age, age)
            for age in range(self.window)
            if index - age >= 0 and (self.shards is None or index - age < self.shards)
        ]
        uses = np.concatenate(parts) if parts else np.empty((0, 3), dtype=np.int64)
        return uses[permutation(len(uses), self.seed, Draw.MIX, index)]

    def start(self, interval: int) -> int:
        """The position at which an interval begins."""
        started = self._begun(interval)
        return started if self.shards is None else started - self._begun(interval - self.shards)

    def interval_of(self, position: int) -> int:
        """The interval in which a position lies; one past the last for positions behind the end."""
        if self.shards is not None and self.total is not None and position >= self.total:
            return self.shards + self.window - 1
        low, high = 0, 1
        while self.start(high) <= position:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.start(middle) <= position else (low, middle)
        return low

    def uses(self, position: int, count: int) -> Uses:
        """The uses at positions `position` .. `position + count - 1`, fewer where the stream ends."""
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
        """The smallest shard that positions from `position` on can still ask for."""
        return max(0, self.interval_of(position) - self.window + 1)

    def newest_shard(self, position: int) -> int:
        """The largest shard that positions up to `position` can have asked for."""
        newest = self.interval_of(position)
        return newest if self.shards is None else min(newest, self.shards - 1)

    def _ended(self, interval: int) -> bool:
        return self.shards is not None and interval >= self.shards + self.window - 1

    def _edge(self, age: int) -> int:
        """How many uses of a shard lie in its first `age` intervals."""
        return min(age, self.window) * self.samples * self.reuse // self.window

    def _begun(self, interval: int) -> int:
        """How many uses the intervals before this one have, were the stream without end."""
        full = max(0, interval - self.window)
        ramp = sum(self._edge(age + 1) for age in range(max(0, min(interval, self.window))))
        return ramp + full * self.samples * self.reuse

    def _stratum(self, shard: int, age: int) -> Uses:
        """The uses of a shard that fall into its interval number `age`."""
        return _cached_uses(self, shard)[self._edge(age) : self._edge(age + 1)]


@functools.lru_cache(maxsize=256)
def _cached_uses(order: UseOrder, shard: int) -> Uses:
    rounds = []
    for use in range(order.reuse):
        samples = permutation(order.samples, order.seed, Draw.USES, shard, use)
        rounds.append(
            np.stack([np.full_like(samples, shard), samples, np.full_like(samples, use)], axis=1)
        )
    return np.concatenate(rounds)


@functools.lru_cache(maxsize=4)
def _cached_interval(order: UseOrder, index: int) -> Uses:
    return order.interval(index)
