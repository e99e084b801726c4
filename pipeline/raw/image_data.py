"""Find where a RAW file's image data end and how they are compressed, from the file's directories.

The trade-off: for several compressions LibRaw's decoders ignore the end of the file and return invented
codes. So the length that each container records is compared with the size of the file. If a container has
no such record, or a damaged one, the end is unknown (None); then only the decoded codes can be checked
(`blank.py`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from darkprep.pipeline.raw.tiff import Tiff

_WIDTH, _HEIGHT, _COMPRESSION, _KIND = 0x0100, 0x0101, 0x0103, 0x00FE
_PIECES = ((0x0111, 0x0117), (0x0144, 0x0145))
"""Tags of offsets and byte counts, of strips and of tiles."""
_PHOTOMETRIC, _CFA = 0x0106, 32803
_SAMPLES, _MOST_SAMPLES = 0x0115, 16
"""SamplesPerPixel, for which LibRaw allocates memory; 1 in mosaics, 3 or 4 in others."""
_REDUCED = 1
"""Bit of NewSubfileType that marks previews."""
_CROP_ORIGIN, _CROP_SIZE, _ACTIVE_AREA = 0xC61F, 0xC620, 0xC68D
_MAX_BOXES = 1000
_CIFF_ENTRY = 10
_PANASONIC_WIDTH, _PANASONIC_HEIGHT, _PANASONIC_BITS = 0x0002, 0x0003, 0x000A
_PANASONIC_FORMAT, _PANASONIC_OFFSET = 0x002D, 0x0118
_PANASONIC_VARIABLE = 8
"""Format whose pixels are coded with a variable length."""
_PANASONIC_PIXELS = {(5, 12): 10, (5, 14): 9, (6, 12): 14, (6, 14): 11, (7, 12): 10, (7, 14): 9}
"""Pixels in a block of 16 bytes, by format and bits; 14, the most, in all others."""


COMPRESSIONS = {
    5: "LZW",
    6: "JPEG",
    7: "JPEG",
    8: "deflate",
    9: "GoPro VC-5",
    32773: "PackBits",
    32946: "deflate",
    34713: "Nikon, such as High Efficiency",
    34892: "lossy JPEG",
    34925: "LZMA",
    50000: "Zstandard",
    52546: "JPEG XL",
}
"""Names of TIFF compressions that a build of LibRaw may be unable to decode."""
DEFLATE = frozenset({8, 32946})
"""Deflate compression: LibRaw reports it as supported, but can decode only floating-point images with it, not integers."""


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """What a file's directories state about its image data."""

    end: int | None = None
    """File offset at which the image data ends: a shorter file is truncated. None if unknown."""
    is_mosaic: bool = False
    """Whether the largest image is stated to be a colour filter mosaic."""
    compression: int | None = None
    """TIFF's number of the compression of the largest image; None if unknown."""
    crop: tuple[float, float, float, float] | None = None
    """DNG's DefaultCrop of the largest image, relative to its active area: top, left, height and width in pixels.
    None if there is none, or if it is the whole active area."""
    has_masked_black: bool = False
    """Whether the format states no black level, so that it is in masked pixels only (CRW)."""

    excess: str = ""
    """What the directories hold more of than those of any camera, so that decoders would take hours or all memory; "" for nothing."""

    @property
    def has_borders(self) -> bool:
        """Whether the file is decoded differently than in plans of older versions (`borders.Edition`)."""
        return self.crop is not None or self.has_masked_black


def read_image_data(file: BinaryIO) -> ImageData:
    """Read the directories of an open RAW file. Raises OSError."""
    file.seek(0)
    head = file.read(16)
    for is_format, parse in _FORMATS:
        if is_format(head):
            try:
                return parse(file)
            except (
                struct.error,
                OverflowError,
                ValueError,
            ):  # a number points past the end of the file
                return ImageData()
    return ImageData()


def _tiff(file: BinaryIO) -> ImageData:
    """Read TIFF, DNG, ARW, CR2, NEF, PEF, ORF and other formats based on TIFF."""
    tiff = Tiff(file)
    end, largest, compression = tiff.first_directory_end(), -1.0, None
    crop, is_mosaic, excess = None, False, ""
    for directory in tiff.directories():
        try:
            if tiff.is_excessive:
                break
            tags = tiff.values(directory)
            if int(_number(tags.get(_KIND))) & _REDUCED:
                continue
            if _number(tags.get(_SAMPLES)) > _MOST_SAMPLES:
                excess = "samples per pixel"
            ends = list(_ends_of_pieces(tiff, directory))
        except struct.error:
            continue
        area = _number(tags.get(_WIDTH)) * _number(tags.get(_HEIGHT))
        if ends and area > largest:
            largest, compression = area, int(_number(tags.get(_COMPRESSION))) or None
            crop = _default_crop(tiff, directory)
            is_mosaic = _number(tags.get(_PHOTOMETRIC)) == _CFA
        end = max([end, *ends])
    return ImageData(
        end=end,
        compression=compression,
        crop=crop,
        is_mosaic=is_mosaic,
        excess="TIFF directories (IFDs)" if tiff.is_excessive else excess,
    )


def _default_crop(tiff: Tiff, directory: int) -> tuple[float, float, float, float] | None:
    """Return DNG's DefaultCrop of a directory; None if it has none or the crop is the whole active area."""
    origin, size, active = (
        tiff.numbers(directory, code) for code in (_CROP_ORIGIN, _CROP_SIZE, _ACTIVE_AREA)
    )
    if len(origin) != 2 or len(size) != 2:
        return None
    whole = len(active) == 4 and [active[3] - active[1], active[2] - active[0]] == size
    return None if whole and origin == [0, 0] else (origin[1], origin[0], size[1], size[0])


def _ends_of_pieces(tiff: Tiff, directory: int) -> Iterator[int]:
    """Yield the end of every strip and tile of a directory."""
    for offsets, sizes in _PIECES:
        pieces = zip(tiff.numbers(directory, offsets), tiff.numbers(directory, sizes), strict=False)
        for offset, size in pieces:
            yield int(offset + size)


def _panasonic(file: BinaryIO) -> ImageData:
    """Read RW2 and RWL: the offset is recorded, and the size follows from the size of the sensor."""
    tiff = Tiff(file)
    tags = tiff.values(tiff.first_directory())
    layout, bits = (int(_number(tags.get(code))) for code in (_PANASONIC_FORMAT, _PANASONIC_BITS))
    offset = _number(tags.get(_PANASONIC_OFFSET)) or _number(tags.get(_PIECES[0][0]))
    pixels = int(_number(tags.get(_PANASONIC_WIDTH)) * _number(tags.get(_PANASONIC_HEIGHT)))
    if layout == _PANASONIC_VARIABLE or not pixels or not 0 < offset < 0xFFFFFFFF:
        return ImageData()
    return ImageData(end=int(offset) + pixels // _PANASONIC_PIXELS.get((layout, bits), 14) * 16)


def _fujifilm(file: BinaryIO) -> ImageData:
    """Read RAF: offset and length of the preview, of the directory and of the image data are recorded."""
    file.seek(84)
    numbers = struct.unpack(">6I", file.read(24))
    pieces = zip(numbers[::2], numbers[1::2], strict=True)
    return ImageData(end=max(offset + size for offset, size in pieces))


def _ciff(file: BinaryIO) -> ImageData:
    """Read CRW: the directory is at the end of the file, so a file without one there is truncated."""
    file.seek(0)
    head = file.read(6)
    order = "<" if head[:2] == b"II" else ">"
    (start,) = struct.unpack(f"{order}I", head[2:])
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 4))
    (offset,) = struct.unpack(f"{order}I", file.read(4))
    file.seek(start + offset)
    count = file.read(2)
    room = size - 4 - (start + offset)
    entries = struct.unpack(f"{order}H", count)[0] if len(count) == 2 else 0
    is_whole = 0 < entries and 2 + _CIFF_ENTRY * entries <= room
    return ImageData(end=size if is_whole else size + 1, has_masked_black=True)


def _boxes(file: BinaryIO) -> ImageData:
    """Read CR3, a sequence of boxes that each begin with their size; the file must reach to the end of the last one."""
    end = 0
    for _ in range(_MAX_BOXES):
        file.seek(end)
        head = file.read(16)
        if not head:
            break
        if len(head) < 8:
            return ImageData(end=end + 8)
        (size,) = struct.unpack(">I", head[:4])
        if size == 1 and len(head) < 16:
            return ImageData(end=end + 16)
        if size == 1:
            (size,) = struct.unpack(">Q", head[8:])
        if size < 8:  # the last box may go to the end of the file
            break
        end += size
    return ImageData(end=end)


def _minolta(file: BinaryIO) -> ImageData:
    """Read MRW: its first block, PRD, records the size of the sensor and the bits per pixel."""
    file.seek(4)
    offset, name, _ = struct.unpack(">I4sI", file.read(12))
    if name != b"\x00PRD":
        return ImageData()
    file.seek(24)
    height, width, _, _, bits = struct.unpack(">4HB", file.read(9))
    return ImageData(end=8 + offset + width * height * bits // 8)


def _number(value: float | str | None) -> float:
    return value if isinstance(value, float) else 0.0


_FORMATS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO], ImageData]], ...] = (
    (lambda head: head[:4] in (b"II*\x00", b"MM\x00*", b"IIRO", b"IIRS", b"MMOR"), _tiff),
    (lambda head: head[:4] == b"IIU\x00", _panasonic),
    (lambda head: head.startswith(b"FUJIFILMCCD-RAW"), _fujifilm),
    (lambda head: head[6:14] == b"HEAPCCDR", _ciff),
    (lambda head: head[4:12] == b"ftypcrx ", _boxes),
    (lambda head: head[:4] == b"\x00MRM", _minolta),
)
"""How a file's first 16 bytes are recognised, and the function that reads it."""
