"""How a disk budget is divided before anything is written, so that it can never be exceeded.

Fixed costs first, then the window of shards without which a trainer cannot move, then the frames that
cost most to make per byte, then more shards. The trade-off: what is reserved for frames stays reserved
while they are still to be decoded.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from darkprep.pipeline.plan.frame_names import FrameKind
from darkprep.pipeline.plan.plan import Plan, PlannedPair
from darkprep.pipeline.produce.frame_store import frame_allocation
from darkprep.shards import BudgetTooSmall
from darkprep.shards.disk_usage import allocated_bytes
from darkprep.shards.format import CELL, PLANES

_FIXED_BYTES = 4 << 20
"""Folders, cursors, heartbeats, a log of bounded size, refusals, zarr's group metadata."""
DEFAULT_BUDGET_BYTES = 20 * 10**9
_STAGED_AHEAD = 8
"""Shards that a trainer fetches before it needs them, where the budget is large: some seconds of one GPU."""
_SPARE_SHARDS = 2
"""Shards beyond the window and the workers' own that are kept room for before frames get any."""


@dataclass(frozen=True, kw_only=True)
class Allotment:
    """Who may use how much of a spool's budget."""

    budget_bytes: int
    shard_bytes: int
    """Allocated bytes of one shard."""
    shards: int
    """How many shards may exist at once: ready, being written, and refused ones together."""
    frames: frozenset[str]
    """Names of the frames that may be stored."""
    frame_bytes: int
    """What those frames occupy together."""
    frames_wanted: int
    """How many frames the plan has."""


def smallest_budget(plan: Plan, block: int = 4096, *, in_transit: int = 0) -> int:
    """The least bytes that a plan can run in: fixed costs, the open window, one shard being written.

    With `in_transit`, also the shards that lie in two places while they are carried (shelf.py).
    """
    shards = plan.options.window + 1 + in_transit
    return _fixed(plan) + shards * _shard_allocation(plan, block)


def check_budget(
    plan: Plan, budget_bytes: int, block: int = 4096, *, in_transit: int = 0, staged_bytes: int = 0
) -> None:
    """Raises BudgetTooSmall, with the smallest budget that would do, when this one would not.

    `staged_bytes` of it are a trainer's, for the shards that it has fetched from a bucket.
    """
    least = smallest_budget(plan, block, in_transit=in_transit) + staged_bytes
    if budget_bytes < least:
        carried = f", {in_transit} being carried and a trainer's {staged_bytes / 1e6:,.1f} MB of fetched ones"
        raise BudgetTooSmall(
            f"disk-budget {budget_bytes / 1e6:,.1f} MB is too small: {plan.options.window} open shards and "
            f"one being written{carried if in_transit else ''} need {-(-least // 1_000_000)}MB; give that much, or choose a smaller "
            "--window or --samples-per-shard"
        )


def staging_room(plan: Plan, staging_bytes: int, block: int = 4096) -> int:
    """How many fetched shards a trainer's directory of `staging_bytes` holds; raises BudgetTooSmall below its window and one."""
    least = smallest_budget(plan, block)
    if staging_bytes < least:
        raise BudgetTooSmall(
            f"staging-budget {staging_bytes / 1e6:,.1f} MB is too small: {plan.options.window} open shards and one being "
            f"fetched need {-(-least // 1_000_000)}MB; give that much, or build with a smaller --window or --samples-per-shard"
        )
    return (staging_bytes - _fixed(plan)) // _shard_allocation(plan, block)


def default_staging(plan: Plan, budget_bytes: int, block: int = 4096) -> int:
    """A trainer's share of a budget: room for its window, and some shards ahead where that is less than a quarter."""
    window, shard = plan.options.window, _shard_allocation(plan, block)
    ahead = min(_STAGED_AHEAD, max(1, (budget_bytes // 4 - _fixed(plan)) // shard - window))
    return _fixed(plan) + (window + ahead) * shard


def allot(
    plan: Plan,
    budget_bytes: int,
    *,
    jobs: int,
    block: int = 4096,
    frames_room: int | None = None,
    in_transit: int = 0,
) -> Allotment:
    """Divide `budget_bytes`; `block` is the file system's block. Raises BudgetTooSmall.

    With `frames_room` the frames are on another disk (pipeline/produce/frames_directory.py): they may occupy that much
    there, and all of the budget is for shards. Of the shards, `in_transit` lie in two places while they
    are carried, so as many fewer may exist.
    """
    check_budget(plan, budget_bytes, block, in_transit=in_transit)
    shard = _shard_allocation(plan, block)
    left = budget_bytes - _fixed(plan)
    reserved = plan.options.window + jobs + _SPARE_SHARDS
    if plan.shards is not None:
        reserved = min(reserved, max(plan.shards, plan.options.window + 1))
    reserved += in_transit
    for_frames = max(0, left - reserved * shard) if frames_room is None else frames_room
    kept: set[str] = set()
    kept_bytes = 0
    wanted = _frames_by_worth(plan)
    for name, array_bytes in wanted:
        size = frame_allocation(array_bytes, block)
        if kept_bytes + size <= for_frames:
            kept.add(name)
            kept_bytes += size
    return Allotment(
        budget_bytes=budget_bytes,
        shard_bytes=shard,
        shards=(left - (kept_bytes if frames_room is None else 0)) // shard - in_transit,
        frames=frozenset(kept),
        frame_bytes=kept_bytes,
        frames_wanted=len(wanted),
    )


def frames_of(plan: Plan) -> frozenset[str]:
    """Names of all frames that a plan has."""
    return frozenset(name for name, _ in _frames_by_worth(plan))


def block_size(path: Path) -> int:
    """The allocation unit of the file system that holds `path`, in bytes."""
    return os.statvfs(path).f_frsize or 4096


def _fixed(plan: Plan) -> int:
    """Fixed costs; plan.json counts twice, for it is replaced by a new one beside the old."""
    return _FIXED_BYTES + 2 * len(json.dumps(plan.recipe(), indent=1))


def _shard_allocation(plan: Plan, block: int) -> int:
    size = plan.stream.layout().shard_bytes
    return (-(-size // block) + 1) * block


def _frames_by_worth(plan: Plan) -> list[tuple[str, int]]:
    """Names and array bytes of all frames: developed long exposures first, each kind in order of first use.

    A long exposure costs about 1 s (Bayer) or 14 s (X-Trans) to make again, a short one 0.1 s.
    """
    longs: dict[str, int] = {}
    shorts: dict[str, int] = {}
    for visit in range(len(plan.pairs)):
        pair = next(plan.candidates(visit))
        longs.setdefault(plan.frame_name("long", pair), array_bytes(pair, "long", plan))
        shorts.setdefault(plan.frame_name("short", pair), array_bytes(pair, "short", plan))
    return [*longs.items(), *shorts.items()]


def array_bytes(pair: PlannedPair, kind: FrameKind, plan: Plan) -> int:
    """Bytes of a pair's stored array: three developed channels, or the packed planes."""
    pixels = pair.height * pair.width
    cfa = plan.options.cfa
    return 2 * pixels * 3 if kind == "long" else 2 * pixels * PLANES[cfa] // CELL[cfa] ** 2


def standing_at(path: Path) -> Path:
    """The nearest of `path` and what it lies in that exists."""
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def default_budget(spool: Path) -> int:
    """20 GB, or half of what is free on the spool's disk without the spool where that is less."""
    disk = os.statvfs(standing_at(spool))
    free = disk.f_bavail * disk.f_frsize + allocated_bytes(spool)
    return min(DEFAULT_BUDGET_BYTES, free // 2)
