"""`darkprep stream-train` for real: RAW files, `build` in the background, batches of 8 x 512, each precision.

Each precision starts from an empty spool, so the time to the first batch includes decoding. The training is
ended after a fixed time, as Ctrl-C does. The trade-off: some five seconds of training each, in which the
driver's utilisation is sampled from the first line of metrics on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gpu_monitor import monitored
from gpu_section import Row, Section
from gpu_spool import built_spool, photographs_in

from darkprep.shards import Spool

SECONDS = 5.0
_START_TIMEOUT_S = 60.0
_BUILD_S, _REST_S = 3.0, 12.0
"""What a case takes beside the training: building, and importing torch, the checkpoint, the report."""


def main() -> None:
    """Train at each precision."""
    section = Section(__doc__)
    photographs_in(section)
    rows: list[Row] = []
    for precision in ("fp32",) if section.cpu else ("bf16", "tf32", "fp32"):
        if not section.has_time(f"stream-train in {precision}", SECONDS + _REST_S + _BUILD_S):
            continue
        with section.guarded(f"stream-train in {precision}"):
            with built_spool(section, f"spool-{precision}") as spool:
                rows.append(train(section, spool, precision))
            section.save("stream-train from RAW files, batches of 8 x 512", rows)
    section.finish()


def train(section: Section, spool: Spool, precision: str) -> Row:
    """Return a table row: pace and waiting by the run's summary, utilisation by the driver."""
    run = section.directory / f"run-{precision}"
    command = [sys.executable, "-m", "darkprep", "stream-train", "--spool", str(spool.path)]
    command += ["--run", str(run), "--device", section.device.type, "--evaluate-every", "0"]
    command += ["--precision", "fp32" if precision == "tf32" else precision]
    command += ["--log-format", "json", "--log-every", "1" if section.cpu else "20"]
    command += ["--batch-size", "2"] if section.cpu else []
    # torch's convolutions use TF32 by default; NVIDIA's libraries read this variable.
    environment = os.environ | ({"NVIDIA_TF32_OVERRIDE": "0"} if precision == "fp32" else {})
    metrics = run / "metrics.jsonl"
    began = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            while not _has_lines(metrics) and process.poll() is None:
                if time.monotonic() - began > _START_TIMEOUT_S:
                    raise TimeoutError(f"no metrics after {_START_TIMEOUT_S:.0f} s")
                time.sleep(0.05)
            with monitored(section.device, lambda: True) as means:
                time.sleep(0.5 if section.cpu else SECONDS)
            process.send_signal(signal.SIGTERM)
            output, errors = process.communicate(timeout=_START_TIMEOUT_S)
        finally:
            process.kill()
    if process.returncode:
        raise RuntimeError(f"stream-train ended with {process.returncode}: {errors[-800:]}")
    return summary_row(section, precision, output, means)


def summary_row(section: Section, precision: str, output: str, means: dict[str, float]) -> Row:
    """Return the row from the JSON lines that `stream-train` printed."""
    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    summary = next(event for event in events if event["event"] == "summary")
    pace = summary["samples_per_second"]
    alone = section.earlier("steps", "A training step alone", step="darkprep", precision=precision)
    return {
        "precision": precision,
        "samples/s": pace,
        "steps/s": summary["iterations"] / summary["seconds"],
        "of the step alone %": 100 * pace / alone["samples/s"] if alone else None,
        "data wait %": 100 * summary["data_wait_fraction"],
        **means,
        "first batch s": summary["first_batch_seconds"],
        "steps": summary["iterations"],
        "loss": f"{summary['first_loss']:.3f} -> {summary['last_loss']:.3f}",
    }


def _has_lines(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


if __name__ == "__main__":
    main()
