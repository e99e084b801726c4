"""The processes of one training, a rank each: what they share, and how all of them hear of one's failure.

torch.distributed carries gradients (gloo on CPUs, NCCL on GPUs). Before every step the ranks agree on
the host, by gloo, that each of them has its batch: so a signal, an end of the stream or an error on
one rank ends all of them at the same step. The trade-off: one small message round per step, which a
GPU does not notice (the host runs ahead of it) and which on a CPU costs a fraction of a millisecond.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from darkprep.shards import errors
from darkprep.shards.errors import (
    DarkprepError,
    OptionError,
    RankLost,
    RankStopped,
    TrainingError,
    first_line,
)
from darkprep.trainer.checkpoint import Progress, TrainState

DEFAULT_PATIENCE_S = 1800.0
"""How long a rank waits for another that neither answers nor is dead; rank 0 may be judging frames."""
_MOST_PATIENCE_S = 10**6

_TURNS = 3


@dataclass(frozen=True, kw_only=True)
class StepStatus:
    """What the ranks tell each other before a step; an agreement is the sum over all of them."""

    stop: int = 0
    """Ranks that were told to stop."""
    ended: int = 0
    """Ranks whose stream has ended."""
    failed: int = 0
    """Ranks that have an error to tell."""
    shards_deleted: int = 0
    damaged: int = 0


class Communicator(Protocol):
    """The ranks of a training as one of them sees them."""

    rank: int
    world: int
    local_rank: int
    """Number of this rank among those of its machine."""
    local_world: int

    def agree(self, ours: StepStatus) -> StepStatus:
        """The sum of what all ranks say; raises RankLost."""

    def settle(self, error: Exception | None) -> Exception:
        """After an agreement that somebody failed: what this rank is to raise, if its own error was `error`."""

    def together(self) -> contextlib.AbstractContextManager[None]:
        """What one rank cannot do, none does: leaving the block, all learn whether all got there."""

    def reachable(self) -> contextlib.AbstractContextManager[None]:
        """A block that talks to the other ranks; raises RankLost instead of what torch raises."""

    def tell(self, text: str) -> str:
        """Rank 0's text, on every rank."""

    def gather(self, text: str) -> list[str]:
        """The texts of all ranks, by rank, on every rank."""

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """Raises OptionError on rank 0, RankStopped elsewhere, when the ranks' facts differ."""

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network whose gradients are the mean over all ranks."""

    def mean(self, loss: Tensor) -> Tensor:
        """The mean of all ranks' losses, without a gradient."""

    def share(self, trainee: TrainState, progress: Progress) -> Progress:
        """Make every rank's trainee rank 0's; rank 0's progress."""


class SingleProcess:
    """One process, no group."""

    rank = local_rank = 0
    world = local_world = 1

    def agree(self, ours: StepStatus) -> StepStatus:
        """See Ranks."""
        return ours

    def settle(self, error: Exception | None) -> Exception:
        """See Ranks."""
        assert error is not None, "nobody else can have failed"
        return error

    def together(self) -> contextlib.AbstractContextManager[None]:
        """See Ranks."""
        return contextlib.nullcontext()

    def reachable(self) -> contextlib.AbstractContextManager[None]:
        """See Ranks."""
        return contextlib.nullcontext()

    def tell(self, text: str) -> str:
        """See Ranks."""
        return text

    def gather(self, text: str) -> list[str]:
        """See Ranks."""
        return [text]

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """See Ranks."""

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """See Ranks."""
        return network

    def mean(self, loss: Tensor) -> Tensor:
        """See Ranks."""
        return loss.detach()

    def share(self, trainee: TrainState, progress: Progress) -> Progress:
        """See Ranks."""
        return progress

    def __enter__(self) -> SingleProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to leave."""


class ProcessGroup:
    """The ranks that torchrun started, for the time of a `with` block.

    Raises TrainingError when they do not find each other within `patience_s`.
    """

    def __init__(
        self,
        *,
        rank: int,
        world: int,
        local_rank: int,
        local_world: int,
        patience_s: float = DEFAULT_PATIENCE_S,
    ) -> None:
        self.rank, self.world = rank, world
        self.local_rank, self.local_world = local_rank, local_world
        self._patience_s = patience_s

    def __enter__(self) -> ProcessGroup:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        if torch.cuda.is_available() and self.local_rank < torch.cuda.device_count():
            torch.cuda.set_device(self.local_rank)
        try:
            dist.init_process_group(backend, timeout=timedelta(seconds=self._patience_s))
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                f"rank {self.rank} of {self.world} cannot join the others ({first_line(error)}); "
                "start all of them with one torchrun command, and see that its address can be reached"
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After a failure the others may be gone, and taking leave would wait for them.
        if error is None:
            with self.reachable():
                dist.barrier()
            dist.destroy_process_group()

    def agree(self, ours: StepStatus) -> StepStatus:
        """See Ranks."""
        counts = torch.tensor(astuple(ours), dtype=torch.int64)
        with self.reachable():
            dist.all_reduce(counts)
        return StepStatus(
            **dict(zip(StepStatus.__dataclass_fields__, counts.tolist(), strict=True))
        )

    def settle(self, error: Exception | None) -> Exception:
        """See Ranks. Rank 0 speaks for all: it raises the first rank's error, the others RankStopped."""
        told = {"kind": type(error).__name__, "text": str(error)} if _is_own(error) else {}
        records = [json.loads(text) for text in self.gather(json.dumps(told))]
        nothing: dict[str, str] = {}
        rank, first = next(((n, one) for n, one in enumerate(records) if one), (self.rank, nothing))
        if error is not None and not isinstance(error, DarkprepError):
            return error
        if self.rank:
            return RankStopped(
                f"rank {rank} had to stop: {first.get('text', 'it did not say why')}"
            )
        if error is not None and rank == 0 and _is_own(error):
            return error
        return _error_named(first.get("kind", ""))(
            f"rank {rank}: {first.get('text', 'had to stop and did not say why')}"
        )

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """See Ranks."""
        caught: Exception | None = None
        try:
            yield
        except RankLost:
            raise
        except Exception as error:  # noqa: BLE001 # it is raised below, on every rank
            caught = error
        if self.agree(StepStatus(failed=int(caught is not None))).failed:
            verdict = self.settle(caught)
            raise verdict from (caught if verdict is not caught else verdict.__cause__)

    @contextlib.contextmanager
    def reachable(self) -> Iterator[None]:
        """See Ranks."""
        try:
            yield
        except RuntimeError as error:
            if not _comes_from_group(error):
                raise
            raise RankLost(
                f"rank {self.rank} of {self.world}: another rank is gone or does not answer "
                f"({first_line(error)}); start all ranks again with --resume"
            ) from error

    def tell(self, text: str) -> str:
        """See Ranks."""
        return self._broadcast(text.encode()).decode()

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """See Ranks."""
        records = [json.loads(text) for text in self.gather(json.dumps(dict(facts), default=str))]
        with self.together():
            for rank, other in enumerate(records if self.rank == 0 else []):
                different = [name for name in facts if other.get(name) != records[0][name]]
                if different:
                    what = "; ".join(
                        f"{name} {other.get(name)!r}, not {records[0][name]!r}"
                        for name in different[:3]
                    )
                    raise OptionError(
                        f"rank {rank} disagrees with rank 0 ({what}); start all ranks with the same "
                        "darkprep, command and plan"
                    )

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """See Ranks."""
        with self.reachable():
            return DistributedDataParallel(
                network,
                device_ids=[device] if device.type == "cuda" else None,
                gradient_as_bucket_view=True,
            )

    def mean(self, loss: Tensor) -> Tensor:
        """See Ranks."""
        total = loss.detach().clone()
        with self.reachable():
            dist.all_reduce(total)
        return total / self.world

    def share(self, trainee: TrainState, progress: Progress) -> Progress:
        """See Ranks."""
        content = io.BytesIO()
        if self.rank == 0:
            state = {
                "progress": vars(progress).copy(),
                "network": trainee.network.state_dict(),
                "optimiser": trainee.optimiser.state_dict(),
                "scaler": trainee.scaler.state_dict(),
            }
            torch.save(state, content)
        shared = io.BytesIO(self._broadcast(content.getvalue()))
        state = torch.load(shared, map_location="cpu", weights_only=True)
        if self.rank:
            trainee.network.load_state_dict(state["network"])
            trainee.optimiser.load_state_dict(state["optimiser"])
            if state["scaler"]:
                trainee.scaler.load_state_dict(state["scaler"])
        return Progress(**state["progress"])

    def _broadcast(self, content: bytes) -> bytes:
        """Rank 0's bytes, on every rank."""
        length = torch.tensor([len(content)])
        with self.reachable():
            dist.broadcast(length, src=0)
            held = torch.zeros(int(length), dtype=torch.uint8)
            if self.rank == 0 and content:
                held.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
            dist.broadcast(held, src=0)
        return held.numpy().tobytes()

    def gather(self, text: str) -> list[str]:
        """See Ranks."""
        content = text.encode()
        lengths = torch.zeros(self.world, dtype=torch.int64)
        lengths[self.rank] = len(content)
        with self.reachable():
            dist.all_reduce(lengths)
            longest = int(lengths.max())
            held = torch.zeros(longest, dtype=torch.uint8)
            held[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            rows = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world)]
            dist.all_gather(rows, held)
        sizes = lengths.tolist()
        return [row.numpy().tobytes()[:n].decode() for row, n in zip(rows, sizes, strict=True)]


def in_turn(ranks: Communicator, work: Callable[[], Any]) -> Any:
    """Let every rank do `work`, which opens something with `close`: rank 0, then one rank of each machine, then the rest.

    So whoever cleans up after an earlier training has done it before the others begin. What was opened
    is closed again when another rank fails.
    """
    mine = 0 if ranks.rank == 0 else 1 if ranks.local_rank == 0 else 2
    opened: Any = None
    try:
        for turn in range(_TURNS):
            with ranks.together():
                if turn == mine:
                    opened = work()
    except BaseException:
        if opened is not None:
            opened.close()
        raise
    return opened


def communicator_from(
    environment: Mapping[str, str], patience_s: float = DEFAULT_PATIENCE_S
) -> SingleProcess | ProcessGroup:
    """The ranks as torchrun's variables tell them; raises OptionError when these make no sense."""
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return SingleProcess()
    try:
        rank, world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local_rank = int(environment.get("LOCAL_RANK", rank))
        local_world = int(environment.get("LOCAL_WORLD_SIZE", world))
    except ValueError as error:
        raise OptionError(f"RANK, WORLD_SIZE and LOCAL_RANK must be numbers ({error})") from error
    if not (0 <= rank < world and 0 <= local_rank < local_world <= world):
        raise OptionError(
            f"rank {rank} of {world}, here {local_rank} of {local_world}, makes no sense; start with torchrun"
        )
    if not 0 < patience_s <= _MOST_PATIENCE_S:
        raise OptionError(
            f"rank-timeout must be positive and at most {_MOST_PATIENCE_S:,}, not {patience_s}"
        )
    if world == 1:
        return SingleProcess()
    return ProcessGroup(
        rank=rank,
        world=world,
        local_rank=local_rank,
        local_world=local_world,
        patience_s=patience_s,
    )


def _is_own(error: Exception | None) -> bool:
    """Whether an error is news of this rank, not an echo of another's."""
    return error is not None and not isinstance(error, RankStopped)


def _error_named(kind: str) -> type[DarkprepError]:
    found = getattr(errors, kind, TrainingError)
    if not (isinstance(found, type) and issubclass(found, DarkprepError)):
        return TrainingError
    return TrainingError if issubclass(found, errors.RawError) else found


def _comes_from_group(error: RuntimeError) -> bool:
    """gloo's errors have no class of their own."""
    words = ("gloo", "connection", "process group", "nccl", "timed out")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)
