"""Whatever a camera's phase, margins, bit depth, levels and orientation: planes and truth show one scene.

A picture is reconstructed from the planes by plain linear algebra and compared with the development.
Its PSNR is a property of the scene; a shift by one pixel, a swapped colour or a wrong level would each
change it by tens of decibels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.pairs.whole_frame import whole_frame
from darkprep.pipeline.raw.amplify import estimate_amplification
from darkprep.pipeline.raw.colour import linear_light
from darkprep.pipeline.raw.dng import DngTags, write_dng
from darkprep.pipeline.raw.mosaic import canonical_origin
from darkprep.pipeline.raw.source import PackedFrame, RawFile
from tests.support.raw_scene import F64, NEUTRAL, PHASES, U16, mosaic_of, scene


@dataclass(frozen=True)
class Levels:
    """Black per site of the RGGB cell, and white."""

    black: tuple[float, float, float, float]
    white: int


SENSORS = {
    "Sony": Levels((512.0, 512.0, 512.0, 512.0), 16383),
    "Nikon, 14 bits": Levels((400.0, 400.0, 400.0, 400.0), 15520),
    "Nikon, 12 bits": Levels((100.0, 100.0, 100.0, 100.0), 3880),
    "Canon, low ISO": Levels((2046.0, 2047.0, 2048.0, 2049.0), 13583),
    "Canon, high ISO": Levels((2047.0, 2047.0, 2047.0, 2047.0), 15303),
    "no black": Levels((0.0, 0.0, 0.0, 0.0), 4095),
}

ALIGNED_DB = 42.46
"""Of the scene below, whatever the camera."""


def photograph(
    path: Path,
    *,
    phase: str,
    margins: tuple[int, int, int, int] = (0, 0, 0, 0),
    sensor: str = "Sony",
    orientation: int = 1,
    size: tuple[int, int] = (122, 162),
    gain: float = 1.0,
    tail: tuple[float, int] = (1.0, 100),
) -> Path:
    """Writes the scene so that the first RGGB cell shows its origin; `tail` is exposure and ISO."""
    levels, pattern = SENSORS[sensor], PHASES[phase]
    dy, dx = canonical_origin(pattern)
    black = np.roll(np.reshape(levels.black, (2, 2)), (dy, dx), axis=(0, 1))
    # LibRaw rounds odd margins up to even ones, so that the visible area begins inside.
    top, left, bottom, right = margins
    inner = mosaic_of(
        pattern, top=-dy, left=-dx, height=size[0], width=size[1], black=black,
        white=levels.white, gain=gain,
    )  # fmt: skip
    whole = np.pad(inner, ((top, bottom), (left, right)), constant_values=int(levels.black[0]))
    tags = DngTags(
        cfa=pattern,
        black=tuple(float(b) for b in black.ravel()),
        white=levels.white,
        as_shot_neutral=NEUTRAL,
        orientation=orientation,
        margins=margins,
        exposure_s=tail[0],
        iso=tail[1],
    )
    write_dng(path, whole.astype(np.uint16), tags)
    return path


def light_of(frame: PackedFrame) -> F64:
    black = np.array(frame.black)[:, None, None]
    return np.asarray((frame.planes - black) / (frame.white - black))


def agreement(frame: PackedFrame, truth: U16, shift: int = 0) -> float:
    """PSNR in dB between a half-size picture made of the planes and the development in linear light."""
    light = light_of(frame)
    half = np.stack([light[0], (light[1] + light[2]) / 2, light[3]])
    half /= np.array(NEUTRAL)[:, None, None]
    _, height, width = truth.shape
    linear = linear_light(truth).reshape(3, height // 2, 2, width // 2, 2).mean((2, 4))
    ours = half[:, 4:-4, 4 + shift : width // 2 - 4 + shift]
    return float(-10 * np.log10(np.mean(np.square(ours - linear[:, 4:-4, 4:-4]))))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    phase=st.sampled_from(["RGGB", "BGGR", "GRBG", "GBRG"]),
    margins=st.tuples(*[st.integers(0, 9)] * 4),
    sensor=st.sampled_from(sorted(SENSORS)),
    orientation=st.integers(1, 8),
)
def test_planes_and_truth_agree_whatever_the_camera(tmp_path, phase, margins, sensor, orientation):
    """LibRaw rounds odd margins, which takes a row or column off the scene and keeps the phase."""
    path = photograph(
        tmp_path / "a.dng", phase=phase, margins=margins, sensor=sensor, orientation=orientation
    )

    frame = RawFile(path).decode()
    truth = RawFile(path).develop(brightness="constant")

    assert agreement(frame, truth) == pytest.approx(ALIGNED_DB, abs=0.25)
    assert agreement(frame, truth, shift=1) < ALIGNED_DB - 10


@pytest.mark.parametrize("sensor", sorted(SENSORS))
@pytest.mark.parametrize("phase", ["RGGB", "BGGR", "GRBG", "GBRG"])
def test_levels_leave_no_trace_in_the_light(tmp_path, phase, sensor):
    """The planes are the scene's light to half a code, and so is the estimated amplification."""
    levels = SENSORS[sensor]
    frame = RawFile(photograph(tmp_path / "a.dng", phase=phase, sensor=sensor)).decode()

    light = light_of(frame)
    height, width = light.shape[1:]
    world = scene(0, 0, 2 * height, 2 * width)
    for plane, (y, x) in enumerate(np.ndindex(2, 2)):
        error = np.abs(light[plane] - world[y::2, x::2, (0, 1, 1, 2)[plane]])
        assert error.max() <= 0.51 / (levels.white - max(levels.black))
    found = estimate_amplification(frame.planes, frame.black, frame.white, 60.0)
    sony = RawFile(photograph(tmp_path / "sony.dng", phase=phase)).decode()
    assert found == pytest.approx(
        estimate_amplification(sony.planes, sony.black, sony.white, 60.0), rel=0.01
    )


def test_a_canons_white_may_differ_between_short_and_long(tmp_path):
    """It depends on ISO; each file's own counts."""
    photograph(tmp_path / "short.dng", phase="RGGB", sensor="Canon, high ISO", gain=0.1)
    photograph(tmp_path / "long.dng", phase="RGGB", sensor="Canon, low ISO")
    pair = Pair(
        id="scene-1_IMG_0003", scene="scene-1", camera="canon70d", split="test",
        short="short.dng", long="long.dng", ratio=10.0, iso=3200,
    )  # fmt: skip

    sample = whole_frame(tmp_path, pair)

    assert sample.meta.white == 15303
    light = (sample.low[0] - 2047.0) / (15303 - 2047) * sample.meta.amplification
    world = scene(0, 0, *sample.gt.shape[1:])[::2, ::2, 0]
    assert np.abs(light - world).max() < 0.51 * 10 / 13000
    truth = linear_light(sample.gt)[1, 1:-1:2, 2:-1:2]
    wanted = scene(0, 0, *sample.gt.shape[1:])[1:-1:2, 2:-1:2, 1]
    assert np.abs(truth - wanted)[4:-4, 4:-4].max() < 0.01


@pytest.mark.slow
def test_45_megapixels_stay_aligned_from_corner_to_corner(tmp_path):
    """A small scene, repeated over a D850's frame in the phase GBRG and held upright."""
    levels, repeats = SENSORS["Nikon, 14 bits"], (10, 14)
    cell = mosaic_of(
        PHASES["GBRG"],
        top=0,
        left=0,
        height=552,
        width=592,
        black=levels.black[0],
        white=levels.white,
    )
    path = tmp_path / "d850.dng"
    tags = DngTags(
        cfa=PHASES["GBRG"], black=(levels.black[0],), white=levels.white, as_shot_neutral=NEUTRAL,
        orientation=8,
    )  # fmt: skip
    write_dng(path, np.tile(cell, repeats), tags)

    frame = RawFile(path).decode()
    truth = RawFile(path).develop(brightness="constant")

    assert truth.shape == (3, 5518, 8288)  # it starts at the second row, where R is
    for y, x in ((0, 0), (9, 0), (0, 13), (9, 13), (5, 7)):
        top, left = 552 * y + 16, 592 * x + 16
        window = replace(
            frame, planes=frame.planes[:, top // 2 : top // 2 + 250, left // 2 : left // 2 + 270]
        )
        shown = truth[:, top : top + 500, left : left + 540]
        assert agreement(window, shown) == pytest.approx(ALIGNED_DB, abs=1.0)
        assert agreement(window, shown, shift=1) < ALIGNED_DB - 10
