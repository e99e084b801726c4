"""Tell failures of the machine (memory, disk, network) from those of a file, and try again.

The trade-off: an operation that fails for the machine's reason is repeated for a few seconds and then fails
the whole task, because a pair that is replaced for such a reason would change the stream.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from darkprep.shards.errors import MachineError

Result = TypeVar("Result")

_OF_THE_FILE = frozenset(
    {
        errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP,
        errno.ENAMETOOLONG, errno.ENXIO, errno.EINVAL,
    }
)  # fmt: skip
"""Errors of a path itself, which stay when the operation is repeated."""
_REMEDIES = {
    errno.ENOMEM: "memory is short: use fewer --jobs or a machine with more memory",
    errno.EMFILE: "raise the limit of open files (ulimit -n) or use fewer --jobs",
    errno.ENFILE: "raise the system's limit of open files or use fewer --jobs",
}
_OTHER_REMEDY = "check the disk or the network it is mounted from, then start again"
_MEMORY_TEXTS = ("memory", "mempool", "bad_alloc")
_BLOCK_BYTES = 1 << 20
RETRY_AFTER_S = (0.1, 0.5, 2.0)
"""Pauses between tries."""


def raise_machine_error(path: str, error: BaseException) -> None:
    """Raise MachineError if `error`, caught while `path` was read or decoded, is not the file's own fault."""
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno not in _OF_THE_FILE:
            remedy = _REMEDIES.get(error.errno, _OTHER_REMEDY)
            raise MachineError(path, f"{error.strerror or error}; {remedy}") from error
    elif isinstance(error, MemoryError) or _is_about_memory(error):
        raise MachineError(path, _REMEDIES[errno.ENOMEM]) from error


def _is_about_memory(error: BaseException) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return any(word in text for word in _MEMORY_TEXTS)


def check_readable(path: str) -> None:
    """Raise MachineError if a file that LibRaw refused cannot be read to its end: LibRaw hides such errors."""
    try:
        with Path(path).open("rb") as file:
            while file.read(_BLOCK_BYTES):
                pass
    except OSError as error:
        raise_machine_error(path, error)


def with_retries(path: str, operation: Callable[[], Result]) -> Result:
    """Return the result of `operation`, repeated after a MachineError or MemoryError. Raises MachineError."""
    for pause in (*RETRY_AFTER_S, None):
        try:
            return operation()
        except (MachineError, MemoryError) as error:
            if pause is None:
                if isinstance(error, MemoryError):
                    raise_machine_error(path, error)
                raise
        time.sleep(pause)
    raise AssertionError("unreachable: the last attempt returns or raises an error")
