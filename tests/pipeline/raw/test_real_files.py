"""RAW files of real cameras, and a few made to a format's letter, are read or refused for the true reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from darkprep.pipeline.raw.reader import read_header, read_raw, read_white_balance
from darkprep.shards.errors import RawError

DIRECTORY = Path(
    os.environ.get("DARKPREP_REAL_RAW", Path(__file__).parents[3].parent / "shared/raw")
)
pytestmark = pytest.mark.skipif(
    not DIRECTORY.is_dir(), reason="no directory of real RAW files (DARKPREP_REAL_RAW)"
)


@pytest.mark.parametrize(
    "name, shape, pattern, black, white",
    [
        ("nikon_d1.NEF", (1324, 2012), ("BG", "GR"), [0, 0, 0, 0], 4095),
        ("canon_s30.CRW", (1550, 2088), ("RG", "GB"), [31, 32, 31, 31], 1023),
        ("arw2.ARW", (640, 768), ("RG", "GB"), [128, 128, 128, 128], 16383),
        ("wxy.dng", None, ("RG", "GB"), None, None),
    ],
)
def test_an_intact_file_is_used(name, shape, pattern, black, white):
    frame = read_raw(DIRECTORY / name, edition=1)

    assert frame.pattern == pattern
    if shape:
        assert frame.mosaic.shape == shape
        assert sorted(frame.black.ravel()) == sorted(black)
        assert frame.white == white


@pytest.mark.parametrize("name", ["nikon_d1.NEF", "canon_s30.CRW", "arw2.ARW"])
def test_a_header_has_the_white_balance_of_the_decoded_file(name):
    assert read_white_balance(DIRECTORY / name) == read_raw(DIRECTORY / name).white_balance


def test_a_white_balance_that_only_a_changed_file_has_is_not_in_its_header():
    assert read_white_balance(DIRECTORY / "wxy.dng") is None


def test_a_black_level_of_masked_columns_is_a_fraction():
    """LibRaw truncates the mean of each colour: 31 of 31.9 is 0.27 of full scale at an amplification of 290."""
    path = DIRECTORY / "canon_s30.CRW"

    measured, whole = read_raw(path), read_raw(path, edition=1)

    assert measured.black.ravel() == pytest.approx([31.924, 31.987, 31.954, 31.900], abs=0.001)
    assert (measured.mosaic == whole.mosaic).all()
    assert (read_raw(DIRECTORY / "nikon_d1.NEF").black == 0).all()


@pytest.mark.parametrize("read", [read_header, read_raw])
@pytest.mark.parametrize(
    "name, reason",
    [
        ("canon_eos_6d.dng", "holds demosaiced colours"),
        ("exiftool_Panasonic_header_only.rw2", "is truncated: 11,666 bytes of at least"),
        ("arw2_cut50.ARW", "is truncated: 311,296 bytes of at least 557,056"),
    ],
)
def test_an_unusable_file_is_refused_for_its_reason(read, name, reason):
    with pytest.raises(RawError, match=reason):
        read(DIRECTORY / name)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("gopro_hero6.GPR", r"cannot decode \(GoPro VC-5\); convert it"),
        ("jxl.dng", r"cannot decode \(JPEG XL\); convert it"),
    ],
)
@pytest.mark.parametrize("read", [read_header, read_raw])
def test_an_intact_file_that_cannot_be_decoded_is_not_called_damaged(read, name, reason):
    with pytest.raises(RawError, match=reason) as caught:
        read(DIRECTORY / name)

    assert "damaged" not in str(caught.value)


def test_header_and_frame_agree_on_an_iso_of_the_makers_notes():
    path = DIRECTORY / "nikon_d1.NEF"

    assert read_header(path).iso == read_raw(path).iso == 200


@pytest.mark.parametrize("name", ["nikon_d1.NEF", "canon_s30.CRW", "arw2.ARW", "wxy.dng"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("read", [read_header, read_raw])
def test_a_file_that_is_cut_anywhere_is_truncated(tmp_path, name, share, read):
    data = (DIRECTORY / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(share * len(data))])

    with pytest.raises(RawError, match="is truncated"):
        read(path)
