"""The metadata of a photograph that its restored picture keeps: date, lens, exposure, author, position.

The trade-off: values are copied as bytes and not interpreted, so nothing is lost by a conversion; but only tags
that are true of a restored picture are copied, and only small values: no previews, and no maker notes, whose
offsets are wrong in another file and which may hold serial numbers.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import rawpy

from darkprep.pipeline.raw.exif import refuse_pipe, tiff_start
from darkprep.pipeline.raw.frame import RawHeader
from darkprep.pipeline.raw.libraw import without_libraw_messages
from darkprep.pipeline.raw.tiff import Tiff

ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 2, 3, 4, 5, 7
"""TIFF types."""
MAKE, MODEL, DESCRIPTION, ORIENTATION, SOFTWARE = 271, 272, 270, 274, 305
_ARTIST, _COPYRIGHT = 315, 33432
EXIF_POINTER, GPS_POINTER = 34665, 34853
_EXPOSURE_TIME, _F_NUMBER, _ISO, _FOCAL_LENGTH = 33434, 33437, 34855, 37386
_VERSION, _DATE, _COLOUR_SPACE, _WIDTH, _HEIGHT = 36864, 36867, 40961, 40962, 40963
_MAIN = {DESCRIPTION, MAKE, MODEL, _ARTIST, _COPYRIGHT}
_EXIF = {_EXPOSURE_TIME, _F_NUMBER, *range(34850, 34868), *range(36864, 42241)}
_NOT_COPIED = {
    34853,  # the pointer to the position, which is copied on its own
    37121, 37122,  # components and bits per pixel of a JPEG
    37500,  # maker notes
    40961, 40962, 40963,  # colour space and size, which are set anew
    40965,  # pointer to the interoperability directory
    41730,  # CFA pattern
}  # fmt: skip
_GPS = set(range(32))
_MAX_VALUE_BYTES = 1024
_MAX_BYTES = 30_000
"""Bytes of all values; a JPEG file has room for 65,533."""
_MAX_TAGS = 200


class TagValue(NamedTuple):
    """The value of a tag: TIFF type, number of values, little-endian bytes."""

    kind: int
    length: int
    data: bytes


Tags = Mapping[int, TagValue]


@dataclass(frozen=True, kw_only=True)
class PhotoMetadata:
    """Tags of a photograph by their codes, in the directories in which Exif 2.32 keeps them."""

    main: Tags = field(default_factory=dict)
    """Maker, model, description, artist, copyright: text only."""
    exif: Tags = field(default_factory=dict)
    """Exposure, lens, dates."""
    gps: Tags = field(default_factory=dict)
    """Position."""

    def without_position(self) -> PhotoMetadata:
        """Return the metadata without the position."""
        return replace(self, gps={})

    def of_picture(self, *, width: int, height: int, software: str) -> PhotoMetadata:
        """Return the metadata of an upright sRGB picture of this size, written by `software`."""
        main = {**self.main, ORIENTATION: short(1), SOFTWARE: text(software)}
        exif = {
            _VERSION: TagValue(UNDEFINED, 4, b"0232"),
            **self.exif,
            _COLOUR_SPACE: short(1),
            _WIDTH: long(width),
            _HEIGHT: long(height),
        }
        return replace(self, main=main, exif=exif)


def read_metadata(path: str | os.PathLike[str], header: RawHeader) -> PhotoMetadata:
    """Return the metadata of a RAW file; without Exif directories in it, what LibRaw reads and `header` states.

    At most 200 tags and 30,000 bytes are read. A damaged directory gives what precedes the damage.
    """
    found = metadata_in_directories(path)
    return found if found.exif else _from_libraw(path, header, found)


def metadata_in_directories(path: str | os.PathLike[str]) -> PhotoMetadata:
    """Return the metadata in the Exif directories of a file; empty if it has none that can be read."""
    with contextlib.suppress(OSError, struct.error):
        refuse_pipe(Path(path))
        with Path(path).open("rb") as file:
            start = tiff_start(file)
            if start is not None:
                return _from_directories(Tiff(file, start))
    return PhotoMetadata()


def text(value: str) -> TagValue:
    """Return text as a tag's value; characters outside ASCII are written as UTF-8, as readers expect today."""
    data = value.replace("\0", " ").encode("utf-8", "replace")[: _MAX_VALUE_BYTES - 1] + b"\0"
    return TagValue(ASCII, len(data), data)


def short(value: int) -> TagValue:
    """Return a number of 16 bits as a tag's value."""
    return TagValue(SHORT, 1, struct.pack("<H", value))


def long(value: int) -> TagValue:
    """Return a number of 32 bits as a tag's value."""
    return TagValue(LONG, 1, struct.pack("<I", value))


def _from_directories(tiff: Tiff) -> PhotoMetadata:
    budget = _Budget()
    first = tiff.first_directory()
    pointers = tiff.values(first)
    main = budget.read(tiff, first, _MAIN)
    exif = budget.read(
        tiff, first, {_EXPOSURE_TIME, _F_NUMBER, _ISO}
    )  # where DNG files may have them
    exif |= budget.read(tiff, _offset(pointers.get(EXIF_POINTER)), _EXIF - _NOT_COPIED)
    gps = budget.read(tiff, _offset(pointers.get(GPS_POINTER)), _GPS)
    main = {code: value for code, value in main.items() if value.kind == ASCII}
    return PhotoMetadata(main=main, exif=exif, gps=gps)


def _offset(value: float | str | None) -> int:
    return int(value) if isinstance(value, float) else 0


class _Budget:
    """Reads directories until 200 tags or 30,000 bytes were read."""

    def __init__(self) -> None:
        self._tags, self._bytes = _MAX_TAGS, _MAX_BYTES

    def read(self, tiff: Tiff, directory: int, wanted: set[int]) -> dict[int, TagValue]:
        """Return the wanted tags of a directory at an offset; empty for offset 0."""
        found: dict[int, TagValue] = {}
        with contextlib.suppress(struct.error, OverflowError):
            for code, kind, count, data in (
                tiff.raw_values(directory, _MAX_VALUE_BYTES) if directory else ()
            ):
                if code not in wanted or code in found:
                    continue
                self._tags -= 1
                self._bytes -= len(data) + 12
                if min(self._tags, self._bytes) < 0:
                    break
                found[code] = TagValue(kind, count, data)
        return found


def _from_libraw(
    path: str | os.PathLike[str], header: RawHeader, found: PhotoMetadata
) -> PhotoMetadata:
    """Return what LibRaw reads of a file without Exif directories, such as CRW."""
    main = {
        MAKE: text(header.make),
        MODEL: text(header.model),
        **found.main,
    }
    numbers = {_EXPOSURE_TIME: header.exposure_s}
    exif: dict[int, TagValue] = {}
    with contextlib.suppress(
        rawpy.LibRawError, OSError, RuntimeError, ValueError, OverflowError, AttributeError
    ):
        with without_libraw_messages(), rawpy.imread(os.fspath(path)) as raw:
            other = raw.other
            numbers |= {_F_NUMBER: other.aperture, _FOCAL_LENGTH: other.focal_length}
            exif[_DATE] = text(other.timestamp.strftime("%Y:%m:%d %H:%M:%S"))
    exif |= {code: _rational(value) for code, value in numbers.items() if 0 < value < 1e6}
    if 0 < header.iso < 65536:
        exif[_ISO] = short(round(header.iso))
    return replace(found, main=main, exif=exif)


def _rational(value: float) -> TagValue:
    top, bottom = (1, round(1 / value)) if 0 < value < 0.5 else (round(value * 1000), 1000)
    return TagValue(RATIONAL, 1, struct.pack("<2I", top, bottom))
