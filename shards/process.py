"""Identities of processes that stay unique when the system reuses a pid.

The trade-off: start times are read from /proc, so this works on Linux only; processes on other hosts and in
other containers cannot be checked and count as dead. Locks (shards/locks.py), not these identities, keep
two producers apart.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MAX_NUMBER = 1 << 63
_LONGEST_HOST = 255
"""Characters of the name of a host at most (DNS; Linux has 64)."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class ProcessId:
    """A process: host, pid and start time. The start time differs when a pid is reused."""

    host: str
    pid: int
    started: int
    """Clock ticks from boot to the process's start (/proc/PID/stat, field 22)."""

    @classmethod
    def own(cls) -> ProcessId:
        """Return the identity of the calling process."""
        return cls(
            host=socket.gethostname(), pid=os.getpid(), started=start_ticks(os.getpid()) or 0
        )

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> ProcessId | None:
        """Create an identity from a JSON object; return None when a field is missing or invalid."""
        host, pid, started = (record.get(name) for name in ("host", "pid", "started"))
        if not isinstance(host, str) or type(pid) is not int or type(started) is not int:
            return None
        if max(abs(pid), abs(started)) >= _MAX_NUMBER:
            return None
        if len(host) > _LONGEST_HOST or not host.isprintable():
            return None
        return cls(host=host, pid=pid, started=started)

    @property
    def is_local(self) -> bool:
        """Whether the process runs, or ran, on this host."""
        return self.host == socket.gethostname()

    def is_alive(self) -> bool:
        """Return whether the process is running on this host; a process of another host counts as dead."""
        return self.is_local and start_ticks(self.pid) == self.started

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


@contextlib.contextmanager
def safe_import_path() -> Iterator[None]:
    """Let the Python processes that are started in a `with` block import nothing because it lies in the working directory.

    The directory may be that of someone else, with a `numpy.py` in it.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PYTHONSAFEPATH", None)
        else:
            os.environ["PYTHONSAFEPATH"] = before


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends; end it now if it is no longer a child of `parent`.

    Does nothing where the C library has no prctl.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before prctl
        os._exit(1)


def start_ticks(pid: int) -> int | None:
    """Return the start time of a process on this host; None if it is not running or is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        state, *fields = stat.rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[18])
    except (OSError, ValueError, IndexError):
        return None


def signal_process(pid: int, number: int, *, is_meant: Callable[[], bool]) -> bool:
    """Send a signal to a process of this user if `is_meant()` returns true; return whether it was sent.

    The pid cannot be reused while `is_meant` runs, so no other process gets the signal. Raises
    PermissionError for a process of another user.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if Path(f"/proc/{pid}").stat().st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        is_signalled = is_meant()
        if is_signalled:
            signal.pidfd_send_signal(descriptor, number)
    except (FileNotFoundError, ProcessLookupError):
        return False
    else:
        return is_signalled
    finally:
        os.close(descriptor)


def is_descendant(pid: int) -> bool:
    """Return whether the calling process is an ancestor (parent, grandparent, ...) of the process `pid`."""
    seen: set[int] = set()
    while pid > 1 and pid not in seen:
        seen.add(pid)
        parent = _parent(pid)
        if parent == os.getpid():
            return True
        pid = parent
    return False


def _parent(pid: int) -> int:
    """Return the pid of a process's parent; 0 if the process is not running."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
