"""Bounds of a torch file (a zip archive of a pickle and tensors), checked before torch reads the file.

The trade-off: the archive is read twice, once for its checksums. torch checks neither them nor how much
memory and time the pickle would take.
"""

from __future__ import annotations

import os
import pickletools
import zipfile
from typing import BinaryIO

_MOST_ENTRIES = 100_000
_LARGEST_PICKLE = 32 << 20
_MOST_OPCODES = 2_000_000
_MOST_SHARED_TUPLES = 16


def check_torch_file(file: BinaryIO) -> str | None:
    """Return the name of the first entry with a wrong checksum; None if all are right.

    Raises ValueError if the archive holds compressed entries, which torch never writes, or entries that
    together are larger than the file, and if its pickle is larger or more deeply shared than the state of a
    training. Raises the exceptions of zipfile for a file that is not a zip archive.
    """
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len(entries) > _MOST_ENTRIES or len({one.filename for one in entries}) < len(entries):
            raise ValueError("too many entries")
        if any(one.compress_type != zipfile.ZIP_STORED for one in entries):
            raise ValueError("compressed entries")
        if sum(one.file_size for one in entries) > size:
            raise ValueError("entries that overlap")
        damaged = archive.testzip()
        if damaged is None:
            for one in entries:
                if one.filename.endswith(".pkl"):
                    _check_pickle(archive, one)
    return damaged


def _check_pickle(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Raise ValueError for a pickle that takes much memory or time to load.

    The hash of a tuple is computed anew from all its items, so that 40 nested tuples, each of which holds
    the one before twice, take hours as a key.
    """
    if entry.file_size > _LARGEST_PICKLE:
        raise ValueError("a pickle of more than 32 MiB")
    shared, previous, tuples = 0, "", set()
    memoised = 0
    for number, (opcode, argument, _) in enumerate(pickletools.genops(archive.read(entry))):
        name = opcode.name
        if name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            key = memoised if name == "MEMOIZE" else argument
            memoised += 1
            if previous.startswith("TUPLE"):
                tuples.add(key)
        elif name == "DUP" or (name in ("BINGET", "LONG_BINGET", "GET") and argument in tuples):
            shared += 1
        if number > _MOST_OPCODES or shared > _MOST_SHARED_TUPLES:
            raise ValueError("a pickle that shares too much")
        previous = name if not name.endswith("PUT") and name != "MEMOIZE" else previous
