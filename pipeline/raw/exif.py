"""Camera, exposure time and ISO of a RAW file from its directories, without decoding it.

The trade-off: a few hundred bytes are read instead of tens of megabytes (LibRaw tells these facts
only after unpacking all pixels, a second for a compressed 20 MP frame). In return only containers
built on TIFF (ARW, CR2, NEF, DNG, PEF) and Fujifilm's RAF are understood; for others, and for
damaged directories, the answer is "unknown" (0, "" or None), never a guess.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from darkprep.shards.errors import RawError

Answer = TypeVar("Answer")

_MAKE, _MODEL, _EXPOSURE, _EXIF_POINTER = 0x010F, 0x0110, 0x829A, 0x8769
_ISO, _RECOMMENDED_INDEX, _ISO_SPEED = 0x8827, 0x8832, 0x8833
_COMPRESSION, _STRIPS, _SUB_DIRECTORIES, _STRIP_SIZES = 0x0103, 0x0111, 0x014A, 0x0117
_UNCOMPRESSED = 1
_FORMATS = {2: "s", 3: "H", 4: "I", 5: "II", 13: "I"}
"""struct formats of the TIFF types ASCII, SHORT, LONG, RATIONAL, IFD; no other is needed here."""
_MOST_ENTRIES = 1000
_MOST_TEXT = 256
_MOST_NUMBERS = 1 << 16
_ASCII = 2
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
    return _asked(os.fspath(path), _exposure) or Exposure()


def pixels_end(path: str | os.PathLike[str]) -> int | None:
    """Returns where in the file uncompressed pixels end, so that a shorter file is known as cut off.

    None where they are compressed (then only decoding tells) or the directories do not say. Raises
    RawError when the file cannot be opened.
    """
    return _asked(os.fspath(path), _strips_end)


def _asked(name: str, question: Callable[[_Tiff], Answer]) -> Answer | None:
    """Puts a question to the file's TIFF structure; None where there is none or it is damaged."""
    try:
        with Path(name).open("rb") as file:
            start = _tiff_start(file)
            return None if start is None else question(_Tiff(file, start))
    except struct.error:  # a directory points past the end of the file
        return None
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
    """Returns the end of the last uncompressed strip of the first directory and those below it."""
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
        """Where the first directory stands."""
        return self._unpack("I", 4)[0]

    def values(self, directory: int) -> dict[int, float | str]:
        """Text or first number of each tag of a directory whose type is known here."""
        found: dict[int, float | str] = {}
        for code, kind, length, place in self._entries(directory):
            if kind == _ASCII:
                raw = self._bytes(place, min(length, _MOST_TEXT))
                found[code] = raw.split(b"\x00")[0].decode("utf-8", "replace").strip()
            else:
                found[code] = self._number(place, kind)
        return found

    def numbers(self, directory: int, wanted: int) -> list[float]:
        """All numbers of one tag of a directory; none where it is missing or text."""
        for code, kind, length, place in self._entries(directory):
            if code == wanted and kind != _ASCII:
                step = struct.calcsize(f"={_FORMATS[kind]}")
                count = min(length, _MOST_NUMBERS)
                return [self._number(place + step * index, kind) for index in range(count)]
        return []

    def _entries(self, directory: int) -> Iterator[tuple[int, int, int, int]]:
        """Yields code, type, count and place of value of the entries whose type is known here."""
        (count,) = self._unpack("H", directory)
        for entry in range(directory + 2, directory + 2 + 12 * min(count, _MOST_ENTRIES), 12):
            code, kind, length = self._unpack("HHI", entry)
            if kind in _FORMATS and length:
                inline = struct.calcsize(f"={_FORMATS[kind]}") * length <= 4
                yield code, kind, length, entry + 8 if inline else self._unpack("I", entry + 8)[0]

    def _number(self, place: int, kind: int) -> float:
        numbers = self._unpack(_FORMATS[kind], place)
        if len(numbers) == 2:  # a fraction
            return numbers[0] / numbers[1] if numbers[1] else 0.0
        return float(numbers[0])

    def _unpack(self, form: str, place: int) -> tuple[int, ...]:
        form = self._order + form
        return struct.unpack(form, self._bytes(place, struct.calcsize(form)))

    def _bytes(self, place: int, size: int) -> bytes:
        self._file.seek(self._start + place)
        return self._file.read(size)
