"""Write RGB pictures of 8 or 16 bits as PNG or TIFF; a failed write leaves no file.

The trade-off: PNG is encoded here in 40 lines, because Pillow cannot write 16-bit RGB, with one filter for
all rows instead of a choice for each row. For photographs this takes a thirtieth of the time of Pillow's default
at about the same size (docs/decisions.md), and needs memory for one strip only. Without isal the files have other
bytes and the same pixels.

Source of the format: W3C, "Portable Network Graphics (PNG) Specification (Second Edition)", 2003.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import tifffile

from darkprep.shards.cfa import PLANE_COLOURS
from darkprep.shards.errors import OptionError
from darkprep.shards.files import replace_atomically
from darkprep.shards.format import U16, CfaKind

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Bits = Literal[8, 16]

SUFFIXES = (".png", ".tif", ".tiff")

_STRIP_ROWS = 128
_CACHED_ROWS = 32
"""Rows that are rounded at a time: their values stay in the cache."""
_AVERAGE_FILTER = 3
_TRUE_COLOUR = 2
_GAMMA = 2.2


def quantised(picture: npt.NDArray[np.float32] | U16, bits: Bits) -> Pixels:
    """Round `(3, H, W)` float in [0, 1] or uint16 in [0, 65535] to `(H, W, 3)` integers of 8 or 16 bits."""
    depth = np.uint8 if bits == 8 else np.uint16
    full = np.iinfo(depth).max
    divisor = 65535 if picture.dtype == np.uint16 else 1
    pixels = np.empty((*picture.shape[1:], 3), dtype=depth)
    for first in range(0, picture.shape[1], _CACHED_ROWS):
        strip = picture[:, first : first + _CACHED_ROWS].astype(np.float32)
        strip *= full / divisor
        np.clip(np.rint(strip, out=strip), 0, full, out=strip)
        for channel, values in enumerate(
            strip
        ):  # three times as fast as all channels in one assignment
            pixels[first : first + _CACHED_ROWS, :, channel] = values
    return pixels


def developed_simply(
    light: npt.NDArray[np.float32] | U16,
    cfa: CfaKind,
    *,
    gains: Sequence[float] = (1.0, 1.0, 1.0),
    to_srgb: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float32]:
    """Return linear light as an sRGB picture `(3, h, w)` in [0, 1], to look at and not to measure.

    `light` is camera RGB `(3, H, W)` or packed planes `(C, h, w)`, float in [0, 1] or full-range uint16. A
    colour with several planes is their mean, so planes give a picture of their own, smaller size. `gains` are the
    white balance of R, G, B, and `to_srgb` is the `(3, 3)` matrix from white-balanced camera RGB to linear
    sRGB; None for no conversion. The gamma is 2.2.
    """
    values = light.astype(np.float32) / np.float32(65535 if light.dtype == np.uint16 else 1)
    if len(values) != 3:
        letters = np.array(list(PLANE_COLOURS[cfa]))
        values = np.stack([values[letters == letter].mean(axis=0) for letter in "RGB"])
    scale = np.array(gains, np.float32)
    values *= (scale / scale.min())[:, None, None]
    np.clip(values, 0, 1, out=values)
    if to_srgb is not None:
        values = np.tensordot(to_srgb.astype(np.float32), values, axes=1)
        np.clip(values, 0, 1, out=values)
    return np.asarray(values ** np.float32(1 / _GAMMA), np.float32)


def check_suffix(path: Path) -> None:
    """Raise OptionError unless the suffix of the path is that of a supported format."""
    if path.suffix.lower() not in SUFFIXES:
        raise OptionError(
            f"{path}: unknown format; pictures are written as {', '.join(SUFFIXES)}; rename it"
        )


def write_picture(path: Path, pixels: Pixels, text: Mapping[str, str] | None = None) -> None:
    """Write an sRGB picture `(H, W, 3)` of 8 or 16 bits in the format that the path's suffix names.

    `text` is written as metadata. Raises OptionError for an unknown suffix, DiskFull and SpoolError; no
    file is written then.
    """
    check_suffix(path)
    text = {"Software": "darkprep", **(text or {})}

    def write(file: BinaryIO) -> None:
        if path.suffix.lower() == ".png":
            write_png(file, pixels, text)
        else:
            description = "\n".join(f"{key}: {value}" for key, value in text.items())
            tifffile.imwrite(
                file, pixels, photometric="rgb", description=description.encode(), metadata=None
            )

    replace_atomically(path, write)


def write_png(
    file: BinaryIO,
    pixels: Pixels,
    text: Mapping[str, str],
    *,
    icc_profile: bytes = b"",
    exif: bytes = b"",
) -> None:
    """Write `(H, W, 3)` of 8 or 16 bits as PNG, with texts, a colour profile and a TIFF structure of Exif tags.

    Without a profile the picture is marked as sRGB; readers of PNG take either, and not both.
    """
    height, width = pixels.shape[:2]
    file.write(b"\x89PNG\r\n\x1a\n")
    depth = 8 * pixels.itemsize
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, depth, _TRUE_COLOUR, 0, 0, 0))
    if icc_profile:
        _chunk(file, b"iCCP", b"sRGB\0\0" + zlib.compress(icc_profile))
    else:
        _chunk(file, b"sRGB", b"\0")
    if exif:
        _chunk(file, b"eXIf", exif)
    for key, value in text.items():
        _chunk(file, b"iTXt", key.encode("latin-1", "replace") + b"\0\0\0\0\0" + value.encode())
    deflate = _compressor()
    above = np.zeros((1, width * 3 * pixels.itemsize), dtype=np.uint8)
    for first in range(0, height, _STRIP_ROWS):
        rows = _as_bytes(pixels[first : first + _STRIP_ROWS])
        packed = deflate.compress(_filtered(rows, above, step=3 * pixels.itemsize))
        if packed:
            _chunk(file, b"IDAT", packed)
        above = rows[-1:]
    _chunk(file, b"IDAT", deflate.flush())
    _chunk(file, b"IEND", b"")


def _compressor() -> Any:
    """Return the fastest compressor for filtered bytes, which hardly repeat except in runs.

    Searching for longer matches takes ten times as long and saves nothing.
    """
    try:
        from isal import isal_zlib
    except ImportError:  # rare machines have no package of it
        return zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    return isal_zlib.compressobj(1)


def _as_bytes(rows: Pixels) -> npt.NDArray[np.uint8]:
    """Convert `(n, W, 3)` of 8 or 16 bits to bytes `(n, bytes)`, most significant byte first."""
    ordered: npt.NDArray[Any] = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder(">"))
    return ordered.reshape(len(rows), -1).view(np.uint8)


def _filtered(rows: npt.NDArray[np.uint8], above: npt.NDArray[np.uint8], *, step: int) -> bytes:
    """Apply PNG's filter 3 (byte minus mean of left and upper neighbour); each row begins with the filter's number."""
    means = np.concatenate([above, rows[:-1]]).astype(np.uint16)
    means[:, step:] += rows[:, :-step]
    means >>= 1
    out = np.empty((len(rows), rows.shape[1] + 1), dtype=np.uint8)
    out[:, 0] = _AVERAGE_FILTER
    np.subtract(rows, means, out=out[:, 1:], casting="unsafe")
    return out.tobytes()


def _chunk(file: BinaryIO, kind: bytes, content: bytes) -> None:
    file.write(struct.pack(">I", len(content)) + kind)
    file.write(content)
    file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))))
