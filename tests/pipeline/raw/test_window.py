"""A window's development is, bit for bit, the whole frame's, and whole frames are developed where it might not be."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from darkprep.pipeline.raw import develop as development, window as window_module
from darkprep.pipeline.raw.borders import Window
from darkprep.pipeline.raw.develop import develop, develop_windows
from darkprep.pipeline.raw.reader import OpenRaw, open_raw
from darkprep.pipeline.raw.source import RawFile
from darkprep.pipeline.raw.window import MARGIN, WindowColours
from darkprep.shards.errors import RawError
from tests.support.raw_scene import PHASES, U16, mosaic_of

HEIGHT, WIDTH, SIZE = 150, 190, 40


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch):
    """No kind of file has been compared yet."""
    monkeypatch.setattr(development, "_IS_EXACT", {})


def noisy_mosaic(phase: str = "RGGB", *, black=512.0, white: int = 16383, peak: float = 1.3) -> U16:
    """The scene with noise in each pixel, some of it below black and some saturated."""
    rng = np.random.default_rng(1)
    mosaic = mosaic_of(
        PHASES[phase],
        top=0,
        left=0,
        height=HEIGHT,
        width=WIDTH,
        black=black,
        white=white,
        gain=peak,
    )
    noise = rng.normal(0, 0.08 * white, mosaic.shape)
    # Many codes of 0 are taken for damage.
    return np.clip(np.rint(mosaic + noise), 1, white).astype(np.uint16)


def at(top: int, left: int, height: int = SIZE, width: int = SIZE) -> Window:
    return Window(top=top, left=left, height=height, width=width)


def places() -> list[Window]:
    """Corners, edges, near edges, odd and even places inside."""
    rows = [
        0,
        1,
        MARGIN - 1,
        MARGIN,
        51,
        52,
        HEIGHT - SIZE - MARGIN,
        HEIGHT - SIZE - 1,
        HEIGHT - SIZE,
    ]
    columns = [0, 3, MARGIN, 60, 77, WIDTH - SIZE - MARGIN, WIDTH - SIZE - 1, WIDTH - SIZE]
    return [at(row, column) for row in rows for column in columns]


def alone(path: Path, windows: list[Window], *, linear: bool = False, edition=2) -> list[U16]:
    """The windows, developed without the whole frame; fails if LibRaw is not given them."""
    with open_raw(path, edition=edition) as raw:
        settings = development._settings(linear)
        settings["user_sat"] = development.full_scale(raw.frame, "constant" if linear else "paper")
        found = []
        for window in windows:
            developed = raw.postprocess_windows([window], settings)
            assert developed is not None
            found += developed
        return found


def assert_exact(path: Path, windows: list[Window], *, linear: bool = False, edition=2) -> None:
    _, rgb = develop(path, linear=linear, edition=edition)
    for window, own in zip(
        windows, alone(path, windows, linear=linear, edition=edition), strict=True
    ):
        assert np.array_equal(own, rgb[window.slices]), window


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("phase", ["RGGB", "BGGR", "GRBG", "GBRG"])
def test_every_window_of_every_phase_is_exact(write_raw, phase, linear):
    path = write_raw(phase=phase, mosaic=noisy_mosaic(phase), size=(HEIGHT, WIDTH))

    assert_exact(path, places()[:: 5 if linear else 2], linear=linear)


@pytest.mark.parametrize(
    "tags",
    [
        {"black": (500.0, 520.0, 540.0, 560.0)},
        {"black": (0.0,), "white": 4095},
        {"black": (2047.0,), "white": 15303, "as_shot_neutral": (0.37, 1.0, 0.71)},
        {"orientation": 6},
        {"orientation": 3, "margins": (4, 6, 8, 10)},
        {"default_crop": (3, 5, HEIGHT - 10, WIDTH - 11)},
        {
            "color_matrix": (
                0.8314,
                -0.1291,
                -0.0671,
                -0.4407,
                1.2123,
                0.2554,
                -0.0531,
                0.1371,
                0.6203,
            )
        },
        {"make": "SONY", "model": "ILCE-7SM2"},
    ],
    ids=lambda tags: "-".join(tags),
)
def test_levels_colours_margins_and_orientation_do_not_matter(write_raw, tags):
    black = np.reshape(
        tags.get("black", (512.0,)) * (1 if len(tags.get("black", "1")) == 4 else 4), (2, 2)
    )
    mosaic = noisy_mosaic(black=black, white=tags.get("white", 16383))
    path = write_raw(mosaic=mosaic, size=(HEIGHT, WIDTH), **tags)
    cut = 20 if "default_crop" in tags else 0
    windows = [
        at(min(w.top, HEIGHT - SIZE - cut), min(w.left, WIDTH - SIZE - cut)) for w in places()
    ]

    assert_exact(path, windows[::3])


def spy(monkeypatch, name: str) -> list[object]:
    """What a method of OpenRaw returned from now on."""
    calls: list[object] = []
    real = getattr(OpenRaw, name)

    def method(self, *given, **settings):
        calls.append(real(self, *given, **settings))
        return calls[-1]

    monkeypatch.setattr(OpenRaw, name, method)
    return calls


def test_windows_of_one_frame_are_developed_together(write_raw):
    path = write_raw(mosaic=noisy_mosaic(), size=(HEIGHT, WIDTH))
    windows = [at(20, 31), at(0, 90), at(61, 30), at(61, 30), at(HEIGHT - 40, WIDTH - 40)]
    _, rgb = develop(path)

    for _ in range(2):
        header, found = develop_windows(path, lambda header: windows)

        assert (header.height, header.width) == (HEIGHT, WIDTH)
        for window, own in zip(windows, found, strict=True):
            assert np.array_equal(own, rgb[window.slices])


def test_a_kind_of_file_is_developed_whole_once_to_compare(write_raw, monkeypatch):
    paths = [
        write_raw(name, mosaic=noisy_mosaic(peak=peak), size=(HEIGHT, WIDTH))
        for name, peak in (("a.dng", 1.3), ("b.dng", 0.6))
    ]
    whole = spy(monkeypatch, "postprocess")

    for path in (*paths, *paths):
        develop_windows(path, lambda header: [at(20, 31)])
    assert len(whole) == 1

    develop_windows(paths[0], lambda header: [at(20, 31)], linear=True)
    assert len(whole) == 2


def too_dark(stack: U16, level: U16) -> U16:
    """A black level that is wrong by one code at one site of a cell."""
    wrong = level.copy()
    wrong[1, 0] += 1
    return ABOVE_BLACK(stack, wrong)


ABOVE_BLACK = window_module._above_black


@pytest.mark.parametrize(("name", "value"), [("MARGIN", 0), ("_above_black", too_dark)])
def test_files_whose_windows_are_not_exact_are_developed_whole(write_raw, monkeypatch, name, value):
    monkeypatch.setattr(window_module, name, value)
    path = write_raw(mosaic=noisy_mosaic(), size=(HEIGHT, WIDTH))
    window = at(20, 31)
    _, rgb = develop(path)
    windows = spy(monkeypatch, "postprocess_windows")

    for _ in range(3):
        _, (own,) = develop_windows(path, lambda header: [window])
        assert np.array_equal(own, rgb[window.slices])
    assert len(windows) == 1


def test_files_without_exact_colours_are_developed_whole(write_raw, monkeypatch):
    """The matrix that LibRaw reads from the window's DNG file is compared with the frame's own."""
    path = write_raw(mosaic=noisy_mosaic(), size=(HEIGHT, WIDTH), make="SONY", model="ILCE-7SM2")
    monkeypatch.setattr("darkprep.pipeline.raw.window._COLOUR_TAGS", ())
    windows = spy(monkeypatch, "postprocess_windows")
    window = at(20, 31)

    _, (own,) = develop_windows(path, lambda header: [window])

    assert windows == [None]
    assert np.array_equal(own, develop(path)[1][window.slices])


def test_small_frames_and_x_trans_are_developed_whole(tmp_path, write_raw, monkeypatch):
    windows = spy(monkeypatch, "postprocess_windows")
    small = write_raw(size=(64, 64))
    side = 516
    rng = np.random.default_rng(0)
    fuji = write_raw(
        "fuji.dng", phase="XTRANS", size=(side, side),
        mosaic=rng.integers(500, 16000, (side, side), dtype=np.uint16),
    )  # fmt: skip

    develop_windows(small, lambda header: [at(0, 0), at(20, 20), at(4, 4)])
    develop_windows(fuji, lambda header: [at(30, 60)])

    assert windows == [None, None]


def test_rw2_files_are_developed_whole(tmp_path, write_raw):
    """In these, LibRaw replaces codes of 0 by their neighbours; the DNG file of a window cannot state that."""
    panasonic = tmp_path / "frame.rw2"
    panasonic.write_bytes(b"IIU\0" + bytes(100))

    with open_raw(write_raw()) as raw:
        assert WindowColours.from_file(str(panasonic), raw.handle) is None
        assert WindowColours.from_file(raw.frame.path, raw.handle) is not None


def test_crops_are_relative_to_the_canonical_mosaic(write_raw):
    path = write_raw(phase="GBRG", mosaic=noisy_mosaic("GBRG"), size=(HEIGHT, WIDTH))
    source = RawFile(path)
    whole = source.develop()
    origins = [(0, 0), (40, 60), (whole.shape[1] - SIZE, whole.shape[2] - SIZE)]

    for _ in range(2):
        found = source.develop_crops(origins, SIZE)

        assert (found.height, found.width) == whole.shape[1:]
        for (y, x), crop in zip(origins, found.crops, strict=True):
            assert np.array_equal(crop, whole[:, y : y + SIZE, x : x + SIZE])

    with pytest.raises(RawError, match="too small for its crops"):
        source.develop_crops([(HEIGHT, 0)], SIZE)


REAL = Path(os.environ.get("DARKPREP_REAL_RAW", Path(__file__).parents[3].parent / "shared/raw"))


@pytest.mark.skipif(not REAL.is_dir(), reason="no directory of real RAW files (DARKPREP_REAL_RAW)")
@pytest.mark.parametrize(
    "name",
    [
        "nikon_d1.NEF",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("canon_s30.CRW", "arw2.ARW", "wxy.dng")
        ),
    ],
)
def test_windows_of_real_cameras_are_exact(name):
    """Matrices from LibRaw's table of cameras, a measured black level, and a white balance as a chromaticity."""
    with open_raw(REAL / name) as raw:
        height, width = raw.frame.height, raw.frame.width
    windows = [at(0, 0, 128, 128), at(211, 302, 256, 256), at(height - 100, width - 90, 100, 90)]

    assert_exact(REAL / name, windows)
    develop_windows(REAL / name, lambda header: windows[1:])
    assert list(development._IS_EXACT.values()) == [True]
