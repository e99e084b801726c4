"""What cold samples of each target cost to produce: processor time of one worker, from RAW files to a shard.

Every frame is decoded once and stored, and eight crops are cut of each pair, as `darkprep build` does by
default. The trade-off: synthetic uncompressed DNG, which are cheaper to unpack than cameras' files.

    python bench/bench_targets.py               three minutes
    python bench/bench_targets.py --quick       seconds
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import harness
from photographs import SIZES, write_photographs

from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.planner import make_plan
from darkprep.pipeline.produce.budget import frame_names_of
from darkprep.pipeline.produce.frame_store import FrameStore
from darkprep.pipeline.produce.worker import ShardTask, make_shard
from darkprep.shards import TARGETS, Spool, Target

SCENES = {"sony": 4, "fuji": 2}
CROPS = 8
"""Samples of a pair."""


def main() -> None:
    """Measures, prints, and writes JSON when asked."""
    parser = harness.parser(__doc__, rounds=1)
    parser.add_argument("--camera", action="append", choices=SIZES, help="both by default")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    record: dict[str, Any] = {"machine": harness.machine()}
    print(harness.machine_lines(record["machine"]), "\n")
    print("| camera | target | CPU ms per cold sample | cheaper than `srgb` | MB per sample |")
    print("|---|---|---:|---:|---:|")
    with harness.workplace(options.dir) as place:
        for camera in options.camera or SIZES:
            size = (576, 576) if options.quick else SIZES[camera]
            write_photographs(place / camera, camera, SCENES[camera], size)
            record[camera] = {}
            for target in TARGETS:
                figures = cold_samples(place, camera, target, crop=96 if options.quick else None)
                record[camera][target] = figures
                share = record[camera]["srgb"]["cpu_ms"] / figures["cpu_ms"]
                print(
                    f"| {camera} | `{target}` | {figures['cpu_ms']:,.1f} | {share:,.1f} times | {figures['mb']:.1f} |",
                    flush=True,
                )
    harness.report(record, options.json)


def cold_samples(place: Path, camera: str, target: Target, *, crop: int | None) -> dict[str, float]:
    """Make one shard with every pair once, from an empty store of frames."""
    plan = make_plan(
        place / camera,
        PlanOptions(
            camera=camera,
            target=target,
            crop=crop,
            samples_per_shard=SCENES[camera] * CROPS,
            crops_per_visit=CROPS,
        ),
    )
    spool = Spool(place / f"spool-{camera}-{target}")
    plan.save(spool)
    FrameStore(spool.frames).create()
    with spool.producer_lock():
        used = time.process_time()
        make_shard(ShardTask.of_this_process(spool, 0, frame_names_of(plan)))
        used = time.process_time() - used
    return {
        "cpu_ms": used / plan.options.samples_per_shard * 1e3,
        "mb": plan.stream.layout().sample_bytes / 1e6,
    }


if __name__ == "__main__":
    main()
