"""Choose the directory of a run: the one that the user named, the newest one, or a new one."""

from __future__ import annotations

import time
from pathlib import Path

from darkprep.jobs.output_directory import check_output_directory
from darkprep.pipeline.produce.frames_directory import is_inside
from darkprep.shards import OptionError, Spool
from darkprep.trainer.run_files import check_unused, training_lock

RUNS = Path("runs")
"""Directory for runs without an explicit --run."""


def check_run_directory(run_dir: Path, spool: Spool, *, resume: bool) -> None:
    """Raise OptionError if a run cannot use the directory, SpoolBusy if another training run uses it."""
    check_output_directory("run", run_dir)
    if is_inside(run_dir, spool.path):  # a spool is deleted when it is used up
        raise OptionError(
            f"{run_dir}: is the spool or inside it, and a spool may be deleted after training; choose another --run"
        )
    if resume:
        with training_lock(run_dir):
            pass
    else:
        check_unused(run_dir)


def newest_run() -> Path | None:
    """Return the run below RUNS that was most recently started or resumed; None if there is none."""
    # config.json is written again whenever a run is resumed.
    configs = [(path.stat().st_mtime_ns, path) for path in RUNS.glob("*/config.json")]
    return max(configs)[1].parent if configs else None


def new_run() -> Path:
    """Return a directory below RUNS that does not exist, named after the time."""
    name = time.strftime("%Y-%m-%dT%H-%M-%S")
    taken = sum(1 for _ in RUNS.glob(f"{name}*"))
    return RUNS / (f"{name}-{taken + 1}" if taken else name)
