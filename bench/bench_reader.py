"""How fast batches come from disk: ours against webdataset, MDS, litdata, tensordict, a saved list, and cat.

Batches of 8 samples of 2.1 MB from the page cache, every page of every batch touched. Each peer first
shows at which number of worker processes it is fastest, then all are measured in turn at their best.
A second table has steps of 20 ms that take no CPU (a sleep stands for the accelerator) while two
processes at nice 10 make shards as fast as they can: how long does a training run wait for a batch?

The trade-off: pages are warm and steps empty, so that the loaders differ and nothing else does.

    python bench/bench_reader.py                about four minutes
    python bench/bench_reader.py --quick        seconds
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
from harness import Figures, Measure, Station
from peers import PEERS, Batches, Passes, as_in_a_script, installed_peers
from samples import PER_SHARD, SAMPLE_BYTES, fill_spool, sample

from darkprep.shards import Spool, SpoolReader, write_shard

BATCH = 8
STEP_S = 0.02
_SKIP = 6
"""Batches of each pass that are read before the clock starts: a loader's start is over by then."""
_PAGE = 4096
_PASSED: set[Path] = set()
"""Folders that this process has made a pass over."""
_NICENESS = 10
_TARGETS = {"webdataset": 4.0, "MDS": 2.5, "litdata": 1.5, "cat": 0.6}


def main() -> None:
    """Writes, measures, prints, and writes JSON when asked."""
    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument("--samples", type=int, default=384, help="samples on disk, per format")
    options = parser.parse_args()
    samples, seconds, steps = options.samples, 0.6, 80
    if options.quick:
        samples, seconds, steps, options.rounds = 128, 0.01, 3, 1
    machine = harness.machine("webdataset", "mosaicml-streaming", "litdata", "tensordict")
    print(harness.machine_lines(machine), "\n")
    with harness.workplace(options.dir) as place:
        cases = write_all(place, samples)
        workers = best_workers(cases, seconds / 2, only_first=options.quick)
        flat_out, paced = measure_all(place, cases, workers, options.rounds, seconds, steps)
    record = {"machine": machine, "samples": samples, "workers": workers}
    print(flat_table(flat_out, workers), "\n")
    print(ratio_line(flat_out), "\n")
    print(paced_table(paced, workers))
    harness.report(record | {"flat_out": flat_out, "paced": paced}, options.json)


# -- what is measured ---------------------------------------------------------------------------------

Cases = dict[str, tuple[Path, tuple[int, ...]]]
"""Per case its folder, and the numbers of worker processes to try."""


def write_all(place: Path, samples: int) -> Cases:
    """Write the samples in every format; the bytes are on the disk when it returns."""
    spool = fill_spool(place / "ours", samples // PER_SHARD)
    # webdataset reads our shards: they are in its convention, with cheaper headers than its own.
    cases: Cases = {
        "darkprep": (spool.path, (0,)),
        "darkprep, no checksums": (spool.path, (0,)),
        "cat": (spool.ready, (0,)),
    }
    for name, peer in installed_peers().items():
        folder = spool.ready if name == "webdataset" else place / peer.package
        if name != "webdataset":
            peer.write(folder, 0, samples // 2 if name == "torch.save list" else samples)
        cases[name] = (folder, peer.workers)
    os.sync()
    return cases


def best_workers(cases: Cases, seconds: float, *, only_first: bool) -> dict[str, int]:
    """At how many worker processes each case delivers most; the first to try if `only_first`."""
    best: dict[str, int] = {}
    for name, (folder, tries) in cases.items():
        rates = {}
        for workers in tries if len(tries) > 1 and not only_first else ():
            station = Station(name, setup, name, str(folder), workers)
            rates[workers] = station.measure(seconds=seconds)["samples_per_s"]
            station.close()
        best[name] = max(rates, key=lambda workers: rates[workers]) if rates else tries[0]
    return best


def measure_all(
    place: Path, cases: Cases, workers: dict[str, int], rounds: int, seconds: float, steps: int
) -> tuple[dict[str, list[Figures]], dict[str, list[Figures]]]:
    """Flat out, then at a pace with busy cores; both in turn."""
    stations = [
        Station(name, setup, name, str(folder), workers[name])
        for name, (folder, _) in cases.items()
    ]
    try:
        flat_out = harness.in_turn(stations, rounds, seconds=seconds)
        loads = [Station("load", setup_load, str(place / f"load-{n}")) for n in range(2)]
        paced_ones = [one for one in stations if one.name not in ("cat", "torch.save list")]
        try:
            for load in loads:
                load.measure(on=True)
            paced = harness.in_turn(paced_ones, max(1, rounds - 3), steps=steps)
        finally:
            for load in loads:
                load.close()
    finally:
        for station in stations:
            station.close()
    return flat_out, paced


def setup(name: str, folder: str, workers: int) -> Measure:
    """Opens a case; its batches are then asked for pass by pass."""
    as_in_a_script()
    path = Path(folder)
    if name == "cat":
        return partial(measure_cat, path)
    if name in PEERS:
        return partial(measure, path, PEERS[name].read(path, BATCH, workers))
    return partial(measure, path, partial(read_spool, path, verify="no checksums" not in name))


def read_spool(path: Path, *, verify: bool) -> Batches:
    """One pass of our reader over a spool that it leaves as it is."""
    spool = Spool(path).open()
    batches = (spool.stream.shards or 0) * PER_SHARD // BATCH
    with SpoolReader(
        spool, batch_size=BATCH, keep=True, verify=verify, stop_after=batches
    ) as reader:
        for batch in reader:
            yield batch.low, batch.gt


def measure(folder: Path, one_pass: Passes, *, seconds: float = 0.0, steps: int = 0) -> Figures:
    """Read passes until so many seconds, or so many steps at a pace, are measured."""
    if folder not in _PASSED:
        for batch in one_pass():  # what a loader does once only
            touch(batch)
        _PASSED.add(folder)
    read_through(folder)
    waits: list[float] = []
    samples, elapsed, cpu = 0, 0.0, 0.0
    while elapsed < seconds or len(waits) < steps:
        batches = iter(one_pass())
        for _ in range(_SKIP):
            touch(next(batches))
        began, used = time.perf_counter(), harness.cpu_seconds()
        for low, gt in timed(batches, waits):
            touch((low, gt))
            samples += len(low)
            if steps:
                time.sleep(STEP_S)
                if len(waits) >= steps:
                    break
        elapsed += time.perf_counter() - began
        cpu += harness.cpu_seconds() - used
        del batches
    return {
        "samples_per_s": samples / elapsed,
        "cpu_ms": cpu / samples * 1e3,
        "wait_ms": sum(waits) / len(waits) * 1e3,
        "wait_p95_ms": harness.percentile(waits, 0.95) * 1e3,
    }


def timed(batches: Batches, waits: list[float]) -> Iterator[tuple[Any, Any]]:
    """The same batches; how long each was waited for is noted."""
    while True:
        began = time.perf_counter()
        try:
            batch = next(batches)
        except StopIteration:
            return
        waits.append(time.perf_counter() - began)
        yield batch


def measure_cat(folder: Path, *, seconds: float) -> Figures:
    """Read(2) and nothing else, as `cat FILES > /dev/null` does it."""
    files = sorted(str(path) for path in folder.glob("*.tar"))
    read_through(folder)
    count, elapsed, used = 0, 0.0, harness.cpu_seconds()
    while elapsed < seconds:
        began = time.perf_counter()
        subprocess.run(["cat", *files], stdout=subprocess.DEVNULL, check=True)
        elapsed += time.perf_counter() - began
        count += len(files) * PER_SHARD
    cpu = harness.cpu_seconds() - used
    return {"samples_per_s": count / elapsed, "cpu_ms": cpu / count * 1e3}


def touch(batch: tuple[Any, Any]) -> None:
    """Read one byte of every page, as a copy to a device would read all."""
    for array in batch:
        codes = np.asarray(array)
        codes.reshape(-1).view(np.uint8)[::_PAGE].sum()


def read_through(folder: Path) -> None:
    """Bring a case's files into the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass


def setup_load(folder: str) -> Measure:
    """What producers do to a machine: cut and write shards for ever, at nice 10."""
    import threading

    os.nice(_NICENESS)
    spool = fill_spool(Path(folder), 1)
    crops = [sample(index) for index in range(PER_SHARD)]

    def make() -> None:
        while True:
            write_shard(
                spool.shard_path(0),
                spool.stream.layout(),
                0,
                crops,
                plan=spool.digest,
                partial=spool.partial,
            )

    def start(*, on: bool) -> Figures:
        if on:
            threading.Thread(target=make, daemon=True).start()
        return {}

    return start


# -- tables -------------------------------------------------------------------------------------------


def flat_table(found: dict[str, list[Figures]], workers: dict[str, int]) -> str:
    """Flat out."""
    ours = harness.median(found["darkprep"], "samples_per_s")
    rows = []
    for name, rounds in found.items():
        rate = harness.median(rounds, "samples_per_s")
        rows.append(
            [
                name,
                str(workers[name]) if name in PEERS else "-",
                harness.spread(rounds, "samples_per_s"),
                f"{rate * SAMPLE_BYTES / 1e9:.2f}",
                f"{harness.median(rounds, 'cpu_ms'):.2f}",
                f"{harness.median(rounds, 'peak_mb'):,.0f}",
                f"{ours / rate:.2f}",
            ]
        )
    head = [
        "batches of 8",
        "best workers",
        "samples/s",
        "GB/s",
        "CPU ms/sample",
        "memory MB",
        "darkprep is x",
    ]
    return harness.table(head, rows)


def ratio_line(found: dict[str, list[Figures]]) -> str:
    """The targets, met or not."""
    ours = harness.median(found["darkprep"], "samples_per_s")
    said = []
    for name, wanted in _TARGETS.items():
        if name in found:
            ratio = ours / harness.median(found[name], "samples_per_s")
            verdict = "met" if ratio >= wanted else "missed"
            said.append(f"{ratio:.2f}x {name} (wanted {wanted}, {verdict})")
    return "Targets: " + ", ".join(said)


def paced_table(found: dict[str, list[Figures]], workers: dict[str, int]) -> str:
    """At a pace, beside busy producers."""
    rows = [
        [
            name,
            str(workers[name]) if name in PEERS else "-",
            harness.spread(rounds, "wait_ms", 2),
            f"{harness.median(rounds, 'wait_p95_ms'):.2f}",
            f"{harness.median(rounds, 'cpu_ms'):.2f}",
        ]
        for name, rounds in found.items()
    ]
    head = [
        "20 ms steps, both cores busy",
        "workers",
        "mean wait ms",
        "95 % below ms",
        "CPU ms/sample",
    ]
    return harness.table(head, rows)


if __name__ == "__main__":
    main()
