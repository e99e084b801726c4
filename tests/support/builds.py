"""Plans over small RAW files, and building them in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.plan.planner import make_plan
from darkprep.pipeline.produce.budget import frame_names_of
from darkprep.pipeline.produce.executors.pool import WorkerDied
from darkprep.pipeline.produce.frame_store import FrameStore
from darkprep.pipeline.produce.worker import ShardTask, make_shard
from darkprep.shards import Spool

SMALL = {
    "camera": "sony",
    "crop": 32,
    "margin": 4,
    "samples_per_shard": 8,
    "crops_per_visit": 4,
    "window": 2,
    "epochs": 3,
}
"""Options for frames of 64 x 96 pixels: 3 scenes with 2 shorts each make 3 shards an epoch."""


def planned(path: Path, root: Path, **changes: Any) -> Spool:
    """A spool whose plan is over the RAW files below `root`."""
    spool = Spool(path)
    make_plan(root, PlanOptions(**{**SMALL, **changes})).save(spool)
    return spool


def make_shards(spool: Spool, shards: Iterable[int], *, stored: bool, threads: int = 1) -> None:
    """Make shards in this process as a worker does, with or without space for all frames."""
    plan = Plan.load(spool)
    FrameStore(spool.frames).create()
    with spool.producer_lock():
        for shard in shards:
            frames = frame_names_of(plan) if stored else frozenset()
            make_shard(ShardTask.of_this_process(spool, shard, frames, threads=threads))


def shard_bytes(spool: Spool) -> list[bytes]:
    """The files of all shards that are ready, in the plan's order."""
    return [spool.shard_path(shard).read_bytes() for shard in spool.ready_shards()]


class InlinePool:
    """A worker pool that runs each task in this process, when it is submitted.

    Where `dies(task)` is true, the task fails as if its worker had died.
    """

    def __init__(self, dies: Callable[[Any], bool] = lambda task: False) -> None:
        self._dies = dies

    def submit(self, function: Callable[[Any], Any], task: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            if self._dies(task):
                raise WorkerDied("killed")
            future.set_result(function(task))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        pass
