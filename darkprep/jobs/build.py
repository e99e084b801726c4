"""Prepare a build: find the pairs, make the plan, divide the disk budget, and write plan and settings to the spool.

The trade-off: the plan is made before the disk budget and the part are checked, because these checks need it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from darkprep.jobs.remote_spool import BuildSpool
from darkprep.pipeline.pairs.origin import PairOrigin
from darkprep.pipeline.pairs.pair_table import without_absolute_paths
from darkprep.pipeline.pairs.table import Pairs
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.plan.planner import make_plan
from darkprep.pipeline.produce.default_jobs import Jobs, default_jobs
from darkprep.pipeline.produce.executors.config import ExecutorConfig
from darkprep.pipeline.produce.frames_directory import FramesDirectory, is_inside
from darkprep.pipeline.produce.producer import ProducerConfig
from darkprep.pipeline.produce.shrinking import check_not_shrinking
from darkprep.shards import OptionError
from darkprep.shards.plan_record import ProducerSettings


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """The options of a build."""

    origin: PairOrigin
    plan: PlanOptions
    target: BuildSpool
    executor: ExecutorConfig
    darks: Path | None = None
    """Directory of the dark frames with whose noise short exposures are simulated."""
    dark_shading: Path | None = None
    """Calibration file whose dark shading is subtracted."""
    disk_budget: int | None = None
    """Maximum size of the spool in bytes; None for that of an existing spool, else the default."""
    staging_budget: int | None = None
    """The trainer's share of it in bytes, for a spool in object storage; None for the default."""
    frames_dir: Path | None = None
    """Directory for decoded frames outside the spool."""
    frames_budget: int | None = None
    """Maximum size of `frames_dir` in bytes; None for the default."""
    shrink: bool = False
    """Whether finished shards and frames may be deleted if the disk budget is smaller than before."""
    jobs: int | None = None
    """Number of workers; None for as many as CPUs and memory allow."""
    epochs_ahead: int | None = None
    """Number of epochs to make while no trainer is running; None for as many as the budget holds."""
    part: tuple[int, int] = (0, 1)
    """n and N of part n/N of the plan."""


@dataclass(frozen=True, kw_only=True)
class PreparedBuild:
    """A build whose plan is in its spool."""

    plan: Plan
    jobs: Jobs
    budget_bytes: int
    """The whole disk budget."""
    producer: ProducerConfig


def find_own_pairs(options: BuildOptions) -> Pairs | None:
    """Find the pairs of a table or layout; return None for a data set, whose pairs `make_plan` finds.

    For a bucket, which others may read, no path of a pair is absolute. Raises OptionError or DatasetError, also if the photographs are in the spool.
    """
    origin, found, root = options.origin, None, options.origin.root
    if not origin.is_data_set:
        found = origin.find(
            frames=options.plan.frames, exclude_misaligned=options.plan.exclude_misaligned
        )
        if options.target.bucket:
            found = without_absolute_paths(found)
        root = found.root
    location = options.target.location
    # A spool is deleted when it is used up.
    if isinstance(location, Path) and is_inside(root, location):
        raise OptionError(
            f"spool {location}: contains the photographs of --root {root}; choose another directory"
        )
    return found


def prepare_build(options: BuildOptions, found: Pairs | None) -> PreparedBuild:
    """Make the plan, divide the disk budget, and write both to the spool; `found` is from `find_own_pairs`.

    Raises OptionError, DatasetError, BudgetTooSmall, PlanError if the spool holds another plan, DiskFull or
    SpoolError.
    """
    target = options.target
    plan = make_plan(
        found.root if found else options.origin.root,
        target.with_recorded_noise(options.plan),
        pairs=found,
        darks=options.darks,
        shading=options.dark_shading,
    )
    _check_part(plan, options.part)
    jobs = Jobs(count=options.jobs, bound="--jobs") if options.jobs else default_jobs(plan)
    before = target.recorded_settings(plan)
    disk_budget = options.disk_budget
    if disk_budget is None and before:
        disk_budget = before.budget_bytes
    shares = target.divide_budget(plan, disk_budget, options.staging_budget)
    frames = FramesDirectory.from_options(
        target.spool.path, options.frames_dir, options.frames_budget
    )
    settings = ProducerSettings(
        budget_bytes=shares.build_bytes,
        jobs=jobs.count,
        backend=options.executor.backend,
        address=options.executor.address,
        part=options.part[0],
        parts=options.part[1],
    )
    if before and not options.shrink:
        check_not_shrinking(target.spool, plan, settings, frames, before)
    target.save(plan, shares, frames.recorded_in(settings))
    producer = ProducerConfig(
        budget_bytes=shares.build_bytes,
        jobs=jobs.count,
        until=plan.shards,
        epochs_ahead=options.epochs_ahead,
        shrink=options.shrink,
    )
    return PreparedBuild(plan=plan, jobs=jobs, budget_bytes=shares.budget_bytes, producer=producer)


def _check_part(plan: Plan, part: tuple[int, int]) -> None:
    """Raise OptionError if a part of the plan would be empty."""
    number, parts = part
    if plan.shards is not None and plan.shards < parts:
        raise OptionError(
            f"part {number}/{parts} of {plan.shards} shards would be empty; give more --epochs, or a smaller N in --part n/N"
        )
