"""Exposure and ISO are read from the Exif directory of every container known, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from darkprep.pipeline.raw.exif import Exposure, read_exposure
from darkprep.shards.errors import RawError
from tests.support.tiff_bytes import EXPOSURE, INDEX, ISO, MAKE, MODEL, Entries, raf, tiff


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


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RawError, match="no such file"):
        read_exposure(tmp_path / "absent.nef")


def test_a_directory_is_named(tmp_path):
    with pytest.raises(RawError, match="is a directory"):
        read_exposure(tmp_path)
