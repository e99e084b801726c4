"""Checkpoints: everything that a training run needs to resume where it stopped.

A checkpoint is a torch file of tensors and plain values: weights, optimiser, loss scaler, random state, the
number of the next batch and the configuration. A crash never leaves a partial file under a checkpoint's
name. The trade-off: the CRC of every entry is checked before a file is loaded, so the file is read twice;
torch does not check it, and a flipped bit would go unnoticed.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from darkprep.model import Network
from darkprep.model.torch_file import check_torch_file
from darkprep.shards.decode import decode
from darkprep.shards.errors import WeightsError, first_line
from darkprep.shards.files import (
    disk_errors,
    open_regular_file,
    remove,
    remove_stale_temporaries,
    write_bytes,
)
from darkprep.trainer.checkpoint_check import (
    UnfitState,
    check_network,
    check_optimiser,
    check_plain,
    check_random,
    check_scaler,
)

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
StateDict = dict[str, Any]
"""What torch's `state_dict` returns."""

_STATES = ("network", "optimiser", "scaler")
_COUNTS = ("iteration", "trained_s", "waited_s", "shards_deleted", "damaged", "peak_disk_bytes")
_TIMES_WITH_ADAM, _TIMES_WITH_OTHERS = 8, 1000
"""A checkpoint has at most this multiple of the network's bytes: Adam needs 3, L-BFGS and Shampoo need hundreds."""
_REMAINING_BYTES = 64 << 20
"""Bytes of everything else in a checkpoint at most."""
_MOST_TRIED = 10
"""Damaged checkpoints that are tried; a run keeps three."""
_NAME = re.compile(r"(\d{8,12})\.pt")


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainState:
    """The objects whose state a checkpoint holds: network, optimiser and loss scaler."""

    network: Network
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def state_dict(self) -> dict[str, StateDict]:
        """Return the state dictionaries of network, optimiser and scaler."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def check(self, states: Mapping[str, StateDict]) -> None:
        """Raise UnfitState unless every tensor and number of `states` fits what it would replace."""
        check_network(states["network"], self.network)
        check_optimiser(states["optimiser"], self.optimiser)
        check_scaler(states["scaler"])

    def load_state_dict(self, states: Mapping[str, StateDict]) -> None:
        """Load a state that `state_dict` returned and `check` accepts; the scaler's state only if loss scaling is used now too.

        Raises KeyError, TypeError, ValueError or RuntimeError when the state is of another network.
        """
        self.network.load_state_dict(states["network"])
        self.optimiser.load_state_dict(states["optimiser"])
        if states["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(states["scaler"])


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How many steps a run has done, and the figures that its summary continues after the run is resumed."""

    iteration: int = 0
    """Optimiser steps done; also the number of the next global batch."""
    first_loss: float | None = None
    """Loss of the very first step; None before it."""
    last_loss: float | None = None
    """Loss of the last line of metrics.jsonl."""
    trained_s: float = 0.0
    """Seconds spent in training since the run was started, resumptions included."""
    waited_s: float = 0.0
    """Seconds of `trained_s` in which the device waited for data."""
    shards_deleted: int = 0
    damaged: int = 0
    peak_disk_bytes: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """The content of a checkpoint file."""

    config: Mapping[str, Any]
    """The configuration of the training run, see TrainConfig.record."""
    progress: Progress
    states: dict[str, StateDict]
    """See TrainState.state_dict."""
    random: StateDict
    """State of torch's random number generators: `host`, and `devices`, one for each GPU."""

    def record(self) -> dict[str, Any]:
        """Return the dictionary that is written to the file."""
        return {
            "format": FORMAT_VERSION,
            "config": dict(self.config),
            "progress": asdict(self.progress),
            **self.states,
            "random": self.random,
        }


class Checkpoints:
    """The last `keep` checkpoints of a run, in a directory of their own.

    `must_match` names the configuration fields that must be equal when a run is resumed, because they
    decide what is trained or what the next batch is. All other fields (iterations, precision, device,
    intervals) may change.
    """

    def __init__(self, directory: Path, *, must_match: tuple[str, ...] = (), keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self.directory = directory
        self._must_match = must_match
        self._keep = keep

    def save(self, state: TrainState, progress: Progress, config: Mapping[str, Any]) -> Path:
        """Write a checkpoint durably (fsync), delete the oldest ones beyond `keep`, and return the path of the new file.

        Raises DiskFull or SpoolError; the older checkpoints are then unchanged.
        """
        checkpoint = Checkpoint(
            config=config, progress=progress, states=state.state_dict(), random=_random_state()
        )
        path = self.directory / f"{progress.iteration:08d}.pt"
        with disk_errors(path):
            self.directory.mkdir(parents=True, exist_ok=True)
        remove_stale_temporaries(self.directory, "*.pt")
        # Through memory, because torch's own writer raises a RuntimeError when the disk is full.
        content = io.BytesIO()
        torch.save(checkpoint.record(), content)
        write_bytes(path, content.getvalue())
        # Newer ones are damaged, or the training would have resumed from them; they do not count.
        own = [one for one in self._newest_first() if int(one.stem) <= progress.iteration]
        for old in own[self._keep :]:
            remove(old)
        return path

    def load_newest(self, state: TrainState, config: Mapping[str, Any]) -> Progress | None:
        """Load the newest undamaged checkpoint into `state` and return its progress; None if there is no checkpoint.

        A damaged checkpoint is skipped with a warning, and of many only the newest are tried. Raises
        WeightsError when all checkpoints are damaged, or when the newest undamaged one is of another network
        or configuration; `state` is then unusable.
        """
        largest = _largest_size(state)
        paths = self._newest_first()[:_MOST_TRIED]
        for path in paths:
            try:
                checkpoint = read_checkpoint(path, largest)
            except WeightsError as error:
                log.warning("%s; the previous checkpoint is used", error)
                continue
            self._load(state, checkpoint, path, config)
            return checkpoint.progress
        if paths:
            raise WeightsError(
                f"{self.directory}: all checkpoints ({len(paths)}) are damaged; start a new run"
            )
        return None

    def newest_iteration(self) -> int | None:
        """Return the number of iterations in the name of the newest checkpoint; None if there is none."""
        paths = self._newest_first()
        return int(paths[0].stem) if paths else None

    def _newest_first(self) -> list[Path]:
        found = (path for path in self.directory.glob("*.pt") if _NAME.fullmatch(path.name))
        return sorted(found, key=lambda path: int(path.stem), reverse=True)

    def _load(
        self, state: TrainState, checkpoint: Checkpoint, path: Path, config: Mapping[str, Any]
    ) -> None:
        _check_config(path, checkpoint.config, config, self._must_match)
        _check_keys(path, checkpoint.states["network"], state.network.state_dict())
        try:
            state.check(checkpoint.states)
            check_random(checkpoint.random)
            state.load_state_dict(checkpoint.states)
            _set_random_state(checkpoint.random)
        except (UnfitState, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise WeightsError(
                f"{path}: does not fit this run or this version of darkprep ({first_line(error)}); "
                f"start a new run"
            ) from error


def _largest_size(state: TrainState) -> int:
    """Return the bytes of a checkpoint of this network and optimiser at most."""
    network_bytes: int = sum(one.nbytes for one in state.network.state_dict().values())
    is_adam = isinstance(state.optimiser, torch.optim.Adam | torch.optim.AdamW)
    return (_TIMES_WITH_ADAM if is_adam else _TIMES_WITH_OTHERS) * network_bytes + _REMAINING_BYTES


def read_checkpoint(path: Path, largest: int | None = None) -> Checkpoint:
    """Read and check one checkpoint file of at most `largest` bytes; nothing in it is executed. Raises WeightsError."""
    record = _read_record(path, largest)
    if not isinstance(record, dict) or "format" not in record:
        raise WeightsError(f"{path}: is not a darkprep checkpoint")
    version = record["format"]
    if type(version) is not int or abs(version) > 10**9:
        raise WeightsError(f"{path}: is not a darkprep checkpoint")
    if version != FORMAT_VERSION:
        raise WeightsError(
            f"{path}: has format {version}, but this version of darkprep reads format {FORMAT_VERSION}; read it with the version that wrote it"
        )
    if any(
        not isinstance(record.get(part), dict)
        for part in ("config", "progress", "random", *_STATES)
    ):
        raise WeightsError(f"{path}: is not a darkprep checkpoint")
    try:
        check_plain("config", record["config"])
        check_plain("progress", record["progress"])
        progress = decode(Progress, record["progress"])
        if min(asdict(progress)[name] for name in _COUNTS) < 0:
            raise ValueError("a count is negative")
    except (UnfitState, ValueError) as error:
        raise WeightsError(f"{path}: is damaged (progress: {error})") from error
    return Checkpoint(
        config=record["config"],
        progress=progress,
        states={name: record[name] for name in _STATES},
        random=record["random"],
    )


def _read_record(path: Path, largest: int | None) -> object:
    """Return what a torch file of at most `largest` bytes holds. Raises WeightsError if it is larger or damaged."""
    try:
        with open(path, "rb", opener=open_regular_file) as file:
            size = os.fstat(file.fileno()).st_size
            is_larger = largest is not None and size > largest
            damaged = None if is_larger else check_torch_file(file)
            file.seek(0)
            is_read = not (is_larger or damaged)
            record = torch.load(file, map_location="cpu", weights_only=True) if is_read else None
    except Exception as error:
        # On arbitrary bytes the zip reader and the unpickler raise exceptions of any class.
        raise WeightsError(f"{path}: is damaged ({type(error).__name__})") from error
    if is_larger:
        raise WeightsError(
            f"{path}: is damaged ({size} bytes are more than a checkpoint of this network has)"
        )
    if damaged:
        raise WeightsError(f"{path}: is damaged (wrong checksum of {damaged})")
    return record


def _random_state() -> StateDict:
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"host": torch.get_rng_state(), "devices": devices}


def _set_random_state(state: StateDict) -> None:
    torch.set_rng_state(state["host"])
    for device, generator in enumerate(state["devices"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator, device)


def _check_config(
    path: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any], fields: tuple[str, ...]
) -> None:
    different = [
        f"{field} {stored.get(field)!r}, not {wanted.get(field)!r}"
        for field in fields
        if stored.get(field) != wanted.get(field)
    ]
    if different:
        raise WeightsError(
            f"{path}: was trained with {'; '.join(different)}; choose the same settings, or start a new run"
        )


def _check_keys(path: Path, stored: StateDict, wanted: StateDict) -> None:
    problems = [
        f"{what} {', '.join(map(str, names[:4]))}{' ...' if len(names) > 4 else ''}"
        for what, names in (
            ("lacks", [name for name in wanted if name not in stored]),
            ("has unknown", [name for name in stored if name not in wanted]),
        )
        if names
    ]
    if problems:
        raise WeightsError(
            f"{path}: is of another network: {'; '.join(problems)}; choose its --model, or start a new run"
        )
