"""Close files in a forked child at once, because its copies would keep locks and the space of deleted files.

The trade-off: children that C code forks without running Python in them keep their copies.
"""

from __future__ import annotations

import contextlib
import functools
import os
from typing import Protocol


class OpenFiles(Protocol):
    """An object with open files that only the process that opened them may use."""

    def close_copies(self) -> None:
        """Close the files in a forked child, without any effect on the parent."""


_owned: set[OpenFiles] = set()


def close_in_forked_children(files: OpenFiles) -> None:
    """Make children that are forked from now on close these files, until `forget` is called."""
    _register()
    _owned.add(files)


def forget(files: OpenFiles) -> None:
    """Undo `close_in_forked_children` for these files."""
    _owned.discard(files)


def are_copies(files: OpenFiles) -> bool:
    """Return whether this process is a forked child, which has already closed the files."""
    return files not in _owned


@functools.cache
def _register() -> None:
    os.register_at_fork(after_in_child=_close_copies)


def _close_copies() -> None:
    for files in _owned:
        with contextlib.suppress(OSError):
            files.close_copies()
    _owned.clear()
