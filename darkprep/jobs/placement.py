"""Assign spools and devices to the ranks of a distributed training run, and check that they fit together.

The trade-off: every rank reads its own samples from the spool on its machine; only gradients and a few
numbers are exchanged between ranks.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from darkprep import __version__
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.budget import block_size, divide_budget
from darkprep.pipeline.produce.default_jobs import available_memory
from darkprep.pipeline.produce.frames_directory import FramesDirectory
from darkprep.shards import OptionError, Spool
from darkprep.shards.cursor import MAX_RANKS
from darkprep.trainer.communicator import Communicator
from darkprep.trainer.config import TrainConfig

_FIELDS_PER_RANK = ("device",)
"""Fields of TrainConfig whose values may differ between ranks."""


@dataclass(frozen=True, kw_only=True)
class RankPlacement:
    """The number of a rank among the ranks that use the same spool."""

    rank: int
    world: int

    @property
    def is_leader(self) -> bool:
        """Whether this rank starts producers and holds the trainer's lock on the spool."""
        return self.rank == 0


def rank_placement(spool: Spool, communicator: Communicator) -> RankPlacement:
    """Return a rank's number among all ranks of a shared spool, or among the ranks of its node if each node has a part."""
    if spool.part[1] == 1:
        return RankPlacement(rank=communicator.rank, world=communicator.world)
    return RankPlacement(rank=communicator.local_rank, world=communicator.local_world)


def own_device(name: str, communicator: Communicator) -> str:
    """Return the device of a rank: its own GPU if there are GPUs. Raises OptionError."""
    if communicator.world == 1 or name == "cpu":
        return name
    if name not in ("auto", "cuda"):
        raise OptionError(f"with several ranks device must be auto, cuda or cpu, not {name}")
    import torch

    if name == "auto" and not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{communicator.local_rank}"


def check_ranks(spool: Spool, config: TrainConfig, communicator: Communicator) -> None:
    """Raise OptionError on rank 0, RankStopped on the others, unless all ranks have the same configuration."""
    sharing = rank_placement(spool, communicator).world
    if sharing > MAX_RANKS:
        raise OptionError(
            f"{spool.path}: {sharing} ranks are too many for one spool; start at most {MAX_RANKS}, or build a spool with a part of the plan for each node (--part n/N)"
        )
    recorded = {name: v for name, v in config.record().items() if name not in _FIELDS_PER_RANK}
    communicator.check_same({"darkprep": __version__, "nodes": spool.part[1], **recorded})
    parts = communicator.gather(json.dumps(spool.part))
    with communicator.fail_together():
        _check_parts(Counter(json.loads(part)[0] for part in parts), spool, communicator)


def _check_parts(ranks_of_part: Counter[int], spool: Spool, communicator: Communicator) -> None:
    part, nodes = spool.part
    if nodes == 1:
        return
    if len(ranks_of_part) < nodes:
        missing = ", ".join(f"{n}/{nodes}" for n in range(nodes) if n not in ranks_of_part)
        raise OptionError(
            f"{spool.path}: holds part {part}/{nodes} of its plan, and no rank has part {missing}; "
            f"start torchrun with --nnodes {nodes}, each node with a spool for its part"
        )
    if len(set(ranks_of_part.values())) > 1 or ranks_of_part[part] != communicator.local_world:
        counts = ", ".join(f"{count} of part {n}" for n, count in sorted(ranks_of_part.items()))
        raise OptionError(
            f"the nodes have different numbers of ranks ({counts}); give every torchrun the same --nproc-per-node"
        )


def check_memory(spool: Spool, config: TrainConfig, communicator: Communicator) -> None:
    """Raise OptionError if this machine has less memory free than one batch of its ranks takes."""
    samples = config.batch_size * communicator.local_world // communicator.world
    needed, free = samples * spool.stream.layout().sample_bytes, available_memory()
    if free is not None and needed > free:
        raise OptionError(
            f"batch-size {config.batch_size} needs {needed / 1e9:,.1f} GB of memory for {samples:,} samples on this machine, of which {free / 1e9:,.1f} GB are free; "
            "choose a smaller --batch-size, or build the spool with a smaller --crop"
        )


def check_room(spool: Spool, parts: int, budget_bytes: int, *, kept: int | None = None) -> None:
    """Raise OptionError when the disk budget has no room for the shards that a training run needs at the same time.

    These shards are a window for each of `parts`, or the first `kept` shards if no shard is deleted. With
    less room, the producer would wait until a shard is deleted, and the trainer until a shard is made.
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
    room = _room_in_shards(spool, budget_bytes)
    if room < needed:
        raise OptionError(
            f"{why} needs {needed} shards on the disk at once, but the budget has room for {room}; build with {advice}"
        )


def _room_in_shards(spool: Spool, budget_bytes: int) -> int:
    """Return the number of shards that a producer keeps on the disk at the same time."""
    frames_elsewhere = FramesDirectory.from_spool(spool).is_shared
    return divide_budget(
        Plan.load(spool),
        budget_bytes,
        jobs=1,
        block=block_size(spool.path),
        frames_available_bytes=0 if frames_elsewhere else None,
    ).max_shards
