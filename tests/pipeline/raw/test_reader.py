"""The contents of a RAW file are read correctly, and unusable files are refused with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rawpy
import tifffile
from PIL import Image

import darkprep.pipeline.raw.reader as raw_module
from darkprep.pipeline.raw.colour import SRGB_TO_XYZ_LIBRAW
from darkprep.pipeline.raw.dng import DngTags, write_dng
from darkprep.pipeline.raw.frame import RawFrame, RawHeader
from darkprep.pipeline.raw.libraw import without_libraw_messages
from darkprep.pipeline.raw.reader import OpenRaw, read_header, read_raw
from darkprep.shards.errors import RawError
from tests.support.raw_scene import PHASES, mosaic_of

BAYER = ("RGGB", "BGGR", "GRBG", "GBRG")


def entry(data: bytearray, code: int) -> int:
    """Return the offset of a tag's entry in the first directory."""
    start = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[start : start + 2], "little")
    entries = range(start + 2, start + 2 + 12 * count, 12)
    return next(p for p in entries if int.from_bytes(data[p : p + 2], "little") == code)


def retag(path: Path, code: int, new: int) -> None:
    """Renames one tag of the first directory, as if the file had been written without it."""
    data = bytearray(path.read_bytes())
    offset = entry(data, code)
    data[offset : offset + 2] = new.to_bytes(2, "little")
    path.write_bytes(data)


def set_value(path: Path, code: int, value: bytes) -> None:
    """Replaces the up to four bytes of a tag's value in the first directory."""
    data = bytearray(path.read_bytes())
    offset = entry(data, code) + 8
    data[offset : offset + len(value)] = value
    path.write_bytes(data)


@pytest.mark.parametrize("phase", BAYER)
@pytest.mark.parametrize("margins", [(0, 0, 0, 0), (4, 8, 0, 2), (38, 72, 0, 0)])
def test_every_phase_and_margin_is_read_at_the_visible_area(write_raw, phase, margins):
    path = write_raw(phase=phase, margins=margins)

    frame = read_raw(path)

    assert frame.cfa == "bayer"
    assert frame.pattern == PHASES[phase]
    expected = mosaic_of(PHASES[phase], top=0, left=0, height=60, width=80)
    assert np.array_equal(frame.mosaic, expected)


@pytest.mark.parametrize("phase", BAYER)
@pytest.mark.parametrize("margins", [(7, 12, 0, 0), (1, 1, 1, 1), (2, 5, 3, 0)])
def test_odd_margins_keep_pattern_and_pixels_together(write_raw, phase, margins):
    """LibRaw rounds odd margins and shrinks the area; what it then shows must fit its pattern."""
    masked = np.zeros((60, 80), np.uint16)
    for y, row in enumerate(PHASES[phase]):
        for x, colour in enumerate(row):
            masked[y::2, x::2] = {"R": 1000, "G": 2000, "B": 3000}[colour]
    path = write_raw(phase=phase, margins=margins, mosaic=masked)

    frame = read_raw(path)

    for y, row in enumerate(frame.pattern):
        for x, colour in enumerate(row):
            inner = frame.mosaic[2 + y : -4 : 2, 2 + x : -4 : 2]
            assert np.unique(inner).tolist() == [{"R": 1000, "G": 2000, "B": 3000}[colour]]


@pytest.mark.parametrize("margins", [(0, 0, 0, 0), (12, 12, 6, 0), (6, 18, 0, 6)])
@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (4, 5)])
def test_xtrans_is_read_with_its_phase_and_wide_margins(write_raw, margins, shift):
    dy, dx = shift
    pattern = tuple(row[dx:] + row[:dx] for row in PHASES["XTRANS"][dy:] + PHASES["XTRANS"][:dy])

    frame = read_raw(write_raw(phase="XTRANS", cfa=pattern, margins=margins, black=(1024.0,)))

    assert frame.cfa == "xtrans"
    assert frame.pattern == pattern
    assert frame.black.shape == (6, 6)
    assert np.unique(frame.black).tolist() == [1024]


@pytest.mark.parametrize("phase", [*BAYER, "XTRANS"])
@pytest.mark.parametrize("margins", [(0, 0, 0, 0), (6, 12, 0, 6)])
def test_the_header_says_the_same_as_the_frame(write_raw, phase, margins):
    path = write_raw(phase=phase, margins=margins, orientation=6, iso=1600, exposure_s=1 / 30)

    header, frame = read_header(path), read_raw(path)

    assert type(header) is RawHeader
    assert vars(header) == vars(frame.header())
    assert (header.height, header.width) == frame.mosaic.shape


def test_exposure_and_camera_are_exact(write_raw):
    path = write_raw(iso=3200, exposure_s=1 / 30, make="SONY", model="ILCE-7SM2")

    frame = read_raw(path)

    assert (frame.exposure_s, frame.iso) == (1 / 30, 3200)
    assert (frame.make, frame.model) == ("SONY", "ILCE-7SM2")


def test_libraw_is_asked_when_exif_says_nothing(write_raw):
    path = write_raw(exposure_s=0.25, iso=400)
    retag(path, 34665, 34664)  # the pointer to the Exif directory

    frame = read_raw(path)

    assert frame.exposure_s == 0.25
    assert frame.iso == 0


@pytest.mark.parametrize("phase", BAYER)
def test_black_is_each_sites_own(write_raw, phase):
    black = (510.0, 512.0, 514.0, 516.0)

    frame = read_raw(write_raw(phase=phase, black=black))

    assert np.array_equal(frame.black, np.reshape(black, (2, 2)))


@pytest.mark.parametrize(
    ("black", "white"), [(400.0, 15520), (2048.0, 15303), (100.0, 3880), (0.0, 4095)]
)
def test_levels_are_the_files_own(write_raw, black, white):
    frame = read_raw(write_raw(black=(black,), white=white))

    assert np.unique(frame.black).tolist() == [black]
    assert frame.white == white


def test_white_balance_is_relative_to_green(write_raw):
    frame = read_raw(write_raw(as_shot_neutral=(0.4, 0.8, 0.5)))

    assert frame.white_balance == pytest.approx((2.0, 1.0, 1.6, 1.0))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_never_turns_the_mosaic(write_raw, orientation):
    upright = read_raw(write_raw("a.dng"))

    turned = read_raw(write_raw("b.dng", orientation=orientation))

    assert np.array_equal(turned.mosaic, upright.mosaic)
    assert turned.pattern == upright.pattern


def test_the_mosaic_owns_its_memory(write_raw):
    frame = read_raw(write_raw())

    assert frame.mosaic.flags.owndata
    assert frame.mosaic.flags.c_contiguous


def test_paths_may_be_text_or_path_or_not_unicode(write_raw, tmp_path):
    path = write_raw()
    odd = os.fsencode(tmp_path) + b"/\xff\xe4.dng"
    Path(os.fsdecode(odd)).write_bytes(path.read_bytes())

    frames = [read_raw(path), read_raw(str(path)), read_raw(os.fsdecode(odd))]

    assert all(np.array_equal(frame.mosaic, frames[0].mosaic) for frame in frames)
    assert vars(read_header(os.fsdecode(odd))) == vars(frames[2].header())


def make_text(path):
    path.write_text("not a photograph\n" * 100)


def make_picture(path):
    Image.new("RGB", (64, 64)).save(path, format="JPEG")


def make_rgb_tiff(path):
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), photometric="rgb")


DNG_VERSION = [(50706, 1, 4, b"\x01\x04\x00\x00", True), (50708, 2, 0, "darkprep Linear", True)]


def make_linear_dng(path):
    pixels = np.random.default_rng(0).integers(0, 60000, (64, 64, 3), dtype=np.uint16)
    tifffile.imwrite(path, pixels, photometric=34892, metadata=None, extratags=DNG_VERSION)


@pytest.mark.parametrize("read", [read_raw, read_header])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is a directory"),
        (lambda path: path.touch(), "is empty"),
        (lambda path: path.write_bytes(b"I"), "is truncated or not a RAW file"),
        (make_text, "is not a RAW file"),
        (make_picture, "is not a RAW file"),
        (make_rgb_tiff, "is not a RAW file"),
        (make_linear_dng, "demosaiced colours"),
    ],
)
def test_foreign_files_are_named(tmp_path, read, make, reason):
    path = tmp_path / "frame.dng"
    make(path)

    with pytest.raises(RawError, match=reason) as caught:
        read(path)

    assert caught.value.path == str(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_raw, read_header])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_truncated_file_is_named_before_it_is_decoded(write_raw, capfd, read, share):
    path = write_raw(size=(200, 300))
    data = path.read_bytes()
    path.write_bytes(data[: int((len(data) - 200) * share)])  # the Exif directory is the last 200

    with pytest.raises(RawError, match=r"is truncated: [\d,]+ bytes of at least 120,") as caught:
        read(path)

    assert caught.value.path == str(path)
    assert capfd.readouterr() == ("", "")


def test_truncation_that_only_decoding_finds_is_named(write_raw):
    path = write_raw(size=(200, 300))
    retag(path, 34665, 34664)  # else LibRaw misses the Exif directory behind the pixels
    retag(path, 279, 280)  # StripByteCounts
    path.write_bytes(path.read_bytes()[:60000])

    assert read_header(path).height == 200
    with pytest.raises(RawError, match="is damaged or truncated"):
        read_raw(path)


@pytest.mark.parametrize("share", [0.002, 0.02])
def test_a_file_cut_within_its_header_is_named(write_raw, share):
    path = write_raw(size=(200, 300))
    path.write_bytes(path.read_bytes()[: int(120_000 * share)])

    with pytest.raises(RawError, match="truncated"):
        read_raw(path)


def test_an_unreadable_file_is_named(write_raw, monkeypatch):
    path = write_raw()

    def refuse(self, *_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RawError, match="permission denied"):
        read_raw(path)


def test_a_body_of_zeros_is_named(write_raw):
    mosaic = mosaic_of(PHASES["RGGB"], top=0, left=0, height=60, width=80)
    mosaic[58:] = 0  # 3 %

    with pytest.raises(RawError, match="3% of its pixels are 0"):
        read_raw(write_raw(mosaic=mosaic))


def test_a_few_dead_pixels_are_not_damage(write_raw):
    mosaic = mosaic_of(PHASES["RGGB"], top=0, left=0, height=60, width=80)
    mosaic[::30, ::40] = 0

    assert read_raw(write_raw(mosaic=mosaic)).mosaic.min() == 0


def test_zeros_are_no_damage_where_black_is_zero(write_raw):
    mosaic = np.random.default_rng(0).poisson(1.0, (60, 80)).astype(np.uint16)

    assert read_raw(write_raw(mosaic=mosaic, black=(0.0,))).mosaic.min() == 0


@pytest.mark.parametrize("code", [0, 512, 65535])
def test_a_body_of_one_value_is_named(write_raw, code):
    with pytest.raises(RawError, match="of its pixels"):
        read_raw(write_raw(mosaic=np.full((60, 80), code, np.uint16)))


def test_a_file_without_white_balance_is_named(write_raw):
    path = write_raw()
    retag(path, 50728, 50769)

    with pytest.raises(RawError, match="no white balance that LibRaw can read"):
        read_raw(path)


@pytest.mark.parametrize("read", [read_raw, read_header])
def test_a_monochrome_file_is_named(write_raw, read):
    path = write_raw()
    set_value(path, 262, (34892).to_bytes(2, "little"))  # one sample of LinearRaw

    with pytest.raises(RawError, match="is monochrome"):
        read(path)


@pytest.mark.parametrize("read", [read_raw, read_header])
@pytest.mark.parametrize("colours", [b"\x00\x01\x01\x01", b"\x00\x00\x01\x02", b"\x00\x01\x02\x01"])
def test_other_filter_arrays_are_named(write_raw, read, colours):
    path = write_raw()
    set_value(path, 33422, colours)

    with pytest.raises(RawError, match="neither Bayer nor X-Trans"):
        read(path)


@pytest.mark.parametrize("read", [read_raw, read_header])
def test_pixels_that_are_not_square_are_named(write_raw, read):
    path = write_raw(exposure_s=1.0)
    retag(path, 33434, 50718)  # two fractions in a row, 1/1 and 28/5, become DefaultScale

    with pytest.raises(RawError, match="non-square"):
        read(path)


def test_a_white_level_below_black_is_named(write_raw):
    path = write_raw()
    set_value(path, 50717, (300).to_bytes(4, "little"))

    with pytest.raises(RawError, match="white level 300, which is not above the black level 512"):
        read_raw(path)


def test_a_date_that_cannot_be_does_not_hide_the_frame(write_raw):
    path = write_raw(date_time="9999:99:99 99:99:99", iso=200)
    retag(path, 34665, 34664)

    assert read_raw(path).mosaic.shape == (60, 80)


def test_the_header_needs_no_c_interface(write_raw, monkeypatch):
    path = write_raw(phase="GBRG", margins=(2, 4, 0, 0))
    quick = read_header(path)
    monkeypatch.setattr("darkprep.pipeline.raw.libraw._c_library", lambda: None)

    assert vars(read_header(path)) == vars(quick)


class Failing:
    """Stands for LibRaw's handle when development goes wrong."""

    def postprocess(self, **_settings):
        raise rawpy._rawpy.LibRawDataError(b"Data error")


class Rotating:
    """Stands for LibRaw's handle of a sensor that it turns by 45 degrees."""

    def postprocess(self, **_settings):
        return np.zeros((100, 100, 3), np.uint16)


@pytest.mark.parametrize(
    ("handle", "reason"),
    [
        (Failing(), r"cannot develop it \(Data error\)"),
        (Rotating(), "rotated or stretched"),
    ],
)
def test_a_development_that_fails_or_does_not_align_is_named(write_raw, handle, reason):
    raw = OpenRaw(handle, read_raw(write_raw()))

    with pytest.raises(RawError, match=reason):
        raw.postprocess()


def test_importing_changes_no_setting_of_the_process():
    check = "import os; before = dict(os.environ); import darkprep.pipeline.raw.reader; assert dict(os.environ) == before"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_a_frame_checks_its_own_shape(write_raw):
    frame = read_raw(write_raw())
    values = {name: getattr(frame, name) for name in vars(frame)}

    for change, field in (
        ({"mosaic": frame.mosaic[:-2]}, "mosaic"),
        ({"black": np.zeros((6, 6), np.float32)}, "black"),
        ({"white": 100}, "white"),
        ({"pattern": ("RG",)}, "pattern"),
    ):
        with pytest.raises(ValueError, match=field):
            RawFrame(**{**values, **change})


def test_libraws_table_stands_in_for_a_file_without_a_matrix():
    """As most makers' files are; the table's rows are XYZ to camera, not yet balanced."""
    table = np.array([[0.7, -0.1, -0.1], [-0.4, 1.2, 0.2], [-0.1, 0.2, 0.6]])
    raw: Any = SimpleNamespace(
        color_matrix=np.zeros((3, 4)), rgb_xyz_matrix=np.vstack([table, np.zeros(3)])
    )

    to_srgb = raw_module._camera_to_srgb(raw)

    white = to_srgb @ np.ones(3)
    assert white == pytest.approx(1, abs=1e-5)
    camera = table @ SRGB_TO_XYZ_LIBRAW @ np.array([0.2, 0.5, 0.3])
    balanced = camera / (table @ SRGB_TO_XYZ_LIBRAW).sum(axis=1)
    assert to_srgb @ balanced == pytest.approx([0.2, 0.5, 0.3], abs=1e-5)
    unknown: Any = SimpleNamespace(color_matrix=np.zeros((3, 4)), rgb_xyz_matrix=np.zeros((4, 3)))
    assert not raw_module._camera_to_srgb(unknown).any()


@pytest.mark.parametrize(
    ("code", "name"), [("zlib", "deflate"), ("deflate", "deflate"), ("lzma", "LZMA")]
)
def test_a_dng_of_a_compression_that_libraw_lacks_is_named(
    tmp_path: Path, monkeypatch, code: str, name: str
):
    path = tmp_path / "deflate.dng"
    write = tifffile.imwrite
    monkeypatch.setattr(
        tifffile, "imwrite", lambda *args, **named: write(*args, compression=code, **named)
    )
    write_dng(path, np.full((64, 96), 600, np.uint16), DngTags())

    for read in (read_header, read_raw):
        with pytest.raises(RawError, match=rf"LibRaw cannot decode \({name}\); convert it"):
            read(path)


def test_libraws_messages_do_not_reach_stderr_and_all_others_do(capfd):
    def print_twice() -> None:
        with without_libraw_messages():
            os.write(2, b"a.dng: Unexpected end of file\nkept\nunknown file: data corrupted at 9\n")

    with without_libraw_messages():
        threads = [threading.Thread(target=print_twice) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    os.write(2, b"after\n")

    assert capfd.readouterr().err == "kept\n" * 4 + "after\n"
