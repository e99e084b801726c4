"""Communicate between the ranks that torchrun started: gradients by NCCL or gloo, everything else by gloo.

Data on the host is sent as JSON, or as a torch file of tensors and plain values. The trade-off: torch's own
helpers would send pickled objects; without pickle, every method encodes and decodes its data itself.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, astuple, fields
from datetime import timedelta
from types import TracebackType
from typing import NoReturn

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
from darkprep.trainer.communicator import SingleProcess, StepStatus
from darkprep.trainer.config import RANK_TIMEOUT_S

_LONGEST_TIMEOUT_S = 10**6


def communicator_from(
    environment: Mapping[str, str], timeout_s: float = RANK_TIMEOUT_S
) -> SingleProcess | ProcessGroup:
    """Return the communicator for the environment variables that torchrun sets (RANK, WORLD_SIZE, ...).

    Raises OptionError when they are invalid.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return SingleProcess()
    try:
        rank, world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local_rank = int(environment.get("LOCAL_RANK", rank))
        local_world = int(environment.get("LOCAL_WORLD_SIZE", world))
    except ValueError as error:
        raise OptionError(
            f"environment variables RANK, WORLD_SIZE and LOCAL_RANK must be numbers ({error}); start the ranks with torchrun"
        ) from error
    if not (0 <= rank < world and 0 <= local_rank < local_world <= world):
        raise OptionError(
            f"rank {rank} of {world}, on this machine {local_rank} of {local_world}, is invalid; "
            "start all ranks with torchrun"
        )
    if not 0 < timeout_s <= _LONGEST_TIMEOUT_S:
        raise OptionError(
            f"rank-timeout must be positive and at most {_LONGEST_TIMEOUT_S:,}, not {timeout_s}"
        )
    if world == 1:
        return SingleProcess()
    return ProcessGroup(
        rank=rank,
        world=world,
        local_rank=local_rank,
        local_world=local_world,
        timeout_s=timeout_s,
    )


class ProcessGroup:
    """The communicator of several ranks; they are connected while its `with` block runs.

    Raises TrainingError when the ranks cannot connect to each other within `timeout_s`.
    """

    def __init__(
        self,
        *,
        rank: int,
        world: int,
        local_rank: int,
        local_world: int,
        timeout_s: float = RANK_TIMEOUT_S,
    ) -> None:
        self.rank, self.world = rank, world
        self.local_rank, self.local_world = local_rank, local_world
        self._timeout_s = timeout_s

    def __enter__(self) -> ProcessGroup:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        if torch.cuda.is_available() and self.local_rank < torch.cuda.device_count():
            torch.cuda.set_device(self.local_rank)
        try:
            dist.init_process_group(backend, timeout=timedelta(seconds=self._timeout_s))
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                f"rank {self.rank} of {self.world} cannot connect to the other ranks ({first_line(error)}); "
                "start all ranks by the same torchrun command, once on each node, and check that the master address can be reached"
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After a failure the other ranks may be gone, and the barrier would wait for them.
        if error is None:
            with self.detect_lost_ranks():
                dist.barrier()
            dist.destroy_process_group()

    # -- errors -----------------------------------------------------------------------------------

    def agree(self, status: StepStatus) -> StepStatus:
        """Return the sum of the statuses of all ranks."""
        counts = torch.tensor(astuple(status), dtype=torch.int64)
        with self.detect_lost_ranks():
            dist.all_reduce(counts)
        names = (field.name for field in fields(StepStatus))
        return StepStatus(**dict(zip(names, counts.tolist(), strict=True)))

    def raise_on_all_ranks(self, error: Exception | None) -> NoReturn:
        """Raise the first failed rank's error on rank 0, and RankStopped on the other ranks."""
        raised = self._error_for_this_rank(error)
        raise raised from (error if raised is not error else raised.__cause__)

    def _error_for_this_rank(self, own: Exception | None) -> Exception:
        """Return the error to raise on this rank after a rank failed; `own` is this rank's error, if any."""
        record = {"kind": type(own).__name__, "text": str(own)} if _originated_here(own) else {}
        nothing: dict[str, str] = {}
        records = [json.loads(text) for text in self.gather(json.dumps(record))]
        rank, first = next(
            ((rank, found) for rank, found in enumerate(records) if found), (self.rank, nothing)
        )
        text = first.get("text", "stopped without a message")
        if own is not None and not isinstance(own, DarkprepError):
            return own
        if self.rank:
            return RankStopped(f"stopped because rank {rank} failed: {text}")
        if own is not None and rank == 0 and _originated_here(own):
            return own
        return _error_class(first.get("kind", ""))(f"rank {rank}: {text}")

    @contextlib.contextmanager
    def fail_together(self) -> Iterator[None]:
        """Wait at the end of the block for all ranks; if the block failed on any rank, raise on all of them."""
        error: Exception | None = None
        try:
            yield
        except RankLost:
            raise
        except Exception as caught:  # noqa: BLE001 # raised below, on every rank
            error = caught
        if self.agree(StepStatus(failed=int(error is not None))).failed:
            self.raise_on_all_ranks(error)

    @contextlib.contextmanager
    def detect_lost_ranks(self) -> Iterator[None]:
        """Raise RankLost in place of the errors that torch raises in the block when a rank is lost."""
        try:
            yield
        except RuntimeError as error:
            if not _is_communication_error(error):
                raise
            raise RankLost(
                f"rank {self.rank} of {self.world}: another rank has ended or does not answer "
                f"({first_line(error)}); start all ranks again with --resume"
            ) from error

    def check_same(self, settings: Mapping[str, object]) -> None:
        """Check that all ranks pass the same settings; otherwise raise OptionError (rank 0) or RankStopped."""
        own = json.dumps(dict(settings), default=str)
        records = [json.loads(text) for text in self.gather(own)]
        with self.fail_together():
            for rank, other in enumerate(records if self.rank == 0 else []):
                different = [name for name in settings if other.get(name) != records[0][name]]
                if different:
                    what = "; ".join(
                        f"{name} {other.get(name)!r}, not {records[0][name]!r}"
                        for name in different[:3]
                    )
                    raise OptionError(
                        f"rank {rank} differs from rank 0 in {what}; start all ranks with the same "
                        "darkprep, command and plan"
                    )

    # -- data -------------------------------------------------------------------------------------

    def broadcast(self, text: str) -> str:
        """Return the text that rank 0 passes."""
        return self._broadcast_bytes(text.encode()).decode()

    def gather(self, text: str) -> list[str]:
        """Return the texts that all ranks pass, in the order of the ranks."""
        content = text.encode()
        lengths = torch.zeros(self.world, dtype=torch.int64)
        lengths[self.rank] = len(content)
        with self.detect_lost_ranks():
            dist.all_reduce(lengths)
            longest = int(lengths.max())
            padded = torch.zeros(longest, dtype=torch.uint8)
            padded[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            rows = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world)]
            dist.all_gather(rows, padded)
        sizes = lengths.tolist()
        return [row.numpy().tobytes()[:n].decode() for row, n in zip(rows, sizes, strict=True)]

    def data_parallel(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return the network with its gradients averaged over all ranks."""
        with self.detect_lost_ranks():
            return DistributedDataParallel(
                network,
                device_ids=[device] if device.type == "cuda" else None,
                gradient_as_bucket_view=True,
            )

    def mean(self, loss: Tensor) -> Tensor:
        """Return the mean of the losses of all ranks, without a gradient."""
        total = loss.detach().clone()
        with self.detect_lost_ranks():
            dist.all_reduce(total)
        return total / self.world

    def broadcast_state(self, state: TrainState, progress: Progress) -> Progress:
        """Copy rank 0's train state into `state` on every rank, and return rank 0's progress."""
        content = io.BytesIO()
        if self.rank == 0:
            torch.save({"progress": asdict(progress), **state.state_dict()}, content)
        received = io.BytesIO(self._broadcast_bytes(content.getvalue()))
        record = torch.load(received, map_location="cpu", weights_only=True)
        if self.rank:
            state.load_state_dict(record)
        return Progress(**record["progress"])

    def _broadcast_bytes(self, content: bytes) -> bytes:
        """Return the bytes that rank 0 passes."""
        length = torch.tensor([len(content)])
        with self.detect_lost_ranks():
            dist.broadcast(length, src=0)
            buffer = torch.zeros(int(length), dtype=torch.uint8)
            if self.rank == 0 and content:
                buffer.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
            dist.broadcast(buffer, src=0)
        return buffer.numpy().tobytes()


def _originated_here(error: Exception | None) -> bool:
    """Whether an error arose on this rank, rather than in reaction to an error of another rank."""
    return error is not None and not isinstance(error, RankStopped)


def _error_class(name: str) -> type[DarkprepError]:
    """Return the error class of that name; TrainingError if an instance needs more than a message."""
    found = getattr(errors, name, TrainingError)
    if not (isinstance(found, type) and issubclass(found, DarkprepError)):
        return TrainingError
    return TrainingError if issubclass(found, errors.RawError | errors.MachineError) else found


def _is_communication_error(error: RuntimeError) -> bool:
    """Whether torch raised an error because a rank is lost; gloo raises a plain RuntimeError then."""
    words = ("gloo", "connection", "process group", "nccl", "timed out")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)
