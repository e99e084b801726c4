"""What the live view costs: `python bench/bench_view.py SPOOL [OUT.json]`, SPOOL being one that is at work.

CPU time of the thread that looks and draws, and of a training step that hands its state over. The
trade-off: CPU time, not wall time, so that other work on the machine does not count.
"""

from __future__ import annotations

import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from darkprep.live import DRAW_EVERY_S, LOOK_EVERY_S, Watch
from darkprep.screen import screen
from darkprep.status import spool_status
from shards import Spool
from trainer.report import StepReport

STEP = StepReport(
    iteration=1, iterations=2, loss=0.1, learning_rate=1e-4, iterations_per_s=1.0, samples_per_s=8.0,
    data_wait_fraction=0.0, eta_s=1.0, gpu_busy_percent=None, shards_deleted=0, damaged=0,
)  # fmt: skip


def cpu_ms(work: Callable[[], object], rounds: int = 300) -> float:
    """Median CPU milliseconds of this thread in one call."""
    times = []
    for _ in range(rounds):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return 1e3 * statistics.median(times)


def main(spool_path: str, out: str | None = None) -> None:
    """Measure, print, and write JSON where asked."""
    spool = Spool(spool_path).open()
    record = spool_status(spool)
    paper = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor")
    watch = Watch(lambda: record, None, None, title="")
    look = cpu_ms(lambda: spool_status(spool))
    draw = cpu_ms(lambda: paper.print(screen(record, title="t", elapsed_s=1, width=100)))
    step = cpu_ms(lambda: [watch.step(STEP) for _ in range(10_000)], 20) / 10_000
    share = (look / LOOK_EVERY_S + draw / DRAW_EVERY_S) / 1e3
    found = {"step_us": 1e3 * step, "look_ms": look, "draw_ms": draw, "share_of_a_core": share}
    for name, value in found.items():
        print(f"{name:16} {value:8.4f}")
    if out:
        Path(out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
