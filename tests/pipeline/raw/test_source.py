"""A RAW file as a source is packed and developed from the same origin, and its fingerprint finds changes."""

from __future__ import annotations

import os

import numpy as np
import pytest

from darkprep.pipeline.raw.develop import develop
from darkprep.pipeline.raw.mosaic import unpack
from darkprep.pipeline.raw.source import RawFile
from darkprep.shards.errors import RawError
from tests.support.raw_scene import PHASES, mosaic_of

BLACK = (510.0, 512.0, 516.0, 514.0)


@pytest.fixture
def source(write_raw):
    """A dark frame in the phase GBRG, of odd size, with a black level per colour."""
    path = write_raw(phase="GBRG", size=(61, 83), black=BLACK, gain=0.01, exposure_s=0.1, iso=800)
    return RawFile(path)


def test_a_mosaic_is_packed_from_its_canonical_origin(source):
    short = source.decode()

    black = np.reshape(BLACK, (2, 2))
    seen = mosaic_of(PHASES["GBRG"], top=0, left=0, height=61, width=83, black=black, gain=0.01)
    assert np.array_equal(unpack(short.planes, "bayer"), seen[1:61, :82])
    assert list(short.black) == [516, 514, 510, 512]
    assert (short.white, short.iso, short.exposure_s) == (16383, 800, 0.1)
    assert short.white_balance == pytest.approx((2, 1, 1.6, 1))


def test_the_header_is_that_of_the_decoded_frame(source):
    assert vars(source.header()) == vars(source.decode().header)


def test_a_development_is_cropped_like_the_mosaic(source):
    truth = source.develop()

    _, rgb = develop(source.path)
    assert truth.shape == (3, 60, 82)
    assert np.array_equal(truth, rgb[1:61, :82].transpose(2, 0, 1))


def test_the_default_brightness_is_that_of_the_papers(write_raw):
    path = write_raw(gain=1.2)  # peaks between 0.75 and 1

    assert np.array_equal(RawFile(path).develop(), RawFile(path).develop(brightness="paper"))
    assert RawFile(path).develop(brightness="constant").mean() < RawFile(path).develop().mean()


@pytest.mark.parametrize("offset", [0, -1])
def test_another_byte_at_either_end_is_another_fingerprint(source, offset):
    before = source.fingerprint()
    data = bytearray(source.path.read_bytes())
    data[offset] ^= 1
    source.path.write_bytes(data)

    assert source.fingerprint() != before


def test_a_cut_file_is_another_fingerprint(source):
    before = source.fingerprint()
    os.truncate(source.path, source.path.stat().st_size - 1)

    assert source.fingerprint() != before


def test_a_missing_file_has_no_fingerprint(tmp_path):
    with pytest.raises(RawError, match=r"away\.dng: no such file"):
        RawFile(tmp_path / "away.dng").fingerprint()
