"""What making samples costs: per sample from RAW, from frames decoded once, and when only some of them fit.

One worker makes real shards of full-size frames; processor time is what counts, for it decides how many
cores feed a GPU. `lazy` decodes and develops both exposures for every sample, as a data set class over
RAW files does. A second table has the time from an empty spool to the first batch of a training run, with
producers in the background as `darkprep build` starts them; a third how well batches are mixed.

The trade-off: synthetic uncompressed DNG, which are cheaper to unpack than cameras' files.

    python bench/bench_produce.py               two minutes
    python bench/bench_produce.py --quick       seconds
    python bench/bench_produce.py --root DIR    on photographs of one's own (SID's layout)
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
from harness import Figures, Measure, Station
from photographs import SIZES, frame_bytes, plan_of, write_photographs

from darkprep.jobs.background import start_producer, stop_producers
from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import Plan, PlannedPair
from darkprep.pipeline.produce.budget import DiskBudget, divide_budget, smallest_budget
from darkprep.pipeline.produce.frame_store import FrameStore
from darkprep.pipeline.produce.worker import ShardTask, make_shard
from darkprep.shards import PERIOD, Spool, SpoolReader, UseOrder
from darkprep.shards.plan_record import ProducerSettings

SCENES = {"sony": 8, "fuji": 2}
"""Photographed scenes: of a 24 MP X-Trans frame two are enough, each takes 14 s to develop."""
SHARES = (1.0, 0.5, 0.1)
_SMALL = 576
"""Side of the photographs and ..."""
_SMALL_CROP = 96
"""... of the crops with --quick."""
_SID_SCENES, _SID_SHORTS = 161, (161, 85, 34)
"""SID's Sony training set: scenes, and how many of them have a first, second, third short exposure."""


def main() -> None:
    """Measures, prints, and writes JSON when asked."""
    parser = harness.parser(__doc__, rounds=3)
    parser.add_argument("--camera", action="append", choices=SIZES, help="both by default")
    parser.add_argument("--root", type=Path, help="photographs; synthetic ones are made else")
    options = parser.parse_args()
    machine = harness.machine()
    print(harness.machine_lines(machine), "\n")
    record: dict[str, Any] = {"machine": machine}
    with harness.workplace(options.dir) as place:
        for camera in options.camera or SIZES:
            root = options.root or photograph(place / camera, camera, quick=options.quick)
            record[camera] = measure_camera(place / camera, root, camera, options)
            print(production_table(camera, record[camera]), "\n")
            print(first_batch_line(record[camera]["first_batch"]), "\n")
    record["mixing"] = [mixing(reuse, window) for reuse, window in ((1, 4), (4, 4), (1, 8), (1, 1))]
    print(mixing_table(record["mixing"]))
    harness.report(record, options.json)


def photograph(place: Path, camera: str, *, quick: bool) -> Path:
    """Synthetic photographs below `place`."""
    size = (_SMALL, _SMALL) if quick else SIZES[camera]
    write_photographs(place / "data", camera, SCENES[camera], size)
    return place / "data"


def measure_camera(
    place: Path, root: Path, camera: str, options: argparse.Namespace
) -> dict[str, Any]:
    """All phases on one camera's photographs, each in a process of its own."""
    crop = _SMALL_CROP if options.quick else None
    spool = Spool(place / "spool")
    plan = plan_of(root, camera, crop=crop)
    plan.save(spool)
    phases: dict[str, Figures] = {}
    with phase("lazy", setup_lazy, str(root), camera) as station:
        phases["lazy: both exposures decoded per sample"] = station.measure(count=1 if crop else 3)
    epoch = -(-len(plan.pairs) * plan.options.crops_per_visit // plan.options.samples_per_shard)
    first = 0
    with phase("cold", setup_making, str(spool.path), 1.0) as station:
        phases["cold: decoded at the first visit, stored"] = station.measure(first=0, count=epoch)
    for share in SHARES if camera == "sony" else SHARES[:1]:
        with phase(f"{share}", setup_making, str(spool.path), share) as station:
            station.measure(first=0, count=epoch)  # maps the frames, and checks them
            first += epoch
            rounds = [
                station.measure(first=first + turn * epoch, count=epoch)
                for turn in range(options.rounds if share == 1.0 else 1)
            ]
        phases[f"warm: {share:.0%} of the frames' bytes fit"] = middle(rounds)
        if share == 1.0:
            drop_page_cache(spool.frames)
            with phase("disk", setup_making, str(spool.path), share) as station:
                phases["warm, but the page cache is empty"] = station.measure(first=0, count=epoch)
    shutil.rmtree(spool.path)
    lazy = phases["lazy: both exposures decoded per sample"]
    return {
        "megapixels": plan.pairs[0].height * plan.pairs[0].width / 1e6,
        "phases": phases,
        "first_batch": first_batch(spool, plan, lazy["decode_cpu_ms"]),
    }


@contextlib.contextmanager
def phase(name: str, setup: Any, *arguments: Any) -> Iterator[Station]:
    """A station for a while."""
    station = Station(name, setup, *arguments)
    try:
        yield station
    finally:
        station.close()


def middle(rounds: list[Figures]) -> Figures:
    """The median of each figure."""
    return {name: harness.median(rounds, name) for name in rounds[0]}


# -- what is measured ---------------------------------------------------------------------------------


def setup_lazy(root: str, camera: str) -> Measure:
    """Per sample: decode the short exposure, develop the long one, cut a crop of each."""
    plan = plan_of(Path(root), camera, crop=_SMALL_CROP)

    def measure(*, count: int) -> Figures:
        began, used = time.perf_counter(), time.process_time()
        for index in range(count):
            pair = plan.pairs[index % len(plan.pairs)].pair
            planes = open_source(plan.root / pair.short).decode().planes
            truth = open_source(plan.root / pair.long).develop()
            planes[:, : plan.stream.height].copy()
            truth[:, : plan.stream.height].copy()
        cpu = (time.process_time() - used) / count * 1e3
        wall = (time.perf_counter() - began) / count * 1e3
        return {"cpu_ms": cpu, "wall_ms": wall, "decode_cpu_ms": cpu}

    return measure


def setup_making(path: str, share: float) -> Measure:
    """Shards as a producer's worker makes them, with room for a share of the frames."""
    os.environ["OMP_NUM_THREADS"] = "1"
    spool = Spool(path).open()
    plan = Plan.load(spool)
    budget = divided_budget(plan, share)
    store = FrameStore(spool.frames)
    store.create()
    for name in store.names():
        if name not in budget.frames:
            store.delete(name)
    spool.producer_lock().acquire()

    def measure(*, first: int, count: int) -> Figures:
        made = []
        for shard in range(first, first + count):
            task = ShardTask.of_this_process(spool, shard, budget.frames)
            made.append(make_shard(task))
            spool.delete(shard)
        samples = count * plan.options.samples_per_shard
        return {
            "cpu_ms": sum(one.cpu_seconds for one in made) / samples * 1e3,
            "wall_ms": sum(one.seconds for one in made) / samples * 1e3,
            "decoded": float(sum(one.decoded for one in made)),
        }

    return measure


def divided_budget(plan: Plan, share: float) -> DiskBudget:
    """Divide a budget that has room for a share of the frames' bytes beside the shards it needs."""
    shard = divide_budget(plan, smallest_budget(plan), jobs=1).shard_bytes
    return divide_budget(plan, smallest_budget(plan) + 2 * shard + budget_for(plan, share), jobs=1)


def budget_for(plan: Plan, share: float) -> int:
    """Bytes for a share of the frames, with what a file system adds."""
    return int(share * (frame_bytes(plan) + len(plan.pairs) * 2 * 32768))


def drop_page_cache(folder: Path) -> None:
    """Have the kernel forget the pages of all files in a folder."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def first_batch(spool: Spool, plan: Plan, decode_cpu_ms: float) -> Figures:
    """From an empty spool to the first batch, producers in the background on all cores."""
    jobs = os.cpu_count() or 1
    budget = smallest_budget(plan) + budget_for(plan, 1.0) + 8 * plan.stream.layout().shard_bytes
    plan.save(spool, ProducerSettings(budget_bytes=budget, jobs=jobs))
    scenes = {next(plan.candidates(visit.number)).pair.scene for visit in plan.visits(0)}
    began = time.perf_counter()
    start_producer(spool, jobs=jobs, budget_bytes=budget, until=None)
    started = time.perf_counter() - began
    try:
        with SpoolReader(spool, batch_size=8) as reader:
            next(reader)
            waited = time.perf_counter() - began
    finally:
        stop_producers(spool)
    return {
        "jobs": float(jobs),
        "first_batch_s": waited,
        "start_s": started,
        "scenes": float(len(scenes)),
        "decode_s": decode_cpu_ms * len(scenes) / 1e3,
    }


def mixing(reuse: int, window: int) -> dict[str, float]:
    """How many scenes and pairs are in a batch of 8, for a set of the size of SID's Sony train."""
    plan = sid_like_plan(window)
    order = UseOrder(samples=plan.options.samples_per_shard, window=window, seed=0, reuse=reuse)
    begins = order.start(2 * window)
    uses = order.uses(begins, 8 * 2000)
    pairs: dict[tuple[int, int], PlannedPair] = {}
    for shard in {int(row[0]) for row in uses}:
        for visit in plan.visits(shard):
            pair = next(plan.candidates(visit.number))
            pairs |= {(shard, slot): pair for slot in visit.slots}
    scenes, samples = [], []
    for start in range(0, len(uses), 8):
        batch = [(int(shard), int(sample)) for shard, sample, _ in uses[start : start + 8]]
        scenes.append(len({pairs[one].pair.scene for one in batch}))
        samples.append(len(set(batch)))
    others = [pair.pair.scene for pair in plan.pairs]
    share = sum((others.count(scene) / len(others)) ** 2 for scene in set(others))
    return {
        "reuse": reuse,
        "window": window,
        "scenes": statistics.mean(scenes),
        "samples": statistics.mean(samples),
        # Scenes in 8 independent draws: with so many scenes few batches hold one twice.
        "scenes_of_a_full_shuffle": 8 - 28 * share,
    }


def sid_like_plan(window: int) -> Plan:
    """A plan over pairs that have names only."""
    names = [
        (f"{number:05d}", seconds)
        for seconds, count in zip(("0.1", "0.04", "0.033"), _SID_SHORTS, strict=True)
        for number in range(1, count + 1)
    ]
    pair = Pair(
        id="",
        scene="",
        camera="sony",
        split="train",
        short="",
        long="",
        ratio=100.0,
        iso=100.0,
    )
    height, width = SIZES["sony"]
    planned = tuple(
        PlannedPair(
            pair=replace(pair, id=f"{scene}_00_{seconds}s", scene=scene),
            height=height - height % PERIOD["bayer"],
            width=width,
            short_fingerprint=f"{scene}-{seconds}",
            long_fingerprint=scene,
        )
        for scene, seconds in sorted(names)
    )
    options = PlanOptions(camera="sony", epochs=None, window=window)
    return Plan(options=options, pairs=planned, cfa="bayer", root=Path())


# -- tables -------------------------------------------------------------------------------------------


def production_table(camera: str, record: dict[str, Any]) -> str:
    """One camera's phases."""
    phases: dict[str, Figures] = record["phases"]
    lazy = next(iter(phases.values()))["cpu_ms"]
    rows = [
        [
            name,
            f"{figures['cpu_ms']:,.2f}",
            f"{1e3 / figures['cpu_ms']:,.1f}",
            f"{lazy / figures['cpu_ms']:,.0f}",
            f"{figures['wall_ms']:,.2f}",
            f"{figures['peak_mb']:,.0f}",
        ]
        for name, figures in phases.items()
    ]
    head = [
        f"{camera}, {record['megapixels']:.1f} MP, one worker",
        "CPU ms/sample",
        "samples per CPU second",
        "x lazy",
        "wall ms/sample",
        "memory MB",
    ]
    return harness.table(head, rows)


def first_batch_line(figures: Figures) -> str:
    """The time to the first batch against its target."""
    verdict = "met" if figures["first_batch_s"] <= figures["decode_s"] else "missed"
    return (
        f"First batch {figures['first_batch_s']:.1f} s after the start on an empty spool with "
        f"{figures['jobs']:.0f} jobs (the producer was up after {figures['start_s']:.1f} s); decoding and "
        f"developing the {figures['scenes']:.0f} scenes of a shard takes {figures['decode_s']:.1f} s "
        f"of one core (target: not more; {verdict})"
    )


def mixing_table(found: list[dict[str, float]]) -> str:
    """How batches are mixed."""
    rows = [
        [
            f"window {one['window']:.0f}, reuse {one['reuse']:.0f}",
            f"{one['scenes']:.2f}",
            f"{one['scenes_of_a_full_shuffle']:.2f}",
            f"{one['samples']:.2f}",
        ]
        for one in found
    ]
    head = [
        "batches of 8, 161 scenes, 280 pairs",
        "scenes per batch",
        "of a full shuffle",
        "samples per batch",
    ]
    return harness.table(head, rows)


if __name__ == "__main__":
    main()
