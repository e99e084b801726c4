"""Locks between processes: exclusive ones that name their holder, and shared ones for a group of writers.

Both are flocks, so the kernel releases them however their holders die. The trade-off: flock reaches as
far as the file system supports it; on NFS without lock support two hosts could hold one exclusive lock.
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
from darkprep.shards.files import disk_errors, open_regular_file, read_json
from darkprep.shards.process import ProcessId

_RECORD_BYTES = 512
"""Every record of a holder has this length, so that it can be overwritten in place, even on a full disk."""
_ATTEMPTS = 25
_ATTEMPT_S = 0.02


class FileLock:
    """An exclusive lock, held for a `with` block or from `acquire` to `release`.

    `path` is a file used for nothing else. The other arguments are for the message of SpoolBusy: `holder`
    is what holds such a lock ("a producer"), `directory` what the lock protects, and `remedy` what to do
    other than stopping the present holder.
    """

    def __init__(
        self, path: Path, holder: str, *, directory: Path, remedy: str = "use another spool"
    ) -> None:
        self._path = path
        self._holder = holder
        self._directory = directory
        self._remedy = remedy
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Acquire the lock; raise SpoolBusy after half a second when a living process holds it.

        Several attempts are needed because `is_held` and dying processes hold the lock for a moment.
        Raises DiskFull or SpoolError when the lock file cannot be written.
        """
        with disk_errors(self._path):
            descriptor = open_regular_file(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._lock(descriptor)
                os.pwrite(descriptor, _record(ProcessId.own()), 0)
            except BaseException:
                os.close(descriptor)
                raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock; do nothing when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self, descriptor: int) -> None:
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(_ATTEMPT_S)
        process = last_holder(self._path)
        raise SpoolBusy(
            f"{self._directory}: {self._holder} is already running ({process or 'unknown process'}); stop it or {self._remedy}"
        )

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """Return whether a living process holds the exclusive lock at `path`."""
    try:
        descriptor = open_regular_file(path, os.O_RDONLY)
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
    """Return the process, dead or alive, that acquired the exclusive lock at `path` last.

    None where there was none or the record is damaged.
    """
    record = read_json(path, _RECORD_BYTES)
    return ProcessId.from_json(record) if record else None


@contextlib.contextmanager
def shared_lock(path: Path) -> Iterator[None]:
    """Hold the shared lock at `path`; waits for a moment while `has_shared_holders` probes it.

    Raises DiskFull or SpoolError when the lock file cannot be written.
    """
    with disk_errors(path):
        descriptor = open_regular_file(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def has_shared_holders(path: Path) -> bool:
    """Return whether any living process holds the shared lock at `path` now."""
    try:
        descriptor = open_regular_file(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _record(process: ProcessId) -> bytes:
    text = json.dumps(asdict(process) | {"since": round(time.time(), 3)})
    return text.encode().ljust(_RECORD_BYTES)[:_RECORD_BYTES]
