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
    """Return the name of the first file in the zip archive that has a wrong checksum; None if all are right.

    Raises ValueError if files in the archive are compressed (torch never does this) or are together larger than
    the archive, or if its pickle exceeds what the state of a training run can need, in size or in its number of
    references to the same tuples. Raises the exceptions of zipfile for a file that is not a zip archive.
    """
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len(entries) > _MOST_ENTRIES:
            raise ValueError(f"its zip archive has more than {_MOST_ENTRIES} files")
        if len({one.filename for one in entries}) < len(entries):
            raise ValueError("its zip archive has two files of the same name")
        if any(one.compress_type != zipfile.ZIP_STORED for one in entries):
            raise ValueError("its zip archive is compressed, which torch never does")
        if sum(one.file_size for one in entries) > size:
            raise ValueError("files overlap in its zip archive")
        damaged = archive.testzip()
        if damaged is None:
            for one in entries:
                if one.filename.endswith(".pkl"):
                    _check_pickle(archive, one)
    return damaged


def _check_pickle(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Raise ValueError for a pickle that takes much memory or time to load.

    Python computes the hash of a tuple from all its items each time. If a tuple holds the previous tuple
    twice, and so on 40 times, computing the hash takes hours.
    """
    if entry.file_size > _LARGEST_PICKLE:
        raise ValueError(f"its pickle has more than {_LARGEST_PICKLE >> 20} MiB")
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
            raise ValueError(
                "its pickle is more complex than that of any checkpoint of a training run"
            )
        previous = name if not name.endswith("PUT") and name != "MEMOIZE" else previous
