"""Whether the disk budget holds: a million iterations on paper, and hundreds of shards through room for six.

The paper part divides what `darkprep build` would divide, for a set of the size of SID's Sony train,
from the sizes of real files. The real part runs producers in the background and a reader that takes
what comes, on small crops so that it is quick; what the spool occupies is looked at twenty times a
second, in allocated blocks, as `du` counts them.

The trade-off: peaks between two looks are not seen; what could be there is arithmetic (pipeline/produce/budget.py).

    python bench/bench_budget.py                half a minute
    python bench/bench_budget.py --quick        seconds
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import harness
from bench_produce import sid_like_plan
from harness import Figures
from photographs import frame_bytes, plan_of, write_photographs

from darkprep.jobs.background import start_producer, stop_producers
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.budget import divide_budget, smallest_budget
from darkprep.shards import Spool, SpoolReader

BATCH = 8
ITERATIONS = 1_000_000
_ROOM = 6
"""Shards that the budget of the real run has room for."""
_SIZE, _CROP, _SCENES, _WINDOW = (1200, 1800), 256, 4, 2
_BUDGETS = (2, 5, 10, 20, 40)
"""Gigabytes."""
_FLOATS = 2 * 4 * (256 * 256 * 4 + 512 * 512 * 3) // 2
"""Bytes of one sample as float32, low and gt."""


def main() -> None:
    """Measures, prints, and writes JSON when asked."""
    parser = harness.parser(__doc__, rounds=1)
    parser.add_argument("--shards", type=int, default=240, help="shards of the real run")
    options = parser.parse_args()
    if options.quick:
        options.shards = 12
    machine = harness.machine()
    print(harness.machine_lines(machine), "\n")
    paper = on_paper()
    print(paper_table(paper), "\n")
    with harness.workplace(options.dir) as place:
        write_photographs(place / "data", "sony", _SCENES, _SIZE)
        real = for_real(place, options.shards)
    print(real_table(real))
    if real["left_over"]:
        print("\nleft behind:", real["left_over"])
    harness.report({"machine": machine, "paper": paper, "real": real}, options.json)


# -- on paper -----------------------------------------------------------------------------------------


_DRIVE_TB = 600
"""What makers of common 1 TB drives let one write before the warranty ends."""


def on_paper() -> dict[str, Any]:
    """What a million iterations write, and what each budget holds."""
    plan = sid_like_plan(4)
    layout = plan.stream.layout()
    rows = []
    for gigabytes in _BUDGETS:
        divided = divide_budget(plan, gigabytes * 10**9, jobs=os.cpu_count() or 1)
        longs = sum(name.startswith("long") for name in divided.frames)
        scenes = len({pair.long_fingerprint for pair in plan.pairs})
        rows.append(
            {
                "budget_gb": gigabytes,
                "frames_gb": divided.frame_bytes / 1e9,
                "longs": longs / scenes,
                "shorts": (len(divided.frames) - longs) / len(plan.pairs),
                "shards": divided.max_shards,
                "minutes": divided.max_shards * layout.samples / BATCH * 0.0864 / 60,
            }
        )
    samples = ITERATIONS * BATCH
    return {
        "samples": samples,
        "shard_bytes": layout.shard_bytes,
        "sample_bytes": layout.sample_bytes,
        "frame_bytes": frame_bytes(plan),
        "written_tb": {reuse: samples / reuse * layout.sample_bytes / 1e12 for reuse in (1, 4, 16)},
        "all_at_once_tb": samples * _FLOATS / 1e12,
        "smallest_mb": smallest_budget(plan) / harness.MB,
        "budgets": rows,
    }


def paper_table(paper: dict[str, Any]) -> str:
    """The budgets, and in words what is written."""
    rows = [
        [
            f"{one['budget_gb']} GB",
            f"{one['longs']:.0%}",
            f"{one['shorts']:.0%}",
            f"{one['frames_gb']:.1f}",
            str(one["shards"]),
            f"{one['minutes']:.1f}",
        ]
        for one in paper["budgets"]
    ]
    head = [
        "disk budget",
        "long exposures kept",
        "short ones kept",
        "frames GB",
        "shards",
        "minutes ahead at 86.4 ms",
    ]
    written = ", ".join(
        f"{terabytes:.1f} TB with --reuse {reuse}"
        for reuse, terabytes in paper["written_tb"].items()
    )
    return (
        f"{ITERATIONS:,} iterations of {BATCH} are {paper['samples']:,} samples of "
        f"{paper['sample_bytes'] / harness.MB:.2f} MB. Written to the disk in all: {written}, plus "
        f"{paper['frame_bytes'] / 1e9:.1f} GB of frames once; that is "
        f"{paper['written_tb'][1] / _DRIVE_TB:.1%} of what a drive rated for {_DRIVE_TB} TB may take, "
        "or less: what is deleted before the kernel wrote it back never reaches the drive. "
        "All samples at once, as float32: "
        f"{paper['all_at_once_tb']:.1f} TB. The smallest budget is {paper['smallest_mb']:,.0f} MB.\n\n"
        + harness.table(head, rows)
    )


# -- for real -----------------------------------------------------------------------------------------


def for_real(place: Path, shards: int) -> dict[str, Any]:
    """A plan of so many shards through a budget with room for six, used and deleted as they come."""
    spool = Spool(place / "spool")
    plan = plan_of(place / "data", "sony", crop=_CROP, window=_WINDOW)
    budget = budget_of(plan)
    plan.save(spool)
    batches = shards * plan.options.samples_per_shard // BATCH
    used = harness.cpu_seconds()
    with harness.watched(lambda: float(spool.disk_bytes()), every_s=0.05) as disk:
        began = time.perf_counter()
        start_producer(spool, jobs=os.cpu_count() or 1, budget_bytes=budget, until=shards)
        try:
            with SpoolReader(spool, batch_size=BATCH, shards=shards) as reader:
                for _ in reader:
                    pass
                stats = reader.stats
        finally:
            stop_producers(spool)
        elapsed = time.perf_counter() - began
    return {
        "shards": shards,
        "batches": stats.batches,
        "batches_wanted": batches,
        "deleted": stats.shards_deleted,
        "shard_bytes": plan.stream.layout().shard_bytes,
        "budget_bytes": budget,
        "peak_bytes": disk.value,
        "looks": disk.samples,
        "shards_per_s": shards / elapsed,
        "cpu_s": harness.cpu_seconds() - used,
        "room": divide_budget(plan, budget, jobs=os.cpu_count() or 1).max_shards,
        "left_over": left_over(spool),
    }


def budget_of(plan: Plan) -> int:
    """All frames and six shards."""
    plenty = divide_budget(plan, 1 << 50, jobs=1)
    spare = _ROOM - plan.options.window - 1
    return smallest_budget(plan) + spare * plenty.shard_bytes + plenty.frame_bytes


def left_over(spool: Spool) -> list[str]:
    """Shards and partial files that are still there; frames and the plan are meant to stay."""
    folders = (spool.ready, spool.partial, spool.damaged)
    return [str(path.relative_to(spool.path)) for folder in folders for path in folder.iterdir()]


def real_table(real: dict[str, Any]) -> str:
    """One line of figures."""
    figures: Figures = {
        "shard MB": real["shard_bytes"] / harness.MB,
        "budget MB": real["budget_bytes"] / harness.MB,
        "peak MB": real["peak_bytes"] / harness.MB,
        "peak / budget": real["peak_bytes"] / real["budget_bytes"],
        "shards/s": real["shards_per_s"],
    }
    head = [
        f"{real['shards']} shards through room for {_ROOM}",
        *figures,
        "looks",
        "deleted",
        "left",
    ]
    row = [
        f"{real['batches']:,} of {real['batches_wanted']:,} batches",
        *(f"{value:,.2f}" for value in figures.values()),
        f"{real['looks']:,}",
        str(real["deleted"]),
        str(len(real["left_over"])),
    ]
    return harness.table(head, [row])


if __name__ == "__main__":
    main()
