"""How many samples a second reach the GPU, by producer processes and by --reuse, with nothing trained.

All frames are decoded before the first figure. The trade-off: producers, the reader and this process share
the cores, as in a training run; but no network is trained, so its kernels are not launched beside them.
"""

from __future__ import annotations

import time

from gpu_rivals import device_stream
from gpu_section import Row, Section
from gpu_spool import built_spool

from darkprep.jobs.background import start_producer, stop_producers
from darkprep.shards import Spool
from darkprep.trainer.device import synchronize

JOBS, REUSES = (4, 8, 14, 16), (1, 4)
WARM_UP_S, SECONDS = 1.0, 1.5
"""The warm-up uses up what was in stock."""
BUDGET = "3GB"


def main() -> None:
    """Measure each number of processes at each reuse."""
    section = Section(__doc__)
    rows: list[Row] = []
    wanted = [jobs for jobs in JOBS if jobs <= section.cores] or [section.cores]
    with built_spool(section, "spool-sweep", budget=BUDGET) as spool:
        settings = spool.settings
        for jobs in sorted(wanted, reverse=True):
            stop_producers(spool)
            start_producer(spool, jobs=jobs, budget_bytes=settings.budget_bytes or 0, until=None)
            row: Row = {"producer processes": jobs}
            for reuse in (1, 2) if section.cpu else REUSES:
                what = f"{jobs} processes, reuse {reuse}"
                if section.has_time(what, WARM_UP_S + SECONDS + 5):
                    with section.guarded(what):
                        row[f"reuse {reuse}, samples/s"] = measure(section, spool, reuse)
            rows.append(row)
            section.save("Samples on the device, not trained on", rows)
    section.finish()


def measure(section: Section, spool: Spool, reuse: int) -> float:
    """Return samples per second after the warm-up."""
    warm_up, seconds = (0.2, 0.3) if section.cpu else (WARM_UP_S, SECONDS)
    samples, measured, began = 0, 0.0, time.perf_counter()
    with device_stream(section, spool, reuse) as stream:
        while measured < seconds:
            batch = next(stream)
            measured = time.perf_counter() - began - warm_up
            if measured > 0:
                samples += batch.gt.shape[0]
        synchronize(section.device)
    return samples / measured


if __name__ == "__main__":
    main()
