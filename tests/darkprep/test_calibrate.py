"""`darkprep calibrate`, and `build --noise` with its file or with dark frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from darkprep.pipeline.noise.camera_calibration import read_calibration
from darkprep.pipeline.noise.shading_correction import ShadingCorrection
from darkprep.pipeline.noise.tukey_lambda import standard_deviation
from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.pairs.whole_frame import whole_frame
from darkprep.pipeline.raw.dng import DngTags, write_dng
from darkprep.pipeline.raw.mosaic import unpack
from darkprep.pipeline.raw.reader import read_raw
from darkprep.shards import Sample, ShardFile, Spool, SpoolReader
from darkprep.synth.calibration_frames import FrameSettings, write_calibration_frames
from darkprep.synth.sensors import sensor_of
from tests.support.command_line import SMALL
from tests.support.sid_tree import write_sid

BUILD = ("build", "--camera", "sony", *SMALL)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four dark frames and three pairs of flat fields of the Sony at ISO 1600."""
    root = tmp_path_factory.mktemp("frames")
    settings = FrameSettings(size=(192, 256), darks=4, levels=(0.05, 0.2, 0.5))
    write_calibration_frames(root, sensor_of("sony"), (1600,), settings=settings)
    return root


def test_a_camera_is_calibrated_and_its_noise_made(call, frames, small_data):
    made = call(
        *("calibrate", "--darks", frames / "darks", "--flats", frames / "flats"),
        *("--out", "camera.json"),
    )

    assert made.exit_code == 0, made.output
    assert "ISO 1600: K 1." in made.output
    assert "warning: ISO 1600: only 4 dark frames" in made.output
    assert {path.name for path in Path().glob("camera*")} >= {
        "camera.json",
        "camera-shading-1-slope.npy",
        "camera-shading-1-offset.npy",
    }

    page = Path("camera.html").read_text()
    assert "Noise of the SONY ILCE-7SM2" in page
    for title in (
        "Photon transfer",
        "Probability plot of the read noise",
        "Spectrum of the row means",
    ):
        assert title in page
    assert "Gain over ISO" not in page, "of one ISO there is no curve"

    built = call(*BUILD, "--root", small_data, "--noise", "camera.json")

    assert built.exit_code == 0, built.output
    spool = Spool("spool").open()
    options = spool.plan.recipe["options"]
    assert options["noise"] == "measured"
    known = read_calibration(Path("camera.json")).isos[0]
    stored = options["measured_noise"]["modes"][0][0]["parameters"]
    assert stored["read_scale"] == known.read.scale
    metas = ShardFile(spool.shard_path(0), spool.stream.layout(), 0, spool.digest).metas
    assert {round(meta.iso, 6) for meta in metas} == {1600}


def test_dark_frames_are_sampled_and_equal_plans_have_equal_bytes(call, frames, small_data):
    flats = ("--flats", frames / "flats")
    call("calibrate", "--darks", frames / "darks", *flats, "--out", "camera.json", "--quiet")
    shot = ("--shot-noise", "camera.json")
    for name in ("one", "two"):
        made = call(
            *(*BUILD, "--root", small_data, "--noise", frames / "darks", *shot, "--spool", name)
        )
        assert made.exit_code == 0, made.output

    first, second = Spool("one").open(), Spool("two").open()
    for shard in first.ready_shards():
        assert first.shard_path(shard).read_bytes() == second.shard_path(shard).read_bytes()
    with SpoolReader(first, batch_size=8, stop_after=1, keep=True) as batches:
        batch = next(batches)
        deep, metas = batch.low.astype(float), list(batch.metas)
    known = read_calibration(Path("camera.json")).isos[0]
    own = known.read.scale * standard_deviation(known.read.shape)
    assert {meta.iso for meta in metas} == {1600.0}
    assert {meta.black for meta in metas} == {(512.0,) * 4}
    assert deep.std() > 0.9 * own
    assert (deep < 512).mean() > 0.005, "noise below black is kept"
    file = first.plan.recipe["options"]["sampled_darks"]["files"][0]
    assert known.gain is not None
    assert file["gain"] == pytest.approx(known.gain.value)
    assert first.settings.darks == str((frames / "darks").absolute())


@pytest.fixture
def shaded(tmp_path: Path) -> Path:
    """A SID-like folder whose short exposures have a pattern, a black level that is off, and no other noise."""
    root = write_sid(tmp_path / "data", scenes=2, shorts=1)
    for path in (root / "Sony/short").iterdir():
        clean = read_raw(path).mosaic
        rewrite(path, clean + PATTERN)
    rng = np.random.default_rng(0)
    (tmp_path / "darks").mkdir()
    for number in range(6):
        noise = np.rint(rng.normal(0, 2, PATTERN.shape)).astype(np.int64)
        rewrite(tmp_path / "darks" / f"{number}.dng", 512 + noise + PATTERN)
    return root


def rewrite(path: Path, codes: np.ndarray) -> None:
    write_dng(path, codes.astype(np.uint16), DngTags(exposure_s=0.1, iso=800))


PATTERN = np.zeros((64, 96), np.int64) + 40 * (np.arange(96) % 8 == 3) + 5
"""A column of 40 codes in every eight, and 5 codes everywhere."""


def test_dark_shading_is_subtracted_in_training_and_from_whole_frames_alike(call, shaded, tmp_path):
    call("calibrate", "--darks", tmp_path / "darks", "--out", "camera.json", "--quiet")
    correct = ShadingCorrection.at(Path("camera.json")).corrected
    pair = Pair(
        id="a", scene="a", camera="sony", split="train", ratio=100.0, iso=800.0,
        short="Sony/short/00001_00_0.1s.dng", long="Sony/long/00001_00_10s.dng",
    )  # fmt: skip
    plain, whole = (whole_frame(shaded, pair, correct=one) for one in (None, correct))

    def signal(sample: Sample) -> np.ndarray:
        black = np.array(sample.meta.black)[:, None, None]
        return np.asarray(sample.low - black)

    light = (read_raw(shaded / pair.long).mosaic - 512.0) / 100
    assert abs(signal(plain).mean() - light.mean() - 10) < 0.2
    assert abs(signal(whole).mean() - light.mean()) < 0.2
    assert np.abs(unpack(signal(whole).astype(np.float32), "bayer") - light).std() < 1.5

    options = ("--dark-shading", "camera.json")
    made = call(*BUILD, "--root", shaded, *options)
    assert made.exit_code == 0, made.output
    with SpoolReader(Spool("spool").open(), batch_size=8, stop_after=1, keep=True) as batches:
        batch = next(batches)
        for low, meta in zip(batch.low, batch.metas, strict=True):
            y, x = (start // 2 for start in meta.origin)
            own = whole_frame(
                shaded, replace(pair, short=f"Sony/short/{meta.pair}.dng"), correct=correct
            )
            assert np.array_equal(low, own.low[:, y : y + low.shape[1], x : x + low.shape[2]])
            assert meta.black == pytest.approx(own.meta.black)


def test_dark_shading_of_another_camera_is_refused(call, frames, shaded):
    call("calibrate", "--darks", frames / "darks", "--out", "camera.json", "--quiet")

    made = call(*BUILD, "--root", shaded, "--dark-shading", "camera.json")

    assert made.exit_code == 1
    assert (
        "is of camera darkprep Synthetic, but the dark shading is of SONY ILCE-7SM2" in made.output
    )
    wrong = call(*BUILD, "--root", shaded, "--dark-shading", "camera.json", "--noise", "sony")
    assert (
        "dark-shading can be used only with photographed short exposures, or with" in wrong.output
    )


def test_wrong_directories_and_files_give_one_line(call, frames, small_data, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.json").write_text("{}")
    calibrate = ("calibrate", "--out", "c.json", "--darks")
    build = (*BUILD, "--root", small_data, "--noise")
    call("calibrate", "--darks", frames / "darks", "--out", "darks.json", "--quiet")
    for words, message in (
        ((*calibrate, tmp_path / "none"), "none: does not exist; give a directory of RAW files to --darks"),
        ((*calibrate, tmp_path / "empty"), "empty: holds no RAW files"),
        (("calibrate", "--darks", frames / "darks", "--out", "c.txt"), "out must be a .json file"),
        ((*build, "iphone"), "noise must be one of sony, fuji"),
        ((*build, tmp_path / "x.json"), "x.json: is not a calibration"),
        ((*build, "darks.json"), "darks.json: has no gain K at ISO 1600; calibrate with --flats too"),
        ((*build, "sony", "--shot-noise", "darks.json"), "shot-noise can be used only with a directory"),
        ((*build, frames / "darks", "--crop", "512", "--margin", "16"), "choose a smaller --crop"),
    ):  # fmt: skip
        result = call(*words)
        assert result.exit_code == 1, words
        assert message in result.output
        assert result.output.count("\n") == 1
