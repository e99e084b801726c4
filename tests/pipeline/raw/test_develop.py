"""The development is the papers', aligned with the mosaic, and the same in every run."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rawpy

from darkprep.pipeline.raw.develop import develop, develop_amplified
from darkprep.pipeline.raw.mosaic import (
    canonical_mosaic,
    canonical_origin,
    canonical_rgb,
    canonical_shape,
    pack,
)
from darkprep.pipeline.raw.reader import read_raw
from darkprep.shards.errors import RawError
from darkprep.trainer.restoration import upright
from tests.support.raw_scene import F64, NEUTRAL, PHASES, U16, mosaic_of, scene


def srgb_to_light(codes: U16) -> F64:
    """Undoes LibRaw's default gamma (BT.709: power 1/2.222, slope 4.5)."""
    v = codes.astype(np.float64) / 65535
    return np.where(v < 0.081, v / 4.5, ((v + 0.099) / 1.099) ** 2.222)


def psnr(a: F64, b: F64) -> float:
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


def default_development(path: Path, **settings: Any) -> U16:
    with rawpy.imread(str(path)) as raw:
        rgb = raw.postprocess(
            use_camera_wb=True, no_auto_bright=True, output_bps=16, user_flip=0, **settings
        )
    return np.asarray(rgb, np.uint16)


def code_of(share: float) -> int:
    return int(512 + share * (16383 - 512))


@pytest.mark.parametrize("share", [1.0, 0.95, 0.8, 0.76, 0.74, 0.3])
def test_brightness_paper_is_libraws_default_bit_for_bit(write_raw, share):
    mosaic = mosaic_of(PHASES["RGGB"], top=0, left=0, height=60, width=80, gain=0.3)
    mosaic[30, 40] = code_of(share)
    path = write_raw(mosaic=mosaic)

    _, rgb = develop(path, brightness="paper")

    assert rgb.dtype == np.uint16
    assert np.array_equal(rgb, default_development(path))


@pytest.mark.parametrize("peak", [0.95, 0.8, 0.7])
@pytest.mark.parametrize("phase", ["RGGB", "GBRG"])
def test_brightness_paper_counts_each_colours_black(write_raw, peak, phase):
    black = (500.0, 520.0, 540.0, 560.0)
    mosaic = mosaic_of(
        PHASES[phase], top=0, left=0, height=60, width=80, black=np.reshape(black, (2, 2)), gain=0.3
    )
    mosaic[31, 41] = code_of(peak)
    path = write_raw(mosaic=mosaic, phase=phase, black=black)

    assert np.array_equal(develop(path)[1], default_development(path))


def test_brightness_constant_ignores_a_hot_pixel(write_raw):
    calm = mosaic_of(PHASES["RGGB"], top=0, left=0, height=60, width=80, gain=0.3)
    hot = calm.copy()
    hot[30, 40] = code_of(0.8)
    far = np.s_[:15]

    paths = [write_raw("calm.dng", mosaic=calm), write_raw("hot.dng", mosaic=hot)]
    constant = [develop(path, brightness="constant")[1][far] for path in paths]
    paper = [develop(path, brightness="paper")[1][far] for path in paths]

    assert np.array_equal(*constant)
    assert paper[1].mean() > 1.05 * paper[0].mean()
    assert np.array_equal(
        develop(paths[1], brightness="constant")[1],
        default_development(paths[1], adjust_maximum_thr=0.0),
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_never_turns_the_truth(write_raw, orientation):
    path = write_raw(orientation=orientation)

    frame, rgb = develop(path)

    assert np.array_equal(rgb, develop(write_raw("upright.dng"))[1])
    with rawpy.imread(str(path)) as raw:
        turned = raw.postprocess(use_camera_wb=True, no_auto_bright=True, output_bps=16)
    assert np.array_equal(upright(rgb, frame.orientation), turned)


@pytest.mark.parametrize("size", [(61, 83), (60, 83), (61, 80)])
def test_odd_sizes_stay_aligned(write_raw, size):
    frame, rgb = develop(write_raw(size=size))

    assert rgb.shape == (*frame.mosaic.shape, 3)


@pytest.mark.parametrize("phase", ["RGGB", "BGGR", "GRBG", "GBRG"])
@pytest.mark.parametrize("margins", [(0, 0, 0, 0), (3, 5, 1, 1), (4, 6, 2, 2)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_planes_and_truth_show_the_same_in_every_phase(write_raw, phase, margins, orientation):
    """A linear half-size picture from the planes fits the truth equally well in every phase."""
    dy, dx = canonical_origin(PHASES[phase])
    path = write_raw(
        phase=phase, start=(-dy, -dx), size=(122, 162), margins=margins, orientation=orientation
    )

    frame, rgb = develop(path, brightness="constant")
    height, width = canonical_shape(frame)
    planes = pack(canonical_mosaic(frame), "bayer")
    truth = canonical_rgb(rgb, canonical_origin(frame.pattern), (height, width))

    light = (planes.astype(np.float64) - 512) / (16383 - 512)
    half = (
        np.stack([light[0], (light[1] + light[2]) / 2, light[3]]) / np.array(NEUTRAL)[:, None, None]
    )
    linear = srgb_to_light(truth).reshape(3, height // 2, 2, width // 2, 2).mean((2, 4))
    inner = np.s_[:, 4:-4, 4:-4]
    aligned = psnr(half[inner], linear[inner])
    shifted = psnr(half[:, 4:-4, 5:-3], linear[inner])
    assert aligned == pytest.approx(ALIGNED_DB, abs=0.05)
    assert shifted < ALIGNED_DB - 10


ALIGNED_DB = 42.46


@pytest.mark.parametrize("phase", ["RGGB", "BGGR", "GRBG", "GBRG"])
def test_the_canonical_frame_is_the_same_in_every_phase(write_raw, phase):
    dy, dx = canonical_origin(PHASES[phase])
    frame, rgb = develop(write_raw(phase=phase, start=(-dy, -dx), size=(62, 82)))
    reference = develop(write_raw("reference.dng", size=(62, 82)))[1][8:52, 8:72]

    truth = canonical_rgb(rgb, (dy, dx), (60, 80))[:, 8:52, 8:72].transpose(1, 2, 0)

    expected = mosaic_of(PHASES["RGGB"], top=0, left=0, height=60, width=80)
    assert np.array_equal(canonical_mosaic(frame)[:60, :80], expected)
    assert np.array_equal(truth, reference)


@pytest.mark.parametrize("shift", [(0, 0), (2, 3), (5, 1)])
def test_xtrans_planes_and_truth_show_the_same_in_every_phase(write_raw, shift):
    dy, dx = shift
    array = PHASES["XTRANS"]
    pattern = tuple(row[dx:] + row[:dx] for row in array[dy:] + array[:dy])
    oy, ox = canonical_origin(pattern)

    frame, rgb = develop(
        write_raw(cfa=pattern, start=(-oy, -ox), size=(530, 536), margins=(12, 6, 0, 6))
    )
    truth = canonical_rgb(rgb, (oy, ox), canonical_shape(frame))

    expected = mosaic_of(array, top=0, left=0, height=528, width=528)[
        : truth.shape[1], : truth.shape[2]
    ]
    assert np.array_equal(canonical_mosaic(frame)[:528, :528], expected)
    light = srgb_to_light(truth).transpose(1, 2, 0)[6:-6, 6:-6]
    world = (scene(0, 0, *truth.shape[1:]) / np.array(NEUTRAL))[6:-6, 6:-6]
    assert psnr(light, world) > XTRANS_DB
    assert psnr(light[:, 3:], world[:, :-3]) < XTRANS_DB - 10


XTRANS_DB = 40.0


def test_small_xtrans_frames_are_named(write_raw):
    path = write_raw(phase="XTRANS", size=(510, 600))

    assert read_raw(path).cfa == "xtrans"
    with pytest.raises(RawError, match="512"):
        develop(path)


TWICE = """
import hashlib, sys
{first}
from darkprep.pipeline.raw.develop import develop
for _ in range(2):
    print(hashlib.sha256(develop(sys.argv[1])[1]).hexdigest())
import torch
assert torch.get_num_threads() == 2, torch.get_num_threads()
"""


@pytest.mark.slow
@pytest.mark.parametrize("first", ["", "import torch"])
def test_xtrans_develops_the_same_with_any_number_of_openmp_threads(write_raw, first):
    """LibRaw's X-Trans demosaic differs from run to run on several threads; here it has one.

    torch brings an OpenMP of its own; loaded first, LibRaw uses that one. It keeps its threads.
    """
    noise = np.random.default_rng(0).integers(600, 16000, (540, 1560), dtype=np.uint16)
    path = write_raw(phase="XTRANS", size=noise.shape, mosaic=noise)

    run = subprocess.run(
        [sys.executable, "-c", TWICE.format(first=first), str(path)],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )

    here = hashlib.sha256(develop(path)[1]).hexdigest()
    assert run.stdout.split() == [here, here]


def test_the_truth_outlives_the_file(write_raw):
    path = write_raw()
    _, rgb = develop(path)
    kept = rgb.copy()
    path.unlink()

    for _ in range(3):
        develop(write_raw("other.dng", start=(50, 50)))

    assert np.array_equal(rgb, kept)


def test_an_unusable_file_is_named(tmp_path):
    with pytest.raises(RawError, match="no such file"):
        develop(tmp_path / "absent.dng")


@pytest.mark.parametrize("phase", ["RGGB", "GRBG"])
def test_an_amplified_short_exposure_shows_what_a_longer_one_does(write_raw, phase):
    """Codes a tenth as far above black, amplified tenfold: the same picture but for rounding."""
    bright = write_raw("bright.dng", phase=phase, gain=0.9)
    dark = write_raw("dark.dng", phase=phase, gain=0.09)
    frame, rgb = develop(bright, brightness="constant")
    wanted = canonical_rgb(rgb, canonical_origin(frame.pattern), canonical_shape(frame))

    found = develop_amplified(dark, 10.0)

    assert found.shape == wanted.shape
    assert psnr(found / 65535, wanted / 65535) > 45
    assert psnr(develop_amplified(dark, 1.0) / 65535, wanted / 65535) < 15


def test_another_cameras_levels_shift_and_scale_what_is_amplified(write_raw):
    frame = write_raw(gain=0.09)
    own = read_raw(frame)
    black, white = float(own.black[0, 0]), float(own.white)

    np.testing.assert_array_equal(
        develop_amplified(frame, 10.0, levels=(black, white)), develop_amplified(frame, 10.0)
    )
    assert develop_amplified(frame, 1000.0, levels=(black - 100, white)).min() > 60000
    assert develop_amplified(frame, 10.0, levels=(black + 9000, white)).max() < 1000


def test_amplified_highlights_stop_at_white(write_raw):
    frame = write_raw(gain=0.9)

    assert develop_amplified(frame, 1000.0).min() > 60000
