"""Who is alive: process identities that survive pid reuse, and roles that one process at a time may hold.

A role is an flock, so it dies with its holder, however the holder dies. The trade-off: flock reaches as
far as the file system carries it; on NFS without lock support two hosts could both hold one role.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from shards.durable import disk_errors
from shards.errors import SpoolBusy


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
            host=socket.gethostname(), pid=os.getpid(), started=_start_ticks(os.getpid()) or 0
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
        return self.is_local and _start_ticks(self.pid) == self.started

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


def _start_ticks(pid: int) -> int | None:
    """Start time of a process that runs here, None for one that does not (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, ValueError):
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])


class Role:
    """An exclusive role, for the time of a `with` block or until `drop`.

    Raises SpoolBusy on entry when a living process holds it, naming that process.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take the role or raise SpoolBusy."""
        with disk_errors(self._path):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 4096, 0).decode(errors="replace")
            os.close(descriptor)
            raise SpoolBusy(
                f"{self._path.parent.parent}: {self._name} is already running ({_described(holder)}); stop it or use another spool"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(
            descriptor, json.dumps(asdict(ProcessId.own()) | {"since": time.time()}).encode(), 0
        )
        self._descriptor = descriptor

    def drop(self) -> None:
        """Give the role back; nothing happens when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Role:
        self.take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.drop()


def is_held(path: Path) -> bool:
    """Whether some living process holds the role at `path`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _described(record: str) -> str:
    try:
        holder = ProcessId.from_record(json.loads(record))
    except (ValueError, TypeError):
        holder = None
    return str(holder) if holder else "its name is not known yet"
