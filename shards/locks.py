"""Roles that one living process at a time may hold, and crews whose end can be waited for.

Both are flocks, so they die with their holders, however these die. The trade-off: flock reaches as far
as the file system carries it; on NFS without lock support two hosts could both hold one role.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from darkprep.shards.errors import SpoolBusy
from darkprep.shards.files import disk_errors, only_regular, read_regular
from darkprep.shards.process import ProcessId

_RECORD_BYTES = 512
"""A holder's name is always so long, so that it replaces the last one's in place, on a full disk too."""
_ATTEMPTS = 25
_ATTEMPT_S = 0.02


class FileLock:
    """An exclusive role, for the time of a `with` block or until `drop`.

    `path` is a file of the lock's own, `name` who holds it, `place` where, `instead` what to do about it.
    Raises SpoolBusy on entry when a living process holds it, naming that process; DiskFull or SpoolError
    when the place cannot be written.
    """

    def __init__(
        self, path: Path, name: str, *, place: Path, instead: str = "use another spool"
    ) -> None:
        self._path = path
        self._name = name
        self._place = place
        self._instead = instead
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take the role or raise as the class says; takes half a second to find it busy.

        Whoever merely looks (`is_held`) has the lock for an instant, and so has a dying process: hence
        more than one attempt.
        """
        with disk_errors(self._path):
            descriptor = only_regular(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._lock(descriptor)
                os.pwrite(descriptor, _record(ProcessId.own()), 0)
            except BaseException:
                os.close(descriptor)
                raise
        self._descriptor = descriptor

    def drop(self) -> None:
        """Give the role back; nothing happens when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self, descriptor: int) -> None:
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(_ATTEMPT_S)
        holder = last_holder(self._path)
        raise SpoolBusy(
            f"{self._place}: {self._name} is already running ({holder or 'it has not told its name'}); stop it or {self._instead}"
        )

    def __enter__(self) -> FileLock:
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
        descriptor = only_regular(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def last_holder(path: Path) -> ProcessId | None:
    """Who took the role at `path` last, dead or alive; None where nobody did or the name is damaged."""
    try:
        record = json.loads(read_regular(path, _RECORD_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return ProcessId.from_record(record) if isinstance(record, dict) else None


@contextlib.contextmanager
def at_work(path: Path) -> Iterator[None]:
    """Be one of the crew at `path` for a while; waits for a moment while `is_alone` looks."""
    with disk_errors(path):
        descriptor = only_regular(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def is_alone(path: Path) -> bool:
    """Whether nobody is `at_work` at `path` at this moment."""
    try:
        descriptor = only_regular(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _record(process: ProcessId) -> bytes:
    text = json.dumps(asdict(process) | {"since": round(time.time(), 3)})
    return text.encode().ljust(_RECORD_BYTES)[:_RECORD_BYTES]
