"""Photographs and spools for the GPU sections: RAW files written once, a spool built from them per case.

The trade-off: the disk budget has room for all decoded frames, so producers decode each of them once. What
they can do with less is measured by bench_produce.py, which needs no GPU.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from gpu_section import Section
from photographs import SIZES, write_photographs

from darkprep.jobs.background import stop_producers
from darkprep.jobs.train import jobs_beside_trainer
from darkprep.shards import Spool

SCENES = 8
TINY_SIDE, TINY_CROP = 256, 192


def photographs_in(section: Section) -> Path:
    """Return the root of synthetic RAW files in SID's layout, written at the first call of all sections."""
    root, done = section.directory / "data", section.directory / "data.done"
    if not done.exists():
        began = time.perf_counter()
        size = (TINY_SIDE, TINY_SIDE) if section.cpu else SIZES["sony"]
        write_photographs(root, "sony", 4 if section.cpu else SCENES, size)
        done.touch()
        print(f"RAW files written in {time.perf_counter() - began:.1f} s", flush=True)
    return root


@contextlib.contextmanager
def built_spool(section: Section, name: str, *, budget: str = "6GB") -> Iterator[Spool]:
    """Build a spool without end on all cores but the trainer's, in the background; delete it afterwards."""
    path = section.directory / name
    # As many as `stream-train` starts.
    jobs = section.cores if section.cpu else jobs_beside_trainer(section.cores, section.cores)
    command = ["build", "--camera", "sony", "--root", str(photographs_in(section))]
    command += ["--spool", str(path), "--epochs", "inf", "--jobs", str(jobs)]
    command += ["--disk-budget", "300MB" if section.cpu else budget, "--background"]
    if section.cpu:
        command += ["--crop", str(TINY_CROP), "--samples-per-shard", "8", "--crops-per-visit", "4"]
    spool = Spool(path)
    try:
        darkprep(*command)
        yield spool
    finally:
        with contextlib.suppress(Exception):
            stop_producers(spool)
        shutil.rmtree(path, ignore_errors=True)


def darkprep(*arguments: str) -> str:
    """Run a darkprep command and return its output; raises RuntimeError with its errors if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "darkprep", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(
            f"darkprep {arguments[0]} ended with {done.returncode}: {done.stderr[-800:]}"
        )
    return done.stdout
