"""Camera, exposure time and ISO of a RAW file from its Exif directory, without decoding it.

The trade-off: a few hundred bytes are read instead of tens of megabytes (LibRaw tells these facts
only after unpacking all pixels, a second for a compressed 20 MP frame). In return only containers
built on TIFF (ARW, CR2, NEF, DNG, PEF) and Fujifilm's RAF are understood; for others, and for
damaged directories, the answer is "unknown" (0 and ""), never a guess.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shards.errors import RawError

_MAKE, _MODEL, _EXPOSURE, _EXIF_POINTER = 0x010F, 0x0110, 0x829A, 0x8769
_ISO, _RECOMMENDED_INDEX, _ISO_SPEED = 0x8827, 0x8832, 0x8833
_FORMATS = {2: "s", 3: "H", 4: "I", 5: "II"}
"""struct formats of the TIFF types ASCII, SHORT, LONG, RATIONAL; no other is needed here."""
_MOST_ENTRIES = 1000
_MOST_TEXT = 256
_RAF_MAGIC = b"FUJIFILMCCD-RAW"
_RAF_JPEG_POINTER = 84


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """What the Exif directory says of how a photograph was taken; 0 and "" where it says nothing."""

    exposure_s: float = 0.0
    """Exposure time in seconds, from the file's exact fraction."""
    iso: float = 0.0
    make: str = ""
    model: str = ""


def read_exposure(path: str | os.PathLike[str]) -> Exposure:
    """Returns the exposure facts of a RAW file. Raises RawError when the file cannot be opened."""
    name = os.fspath(path)
    try:
        with Path(name).open("rb") as file:
            start = _tiff_start(file)
            return Exposure() if start is None else _exposure(_Tiff(file, start))
    except struct.error:  # the directory points past the end of the file
        return Exposure()
    except OSError as error:
        raise RawError(name, why_unreadable(error)) from error


def why_unreadable(error: OSError) -> str:
    """Says in words why a file cannot be opened, and what to do."""
    if isinstance(error, FileNotFoundError):
        return "no such file; check the path"
    if isinstance(error, IsADirectoryError):
        return "is a directory; name a RAW file"
    if isinstance(error, PermissionError):
        return "may not be read; check its permissions"
    return f"cannot be read ({error.strerror or error}); check the disk"


def _exposure(tiff: _Tiff) -> Exposure:
    """Merges the first directory (where DNG files may keep all) and the Exif directory below it."""
    first = dict(tiff.entries(tiff.first_directory()))
    pointer = first.get(_EXIF_POINTER)
    exif = dict(tiff.entries(int(pointer))) if isinstance(pointer, float) else {}
    tags = {**first, **exif}
    iso = _number(tags.get(_ISO))
    if iso == 0xFFFF:  # the field is 16 bits wide; Exif 2.3 keeps higher values elsewhere
        iso = _number(tags.get(_ISO_SPEED)) or _number(tags.get(_RECOMMENDED_INDEX)) or iso
    return Exposure(
        exposure_s=_number(tags.get(_EXPOSURE)),
        iso=iso,
        make=_text(first.get(_MAKE)),
        model=_text(first.get(_MODEL)),
    )


def _number(value: float | str | None) -> float:
    return value if isinstance(value, float) else 0.0


def _text(value: float | str | None) -> str:
    return value if isinstance(value, str) else ""


def _tiff_start(file: BinaryIO) -> int | None:
    """Returns where the TIFF structure begins in the file; None when there is none."""
    head = file.read(16)
    if head.startswith(_RAF_MAGIC):
        return _exif_in_jpeg(file)
    return 0 if head[:4] in (b"II*\x00", b"MM\x00*") else None


def _exif_in_jpeg(file: BinaryIO) -> int | None:
    """Returns where the Exif segment of a RAF file's preview begins; it is the JPEG's first."""
    file.seek(_RAF_JPEG_POINTER)
    (jpeg,) = struct.unpack(">I", file.read(4))
    file.seek(jpeg)
    head = file.read(12)
    return jpeg + 12 if head[:4] == b"\xff\xd8\xff\xe1" and head[6:] == b"Exif\x00\x00" else None


class _Tiff:
    """Reads directories of a TIFF structure that begins at `start`; struct.error where it ends."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file = file
        self._start = start
        self._order = "<" if self._bytes(0, 2) == b"II" else ">"

    def first_directory(self) -> int:
        return self._unpack("I", 4)[0]

    def entries(self, directory: int) -> Iterator[tuple[int, float | str]]:
        """Yields tag code and first value of the entries whose type is known here."""
        (count,) = self._unpack("H", directory)
        for index in range(min(count, _MOST_ENTRIES)):
            place = directory + 2 + 12 * index
            code, kind, length = self._unpack("HHI", place)
            if kind in _FORMATS and length:
                yield code, self._value(place + 8, kind, min(length, _MOST_TEXT))

    def _value(self, place: int, kind: int, length: int) -> float | str:
        form = _FORMATS[kind]
        size = struct.calcsize(f"={form}") * length
        if size > 4:
            (place,) = self._unpack("I", place)
        if form == "s":
            return self._bytes(place, size).split(b"\x00")[0].decode("utf-8", "replace").strip()
        numbers = self._unpack(form, place)
        if form == "II":
            return numbers[0] / numbers[1] if numbers[1] else 0.0
        return float(numbers[0])

    def _unpack(self, form: str, place: int) -> tuple[int, ...]:
        form = self._order + form
        return struct.unpack(form, self._bytes(place, struct.calcsize(form)))

    def _bytes(self, place: int, size: int) -> bytes:
        self._file.seek(self._start + place)
        return self._file.read(size)
