"""The end of the image data is read from every container, whatever its compression, or is unknown."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given, strategies as st

from darkprep.pipeline.raw.image_data import ImageData, read_image_data
from tests.support.tiff_bytes import EXPOSURE, ISO, Entries, directory, raf, tiff

WIDTH, HEIGHT, COMPRESSION, KIND, BELOW = 0x0100, 0x0101, 0x0103, 0x00FE, 0x014A
STRIPS, SIZES, TILES, TILE_SIZES = 0x0111, 0x0117, 0x0144, 0x0145
STATED: Entries = {STRIPS: 70_000, SIZES: 1_000_000}


def end(data: bytes) -> int | None:
    return read_image_data(io.BytesIO(data)).end


def panasonic(entries: Entries) -> bytes:
    return b"IIU\0" + tiff(entries)[4:]


@pytest.mark.parametrize("compression", [1, 7, 8, 9, 32767, 32769, 34713, 34892, 52546, 65535])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tags", [(STRIPS, SIZES), (TILES, TILE_SIZES)])
def test_strips_and_tiles_of_every_compression_have_an_end(compression, order, tags):
    entries: Entries = {COMPRESSION: compression, tags[0]: 70_000, tags[1]: 1_000_000}

    found = read_image_data(io.BytesIO(tiff(entries, order=order)))

    assert found == ImageData(end=1_070_000, compression=compression)


@pytest.mark.parametrize("magic", [b"IIRO", b"IIRS", b"II*\0"])
def test_olympus_files_are_tiff(magic):
    assert end(magic + tiff(STATED)[4:]) == 1_070_000


def test_the_end_is_found_in_directories_below_the_first():
    first: Entries = {COMPRESSION: 6, STRIPS: 1_000, SIZES: 5, BELOW: 70_000}
    data = tiff(first).ljust(70_000, b"\0")
    data += directory("<", 70_000, {COMPRESSION: 34713, STRIPS: 80_000, SIZES: 100_000})

    assert end(data) == 180_000


def test_the_end_is_found_in_the_next_directory():
    first = tiff({STRIPS: 1_000, SIZES: 5})
    data = (first[:-4] + struct.pack("<I", 70_000)).ljust(70_000, b"\0")
    data += directory("<", 70_000, {STRIPS: 80_000, SIZES: 100_000})

    assert end(data) == 180_000


def test_a_directory_that_is_its_own_next_is_read_once():
    first = tiff(STATED)

    assert end(first[:-4] + struct.pack("<I", 8)) == 1_070_000


def test_a_preview_does_not_count():
    data = tiff({KIND: 1, **STATED})

    assert end(data) == len(data) - 4


def test_a_file_cut_before_its_directory_is_shorter_than_its_end():
    assert end(b"II*\0" + struct.pack("<I", 5_000) + bytes(100)) == 5_002


def test_the_compression_is_that_of_the_largest_image():
    first: Entries = {
        COMPRESSION: 1, WIDTH: 160, HEIGHT: 120, STRIPS: 8, SIZES: 8, BELOW: 70_000,
    }  # fmt: skip
    data = tiff(first).ljust(70_000, b"\0")
    below: Entries = {COMPRESSION: 52546, WIDTH: 4000, HEIGHT: 3000, STRIPS: 8, SIZES: 9}
    data += directory("<", 70_000, below)

    assert read_image_data(io.BytesIO(data)).compression == 52546


@pytest.mark.parametrize(
    "entries, expected",
    [
        ({0x2D: 4, 0x0A: 12}, 1_000 + 1_400_000 // 14 * 16),
        ({0x2D: 5, 0x0A: 12}, 1_000 + 1_400_000 // 10 * 16),
        ({0x2D: 6, 0x0A: 14}, 1_000 + 1_400_000 // 11 * 16),
        ({0x2D: 8, 0x0A: 14}, None),
        ({}, 1_000 + 1_400_000 // 14 * 16),
    ],
)
def test_panasonics_end_follows_from_the_size_of_the_sensor(entries, expected):
    sensor: Entries = {2: 1400, 3: 1000, STRIPS: 0xFFFFFFFF, SIZES: 9_000_000, 0x118: 1_000}

    assert end(panasonic({**sensor, **entries})) == expected


def test_fujifilms_end_is_that_of_its_last_part():
    head = b"FUJIFILMCCD-RAW 0201".ljust(84, b"\0")

    assert end(head + struct.pack(">6I", 148, 10, 200, 20, 4096, 1_000_000)) == 1_004_096


def ciff(entries: int = 3) -> bytes:
    """Return a CRW file of 1000 bytes of image data and a directory."""
    heap = bytes(1000) + struct.pack("<H", entries) + bytes(10 * 3) + struct.pack("<I", 1000)
    return b"II" + struct.pack("<I", 26) + b"HEAPCCDR" + bytes(12) + heap


def test_a_crw_file_ends_with_its_directory():
    assert end(ciff()) == len(ciff())


@pytest.mark.parametrize("cut", [1, 4, 40, 500, 1_000])
def test_a_cut_crw_file_has_no_directory_at_its_end(cut):
    data = ciff()[:-cut]

    found = end(data)

    assert found is not None
    assert found > len(data)


@pytest.mark.parametrize("cut", [0, 1, 300, 1005])
def test_cr3_boxes_have_an_end(cut):
    boxes = struct.pack(">I", 24) + b"ftypcrx " + bytes(12)
    boxes += struct.pack(">I4sQ", 1, b"mdat", 1016) + bytes(1000)

    data = boxes[: len(boxes) - cut]
    found = end(data)
    assert found is not None
    assert found == len(boxes) or len(data) < found < len(boxes)


def test_minoltas_end_follows_from_the_size_of_the_sensor():
    block = (
        b"\0PRD" + struct.pack(">I", 24) + b"27820001" + struct.pack(">4HB", 100, 200, 90, 180, 12)
    )

    assert end(b"\0MRM" + struct.pack(">I", 48) + block.ljust(48, b"\0")) == 8 + 48 + 30_000


@pytest.mark.parametrize(
    "data",
    [
        b"", b"II*\0", b"PK\3\4 something else", b"IIU\0", b"FUJIFILMCCD-RAW",
        b"\0MRM\0\0\0\1\0TTW\0\0\0\1",
    ],
)  # fmt: skip
def test_the_end_may_be_unknown(data):
    assert end(data) is None


WHOLE = [tiff({**STATED, BELOW: 70}), panasonic({2: 99, 3: 99, 0x118: 9}), raf(tiff({})), ciff()]


@pytest.mark.parametrize("entries", [{BELOW: 7_000_000}, {EXPOSURE: 3, ISO: 100}])
def test_directories_without_image_data_end_with_the_first(entries):
    data = tiff(entries)

    assert end(data) == len(data) - 4


@given(st.data())
def test_damage_never_raises(data):
    whole = bytearray(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(0, 8))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))

    read_image_data(io.BytesIO(bytes(whole[: data.draw(st.integers(0, len(whole)))])))
