"""Exposure and ISO are read from the Exif directory of every container known, or not at all."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkprep.pipeline.raw.exif import Exposure, pixels_end, read_exposure
from darkprep.shards.errors import RawError

Entries = dict[int, str | int | tuple[int, int]]

MAKE, MODEL, EXPOSURE, ISO, POINTER, INDEX = 0x010F, 0x0110, 0x829A, 0x8827, 0x8769, 0x8832


def directory(order: str, at: int, entries: Entries) -> bytes:
    """One TIFF directory at `at`: code to text, int or (numerator, denominator)."""
    head, values = struct.pack(f"{order}H", len(entries)), b""
    free = at + 2 + 12 * len(entries) + 4
    for code, value in sorted(entries.items()):
        if isinstance(value, str):
            kind, raw = 2, value.encode() + b"\0"
        elif isinstance(value, tuple):
            kind, raw = 5, struct.pack(f"{order}II", *value)
        elif value < 65536 and code != POINTER:
            kind, raw = 3, struct.pack(f"{order}H", value)
        else:
            kind, raw = 4, struct.pack(f"{order}I", value)
        count = len(raw) if kind == 2 else 1
        head += struct.pack(f"{order}HHI", code, kind, count)
        if len(raw) <= 4:
            head += raw.ljust(4, b"\0")
        else:
            head += struct.pack(f"{order}I", free + len(values))
            values += raw
    return head + struct.pack(f"{order}I", 0) + values


def tiff(first: Entries, exif: Entries | None = None, order: str = "<") -> bytes:
    magic = b"II*\0" if order == "<" else b"MM\0*"
    if exif is None:
        return magic + struct.pack(f"{order}I", 8) + directory(order, 8, first)
    size = len(directory(order, 8, {**first, POINTER: 0}))
    main = directory(order, 8, {**first, POINTER: 8 + size})
    return magic + struct.pack(f"{order}I", 8) + main + directory(order, 8 + size, exif)


def raf(exif_tiff: bytes) -> bytes:
    jpeg = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(exif_tiff) + 8) + b"Exif\0\0" + exif_tiff
    head = b"FUJIFILMCCD-RAW 0201".ljust(84, b"\0") + struct.pack(">II", 148, len(jpeg))
    return head.ljust(148, b"\0") + jpeg


def read(tmp_path: Path, data: bytes) -> Exposure:
    (tmp_path / "frame.raw").write_bytes(data)
    return read_exposure(tmp_path / "frame.raw")


CAMERA: Entries = {MAKE: "NIKON CORPORATION", MODEL: "NIKON D850"}
SHOT: Entries = {EXPOSURE: (1, 30), ISO: 3200}
KNOWN = Exposure(exposure_s=1 / 30, iso=3200, make="NIKON CORPORATION", model="NIKON D850")


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_are_read(tmp_path, order):
    assert read(tmp_path, tiff(CAMERA, SHOT, order)) == KNOWN


def test_tags_may_stand_in_the_first_directory(tmp_path):
    assert read(tmp_path, tiff({**CAMERA, **SHOT})) == KNOWN


@pytest.mark.parametrize("order", ["<", ">"])
def test_fujis_preview_is_read(tmp_path, order):
    assert read(tmp_path, raf(tiff(CAMERA, SHOT, order))) == KNOWN


def test_an_iso_beyond_16_bits_is_found(tmp_path):
    shot: Entries = {EXPOSURE: (10, 1), ISO: 65535, INDEX: 102400}

    assert read(tmp_path, tiff(CAMERA, shot)).iso == 102400


@pytest.mark.parametrize("first", [{}, {EXPOSURE: (1, 0)}, {EXPOSURE: "soon", MAKE: 7}])
def test_what_is_missing_or_senseless_is_unknown(tmp_path, first):
    assert read(tmp_path, tiff(first)) == Exposure()


@pytest.mark.parametrize(
    "data", [b"", b"II", b"PK\3\4 something else", raf(b"")[:120], raf(b"MM\0*")]
)
def test_other_files_are_unknown(tmp_path, data):
    assert read(tmp_path, data) == Exposure()


@given(st.data())
def test_damage_never_raises(tmp_path_factory, data):
    whole = bytearray(tiff(CAMERA, SHOT))
    for _ in range(data.draw(st.integers(0, 8))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))

    exposure = read(tmp_path_factory.mktemp("exif"), bytes(whole[:cut]))

    assert exposure.exposure_s >= 0
    assert exposure.iso >= 0


STRIPS, SIZES, COMPRESSION, BELOW = 0x0111, 0x0117, 0x0103, 0x014A


def end(tmp_path: Path, data: bytes) -> int | None:
    (tmp_path / "frame.raw").write_bytes(data)
    return pixels_end(tmp_path / "frame.raw")


def test_uncompressed_pixels_have_a_known_end(tmp_path):
    assert end(tmp_path, tiff({COMPRESSION: 1, STRIPS: 70_000, SIZES: 1_000_000})) == 1_070_000


def test_compressed_pixels_have_none(tmp_path):
    assert end(tmp_path, tiff({COMPRESSION: 7, STRIPS: 70_000, SIZES: 1_000_000})) is None


def test_the_end_is_found_in_directories_below_the_first(tmp_path):
    first: Entries = {COMPRESSION: 6, STRIPS: 90_000_000, SIZES: 5, BELOW: 70_000}
    data = tiff(first).ljust(70_000, b"\0")
    data += directory("<", 70_000, {COMPRESSION: 1, STRIPS: 80_000, SIZES: 100_000})

    assert end(tmp_path, data) == 180_000


@pytest.mark.parametrize("data", [b"", b"II*\0", raf(tiff(CAMERA, SHOT)), tiff({BELOW: 7_000_000})])
def test_where_pixels_end_may_be_unknown(tmp_path, data):
    assert end(tmp_path, data) is None


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RawError, match="no such file"):
        read_exposure(tmp_path / "absent.nef")


def test_a_directory_is_named(tmp_path):
    with pytest.raises(RawError, match="is a directory"):
        read_exposure(tmp_path)
