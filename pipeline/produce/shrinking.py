"""Count what a smaller disk budget would delete from a spool, and refuse it unless the user asked for it.

The trade-off: shards are counted before the producer lock is acquired, so that nothing is changed if the
budget is refused; shards that a running producer publishes at the same time are not counted.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.budget import block_size, divide_budget, frame_names_of
from darkprep.pipeline.produce.frame_store import FrameStore
from darkprep.pipeline.produce.frames_directory import FramesDirectory
from darkprep.shards import BudgetTooSmall, PlanError, Spool, SpoolError
from darkprep.shards.disk_usage import allocated_bytes
from darkprep.shards.own_settings import are_own_settings
from darkprep.shards.plan_record import ProducerSettings


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """Files of one kind that would be deleted: their number, the total number, and their bytes on the disk."""

    kind: str
    count: int
    total: int
    size: int

    def __str__(self) -> str:
        return f"{self.count} of {self.total} {self.kind} ({self.size / 1e6:,.1f} MB)"


def recorded_settings(spool: Spool, plan: Plan) -> ProducerSettings | None:
    """Return the settings with which this user built `spool` before.

    None if there is no spool, or one with another plan or with settings that someone else chose.
    """
    try:
        before = Spool(spool.path).open()
    except (PlanError, SpoolError):
        return None
    is_same = before.digest == plan.record(before.settings).digest
    return before.settings if is_same and are_own_settings(before.plan) else None


def check_not_shrinking(
    spool: Spool,
    plan: Plan,
    settings: ProducerSettings,
    frames: FramesDirectory,
    before: ProducerSettings,
) -> None:
    """Raise BudgetTooSmall if producers with `settings` would delete files made under the settings `before`.

    The message names the shards and frames for which the budgets have no room. `spool` is a directory that
    holds `plan`; `frames` is the directory for frames from now on.
    """
    ready = [shard for shard in spool.ready_shards() if shard >= spool.oldest_needed()]
    budget = divide_budget(
        plan,
        settings.budget_bytes or 0,
        jobs=settings.jobs or 1,
        block=block_size(spool.path),
        frames_available_bytes=frames.available_bytes(frame_names_of(plan)),
        kept_shards=len(ready),
    )
    shards = max(0, len(ready) - budget.max_shards)
    deleted = [deleted_shards(shards, len(ready), budget.shard_bytes)] if shards else []
    if _is_less(settings.budget_bytes, before.budget_bytes) or _is_less(
        frames.budget_bytes, before.frames_budget_bytes
    ):
        deleted += _deleted_frames(plan, frames, budget.frames)
    if deleted:
        raise refusal(spool, deleted, f"disk-budget {(settings.budget_bytes or 0) / 1e6:,.1f} MB")


def deleted_shards(count: int, total: int, shard_bytes: int) -> Deletion:
    """Return the deletion of `count` out of `total` shards of `shard_bytes` each."""
    return Deletion(kind="finished shards", count=count, total=total, size=count * shard_bytes)


def refusal(spool: Spool, deleted: Collection[Deletion], budget: str) -> BudgetTooSmall:
    """Return the error that names the files that would be deleted, and what to do."""
    return BudgetTooSmall(
        f"{spool.path}: {budget} has no room for {' and '.join(map(str, deleted))}; give a larger budget, "
        "or --shrink to delete those that are needed last (they are rebuilt when there is room)"
    )


def _deleted_frames(plan: Plan, frames: FramesDirectory, kept: Collection[str]) -> list[Deletion]:
    own = frame_names_of(plan) & set(FrameStore(frames.path).names())
    excess = own - set(kept)
    if not excess:
        return []
    size = sum(allocated_bytes(frames.path / name) for name in excess)
    return [Deletion(kind="decoded frames", count=len(excess), total=len(own), size=size)]


def _is_less(now: int | None, before: int | None) -> bool:
    return now is not None and before is not None and now < before
