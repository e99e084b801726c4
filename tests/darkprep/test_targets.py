"""Targets through the command line: build, train, evaluate, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rawpy
import torch
from PIL import Image

from darkprep.jobs.protocols import packed_raw
from darkprep.model import build_model, load_model, ready_for_inference, save_weights
from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.origin import PairOrigin
from darkprep.pipeline.pairs.sets import PAIR_SETS
from darkprep.pipeline.pairs.whole_frame import lone_frame, whole_frame
from darkprep.shards import Spool, Target
from darkprep.synth.dataset import synthesise
from darkprep.trainer.evaluation import restore_frame, truth_of
from darkprep.trainer.metrics import PROTOCOLS, score
from tests.support.builds import shard_bytes
from tests.support.sid_tree import touch_sid, write_sid

pytestmark = pytest.mark.usefixtures("quick_networks")

BUILD = (
    "--crop",
    64,
    "--margin",
    4,
    "--samples-per-shard",
    8,
    "--crops-per-visit",
    4,
    "--window",
    2,
)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["linear", "raw"])
def test_one_and_two_jobs_make_the_same_shards(call, empty_directory, large_data, target: Target):
    for jobs in (1, 2):
        result = call(
            "build", "--camera", "sony", "--root", large_data, "--spool", f"spool-{jobs}",
            *BUILD, "--epochs", 4, "--target", target, "--jobs", jobs, "--quiet",
        )  # fmt: skip
        assert result.exit_code == 0, result.output

    one, two = (shard_bytes(Spool(Path(f"spool-{jobs}")).open()) for jobs in (1, 2))

    assert one == two
    assert len(one) == 4
    assert Spool(Path("spool-1")).open().stream.target == target
    assert call("verify", "--spool", "spool-1").exit_code == 0


@pytest.mark.parametrize(("target", "model"), [("raw", "unet"), ("linear", "redirt")])
def test_three_iterations_of_each_target(
    call, empty_directory, large_data, target: Target, model: str
):
    built = call(
        "build", "--camera", "sony", "--root", large_data, *BUILD, "--epochs", 4,
        "--target", target, "--jobs", 1, "--quiet",
    )  # fmt: skip
    assert built.exit_code == 0, built.output

    trained = call(
        "stream-train", "--model", model, "--iterations", 3, "--batch-size", 2, "--run", "run",
        "--producers", 0, "--device", "cpu", "--quiet",
    )  # fmt: skip

    assert trained.exit_code == 0, trained.output
    network = load_model(Path("run/weights.safetensors"))
    assert (network.name, network.target) == (model, target)
    assert json.loads(Path("run/config.json").read_text())["target"] == target


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One training scene and one test scene of a synthetic Sony, with a short exposure each."""
    root = tmp_path_factory.mktemp("synthetic")
    synthesise(root, "sony", scenes=3, shorts=1, size=(192, 256), seed=3)
    return root


def weights_of(target: Target, name: str = "redirt") -> Path:
    """Untrained weights in the current directory."""
    torch.manual_seed(0)
    save_weights(build_model(name, "bayer", target), f"{target}.safetensors")
    return Path(f"{target}.safetensors")


@pytest.mark.parametrize(
    ("target", "protocol", "domain"),
    [
        ("raw", None, "packed RAW"),
        ("raw", "pmn", "packed RAW"),
        ("linear", None, "linear RGB"),
        ("linear", "eld", "packed RAW"),
    ],
)
def test_weights_of_each_target_are_scored(
    call, empty_directory, photographs, target: Target, protocol: str | None, domain: str
):
    chosen = ["--protocol", protocol] if protocol else []
    result = call(
        "evaluate", "--weights", weights_of(target), "--camera", "sony", "--root", photographs,
        "--split", "val+test", "--baseline", "--out", "scores", *chosen, "--device", "cpu",
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    record = json.loads(Path("scores/metrics.json").read_text())
    assert record["domain"] == domain
    assert record["protocol"] == protocol or {"raw": "eld", "linear": "linear"}[target]
    assert record["settings"]["target"] == target
    assert 5 < record["psnr"] < 60
    assert record["baseline_psnr"] > 10
    assert "simply developed" in Path("scores/report.html").read_text()
    with Image.open(next(Path("scores").glob("*.png"))) as row:
        height = 192 // 2 if target == "raw" else 192
        assert row.height == height


def test_the_truth_of_a_raw_target_scores_infinity_in_elds_protocol(photographs):
    pair = find_pairs(photographs, camera_named("sony")).pairs[0]
    sample = whole_frame(photographs, pair, target="raw")
    compared = packed_raw(photographs, {pair.id: pair}, centre=None, target="raw")

    ours, theirs = compared(sample, truth_of(sample))

    assert score(ours, theirs, PROTOCOLS["eld"]).psnr > 120
    assert ours.shape == theirs.shape == sample.low.shape


def test_the_truth_of_a_linear_target_is_its_mosaic_in_elds_protocol(photographs):
    pair = find_pairs(photographs, camera_named("sony")).pairs[0]
    sample = whole_frame(photographs, pair, target="linear")
    compared = packed_raw(photographs, {pair.id: pair}, centre=None, target="linear")

    ours, theirs = compared(sample, sample.gt)

    assert score(ours, theirs, PROTOCOLS["eld"]).psnr > 45


@pytest.mark.parametrize(
    ("target", "protocol"),
    [("raw", "sid"), ("raw", "linear"), ("linear", "redirt"), ("srgb", "linear")],
)
def test_a_protocol_that_compares_something_else_is_refused(
    complaint, empty_directory, photographs, target: Target, protocol: str
):
    message = complaint(
        "evaluate", "--weights", weights_of(target), "--camera", "sony", "--root", photographs,
        "--protocol", protocol, "--device", "cpu",
    )  # fmt: skip
    assert f"but the network was trained towards {target}; choose " in message


@pytest.mark.parametrize("target", ["linear", "raw"])
def test_restore_writes_dng_files_and_developed_pictures(
    call, empty_directory, photographs, target: Target
):
    photo = next((photographs / "Sony/short").iterdir())
    words = (
        "restore",
        photo,
        "--weights",
        weights_of(target),
        "--device",
        "cpu",
        "--amplify",
        "100",
    )

    result = call(*words, "--format", "dng")

    assert result.exit_code == 0, result.output
    network = ready_for_inference(load_model(f"{target}.safetensors"))
    sample, _ = lone_frame(photo, amplification=100.0)
    wanted = np.rint(restore_frame(network, sample) * np.float32(65535)).astype(np.uint16)
    with rawpy.imread(f"restored/{photo.stem}.dng") as dng, rawpy.imread(str(photo)) as source:
        codes = dng.raw_image_visible.copy()
        assert dng.camera_whitebalance[:3] == pytest.approx(
            [gain / source.camera_whitebalance[1] for gain in source.camera_whitebalance[:3]], rel=1e-4
        )  # fmt: skip
    if target == "raw":
        assert np.array_equal(codes[::2, 1::2], wanted[1])
    else:
        assert np.array_equal(codes[..., :3], np.moveaxis(wanted, 0, -1))
    for white_balance in ("camera", "2,1,2"):
        words_png = (*words, "--white-balance", white_balance, "--out", white_balance)
        assert call(*words_png).exit_code == 0
    pictures = [Path(name, f"{photo.stem}.png").read_bytes() for name in ("camera", "2,1,2")]
    assert pictures[0] != pictures[1]


def test_pictures_with_baked_colours_are_no_dng_and_have_one_white_balance(
    complaint, empty_directory, photographs
):
    photo = next((photographs / "Sony/short").iterdir())
    words = ("restore", photo, "--weights", weights_of("srgb"), "--device", "cpu")
    learned = (
        "they restore sRGB pictures, whose white balance and tone curve the network has learned"
    )
    assert f"format dng cannot be written with these weights: {learned}" in complaint(
        *words, "--format", "dng"
    )
    assert f"white-balance cannot be changed with these weights: {learned}" in complaint(
        *words, "--white-balance", "auto"
    )
    raw = ("restore", photo, "--weights", weights_of("raw"), "--match-colour", photo)
    assert "match-colour cannot be used with weights of the target" in complaint(*raw)


def test_another_cameras_colours_do_not_fit_a_raw_truth(complaint, empty_directory, photographs):
    message = complaint(
        "evaluate", "--weights", weights_of("raw"), "--camera", "sony", "--root", photographs,
        "--match-colour", "sony", "--device", "cpu",
    )  # fmt: skip
    assert message.startswith("--match-colour cannot be used with weights of the target")


def test_a_named_set_states_its_name_and_count(call, complaint, empty_directory):
    root = write_sid(Path("data"), scenes=1, shorts=1, split=1)
    write_sid(root, scenes=1, shorts=1, split=2)
    words = ["evaluate", "--weights", weights_of("raw"), "--root", root, "--device", "cpu"]

    result = call(*words, "--camera", "sony", "--set", "sid-88")

    assert result.exit_code == 0, result.output
    assert "set sid-88, 1 of 88 pairs: first frames of the test scenes" in result.stdout
    assert "protocol eld, the middle 512 x 512 packed pixels" in result.stdout
    assert "unknown set 'sid-9'; choose from sid-93" in complaint(
        *words, "--camera", "sony", "--set", "sid-9"
    )
    assert "holds no pair of the set eld-15" in complaint(
        *words, "--camera", "sony", "--set", "eld-15"
    )
    assert "leave out --split" in complaint(
        *words, "--camera", "sony", "--set", "sid-93", "--split", "val"
    )
    assert "set sid-93 consists of pairs of the camera sony, not of fuji" in complaint(
        *words, "--camera", "fuji", "--set", "sid-93"
    )


@pytest.mark.parametrize("name", PAIR_SETS)
def test_the_named_sets_select_what_they_describe(name: str, empty_directory):
    root = touch_sid(
        Path("data"),
        *("short/10001_00_0.1s", "short/10001_01_0.1s", "long/10001_00_10s"),
        *("short/10034_00_0.1s", "long/10034_00_10s", "short/20188_00_0.1s", "long/20188_00_10s"),
        *("short/10185_00_0.04s", "long/10185_00_10s", "short/00001_00_0.1s", "long/00001_00_10s"),
    )
    found = PAIR_SETS[name].find(PairOrigin(root=root, camera="sony"))

    ids = {pair.id for pair in found.pairs}
    test = {"10001_00_0.1s", "10185_00_0.04s"}
    assert ids == {
        "sid-93": test | {"10034_00_0.1s"},
        "sid-88": test,
        "sid-562": test | {"10001_01_0.1s"},
        "eld-15": {"10185_00_0.04s", "20188_00_0.1s"},
    }[name]  # fmt: skip
