"""Names of files in a spool, and the numbers in these names. Files with other names are left alone.

The trade-off: each number has exactly one valid name, so names such as 0000000042.tar, 42.tar, or digits of
other scripts are ignored, although a person could read them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_SHARD = re.compile(r"(\d{8,12})\.tar")
_PARTIAL = re.compile(r"(\d{8,12})\.\d+\.tar")
_CURSOR = re.compile(r"rank-(\d{1,6})\.json")


def shard_file_name(shard: int) -> str:
    """Return the name of a published shard, such as `00000042.tar`."""
    return f"{shard:08d}.tar"


def shard_of_file_name(name: str) -> int | None:
    """Return the number of the shard with this file name; None for other names."""
    match = _SHARD.fullmatch(name)
    return int(match[1]) if match and shard_file_name(int(match[1])) == name else None


def partial_file_name(shard: int) -> str:
    """Return the name of the unfinished shard that the calling process writes: `00000042.PID.tar`."""
    return f"{shard:08d}.{os.getpid()}.tar"


def shard_of_partial_file_name(name: str) -> int | None:
    """Return the number of the unfinished shard with this name; None for other names."""
    match = _PARTIAL.fullmatch(name)
    return int(match[1]) if match else None


def cursor_file_name(rank: int) -> str:
    """Return the name of a rank's cursor file, such as `rank-0.json`."""
    return f"rank-{rank}.json"


def rank_of_file_name(name: str) -> int | None:
    """Return the rank whose cursor file has this name; None for other names."""
    match = _CURSOR.fullmatch(name)
    return int(match[1]) if match else None


def is_path_text(text: str) -> bool:
    """Return whether a text from a record can be a path: no NUL, and no half of a surrogate pair that stands for no byte."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def published_path(path: str | os.PathLike[str]) -> str:
    """Return a path without the names of this machine's directories, for records that others may read.

    It is relative to the working directory if it is below it, else only the last part is left.
    """
    found = Path(path)
    if not found.is_absolute():
        return str(found)
    here = Path.cwd()
    return str(found.relative_to(here)) if found.is_relative_to(here) else found.name
