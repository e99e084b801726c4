"""Locks between processes: exclusive locks that record their holder, and locks that several writers share.

All locks are flocks. The kernel releases a flock when the last process that has the file open closes it or
ends. A forked child inherits the open file, so holders unlock explicitly, and forked children close their
copies at once. The trade-off: a child that C code forks without running Python keeps its copy, so a lock
whose holder was killed stays locked until that child ends. And flock works between machines only where the
file system supports it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from darkprep.shards.errors import SpoolBusy, SpoolError
from darkprep.shards.files import disk_errors, open_for_writing, open_regular_file, read_json
from darkprep.shards.forks import are_copies, close_in_forked_children, forget
from darkprep.shards.machine import with_retries
from darkprep.shards.process import ProcessId

_RECORD_BYTES = 512
"""Length of the record of a holder; it is constant, so that a record can be overwritten in place on a full disk."""
_ATTEMPTS = 25
_ATTEMPT_S = 0.02
_SHARED_TIMEOUT_S = 60.0
_UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
"""Error numbers of file systems without locks."""


class FileLock:
    """An exclusive lock, held for a `with` block or from `acquire` to `release`.

    `path` is a file used for nothing else. The other arguments are for the message of SpoolBusy: `holder`
    is what holds such a lock ("a producer"), `directory` is what the lock protects, and `remedy` is what
    the user can do other than stopping the present holder. A forked child does not hold the lock.
    """

    def __init__(
        self, path: Path, holder: str, *, directory: Path, remedy: str = "use another spool"
    ) -> None:
        self._path = path
        self._holder = holder
        self._directory = directory
        self._remedy = remedy
        self._file: _LockFile | None = None

    def acquire(self) -> None:
        """Acquire the lock; raise SpoolBusy if a living process still holds it after half a second.

        Several attempts are needed because `is_held` and ending processes hold the lock for a moment.
        Raises DiskFull or SpoolError when the lock file cannot be written or locked.
        """
        with disk_errors(self._path), lock_errors(self._directory):
            for _ in range(_ATTEMPTS):
                file = self._try_to_acquire()
                if file:
                    self._file = file
                    return
                time.sleep(_ATTEMPT_S)
        process = last_holder(self._path)
        is_own = process == ProcessId.own()
        who = f"{process or 'unknown process'}{', this process' if is_own else ''}"
        raise SpoolBusy(
            f"{self._directory}: {self._holder} is already running ({who}); {'close it first' if is_own else 'stop it'} or {self._remedy}"
        )

    def restore(self) -> None:
        """Create and lock the lock's file again if it was removed. Raises the errors of `acquire`.

        Other processes take a lock without its file for a free lock.
        """
        before = self._file
        if before is not None and not before.is_at(self._path):
            self.acquire()
            before.close()

    def release(self) -> None:
        """Release the lock; do nothing if it is not held."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _try_to_acquire(self) -> _LockFile | None:
        file = _LockFile(self._path, os.O_RDWR | os.O_CREAT)
        try:
            # The file may have been removed after it was opened; then another process may lock a new one.
            if file.try_lock(fcntl.LOCK_EX) and file.is_at(self._path):
                os.pwrite(file.descriptor, _record(ProcessId.own()), 0)
                return file
        except BaseException:
            file.close()
            raise
        file.close()
        return None

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
    """Return whether a living process holds the exclusive lock at `path`; False on file systems without locks.

    Raises MachineError if this cannot be found out, because memory, disk, network or open files fail.
    """
    try:
        return with_retries(str(path), lambda: _is_locked(path, os.O_RDONLY, fcntl.LOCK_SH))
    except OSError:  # of the path: there is no lock
        return False


def last_holder(path: Path) -> ProcessId | None:
    """Return the process, living or dead, that last acquired the exclusive lock at `path`.

    Returns None if there was no such process or its record is damaged.
    """
    record = read_json(path, _RECORD_BYTES)
    return ProcessId.from_json(record) if record else None


def holds_lock(pid: int, path: Path) -> bool:
    """Return whether a process of this user holds the exclusive lock at `path`, according to the kernel.

    A forked child that has the lock's file open does not count as holder. Returns False if the kernel
    reports no locks.
    """
    with contextlib.suppress(OSError):
        lock_file = path.lstat()
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(link.stat(), lock_file):
                    report = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text()
                    if re.search(rf"^lock:.*\bFLOCK\b.*\bWRITE\s+{pid}\b", report, re.MULTILINE):
                        return True
    return False


@contextlib.contextmanager
def shared_lock(path: Path) -> Iterator[None]:
    """Hold the shared lock at `path` during a block; wait if `has_shared_holders` is testing it at this moment.

    Raises DiskFull or SpoolError when the lock file cannot be written or locked.
    """
    with disk_errors(path):
        file = _LockFile(path, os.O_RDWR | os.O_CREAT)
    try:
        deadline = time.monotonic() + _SHARED_TIMEOUT_S
        with lock_errors(path.parent):
            while not file.try_lock(fcntl.LOCK_SH):
                if time.monotonic() > deadline:
                    raise SpoolError(
                        f"{path}: another process has held this lock for {_SHARED_TIMEOUT_S:.0f} s; find it with `lslocks` and stop it"
                    )
                time.sleep(_ATTEMPT_S)
        yield
    finally:
        file.close()


def has_shared_holders(path: Path) -> bool:
    """Return whether any living process holds the shared lock at `path` now."""
    with contextlib.suppress(FileNotFoundError):
        return _is_locked(path, os.O_RDWR, fcntl.LOCK_EX)
    return False


@contextlib.contextmanager
def lock_errors(directory: Path) -> Iterator[None]:
    """Raise SpoolError, with a remedy, when a block fails because the file system of `directory` has no locks."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        raise SpoolError(
            f"{directory}: the file system does not support locks ({error.strerror}); use a directory on a local disk, or mount the file system with locks (Lustre: the option flock; NFS: a lock service)"
        ) from error


class _LockFile:
    """An open lock file; a missing directory is created with it.

    Closing it also unlocks it for forked children; a forked child closes its own copy at once.
    """

    def __init__(self, path: Path, flags: int) -> None:
        if flags & os.O_CREAT:
            path.parent.mkdir(exist_ok=True)
        self.descriptor = (open_for_writing if flags & os.O_RDWR else open_regular_file)(
            path, flags, 0o644
        )
        close_in_forked_children(self)

    def try_lock(self, operation: int) -> bool:
        """Try to lock the file, exclusively or shared, without waiting; return whether it is locked."""
        try:
            fcntl.flock(self.descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_at(self, path: Path) -> bool:
        """Return whether the file at `path` is still the open file."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), path.stat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Unlock and close the file; do nothing in a forked child, which has already closed its copy."""
        if are_copies(self):
            return
        forget(self)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        finally:
            os.close(self.descriptor)

    def close_copies(self) -> None:
        """Close the file without unlocking it, because unlocking would release the parent's lock."""
        os.close(self.descriptor)


def _is_locked(path: Path, flags: int, probe: int) -> bool:
    """Return whether a lock that conflicts with `probe` is held; False on a file system without locks."""
    file = _LockFile(path, flags)
    try:
        return not file.try_lock(probe)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    finally:
        file.close()


def _record(process: ProcessId) -> bytes:
    text = json.dumps(asdict(process) | {"since": round(time.time(), 3)})
    return text.encode().ljust(_RECORD_BYTES)[:_RECORD_BYTES]
