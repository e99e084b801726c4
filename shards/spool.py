"""The directory where shards wait: who may be there, what is there, what it weighs on the disk.

A spool is not a cache: nothing here is evicted to make room, the producer waits (pipeline/produce/producer.py)
and a shard goes when every trainer rank has passed it. The trade-off: state is what the directory
shows, listed anew each time; that costs a millisecond and survives every crash.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from darkprep.shards.cursor import CURSOR_BYTES, Cursor, cursor_file_name, rank_of_file_name
from darkprep.shards.errors import DiskFull, OptionError, PlanError, SpoolError
from darkprep.shards.files import (
    disk_errors,
    json_bytes,
    json_objects,
    open_regular_file,
    read_json,
    read_regular_file,
    remove_stale_temporaries,
    write_bytes,
    write_json,
)
from darkprep.shards.heartbeat import HEARTBEAT_BYTES, Heartbeat, ProducerStatus
from darkprep.shards.locks import FileLock, has_shared_holders, is_held, last_holder, shared_lock
from darkprep.shards.order import DealtOrder, UseOrder, dealt_order
from darkprep.shards.plan_record import PlanRecord, ProducerSettings, StreamSpec
from darkprep.shards.process import ProcessId

log = logging.getLogger(__name__)

DAMAGED_KEPT = 2
"""Refused shards that stay for inspection; older ones are dropped."""

_REFUSALS_BYTES = 256 << 10
"""Length at which the older half of refused.jsonl is dropped: the budget counts on an end to it."""
_SHARD_NAME = re.compile(r"(\d{8,12})\.tar")
_PARTIAL_NAME = re.compile(r"\d{8,12}\.\d+\.tar")


class Spool:
    """One spool directory. Construction touches nothing; `create` and `open` do."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.frames = self.path / "frames"
        self.partial = self.path / "partial"
        self.ready = self.path / "ready"
        self.damaged = self.path / "damaged"
        self.cursors = self.path / "cursors"
        self.producers = self.path / "producers"
        self._plan: PlanRecord | None = None
        self._frame_bytes: dict[tuple[str, int], int] = {}
        """What each stored frame weighs, by name and inode."""

    # -- the plan ---------------------------------------------------------------------------------

    @property
    def plan_file(self) -> Path:
        """`plan.json`."""
        return self.path / "plan.json"

    def create(self, plan: PlanRecord) -> None:
        """Make the directory with its plan, or accept one that holds the same plan.

        The settings of an existing plan.json are replaced. Raises PlanError when the spool holds another
        plan, SpoolError when it cannot be created.
        """
        if self.path.exists() and not self.path.is_dir():
            raise SpoolError(f"{self.path}: is not a directory; choose another spool")
        if self.plan_file.exists():
            # Other settings are replaced, so invalid ones do no harm.
            self._read_plan(only_part=True).check_same(plan, str(self.path))
        with disk_errors(self.plan_file):
            for folder in (self.partial, self.ready, self.damaged, self.cursors, self.producers):
                folder.mkdir(parents=True, exist_ok=True)
        remove_stale_temporaries(self.path)
        data = json_bytes(plan.to_json())
        if not self.plan_file.exists() or read_regular_file(self.plan_file) != data:
            write_bytes(self.plan_file, data)
        self._plan = plan

    def open(self) -> Spool:
        """Read the plan; raise PlanError when it is missing or damaged, SpoolError without a directory."""
        if not self.path.is_dir():
            raise SpoolError(
                f"{self.path}: no spool there; make one with `darkprep build --camera NAME --spool {self.path}`"
            )
        self._plan = self._read_plan()
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
        """How producers work here by default; raises as `open`."""
        return self.plan.settings

    @property
    def digest(self) -> str:
        """Sixteen hex digits that identify the plan; each sample carries them. Raises as `open`."""
        return self.plan.digest

    @property
    def part(self) -> tuple[int, int]:
        """`(n, N)`: the spool holds the shards k = n mod N of its plan; `(0, 1)` for all. Raises as `open`."""
        return self.settings.part, self.settings.parts

    def shards_in_part(self, start: int, stop: int) -> range:
        """The shards from `start` to `stop - 1` that belong to the spool's part."""
        part, parts = self.part
        return range(start + (part - start) % parts, stop, parts)

    def use_order(
        self, *, seed: int, reuse: int = 1, shards: int | None = None, parts: int = 1
    ) -> UseOrder | DealtOrder:
        """In which order a trainer uses what is here; `parts` deals a whole spool as so many nodes would.

        `shards` is where the plan ends for it, None for no end. Raises OptionError.
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
            raise OptionError(f"parts must be {nodes}, for the spool is part {part}/{nodes}")
        if parts < 1:
            raise OptionError(f"parts must be at least 1, not {parts}")
        if shards is not None and shards < max(nodes, parts):
            raise OptionError(f"parts must be at most the plan's {shards} shards, not {parts}")
        if nodes > 1:
            return UseOrder(**common, part=part, parts=nodes)
        return dealt_order(**common, parts=parts)

    def _read_plan(self, *, only_part: bool = False) -> PlanRecord:
        remedy = f"remove {self.path} and build it again with `darkprep build`"
        record = read_json(self.plan_file)
        if record is None and not self.plan_file.exists():
            if not self.ready.exists():
                # Anything may be in there, photographs too: never advise to remove it.
                raise PlanError(
                    f"{self.plan_file}: is missing; {self.path} is not a spool, name another or make one with `darkprep build --camera NAME --spool DIR`"
                )
            raise PlanError(f"{self.plan_file}: is missing; {remedy}")
        return PlanRecord.from_json(record, str(self.plan_file), remedy, only_part=only_part)

    # -- shards -----------------------------------------------------------------------------------

    def shard_path(self, shard: int) -> Path:
        """Where shard number `shard` stands once published."""
        return self.ready / shard_name(shard)

    def ready_shards(self) -> list[int]:
        """The published shards, ascending."""
        return sorted(
            number
            for entry in _entries(self.ready)
            if (number := shard_number(entry.name)) is not None
        )

    def delete(self, shard: int) -> bool:
        """Delete a published shard; whether there was one."""
        try:
            self.shard_path(shard).unlink()
        except FileNotFoundError:
            return False
        return True

    def quarantine(self, shard: int, reason: str, seen: os.stat_result | None = None) -> None:
        """Move a damaged shard out of the readers' way and write down why; old refusals are dropped.

        `seen` is the status of the file that was found damaged: another one that took its name since,
        because another rank refused it first and it was made again, stays. Raises SpoolError when the
        shard cannot be moved.
        """
        path, kept = self.shard_path(shard), self.damaged / shard_name(shard)
        try:
            if seen and not _is_same(path.lstat(), seen):
                return
            path.replace(kept)
        except FileNotFoundError:
            return
        except OSError as error:
            raise SpoolError(
                f"{path}: is damaged and cannot be set aside ({error.strerror}); remove it by hand"
            ) from error
        self._refused(kept, shard, reason)

    def quarantine_partial(self, path: Path, shard: int, reason: str) -> None:
        """Keep a file of `partial/` that was to become `shard` among the damaged ones, and write down why."""
        kept = self.damaged / shard_name(shard)
        with disk_errors(kept):
            path.replace(kept)
        self._refused(kept, shard, reason)

    def _refused(self, kept: Path, shard: int, reason: str) -> None:
        # A producer in want of room may have dropped it meanwhile.
        with contextlib.suppress(FileNotFoundError):
            os.utime(kept, follow_symlinks=False)
        try:
            self._write_refusal(shard, reason)
        except (DiskFull, OSError) as error:
            log.warning("the refusal of shard %d is not written down: %s", shard, error)
        self.trim_quarantine(DAMAGED_KEPT)

    def _write_refusal(self, shard: int, reason: str) -> None:
        path = self.damaged / "refused.jsonl"
        record = {"shard": shard, "reason": reason, "time": round(time.time(), 3)}
        with disk_errors(path):
            with open(path, "a", opener=open_regular_file) as file:
                file.write(json.dumps(record) + "\n")
                long = file.tell() > _REFUSALS_BYTES
            if long:
                lines = path.read_bytes().splitlines(keepends=True)
                write_bytes(path, b"".join(lines[len(lines) // 2 :]), sync=False)

    def trim_quarantine(self, keep: int) -> None:
        """Keep only the newest `keep` refused shards; their lines in refused.jsonl stay."""
        shards = [entry for entry in _entries(self.damaged) if shard_number(entry.name) is not None]
        for entry in sorted(shards, key=_modified, reverse=True)[keep:]:
            with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                Path(entry.path).unlink()

    def quarantined_count(self) -> int:
        """How many refused shards still occupy the disk."""
        return sum(shard_number(entry.name) is not None for entry in _entries(self.damaged))

    def quarantine_log(self) -> list[dict[str, Any]]:
        """What was refused, oldest first: shard, reason, time."""
        try:
            text = read_regular_file(self.damaged / "refused.jsonl").decode(errors="replace")
        except OSError:
            return []
        return [record for record in json_objects(text.splitlines()) if record]

    def delete_partial(self, shard: int) -> None:
        """Remove what earlier writers of `shard` left half-written: for its one writer of now."""
        for path in self.partial.glob(f"{shard:08d}.*.tar"):
            path.unlink(missing_ok=True)

    def remove_stale_files(self) -> int:
        """Remove what dead writers left in `partial/` and `producers/`; return how many files.

        Only for the holder of the producer lock, and only while `has_writers` is false.
        """
        swept = 0
        for entry in _entries(self.partial):
            if _PARTIAL_NAME.fullmatch(entry.name):
                Path(entry.path).unlink(missing_ok=True)
                swept += 1
        return swept + remove_stale_temporaries(self.producers)

    # -- cursors ----------------------------------------------------------------------------------

    def write_cursor(self, cursor: Cursor) -> None:
        """Publish the cursor of a rank; raises DiskFull or SpoolError."""
        write_json(self.cursors / cursor_file_name(cursor.rank), cursor.to_json(), sync=False)

    def read_cursors(self) -> list[Cursor]:
        """Return the cursors of all ranks, by rank; a damaged one counts as absent."""
        cursors = [
            Cursor.from_json(read_json(Path(entry.path), CURSOR_BYTES))
            for entry in _entries(self.cursors)
            if rank_of_file_name(entry.name) is not None
        ]
        return sorted((cursor for cursor in cursors if cursor), key=lambda cursor: cursor.rank)

    def oldest_needed(self) -> int:
        """The oldest shard that any rank can still ask for; 0 before training."""
        return min((cursor.shard for cursor in self.read_cursors()), default=0)

    def remove_cursors_from(self, world: int) -> None:
        """Remove the cursors of ranks that a group of `world` ranks does not have, and what dead ranks left."""
        remove_stale_temporaries(self.cursors)
        remove_stale_temporaries(self.damaged)
        for entry in _entries(self.cursors):
            rank = rank_of_file_name(entry.name)
            if rank is not None and rank >= world:
                Path(entry.path).unlink(missing_ok=True)

    # -- roles and heartbeats ---------------------------------------------------------------------

    def producer_lock(self) -> FileLock:
        """The lock of the one process that may produce shards here."""
        return FileLock(self.producers / "lock", "a producer", directory=self.path)

    def trainer_lock(self) -> FileLock:
        """The lock of the one trainer group that may use shards here."""
        return FileLock(self.cursors / "lock", "a trainer", directory=self.path)

    def has_producer(self) -> bool:
        """Whether a living process makes shards here."""
        return is_held(self.producers / "lock")

    def has_trainer(self) -> bool:
        """Whether a living trainer uses this spool."""
        return is_held(self.cursors / "lock")

    def producer_process(self) -> ProcessId | None:
        """Return the process that produces shards here now; None for none or while it is still unknown."""
        return last_holder(self.producers / "lock") if self.has_producer() else None

    @contextlib.contextmanager
    def writer_lock(self, producer: ProcessId) -> Iterator[None]:
        """Hold the shared lock for writing shards or frames on behalf of the present `producer`.

        Raises SpoolError when another process acquired the producer lock since. The new producer waits
        until nobody holds this lock any more, so every file that is written here is in its budget.
        """
        with shared_lock(self.producers / "workers"):
            if last_holder(self.producers / "lock") != producer:
                raise SpoolError(
                    f"{self.path}: the producer that ordered this shard has ended; nothing was written"
                )
            yield

    def has_writers(self) -> bool:
        """Return whether any process, of this producer or of a dead one, holds a `writer_lock`."""
        return has_shared_holders(self.producers / "workers")

    def write_heartbeat(self, status: ProducerStatus) -> None:
        """Publish the status of the calling process; raises DiskFull or SpoolError."""
        heartbeat = Heartbeat(status=status)
        write_json(self.producers / heartbeat.file_name, heartbeat.to_json(), sync=False)

    def heartbeats(self) -> list[Heartbeat]:
        """Return the last heartbeats of all producers, dead ones too, oldest first; damaged ones are left out."""
        found = [
            Heartbeat.from_json(read_json(Path(entry.path), HEARTBEAT_BYTES))
            for entry in _entries(self.producers)
            if entry.name.endswith(".json")
        ]
        return sorted((beat for beat in found if beat), key=lambda beat: beat.time)

    def remove_dead_heartbeats(self) -> None:
        """Remove the heartbeats of dead producers of this host."""
        for beat in self.heartbeats():
            if beat.process.is_local and not beat.process.is_alive():
                (self.producers / beat.file_name).unlink(missing_ok=True)

    # -- weight -----------------------------------------------------------------------------------

    def disk_bytes(self) -> int:
        """What the spool occupies now, as `du` counts it: allocated blocks of all files and folders.

        A stored frame never changes, so each is weighed once: there may be thousands, and this is asked
        every second beside a training.
        """
        if self.frames.is_symlink():
            return allocated_bytes(self.path)
        before, weighed, fresh = self._frame_bytes, {}, 0
        for entry in _entries(self.frames):
            if entry.name.startswith("."):
                fresh += _entry_bytes(entry)
            else:
                key = entry.name, entry.inode()
                weighed[key] = before[key] if key in before else _entry_bytes(entry)
        self._frame_bytes = weighed
        rest = (_entry_bytes(entry) for entry in _entries(self.path) if entry.name != "frames")
        return sum(rest, fresh + sum(weighed.values()) + _bytes(self.path) + _bytes(self.frames))


def shard_name(shard: int) -> str:
    """The name under which shard number `shard` is published."""
    return f"{shard:08d}.tar"


def shard_number(name: str) -> int | None:
    """Which shard a name stands for; None for names that are not ours."""
    match = _SHARD_NAME.fullmatch(name)
    # One name per shard: not 0000000042.tar, nor digits of another script.
    return int(match[1]) if match and shard_name(int(match[1])) == name else None


def allocated_bytes(folder: Path) -> int:
    """Allocated bytes of a folder and all in it, links not followed; what vanishes meanwhile is left out."""
    return sum(map(_entry_bytes, _entries(folder)), _bytes(folder))


def _entry_bytes(entry: os.DirEntry[str]) -> int:
    if entry.is_dir(follow_symlinks=False):
        return allocated_bytes(Path(entry.path))
    return _bytes(entry)


def _bytes(path: os.PathLike[str]) -> int:
    try:
        return os.lstat(path).st_blocks * 512
    except FileNotFoundError:
        return 0


def _is_same(now: os.stat_result, seen: os.stat_result) -> bool:
    """Whether two looks at a name met one file; the time tells an inode that was used again."""
    return (now.st_dev, now.st_ino, now.st_mtime_ns) == (seen.st_dev, seen.st_ino, seen.st_mtime_ns)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _modified(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return 0.0
