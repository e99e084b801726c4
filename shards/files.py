"""Write files that are either complete or absent: under a temporary name, synced, then renamed.

The trade-off: two fsyncs per file take milliseconds, so this module is for files that cannot be rebuilt
(plan, cursor, checkpoint, weights) and for small files. Shards are renamed without fsync
(shards/writer.py).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from darkprep.shards.errors import DiskFull, SpoolError
from darkprep.shards.machine import with_retries
from darkprep.shards.process import start_ticks

NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
"""Error numbers of a full disk."""
LARGEST_RECORD = 64 << 20
"""Bytes of a text file that are read at most: many times those of the longest training."""
DEEPEST = 64
"""Levels of folders in folders that are searched; Python's own functions fail at some hundreds."""
_LONGEST_ROW = 1 << 20
_MOST_LINES, _MOST_OBJECTS = 500_000, 100_000
"""Lines of a file and objects in it that are read at most, because each takes some time and memory."""
_MOST_COUNTED = 10_000
_MOST_CONTAINERS = 1_000_000
"""Lists and objects in a JSON text at most: each takes up to 250 bytes of memory, but as little as 2 bytes of text."""
_NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM}
_NO_DIRECTORY = {errno.ENOENT, errno.ENOTDIR, errno.EEXIST}


@contextlib.contextmanager
def disk_errors(path: Path, wanted: int | None = None) -> Iterator[None]:
    """Translate an OSError of a block that writes `path` into an error of darkprep.

    `wanted` is the size of the write in bytes, for the message. Raises DiskFull when the disk is full,
    SpoolError when the directory is not writable or does not exist; any other OSError is passed on.
    """
    try:
        yield
    except OSError as error:
        tenths = -(-(wanted or 0) // 100_000)
        need = f"{tenths / 10:,.1f} MB are needed" if wanted else "more room is needed"
        if error.errno in NO_SPACE:
            raise DiskFull(
                f"{path.parent}: the disk is full, {need}; free some space and start again"
            ) from error
        if error.errno in _NOT_WRITABLE:
            raise SpoolError(
                f"{path.parent}: cannot be written ({error.strerror}); check its permissions, and that its disk is mounted writable"
            ) from error
        if error.errno in _NO_DIRECTORY and not path.parent.is_dir():
            refuse_broken_link(path.parent)
            what = "is not a directory" if os.path.lexists(path.parent) else "does not exist"
            raise SpoolError(
                f"{path.parent}: {what}, so nothing can be written there; create or mount it and start again"
            ) from error
        raise


def refuse_broken_link(path: Path) -> None:
    """Raise SpoolError if `path`, or a directory above it, is a link to what does not exist."""
    for link in (path, *path.parents):
        if link.is_symlink() and not link.exists():
            target = link.readlink()
            raise SpoolError(
                f"{link}: is a link to {target}, which does not exist; create or mount {target}, or remove the link"
            )


def replace_atomically(
    path: Path, write: Callable[[BinaryIO], None], *, sync: bool = True, wanted: int | None = None
) -> None:
    """Call `write` to fill a temporary file, then rename it to `path`; readers see the old file or the new one.

    A missing directory is created, because some copy tools drop empty directories. Without `sync`, a power
    failure may leave the file empty; use this only for files that readers can do without. With `sync`,
    `write` is called again after a failure of the machine; if the failure lasts, MachineError is raised.
    Raises DiskFull, SpoolError or OSError as `disk_errors` does; the old file then stays, and no temporary
    file is left.
    """

    def replace() -> None:
        _replace_once(path, write, sync, wanted)

    if sync:
        with_retries(str(path), replace, "written")
    else:
        replace()


def _replace_once(
    path: Path, write: Callable[[BinaryIO], None], sync: bool, wanted: int | None
) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path, wanted):
        try:
            with open(temporary, "xb", opener=open_for_writing) as file:
                write(file)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to report
                temporary.unlink(missing_ok=True)
            raise
        if sync:
            sync_directory(path.parent)


def ensure_directory(directory: Path) -> None:
    """Create a directory of a spool unless it exists; its parent must exist. Raises DiskFull, or SpoolError, also for a link."""
    with disk_errors(directory / "file"):
        directory.mkdir(exist_ok=True)
    refuse_link(directory)


def refuse_link(directory: Path) -> None:
    """Raise SpoolError if `directory`, a part of a spool, run or study, is a link: it may lead to other files of this user."""
    refuse_broken_link(directory)
    if directory.is_symlink():
        raise SpoolError(
            f"{directory}: is a link to {directory.readlink()}, and nothing is written or deleted through links in a spool, run or study; replace the link by a copy"
        )


def open_for_writing(path: str | os.PathLike[str], flags: int, mode: int = 0o666) -> int:
    """Open a file for writing as `os.open` does; usable as `open(opener=...)`. Nothing else opens files for writing.

    A link is never followed: a spool or run of someone else may hold links to this user's files. For a file
    that is created now (O_EXCL, mode "x"), what has the name is removed first, and a missing directory is
    created, but no more than one: if its parent is missing too, the whole spool was probably removed. Any
    other file must be regular and have no second name (hard link), else OSError is raised.
    """
    flags |= os.O_NOFOLLOW
    if flags & os.O_EXCL:
        return _create_file(path, flags | os.O_CREAT | os.O_CLOEXEC, mode)
    descriptor = open_regular_file(path, flags & ~os.O_TRUNC, mode)
    try:
        if os.fstat(descriptor).st_nlink > 1:
            raise OSError(
                errno.EINVAL,
                "has a second name (a hard link), and would change under that name too; replace it by a copy",
                os.fspath(path),
            )
        if flags & os.O_TRUNC:
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _create_file(path: str | os.PathLike[str], flags: int, mode: int) -> int:
    try:
        return os.open(path, flags, mode)
    except FileExistsError:
        Path(path).unlink(missing_ok=True)
    except FileNotFoundError:
        Path(path).parent.mkdir(exist_ok=True)
    return os.open(path, flags, mode)


def remove(path: Path) -> bool:
    """Delete a file, a link itself, or a directory with all that is in it; return whether it existed.

    Nothing else deletes. Call it only for names of a form that darkprep gives. No link is followed: raises
    SpoolError if the directory that holds `path` is a link, or if directories lie in each other hundreds
    deep. Other errors are OSErrors, but a directory of which parts cannot be deleted raises none.
    """
    if path.parent.is_symlink():
        refuse_link(path.parent)
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    except FileNotFoundError:
        return False
    except RecursionError as error:
        raise SpoolError(
            f"{path}: has directories that are nested too deeply for darkprep to delete; remove it with `rm -r`"
        ) from error
    return True


def rename(path: Path, target: Path) -> None:
    """Rename a file or directory as `os.replace` does; a link at `target` is replaced, not followed. All renaming in darkprep is done by this function."""
    path.replace(target)


def write_bytes(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Replace the file at `path` by `data`. Raises the errors of `replace_atomically`."""

    def write(file: BinaryIO) -> None:
        file.write(data)

    replace_atomically(path, write, sync=sync, wanted=len(data))


def json_bytes(record: dict[str, Any]) -> bytes:
    """Return `record` as indented JSON; raises ValueError for NaN and infinity."""
    return (json.dumps(record, indent=1, allow_nan=False) + "\n").encode()


def write_json(path: Path, record: dict[str, Any], *, sync: bool = True) -> None:
    """Replace the file at `path` by `record` as JSON. Raises the errors of `replace_atomically`."""
    write_bytes(path, json_bytes(record), sync=sync)


def read_json(path: Path, limit: int = LARGEST_RECORD) -> dict[str, Any] | None:
    """Return the JSON object in the regular file at `path`.

    Returns None if there is no such file, it is damaged, or it is larger than `limit` bytes. Raises
    MachineError if memory, disk or network fail.
    """
    try:
        return parse_json_object(with_retries(str(path), lambda: read_regular_file(path, limit)))
    except OSError:
        return None


def parse_json_object(data: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object in `data`; None if `data` is damaged, not a JSON object, or of more than a million lists and objects."""
    if _containers(data) > _MOST_CONTAINERS:
        return None
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def json_objects(rows: Sequence[str | bytes]) -> list[dict[str, Any]]:
    """Return the JSON objects among `rows`; rows that are damaged, not JSON objects, or longer than 1 MiB are left out.

    Of more than 100,000 rows, evenly spaced ones are taken, with the last. When the rows hold more than a
    million lists and objects, the first rows are left out.
    """
    every = -(-len(rows) // _MOST_OBJECTS) or 1
    chosen = [row for row in rows[(len(rows) - 1) % every :: every] if len(row) <= _LONGEST_ROW]
    sums = itertools.accumulate(_containers(row) for row in reversed(chosen))
    read = sum(1 for _ in itertools.takewhile(lambda total: total <= _MOST_CONTAINERS, sums))
    records = map(parse_json_object, chosen[len(chosen) - read :])
    return [record for record in records if record is not None]


def _containers(data: str | bytes) -> int:
    """Return the number of brackets and braces that open in a JSON text: at least that of its lists and objects."""
    if isinstance(data, str):
        return data.count("[") + data.count("{")
    return data.count(b"[") + data.count(b"{")


def read_regular_file(path: Path, limit: int = LARGEST_RECORD) -> bytes:
    """Return up to `limit` bytes from the start of the regular file at `path`; raise OSError for others."""
    with open(path, "rb", opener=open_regular_file) as file:
        return file.read(min(limit, os.fstat(file.fileno()).st_size))


def read_last_lines(path: Path, limit: int = LARGEST_RECORD) -> list[bytes]:
    """Return the lines within the last `limit` bytes of a regular file, without line ends; raise OSError for others.

    At most the last 500,000 lines are returned.
    """
    with open(path, "rb", opener=open_regular_file) as file:
        size = file.seek(0, os.SEEK_END)
        start = file.seek(max(0, size - limit))
        *lines, end = file.read(limit).rsplit(b"\n", _MOST_LINES + 1)
    lines += [end] if end else []
    return lines[1:] if start or len(lines) > _MOST_LINES else lines


def open_regular_file(path: str | os.PathLike[str], flags: int, mode: int = 0o666) -> int:
    """Open a file as `os.open` does, but only a regular file, else raise OSError; usable as `open(opener=...)`.

    Opening a named pipe would block until another process opens its other end. To write, use
    `open_for_writing`.
    """
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, mode)
    except OSError as error:
        if error.errno == errno.ELOOP and Path(path).is_symlink():
            raise OSError(
                errno.EINVAL,
                "is a link, and nothing is written through links; remove it",
                os.fspath(path),
            ) from error
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
    """Return the entries of a directory, in any order; an empty list if there is no directory.

    Raises MachineError if memory, disk or network fail.
    """

    def scan() -> list[os.DirEntry[str]]:
        with os.scandir(path) as entries:
            return list(entries)

    try:
        return with_retries(str(path), scan)
    except (FileNotFoundError, NotADirectoryError):
        return []


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield `root` and each folder below it, with its folders and files sorted by name, without hidden ones.

    Folders that are more than DEEPEST levels below `root` are left out, and so are those that cannot be
    listed. Links are not followed.
    """
    for folder, folders, names in os.walk(root):
        path = Path(folder)
        if len(path.parts) - len(root.parts) >= DEEPEST:
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield path, folders, sorted(name for name in names if not name.startswith("."))


def kinds_of_files(root: Path) -> str:
    """Return how many files of which extensions are below `root`, for a message: `12 .arw, 3 .jpg`, or `no files`.

    The three most frequent extensions are named, and at most 10,000 files are counted.
    """
    names = (name for _, _, names in walk(root) for name in names)
    counts = Counter(
        Path(name).suffix.lower() or "no extension"
        for name in itertools.islice(names, _MOST_COUNTED)
    )
    return ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(3)) or "no files"


def sync_directory(path: Path) -> None:
    """Flush a directory's entries to the disk, so that they survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale_temporaries(directory: Path, name: str) -> int:
    """Remove the `.NAME.PID.tmp` files that dead processes left in `directory`; return their number.

    `name` is a pattern for the names of files that darkprep writes there, so that other programs' temporary files
    stay. Call it only while holding the lock for writing there: a process in another container looks dead from here.
    """
    removed = 0
    for path in directory.glob(f".{name}.*.tmp"):
        pid = path.name.split(".")[-2]
        if pid.isdecimal() and start_ticks(int(pid)) is None:
            # It may be a directory, which is not darkprep's, or gone.
            with contextlib.suppress(IsADirectoryError, FileNotFoundError):
                path.unlink()
                removed += 1
    return removed
