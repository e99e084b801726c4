"""Measure the disk space of a spool as `du` does: allocated blocks of all files and directories.

The trade-off: stored frames never change, so each is counted once and remembered by name and inode. There
may be thousands of frames, and the sum is needed every second during a training run.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from darkprep.shards.files import DEEPEST, list_directory


class SpoolUsage:
    """Measures the bytes of a spool directory repeatedly; `frames` is the directory of stored frames in it."""

    def __init__(self, path: Path, frames: Path) -> None:
        self._path = path
        self._frames = frames
        self._frame_bytes: dict[tuple[str, int], int] = {}
        """Bytes of each stored frame, by name and inode."""

    def bytes(self) -> int:
        """Return the bytes that are allocated now."""
        if self._frames.is_symlink():
            return allocated_bytes(self._path)
        before, counted, unfinished = self._frame_bytes, {}, 0
        for entry in list_directory(self._frames):
            if entry.name.startswith("."):
                unfinished += _entry_bytes(entry)
            else:
                key = entry.name, entry.inode()
                counted[key] = before[key] if key in before else _entry_bytes(entry)
        self._frame_bytes = counted
        frames = unfinished + sum(counted.values()) + _own_bytes(self._frames)
        others = (entry for entry in list_directory(self._path) if entry.name != "frames")
        return sum(map(_entry_bytes, others), frames + _own_bytes(self._path))


def allocated_bytes(directory: Path) -> int:
    """Return the allocated bytes of a directory and everything in it, down to DEEPEST levels.

    Links are not followed; files that disappear during the count are left out.
    """
    total, waiting = _own_bytes(directory), [(directory, 1)]
    while waiting:
        path, level = waiting.pop()
        try:
            entries = list_directory(path)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            continue
        for entry in entries:
            total += _own_bytes(entry)
            if level < DEEPEST and entry.is_dir(follow_symlinks=False):
                waiting.append((Path(entry.path), level + 1))
    return total


def _entry_bytes(entry: os.DirEntry[str]) -> int:
    if entry.is_dir(follow_symlinks=False):
        return allocated_bytes(Path(entry.path))
    return _own_bytes(entry)


def _own_bytes(path: os.PathLike[str]) -> int:
    try:
        return os.lstat(path).st_blocks * 512
    except FileNotFoundError:
        return 0
