"""Metadata are read from every kind of file, and hostile files give few bytes and no error."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darkprep.pipeline.raw.exif_block import exif_block
from darkprep.pipeline.raw.photo_metadata import (
    MAKE,
    PhotoMetadata,
    TagValue,
    read_metadata,
    text,
)
from darkprep.pipeline.raw.reader import read_header
from tests.support import tiff_bytes

EXPOSURE, DATE, ISO = 33434, 36867, 34855


def directory(order: str, entries: list[tuple[int, int, int, bytes]]) -> bytes:
    packed = struct.pack(f"{order}H", len(entries))
    for code, kind, count, value in entries:
        packed += struct.pack(f"{order}HHI", code, kind, count) + value.ljust(4, b"\0")
    return packed + bytes(4)


def tiff(order: str, *directories: bytes) -> bytes:
    """A TIFF structure whose directories follow each other from offset 8."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(f"{order}I", 8) + b"".join(directories)


@pytest.fixture
def header(write_raw):
    return read_header(write_raw("header.dng", make="Maker", model="One", iso=400))


def read(tmp_path: Path, header, data: bytes) -> PhotoMetadata:
    path = tmp_path / "a.raw"
    path.write_bytes(data)
    return read_metadata(path, header)


def test_a_file_of_either_byte_order_gives_the_same_tags(tmp_path, header):
    little, big = (
        read(tmp_path, header, tiff_bytes.tiff({MAKE: "Me"}, {EXPOSURE: (1, 25), ISO: 400}, order))
        for order in "<>"
    )

    assert little == big
    assert little.main == {MAKE: TagValue(2, 3, b"Me\0")}
    assert little.exif[EXPOSURE] == TagValue(5, 1, struct.pack("<2I", 1, 25))


def test_lens_and_author_are_kept_and_maker_notes_are_not(tmp_path, header):
    lens, artist, maker_notes = 42036, 315, 37500
    exif = {EXPOSURE: (1, 25), lens: "FE 55mm", maker_notes: "serial number"}

    found = read(tmp_path, header, tiff_bytes.tiff({MAKE: "Me", artist: "A. Person"}, exif))

    assert found.main[artist] == text("A. Person")
    assert found.exif[lens] == text("FE 55mm")
    assert maker_notes not in found.exif


def test_pillow_reads_the_block_that_is_written(tmp_path, write_raw):
    path = write_raw("a.dng", make="Maker", model="One", date_time="2023:02:01 10:20:30")
    metadata = read_metadata(path, read_header(path)).of_picture(
        width=30, height=20, software="darkprep 1"
    )
    metadata = replace(metadata, gps={1: text("N")})

    exif = Image.Exif()
    exif.load(b"Exif\0\0" + exif_block(metadata))

    assert (exif[271], exif[272], exif[305], exif[274]) == ("Maker", "One", "darkprep 1", 1)
    assert exif.get_ifd(34665)[DATE] == "2023:02:01 10:20:30"
    assert exif.get_ifd(34853)[1] == "N"


def many() -> bytes:
    """An Exif directory of 65,535 entries."""
    entries = b"".join(
        struct.pack("<HHI", 36864 + number % 4000, 7, 1000) + struct.pack("<I", 8)
        for number in range(65_535)
    )
    return struct.pack("<H", 65_535) + entries


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"II*\0",
        tiff("<", directory("<", [(34665, 4, 1, struct.pack("<I", 8))])),  # points to itself
        tiff("<", directory("<", [(34665, 4, 1, struct.pack("<I", 2**32 - 1))])),
        tiff("<", directory("<", [(34665, 4, 1, struct.pack("<I", 26))]), many()),
        tiff("<", directory("<", [(MAKE, 2, 2**32 - 1, struct.pack("<I", 8))])),
        tiff("<", directory("<", [(MAKE, 99, 5, b"")] * 5)),
        tiff("<", b"\xff\xff"),
        np.random.default_rng(0).bytes(5000),
        b"II*\0\x08\0\0\0" + np.random.default_rng(1).bytes(50_000),
    ],
)
def test_hostile_directories_give_little(tmp_path, header, data):
    found = read(tmp_path, header, data)

    block = exif_block(found.of_picture(width=2, height=2, software="darkprep"))
    assert len(block) < 40_000
    Image.Exif().load(b"Exif\0\0" + block)
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(
        io.BytesIO(), "JPEG", exif=b"Exif\0\0" + block
    )


def test_a_file_without_exif_gets_what_libraw_states(tmp_path, header):
    found = read(tmp_path, header, b"no directories")

    assert found.main[MAKE] == text("Maker")
    assert found.exif[ISO] == TagValue(3, 1, struct.pack("<H", 400))
