"""Picture files hold exactly the given pixels, in the format of their suffix."""

from __future__ import annotations

import struct
import sys
import zlib

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, strategies as st
from PIL import Image

from darkprep.shards.errors import OptionError, SpoolError
from darkprep.trainer.picture import quantised, write_picture
from darkprep.trainer.restoration import quantised_on_device


def pixels_of(bits: int, height: int = 300, width: int = 37) -> np.ndarray:
    rng = np.random.default_rng(bits)
    depth = np.uint8 if bits == 8 else np.uint16
    ramp = np.linspace(0, np.iinfo(depth).max * 0.9, height * width * 3)
    return (ramp + rng.uniform(0, 20, ramp.size)).astype(depth).reshape(height, width, 3)


def decoded(png: bytes) -> np.ndarray:
    """Decode a PNG by its specification, byte by byte, for the one filter that is written."""
    place, packed, header = 8, b"", b""
    while place < len(png):
        size, kind = struct.unpack_from(">I4s", png, place)
        content = png[place + 8 : place + 8 + size]
        (checksum,) = struct.unpack_from(">I", png, place + 8 + size)
        assert checksum == zlib.crc32(kind + content)
        header = content if kind == b"IHDR" else header
        packed += content if kind == b"IDAT" else b""
        place += 12 + size
    width, height, depth, colour = struct.unpack_from(">IIBB", header)
    assert colour == 2
    step = 3 * depth // 8
    raw = zlib.decompress(packed)
    above = bytearray(width * step)
    rows = []
    for row in range(height):
        line = raw[row * (width * step + 1) : (row + 1) * (width * step + 1)]
        assert line[0] == 3
        ours = bytearray()
        for n, byte in enumerate(line[1:]):
            left = ours[n - step] if n >= step else 0
            ours.append((byte + (left + above[n]) // 2) & 255)
        rows.append(bytes(ours))
        above = ours
    return np.frombuffer(b"".join(rows), f">u{depth // 8}").reshape(height, width, 3)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("library", ["isal", "zlib"])
def test_a_png_decodes_to_its_pixels_by_the_specification(tmp_path, bits, library, monkeypatch):
    if library == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
    pixels = pixels_of(bits)

    write_picture(tmp_path / "x.png", pixels)

    np.testing.assert_array_equal(decoded((tmp_path / "x.png").read_bytes()), pixels)


def test_pillow_reads_our_png_and_its_text(tmp_path):
    pixels = pixels_of(8)

    write_picture(tmp_path / "x.png", pixels, {"Camera": "X-T2 \N{EM DASH} ×100"})

    with Image.open(tmp_path / "x.png") as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
        assert image.info["Software"] == "darkprep"
        assert image.info["Camera"] == "X-T2 \N{EM DASH} ×100"


def test_pillow_accepts_16_bits(tmp_path):
    pixels = pixels_of(16)

    write_picture(tmp_path / "x.png", pixels)

    with Image.open(tmp_path / "x.png") as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), pixels >> 8)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_holds_its_pixels_and_text(tmp_path, bits):
    pixels = pixels_of(bits)

    write_picture(tmp_path / "x.TIFF", pixels, {"Camera": "ILCE-7SM2"})

    with tifffile.TiffFile(tmp_path / "x.TIFF") as tiff:
        np.testing.assert_array_equal(tiff.asarray(), pixels)
        assert "Camera: ILCE-7SM2" in tiff.pages.first.description


@given(st.floats(-1, 2, width=32))
def test_values_are_rounded_and_clipped(value):
    picture = np.full((3, 2, 2), value, np.float32)

    for bits in (8, 16):
        full = 2**bits - 1
        expected = np.clip(np.rint(np.float32(value) * np.float32(full)), 0, full)
        assert (quantised(picture, bits) == expected).all()


def test_sixteen_bit_pictures_are_unchanged_at_16_bits_and_rounded_at_8():
    picture = np.arange(65536, dtype=np.uint16).reshape(1, 256, 256).repeat(3, axis=0)

    np.testing.assert_array_equal(quantised(picture, 16)[..., 0], picture[0])
    np.testing.assert_array_equal(quantised(picture, 8)[..., 0], np.rint(picture[0] / 257))


def test_an_unknown_suffix_and_an_unwritable_directory_are_refused(tmp_path):
    with pytest.raises(OptionError, match=r"x\.jpg: unknown format; pictures are written as \.png"):
        write_picture(tmp_path / "x.jpg", pixels_of(8))
    (tmp_path / "x.png").mkdir()
    with pytest.raises((SpoolError, OSError)):
        write_picture(tmp_path / "x.png", pixels_of(8))
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_values_are_rounded_equally_on_the_host_and_on_a_device(device, bits):
    picture = torch.rand(3, 700, 33, generator=torch.Generator().manual_seed(1)) * 1.2 - 0.1

    pixels = quantised_on_device(picture.to(device), bits).cpu().numpy()

    np.testing.assert_array_equal(pixels, quantised(picture.numpy(), bits))
