"""The destination of finished shards: the spool's own directory, or object storage.

The producer makes shards in a directory in both cases; this interface is its only access to their
destination. The trade-off: the state of a remote destination is known only as of the last request, so a
producer may make a shard that is no longer needed, but it never exceeds the budget.
"""

from __future__ import annotations

import contextlib
from typing import Protocol

from darkprep.shards import Spool
from darkprep.shards.heartbeat import ProducerStatus


class Destination(Protocol):
    """The store in which finished shards wait. All methods raise SpoolError when it cannot be reached."""

    in_transit: int
    """Shards that may exist twice while they are uploaded; space is reserved for them."""

    def session(self) -> contextlib.AbstractContextManager[object]:
        """Hold the right to be the destination's only producer during a `with` block. Raises SpoolBusy."""

    def ready_shards(self) -> list[int]:
        """Return the numbers of finished shards, ascending, including shards not yet uploaded."""

    def oldest_needed(self) -> int:
        """Return the oldest shard that a trainer may still need."""

    def has_trainer(self) -> bool:
        """Return whether a trainer is running; False if this cannot be known."""

    def delete(self, shard: int) -> bool:
        """Delete a finished shard; return whether it existed."""

    def all_delivered(self) -> bool:
        """Return whether all finished shards are where the trainer reads them."""

    def disk_bytes(self) -> int:
        """Return the bytes that spool and destination occupy together."""

    def publish_status(self, status: ProducerStatus) -> None:
        """Publish the producer's status where programs that read the destination find it."""


class SpoolDestination:
    """The directory `ready/` of a local spool as the destination."""

    in_transit = 0

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self.ready_shards = spool.ready_shards
        self.oldest_needed = spool.oldest_needed
        self.has_trainer = spool.has_trainer
        self.delete = spool.delete
        self.disk_bytes = spool.disk_bytes

    def session(self) -> contextlib.AbstractContextManager[object]:
        """Do nothing: the spool's producer lock already excludes other producers."""
        return contextlib.nullcontext()

    def all_delivered(self) -> bool:
        """Return True: shards are finished in the directory where the trainer reads them."""
        return True

    def publish_status(self, status: ProducerStatus) -> None:
        """Do nothing: the producer's heartbeat in the spool already publishes the status."""
