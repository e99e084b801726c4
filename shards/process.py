"""Which process: an identity that survives the reuse of pids, and whether it lives.

The trade-off: start times come from /proc, so this is for Linux; of processes on other hosts, and in
other containers, nothing can be known and they count as dead. Locks, not these answers, keep two
producers apart (shards/locks.py).
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ProcessId:
    """A process by host, pid and start time; the start time tells a reused pid from the old one."""

    host: str
    pid: int
    started: int
    """Clock ticks from boot to the process's start (/proc/PID/stat, field 22)."""

    @classmethod
    def own(cls) -> ProcessId:
        """The calling process."""
        return cls(
            host=socket.gethostname(), pid=os.getpid(), started=start_ticks(os.getpid()) or 0
        )

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> ProcessId | None:
        """The identity inside a JSON record, or None where the record holds none."""
        try:
            return cls(
                host=str(record["host"]), pid=int(record["pid"]), started=int(record["started"])
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            return None

    @property
    def is_local(self) -> bool:
        """Whether the process runs, or ran, on this host."""
        return self.host == socket.gethostname()

    def is_alive(self) -> bool:
        """Whether the process lives; only of local ones can that be known, others count as dead."""
        return self.is_local and start_ticks(self.pid) == self.started

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


def start_ticks(pid: int) -> int | None:
    """Start time of a process that runs here, None for one that does not (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        state, *fields = stat.rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[18])
    except (OSError, ValueError, IndexError):
        return None
