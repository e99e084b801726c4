"""What writing samples costs: our shards against webdataset's ShardWriter, MDS, litdata, tensordict, a list.

Samples of 2.1 MB into the page cache. A producer runs beside a training run, so processor time and memory
count as much as speed: a writer that gathers a whole shard in memory costs that much per worker.

The trade-off: what the disk does afterwards is not in the figures, it is the same bytes for all.

    python bench/bench_writer.py                a minute
    python bench/bench_writer.py --quick        seconds
"""

from __future__ import annotations

import os
import shutil
import time
from functools import partial
from pathlib import Path

import harness
from harness import Figures, Measure, Station
from peers import PEERS, as_in_a_script, installed_peers
from samples import PER_SHARD, SAMPLE_BYTES, fill_spool


def main() -> None:
    """Measures, prints, and writes JSON when asked."""
    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument("--samples", type=int, default=192, help="samples written each time")
    options = parser.parse_args()
    if options.quick:
        options.samples, options.rounds = PER_SHARD, 1
    machine = harness.machine("webdataset", "mosaicml-streaming", "litdata", "tensordict")
    print(harness.machine_lines(machine), "\n")
    with harness.workplace(options.dir) as place:
        names = ["darkprep", *installed_peers()]
        stations = [Station(name, setup, name, str(place)) for name in names]
        try:
            found = harness.in_turn(stations, options.rounds, count=options.samples)
        finally:
            for station in stations:
                station.close()
    print(writer_table(found))
    harness.report({"machine": machine, "writers": found}, options.json)


def setup(name: str, place: str) -> Measure:
    """Imports what the writer needs, by writing a little."""
    as_in_a_script()
    folder = Path(place) / name.replace(" ", "-")
    measure(name, folder, count=PER_SHARD)
    return partial(measure, name, folder)


def measure(name: str, folder: Path, *, count: int) -> Figures:
    """Write `count` samples into a new folder, and remove them."""
    began, used = time.perf_counter(), time.process_time()
    if name == "darkprep":
        fill_spool(folder, count // PER_SHARD)
    else:
        PEERS[name].write(folder, 0, count)
    elapsed, cpu = time.perf_counter() - began, time.process_time() - used
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    os.sync()
    shutil.rmtree(folder)
    return {
        "samples_per_s": count / elapsed,
        "cpu_ms": cpu / count * 1e3,
        "bytes_per_sample": written / count,
    }


def writer_table(found: dict[str, list[Figures]]) -> str:
    """All writers."""
    ours = harness.median(found["darkprep"], "cpu_ms")
    rows = [
        [
            name,
            harness.spread(rounds, "samples_per_s"),
            f"{harness.median(rounds, 'cpu_ms'):.2f}",
            f"{harness.median(rounds, 'cpu_ms') / ours:.1f}",
            f"{harness.median(rounds, 'bytes_per_sample') / SAMPLE_BYTES:.4f}",
            f"{harness.median(rounds, 'peak_mb'):,.0f}",
        ]
        for name, rounds in found.items()
    ]
    head = [
        "writer",
        "samples/s",
        "CPU ms/sample",
        "CPU, x darkprep",
        "bytes, x payload",
        "memory MB",
    ]
    return harness.table(head, rows)


if __name__ == "__main__":
    main()
