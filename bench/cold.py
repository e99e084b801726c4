"""A page cache that is too small for the data, which is the case of a real spool: larger than memory.

A memory cgroup limits this process and its children where one may be made; else the files of a folder are evicted
from the page cache five times a second. The trade-off: the cgroup counts memory of the processes too, so a loader that
keeps its data in memory has less page cache or is killed; eviction spares files that are not yet written back.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_EVICT_EVERY_S = 0.2


@contextlib.contextmanager
def small_page_cache(limit_bytes: int | None, folder: Path) -> Iterator[str]:
    """Limits memory, or with None evicts the files below `folder`; yields what is done, in words."""
    if limit_bytes is not None:
        with contextlib.suppress(OSError):
            group, parent = _new_group(limit_bytes)
            try:
                yield f"memory limited to {limit_bytes / 1e6:,.0f} MB by a cgroup"
            finally:
                (parent / "cgroup.procs").write_text(str(os.getpid()))
                _remove(group)
            return
    over = threading.Event()
    thread = threading.Thread(target=_evict_until, args=(over, folder), daemon=True)
    thread.start()
    try:
        yield f"files evicted from the page cache every {_EVICT_EVERY_S:g} s (posix_fadvise)"
    finally:
        over.set()
        thread.join()


def _new_group(limit_bytes: int) -> tuple[Path, Path]:
    """A cgroup below this process's own, with this process in it. Raises OSError where none may be made."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers in ("memory", ""):
            root = _GROUPS / controllers if controllers else _GROUPS
            parent = root / own.lstrip("/")
            name = "memory.limit_in_bytes" if controllers else "memory.max"
            group = parent / f"darkprep-bench-{os.getpid()}"
            with contextlib.suppress(OSError):
                group.mkdir()
                try:
                    if not (group / name).exists():
                        continue
                    (group / name).write_text(str(limit_bytes))
                    (group / "cgroup.procs").write_text(str(os.getpid()))
                except OSError:
                    group.rmdir()
                    raise
                return group, parent
    raise OSError("no memory cgroup can be made")


def _remove(group: Path) -> None:
    """Remove a cgroup when its last process has ended."""
    for _ in range(50):
        with contextlib.suppress(OSError):
            return group.rmdir()
        time.sleep(0.1)
    print(f"left behind: {group}, in which a process still runs")
    return None


def _evict_until(over: threading.Event, folder: Path) -> None:
    while not over.wait(_EVICT_EVERY_S):
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):
                file = os.open(path, os.O_RDONLY)
                try:
                    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(file)
