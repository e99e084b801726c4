"""Where finished shards wait for the trainer: in the spool's own directory, or in object storage.

The producer makes shards in a directory in both cases; this is all that it needs to know about where
they go. The trade-off: the state of a remote destination is known only as of the last look at it, so a
producer may make a shard that is no longer needed, but it never exceeds the budget.
"""

from __future__ import annotations

import contextlib
from typing import Protocol

from darkprep.shards import Spool
from darkprep.shards.heartbeat import ProducerStatus


class Destination(Protocol):
    """Where finished shards wait. All methods raise SpoolError when it cannot be reached."""

    in_transit: int
    """Shards that may exist twice while they are uploaded; space is reserved for them."""

    def session(self) -> contextlib.AbstractContextManager[object]:
        """Be the only producer that uses it, within a `with` block. Raises SpoolBusy."""

    def ready_shards(self) -> list[int]:
        """Return the finished shards, ascending, including those that are still to be uploaded."""

    def oldest_needed(self) -> int:
        """Return the oldest shard that a trainer can still ask for."""

    def delete(self, shard: int) -> bool:
        """Delete a finished shard; return whether there was one."""

    def all_delivered(self) -> bool:
        """Return whether every finished shard is where the trainer looks for it."""

    def disk_bytes(self) -> int:
        """Return the bytes that spool and destination occupy together."""

    def publish_status(self, status: ProducerStatus) -> None:
        """Publish what the producer is doing where those who watch the destination can read it."""


class SpoolDestination:
    """The `ready/` directory of the spool in which shards are made."""

    in_transit = 0

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self.ready_shards = spool.ready_shards
        self.oldest_needed = spool.oldest_needed
        self.delete = spool.delete
        self.disk_bytes = spool.disk_bytes

    def session(self) -> contextlib.AbstractContextManager[object]:
        """See Destination; the spool's producer lock is enough."""
        return contextlib.nullcontext()

    def all_delivered(self) -> bool:
        """See Destination; a finished shard is already there."""
        return True

    def publish_status(self, status: ProducerStatus) -> None:
        """Do nothing: the producer's heartbeat in the spool already publishes the status."""
