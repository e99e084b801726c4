"""A folder in memory for the files of a target, since a disk would be the slowest part of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path


def memory() -> str | None:
    """Return the directory of files in memory; None, for that of temporary files, where there is none."""
    directory = "/dev/shm"  # noqa: S108 # each target makes a new folder in it
    return directory if Path(directory).is_dir() else None


def new_folder() -> Path:
    """Return a new folder in memory, or else among the temporary files.

    Folders of processes that have ended are removed: libFuzzer ends its process without giving it time to do so itself.
    """
    parent = Path(memory() or tempfile.gettempdir())
    for left in parent.glob("fuzz-*-*"):
        owner = left.name.split("-")[1]
        if owner.isdecimal() and not Path("/proc", owner).exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"fuzz-{os.getpid()}-", dir=parent))
