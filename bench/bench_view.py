"""Cost of the live view: CPU time of the thread that reads and draws the status, and of a step that stores its state.

The trade-off: CPU time, not wall time, so that other work on the machine does not count. The time to read
grows with what the spool holds: name one in use. Without one, a few shards are written, with the cursor and
the heartbeat of this process beside them.

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
from darkprep.view.live import DRAW_INTERVAL_S, READ_INTERVAL_S, StatusMonitor
from darkprep.view.read_status import spool_status
from darkprep.view.screen import screen

STEP = StepReport(
    iteration=1, iterations=2, loss=0.1, learning_rate=1e-4, iterations_per_s=1.0, samples_per_s=8.0,
    data_wait_fraction=0.0, eta_s=1.0, gpu_busy_percent=None, shards_deleted=0, damaged=0,
)  # fmt: skip
_STEPS = 10_000
"""Steps that are timed together: one alone is shorter than the clock's tick."""
_SHARDS = 4


def main() -> None:
    """Measure, print, and write JSON if requested."""
    parser = harness.parser(__doc__, rounds=300)
    parser.add_argument("spool", nargs="?", type=Path, help="a spool in use")
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
    """The `given` spool, or a temporary one with so many shards."""
    if given:
        yield Spool(given).open()
        return
    with harness.workplace(folder) as place:
        spool = fill_spool(place / "spool", shards)
        spool.write_heartbeat(ProducerStatus(state="making"))
        spool.write_cursor(Cursor(rank=0, world=1, batch=0, shard=0))
        yield spool


def costs(spool: Spool, rounds: int) -> Figures:
    """CPU time to store a step, to read and to draw the status, and the share of one core that they take."""
    status = spool_status(spool)
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor")
    monitor = StatusMonitor(lambda: status, None, None, title="")
    read = cpu_ms(lambda: spool_status(spool), rounds)
    draw = cpu_ms(lambda: console.print(screen(status, title="t", elapsed_s=1, width=100)), rounds)
    step = (
        cpu_ms(lambda: [monitor.set_step(STEP) for _ in range(_STEPS)], max(1, rounds // 15))
        / _STEPS
    )
    share = (read / READ_INTERVAL_S + draw / DRAW_INTERVAL_S) / 1e3
    return {"step_us": 1e3 * step, "read_ms": read, "draw_ms": draw, "share_of_a_core": share}


def cpu_ms(work: Callable[[], object], rounds: int) -> float:
    """Median CPU milliseconds of this thread in one call."""
    times = []
    for _ in range(rounds):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return 1e3 * statistics.median(times)


def cost_table(found: Figures) -> str:
    """The costs as a table, with their intervals."""
    rows = [
        ["a training step stores its state", f"{found['step_us']:.3f} µs", "each step"],
        ["reading the status", f"{found['read_ms']:.2f} ms", f"every {READ_INTERVAL_S:g} s"],
        ["drawing the screen", f"{found['draw_ms']:.2f} ms", f"every {DRAW_INTERVAL_S:g} s"],
        ["reading and drawing", f"{found['share_of_a_core']:.2%} of a core", ""],
    ]
    return harness.table(["the live view", "CPU", "interval"], rows)


if __name__ == "__main__":
    main()
