"""The directory of a run of 400 iterations, as the trainer and the command line leave it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from darkprep.jobs.validation import write_jpeg


def picture(level: int, size: tuple[int, int] = (64, 96)) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full((*size, 3), level, np.uint8)


def write_run(run: Path) -> Path:
    """Write the files of the run, with validation pictures of two scenes, and return its directory."""
    run.mkdir(parents=True)
    config = {"model": "redirt", "camera": "sony", "iterations": 400, "note": "<b>&\"'</b>"}
    (run / "config.json").write_text(json.dumps(config))
    lines = [
        {
            "iteration": done, "loss": math.exp(-done / 200), "samples_per_s": 8.0 + done / 100,
            "learning_rate": 1e-4 if done <= 200 else 1e-5, "data_wait_fraction": 0.01,
            "seconds": done / 2, "gpu_busy_percent": None, "iterations_per_s": 2.0,
            "shards_deleted": done // 8, "damaged": 0, "disk_bytes": 10**7, "shards_ready": 3,
        }
        for done in range(10, 401, 10)
    ]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    validations = []
    for done in (100, 200, 300, 400):
        images = [{"pair": name, "psnr": 15 + done / 50, "ssim": done / 500} for name in ("a", "b")]
        validations.append(
            {"iteration": done, "psnr": 15 + done / 50, "ssim": done / 500, "images": images}
        )
        for name in ("a", "b"):
            write_jpeg(run / "heldout" / name / f"{done:08d}.jpg", picture(done // 4 + 50))
    (run / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in validations))
    for name in ("a", "b"):
        for kind, level in (("dark", 5), ("amplified", 90), ("truth", 250)):
            write_jpeg(run / "heldout" / name / f"{kind}.jpg", picture(level))
    history = [
        {
            "seconds": float(at), "disk_bytes": 10**7 * (1 + at % 5),
            "least_disk_bytes": 10**7, "shards_ready": 3, "budget_bytes": 6 * 10**7,
        }
        for at in range(200)
    ]  # fmt: skip
    (run / "spool.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    summary = {
        "iterations": 400, "samples": 1600, "first_loss": 1.0, "last_loss": 0.13,
        "data_wait_fraction": 0.01, "samples_per_second": 8.0, "seconds": 200.0,
        "shards_deleted": 50, "peak_disk_bytes": 5 * 10**7, "ended": "finished",
        "limiting_side": "the cpu limits", "first_batch_seconds": 1.0, "damaged_shards": 0,
        "parameters": 784_768,
    }  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))
    about = {"started": "2026-01-01", "command": "darkprep stream-train", "plan": {"pairs": 6},
             "versions": {"torch": "2"}, "machine": {"cores": "2"}}  # fmt: skip
    (run / "about.json").write_text(json.dumps(about))
    return run
