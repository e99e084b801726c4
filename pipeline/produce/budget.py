"""Divide a disk budget before anything is written, so that it can never be exceeded.

First come fixed costs, then the window of shards that a trainer needs, then the frames that save most
time per byte, then more shards. The trade-off: space reserved for frames stays reserved until
they are decoded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from darkprep.pipeline.plan.frame_names import FrameKind
from darkprep.pipeline.plan.plan import Plan, PlannedPair
from darkprep.pipeline.produce.frame_store import frame_allocation
from darkprep.pipeline.raw.window import MARGIN
from darkprep.shards import BudgetTooSmall
from darkprep.shards.disk_usage import allocated_bytes
from darkprep.shards.format import CELL, PLANES

DEFAULT_BUDGET_BYTES = 20 * 10**9
_FIXED_BYTES = 4 << 20
"""Directories, cursors, heartbeats, logs of bounded size, zarr's group metadata."""
_MAX_STAGED_AHEAD = 8
"""Shards that a trainer fetches before it needs them, when the budget is large: some seconds of one GPU."""
_CHEAP_SHARE = 1 / 2
"""Share of a frame that the windows of a visit cover at most where developing only them is much faster."""
_WINDOWS_SHARE = 1 / 8
"""Share of a frame that windows must cover for long exposures to come first: (5 + 80 * share) / 6 > 5 / 2."""
SPARE_SHARDS = 2
"""Shards beyond the window and the workers' own for which space is reserved before frames get any."""


@dataclass(frozen=True, kw_only=True)
class DiskBudget:
    """How a spool's disk budget is divided."""

    budget_bytes: int
    shard_bytes: int
    """Allocated bytes of one shard."""
    max_shards: int
    """How many shards may exist at once: ready, being written, and damaged ones together."""
    frames: frozenset[str]
    """Names of the frames that fit into the budget."""
    frame_bytes: int
    """Bytes that those frames occupy together."""
    frames_in_plan: int


def smallest_budget(plan: Plan, block: int = 4096, *, in_transit: int = 0) -> int:
    """Return the smallest budget in bytes with which a plan works: fixed costs, the window, one shard being written.

    With `in_transit`, shards that exist twice while they are uploaded are counted too (destination.py).
    """
    shards = plan.options.window + 1 + in_transit
    return _fixed_bytes(plan) + shards * _shard_allocation(plan, block)


def check_budget(
    plan: Plan, budget_bytes: int, block: int = 4096, *, in_transit: int = 0, staged_bytes: int = 0
) -> None:
    """Raise BudgetTooSmall, which names the smallest possible budget, when `budget_bytes` is too small.

    `staged_bytes` is the part of the budget for a trainer's downloaded shards.
    """
    smallest = smallest_budget(plan, block, in_transit=in_transit) + staged_bytes
    if budget_bytes < smallest:
        remote = f", {in_transit} being uploaded and the trainer's {staged_bytes / 1e6:,.1f} MB of fetched shards,"
        raise BudgetTooSmall(
            f"disk-budget {budget_bytes / 1e6:,.1f} MB is too small: the window of {plan.options.window} shards "
            f"and one more being written{remote if in_transit else ''} need {-(-smallest // 1_000_000)}MB; give at least that, "
            "or choose a smaller --window or --samples-per-shard"
        )


def staging_capacity(plan: Plan, staging_bytes: int, block: int = 4096) -> int:
    """Return the number of downloaded shards that fit into a trainer's directory of `staging_bytes`.

    Raises BudgetTooSmall when the trainer's window and one more shard do not fit.
    """
    smallest = smallest_budget(plan, block)
    if staging_bytes < smallest:
        raise BudgetTooSmall(
            f"staging-budget {staging_bytes / 1e6:,.1f} MB is too small: the window of {plan.options.window} shards and one "
            f"being fetched need {-(-smallest // 1_000_000)}MB; give at least that, or build with a smaller --window or --samples-per-shard"
        )
    return (staging_bytes - _fixed_bytes(plan)) // _shard_allocation(plan, block)


def default_staging_budget(plan: Plan, budget_bytes: int, block: int = 4096) -> int:
    """Return the default of a trainer's part: its window and up to 8 more shards, at most about a quarter."""
    window, shard = plan.options.window, _shard_allocation(plan, block)
    ahead = min(
        _MAX_STAGED_AHEAD, max(1, (budget_bytes // 4 - _fixed_bytes(plan)) // shard - window)
    )
    return _fixed_bytes(plan) + (window + ahead) * shard


def divide_budget(
    plan: Plan,
    budget_bytes: int,
    *,
    jobs: int,
    block: int = 4096,
    frames_available_bytes: int | None = None,
    in_transit: int = 0,
    kept_shards: int = 0,
) -> DiskBudget:
    """Divide `budget_bytes` between shards and frames. Raises BudgetTooSmall.

    `block` is the block size of the file system. `frames_available_bytes` is the space for frames in a
    directory outside the spool (frames_directory.py); the whole budget is then for shards. `in_transit` is
    the number of shards that may exist twice while they are uploaded; the number of shards is smaller by as
    many.

    Room for `kept_shards` comes before room for frames.
    """
    check_budget(plan, budget_bytes, block, in_transit=in_transit)
    shard = _shard_allocation(plan, block)
    left = budget_bytes - _fixed_bytes(plan)
    reserved = plan.options.window + jobs + SPARE_SHARDS
    if plan.shards is not None:
        reserved = min(reserved, max(plan.shards, plan.options.window + 1))
    reserved = max(reserved, kept_shards) + in_transit
    in_spool = frames_available_bytes is None
    for_frames = (
        max(0, left - reserved * shard)
        if frames_available_bytes is None
        else frames_available_bytes
    )
    names: set[str] = set()
    frame_bytes = 0
    wanted = _frames_by_priority(plan)
    for name, array_bytes in wanted:
        size = frame_allocation(array_bytes, block)
        if frame_bytes + size <= for_frames:
            names.add(name)
            frame_bytes += size
    return DiskBudget(
        budget_bytes=budget_bytes,
        shard_bytes=shard,
        max_shards=(left - (frame_bytes if in_spool else 0)) // shard - in_transit,
        frames=frozenset(names),
        frame_bytes=frame_bytes,
        frames_in_plan=len(wanted),
    )


def frame_names_of(plan: Plan) -> frozenset[str]:
    """Return the names of all frames of a plan."""
    return frozenset(name for name, _ in _frames_by_priority(plan))


def frame_array_bytes(pair: PlannedPair, kind: FrameKind, plan: Plan) -> int:
    """Return the bytes of a stored frame: three channels of a developed exposure, or packed planes."""
    pixels = pair.height * pair.width
    cfa = plan.cfa
    is_developed = kind == "long" and plan.options.target != "raw"
    return 2 * pixels * 3 if is_developed else 2 * pixels * PLANES[cfa] // CELL[cfa] ** 2


def block_size(path: Path) -> int:
    """Return the allocation unit in bytes of the file system on which `path` is."""
    return os.statvfs(path).f_frsize or 4096


def default_budget(spool: Path) -> int:
    """Return 20 GB, or half of the disk's free space (counting the spool's own as free) if this is less."""
    disk = os.statvfs(existing_ancestor(spool))
    free = disk.f_bavail * disk.f_frsize + allocated_bytes(spool)
    return min(DEFAULT_BUDGET_BYTES, free // 2)


def existing_ancestor(path: Path) -> Path:
    """Return `path` if it exists, else its nearest existing parent directory."""
    found = path.absolute()
    while not found.exists():
        found = found.parent
    return found


def _fixed_bytes(plan: Plan) -> int:
    """Return the fixed costs in bytes; plan.json counts twice, because a new one is written beside the old one."""
    return _FIXED_BYTES + 2 * plan.recipe_bytes


def _shard_allocation(plan: Plan, block: int) -> int:
    size = plan.stream.layout().shard_bytes
    return (-(-size // block) + 1) * block


def _frames_by_priority(plan: Plan) -> list[tuple[str, int]]:
    """Return name and size of every frame: those first that save most time per byte, and each kind in order of use."""
    longs: dict[str, int] = {}
    shorts: dict[str, int] = {}
    for visit in range(plan.visits_per_epoch):
        pair = next(plan.candidates(visit))
        longs.setdefault(plan.frame_name("long", pair), frame_array_bytes(pair, "long", plan))
        shorts.setdefault(plan.frame_name("short", pair), frame_array_bytes(pair, "short", plan))
    # A photograph is both with synthetic noise and the target `raw`.
    return list((longs | shorts if _longs_save_more(plan) else shorts | longs).items())


def _longs_save_more(plan: Plan) -> bool:
    """Return whether a stored long exposure saves more time per byte than a stored short one.

    A stored short exposure, 2 bytes a pixel, saves decoding its file: 5 ns a pixel. A stored long one, 6 bytes a pixel,
    saves decoding its file and developing the crops of a visit: 80 ns for each pixel of their windows. That is more
    per byte if the windows cover more than an eighth of the frame, in frames of up to 18 megapixels with 8 crops of
    512. An X-Trans frame is developed whole.
    """
    return _windows_share(plan) > _WINDOWS_SHARE


def windows_are_cheap(plan: Plan) -> bool:
    """Return whether developing the crops of a visit takes much less time than developing the whole long exposure."""
    return _windows_share(plan) < _CHEAP_SHARE


def _windows_share(plan: Plan) -> float:
    """Return the mean share of a long exposure's pixels that are developed for the crops of a visit.

    1 where the plan has nothing to develop or develops only whole frames.
    """
    options = plan.options
    if plan.cfa == "xtrans" or options.xtrans != "native" or options.target == "raw":
        return 1.0
    window = (options.stored_size(plan.cfa) + 2 * MARGIN) ** 2 * options.crops_per_visit
    pixels = sum(pair.height * pair.width for pair in plan.pairs) / len(plan.pairs)
    return window / pixels
