"""What the live view costs: CPU time of the thread that looks and draws, and of a step that hands its state over.

The trade-off: CPU time, not wall time, so that other work on the machine does not count. A look costs
what the spool holds: name one that is at work. Without one, a few shards are written, with the cursor
and the heartbeat of this process beside them.

    python bench/bench_view.py demo/spool          seconds
    python bench/bench_view.py --quick             a moment, on a spool of its own
"""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import harness
from harness import Figures
from rich.console import Console
from samples import fill_spool

from darkprep.shards import Cursor, DarkprepError, Spool
from darkprep.shards.heartbeat import ProducerStatus
from darkprep.trainer.records import StepReport
from darkprep.view.live import DRAW_EVERY_S, LOOK_EVERY_S, Watch
from darkprep.view.screen import screen
from darkprep.view.status import spool_status

STEP = StepReport(
    iteration=1, iterations=2, loss=0.1, learning_rate=1e-4, iterations_per_s=1.0, samples_per_s=8.0,
    data_wait_fraction=0.0, eta_s=1.0, gpu_busy_percent=None, shards_deleted=0, damaged=0,
)  # fmt: skip
_STEPS = 10_000
"""Steps that are timed together: one alone is shorter than the clock's tick."""
_SHARDS = 4


def main() -> None:
    """Measures, prints, and writes JSON when asked."""
    parser = harness.parser(__doc__, rounds=300)
    parser.add_argument("spool", nargs="?", type=Path, help="a spool that is at work")
    options = parser.parse_args()
    rounds = 3 if options.quick else options.rounds
    machine = harness.machine("rich")
    print(harness.machine_lines(machine), "\n")
    try:
        with spool_of(options.spool, options.dir, 1 if options.quick else _SHARDS) as spool:
            found = costs(spool, rounds)
    except DarkprepError as error:
        parser.error(str(error))
    print(cost_table(found))
    harness.report({"machine": machine, "view": found}, options.json)


@contextlib.contextmanager
def spool_of(given: Path | None, folder: Path | None, shards: int) -> Iterator[Spool]:
    """The spool that was named, or one with so many shards that is gone afterwards."""
    if given:
        yield Spool(given).open()
        return
    with harness.workplace(folder) as place:
        spool = fill_spool(place / "spool", shards)
        spool.write_heartbeat(ProducerStatus(state="making"))
        spool.write_cursor(Cursor(rank=0, world=1, batch=0, shard=0))
        yield spool


def costs(spool: Spool, rounds: int) -> Figures:
    """CPU time of a step's handing over, of a look and of a drawing, and what they are of a core."""
    record = spool_status(spool)
    paper = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor")
    watch = Watch(lambda: record, None, None, title="")
    look = cpu_ms(lambda: spool_status(spool), rounds)
    draw = cpu_ms(lambda: paper.print(screen(record, title="t", elapsed_s=1, width=100)), rounds)
    step = cpu_ms(lambda: [watch.step(STEP) for _ in range(_STEPS)], max(1, rounds // 15)) / _STEPS
    share = (look / LOOK_EVERY_S + draw / DRAW_EVERY_S) / 1e3
    return {"step_us": 1e3 * step, "look_ms": look, "draw_ms": draw, "share_of_a_core": share}


def cpu_ms(work: Callable[[], object], rounds: int) -> float:
    """Median CPU milliseconds of this thread in one call."""
    times = []
    for _ in range(rounds):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return 1e3 * statistics.median(times)


def cost_table(found: Figures) -> str:
    """The costs, and how often each comes."""
    rows = [
        ["a training step hands over", f"{found['step_us']:.3f} µs", "each step"],
        ["a look at the spool", f"{found['look_ms']:.2f} ms", f"every {LOOK_EVERY_S:g} s"],
        ["a drawing", f"{found['draw_ms']:.2f} ms", f"every {DRAW_EVERY_S:g} s"],
        ["looks and drawings together", f"{found['share_of_a_core']:.2%} of a core", ""],
    ]
    return harness.table(["the live view", "CPU", "how often"], rows)


if __name__ == "__main__":
    main()
