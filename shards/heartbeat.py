"""Heartbeats: the state that a producer or a downloader publishes about once a second.

The trade-off: heartbeats are only displayed, and used to find the process. Whether a producer is alive is
decided by its lock (shards/locks.py), so a damaged or old heartbeat can be ignored.
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
_LONGEST_STATE = 200
"""Characters of a state at most; status prints it on one line."""


@dataclass(frozen=True, kw_only=True)
class ProducerStatus:
    """The state of a producer or downloader. A number that does not apply to it is None."""

    state: str
    """Such as `making`, `waiting for the trainer`, `done`, `failed`."""
    shards_made: int | None = None
    """Number of shards that were made, or downloaded from object storage."""
    shards_ready: int | None = None
    next_needed: int | None = None
    """The oldest shard that the trainer still needs."""
    until: int | None = None
    """Number of the first shard that is not made; None for no end."""
    shard_bytes: int | None = None
    disk_bytes: int | None = None
    """Bytes that the whole spool occupies on the disk."""
    budget_bytes: int | None = None
    frames_decoded: int | None = None
    frames_kept: int | None = None
    """Number of frames for which the budget has room."""
    frames_wanted: int | None = None
    running_s: float | None = None
    blocked_s: float | None = None
    """Seconds that workers lost while the budget was full."""
    mb_per_s: float | None = None
    """Shard megabytes per second since the start."""
    skipped: int | None = None
    """Number of RAW files that cannot be used."""
    deaths: int | None = None
    """Number of times that workers died and were replaced."""
    damaged: int | None = None
    """Number of damaged objects that a downloader received."""
    deleted: int | None = None
    """Number of objects that a downloader deleted after use."""
    directory_bytes: int | None = None
    """Bytes of the producer's local directory, for a spool in object storage."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object, without numbers that do not apply; `until` is always included."""
        return {
            name: value
            for name, value in asdict(self).items()
            if value is not None or name == "until"
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> ProducerStatus | None:
        """Create a status from a JSON object, ignoring unknown keys; return None when a field is invalid."""
        state = record.get("state")
        if not isinstance(state, str) or len(state) > _LONGEST_STATE or not state.isprintable():
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
        """Whether the producer is working or waiting, rather than done or failed."""
        return self.state == "making" or self.state.startswith("waiting")


_NUMBERS = {entry.name for entry in fields(ProducerStatus)} - {"state"}


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """One file of `producers/`: a status, the process that published it, and the time."""

    status: ProducerStatus
    process: ProcessId = field(default_factory=lambda: ProcessId.own())
    time: float = field(default_factory=lambda: round(time.time(), 3))
    """Seconds since the epoch."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object, with all fields on one level."""
        return self.status.to_json() | asdict(self.process) | {"time": self.time}

    @classmethod
    def from_json(cls, record: dict[str, Any] | None) -> Heartbeat | None:
        """Create a heartbeat from a JSON object, ignoring unknown keys; None when a field is missing or invalid."""
        if record is None or not _is_number(record.get("time")):
            return None
        status, process = ProducerStatus.from_json(record), ProcessId.from_json(record)
        if status is None or process is None:
            return None
        return cls(status=status, process=process, time=record["time"])

    @property
    def file_name(self) -> str:
        """The name of the heartbeat's file in `producers/`."""
        return f"{self.process.host}-{self.process.pid}.json"


def _is_number(value: object) -> bool:
    """Whether a value is a finite number below a fixed bound; booleans are not numbers."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MAX_NUMBER
    )
