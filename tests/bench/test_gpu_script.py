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


def test_without_time_sections_are_left_out_and_named_and_the_dry_run_fails(tmp_path: Path):
    done, sections = run(tmp_path, "--only", "steps,nccl", "--seconds", "1")

    assert done.returncode == 1
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


@pytest.mark.slow  # the gate runs the script itself
def test_every_section_runs_and_writes_its_figures(tmp_path: Path):
    done, sections = run(tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert all(one["ended"] == "ok" and not one.get("failures") for one in sections.values())
    training = sections["training"]["tables"]["stream-train from RAW files, batches of 8 x 512"]
    assert training[0]["samples/s"] > 0
    kernels = sections["transfers"]["tables"]
    assert kernels["Decoding and augmenting a batch"][0]["ms"] > 0
    ranks = sections["nccl"]["tables"]["One rank through torch.distributed"]
    assert len(ranks) == 2
    assert ranks[0]["last loss"] == ranks[1]["last loss"]
    assert (tmp_path / "results" / "gpu.txt").read_text().strip() == done.stdout.strip()
