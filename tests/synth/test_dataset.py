"""Synthetic data sets look like SID and ELD, develop into their scenes, and are reproducible."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rawpy

from darkprep.pipeline.noise.model import noise_parameters
from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.shards.errors import DarkprepError, DiskFull, OptionError
from darkprep.synth.capture import expose, record
from darkprep.synth.dataset import synthesise
from darkprep.synth.layouts import Exposure, split_of
from darkprep.synth.renderer.scene import Scene
from darkprep.synth.scenes.generate import make_scene
from darkprep.synth.sensors import SENSORS, sensor_of
from tests.support.rendering import render

SMALL = (96, 132)
F64 = npt.NDArray[np.float64]


def make(out: Path, camera: str = "sony", **options: object) -> tuple[Path, ...]:
    chosen = {"scenes": 1, "shorts": 1, "size": SMALL, "seed": 4, **options}
    return synthesise(out, camera, **chosen)


@pytest.fixture
def blank_scenes(monkeypatch):
    """Photographs of a grey wall, for tests of names, lists and metadata: a scene takes seconds to render."""
    scene = Scene(
        eye=(0, 0, 1),
        target=(0, 0, 0),
        field_of_view=1.0,
        solids=(),
        lights=(),
        ambient=((1, 1, 1), (1, 1, 1)),
    )
    monkeypatch.setattr("darkprep.synth.capture.make_scene", lambda seed, number: scene)
    monkeypatch.setattr(
        "darkprep.synth.capture.expose", lambda scene, sensor, size: np.full(size, 0.2, np.float32)
    )


def names(files: tuple[Path, ...], root: Path) -> list[str]:
    return [file.relative_to(root).as_posix() for file in files]


def developed(path: Path) -> F64:
    """The long exposure as SID's authors develop it, in [0, 1]."""
    with rawpy.imread(str(path)) as raw:
        options = {"use_camera_wb": True, "no_auto_bright": True, "output_bps": 16, "user_flip": 0}
        return np.asarray(raw.postprocess(**options) / 65535.0)


def bt709(linear: npt.NDArray[np.float32]) -> F64:
    """LibRaw's default output curve, power 2.222 with a toe of slope 4.5."""
    x = np.clip(linear.astype(np.float64), 0, 1)
    return np.asarray(np.where(x < 0.018, 4.5 * x, 1.099 * np.maximum(x, 1e-9) ** 0.45 - 0.099))


def psnr(a: F64, b: F64) -> float:
    return float(-10 * np.log10(((a - b) ** 2).mean()))


def test_sid_has_its_layout_names_and_lists(tmp_path, blank_scenes):
    files = make(tmp_path, scenes=6, shorts=2)

    assert names(files, tmp_path) == [
        *(
            "Sony/short/00001_00_0.1s.dng",
            "Sony/short/00001_00_0.04s.dng",
            "Sony/long/00001_00_10s.dng",
        ),
        *(
            "Sony/short/00002_00_0.1s.dng",
            "Sony/short/00002_01_0.1s.dng",
            "Sony/long/00002_00_30s.dng",
        ),
        *(
            "Sony/short/00003_00_0.1s.dng",
            "Sony/short/00003_00_0.04s.dng",
            "Sony/long/00003_00_10s.dng",
        ),
        *(
            "Sony/short/00004_00_0.1s.dng",
            "Sony/short/00004_01_0.1s.dng",
            "Sony/long/00004_00_30s.dng",
        ),
        *(
            "Sony/short/10005_00_0.1s.dng",
            "Sony/short/10005_00_0.04s.dng",
            "Sony/long/10005_00_10s.dng",
        ),
        *(
            "Sony/short/20006_00_0.1s.dng",
            "Sony/short/20006_01_0.1s.dng",
            "Sony/long/20006_00_30s.dng",
        ),
        *("Sony_train_list.txt", "Sony_test_list.txt", "Sony_val_list.txt"),
    ]
    line = (tmp_path / "Sony_test_list.txt").read_text().splitlines()[0]
    assert line.startswith("./Sony/short/10005_00_0.1s.dng ./Sony/long/10005_00_10s.dng ISO")
    assert len(line.split(" ")) == 4
    assert len((tmp_path / "Sony_train_list.txt").read_text().splitlines()) == 8


@pytest.mark.parametrize(
    ("scenes", "split"),
    [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (2, 1, 0)), (6, (4, 1, 1)), (100, (70, 21, 9))],
)
def test_scenes_spread_over_the_splits(scenes, split):
    found = [split_of(number, scenes) for number in range(scenes)]
    assert tuple(found.count(k) for k in range(3)) == split


def test_more_shorts_than_exposures_are_bursts(tmp_path, blank_scenes):
    files = make(tmp_path, shorts=5)

    assert [file.name for file in files[:5]] == [
        *("00001_00_0.1s.dng", "00001_00_0.04s.dng", "00001_00_0.033s.dng"),
        *("00001_01_0.1s.dng", "00001_01_0.04s.dng"),
    ]


def test_the_files_contain_their_exposure(tmp_path, blank_scenes):
    files = make(tmp_path, shorts=3)

    exposures, isos = [], set()
    for file in files[:4]:
        with rawpy.imread(str(file)) as raw:
            exposures.append(raw.other.shutter_speed)
            isos.add(raw.other.iso_speed)
    assert exposures == pytest.approx([0.1, 0.04, 1 / 30, 10])
    assert len(isos) == 1, "SID's pairs share the ISO"
    assert f"ISO{isos.pop():.0f} " in (tmp_path / "Sony_train_list.txt").read_text()


def test_the_isos_of_sids_scenes_can_be_chosen(tmp_path, blank_scenes):
    synthesise(tmp_path, "sony", scenes=6, shorts=1, size=(96, 96), isos=(1600, 25600))

    pairs = find_pairs(tmp_path, camera_named("sony")).pairs
    assert {pair.iso for pair in pairs} == {1600, 25600}
    with pytest.raises(OptionError, match="isos must be within SID's range, 50 to 25600"):
        synthesise(tmp_path, "sony", scenes=1, shorts=1, size=(96, 96), isos=(12,))


def test_eld_has_sixteen_images_of_the_published_isos_and_ratios(tmp_path, blank_scenes):
    files = make(tmp_path, "canon70d", scenes=2)

    assert len(files) == 32
    assert names(files, tmp_path)[16:18] == [
        "CanonEOS70D/scene-2/IMG_0001.dng",
        "CanonEOS70D/scene-2/IMG_0002.dng",
    ]
    light, isos = [], []
    for file in files[:16]:
        with rawpy.imread(str(file)) as raw:
            light.append(raw.other.iso_speed * raw.other.shutter_speed)
            isos.append(raw.other.iso_speed)
    assert isos == [100, *[800] * 4, 100, *[1600] * 4, 100, *[3200] * 4, 100]
    ratios = np.array(light[0]) / light
    np.testing.assert_allclose(ratios, [*[1, 1, 10, 100, 200] * 3, 1], rtol=1e-5)


@pytest.mark.parametrize("camera", SENSORS)
def test_each_camera_writes_what_it_is(tmp_path, camera, blank_scenes):
    sensor = sensor_of(camera)
    size = (516, 516) if camera == "fuji" else (120, 180)
    long = make(tmp_path, camera, size=size)[1 if sensor.layout.dataset == "SID" else 0]

    with rawpy.imread(str(long)) as raw:
        assert raw.raw_image_visible.shape == size
        assert (raw.sizes.top_margin, raw.sizes.left_margin) == sensor.margins
        assert raw.black_level_per_channel == [sensor.black] * 4
        assert raw.white_level == sensor.white
        top, left = sensor.margins
        letters = [
            "".join("RGBG"[raw.raw_color(top + y, left + x)] for x in range(sensor.period))
            for y in range(sensor.period)
        ]
        assert tuple(letters) == sensor.cfa
        matrix = np.array(raw.rgb_xyz_matrix)[:3]
        np.testing.assert_allclose(matrix, sensor.matrix, atol=1e-4)
        if top:
            masked = raw.raw_image[:top].astype(float)
            assert masked.mean() == pytest.approx(sensor.black, abs=3)


@pytest.fixture(scope="module")
def truth():
    """The first scene of seed 4, as a developer of its files should show it."""
    return bt709(render(make_scene(4, 0), (324, 486)))


@pytest.mark.parametrize(
    "camera",
    [name if name == "sony" else pytest.param(name, marks=pytest.mark.slow) for name in SENSORS],
)
def test_the_developed_long_exposure_is_the_scene(tmp_path, truth, camera):
    files = make(tmp_path, camera, size=truth.shape[:2])
    found = developed(
        next(file for file in files if file.parent.name == "long" or "_0001" in file.name)
    )

    assert psnr(found, truth) >= 40
    np.testing.assert_allclose(found.mean(axis=(0, 1)), truth.mean(axis=(0, 1)), atol=3e-3)


@pytest.mark.slow
@pytest.mark.parametrize("camera", ["sony", "fuji"])
def test_every_kind_of_scene_survives_development(tmp_path, camera):
    """Foliage at a fifth of full size shows what demosaicing loses, hence the lower bound."""
    files = make(tmp_path, camera, scenes=6, size=(516, 774), seed=3)
    longs = [file for file in files if "/long/" in file.as_posix()]

    found = [
        psnr(developed(file), bt709(render(make_scene(3, number), (516, 774))))
        for number, file in enumerate(longs)
    ]

    assert np.median(found) >= 41
    assert min(found) >= 36


def test_the_short_exposure_is_the_scene_dimmed_plus_the_cameras_noise(tmp_path):
    sensor = sensor_of("sony")
    scene = make_scene(4, 0)
    clean = expose(scene, sensor, (240, 360))
    exposure = Exposure(path="", exposure_s=0.1, iso=400, ratio=100.0)

    codes = record(clean, sensor, exposure, np.random.default_rng(0)).astype(np.float64) - 512

    bias = np.array(noise_parameters("sony", 400).colour_bias).mean()
    expected = np.maximum(clean, 0) * 15871 / 100
    assert codes.mean() == pytest.approx(expected.mean() + bias, abs=0.1)
    assert np.corrcoef(codes.ravel(), expected.ravel())[0, 1] > 0.7
    assert codes.min() < -2, "codes below black are kept"


def test_full_wells_are_the_white_level(tmp_path):
    sensor = sensor_of("canon70d")
    exposure = Exposure(path="", exposure_s=1.0, iso=100, ratio=1.0)

    codes = record(np.full((8, 8), 3.0, np.float32), sensor, exposure, np.random.default_rng(0))

    assert (codes[38:, 72:] == 15303).all()


@pytest.mark.slow  # the worker processes make the textures again
def test_one_seed_gives_the_same_bytes_whatever_the_jobs(tmp_path):
    one = make(tmp_path / "one", scenes=2, shorts=2)
    two = make(tmp_path / "two", scenes=2, shorts=2, jobs=2)
    other = make(tmp_path / "other", scenes=2, shorts=2, seed=5)

    assert names(one, tmp_path / "one") == names(two, tmp_path / "two")
    for first, second, third in zip(one, two, other, strict=True):
        assert first.read_bytes() == second.read_bytes()
        if first.suffix == ".dng":
            assert first.read_bytes() != third.read_bytes()


def test_photographs_of_one_scene_have_noise_of_their_own(tmp_path, blank_scenes):
    make(tmp_path, "nikond850")
    frames = []
    for k in (1, 6, 11, 16):
        with rawpy.imread(str(tmp_path / f"NikonD850/scene-1/IMG_{k:04d}.dng")) as raw:
            frames.append(raw.raw_image.astype(float))

    assert all(np.abs(a - frames[0]).mean() > 0.3 for a in frames[1:])


def test_progress_has_a_line_per_scene(tmp_path, blank_scenes):
    lines: list[str] = []
    make(tmp_path, scenes=2, progress=lines.append)

    assert lines == [
        "scene 1 of 2: Sony/long, 2 files",
        "scene 2 of 2: Sony/long, 2 files",
    ]


@pytest.mark.parametrize(
    ("camera", "options", "message"),
    [
        ("leica", {}, r"unknown camera 'leica'; choose one of: sony, fuji, sonya7s2, "),
        ("sony", {"size": (97, 132)}, "size 97x132 is invalid for sony: .* multiples of 2"),
        ("fuji", {"size": (600, 700)}, "multiples of 6"),
        ("fuji", {"size": (306, 606)}, "too small for fuji: both sides need at least 516"),
        ("sony", {"size": (64, 132)}, "too small"),
        ("sony", {"size": (2848, 4258)}, "larger than sony's sensor of 2848x4256"),
        ("sony", {"scenes": 0}, "scenes must be 1 to 9999"),
        ("sony", {"shorts": 0}, "shorts must be 1 to 100"),
        ("sony", {"seed": -1}, "seed must be"),
        ("sony", {"jobs": 0}, "jobs must be"),
    ],
)
def test_invalid_values_are_named_before_a_file_is_written(tmp_path, camera, options, message):
    with pytest.raises(OptionError, match=message):
        make(tmp_path / "data", camera, **options)

    assert not (tmp_path / "data").exists()


def test_a_file_at_the_path_of_the_data_root_is_named(tmp_path):
    (tmp_path / "data").write_text("mine")

    with pytest.raises(OptionError, match="cannot be created"):
        make(tmp_path / "data")

    assert (tmp_path / "data").read_text() == "mine"


@pytest.mark.slow
def test_a_worker_that_is_killed_is_reported_in_one_line(tmp_path, monkeypatch):
    def die(out: Path, plan: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("darkprep.synth.dataset.capture_scene", die)

    with pytest.raises(DarkprepError, match=r"a worker process was killed .* fewer --jobs"):
        make(tmp_path / "data", scenes=3, jobs=2)


def test_workers_ignore_ctrl_c(tmp_path, monkeypatch):
    def interrupted(out: Path, plan: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return plan

    monkeypatch.setattr("darkprep.synth.dataset.capture_scene", interrupted)

    assert make(tmp_path / "data", scenes=3, jobs=2)


class Enough(Exception):
    """The user asked for an end."""


def test_a_worker_that_ctrl_c_killed_is_not_reported_as_an_error(tmp_path, monkeypatch):
    died = tmp_path / "died"

    def die(out: Path, plan: object) -> None:
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def check() -> None:
        if died.exists():
            raise Enough

    monkeypatch.setattr("darkprep.synth.dataset.capture_scene", die)

    with pytest.raises(Enough):
        make(tmp_path / "data", scenes=3, jobs=2, check=check)


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_work_can_be_stopped_between_scenes(tmp_path, monkeypatch, jobs):
    monkeypatch.setattr("darkprep.synth.dataset.capture_scene", lambda out, plan: plan)
    shown: list[str] = []

    def check() -> None:
        if shown:
            raise Enough

    with pytest.raises(Enough):
        make(tmp_path, scenes=3, jobs=jobs, progress=shown.append, check=check)

    assert len(shown) == 1
    assert not list(tmp_path.glob("*_list.txt"))


def test_a_data_set_that_does_not_fit_is_rejected_before_it_is_made(tmp_path, monkeypatch):
    usage = os.statvfs_result((4096, 4096, 100, 10, 10, 10, 10, 10, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: usage)

    with pytest.raises(DiskFull, match=r"2 files need 0\.1 MB and 0\.0 MB are free"):
        make(tmp_path)

    assert not list(tmp_path.rglob("*.dng"))


def test_white_stays_white_in_every_camera_and_light():
    for sensor in SENSORS.values():
        np.testing.assert_allclose(sensor.balanced_from_srgb() @ [1, 1, 1], 1, atol=1e-12)
        warm, cold = sensor.neutral(2900), sensor.neutral(7500)
        assert max(warm) == max(cold) == 1.0
        assert warm[0] / warm[2] > 1.5 * cold[0] / cold[2], "warm light has more red"
