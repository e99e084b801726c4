"""How busy a GPU would be: darkprep beside a lazy DataLoader and other ways to use the same room on the disk.

A lazy DataLoader decodes each sample. One file, webdataset's shards and litdata's chunks hold as many samples as fit
the disk budget, and repeat them. torchdata's nodes cut crops from frames decoded once. "Fresh" is the share of the samples
seen that are new crops. With --memory or --cold the page cache is small (cold.py), as it is beside a spool larger than
memory. While one case is measured, the processes of all others are suspended.

The accelerator is emulated: a step sleeps for a fixed time and takes no processor time. 86.4 ms is the
pace of a million steps in a day, what the paper's network takes on a V100 at batches of 8 crops of
512 px; 20 ms is what we assume of an H200. Everything else is real: full-size RAW files, decoding,
development, producers in the background as `darkprep build` starts them, the reader, the disk budget.

The trade-off: a real training also takes processor time for launching kernels, and copies to the
device, neither of which is here.

    python bench/bench_pace.py                  about six minutes
    python bench/bench_pace.py --cold           the same with files evicted from the page cache
    python bench/bench_pace.py --memory 2000    the same with 2,000 MB of memory for each case, by cgroups
    python bench/bench_pace.py --quick          seconds
    python bench/bench_pace.py --root DIR       on photographs of one's own (SID's layout)
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
from cold import MemoryGroup, evicted
from harness import Figures, Measure, Station
from pace_rivals import RIVALS, crops_of_pair
from photographs import SIZES, frame_bytes, plan_of, write_photographs

from darkprep.jobs.background import start_producer, stop_producers
from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.budget import smallest_budget
from darkprep.pipeline.produce.frame_store import FrameStore
from darkprep.shards import Spool, SpoolReader
from darkprep.shards.batch import Batch
from darkprep.shards.disk_usage import allocated_bytes
from darkprep.shards.plan_record import ProducerSettings
from darkprep.view.read_status import spool_status

Cases = dict[str, tuple[Callable[..., Measure], tuple[Any, ...]]]
"""What sets up each case, and its further arguments."""

BATCH = 8
PACES = {"V100, 86.4 ms": 0.0864, "H200, 20 ms": 0.02}
_WORKERS = os.cpu_count() or 1
_SCENES = 6
_SMALL, _SMALL_CROP = 192, 96
"""Sides of photographs and crops with --quick."""
_EVERY = 5
"""Every fifth pixel of a row and column is compared, to distinguish samples."""
_ROOM_FOR_HEADERS = 0.98
_LOOK_EVERY_S = 0.5
"""How often the bytes of a case on the disk are counted."""
_SPARE_SHARDS = 8
"""Room in darkprep's budget beyond frames and the open window."""


def main() -> None:
    """Measures, prints, and writes JSON when asked."""
    parser = harness.parser(__doc__, rounds=3)
    parser.add_argument("--root", type=Path, help="photographs; synthetic ones are made else")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="measured at each pace and round"
    )
    parser.add_argument("--scenes", type=int, default=_SCENES, help="synthetic scenes")
    parser.add_argument(
        "--only", nargs="*", metavar="WORD", help="cases with one of these in the name"
    )
    parser.add_argument("--cold", action="store_true", help="evict files from the page cache")
    parser.add_argument(
        "--memory", type=int, metavar="MB", help="limit the memory of each case by a cgroup"
    )
    options = parser.parse_args()
    crop = None
    if options.quick:
        options.seconds, options.scenes, crop = 0.5, 2, _SMALL_CROP
    machine = harness.machine()
    print(harness.machine_lines(machine), "\n")
    with harness.workplace(options.dir) as place:
        root = options.root or place / "data"
        if not options.root:
            size = (_SMALL, _SMALL) if options.quick else SIZES["sony"]
            write_photographs(root, "sony", options.scenes, size)
        budget = budget_bytes(plan_of(root, "sony", crop=crop))
        chosen = {
            name: one
            for name, one in cases(budget, plan_of(root, "sony", crop=crop)).items()
            if not options.only or any(word in name for word in options.only)
        }
        with contextlib.ExitStack() as stack:
            cache = "as it is"
            if options.cold:
                stack.enter_context(evicted(place))
                cache = "files are evicted again and again (posix_fadvise)"
            if options.memory:
                cache = f"memory of each case limited to {options.memory:,} MB by a cgroup"
            print(f"disk budget {budget / harness.MB:,.0f} MB; page cache: {cache}\n")
            found = run(chosen, place, root, crop, options)
    print(pace_table(found), "\n")
    for name, figures in found.items():
        print(start_line(name, figures["start"]))
    record = {"machine": machine, "seconds": options.seconds, "page_cache": cache, "cases": found}
    harness.report(record | {"budget_bytes": budget}, options.json)


def cases(budget: int, plan: Plan) -> Cases:
    """What is measured; peers that are not installed are named and left out."""
    sample_bytes = plan.stream.layout().sample_bytes
    fit = budget // sample_bytes
    found: Cases = {
        "lazy DataLoader": (setup_lazy, ()),
        "one file (torch.save list)": (setup_list, (fit // 2,)),
    }
    for name, (package, _) in RIVALS.items():
        if harness.has(package):
            found[name] = (setup_rival, (name, int(fit * _ROOM_FOR_HEADERS)))
    return found | {
        "darkprep": (setup_darkprep, (1,)),
        "darkprep --reuse 4": (setup_darkprep, (4,)),
    }


def run(
    chosen: Cases, place: Path, root: Path, crop: int | None, options: argparse.Namespace
) -> dict[str, dict[str, Figures]]:
    """Each case's start, then all in turn at each pace; what lies in a case's folder is its disk."""
    found: dict[str, dict[str, Figures]] = {name: {} for name in chosen}
    stations: dict[str, Station] = {}
    disks: dict[str, harness.Peak] = {}
    with contextlib.ExitStack() as stack:
        for number, (name, (setup, arguments)) in enumerate(chosen.items()):
            folder = place / str(number)
            folder.mkdir()
            look = partial(_disk_bytes, folder)
            disks[name] = stack.enter_context(harness.watched(look, _LOOK_EVERY_S))
            with _limited(options.memory, str(number), stack):
                stations[name] = Station(name, setup, str(folder), str(root), crop, *arguments)
            stack.callback(stations[name].close)
            found[name]["start"] = stations[name].measure(step_s=0.0, seconds=0.0)
        for pace, step_s in PACES.items():
            turns = harness.in_turn(
                list(stations.values()), options.rounds, step_s=step_s, seconds=options.seconds
            )
            for name, own in turns.items():
                numbers = [key for key, value in own[0].items() if isinstance(value, int | float)]
                found[name][pace] = {key: harness.median(own, key) for key in numbers}
        for name, station in stations.items():
            found[name]["end"] = station.measure(step_s=-1.0, seconds=0.0)
    for name, disk in disks.items():
        found[name]["disk"] = {"peak_mb": disk.value / harness.MB}
    return found


def _limited(
    megabytes: int | None, name: str, stack: contextlib.ExitStack
) -> contextlib.AbstractContextManager[None]:
    """A block whose processes have so much memory, page cache included, until the stack is closed."""
    if megabytes is None:
        return contextlib.nullcontext()
    group = MemoryGroup(name, megabytes * 10**6)
    stack.callback(group.remove)
    return group


def _disk_bytes(folder: Path) -> float:
    return float(allocated_bytes(folder))


# -- what every case does -----------------------------------------------------------------------------


class Training:
    """A training run whose steps take a fixed time elsewhere; measured again and again, first for its start."""

    def __init__(
        self,
        batches: Callable[[], Iterator[Any]],
        *,
        prepare: Callable[[], None] = lambda: None,
        is_warm: Callable[[], bool] = lambda: True,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._open, self._prepare, self._is_warm, self._close = batches, prepare, is_warm, close
        self._batches: Iterator[Any] = iter(())
        self._known: set[bytes] = set()

    def __call__(self, *, step_s: float, seconds: float) -> Figures:
        """A negative step ends it, a zero one starts it, any other is the pace."""
        if step_s < 0:
            self._close()
            return {}
        return self._steps(step_s, seconds) if step_s else self._start()

    def _start(self) -> Figures:
        """Until the first batch is there; then on until nothing is new to the loader any more."""
        began = time.perf_counter()
        self._prepare()
        prepared = time.perf_counter() - began
        self._batches = self._open()
        self._new_in(next(self._batches))
        first = time.perf_counter() - began
        while not self._is_warm():
            self._new_in(next(self._batches))
        warm = time.perf_counter() - began
        return {"prepared_s": prepared, "first_batch_s": first, "warm_s": warm}

    def _steps(self, step_s: float, seconds: float) -> Figures:
        waits: list[float] = []
        new = 0
        used, began = harness.cpu_seconds(), time.perf_counter()
        while time.perf_counter() - began < seconds:
            asked = time.perf_counter()
            batch = next(self._batches)
            waits.append(time.perf_counter() - asked)
            step_ends = time.perf_counter() + step_s
            new += self._new_in(batch)
            time.sleep(max(0.0, step_ends - time.perf_counter()))
        elapsed = time.perf_counter() - began
        return {
            "busy_percent": 100 * (1 - sum(waits) / elapsed),
            "samples_per_s": len(waits) * BATCH / elapsed,
            "fresh_percent": 100 * new / (len(waits) * BATCH),
            "wait_ms": sum(waits) / len(waits) * 1e3,
            "wait_p95_ms": harness.percentile(waits, 0.95) * 1e3,
            "cores": (harness.cpu_seconds() - used) / elapsed,
        }

    def _new_in(self, batch: Any) -> int:
        """The number of samples in a batch that were not there before, recognised by some pixels of their input."""
        before = len(self._known)
        for low in batch.low if isinstance(batch, Batch) else batch[0]:
            self._known.add(np.asarray(low[0, ::_EVERY, ::_EVERY]).tobytes())
        return len(self._known) - before


# -- the lazy DataLoader ------------------------------------------------------------------------------


class LazyPairs:
    """A data set over RAW files that decodes both exposures of a pair whenever a sample is asked for.

    What the published code does where there are not 60 GB of memory for all decoded frames.
    """

    def __init__(self, root: Path, crop: int | None) -> None:
        self._plan = plan_of(root, "sony", crop=crop)

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        import torch

        crop = self._plan.stream.crop
        pair = self._plan.pairs[index % len(self._plan.pairs)]
        short = open_source(self._plan.root / pair.pair.short).decode()
        truth = open_source(self._plan.root / pair.pair.long).develop()
        rng = np.random.default_rng(index)
        y, x = (2 * int(rng.integers((side - crop) // 2 + 1)) for side in truth.shape[1:])
        low = short.planes[:, y // 2 : (y + crop) // 2, x // 2 : (x + crop) // 2]
        scale = np.float32(pair.pair.ratio / (short.white - short.black[0]))
        return (
            torch.from_numpy((low.astype(np.float32) - np.float32(short.black[0])) * scale),
            torch.from_numpy(truth[:, y : y + crop, x : x + crop] / np.float32(65535)),
        )


def setup_lazy(_place: str, root: str, crop: int | None) -> Measure:
    """A DataLoader over RAW files, a worker per core."""
    from torch.utils.data import DataLoader

    os.environ["OMP_NUM_THREADS"] = "1"
    pairs = LazyPairs(Path(root), crop)
    loader = DataLoader(pairs, BATCH, num_workers=_WORKERS, multiprocessing_context="spawn")  # type: ignore[arg-type]
    return Training(lambda: iter(loader))


# -- one file -----------------------------------------------------------------------------------------


def setup_list(place: str, root: str, crop: int | None, samples: int) -> Measure:
    """All samples made beforehand into one list in one file, which is then read into memory."""
    path = Path(place) / "data.pt"

    def batches() -> Iterator[Any]:
        import torch
        from torch.utils.data import DataLoader

        pairs = torch.load(path, weights_only=True)
        loader = DataLoader(
            pairs,
            BATCH,
            num_workers=_WORKERS,
            shuffle=True,
            drop_last=True,
            persistent_workers=True,
        )
        while True:
            yield from loader

    return Training(batches, prepare=partial(save_list, path, Path(root), crop, samples))


def save_list(path: Path, root: Path, crop: int | None, samples: int) -> None:
    """Each frame is decoded once, and many crops cut from it."""
    import torch

    plan, pairs = plan_of(root, "sony", crop=crop), []
    for number, pair in enumerate(plan.pairs):
        for short, low, gt in crops_of_pair(plan, number, samples):
            scale = np.float32(pair.pair.ratio / (short.white - short.black[0]))
            light = (low.astype(np.float32) - np.float32(short.black[0])) * scale
            pairs.append((torch.from_numpy(light), torch.from_numpy(gt / np.float32(65535))))
    torch.save(pairs, path)


# -- other ways ---------------------------------------------------------------------------------------


def setup_rival(place: str, root: str, crop: int | None, name: str, samples: int) -> Measure:
    """One of RIVALS, with so many samples if it writes samples."""
    _, open_rival = RIVALS[name]
    prepare, batches = open_rival(Path(place), Path(root), crop, samples, BATCH)
    return Training(batches, prepare=prepare)


# -- darkprep -----------------------------------------------------------------------------------------


def setup_darkprep(place: str, root: str, crop: int | None, reuse: int) -> Measure:
    """Producers in the background on all cores, a disk budget, and the reader."""
    spool = Spool(Path(place))
    plan = plan_of(Path(root), "sony", crop=crop)
    budget = budget_bytes(plan)
    plan.save(spool, ProducerSettings(budget_bytes=budget, jobs=_WORKERS))
    readers: list[SpoolReader] = []

    def batches() -> Iterator[Any]:
        start_producer(spool, jobs=_WORKERS, budget_bytes=budget, until=None)
        readers.append(SpoolReader(spool, batch_size=BATCH, reuse=reuse))
        return iter(readers[0])

    def close() -> None:
        for reader in readers:
            reader.close()
        stop_producers(spool)

    return Closing(
        batches, is_warm=partial(is_decoded, spool, plan), close=close, spool=spool, reuse=reuse
    )


def budget_bytes(plan: Plan) -> int:
    """Room for every frame and some shards."""
    frames = smallest_budget(plan) + int(1.01 * frame_bytes(plan))
    return frames + _SPARE_SHARDS * plan.stream.layout().shard_bytes


class Closing(Training):
    """A training run that says at its end what `darkprep status` says, and has the budget in its figures."""

    def __init__(self, *arguments: Any, spool: Spool, reuse: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._spool, self._reuse = spool, reuse

    def __call__(self, *, step_s: float, seconds: float) -> Figures:
        """See Training; the words stand among the figures for the JSON."""
        figures = super().__call__(step_s=step_s, seconds=seconds)
        status = spool_status(self._spool)
        said: Any = {
            "budget_mb": (status.budget_bytes or 0) / harness.MB,
            "blocked_fraction": status.producers[-1].blocked_fraction if status.producers else 0.0,
            "limiting_side": status.limiting_side,
        }
        return figures | said


def is_decoded(spool: Spool, plan: Plan) -> bool:
    """Whether every frame of the plan is in the store."""
    wanted = {pair.long_fingerprint for pair in plan.pairs} | {
        pair.short_fingerprint for pair in plan.pairs
    }
    return len(FrameStore(spool.frames).names()) >= len(wanted)


# -- tables -------------------------------------------------------------------------------------------


def pace_table(found: dict[str, dict[str, Figures]]) -> str:
    """Each case at each pace."""
    rows = []
    for name, figures in found.items():
        row = [name]
        for pace in PACES:
            one = figures[pace]
            row += [
                f"**{one['busy_percent']:.1f} %**",
                f"{one['samples_per_s']:,.1f}",
                f"{one['fresh_percent']:.0f} %",
            ]
        row += [f"{figures['disk']['peak_mb']:,.0f}", f"{figures['start']['first_batch_s']:.1f}"]
        rows.append(row)
    head = ["emulated accelerator"]
    for pace in PACES:
        head += [f"{pace}: busy", "samples/s", "fresh"]
    head += ["peak disk MB", "first batch s"]
    return harness.table(head, rows)


def start_line(name: str, start: Figures) -> str:
    """How a case came to its first batch."""
    parts = [f"{name}: first batch after {start['first_batch_s']:.1f} s"]
    if start["prepared_s"] > 1:
        parts.append(f"of which {start['prepared_s']:.1f} s preprocessing")
    if "budget_mb" in start:
        parts.append(f"all frames decoded after {start['warm_s']:.1f} s")
        parts.append(f"budget {start['budget_mb']:,.0f} MB")
    return ", ".join(parts)


if __name__ == "__main__":
    main()
