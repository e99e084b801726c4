"""A spool in object storage: plan, shards that are ready, the trainer's cursor, and who holds which role.

    PREFIX/plan.json            as in a directory (FORMAT.md)
    PREFIX/ready/00000042.tar   published by one PUT
    PREFIX/cursors/rank-0.json  where the trainer is
    PREFIX/cursors/lease.json   the trainer's role, PREFIX/producers/lease.json the producer's

The trade-off: a bucket is a meeting place only. Shards are made in a directory and carried here (outbox.py),
and are carried to a directory before they are read (inbox.py): so all that makes and reads shards stays
what it is. Nothing here trusts a name or a size that it finds: what is not of the form above is left alone.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from darkprep.shards.errors import PlanError, SpoolError
from darkprep.shards.plan_record import (
    StreamSpec,
    check_same_plan,
    checked_plan,
    part_of,
    stream_of,
)
from darkprep.shards.remote.lease import Lease, Watch
from darkprep.shards.remote.object_store import (
    MOST_PUT_BYTES,
    Check,
    ObjectStore,
    StoreUrl,
    open_store,
)
from darkprep.shards.spool import (
    STATE_BYTES,
    Cursor,
    cursor_name,
    cursor_of,
    cursor_record,
    shard_number,
)
from darkprep.shards.spool import shard_name as file_name

_PLAN = "plan.json"
_PLAN_BYTES = 64 << 20
_CURSOR = f"cursors/{cursor_name(0)}"
_PRODUCER, _TRAINER = "producers/lease.json", "cursors/lease.json"


class Bucket:
    """One spool in object storage. All methods raise SpoolError when the store does not do its part.

    A `check` is the lease's of the role in which something is changed, as in objects.py.
    """

    def __init__(self, store: ObjectStore, label: str) -> None:
        self.store = store
        self.label = label
        """How people are told of it."""
        self._record: dict[str, Any] | None = None

    @classmethod
    def at(cls, url: StoreUrl, *, stop: threading.Event | None = None) -> Bucket:
        """The spool at `url`, reached once; raises OptionError as open_store."""
        return cls(open_store(url, stop=stop), str(url))

    def __str__(self) -> str:
        return self.label

    # -- the plan ---------------------------------------------------------------------------------

    def publish(self, record: dict[str, Any]) -> None:
        """Make it the spool of a plan, or accept one that is it already; raises PlanError for another plan."""
        stream = stream_of(record, self.label)
        if stream.layout().shard_bytes > MOST_PUT_BYTES:
            raise PlanError(
                f"{self.label}: shards of {stream.layout().shard_bytes / 2**30:.1f} GiB cannot be put in one piece; give fewer --samples-per-shard"
            )
        data = (json.dumps(record, indent=1, allow_nan=False) + "\n").encode()
        existing = self._read_plan()
        if existing is None and not self.store.create(_PLAN, data):
            existing = self._read_plan()
        if existing is not None:
            check_same_plan(existing, record, self.label)
            if existing["place"] != record["place"]:
                self.store.write(_PLAN, data)
        self._record = record

    def open(self) -> Bucket:
        """Read the plan; raises SpoolError when there is none, PlanError when it is damaged."""
        self._record = self._read_plan()
        if self._record is None:
            raise SpoolError(
                f"{self.label}: no spool there; make one with `darkprep build --camera NAME --spool {self.label}`"
            )
        return self

    @property
    def record(self) -> dict[str, Any]:
        """The plan's record; raises as `open`."""
        if self._record is None:
            self.open()
        assert self._record is not None
        return self._record

    @property
    def stream(self) -> StreamSpec:
        """The shape of the stream; raises as `open`."""
        return stream_of(self.record, self.label)

    @property
    def digest(self) -> str:
        """What stands for the plan; raises as `open`."""
        return str(self.record["digest"])

    @property
    def place(self) -> dict[str, Any]:
        """Where the photographs lie and what the budget is; raises as `open`."""
        place: dict[str, Any] = self.record["place"]
        return place

    @property
    def part(self) -> tuple[int, int]:
        """What part of its plan is here; raises as `open`."""
        return part_of(self.place)

    def _read_plan(self) -> dict[str, Any] | None:
        data = self.store.read(_PLAN, _PLAN_BYTES)
        if data is None:
            return None
        where, remedy = f"{self.label}/{_PLAN}", "remove the prefix and build it anew"
        try:
            record = json.loads(data)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise PlanError(f"{where}: is damaged (no JSON object); {remedy}")
        return checked_plan(record, where, remedy)

    # -- shards -----------------------------------------------------------------------------------

    def listed(self) -> dict[int, int]:
        """The shards that the store lists, with their bytes; a listing may be late."""
        sizes = self.store.sizes("ready")
        numbers = {shard_number(name): size for name, size in sizes.items()}
        return {number: size for number, size in numbers.items() if number is not None}

    def size(self, shard: int) -> int | None:
        """Bytes of a shard, asked for by its name; None where there is none."""
        return self.store.size(shard_name(shard))

    def put(self, shard: int, path: Path, *, check: Check | None = None) -> None:
        """Publish a finished shard, in one PUT. Raises FileNotFoundError when the file is gone."""
        self.store.upload(shard_name(shard), path, check=check)

    def fetch(self, shard: int, path: Path) -> bool:
        """Write a shard to a new file of a shard's size; whether there was one of at least that size."""
        return self.store.download(shard_name(shard), path, self.stream.layout().shard_bytes)

    def drop(self, shard: int, *, check: Check | None = None) -> None:
        """Delete a shard, if it is there."""
        self.store.delete(shard_name(shard), check=check)

    # -- cursor and roles -------------------------------------------------------------------------

    def cursor(self) -> Cursor | None:
        """Where the trainer is; None before training, and when the object makes no sense."""
        data = self.store.read(_CURSOR, STATE_BYTES)
        try:
            record = json.loads(data or b"null")
        except (ValueError, RecursionError):
            return None
        return cursor_of(record) if isinstance(record, dict) else None

    def write_cursor(self, cursor: Cursor, *, check: Check | None = None) -> None:
        """Say where the trainer is."""
        data = json.dumps(cursor_record(cursor), allow_nan=False).encode()
        self.store.write(_CURSOR, data, check=check)

    def producer_lease(self) -> Lease:
        """The role of making shards for this spool; one process at a time."""
        return Lease(self.store, _PRODUCER, "a producer")

    def trainer_lease(self) -> Lease:
        """The role of using its shards; one trainer group at a time."""
        return Lease(self.store, _TRAINER, "a trainer")

    def watch_producer(self) -> Watch:
        """To see whether somebody makes shards."""
        return Watch(self.store, _PRODUCER)

    def watch_trainer(self) -> Watch:
        """To see whether somebody uses shards."""
        return Watch(self.store, _TRAINER)


def shard_name(shard: int) -> str:
    """The object of shard number `shard`."""
    return f"ready/{file_name(shard)}"
