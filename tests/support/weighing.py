"""Weighs a spool while others work in it, without ever counting what did not exist at one moment.

A scan of folders is not one moment: a file may be seen, renamed and seen again, or be gone before its
successor is seen. So files count by inode, and only those that two scans in a row both saw: all of
these existed between the two. The trade-off: what lives shorter than a scan (2 ms) is missed.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from darkprep.shards import Spool

Scan = dict[tuple[int, int], tuple[int, str]]
"""Device and inode to allocated bytes and path."""


def scan(folder: Path) -> Scan:
    """All files and folders below `folder`, and itself."""
    found: Scan = {}
    try:
        status = folder.lstat()
        found[status.st_dev, status.st_ino] = (status.st_blocks * 512, str(folder))
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    found |= scan(Path(entry.path))
                else:
                    status = entry.stat(follow_symlinks=False)
                    found[status.st_dev, status.st_ino] = (status.st_blocks * 512, entry.path)
    except FileNotFoundError:
        pass
    return found


class Scale:
    """Weighs a spool from a thread of its own, for the time of a `with` block."""

    def __init__(self, spool: Spool, *, every_s: float = 0.004) -> None:
        self._spool = spool
        self._every_s = every_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.peak_bytes = 0
        """Of everything in the spool."""
        self.peak_payload_bytes = 0
        """Of shards and frames alone, wherever they lie: what the budget leaves after its fixed part."""
        self.heaviest: list[str] = []
        """What made up the payload's peak."""
        self.shards_seen: set[tuple[str, int]] = set()
        """Names and inodes of published shards: each making of a shard is another inode."""

    def _run(self) -> None:
        before: Scan = {}
        while not self._done.wait(self._every_s):
            now = scan(self._spool.path)
            self._take({key: now[key] for key in now.keys() & before.keys()}, before)
            before = now

    def _take(self, both: Scan, before: Scan) -> None:
        total = payload = 0
        for (device, inode), (size, path) in both.items():
            size = min(size, before[device, inode][0])
            total += size
            if path.endswith((".tar", "/0.0.0")):
                payload += size
            if path.endswith(".tar") and "/ready/" in path:
                self.shards_seen.add((path, inode))
        self.peak_bytes = max(self.peak_bytes, total)
        if payload > self.peak_payload_bytes:
            self.peak_payload_bytes = payload
            self.heaviest = sorted(path for _, path in both.values())

    def __enter__(self) -> Scale:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
