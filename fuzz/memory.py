"""A folder in memory for the files of a target, since a disk would be the slowest part of it."""

from __future__ import annotations

import tempfile
from pathlib import Path


def new_folder() -> Path:
    """Return a new folder in memory, or else among the temporary files."""
    memory = "/dev/shm"  # noqa: S108 # a fresh folder in it
    return Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if Path(memory).is_dir() else None))
