"""How long `darkprep build` takes from its start to the first shard, on full-size files and an empty spool.

The command runs as a user runs it: planning, starting workers, decoding, developing, writing, with the bytecode of all
modules compiled as in an installed package. The trade-off: the file system's cache is warm, so reading from a slow disk
is not included.

    python bench/bench_first_shard.py            half a minute
    python bench/bench_first_shard.py --quick    seconds
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import harness
from harness import Figures
from photographs import SIZES, write_photographs

SCENES = 8
"""Twice as many as a shard visits."""
WANTED_S = 2.5


def main() -> None:
    """Measures, prints, and writes JSON when asked."""
    options = harness.parser(__doc__, rounds=3).parse_args()
    machine = harness.machine()
    print(harness.machine_lines(machine))
    with harness.workplace(options.dir) as place:
        size = (576, 576) if options.quick else SIZES["sony"]
        write_photographs(place, "sony", SCENES, size)
        crop = ["--crop", "96"] if options.quick else []
        if not options.quick:
            first_shard(place, crop)  # compiles what an earlier version compiled
        rounds = [first_shard(place, crop) for _ in range(1 if options.quick else options.rounds)]
    plan, seconds, cpu = (harness.median(rounds, name) for name in ("plan_s", "seconds", "cpu_s"))
    verdict = "met" if seconds <= WANTED_S else "missed"
    print(
        f"\nFirst shard of {size[0]}x{size[1]} Bayer {seconds:.2f} s after the start, the plan {plan:.2f} s; {cpu:.2f} s of CPU; "
        f"wanted were {WANTED_S} s: {verdict}"
    )
    harness.report(
        {"machine": machine, "rounds": rounds, "seconds": seconds, "cpu_s": cpu}, options.json
    )


def first_shard(root: Path, crop: list[str]) -> Figures:
    """Wall time from the start of the command to plan and first shard, and CPU time of all its processes until they end."""
    spool = root / "spool"
    command = [
        sys.executable,
        "-m",
        "darkprep",
        "build",
        "--camera",
        "sony",
        "--root",
        str(root),
        "--spool",
        str(spool),
    ]
    words = [*command, "--disk-budget", "4GB", "--quiet", *crop]
    compiling = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    used, began = children_cpu_s(), time.perf_counter()
    with subprocess.Popen(words, env=compiling) as build:

        def seconds_until(pattern: str) -> float:
            while not list(spool.glob(pattern)):
                assert build.poll() is None, "the build ended without a shard"
                time.sleep(0.005)
            return time.perf_counter() - began

        plan, shard = seconds_until("plan.json"), seconds_until("ready/*.tar")
        build.terminate()
    shutil.rmtree(spool)
    return {"plan_s": plan, "seconds": shard, "cpu_s": children_cpu_s() - used}


def children_cpu_s() -> float:
    """CPU seconds of all child processes that have ended."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


if __name__ == "__main__":
    main()
