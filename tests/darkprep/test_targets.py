"""Targets through the command line: build, train, evaluate, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from darkprep.model import load_model
from darkprep.shards import Spool, Target
from tests.support.builds import shard_bytes

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
