"""Write metadata as TIFF directories: a block of its own for PNG and JPEG, or appended to a TIFF or DNG file.

tifffile can write neither an Exif directory nor the tag that points to it. So the file is written with a
reserved tag, which is then overwritten by the pointer.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Container, Iterable
from fractions import Fraction
from itertools import chain
from typing import BinaryIO

from darkprep.pipeline.raw.photo_metadata import (
    ASCII,
    EXIF_POINTER,
    GPS_POINTER,
    LONG,
    PhotoMetadata,
    Tags,
    long,
)

RESERVED = {EXIF_POINTER: EXIF_POINTER - 1, GPS_POINTER: GPS_POINTER - 1}
"""Pointer to a directory, and the tag that is reserved for it: the codes of a directory must be in order."""
_SUB_DIRECTORIES = 330
TIFF_HEADER = b"II*\0\x08\0\0\0"
"""Of a little-endian TIFF file whose first directory follows."""


def exif_block(metadata: PhotoMetadata) -> bytes:
    """Return the metadata as a TIFF structure, as the eXIf chunk of PNG and, after `Exif\\0\\0`, JPEG hold it."""
    main = dict(metadata.main)
    below = {EXIF_POINTER: metadata.exif, GPS_POINTER: metadata.gps}
    below = {pointer: tags for pointer, tags in below.items() if tags}
    main |= {pointer: long(0) for pointer in below}
    at = len(TIFF_HEADER) + len(directory_bytes(main, len(TIFF_HEADER)))
    parts = []
    for pointer, tags in below.items():
        main[pointer] = long(at)
        parts.append(directory_bytes(tags, at))
        at += len(parts[-1])
    return b"".join((TIFF_HEADER, directory_bytes(main, len(TIFF_HEADER)), *parts))


def directory_bytes(tags: Tags, at: int) -> bytes:
    """Return a little-endian directory without a next one, with its values behind it, for the file offset `at`."""
    values_at = at + 2 + 12 * len(tags) + 4
    directory, values = struct.pack("<H", len(tags)), b""
    for code, (kind, length, data) in sorted(tags.items()):
        directory += struct.pack("<HHI", code, kind, length)
        if len(data) <= 4:
            directory += data.ljust(4, b"\0")
        else:
            directory += struct.pack("<I", values_at + len(values))
            values += data + b"\0" * (len(data) % 2)
    return directory + struct.pack("<I", 0) + values


def append_directory(file: BinaryIO, tags: Tags, pointer: int) -> None:
    """Append a directory to a little-endian TIFF file, and replace the tag that is reserved for it by the tag `pointer`, which holds its position."""
    start = file.seek(0, os.SEEK_END)
    start += file.write(b"\0" * (start % 2))
    file.write(directory_bytes(tags, start))
    file.seek(_position(file, RESERVED[pointer]))
    file.write(struct.pack("<HHII", pointer, LONG, 1, start))


def rationals(values: Iterable[float]) -> tuple[int, ...]:
    """Return numerator and denominator of a small fraction close to each value.

    0.1 s is written as 1/10, not as the exact fraction of the binary number, because readers compare
    exposures.
    """
    fractions = (Fraction(value).limit_denominator(1_000_000) for value in values)
    return tuple(chain.from_iterable((one.numerator, one.denominator) for one in fractions))


def main_tags(
    metadata: PhotoMetadata, *, without: Container[int] = ()
) -> list[tuple[int, int, int, object, bool]]:
    """Return the tags of the first directory, text and numbers of 16 bits, as tifffile takes `extratags`."""
    return [
        (code, value.kind, value.length, value.data, True)
        if value.kind == ASCII
        else (code, value.kind, 1, int.from_bytes(value.data, "little"), True)
        for code, value in metadata.main.items()
        if code not in without
    ]


def reserved_tags(metadata: PhotoMetadata) -> list[tuple[int, int, int, int, bool]]:
    """Return the tags that tifffile writes in the place of the pointers, as `extratags`."""
    wanted = {EXIF_POINTER: metadata.exif, GPS_POINTER: metadata.gps}
    return [(RESERVED[code], LONG, 1, 0, True) for code, tags in wanted.items() if tags]


def append_metadata(file: BinaryIO, metadata: PhotoMetadata) -> None:
    """Append the Exif and the GPS directory to a TIFF file that was written with `reserved_tags`."""
    for pointer, tags in ((EXIF_POINTER, metadata.exif), (GPS_POINTER, metadata.gps)):
        if tags:
            append_directory(file, tags, pointer)


def use_long_pointers(file: BinaryIO) -> None:
    """Give the tag SubIFDs of a TIFF file the type LONG instead of IFD, which some readers do not know."""
    file.seek(_position(file, _SUB_DIRECTORIES) + 2)
    file.write(struct.pack("<H", LONG))


def _position(file: BinaryIO, wanted: int) -> int:
    """Return the file offset of a tag's entry in the first directory of a little-endian TIFF."""
    file.seek(4)
    (directory,) = struct.unpack("<I", file.read(4))
    file.seek(directory)
    (count,) = struct.unpack("<H", file.read(2))
    codes = [struct.unpack("<H10x", file.read(12))[0] for _ in range(count)]
    return int(directory + 2 + 12 * codes.index(wanted))
