"""The spool: the directory in which finished shards wait for the trainer (FORMAT.md).

A spool is not a cache: nothing is deleted to make room for other shards. The producer waits
(pipeline/produce/producer.py), and a shard is deleted when every trainer rank has passed it. The trade-off:
the state is read from the directory each time, which costs a millisecond but stays correct after every
crash.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from darkprep.shards.cursor import CURSOR_BYTES, MAX_RANKS, Cursor
from darkprep.shards.disk_usage import SpoolUsage
from darkprep.shards.errors import OptionError, PlanError, SpoolError
from darkprep.shards.file_names import (
    cursor_file_name,
    rank_of_file_name,
    shard_file_name,
    shard_of_file_name,
    shard_of_partial_file_name,
)
from darkprep.shards.files import (
    disk_errors,
    ensure_directory,
    json_bytes,
    list_directory,
    read_json,
    read_regular_file,
    refuse_broken_link,
    refuse_link,
    remove,
    remove_stale_temporaries,
    write_bytes,
    write_json,
)
from darkprep.shards.heartbeat import HEARTBEAT_BYTES, Heartbeat, ProducerStatus
from darkprep.shards.locks import FileLock, has_shared_holders, is_held, last_holder, shared_lock
from darkprep.shards.order import InterleavedOrder, UseOrder, interleaved_order
from darkprep.shards.plan_record import PlanRecord, ProducerSettings, RecordedPlan
from darkprep.shards.process import ProcessId
from darkprep.shards.quarantine import ShardQuarantine

_LOCK_RESTORED_S = 3.0
"""Seconds within which a producer whose lock file was removed creates it again."""
_POLL_S = 0.05
_MOST_HEARTBEATS = 16
"""Files of heartbeats that are read; one producer at a time works on a spool, and those of a spool of someone else may be many."""


class Spool(RecordedPlan):
    """A spool directory. The constructor does not access the disk; `create` and `open` do."""

    def __init__(self, path: Path | str) -> None:
        super().__init__()
        self.path = Path(path)
        self.frames = self.path / "frames"
        self.partial = self.path / "partial"
        self.ready = self.path / "ready"
        self.damaged = self.path / "damaged"
        self.cursors = self.path / "cursors"
        self.producers = self.path / "producers"
        self.quarantine = ShardQuarantine(self.damaged)
        self._usage = SpoolUsage(self.path, self.frames)

    # -- the plan ---------------------------------------------------------------------------------

    @property
    def plan_file(self) -> Path:
        """Path of `plan.json`."""
        return self.path / "plan.json"

    def create(self, plan: PlanRecord) -> None:
        """Create the directory with its plan, or accept an existing one with the same plan.

        The producer settings of an existing plan.json are replaced. Raises PlanError when the spool holds
        another plan, SpoolError when it cannot be created.
        """
        if self.path.exists() and not self.path.is_dir():
            raise SpoolError(f"{self.path}: is not a directory; choose another spool")
        if self.plan_file.exists():
            # Other settings are replaced, so invalid ones do no harm.
            self._read_plan(only_part=True).check_same(plan, str(self.path))
        with disk_errors(self.plan_file):
            self.path.mkdir(parents=True, exist_ok=True)
        self.restore_directories()
        remove_stale_temporaries(self.path, self.plan_file.name)
        data = json_bytes(plan.to_json())
        if not self.plan_file.exists() or read_regular_file(self.plan_file) != data:
            write_bytes(self.plan_file, data)
        self._plan = plan

    def open(self) -> Self:
        """Read the plan, and create missing directories if the spool is writable.

        Raises PlanError when the plan is missing or damaged, SpoolError when there is no spool.
        """
        for directory in (self.path, *self._directories(), self.frames):
            refuse_broken_link(directory)
        if not self.path.is_dir():
            raise SpoolError(
                f"{self.path}: no spool there; make one with `darkprep build --camera NAME --spool {self.path}`"
            )
        self._plan = self._read_plan()
        # A missing directory does not prevent reading; a process that writes creates it, or raises the error.
        with contextlib.suppress(SpoolError):
            self.restore_directories()
        return self

    def replace_settings(self, settings: ProducerSettings, *, save: bool) -> None:
        """Replace the producers' settings of the plan, in plan.json too if `save`. Raises the errors of `create`."""
        plan = replace(self.plan, settings=settings)
        if save:
            self.create(plan)
        self._plan = plan

    def restore_directories(self) -> None:
        """Create missing directories of the spool: some copy tools drop empty directories.

        Raises SpoolError when a directory cannot be created or is a file, DiskFull when the disk is full.
        """
        for directory in self._directories():
            ensure_directory(directory)

    def _directories(self) -> tuple[Path, ...]:
        return self.partial, self.ready, self.damaged, self.cursors, self.producers

    @property
    def part(self) -> tuple[int, int]:
        """The part `(n, N)`: the spool holds the shards k with k mod N = n; `(0, 1)` for all. Raises the errors of `open`."""
        return self.settings.part, self.settings.parts

    def use_order(
        self, *, seed: int, reuse: int = 1, shards: int | None = None, parts: int = 1
    ) -> UseOrder | InterleavedOrder:
        """Return the order in which a trainer uses the samples.

        `shards` is the number of the first shard that is not used, None for no end. `parts` is for a spool
        with the whole plan: the samples come in the order in which that many nodes, each with a part, would
        use them together. Raises OptionError.
        """
        stream, (part, nodes) = self.stream, self.part
        common: dict[str, Any] = {
            "samples": stream.samples,
            "window": stream.window,
            "seed": seed,
            "reuse": reuse,
            "shards": shards,
        }
        if nodes > 1 and parts not in (1, nodes):
            raise OptionError(
                f"parts must be 1 or {nodes}, not {parts}, because the spool holds part {part}/{nodes} of its plan; leave it out"
            )
        if parts < 1:
            raise OptionError(f"parts must be at least 1, not {parts}")
        if shards is not None and shards < max(nodes, parts):
            raise OptionError(f"parts must be at most the plan's {shards} shards, not {parts}")
        if nodes > 1:
            return UseOrder(**common, part=part, parts=nodes)
        return interleaved_order(**common, parts=parts)

    def _read_plan(self, *, only_part: bool = False) -> PlanRecord:
        remedy = f"remove {self.path} and build it again with `darkprep build`"
        record = read_json(self.plan_file)
        if record is None and not self.plan_file.exists():
            if not self.ready.exists():
                # Anything may be in there, photographs too: never advise to remove it.
                raise PlanError(
                    f"{self.plan_file}: is missing, so {self.path} is not a spool; choose another, or make one with `darkprep build --camera NAME --spool DIR`"
                )
            raise PlanError(f"{self.plan_file}: is missing; {remedy}")
        return PlanRecord.from_json(record, str(self.plan_file), remedy, only_part=only_part)

    # -- shards -----------------------------------------------------------------------------------

    def shard_path(self, shard: int) -> Path:
        """Return the path of a published shard."""
        return self.ready / shard_file_name(shard)

    def ready_shards(self) -> list[int]:
        """Return the numbers of the published shards, ascending."""
        numbers = (shard_of_file_name(entry.name) for entry in list_directory(self.ready))
        return sorted(number for number in numbers if number is not None)

    def shards_in_part(self, start: int, stop: int) -> range:
        """Return the shards from `start` to `stop - 1` that belong to the part of the plan in this spool."""
        part, parts = self.part
        return range(start + (part - start) % parts, stop, parts)

    def delete(self, shard: int) -> bool:
        """Delete a published shard; return whether it existed."""
        return remove(self.shard_path(shard))

    def delete_partial(self, shard: int) -> None:
        """Delete unfinished files of `shard`; only for the one process that writes this shard now."""
        for entry in list_directory(self.partial):
            if shard_of_partial_file_name(entry.name) == shard:
                remove(Path(entry.path))

    def remove_stale_files(self) -> int:
        """Remove the files that dead processes left in `partial/` and `producers/`; return their number.

        Call it only while holding the producer lock, and while `has_writers` is false.
        """
        removed = 0
        for entry in list_directory(self.partial):
            if shard_of_partial_file_name(entry.name) is not None:
                remove(Path(entry.path))
                removed += 1
        return removed + remove_stale_temporaries(self.producers, "*.json")

    # -- cursors ----------------------------------------------------------------------------------

    def write_cursor(self, cursor: Cursor) -> None:
        """Publish the cursor of a rank. Raises DiskFull or SpoolError."""
        write_json(self.cursors / cursor_file_name(cursor.rank), cursor.to_json(), sync=False)

    def read_cursors(self) -> list[Cursor]:
        """Return the cursors of all ranks below MAX_RANKS, by rank; damaged cursors are left out."""
        cursors = [
            Cursor.from_json(read_json(Path(entry.path), CURSOR_BYTES))
            for entry in list_directory(self.cursors)
            if (rank := rank_of_file_name(entry.name)) is not None and rank < MAX_RANKS
        ]
        return sorted((cursor for cursor in cursors if cursor), key=lambda cursor: cursor.rank)

    def oldest_needed(self) -> int:
        """Return the oldest shard that any rank may still need; 0 before training."""
        return min((cursor.shard for cursor in self.read_cursors()), default=0)

    def remove_cursors_from(self, rank: int) -> None:
        """Remove the cursors of `rank` and of all higher ranks, and temporary files of dead ranks."""
        remove_stale_temporaries(self.cursors, "rank-*.json")
        remove_stale_temporaries(self.damaged, self.quarantine.log_path.name)
        for entry in list_directory(self.cursors):
            found = rank_of_file_name(entry.name)
            if found is not None and found >= rank:
                remove(Path(entry.path))

    # -- locks and heartbeats ---------------------------------------------------------------------

    def producer_lock(self) -> FileLock:
        """Return the lock for producing; one process at a time can hold it."""
        self._refuse_links()
        return FileLock(self.producers / "lock", "a producer", directory=self.path)

    def trainer_lock(self) -> FileLock:
        """Return the lock for training; one trainer group at a time can hold it."""
        self._refuse_links()
        return FileLock(self.cursors / "lock", "a trainer", directory=self.path)

    def _refuse_links(self) -> None:
        """Raise SpoolError if a directory of the spool is a link, because producer and trainer write and delete files in it."""
        for directory in (*self._directories(), self.frames):
            refuse_link(directory)

    def has_producer(self) -> bool:
        """Return whether a living process holds the producer lock."""
        return is_held(self.producers / "lock")

    def has_trainer(self) -> bool:
        """Return whether a living process holds the trainer lock."""
        return is_held(self.cursors / "lock")

    def producer_process(self) -> ProcessId | None:
        """Return the process that holds the producer lock; None if there is none or it is not recorded yet."""
        return last_holder(self.producers / "lock") if self.has_producer() else None

    @contextlib.contextmanager
    def writer_lock(self, producer: ProcessId) -> Iterator[None]:
        """Hold the shared lock for writing shards or frames on behalf of the present `producer`.

        Raises SpoolError when another process has acquired the producer lock. A new producer waits until no
        process holds this shared lock, so that it counts every file in its budget.
        """
        lock = self.producers / "lock"
        with shared_lock(self.producers / "workers"):
            deadline = time.monotonic() + _LOCK_RESTORED_S
            # Its directory may have been removed; the producer restores it.
            while not lock.exists() and time.monotonic() < deadline:
                time.sleep(_POLL_S)
            if last_holder(lock) != producer:
                raise SpoolError(
                    f"{self.path}: the producer that requested this shard has ended; nothing was written"
                )
            yield

    def has_writers(self) -> bool:
        """Return whether any process, of this producer or of an earlier one, holds the `writer_lock`."""
        return has_shared_holders(self.producers / "workers")

    def write_heartbeat(self, status: ProducerStatus) -> None:
        """Publish the status of the calling process. Raises DiskFull or SpoolError."""
        heartbeat = Heartbeat(status=status)
        write_json(self.producers / heartbeat.file_name, heartbeat.to_json(), sync=False)

    def heartbeats(self) -> list[Heartbeat]:
        """Return the last heartbeat of each producer, living or dead, oldest first; damaged ones are left out.

        Of more than 16 files the newest are read, those with the name of this host first.
        """
        entries = [one for one in list_directory(self.producers) if one.name.endswith(".json")]
        if len(entries) > _MOST_HEARTBEATS:
            entries = sorted(entries, key=_importance)[-_MOST_HEARTBEATS:]
        found = [
            Heartbeat.from_json(read_json(Path(entry.path), HEARTBEAT_BYTES)) for entry in entries
        ]
        return sorted((beat for beat in found if beat), key=lambda beat: beat.time)

    def remove_dead_heartbeats(self) -> None:
        """Remove the heartbeats of dead producers of this host."""
        for beat in self.heartbeats():
            if beat.process.is_local and not beat.process.is_alive():
                remove(self.producers / beat.file_name)

    def disk_bytes(self) -> int:
        """Return the bytes that the spool occupies on the disk now, as `du` counts them."""
        return self._usage.bytes()


def _importance(entry: os.DirEntry[str]) -> tuple[bool, bool, float]:
    """Return the key by which the files of heartbeats are sorted, the most important one last.

    Records of workers, which have other names, come first.
    """
    try:
        changed = entry.stat(follow_symlinks=False).st_mtime
    except OSError:  # it was removed
        changed = 0.0
    is_of_worker = entry.name.startswith("decoding-")
    return entry.name.startswith(f"{socket.gethostname()}-"), not is_of_worker, changed
