"""How fast SpoolDataset is beside SpoolReader: the stored codes, and decoded batches beside the trainer's own path.

Batches of 8 samples of 2.1 MB from the page cache, every page of every batch touched, all cases in turn in
the same run. SpoolReader lends its batches, and DeviceStream decodes into the same memory each time;
batches of SpoolDataset own their memory.

    python bench/bench_dataset.py               about a minute
    python bench/bench_dataset.py --quick       seconds
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import harness
from bench_reader import BATCH, measure, read_spool
from harness import Figures, Measure, Station
from peers import Batches
from samples import fill_spool

from darkprep.shards import Spool, SpoolReader

PAIRS = {
    "SpoolDataset, codes": "SpoolReader",
    "DataLoader, codes": "SpoolReader",
    "SpoolDataset": "SpoolReader and DeviceStream",
}
"""Each case and the one that it is compared with."""
_TARGET = 0.8


def main() -> None:
    """Measure, print, and write JSON when asked."""
    parser = harness.parser(__doc__, rounds=21)
    options = parser.parse_args()
    shards, seconds = 8, 0.4
    if options.quick:
        shards, seconds, options.rounds = 4, 0.01, 1
    machine = harness.machine()
    print(harness.machine_lines(machine), "\n")
    with harness.workplace(options.dir) as place:
        folder = str(fill_spool(place / "spool", shards).path)
        stations = [Station(name, setup, name, folder) for name in (*PAIRS.values(), *PAIRS)]
        stations = list({one.name: one for one in stations}.values())
        try:
            found = harness.in_turn(stations, options.rounds, seconds=seconds)
        finally:
            for station in stations:
                station.close()
    print(table(found))
    harness.report({"machine": machine, "batches": found}, options.json)


def setup(name: str, folder: str) -> Measure:
    """Open a case; its batches are then asked for pass by pass."""
    path = Path(folder)
    if name == "SpoolReader":
        return partial(measure, path, partial(read_spool, path, verify=True))
    if name == "SpoolReader and DeviceStream":
        return partial(measure, path, partial(read_stream, path))
    return partial(measure, path, partial(read_dataset, path, name))


def read_stream(path: Path) -> Batches:
    """One pass as the training loop reads it."""
    import torch

    from darkprep.trainer import DeviceStream

    spool = Spool(path).open()
    with SpoolReader(spool, batch_size=BATCH, keep=True, shards=spool.stream.shards) as reader:
        crop = spool.stream.crop
        for batch in DeviceStream(reader, torch.device("cpu"), cfa="bayer", crop=crop):
            yield batch.low, batch.gt


def read_dataset(path: Path, name: str) -> Batches:
    """One pass of a data set."""
    from torch.utils.data import DataLoader

    from darkprep.trainer import SpoolDataset

    dataset = SpoolDataset(path, batch_size=BATCH, keep=True, decode=not name.endswith("codes"))
    batches = DataLoader(dataset, batch_size=None) if name.startswith("DataLoader") else dataset
    for batch in batches:
        yield batch["low"], batch["gt"]


def table(found: dict[str, list[Figures]]) -> str:
    """Return the table, with the ratio of each data set to what it is compared with."""
    rows = []
    for name, rounds in found.items():
        ratio = ""
        if name in PAIRS:
            other = harness.median(found[PAIRS[name]], "samples_per_s")
            times = harness.median(rounds, "samples_per_s") / other
            ratio = f"{times:.2f} of {PAIRS[name]} ({'met' if times >= _TARGET else 'missed'})"
        rows.append(
            [
                name,
                harness.spread(rounds, "samples_per_s"),
                f"{harness.median(rounds, 'cpu_ms'):.2f}",
                f"{harness.median(rounds, 'peak_mb'):,.0f}",
                ratio,
            ]
        )
    head = ["batches of 8", "samples/s", "CPU ms/sample", "memory MB", f"wanted {_TARGET}"]
    return harness.table(head, rows)


if __name__ == "__main__":
    main()
