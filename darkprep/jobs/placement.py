"""Which part of the work is whose, when torchrun has started `stream-train` several times.

The trade-off: every rank reads its samples itself, from the spool that its machine sees; nothing but
gradients and a few numbers crosses between them.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from darkprep import __version__
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.budget import allot, block_size
from darkprep.pipeline.produce.frames_directory import FramesDirectory
from darkprep.shards import OptionError, Spool
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.distributed import Communicator

_OWN_FIELDS = ("device",)
"""What may differ from rank to rank."""


@dataclass(frozen=True, kw_only=True)
class RankPlacement:
    """A rank's place among those that use one spool."""

    rank: int
    world: int

    @property
    def keeps_house(self) -> bool:
        """Whether it is this rank that starts producers at once, and holds the trainer's role."""
        return self.rank == 0


def rank_placement(spool: Spool, ranks: Communicator) -> RankPlacement:
    """Where a rank stands: among all of them on a shared spool, among its node's on a part of the plan."""
    if spool.part[1] == 1:
        return RankPlacement(rank=ranks.rank, world=ranks.world)
    return RankPlacement(rank=ranks.local_rank, world=ranks.local_world)


def own_device(name: str, ranks: Communicator) -> str:
    """The device of a rank: its own GPU, where there are any. Raises OptionError."""
    if ranks.world == 1 or name == "cpu":
        return name
    if name not in ("auto", "cuda"):
        raise OptionError(f"device must be auto, cuda or cpu with several ranks, not {name}")
    import torch

    if name == "auto" and not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{ranks.local_rank}"


def check_ranks(
    spool: Spool, config: TrainConfig, ranks: Communicator, settings: dict[str, Any]
) -> None:
    """Raises OptionError on rank 0, RankStopped elsewhere, unless all ranks are about to do the same."""
    recorded = {name: v for name, v in config.record().items() if name not in _OWN_FIELDS}
    ranks.check_same({"darkprep": __version__, "nodes": spool.part[1], **recorded, **settings})
    parts = ranks.gather(json.dumps(spool.part))
    with ranks.together():
        _check_parts(Counter(json.loads(part)[0] for part in parts), spool, ranks)


def _check_parts(ranks_of_part: Counter[int], spool: Spool, ranks: Communicator) -> None:
    part, nodes = spool.part
    if nodes == 1:
        return
    if len(ranks_of_part) < nodes:
        missing = ", ".join(f"{n}/{nodes}" for n in range(nodes) if n not in ranks_of_part)
        raise OptionError(
            f"{spool.path}: holds part {part}/{nodes} of its plan, and no rank has part {missing}; "
            f"start torchrun with --nnodes {nodes}, each node with a spool of its own part"
        )
    if len(set(ranks_of_part.values())) > 1 or ranks_of_part[part] != ranks.local_world:
        counts = ", ".join(f"{count} of part {n}" for n, count in sorted(ranks_of_part.items()))
        raise OptionError(
            f"the nodes have different numbers of ranks ({counts}); give --nproc-per-node alike"
        )


def check_room(spool: Spool, parts: int, budget_bytes: int, *, kept: int | None = None) -> None:
    """Raises OptionError when the budget has no room for what a training needs on the disk at once.

    Those are the windows of so many parts, or the shards below `kept` where none is deleted: else the
    producer would wait for a shard to go, and the trainer for one to come.
    """
    if kept is not None:
        wanted = set(spool.shards_in_part(0, kept))
        needed, why = len(wanted), "keep-shards"
        advice = "a larger --disk-budget, or leave it out"
        if wanted <= set(spool.ready_shards()):
            return
    elif parts > 1 and spool.part[1] == 1:
        needed, why = parts * spool.stream.window + 1, f"parts {parts}"
        advice = "a larger --disk-budget or a smaller --window"
    else:
        return
    there = _room(spool, budget_bytes)
    if there < needed:
        raise OptionError(
            f"{why} needs {needed} shards on the disk at once, the budget has room for {there}; build with {advice}"
        )


def _room(spool: Spool, budget_bytes: int) -> int:
    """How many shards a producer would keep on the disk at once."""
    elsewhere = FramesDirectory.of(spool).budget_bytes is not None
    return allot(
        Plan.load(spool),
        budget_bytes,
        jobs=1,
        block=block_size(spool.path),
        frames_room=0 if elsewhere else None,
    ).shards
