"""A page cache that is too small for the data, which is the case of a real spool: larger than memory.

A memory cgroup limits the processes of one case, their share of the page cache included; or the files of a folder are
evicted from the page cache five times a second. The trade-off: the cgroup counts memory of the processes too, so a loader
that keeps its data in memory has less page cache or is killed; eviction spares files that are not yet written back.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_EVICT_EVERY_S = 0.2


@contextlib.contextmanager
def evicted(folder: Path) -> Iterator[None]:
    """Evict the files below a folder from the page cache again and again until the block ends."""
    over = threading.Event()
    thread = threading.Thread(target=_evict_until, args=(over, folder), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class MemoryGroup:
    """A memory cgroup for the processes that are started in its block, and for their children."""

    def __init__(self, name: str, limit_bytes: int) -> None:
        self._parent, file = _memory_group_of_this_process()
        self._group = self._parent / f"darkprep-bench-{os.getpid()}-{name}"
        try:
            self._group.mkdir()
            (self._group / file).write_text(str(limit_bytes))
        except OSError as error:
            raise SystemExit(
                f"{self._group}: {error.strerror}; use --cold in place of --memory"
            ) from None

    def __enter__(self) -> None:
        resource_tracker.ensure_running()  # outside of the group, for it ends last
        (self._group / "cgroup.procs").write_text(str(os.getpid()))

    def __exit__(self, *_: object) -> None:
        (self._parent / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        """Remove the cgroup when its last process has ended."""
        for _ in range(50):
            with contextlib.suppress(OSError):
                return self._group.rmdir()
            time.sleep(0.1)
        print(f"left behind: {self._group}, in which a process still runs")
        return None


def _memory_group_of_this_process() -> tuple[Path, str]:
    """The folder of the cgroup, and the file in it that limits memory."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers == "memory":
            return _GROUPS / "memory" / own.lstrip("/"), "memory.limit_in_bytes"
        if not controllers and (_GROUPS / "cgroup.controllers").exists():
            return _GROUPS / own.lstrip("/"), "memory.max"
    raise SystemExit("this process is in no memory cgroup; use --cold in place of --memory")


def _evict_until(over: threading.Event, folder: Path) -> None:
    while not over.wait(_EVICT_EVERY_S):
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):
                file = os.open(path, os.O_RDONLY)
                try:
                    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(file)
