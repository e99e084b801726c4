"""A spool in object storage: plan, finished shards, the trainer's cursor and two leases.

    PREFIX/plan.json            as in a directory (FORMAT.md)
    PREFIX/ready/00000042.tar   published by one PUT
    PREFIX/cursors/rank-0.json  the trainer's position
    PREFIX/cursors/lease.json   the trainer's lease, PREFIX/producers/lease.json the producer's

The trade-off: a bucket is only a stage on the way. Shards are produced in a directory and uploaded (uploader.py),
and downloaded into a directory before they are read (downloader.py), so producer and reader are the same
for both kinds of spool. Names and sizes are checked: objects of any other form are left alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Self

from darkprep.shards.cursor import CURSOR_BYTES, Cursor
from darkprep.shards.errors import PlanError, SpoolError
from darkprep.shards.file_names import (
    cursor_file_name,
    published_path,
    shard_file_name,
    shard_of_file_name,
)
from darkprep.shards.files import json_bytes, parse_json_object
from darkprep.shards.plan_record import PlanRecord, RecordedPlan
from darkprep.shards.remote.lease import Lease, Watch
from darkprep.shards.remote.object_store import MAX_PUT_BYTES, Check, ObjectStore
from darkprep.shards.remote.url import StoreUrl
from darkprep.shards.shard_file import verify_shard

_PLAN = "plan.json"
_PLAN_BYTES = 64 << 20
_CURSOR = f"cursors/{cursor_file_name(0)}"
_PRODUCER, _TRAINER = "producers/lease.json", "cursors/lease.json"
_MOST_DAMAGED = 20
"""Listed objects of a wrong size that are requested at once; each costs a request, and anyone may have put many there."""


class Bucket(RecordedPlan):
    """A spool in object storage. All methods raise SpoolError when the store fails.

    `label` is the URL of the spool, for messages. Methods that change something take `check`, a function
    that raises if the caller has lost its lease (`Lease.check`).
    """

    def __init__(self, store: ObjectStore, label: str) -> None:
        super().__init__()
        self.store = store
        self.label = label

    @classmethod
    def at(cls, url: StoreUrl, *, stop: threading.Event | None = None) -> Bucket:
        """Open the spool at `url` after one successful request. Raises the errors of ObjectStore.open."""
        return cls(ObjectStore.open(url, stop=stop), str(url))

    def __str__(self) -> str:
        return self.label

    # -- the plan ---------------------------------------------------------------------------------

    def publish(self, plan: PlanRecord) -> None:
        """Create the spool of `plan`, or accept an existing one; raise PlanError when it holds another plan.

        No paths of this machine are published.
        """
        plan = plan.for_others()
        shard_bytes = plan.stream.layout().shard_bytes
        if shard_bytes > MAX_PUT_BYTES:
            raise PlanError(
                f"{self.label}: shards of {shard_bytes / 2**30:.1f} GiB are too large for one PUT; give fewer --samples-per-shard"
            )
        data = json_bytes(plan.to_json())
        existing = self.store.read(_PLAN, _PLAN_BYTES)
        if existing or not self.store.write_if(_PLAN, data, None):
            existing = existing or self.store.read(_PLAN, _PLAN_BYTES)
            held = existing.data if existing else b""
            # Other settings are replaced, so invalid ones do no harm.
            self._decoded(held, only_part=True).check_same(plan, self.label)
            if held != data:
                self.store.write(_PLAN, data)
        self._plan = plan

    def open(self) -> Self:
        """Read the plan; raise SpoolError when there is no spool, PlanError when the plan is damaged."""
        found = self.store.read(_PLAN, _PLAN_BYTES)
        if found is None:
            raise SpoolError(
                f"{self.label}: no spool there; make one with `darkprep build --camera NAME --spool {self.label}`"
            )
        self._plan = self._decoded(found.data)
        return self

    def _decoded(self, data: bytes, *, only_part: bool = False) -> PlanRecord:
        where, remedy = f"{self.label}/{_PLAN}", "remove the prefix and build it again"
        return PlanRecord.from_json(parse_json_object(data), where, remedy, only_part=only_part)

    # -- shards -----------------------------------------------------------------------------------

    def list_shards(self) -> dict[int, int]:
        """Return the size in bytes of each shard of the plan in the listing, in order; the listing may be out of date."""
        end = self._plan.stream.shards if self._plan else None
        numbers = {
            shard_of_file_name(name): size for name, size in self.store.sizes("ready").items()
        }
        found = {number: size for number, size in numbers.items() if number is not None}
        return {number: found[number] for number in sorted(found) if end is None or number < end}

    def complete_shards(
        self,
        shard_bytes: int,
        on_damaged: Callable[[int, str], None],
        expected: Collection[int] = (),
    ) -> set[int]:
        """Return the shards in the listing and among those `expected` whose objects have the right size.

        A listing may be out of date. So a shard that it shows with a wrong size, and an expected one that it
        does not show, are requested by their names. `on_damaged` is called with each shard whose object has
        a wrong size, and with the reason; of those that are not expected, only with the first 20, as callers
        that delete them ask again.
        """
        complete = set()
        unexpected = 0
        for shard, size in {**dict.fromkeys(expected, -1), **self.list_shards()}.items():
            if size != shard_bytes and shard not in expected:
                unexpected += 1
                if unexpected > _MOST_DAMAGED:
                    continue
            found = size if size == shard_bytes else self.size(shard)
            if found == shard_bytes:
                complete.add(shard)
            elif found is not None:
                on_damaged(shard, wrong_size(found, shard_bytes))
        return complete

    def size(self, shard: int) -> int | None:
        """Request the size in bytes of one shard by its name; None if there is no such shard."""
        return self.store.size(shard_name(shard))

    def upload(self, shard: int, path: Path, *, check: Check | None = None) -> None:
        """Publish a finished shard by one PUT. Raises FileNotFoundError when the file no longer exists."""
        self.store.upload(shard_name(shard), path, check=check)

    def download(self, shard: int, path: Path) -> bool:
        """Download a shard to a new file and verify it; return False if there is no object of at least a shard's size.

        Raises ShardDamaged for a damaged shard, whose file is not deleted.
        """
        layout = self.stream.layout()
        if not self.store.download(shard_name(shard), path, layout.shard_bytes):
            return False
        verify_shard(path, layout, shard, self.digest)
        return True

    def delete(self, shard: int, *, check: Check | None = None) -> None:
        """Delete a shard if it exists."""
        self.store.delete(shard_name(shard), check=check)

    # -- cursor and leases ------------------------------------------------------------------------

    def read_cursor(self) -> Cursor | None:
        """Return the trainer's cursor; None before training, or when the object is damaged.

        Its run directory is left out unless it has the form that `write_cursor` publishes: `status` reads the
        figures there, and another directory may be anywhere.
        """
        found = self.store.read(_CURSOR, CURSOR_BYTES)
        cursor = Cursor.from_json(parse_json_object(found.data)) if found else None
        if cursor and (cursor.run.startswith("/") or ".." in Path(cursor.run).parts):
            return replace(cursor, run="")
        return cursor

    def write_cursor(self, cursor: Cursor, *, check: Check | None = None) -> None:
        """Publish the trainer's cursor, without directories of this machine."""
        cursor = replace(cursor, run=published_path(cursor.run) if cursor.run else "")
        self.store.write(_CURSOR, json_bytes(cursor.to_json()), check=check)

    def producer_lease(self) -> Lease:
        """Return the lease of the producer; one process at a time holds it."""
        return Lease(self.store, _PRODUCER, "a producer")

    def trainer_lease(self) -> Lease:
        """Return the lease of the trainer; one trainer group at a time holds it."""
        return Lease(self.store, _TRAINER, "a trainer")

    def watch_producer(self) -> Watch:
        """Return a Watch of the producer's lease, which shows whether a producer is working."""
        return Watch(self.store, _PRODUCER)

    def watch_trainer(self) -> Watch:
        """Return a Watch of the trainer's lease, which shows whether a trainer is working."""
        return Watch(self.store, _TRAINER)


def wrong_size(found: int, shard_bytes: int) -> str:
    """Return the reason why an object of `found` bytes is damaged."""
    return f"{found} bytes, but shards of the plan have {shard_bytes}"


def shard_name(shard: int) -> str:
    """Return the name of the object of shard number `shard`."""
    return f"ready/{shard_file_name(shard)}"
