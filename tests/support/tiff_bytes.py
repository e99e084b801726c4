"""TIFF and RAF structures of a few tags, built by hand."""

from __future__ import annotations

import struct

Entries = dict[int, str | int | tuple[int, int]]

MAKE, MODEL, EXPOSURE, ISO, POINTER, INDEX = 0x010F, 0x0110, 0x829A, 0x8827, 0x8769, 0x8832


def directory(order: str, at: int, entries: Entries) -> bytes:
    """Return one TIFF directory at `at`: code to text, int or (numerator, denominator)."""
    head, values = struct.pack(f"{order}H", len(entries)), b""
    free = at + 2 + 12 * len(entries) + 4
    for code, value in sorted(entries.items()):
        if isinstance(value, str):
            kind, raw = 2, value.encode() + b"\0"
        elif isinstance(value, tuple):
            kind, raw = 5, struct.pack(f"{order}II", *value)
        elif value < 65536 and code != POINTER:
            kind, raw = 3, struct.pack(f"{order}H", value)
        else:
            kind, raw = 4, struct.pack(f"{order}I", value)
        count = len(raw) if kind == 2 else 1
        head += struct.pack(f"{order}HHI", code, kind, count)
        if len(raw) <= 4:
            head += raw.ljust(4, b"\0")
        else:
            head += struct.pack(f"{order}I", free + len(values))
            values += raw
    return head + struct.pack(f"{order}I", 0) + values


def tiff(first: Entries, exif: Entries | None = None, order: str = "<") -> bytes:
    """Return a TIFF structure of a first directory and, optionally, an Exif directory."""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    if exif is None:
        return magic + struct.pack(f"{order}I", 8) + directory(order, 8, first)
    size = len(directory(order, 8, {**first, POINTER: 0}))
    main = directory(order, 8, {**first, POINTER: 8 + size})
    return magic + struct.pack(f"{order}I", 8) + main + directory(order, 8 + size, exif)


def raf(exif_tiff: bytes) -> bytes:
    """Return the head of a RAF file whose preview has this Exif structure."""
    jpeg = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(exif_tiff) + 8) + b"Exif\0\0" + exif_tiff
    head = b"FUJIFILMCCD-RAW 0201".ljust(84, b"\0") + struct.pack(">II", 148, len(jpeg))
    return head.ljust(148, b"\0") + jpeg
