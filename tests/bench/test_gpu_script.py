"""The GPU benchmarks run without a GPU on tiny sizes; what is measured there means nothing."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "gpu.sh"


def run(tmp_path: Path, *more: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run the script with --cpu; return what it printed and its figures by section."""
    done = subprocess.run(
        ["bash", str(SCRIPT), str(tmp_path / "results"), "--cpu", "--cores", "1", *more],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable},
    )
    figures = tmp_path / "results" / "gpu.json"
    return done, json.loads(figures.read_text())["sections"] if figures.exists() else {}


@pytest.mark.slow
def test_kernels_and_a_training_are_measured_and_written(tmp_path: Path):
    done, sections = run(tmp_path, "--only", "transfers,nccl")

    assert done.returncode == 0, done.stdout + done.stderr
    tables = sections["transfers"]["tables"]
    assert tables["Decoding and augmenting a batch"][0]["ms"] > 0
    trainings = sections["nccl"]["tables"]["One rank through torch.distributed"]
    assert len(trainings) == 2
    assert trainings[0]["last loss"] == trainings[1]["last loss"]
    assert "uint16, pageable" in done.stdout
    assert (tmp_path / "results" / "gpu.txt").read_text().strip() == done.stdout.strip()


def test_without_time_sections_are_left_out_and_named(tmp_path: Path):
    done, sections = run(tmp_path, "--only", "steps,nccl", "--seconds", "1")

    assert done.returncode == 0
    assert [one["ended"] for one in sections.values()] == ["left out"] * 2
    assert "nccl: left out" in done.stdout


@pytest.mark.parametrize(
    ("program", "ended"),
    [
        (
            "print('begun', flush=True); import time; time.sleep(60)",
            "was ended by its limit of 3 s",
        ),
        ("print('begun'); raise SystemExit(4)", "ended with 4"),
        ("print('begun')", "ok"),
    ],
)
def test_a_section_that_fails_or_hangs_ends_alone(tmp_path: Path, monkeypatch, program, ended):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    gpu_run = importlib.import_module("gpu_run")
    with (tmp_path / "out").open("w+") as out, (tmp_path / "errors").open("w") as errors:
        output = gpu_run.Output(out)
        assert gpu_run.supervise([sys.executable, "-c", program], 3, errors, output) == ended

    assert (tmp_path / "out").read_text() == "begun\n"


def test_an_unknown_section_is_refused(tmp_path: Path):
    done, _ = run(tmp_path, "--only", "stpes")

    assert done.returncode == 2
    assert "unknown sections: stpes" in done.stderr


@pytest.mark.slow
def test_every_section_runs(tmp_path: Path):
    done, sections = run(tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert all(one["ended"] == "ok" and not one.get("failures") for one in sections.values())
    training = sections["training"]["tables"]["stream-train from RAW files, batches of 8 x 512"]
    assert training[0]["samples/s"] > 0
