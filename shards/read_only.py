"""Reading a spool without changing it: no lock, no cursor, nothing deleted and nothing moved.

The trade-off: other processes do not see such a reader, so it works only where shards are kept; a shard that a
trainer deletes is missed when the reader comes to it.
"""

from __future__ import annotations

from collections.abc import Callable

from darkprep.shards.errors import SpoolError
from darkprep.shards.producer_watch import ProducerWatch
from darkprep.shards.spool import Spool


class NoRelease:
    """What a read-only reader has in place of ShardRelease."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def begin(self, batch: int, oldest: int) -> None:
        """Raise SpoolError where the shards of the spool are deleted after use."""
        check_kept(self._spool)

    def update(self, batch: int, oldest: int) -> None:
        """Do nothing: no shard is released."""

    def end(self, batch: int, oldest: int) -> None:
        """Do nothing: there is no lock, and no shard is released."""


class KeptShardsWatch:
    """The reaction of a read-only reader to a missing shard: it may have been deleted, or not be made yet."""

    def __init__(self, spool: Spool, on_starving: Callable[[int, float], None] | None) -> None:
        self._spool = spool
        self._on_starving = on_starving or ProducerWatch(spool).on_starving

    def on_starving(self, shard: int, seconds: float) -> None:
        """Raise SpoolError where shards are deleted after use, and the errors of the function for missing shards."""
        check_kept(self._spool)
        self._on_starving(shard, seconds)


def check_kept(spool: Spool) -> None:
    """Raise SpoolError if a trainer has passed shards of the spool and deletes them."""
    passed = spool.oldest_needed()
    if not passed:
        return
    missing = set(spool.shards_in_part(0, passed)) - set(spool.ready_shards())
    if missing or spool.has_trainer():
        raise SpoolError(
            f"{spool.path}: a training run has passed shard {passed - 1} and deletes used shards; build another spool for read-only runs, and train on it only with --keep-shards"
        )
