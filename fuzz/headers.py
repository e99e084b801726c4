"""The headers of a RAW file, as darkprep itself reads them, of any bytes: values or nothing, or one RawError."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from darkprep.pipeline.raw.as_shot import with_neutral
from darkprep.pipeline.raw.dng import DngTags, write_dng
from darkprep.pipeline.raw.exif import read_exposure
from darkprep.pipeline.raw.exif_block import exif_block
from darkprep.pipeline.raw.image_data import ImageData, read_image_data
from darkprep.pipeline.raw.libraw_file import image_data_of
from darkprep.pipeline.raw.photo_metadata import PhotoMetadata, metadata_in_directories
from darkprep.shards.errors import RawError
from fuzz.choices import Choices
from fuzz.memory import new_folder
from tests.support.tiff_bytes import EXPOSURE, ISO, MAKE, MODEL, raf, tiff

PARTS = ("dng", "raf", "other formats")

_OTHERS = (
    b"IIU\x00\x18\x00\x00\x00" + bytes(16) + b"\x01\x00\x02\x00\x03\x00\x01\x00\x00\x00\x08\x00\x00\x00" + bytes(60),
    b"II\x1a\x00\x00\x00HEAPCCDR" + bytes(40) + b"\x01\x00" + bytes(10) + b"\x20\x00\x00\x00",
    b"\x00\x00\x00\x18ftypcrx " + bytes(8) + b"\x00\x00\x00\x10moov" + bytes(8) + b"\x00\x00\x00\x01mdat" + bytes(20),
    b"\x00MRM\x00\x00\x00\x20\x00PRD\x00\x00\x00\x18" + bytes(8) + b"\x00\x10\x00\x10\x00\x10\x00\x10\x0c" + bytes(20),
)  # fmt: skip
"""RW2, CRW, CR3 and MRW of a few bytes."""


def try_input(data: bytes) -> tuple[str, bool]:
    """Try the head of one file; raise whatever a reader of headers must not raise."""
    choices = Choices(data)
    part = choices.one_of(PARTS)
    good = {"dng": _dng(), "raf": _raf(), "other formats": choices.one_of(_OTHERS)}[part]
    path = _folder() / "a.raw"
    path.write_bytes(choices.edited(good))
    return part, _read(path)


def _read(path: Path) -> bool:
    """Read a file's head in every way; return whether one of them found something."""
    found = image_data_of(str(path)) != ImageData()
    with path.open("rb") as file:
        assert read_image_data(file).end is None or found
    metadata = metadata_in_directories(path)
    exif_block(metadata.of_picture(width=64, height=48, software="x"))
    neutral = with_neutral(path.read_bytes())
    assert len(neutral) >= path.stat().st_size
    try:
        exposure = read_exposure(path)
    except RawError as error:
        assert str(path) in str(error)
    else:
        found |= exposure.exposure_s > 0
    return found or metadata != PhotoMetadata()


@functools.cache
def _folder() -> Path:
    return new_folder()


@functools.cache
def _dng() -> bytes:
    path = _folder() / "good.dng"
    write_dng(path, np.full((32, 32), 600, np.uint16), DngTags(iso=800))
    return path.read_bytes()


@functools.cache
def _raf() -> bytes:
    return raf(tiff({MAKE: "FUJIFILM", MODEL: "X-T2"}, {EXPOSURE: (1, 10), ISO: 800}))
