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

from darkprep.shards.cursor import CURSOR_BYTES, Cursor
from darkprep.shards.errors import PlanError, SpoolError
from darkprep.shards.file_names import cursor_file_name, shard_file_name, shard_of_file_name
from darkprep.shards.files import json_bytes, parse_json_object
from darkprep.shards.plan_record import PlanRecord, ProducerSettings, StreamSpec
from darkprep.shards.remote.lease import Lease, Watch
from darkprep.shards.remote.object_store import (
    MOST_PUT_BYTES,
    Check,
    ObjectStore,
    StoreUrl,
    open_store,
)

_PLAN = "plan.json"
_PLAN_BYTES = 64 << 20
_CURSOR = f"cursors/{cursor_file_name(0)}"
_PRODUCER, _TRAINER = "producers/lease.json", "cursors/lease.json"


class Bucket:
    """One spool in object storage. All methods raise SpoolError when the store does not do its part.

    A `check` is the lease's of the role in which something is changed, as in objects.py.
    """

    def __init__(self, store: ObjectStore, label: str) -> None:
        self.store = store
        self.label = label
        """How people are told of it."""
        self._plan: PlanRecord | None = None

    @classmethod
    def at(cls, url: StoreUrl, *, stop: threading.Event | None = None) -> Bucket:
        """The spool at `url`, reached once; raises OptionError as open_store."""
        return cls(open_store(url, stop=stop), str(url))

    def __str__(self) -> str:
        return self.label

    # -- the plan ---------------------------------------------------------------------------------

    def publish(self, plan: PlanRecord) -> None:
        """Make it the spool of `plan`, or accept one that is it already; raises PlanError for another plan."""
        shard_bytes = plan.stream.layout().shard_bytes
        if shard_bytes > MOST_PUT_BYTES:
            raise PlanError(
                f"{self.label}: shards of {shard_bytes / 2**30:.1f} GiB cannot be put in one piece; give fewer --samples-per-shard"
            )
        data = json_bytes(plan.to_json())
        existing = self.store.read(_PLAN, _PLAN_BYTES)
        if existing is None and not self.store.create(_PLAN, data):
            existing = self.store.read(_PLAN, _PLAN_BYTES)
        if existing is not None:
            # Other settings are replaced, so invalid ones do no harm.
            self._decoded(existing, only_part=True).check_same(plan, self.label)
            if existing != data:
                self.store.write(_PLAN, data)
        self._plan = plan

    def open(self) -> Bucket:
        """Read the plan; raises SpoolError when there is none, PlanError when it is damaged."""
        data = self.store.read(_PLAN, _PLAN_BYTES)
        if data is None:
            raise SpoolError(
                f"{self.label}: no spool there; make one with `darkprep build --camera NAME --spool {self.label}`"
            )
        self._plan = self._decoded(data)
        return self

    @property
    def plan(self) -> PlanRecord:
        """What plan.json holds, read once; raises as `open`."""
        if self._plan is None:
            self.open()
        assert self._plan is not None
        return self._plan

    @property
    def stream(self) -> StreamSpec:
        """The shape of the stream; raises as `open`."""
        return self.plan.stream

    @property
    def settings(self) -> ProducerSettings:
        """How producers work here by default, and the budget; raises as `open`."""
        return self.plan.settings

    @property
    def digest(self) -> str:
        """Sixteen hex digits that identify the plan; raises as `open`."""
        return self.plan.digest

    def _decoded(self, data: bytes, *, only_part: bool = False) -> PlanRecord:
        where, remedy = f"{self.label}/{_PLAN}", "remove the prefix and build it again"
        return PlanRecord.from_json(parse_json_object(data), where, remedy, only_part=only_part)

    # -- shards -----------------------------------------------------------------------------------

    def listed(self) -> dict[int, int]:
        """The shards that the store lists, with their bytes; a listing may be late."""
        sizes = self.store.sizes("ready")
        numbers = {shard_of_file_name(name): size for name, size in sizes.items()}
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
        """Return the trainer's cursor; None before training, and when the object is damaged."""
        data = self.store.read(_CURSOR, CURSOR_BYTES)
        return Cursor.from_json(parse_json_object(data)) if data else None

    def write_cursor(self, cursor: Cursor, *, check: Check | None = None) -> None:
        """Publish the trainer's cursor."""
        data = json.dumps(cursor.to_json(), allow_nan=False).encode()
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
    return f"ready/{shard_file_name(shard)}"
