"""Where finished shards wait for the trainer: in the spool's own directory, or beyond it in a bucket.

The producer makes shards in a spool on a disk either way; what it must know of the place where they
wait is this seam. The trade-off: a shelf elsewhere is known by what it last told, so a producer may
make a shard that nobody needs any more, and never one that breaks the budget.
"""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

from darkprep.shards import Spool


class Destination(Protocol):
    """Where finished shards wait. All methods raise SpoolError when the place cannot be reached."""

    in_transit: int
    """Shards for which room is kept, since they lie in two places while they are carried."""

    def opened(self) -> contextlib.AbstractContextManager[object]:
        """The time for which a producer works with it; raises SpoolBusy when another one does."""

    def ready_shards(self) -> list[int]:
        """The finished shards, ascending, those included that are still to be carried there."""

    def oldest_needed(self) -> int:
        """The oldest shard that a trainer can still ask for."""

    def drop(self, shard: int) -> bool:
        """Delete a finished shard; whether there was one."""

    def is_settled(self) -> bool:
        """Whether every finished shard is where the trainer finds it."""

    def disk_bytes(self) -> int:
        """What spool and shelf occupy together."""

    def tell(self, report: dict[str, Any]) -> None:
        """What the producer does, for whoever looks at the shelf."""


class SpoolDestination:
    """The `ready/` of the spool in which shards are made."""

    in_transit = 0

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self.ready_shards = spool.ready_shards
        self.oldest_needed = spool.oldest_needed
        self.drop = spool.delete
        self.disk_bytes = spool.disk_bytes

    def opened(self) -> contextlib.AbstractContextManager[object]:
        """See Shelf; the spool's own role keeps producers apart."""
        return contextlib.nullcontext()

    def is_settled(self) -> bool:
        """See Shelf: a shard is finished by being there."""
        return True

    def tell(self, report: dict[str, Any]) -> None:
        """See Shelf: the heartbeat says it."""
