"""Write restored pictures as PNG, JPEG or TIFF with the photograph's metadata and an sRGB profile.

The trade-off: 16-bit PNG and TIFF are not written by Pillow, which has no 16-bit RGB, so each format has a writer
of its own; all of them hold the same tags.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import tifffile
from PIL import Image, ImageCms

from darkprep import __version__
from darkprep.pipeline.raw.exif_block import append_metadata, exif_block, main_tags, reserved_tags
from darkprep.pipeline.raw.photo_metadata import (
    DESCRIPTION,
    SOFTWARE,
    PhotoMetadata,
)
from darkprep.shards import OptionError
from darkprep.shards.files import replace_atomically
from darkprep.trainer.picture import Bits, Pixels, write_png

SUFFIX = {"png": ".png", "jpeg": ".jpg", "tiff": ".tiff", "dng": ".dng"}
"""Formats and the extension of each."""
FORMATS = tuple(SUFFIX)
SOFTWARE_NAME = f"darkprep {__version__}"
DEFAULT_QUALITY = 92
_PROFILE_DATE = slice(24, 36)
_DEFLATE_LEVEL = 1
_STRIP_ROWS = 256
_HORIZONTAL = 2
"""TIFF predictor."""


@dataclass(frozen=True, kw_only=True)
class PictureFormat:
    """The form in which pictures are written. Raises OptionError, which names the invalid field."""

    format: str = "png"
    bits: Bits = 8
    quality: int = DEFAULT_QUALITY
    """Quality of JPEG, 1 to 100."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise OptionError(f"format must be one of {', '.join(FORMATS)}, not {self.format!r}")
        if self.bits not in (8, 16):
            raise OptionError(f"bits must be 8 or 16, not {self.bits}")
        if self.format == "jpeg" and self.bits == 16:
            raise OptionError(
                "bits must be 8 for jpeg, which has no 16-bit form; choose png or tiff"
            )
        if not 1 <= self.quality <= 100:
            raise OptionError(f"quality must be 1 to 100, not {self.quality}")


def save_picture(
    path: Path,
    pixels: Pixels,
    form: PictureFormat,
    *,
    metadata: PhotoMetadata,
    text: Mapping[str, str],
) -> None:
    """Write an upright sRGB picture `(H, W, 3)`; the file is complete or absent. Raises DiskFull, SpoolError, OSError.

    `metadata` is the photograph's; size, orientation and software are set here. `text` states how the picture was made.
    """
    height, width = pixels.shape[:2]
    tags = metadata.of_picture(width=width, height=height, software=SOFTWARE_NAME)
    text = {**text, "Software": SOFTWARE_NAME}
    comment = "\n".join(f"{key}: {value}" for key, value in text.items())

    def write(file: BinaryIO) -> None:
        if form.format == "png":
            write_png(file, pixels, text, icc_profile=srgb_profile(), exif=exif_block(tags))
        elif form.format == "jpeg":
            Image.fromarray(pixels).save(
                file,
                "JPEG",
                quality=form.quality,
                subsampling=0,
                icc_profile=srgb_profile(),
                exif=b"Exif\0\0" + exif_block(tags),
                comment=comment.encode(),
            )
        else:
            file.write(_tiff(pixels, tags, comment))

    replace_atomically(path, write)


def _tiff(pixels: Pixels, tags: PhotoMetadata, comment: str) -> memoryview:
    """Return a TIFF file, compressed without loss."""
    caption = tags.main.get(DESCRIPTION)
    lines = [caption.data.rstrip(b"\0")] if caption else []
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        pixels,
        byteorder="<",
        photometric="rgb",
        compression="zlib",
        compressionargs={"level": _DEFLATE_LEVEL},
        predictor=_HORIZONTAL,
        rowsperstrip=_STRIP_ROWS,
        iccprofile=srgb_profile(),
        description=b"\n".join([*lines, comment.encode()]),
        software=SOFTWARE_NAME,
        metadata=None,
        maxworkers=1,
        extratags=[
            *reserved_tags(tags),
            *main_tags(tags, without=(DESCRIPTION, SOFTWARE)),
        ],
    )
    append_metadata(file, tags)
    return file.getbuffer()


@cache
def srgb_profile() -> bytes:
    """Return an ICC profile of sRGB, equal at every call: its time of creation is set to a constant."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[_PROFILE_DATE] = struct.pack(">6H", 2024, 1, 1, 0, 0, 0)
    return bytes(profile)
