"""A window's development is, bit for bit, the whole frame's, and whole frames are developed where it might not be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from darkprep.pipeline.raw import develop as development
from darkprep.pipeline.raw.borders import Window
from darkprep.pipeline.raw.develop import develop
from darkprep.pipeline.raw.reader import open_raw
from darkprep.pipeline.raw.window import MARGIN
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
    return np.clip(np.rint(mosaic + noise), 0, white).astype(np.uint16)


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

    assert_exact(path, places()[:: 3 if linear else 1], linear=linear)


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

    assert_exact(path, windows[::2])
