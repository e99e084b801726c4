"""Choosing the directory of a run: the one that the user named, the newest one, or a new one."""

from __future__ import annotations

import time
from pathlib import Path

from darkprep.jobs.output_directory import check_output_directory
from darkprep.pipeline.produce.frames_directory import is_inside
from darkprep.shards import OptionError, Spool
from darkprep.trainer.run_files import check_unused, training_lock

RUNS = Path("runs")
"""Directory of the runs for which none was chosen."""


def run_directory(chosen: Path | None, spool: Spool, *, resume: bool) -> Path:
    """Return the run's directory. Raises OptionError where it cannot be used, SpoolBusy where it is in use."""
    if chosen is None:
        run_dir = _newest_run() if resume else _new_run()
    else:
        run_dir = chosen
        check_output_directory("run", run_dir)
        if is_inside(run_dir, spool.path):  # a spool is deleted when it is used up
            raise OptionError(
                f"{run_dir}: is the spool or a directory in it, and a spool is deleted once it is used up; choose another --run"
            )
        if resume and not (run_dir / "config.json").exists():
            raise OptionError(f"{run_dir}: holds no run to resume; leave out --resume")
    if resume:
        with training_lock(run_dir):
            pass
    else:
        check_unused(run_dir)
    return run_dir


def _newest_run() -> Path:
    configs = list(RUNS.glob("*/config.json"))
    if not configs:
        raise OptionError(f"{RUNS}: holds no run to resume; name one with --run")
    # config.json is written again whenever a run is resumed.
    return max(configs, key=lambda path: (path.stat().st_mtime_ns, path)).parent


def _new_run() -> Path:
    name = time.strftime("%Y-%m-%dT%H-%M-%S")
    taken = sum(1 for _ in RUNS.glob(f"{name}*"))
    return RUNS / (f"{name}-{taken + 1}" if taken else name)
