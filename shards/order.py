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

from darkprep.shards.rng import RngStream, permutation

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
    """How many shards the plan has; None for a stream without end."""
    part: int = 0
    """Only shards whose number modulo `parts` is `part` are used: what one node of several trains on."""
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
        """How many uses there are; None without end."""
        return None if self._own_shards is None else self._own_shards * self.samples * self.reuse

    def interval(self, index: int) -> Uses:
        """All uses of one interval, in order."""
        parts = [
            self._stratum(index - age, age)
            for age in range(self.window)
            if index - age >= 0 and (self._own_shards is None or index - age < self._own_shards)
        ]
        uses = np.concatenate(parts) if parts else np.empty((0, 3), dtype=np.int64)
        return uses[permutation(len(uses), self.seed, RngStream.MIX, self._numbered(index))]

    def start(self, interval: int) -> int:
        """The position at which an interval begins."""
        started = self._begun(interval)
        return (
            started
            if self._own_shards is None
            else started - self._begun(interval - self._own_shards)
        )

    def interval_of(self, position: int) -> int:
        """The interval in which a position lies; one past the last for positions behind the end."""
        if self._own_shards is not None and self.total is not None and position >= self.total:
            return self._own_shards + self.window - 1
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
        return self._numbered(max(0, self.interval_of(position) - self.window + 1))

    def newest_shard(self, position: int) -> int:
        """The largest shard that positions up to `position` can have asked for."""
        newest = self.interval_of(position)
        last = newest if self._own_shards is None else min(newest, self._own_shards - 1)
        return self._numbered(last)

    @property
    def _own_shards(self) -> int | None:
        """How many shards the part has: as many as every other, so that all parts end together."""
        return None if self.shards is None else self.shards // self.parts

    def _numbered(self, own: int) -> int:
        """The plan's number of the part's shard number `own`."""
        return own * self.parts + self.part

    def _ended(self, interval: int) -> bool:
        return self._own_shards is not None and interval >= self._own_shards + self.window - 1

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
        return _cached_uses(self, self._numbered(shard))[self._edge(age) : self._edge(age + 1)]


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
class DealtOrder:
    """What nodes train on together that have a part of the shards each, as one sequence.

    Of every global batch row r comes from part r mod `len(parts)`, in that part's own order. One
    machine that follows this order trains on the very batches that the nodes do.
    """

    parts: tuple[UseOrder, ...]
    """Part n of N at place n."""

    def uses(self, position: int, count: int) -> Uses:
        """The uses at positions `position` .. `position + count - 1`, fewer where the first part ends."""
        world = len(self.parts)
        dealt = np.zeros((count, 3), dtype=np.int64)
        whole = count
        for part, order in enumerate(self.parts):
            first = (part - position) % world
            wanted = len(range(first, count, world))
            uses = order.uses((position + first) // world, wanted)
            dealt[first : first + len(uses) * world : world] = uses
            if len(uses) < wanted:
                whole = min(whole, first + len(uses) * world)
        return dealt[:whole]

    def oldest_shard(self, position: int) -> int:
        """The smallest shard that positions from `position` on can still ask for."""
        own = position // len(self.parts)
        return min(order.oldest_shard(own) for order in self.parts)

    def newest_shard(self, position: int) -> int:
        """The largest shard that positions up to `position` can have asked for."""
        own = position // len(self.parts)
        return max(order.newest_shard(own) for order in self.parts)


def dealt_order(
    *, samples: int, window: int, seed: int, reuse: int, shards: int | None, parts: int
) -> UseOrder | DealtOrder:
    """The order of a whole plan that is used in `parts` parts; raises ValueError naming the field."""
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
    return orders[0] if parts == 1 else DealtOrder(parts=tuple(orders))
