"""A written DNG is what LibRaw reads: pixels, colours, levels, exposure, geometry."""

from __future__ import annotations

import builtins
import errno
import io

import numpy as np
import pytest
import rawpy
import tifffile
from hypothesis import given, settings, strategies as st

from darkprep.pipeline.raw.dng import BAYER, DngTags, write_dng
from darkprep.shards.cfa import CANONICAL
from darkprep.shards.errors import DiskFull, SpoolError


@pytest.fixture(scope="module")
def mosaic():
    return np.random.default_rng(1).integers(600, 16000, (96, 132), dtype=np.uint16)


def pattern(raw: rawpy.RawPy, size: int) -> tuple[str, ...]:
    """The letters that LibRaw sees at the visible origin, row by row."""
    top, left = raw.sizes.top_margin, raw.sizes.left_margin
    names = raw.color_desc.decode()
    return tuple(
        "".join(names[raw.raw_color(top + y, left + x)] for x in range(size)) for y in range(size)
    )


@pytest.mark.parametrize("cfa", [*BAYER.values(), CANONICAL["xtrans"]], ids=[*BAYER, "xtrans"])
def test_libraw_sees_the_mosaic_and_its_colours(tmp_path, mosaic, cfa):
    write_dng(tmp_path / "a.dng", mosaic, DngTags(cfa=cfa))

    with rawpy.imread(str(tmp_path / "a.dng")) as raw:
        assert np.array_equal(raw.raw_image_visible, mosaic)
        assert pattern(raw, len(cfa)) == cfa


@pytest.mark.parametrize("cfa", [BAYER["GRBG"], CANONICAL["xtrans"]], ids=["bayer", "xtrans"])
def test_masked_margins_are_not_visible(tmp_path, mosaic, cfa):
    write_dng(tmp_path / "a.dng", mosaic, DngTags(cfa=cfa, margins=(6, 12, 6, 0)))

    with rawpy.imread(str(tmp_path / "a.dng")) as raw:
        assert np.array_equal(raw.raw_image_visible, mosaic[6:-6, 12:])
        assert pattern(raw, len(cfa)) == cfa


def test_levels_exposure_and_names_are_read_back(tmp_path, mosaic):
    tags = DngTags(
        black=(510.0, 512.0, 514.0, 516.0),
        white=15520,
        exposure_s=1 / 30,
        f_number=2.8,
        iso=25600,
        as_shot_neutral=(0.4, 1.0, 0.8),
        date_time="2024:05:06 07:08:09",
    )

    write_dng(tmp_path / "a.dng", mosaic, tags)

    with rawpy.imread(str(tmp_path / "a.dng")) as raw:
        assert raw.white_level == 15520
        # by colour index R, G, B, G2; the file's order is R, G, G2, B
        assert raw.black_level_per_channel == [510, 512, 516, 514]
        assert raw.other.iso_speed == 25600
        assert raw.other.shutter_speed == pytest.approx(1 / 30)
        assert raw.other.aperture == pytest.approx(2.8)
        assert raw.other.timestamp.isoformat() == "2024-05-06T07:08:09"
        assert raw.camera_whitebalance[:3] == pytest.approx([2.5, 1.0, 1.25])
    with tifffile.TiffFile(tmp_path / "a.dng") as tif:
        tags_read = tif.pages.first.tags
        assert tags_read["UniqueCameraModel"].value == "darkprep Synthetic"
        assert tags_read["ExifTag"].value["ISOSpeedRatings"] == 25600


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_changes_a_tag_and_no_pixel(tmp_path, mosaic, orientation):
    write_dng(tmp_path / "a.dng", mosaic, DngTags(orientation=orientation))

    with rawpy.imread(str(tmp_path / "a.dng")) as raw:
        assert np.array_equal(raw.raw_image_visible, mosaic)
        assert raw.sizes.flip == {1: 0, 2: 1, 3: 3, 4: 2, 5: 4, 6: 6, 7: 7, 8: 5}[orientation]


@given(
    height=st.integers(24, 60),
    width=st.integers(24, 60),
    exposure=st.floats(1e-4, 60),
    white=st.integers(1000, 65535),
)
@settings(max_examples=15, deadline=None)
def test_any_size_level_and_exposure_survive(tmp_path_factory, height, width, exposure, white):
    path = tmp_path_factory.mktemp("dng") / "a.dng"
    frame = np.full((height, width), 900, np.uint16)

    write_dng(path, frame, DngTags(white=white, exposure_s=exposure))

    with rawpy.imread(str(path)) as raw:
        assert raw.raw_image.shape == (height, width)
        assert raw.white_level == white
        assert raw.other.shutter_speed == pytest.approx(exposure, rel=1e-2)


def test_the_same_arguments_give_the_same_bytes(tmp_path, mosaic):
    for name in ("a.dng", "b.dng"):
        write_dng(tmp_path / name, mosaic, DngTags())

    assert (tmp_path / "a.dng").read_bytes() == (tmp_path / "b.dng").read_bytes()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cfa": ("RG", "GX")}, "cfa must be"),
        ({"cfa": ("RGB", "GBR", "BRG")}, "cfa must be"),
        ({"black": (1.0, 2.0)}, "black needs 1 or 4 values"),
        ({"black": (4095.0,), "white": 4095}, "0 <= black < white"),
        ({"as_shot_neutral": (0.0, 1.0, 1.0)}, "as_shot_neutral"),
        ({"color_matrix": (1.0,)}, "color_matrix needs nine"),
        ({"iso": 102400}, "iso at most 65535"),
        ({"orientation": 9}, "orientation must be 1 to 8"),
        ({"margins": (-2, 0, 0, 0)}, "margins"),
    ],
)
def test_impossible_tags_are_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        DngTags(**wrong)


def test_a_mosaic_that_the_tags_do_not_fit_is_refused(tmp_path, mosaic):
    with pytest.raises(ValueError, match="uint16"):
        write_dng(tmp_path / "a.dng", mosaic.astype(np.float32), DngTags())
    with pytest.raises(ValueError, match="leave nothing"):
        write_dng(tmp_path / "a.dng", mosaic, DngTags(margins=(96, 0, 0, 0)))


def test_a_full_disk_leaves_no_file_behind(tmp_path, mosaic, monkeypatch):
    (tmp_path / "a.dng").write_bytes(b"old")
    real_open = builtins.open

    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    def full_open(path, mode="r", *rest, **named):
        return Full() if "x" in mode else real_open(path, mode, *rest, **named)

    monkeypatch.setattr(builtins, "open", full_open)
    with pytest.raises(DiskFull):
        write_dng(tmp_path / "a.dng", mosaic, DngTags())
    monkeypatch.undo()

    assert [path.name for path in tmp_path.iterdir()] == ["a.dng"]
    assert (tmp_path / "a.dng").read_bytes() == b"old"


def test_a_folder_that_refuses_is_an_error_of_ours(tmp_path, mosaic, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(SpoolError, match="cannot be written"):
        write_dng(tmp_path / "a.dng", mosaic, DngTags())
