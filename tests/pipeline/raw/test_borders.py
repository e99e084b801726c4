"""DNG's DefaultCrop is respected, masked columns show the black level, and older plans keep what they had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from darkprep.pipeline.pairs.sources import source_of_fingerprint
from darkprep.pipeline.raw.borders import Window, measured_black, used_window
from darkprep.pipeline.raw.develop import develop, develop_amplified
from darkprep.pipeline.raw.frame import F32
from darkprep.pipeline.raw.reader import read_header, read_raw
from darkprep.pipeline.raw.source import RawFile
from darkprep.shards.format import U16

WriteRaw = Callable[..., Path]
STATED = np.array([[31, 32], [31, 31]], np.float32)


@pytest.fixture
def cropped(write_raw: WriteRaw) -> Path:
    """A frame of 60 x 80 whose first row and three columns are dead, and lie beside its crop."""
    path = write_raw()
    mosaic = read_raw(path).mosaic.copy()
    mosaic[0] = mosaic[:, :3] = 512
    return write_raw(mosaic=mosaic, default_crop=(1, 3, 58, 76))


def test_a_crop_that_a_file_states_is_used(cropped: Path):
    header, frame = read_header(cropped), read_raw(cropped)

    assert (header.height, header.width) == (58, 76)
    assert header.pattern == frame.pattern == ("BG", "GR")
    whole = read_raw(cropped, edition=1)
    assert (frame.mosaic == whole.mosaic[1:59, 3:79]).all()
    assert whole.mosaic.shape == (60, 80)


def test_a_development_is_cropped_like_the_mosaic(cropped: Path):
    frame, picture = develop(cropped)
    _, whole = develop(cropped, edition=1)

    assert picture.shape == (58, 76, 3)
    assert frame.mosaic.shape == (58, 76)
    assert (picture == whole[1:59, 3:79]).mean() > 0.99
    source = RawFile(cropped)
    assert source.develop().shape == (3, 56, 74)
    assert source.decode().planes.shape == (4, 28, 37)
    assert develop_amplified(cropped, 2.0).shape == (3, 56, 74)


def test_black_levels_follow_the_crop(write_raw: WriteRaw):
    path = write_raw(black=(500, 510, 520, 530), default_crop=(1, 0, 58, 80))

    assert read_raw(path).black.tolist() == [[520, 530], [500, 510]]


def test_a_crop_of_everything_changes_nothing(write_raw: WriteRaw):
    plain, whole = write_raw("a.dng"), write_raw("b.dng", default_crop=(0, 0, 60, 80))

    assert read_raw(whole).mosaic.shape == read_raw(plain).mosaic.shape
    assert RawFile(whole).fingerprint() == RawFile(whole, edition=1).fingerprint()


def test_a_file_is_decoded_as_its_fingerprint_in_the_plan_states(cropped: Path):
    before, now = RawFile(cropped, edition=1), RawFile(cropped)

    assert now.fingerprint() == f"{before.fingerprint()}-2"
    for source in (before, now):
        assert source_of_fingerprint(cropped, source.fingerprint()) == source
    assert source_of_fingerprint(cropped, "0-0") is None


@pytest.mark.parametrize(
    ("crop", "window"),
    [
        (None, (0, 0, 100, 200)),
        ((2, 4, 90, 180), (2, 4, 90, 180)),
        ((1.5, 0.25, 90.5, 180), (2, 1, 90, 179)),
        ((20, 0, 90, 200), (0, 0, 100, 200)),
        ((-1, 0, 90, 200), (0, 0, 100, 200)),
        ((0, 0, 8, 8), (0, 0, 100, 200)),
        ((0, 0, float("nan"), 8), (0, 0, 100, 200)),
    ],
)
def test_only_a_crop_inside_the_visible_area_is_used(crop, window):
    top, left, height, width = window

    assert used_window(crop, 100, 200) == Window(top=top, left=left, height=height, width=width)


def masked_sensor(levels: F32, *, seed: int = 0) -> tuple[U16, Window]:
    """Codes around `levels` in every column, a bright visible area, and light in the columns beside it."""
    rng = np.random.default_rng(seed)
    visible = Window(top=8, left=4, height=400, width=60)
    codes = np.tile(levels, (205, 60)) + rng.normal(0, 0.5, (410, 120))
    codes = np.roll(codes, (visible.top, visible.left), axis=(0, 1))
    codes[visible.slices] = 900
    codes[:, [2, 3, 64, 65]] = 300
    codes[:8] = 10
    return np.rint(codes).astype(np.uint16), visible


def test_the_mean_of_masked_columns_is_the_black_level():
    levels = np.array([[31.4, 32.1], [31.6, 31.9]], np.float32)
    sensor, visible = masked_sensor(levels)

    assert measured_black(sensor, visible, STATED) == pytest.approx(levels, abs=0.03)


def test_stated_levels_stay_where_masked_columns_contradict_them_or_are_few():
    sensor, visible = masked_sensor(STATED + 5)
    few = Window(top=8, left=4, height=400, width=112)

    assert measured_black(sensor, visible, STATED) is STATED
    assert measured_black(sensor, few, STATED) is STATED
