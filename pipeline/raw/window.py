"""Develop windows of a Bayer frame to the bits of the whole frame's development, for the cost of the windows' pixels.

LibRaw can develop a part of a frame (its `cropbox`), but rawpy does not expose that. So the windows, each with a
margin, are stacked into one mosaic, which LibRaw develops as an uncompressed DNG file in memory, with the frame's full
scale, white balance and colour matrix. AHD, LibRaw's default demosaic for Bayer arrays, computes a pixel from its
neighbourhood alone, so the pixels inside the margin are those of the whole frame.

The trade-off: only Bayer frames whose colours can be given to LibRaw exactly have windows. X-Trans frames have none
(a pixel depends on the order in which tiles are written), nor have RW2 files, in which LibRaw replaces codes of 0.
`develop.py` develops such frames whole.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rawpy

from darkprep.pipeline.raw.borders import Window
from darkprep.pipeline.raw.exif_block import TIFF_HEADER, directory_bytes
from darkprep.pipeline.raw.frame import F32
from darkprep.pipeline.raw.libraw import single_openmp_thread, without_libraw_messages
from darkprep.pipeline.raw.photo_metadata import ASCII, SHORT, Tags, TagValue, long, short
from darkprep.pipeline.raw.tiff import Tiff
from darkprep.shards.cfa import Rows
from darkprep.shards.format import U16

MARGIN = 6
"""Pixels around a window on which its development depends. AHD reads 5: 2 to interpolate green, and 1 each for red and
blue, for the homogeneity and for its sum (LibRaw, ahd_demosaic.cpp). Within 5 pixels of an edge LibRaw interpolates
differently (border_interpolate). 6 keeps the phase of the array."""

_MIDDLE, _INSET = 64, MARGIN + 4
"""Largest side of the middle of a window, in pixels, and its smallest distance from the window's edges."""

_BYTE, _DOUBLE = 1, 12
_DNG_VERSION, _COLOR_MATRIX = 50706, 50721
_COLOUR_TAGS = (
    50721, 50722,  # ColorMatrix
    50723, 50724,  # CameraCalibration
    50727,  # AnalogBalance
    50778, 50779,  # CalibrationIlluminant
)  # fmt: skip
"""DNG's tags from which LibRaw computes a file's colour matrix, white balance excepted."""
_MAX_TAG_BYTES = 256
_RW2 = b"IIU\0"
_TIFF = (b"II*\0", b"MM\0*")
_MIN_OWN_MATRIX = 0.125
"""LibRaw's test for a DNG file that brings a colour matrix: the matrix's first number is above this (identify.cpp)."""
_WHITE = 65535


class WindowColours:
    """The colours of an unpacked file, as the tags and settings with which windows are developed to the same bits."""

    def __init__(self, handle: rawpy.RawPy, tags: Tags, own_matrix: F32 | None) -> None:
        self._tags = tags
        self._own_matrix = own_matrix
        self._indices = _colour_indices(handle)
        self.gains = [float(gain) for gain in handle.camera_whitebalance]

    @classmethod
    def from_file(cls, path: str, handle: rawpy.RawPy) -> WindowColours | None:
        """Return the colours of the file at `path`, opened as `handle`, before it is developed.

        Returns None if LibRaw's matrix for this file cannot be given to it again: the file has none, or it is an RW2
        file.
        """
        with Path(path).open("rb") as file:
            head = file.read(4)
            if head == _RW2:
                return None
            tags = _dng_tags(Tiff(file)) if head in _TIFF else {}
        own = np.array(handle.color_matrix, np.float32)
        if tags and own[0, 0] > _MIN_OWN_MATRIX:
            return cls(handle, {code: tags[code] for code in _COLOUR_TAGS if code in tags}, own)
        table = np.array(handle.rgb_xyz_matrix[:3], np.float32)
        if not table.any():
            return None
        # Doubles hold LibRaw's 32-bit numbers exactly, fractions do not.
        matrix = TagValue(_DOUBLE, 9, struct.pack("<9d", *table.ravel().tolist()))
        return cls(handle, {_COLOR_MATRIX: matrix}, None)

    def develop(self, mosaic: U16, pattern: Rows, settings: Mapping[str, Any]) -> U16 | None:
        """Develop codes above black, `(H, W)` uint16 with `pattern` at the top left, to `(H, W, 3)` uint16.

        Returns None if LibRaw reads other colours from the DNG file than from the frame's own. Raises what rawpy raises.
        """
        dng = io.BytesIO(_dng(mosaic, pattern, self._tags))
        with without_libraw_messages(), single_openmp_thread(), rawpy.imread(dng) as raw:
            raw.unpack()
            if _colour_indices(raw) != self._indices:
                return None
            if self._own_matrix is not None and not np.array_equal(
                raw.color_matrix, self._own_matrix
            ):
                return None
            return np.asarray(raw.postprocess(output_bps=16, user_flip=0, **settings), np.uint16)


def window_pixels(windows: Sequence[Window], height: int, width: int) -> int:
    """Return how many pixels of a frame of `height` x `width` are developed for `windows`, margins included."""
    regions = (_with_margin(window, height, width) for window in windows)
    return sum(region.height * region.width for region in regions)


def develop_windows(
    colours: WindowColours,
    sensor: U16,
    pattern: Rows,
    black: F32,
    windows: Sequence[Window],
    settings: Mapping[str, Any],
) -> list[U16] | None:
    """Develop `windows` of the visible area `sensor`, `(H, W)` uint16, with rawpy's `settings`.

    `pattern` and `black`, `(2, 2)` whole numbers, are those at the top left of the visible area. Returns `(h, w, 3)`
    uint16 for each window, or None if LibRaw does not accept the frame's colours. Raises what rawpy raises.
    """
    found: list[U16 | None] = [None] * len(windows)
    for numbers, regions, stack in _stacked(sensor, black, windows):
        rgb = colours.develop(stack, pattern, settings)
        if rgb is None or rgb.shape != (*stack.shape, 3):
            return None
        for position, (number, region) in enumerate(zip(numbers, regions, strict=True)):
            window = windows[number]
            inside = Window(
                top=position * region.height + window.top - region.top,
                left=window.left - region.left,
                height=window.height,
                width=window.width,
            )
            found[number] = rgb[inside.slices]
    return [rgb for rgb in found if rgb is not None]


def develop_cells(
    colours: WindowColours,
    sensor: U16,
    pattern: Rows,
    black: F32,
    windows: Sequence[Window],
    settings: Mapping[str, Any],
) -> list[tuple[Window, U16]] | None:
    """Develop `windows` as `develop_windows` does, but to one pixel for each cell of 2 x 2 and without a demosaic.

    Returns regions that contain the windows, in cells, with `(h, w, 3)` uint16 each, or None as `develop_windows`.
    """
    found = []
    for _, regions, stack in _stacked(sensor, black, windows):
        rgb = colours.develop(stack, pattern, {**settings, "half_size": True})
        if rgb is None:
            return None
        for position, region in enumerate(regions):
            cells = Window(
                top=region.top // 2,
                left=region.left // 2,
                height=-(-region.height // 2),
                width=-(-region.width // 2),
            )
            top = position * region.height // 2
            found.append((cells, rgb[top : top + cells.height]))
    return found


def middle_of(window: Window) -> Window | None:
    """Return a small window in the middle of `window`, more than MARGIN from its edges; None if there is no room."""
    height, width = (min(_MIDDLE, side - 2 * _INSET) for side in (window.height, window.width))
    if min(height, width) < 1:
        return None
    top, left = (
        start + (side - size) // 2
        for start, side, size in (
            (window.top, window.height, height),
            (window.left, window.width, width),
        )
    )
    return Window(top=top, left=left, height=height, width=width)


def _stacked(
    sensor: U16, black: F32, windows: Sequence[Window]
) -> Iterator[tuple[list[int], list[Window], U16]]:
    """Yield each stack: the numbers of its windows, their regions with margins, and the codes above black."""
    height, width = sensor.shape
    level = black.astype(np.uint16)
    for numbers in _stacks(windows, height, width):
        regions = [_with_margin(windows[number], height, width) for number in numbers]
        stack = np.concatenate([sensor[region.slices] for region in regions])
        yield numbers, regions, _above_black(stack, level)


def _stacks(windows: Sequence[Window], height: int, width: int) -> list[list[int]]:
    """Return the numbers of the windows that are developed together.

    LibRaw treats pixels at an edge differently, so a window at an edge of the frame has the same edge in a mosaic of
    its own; all others of one size are stacked.
    """
    stacks: dict[tuple[int, ...], list[int]] = {}
    for number, window in enumerate(windows):
        region = _with_margin(window, height, width)
        key: tuple[int, ...] = (region.height, region.width)
        if _is_at_edge(region, window):
            key = (number,)
        stacks.setdefault(key, []).append(number)
    return list(stacks.values())


def _with_margin(window: Window, height: int, width: int) -> Window:
    """Return a window with its margin, as far as the frame reaches, from an even row and column on."""
    top, rows = _extended(window.top, window.height, height)
    left, columns = _extended(window.left, window.width, width)
    return Window(top=top, left=left, height=rows, width=columns)


def _extended(start: int, size: int, limit: int) -> tuple[int, int]:
    first = max(0, start - MARGIN) // 2 * 2
    # An even number of rows keeps the phase of the next window in a stack.
    rows = -(-(start + size + MARGIN - first) // 2) * 2
    return first, min(rows, limit - first)


def _is_at_edge(region: Window, window: Window) -> bool:
    """Return whether a window's margin is smaller than MARGIN at any side, or the region would change the phase of a stack."""
    below = region.top + region.height - window.top - window.height
    right = region.left + region.width - window.left - window.width
    margins = (window.top - region.top, window.left - region.left, below, right)
    return min(margins) < MARGIN or region.height % 2 == 1


def _above_black(stack: U16, level: U16) -> U16:
    """Return the codes minus the black level of their site, at least 0, as LibRaw subtracts it (copy_bayer)."""
    rows = np.tile(level, (1, -(-stack.shape[1] // 2)))[:, : stack.shape[1]]
    levels = rows[np.arange(len(stack)) % 2]
    above = np.maximum(stack, levels)
    above -= levels
    return above


def _colour_indices(handle: rawpy.RawPy) -> list[int]:
    """Return LibRaw's colour index of the four sites at the top left of the visible area; one green may be 1 or 3."""
    top, left = handle.sizes.top_margin, handle.sizes.left_margin
    return [handle.raw_color(top + y, left + x) for y in range(2) for x in range(2)]


def _dng_tags(tiff: Tiff) -> Tags:
    """Return the tags of a DNG file's first directory that are small; nothing if it is not a DNG file."""
    try:
        found = {
            code: TagValue(kind, length, data)
            for code, kind, length, data in tiff.raw_values(tiff.first_directory(), _MAX_TAG_BYTES)
        }
    except struct.error:
        return {}
    return found if _DNG_VERSION in found else {}


def _dng(mosaic: U16, pattern: Rows, colours: Tags) -> bytes:
    """Return a DNG file of codes with black 0, in one strip."""
    height, width = mosaic.shape
    tags = {
        254: long(0),  # NewSubfileType: the main image
        256: long(width),
        257: long(height),
        258: short(16),  # BitsPerSample
        259: short(1),  # Compression: none
        262: short(32803),  # PhotometricInterpretation: colour filter array
        271: TagValue(ASCII, 9, b"darkprep\0"),  # Make and Model that LibRaw has no table for
        272: TagValue(ASCII, 7, b"window\0"),
        273: long(0),  # StripOffsets, set below
        277: short(1),  # SamplesPerPixel
        278: long(height),  # RowsPerStrip
        279: long(2 * height * width),  # StripByteCounts
        33421: TagValue(SHORT, 2, struct.pack("<2H", 2, 2)),  # CFARepeatPatternDim
        33422: TagValue(_BYTE, 4, bytes("RGB".index(c) for row in pattern for c in row)),
        _DNG_VERSION: TagValue(_BYTE, 4, b"\x01\x04\0\0"),
        50714: long(0),  # BlackLevel
        50717: long(_WHITE),  # WhiteLevel
        **colours,
    }
    start = len(TIFF_HEADER) + len(directory_bytes(tags, len(TIFF_HEADER)))
    tags[273] = long(start)
    codes = np.ascontiguousarray(mosaic, "<u2")
    return b"".join((TIFF_HEADER, directory_bytes(tags, len(TIFF_HEADER)), codes.data.cast("B")))
