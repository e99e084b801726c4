"""Files that are either complete or absent: written under a temporary name, synced, then renamed.

The trade-off: two fsyncs a file, milliseconds each, so this is for what cannot be rebuilt (plan, cursor,
checkpoint, weights) and for small files. Shards are renamed without fsync (shards/writer.py).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from darkprep.shards.errors import DiskFull, SpoolError
from darkprep.shards.process import start_ticks

NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
"""Error numbers of a full disk."""
_NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM}
_NO_DIRECTORY = {errno.ENOENT, errno.ENOTDIR, errno.EEXIST}


@contextlib.contextmanager
def disk_errors(path: Path, wanted: int | None = None) -> Iterator[None]:
    """Translate errors of the operating system when writing `path` into darkprep's.

    `wanted` is the size of the write in bytes, for the message. Raises DiskFull when there is no room,
    SpoolError when the directory is not writable or does not exist; any other OSError passes.
    """
    try:
        yield
    except OSError as error:
        tenths = -(-(wanted or 0) // 100_000)
        need = f"{tenths / 10:,.1f} MB are needed" if wanted else "more room is needed"
        if error.errno in NO_SPACE:
            raise DiskFull(
                f"{path.parent}: the disk is full, {need}; free some and start again"
            ) from error
        if error.errno in _NOT_WRITABLE:
            raise SpoolError(
                f"{path.parent}: cannot be written ({error.strerror}); check its owner and mount"
            ) from error
        if error.errno in _NO_DIRECTORY and not path.parent.is_dir():
            what = "is not a directory" if os.path.lexists(path.parent) else "does not exist"
            raise SpoolError(
                f"{path.parent}: {what}, so nothing can be written there; was it removed or unmounted?"
            ) from error
        raise


def replace_atomically(
    path: Path, write: Callable[[BinaryIO], None], *, sync: bool = True, wanted: int | None = None
) -> None:
    """Let `write` fill a temporary file and rename it to `path`; readers see the old file or the new one.

    The directory is created where it is missing: copies of a directory often drop the empty ones in it.
    Without `sync` a power loss may leave the file empty: for files that their readers can do without.
    Raises DiskFull or SpoolError as `disk_errors`; then the old file stays and no temporary one is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path, wanted):
        try:
            with open(temporary, "wb", opener=open_in_new_directory) as file:
                write(file)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if sync:
            sync_directory(path.parent)


def ensure_directory(directory: Path) -> None:
    """Create a directory in an existing one unless it is there; raise DiskFull or SpoolError."""
    with disk_errors(directory / "file"):
        directory.mkdir(exist_ok=True)


def open_in_new_directory(path: str | os.PathLike[str], flags: int, mode: int = 0o666) -> int:
    """Open as `os.open` does, or for `open(opener=...)`; create the file's directory where it is missing.

    Only that directory: when the one above it is gone, somebody removed the whole.
    """
    try:
        return os.open(path, flags | os.O_CLOEXEC, mode)
    except FileNotFoundError:
        Path(path).parent.mkdir(exist_ok=True)
        return os.open(path, flags | os.O_CLOEXEC, mode)


def write_bytes(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Replace the file at `path` by `data`; raises as `replace_atomically`."""

    def write(file: BinaryIO) -> None:
        file.write(data)

    replace_atomically(path, write, sync=sync, wanted=len(data))


def json_bytes(record: dict[str, Any]) -> bytes:
    """Return `record` as indented JSON; raises ValueError for NaN and infinity."""
    return (json.dumps(record, indent=1, allow_nan=False) + "\n").encode()


def write_json(path: Path, record: dict[str, Any], *, sync: bool = True) -> None:
    """Replace the file at `path` by `record` as JSON; raises as `replace_atomically`."""
    write_bytes(path, json_bytes(record), sync=sync)


def read_json(path: Path, limit: int = 64 << 20) -> dict[str, Any] | None:
    """Return the JSON object in the regular file at `path`.

    None where there is no such file, it is damaged, or it is larger than `limit` bytes.
    """
    try:
        return parse_json_object(read_regular_file(path, limit))
    except OSError:
        return None


def parse_json_object(data: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object in `data`; None where it is damaged or another kind of value."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def json_objects(rows: Iterable[str | bytes]) -> list[dict[str, Any]]:
    """Return the JSON objects among `rows`; damaged rows and other kinds of values are left out."""
    records = map(parse_json_object, rows)
    return [record for record in records if record is not None]


def read_regular_file(path: Path, limit: int = -1) -> bytes:
    """Return the first `limit` bytes of the regular file at `path`; raises as `open_regular_file`."""
    with open(path, "rb", opener=open_regular_file) as file:
        return file.read(limit)


def open_regular_file(path: str | os.PathLike[str], flags: int, mode: int = 0o666) -> int:
    """Open as `os.open` does, or for `open(opener=...)`; raise OSError for anything but a regular file.

    A pipe of that name would block until a process opens its other end.
    """
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, mode)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a pipe without a reader, a socket
            raise _not_regular(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(path)
    return descriptor


def _not_regular(path: str | os.PathLike[str]) -> OSError:
    return OSError(errno.EINVAL, "is not a regular file; move it away", os.fspath(path))


def list_directory(path: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a directory, in any order; none where there is no directory."""
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def sync_directory(path: Path) -> None:
    """Make the directory's entries survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale_temporaries(directory: Path) -> int:
    """Remove the `.NAME.PID.tmp` files that dead writers left in `directory`; return how many.

    Only for the process that holds the lock for writing there: a writer in another container appears dead.
    """
    removed = 0
    for path in directory.glob(".*.tmp"):
        pid = path.name.split(".")[-2]
        if pid.isdecimal() and start_ticks(int(pid)) is None:
            path.unlink(missing_ok=True)
            removed += 1
    return removed
