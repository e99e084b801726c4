"""Heartbeats: what a producer, or a downloader in its stead, publishes of its work about once a second.

The trade-off: heartbeats are for display and for finding the process only. Whether a producer is alive
is decided by its lock (shards/locks.py), so a damaged or stale heartbeat can be ignored.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from darkprep.shards.process import ProcessId

HEARTBEAT_BYTES = 64 << 10
"""Upper bound of a heartbeat file; larger files are not read to their end."""

_MAX_NUMBER = 1e18
"""Upper bound of all numbers, bytes and times included."""


@dataclass(frozen=True, kw_only=True)
class ProducerStatus:
    """The state of a producer or downloader. None means that the number does not apply to it."""

    state: str
    """Such as `making`, `waiting for the trainer`, `done`, `failed`."""
    shards_made: int | None = None
    """Shards that were made, or fetched from object storage."""
    shards_ready: int | None = None
    next_needed: int | None = None
    """The oldest shard that the trainer still needs."""
    until: int | None = None
    """The shard to end before; None for no end."""
    shard_bytes: int | None = None
    disk_bytes: int | None = None
    """What the whole spool occupies."""
    budget_bytes: int | None = None
    frames_decoded: int | None = None
    frames_kept: int | None = None
    """Frames for which the budget has room."""
    frames_wanted: int | None = None
    running_s: float | None = None
    blocked_s: float | None = None
    """Worker time lost while the budget was full."""
    mb_per_s: float | None = None
    """Shard megabytes per second since the start."""
    skipped: int | None = None
    """Files that cannot be used."""
    deaths: int | None = None
    """How often workers died and were replaced."""
    damaged: int | None = None
    """Damaged objects that a downloader met."""
    deleted: int | None = None
    """Objects that a downloader deleted after use."""
    directory_bytes: int | None = None
    """What the producer's own directory occupies, when the shards are in object storage."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object, without numbers that do not apply; `until` is always in it."""
        return {
            name: value
            for name, value in asdict(self).items()
            if value is not None or name == "until"
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> ProducerStatus | None:
        """Decode the JSON object, ignoring unknown keys; return None when a field is invalid."""
        state = record.get("state")
        if not isinstance(state, str):
            return None
        numbers: dict[str, Any] = {}
        for name in _NUMBERS & record.keys():
            number = record[name]
            if number is None and name == "until":
                continue
            if not _is_number(number):
                return None
            numbers[name] = number
        return cls(state=state, **numbers)

    @property
    def is_working(self) -> bool:
        """Whether the work goes on, at this moment or after a wait."""
        return self.state == "making" or self.state.startswith("waiting")


_NUMBERS = {entry.name for entry in fields(ProducerStatus)} - {"state"}


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """One file of `producers/`: a status, the process that published it, and when."""

    status: ProducerStatus
    process: ProcessId = field(default_factory=lambda: ProcessId.own())
    time: float = field(default_factory=lambda: round(time.time(), 3))
    """Seconds since the epoch."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object: all fields on one level."""
        return self.status.to_json() | asdict(self.process) | {"time": self.time}

    @classmethod
    def from_json(cls, record: dict[str, Any] | None) -> Heartbeat | None:
        """Decode the JSON object, ignoring unknown keys; return None when a field is missing or invalid."""
        if record is None or not _is_number(record.get("time")):
            return None
        status, process = ProducerStatus.from_json(record), ProcessId.from_json(record)
        if status is None or process is None:
            return None
        return cls(status=status, process=process, time=record["time"])

    @property
    def file_name(self) -> str:
        """The file name in `producers/`."""
        return f"{self.process.host}-{self.process.pid}.json"


def _is_number(value: object) -> bool:
    """Whether a value is a finite number of usual size; NaN and booleans are not."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MAX_NUMBER
    )
