"""A network with a noise-level map through the command line: trained, resumed, evaluated, restored, and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from darkprep.jobs.noise_map import training_noise
from darkprep.model import build_model, load_model, save_weights
from darkprep.pipeline.noise.calibrations import calibration_of
from darkprep.shards import Spool
from darkprep.synth.calibration_frames import FrameSettings, write_calibration_frames
from darkprep.synth.sensors import sensor_of

pytestmark = pytest.mark.usefixtures("quick_networks")

TRAIN = (
    *("stream-train", "--batch-size", 1, "--run", "run", "--producers", 0, "--device", "cpu"),
    *("--keep-shards", "--log-every", 1, "--quiet"),
)


@pytest.fixture
def weights() -> Path:
    """Untrained weights of a network with the map."""
    torch.manual_seed(0)
    save_weights(build_model("redirt", noise_map=True), "w.safetensors")
    return Path("w.safetensors")


@pytest.fixture(scope="module")
def dark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with dark frames of a synthetic Sony."""
    root = tmp_path_factory.mktemp("frames")
    settings = FrameSettings(size=(192, 256), darks=2, levels=(0.05, 0.2, 0.5))
    write_calibration_frames(root, sensor_of("sony"), (1600,), settings=settings)
    return root


def test_a_network_with_the_map_is_trained_resumed_and_scored(
    call, complaint, large_spool, large_data
):
    trained = call(*TRAIN, "--iterations", 1, "--noise-map", "auto", "--evaluate-every", 1)

    assert trained.exit_code == 0, trained.output
    config = json.loads(Path("run/config.json").read_text())
    assert (config["noise_map"], config["noise_levels"]) == ("auto", "auto")
    assert load_model("run/weights.safetensors").noise_map
    line = json.loads(Path("run/evaluations.jsonl").read_text().splitlines()[-1])
    assert line["psnr"] > 0, "validation frames got their map"

    resumed = call(*TRAIN, "--iterations", 2, "--resume")

    assert resumed.exit_code == 0, resumed.output
    assert json.loads(Path("run/summary.json").read_text())["iterations"] == 2
    other = complaint(*TRAIN, "--iterations", 3, "--resume", "--noise-map", "nikond850")
    assert "was trained with noise_levels 'auto', not 'nikond850'" in other

    score = (
        "evaluate",
        "--weights",
        "run/weights.safetensors",
        "--camera",
        "sony",
        "--root",
        large_data,
    )
    unknown = complaint(*score, "--device", "cpu")
    assert "is of camera darkprep Synthetic, whose noise is not known" in unknown
    scored = call(*score, "--device", "cpu", "--noise-map", "sony", "--out", "scores")
    assert scored.exit_code == 0, scored.output
    assert json.loads(Path("scores/metrics.json").read_text())["settings"]["noise map"] == "sony"


def test_files_are_restored_with_the_noise_of_their_camera_or_refused(
    call, complaint, weights, dark, large_data
):
    known = next(iter(sorted((dark / "darks").glob("*.dng"))))
    unknown = next(iter(sorted((large_data / "Sony/short").iterdir())))
    restore = ("restore", "--weights", weights, "--device", "cpu", "--amplify", 100)

    done = call(*restore, known, unknown)

    assert done.exit_code == 1
    assert f"{known} ->" in done.output
    assert (
        "is of camera darkprep Synthetic, whose noise is not known, but the network reads a noise-level map; give --noise-map FILE.json"
        in done.stderr
    )
    assert done.stderr.count("\n") == 1
    assert call(*restore, unknown, "--noise-map", "canon70d").exit_code == 0

    call("calibrate", "--darks", dark / "darks", "--out", "darks.json", "--quiet")
    lacking = complaint(*restore, known, "--out", "b", "--noise-map", "darks.json")
    assert lacking.startswith("noise-map darks.json: has no gain K at ISO 1600")
    call(
        "calibrate",
        "--darks",
        dark / "darks",
        "--flats",
        dark / "flats",
        "--out",
        "c.json",
        "--quiet",
    )
    assert call(*restore, known, "--out", "b", "--noise-map", "c.json").exit_code == 0
    wrong = call(*restore, unknown, "--out", "b", "--noise-map", "c.json")
    assert "but the noise parameters are of SONY ILCE-7SM2" in wrong.stderr
    assert "or a file of `darkprep calibrate`, not 'iphone'" in complaint(
        *restore, known, "--noise-map", "iphone"
    )

    save_weights(build_model("redirt"), "plain.safetensors")
    plain = ("restore", "--weights", "plain.safetensors", "--device", "cpu", "--out", "c", known)
    assert "whose network reads no noise-level map" in complaint(*plain, "--noise-map", "sony")


def test_the_noise_of_the_spool_is_used_or_asked_for(call, complaint, dark, large_data):
    build = (
        *("build", "--camera", "sony", "--root", large_data, "--jobs", 1, "--quiet", "--epochs", 1),
        *("--crop", 192, "--samples-per-shard", 2, "--crops-per-visit", 2),
    )
    assert call(*build, "--spool", "made", "--noise", "nikond850").exit_code == 0
    made = training_noise("auto", Spool(Path("made")).open())
    assert made.samples.table == made.frames.fallback == calibration_of("nikond850")
    assert training_noise("sony", Spool(Path("made")).open()).samples.table == calibration_of(
        "sony"
    )

    small = ("--crop", 32, "--margin", 4, "--spool", "sampled", "--noise", dark / "darks")
    assert call(*build, *small).exit_code == 0
    message = complaint(*TRAIN, "--spool", "sampled", "--iterations", 1, "--noise-map", "auto")
    assert (
        "noise-map auto cannot be used with a spool whose noise is of real dark frames" in message
    )
