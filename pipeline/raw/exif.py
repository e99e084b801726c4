"""Camera, exposure time and ISO of a RAW file from its directories, without decoding it.

The trade-off: a few hundred bytes are read instead of tens of megabytes (LibRaw returns these values
only after unpacking all pixels, a second for a compressed 20 MP frame). In return only containers
built on TIFF (ARW, CR2, NEF, DNG, PEF) and Fujifilm's RAF are parsed; for others, and for damaged
directories, the values are "unknown" (0, "" or None), never a guess.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from darkprep.shards.errors import RawError

Result = TypeVar("Result")

_MAKE, _MODEL, _EXPOSURE, _EXIF_POINTER = 0x010F, 0x0110, 0x829A, 0x8769
_ISO, _RECOMMENDED_INDEX, _ISO_SPEED = 0x8827, 0x8832, 0x8833
_COMPRESSION, _STRIPS, _SUB_DIRECTORIES, _STRIP_SIZES = 0x0103, 0x0111, 0x014A, 0x0117
_UNCOMPRESSED = 1
_FORMATS = {2: "s", 3: "H", 4: "I", 5: "II", 13: "I"}
"""struct formats of the TIFF types ASCII, SHORT, LONG, RATIONAL and IFD; others are skipped."""
_MAX_ENTRIES = 1000
_MAX_TEXT = 256
_MAX_NUMBERS = 1 << 16
_ASCII = 2
_RAF_MAGIC = b"FUJIFILMCCD-RAW"
_RAF_JPEG_POINTER = 84


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """Exposure and camera from the Exif directory; 0 and "" if unknown."""

    exposure_s: float = 0.0
    """Exposure time in seconds, from the file's exact fraction."""
    iso: float = 0.0
    make: str = ""
    model: str = ""


def read_exposure(path: str | os.PathLike[str]) -> Exposure:
    """Return exposure and camera of a RAW file. Raises RawError if the file cannot be opened."""
    return _read_tiff(os.fspath(path), _exposure) or Exposure()


def pixels_end(path: str | os.PathLike[str]) -> int | None:
    """Return the file offset at which uncompressed pixels end: a shorter file is truncated.

    None if they are compressed (then only decoding finds out) or the directories do not state it.
    Raises RawError if the file cannot be opened.
    """
    return _read_tiff(os.fspath(path), _strips_end)


def _read_tiff(name: str, parse: Callable[[_Tiff], Result]) -> Result | None:
    """Return what `parse` reads of the file's TIFF structure; None if it has none or it is damaged."""
    try:
        with Path(name).open("rb") as file:
            start = _tiff_start(file)
            return None if start is None else parse(_Tiff(file, start))
    except struct.error:  # a directory points past the end of the file
        return None
    except OSError as error:
        raise RawError(name, unreadable_reason(error)) from error


def unreadable_reason(error: OSError) -> str:
    """Return why a file cannot be opened, and what to do, as a RawError's reason."""
    if isinstance(error, FileNotFoundError):
        return "no such file; check the path"
    if isinstance(error, IsADirectoryError):
        return "is a directory; name a RAW file"
    if isinstance(error, PermissionError):
        return "permission denied; check its permissions"
    return f"cannot be read ({error.strerror or error}); check the disk"


def _exposure(tiff: _Tiff) -> Exposure:
    """Merge the first directory (where DNG files may keep all) and the Exif directory below it."""
    first = tiff.values(tiff.first_directory())
    pointer = int(_number(first.get(_EXIF_POINTER)))
    tags = {**first, **tiff.values(pointer)} if pointer else first
    iso = _number(tags.get(_ISO))
    if iso == 0xFFFF:  # the field is 16 bits wide; Exif 2.3 keeps higher values elsewhere
        iso = _number(tags.get(_ISO_SPEED)) or _number(tags.get(_RECOMMENDED_INDEX)) or iso
    return Exposure(
        exposure_s=_number(tags.get(_EXPOSURE)),
        iso=iso,
        make=_text(first.get(_MAKE)),
        model=_text(first.get(_MODEL)),
    )


def _strips_end(tiff: _Tiff) -> int | None:
    """Return the end of the last uncompressed strip of the first directory and those below it."""
    first = tiff.first_directory()
    ends = []
    for directory in (first, *map(int, tiff.numbers(first, _SUB_DIRECTORIES))):
        if tiff.numbers(directory, _COMPRESSION) == [_UNCOMPRESSED]:
            strips = tiff.numbers(directory, _STRIPS)
            sizes = tiff.numbers(directory, _STRIP_SIZES)
            ends += [int(start + size) for start, size in zip(strips, sizes, strict=False)]
    return max(ends, default=None)


def _number(value: float | str | None) -> float:
    return value if isinstance(value, float) else 0.0


def _text(value: float | str | None) -> str:
    return value if isinstance(value, str) else ""


def _tiff_start(file: BinaryIO) -> int | None:
    """Return the file offset of the TIFF structure; None if there is none."""
    head = file.read(16)
    if head.startswith(_RAF_MAGIC):
        return _exif_in_jpeg(file)
    return 0 if head[:4] in (b"II*\x00", b"MM\x00*") else None


def _exif_in_jpeg(file: BinaryIO) -> int | None:
    """Return the file offset of the Exif data in a RAF file's preview, the first segment of its JPEG."""
    file.seek(_RAF_JPEG_POINTER)
    (jpeg,) = struct.unpack(">I", file.read(4))
    file.seek(jpeg)
    head = file.read(12)
    return jpeg + 12 if head[:4] == b"\xff\xd8\xff\xe1" and head[6:] == b"Exif\x00\x00" else None


class _Tiff:
    """Read directories of a TIFF structure that begins at `start`. Raises struct.error past its end."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file = file
        self._start = start
        self._order = "<" if self._bytes(0, 2) == b"II" else ">"

    def first_directory(self) -> int:
        """Return the offset of the first directory."""
        return self._unpack("I", 4)[0]

    def values(self, directory: int) -> dict[int, float | str]:
        """Return text or first number of each tag of a directory whose type is in _FORMATS."""
        found: dict[int, float | str] = {}
        for code, kind, length, offset in self._entries(directory):
            if kind == _ASCII:
                raw = self._bytes(offset, min(length, _MAX_TEXT))
                found[code] = raw.split(b"\x00")[0].decode("utf-8", "replace").strip()
            else:
                found[code] = self._number(offset, kind)
        return found

    def numbers(self, directory: int, wanted: int) -> list[float]:
        """Return all numbers of one tag of a directory; none if it is missing or text."""
        for code, kind, length, offset in self._entries(directory):
            if code == wanted and kind != _ASCII:
                step = struct.calcsize(f"={_FORMATS[kind]}")
                count = min(length, _MAX_NUMBERS)
                return [self._number(offset + step * index, kind) for index in range(count)]
        return []

    def _entries(self, directory: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield code, type, count and value offset of the entries whose type is in _FORMATS."""
        (count,) = self._unpack("H", directory)
        for entry in range(directory + 2, directory + 2 + 12 * min(count, _MAX_ENTRIES), 12):
            code, kind, length = self._unpack("HHI", entry)
            if kind in _FORMATS and length:
                inline = struct.calcsize(f"={_FORMATS[kind]}") * length <= 4
                yield code, kind, length, entry + 8 if inline else self._unpack("I", entry + 8)[0]

    def _number(self, offset: int, kind: int) -> float:
        numbers = self._unpack(_FORMATS[kind], offset)
        if len(numbers) == 2:  # a fraction
            return numbers[0] / numbers[1] if numbers[1] else 0.0
        return float(numbers[0])

    def _unpack(self, format: str, offset: int) -> tuple[int, ...]:
        format = self._order + format
        return struct.unpack(format, self._bytes(offset, struct.calcsize(format)))

    def _bytes(self, offset: int, size: int) -> bytes:
        self._file.seek(self._start + offset)
        return self._file.read(size)
