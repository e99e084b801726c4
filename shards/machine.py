"""Distinguish failures of the machine (memory, disk, network) from those of a file, and try again.

The trade-off: an operation that fails because of the machine is repeated for a few seconds; then the whole
task fails, because replacing the pair for such a reason would change the stream.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar

from darkprep.shards.errors import Action, MachineError

Result = TypeVar("Result")

_OF_THE_FILE = frozenset(
    {
        errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP,
        errno.ENAMETOOLONG, errno.ENXIO, errno.EINVAL,
    }
)  # fmt: skip
"""Errors caused by the path itself, which occur again when the operation is repeated."""
_REMEDIES = {
    errno.ENOMEM: "memory is short: use fewer --jobs or a machine with more memory",
    errno.EMFILE: "raise the limit of open files (ulimit -n) or use fewer --jobs",
    errno.ENFILE: "raise the system's limit of open files or use fewer --jobs",
}
_OTHER_REMEDY = "check the disk or the network it is mounted from, then start again"
_MEMORY_TEXTS = ("memory", "mempool", "bad_alloc")
RETRY_AFTER_S = (0.1, 0.5, 2.0)
"""Pauses between attempts, in seconds."""
_is_retried: ContextVar[bool] = ContextVar("is_retried", default=False)
"""Whether an outer operation is already being repeated; an inner one is then tried once, or pauses would multiply."""
_stop: ContextVar[threading.Event | None] = ContextVar("stop", default=None)


def raise_machine_error(path: str, error: BaseException, action: Action = "read") -> None:
    """Raise MachineError if `error`, caught while using `path`, was not caused by the file or the path itself."""
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno not in _OF_THE_FILE:
            raise MachineError(
                path, f"{error.strerror or error}; {remedy_of(error)}", action
            ) from error
    elif isinstance(error, MemoryError) or _is_about_memory(error):
        raise MachineError(path, _REMEDIES[errno.ENOMEM], action) from error


@contextlib.contextmanager
def machine_errors(path: str, action: Action = "read") -> Iterator[None]:
    """Raise MachineError for an OSError or MemoryError of the block that the file or the path did not cause."""
    try:
        yield
    except (OSError, MemoryError) as error:
        raise_machine_error(path, error, action)
        raise


def remedy_of(error: OSError) -> str:
    """Return what to do about an error of the operating system; nothing for one of a path itself."""
    if error.errno is None or error.errno in _OF_THE_FILE:
        return ""
    return _REMEDIES.get(error.errno, _OTHER_REMEDY)


def _is_about_memory(error: BaseException) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return any(word in text for word in _MEMORY_TEXTS)


@contextlib.contextmanager
def retries_end_with(stop: threading.Event) -> Iterator[None]:
    """Make `with_retries` stop trying, in this thread and during a `with` block, once `stop` is set."""
    token = _stop.set(stop)
    try:
        yield
    finally:
        _stop.reset(token)


def with_retries(path: str, operation: Callable[[], Result], action: Action = "read") -> Result:
    """Call `operation` and return its result; after a failure of the machine, repeat it for up to 2.6 s.

    Errors caused by the file or the path are raised at once. Inside another `with_retries` the operation is
    tried only once. Raises MachineError.
    """
    if _is_retried.get():
        return operation()
    stop = _stop.get() or threading.Event()
    token = _is_retried.set(True)
    try:
        for pause in RETRY_AFTER_S:
            with contextlib.suppress(MachineError), machine_errors(path, action):
                return operation()
            if stop.wait(pause):
                break
        with machine_errors(path, action):
            return operation()
    finally:
        _is_retried.reset(token)
