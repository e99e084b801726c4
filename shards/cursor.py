"""The cursor of a trainer rank: how far the rank is in the plan, stored as `cursors/rank-N.json`.

The trade-off: cursors are not fsynced. A cursor that a power failure damaged counts as missing; then shards
that were already used are rebuilt.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from darkprep.shards.plan_record import MAX_SHARDS
from darkprep.shards.process import ProcessId

CURSOR_BYTES = 64 << 10
"""Upper bound of a cursor file; larger files are not read to their end."""
MAX_RANKS = 1024
"""Ranks that can share a spool; the files of further ones are not read, as a spool of someone else may hold very many."""
NEGLIGIBLE_WAIT, DATA_BOUND_WAIT = 0.01, 0.1
"""Shares of the time in which a trainer waits for data. Below the first the wait is negligible; from the second
on data limit the training; in between the two sides are nearly balanced."""

_MAX_DISPLAYED = 1e18
_LONGEST_PATH = 4096
"""Characters of a path at most (PATH_MAX of Linux)."""


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """How far one trainer rank is in the plan."""

    rank: int
    world: int
    batch: int
    """The next global batch that the rank will train on."""
    shard: int
    """The oldest shard that the rank can still ask for."""
    run: str = ""
    """The run directory, for display."""
    wait_fraction: float = 0.0
    """Share of its time that the rank waited for data."""
    waiting_s: float = 0.0
    """Seconds of the present wait for data; 0 while there is none."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object: the fields of the cursor, and the process that wrote it."""
        return asdict(self) | asdict(ProcessId.own())

    @classmethod
    def from_json(cls, record: dict[str, Any] | None) -> Cursor | None:
        """Create a cursor from a JSON object; return None when a field is missing or invalid."""
        if record is None:
            return None
        counts = {name: record.get(name) for name in ("rank", "world", "batch", "shard")}
        valid = {
            name: count
            for name, count in counts.items()
            if type(count) is int and 0 <= count < MAX_SHARDS
        }
        if valid.keys() != counts.keys():
            return None
        run = record.get("run")
        return cls(
            **valid,
            run=run if isinstance(run, str) and len(run) <= _LONGEST_PATH else "",
            wait_fraction=_displayed(record.get("wait_fraction")),
            waiting_s=_displayed(record.get("waiting_s")),
        )


def _displayed(value: object) -> float:
    """Return a number for display; 0 for an invalid value, NaN or infinity."""
    return value if isinstance(value, float) and 0 <= value < _MAX_DISPLAYED else 0.0
