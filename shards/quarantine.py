"""Quarantine of damaged shards: they are moved to `damaged/`, which readers ignore, and recorded in refused.jsonl.

The trade-off: only the newest few are kept for inspection, because they use part of the disk budget; their
records stay longer, up to a fixed size of the file.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from darkprep.shards.errors import DiskFull, SpoolError
from darkprep.shards.file_names import shard_file_name, shard_of_file_name
from darkprep.shards.files import (
    NO_SPACE,
    disk_errors,
    ensure_directory,
    json_objects,
    list_directory,
    open_for_writing,
    read_last_lines,
    read_regular_file,
    remove,
    rename,
    write_bytes,
)

log = logging.getLogger(__name__)

KEPT_SHARDS = 2
"""Number of quarantined shards that are kept for inspection."""
LOG_BYTES = 256 << 10
"""Size at which the older half of refused.jsonl is removed, because the disk budget needs an upper bound."""


@dataclass(frozen=True, kw_only=True)
class QuarantineRecord:
    """One line of refused.jsonl."""

    shard: int
    reason: str
    time: float
    """Seconds since the epoch."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> QuarantineRecord | None:
        """Create a record from a JSON object, ignoring unknown keys; None when a field is missing or invalid."""
        shard, reason, when = (record.get(name) for name in ("shard", "reason", "time"))
        if type(shard) is not int or not isinstance(reason, str):
            return None
        if not isinstance(when, int | float) or isinstance(when, bool):
            return None
        return cls(shard=shard, reason=reason, time=when)


class ShardQuarantine:
    """The directory `damaged/` of one spool."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log_path = path / "refused.jsonl"

    def add(
        self, path: Path, shard: int, reason: str, *, seen: os.stat_result | None = None
    ) -> None:
        """Move the damaged file at `path` (a published or unfinished `shard`) to the quarantine and record the reason.

        `seen` is the status (`os.stat`) of the file that was found damaged. If `path` is now another file,
        because another rank quarantined the damaged one and the producer rebuilt the shard, that file
        stays. Only the newest quarantined files are kept. Raises SpoolError or DiskFull when the file
        cannot be moved.
        """
        kept = self.path / shard_file_name(shard)
        try:
            ensure_directory(self.path)
            if seen and not _is_same_file(path.lstat(), seen):
                return
            rename(path, kept)
        except FileNotFoundError:
            return
        except OSError as error:
            kind = DiskFull if error.errno in NO_SPACE else SpoolError
            raise kind(
                f"{path}: is damaged and cannot be moved to {self.path} ({error.strerror}); remove it by hand"
            ) from error
        # A producer that needs room may have deleted it meanwhile.
        with contextlib.suppress(OSError):
            os.utime(kept, follow_symlinks=False)
        try:
            self._append(QuarantineRecord(shard=shard, reason=reason, time=round(time.time(), 3)))
        except (SpoolError, OSError) as error:
            log.warning(
                "shard %d was quarantined, but the reason could not be saved: %s", shard, error
            )
        with contextlib.suppress(OSError):
            self.trim(KEPT_SHARDS)

    def trim(self, keep: int) -> None:
        """Delete all quarantined shards but the newest `keep`; their records in refused.jsonl stay."""
        for entry in sorted(self._shards(), key=_modified, reverse=True)[keep:]:
            with contextlib.suppress(OSError):
                remove(Path(entry.path))

    def count(self) -> int:
        """Return how many quarantined shards occupy the disk."""
        return len(self._shards())

    def records(self) -> list[QuarantineRecord]:
        """Return the records of quarantined shards, oldest first; damaged records are left out."""
        try:
            text = read_regular_file(self.log_path, 2 * LOG_BYTES).decode(errors="replace")
        except OSError:
            return []
        records = map(QuarantineRecord.from_json, json_objects(text.splitlines()))
        return [record for record in records if record]

    def _shards(self) -> list[os.DirEntry[str]]:
        return [
            entry
            for entry in list_directory(self.path)
            if shard_of_file_name(entry.name) is not None
        ]

    def _append(self, record: QuarantineRecord) -> None:
        with disk_errors(self.log_path):
            with open(self.log_path, "a", opener=open_for_writing) as file:
                file.write(json.dumps(record.to_json()) + "\n")
                is_long = file.tell() > LOG_BYTES
            if is_long:
                lines = read_last_lines(self.log_path, LOG_BYTES)
                kept = b"".join(line + b"\n" for line in lines[len(lines) // 2 :])
                write_bytes(self.log_path, kept, sync=False)


def _is_same_file(now: os.stat_result, seen: os.stat_result) -> bool:
    """Return whether two `os.stat` results are of one file; the time distinguishes a new file with a reused inode."""
    return (now.st_dev, now.st_ino, now.st_mtime_ns) == (seen.st_dev, seen.st_ino, seen.st_mtime_ns)


def _modified(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return 0.0
