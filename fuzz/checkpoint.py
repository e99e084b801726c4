"""A checkpoint of any bytes is refused by one WeightsError, or its state can be loaded and trained on."""

from __future__ import annotations

import functools
import io
import shutil
from pathlib import Path
from typing import Any

import torch

from darkprep.shards.errors import WeightsError
from darkprep.trainer.checkpoint import Checkpoints, Progress, TrainState
from fuzz.choices import Choices
from fuzz.memory import new_folder
from tests.support.train_states import new_state

PARTS = ("bytes", "record", "tensor")
_CONFIG = {"model": "redirt-2rdb", "crop": 512}
_DTYPES = (torch.float64, torch.float16, torch.int32, torch.complex64, torch.bool)


def try_input(data: bytes) -> tuple[str, bool]:
    """Try one checkpoint; raise whatever its reader must not raise, and crash where memory would be corrupted."""
    folder, good = _prepared()
    choices = Choices(data)
    part = choices.one_of(PARTS)
    path = folder / "00000001.pt"
    if part == "bytes":
        path.write_bytes(choices.edited(good))
    else:
        record = _copied(_record(good))
        if part == "tensor":
            _change_tensor(record, choices)
        else:
            choices.replace_a_leaf(record)
        torch.save(record, path)
    state = new_state()
    try:
        found = Checkpoints(folder, must_match=tuple(_CONFIG)).load_newest(state, _CONFIG)
    except WeightsError as error:
        assert "\n" not in str(error), error
        return part, False
    assert found is not None
    assert found.iteration >= 0
    _step(state)
    return part, True


@functools.cache
def _record(good: bytes) -> Any:
    return torch.load(io.BytesIO(good), weights_only=True)


def _copied(value: Any) -> Any:
    """Copy dictionaries and lists in each other; their tensors, which no edit changes in place, are the same."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _change_tensor(record: Any, choices: Choices) -> None:
    """Replace a tensor of the network or of the optimiser by one of another shape, dtype, layout or value."""
    groups = [record["network"], *record["optimiser"]["state"].values()]
    group = choices.one_of(groups)
    name = choices.one_of(list(group))
    tensor: torch.Tensor = group[name]
    kind = choices.below(6)
    if kind == 0:
        tensor = tensor.flatten()[: choices.below(tensor.numel() + 1)].clone()
    elif kind == 1:
        tensor = tensor.to(choices.one_of(_DTYPES))
    elif kind == 2:
        tensor = torch.zeros(()).expand(tensor.shape)
    elif kind == 3:
        tensor = torch.full_like(tensor, choices.one_of((float("nan"), float("inf"), -1.0, 2.0)))
    elif kind == 4:
        tensor = tensor.unsqueeze(0)
    group[name] = tensor


def _step(state: TrainState) -> None:
    state.optimiser.zero_grad()
    state.network(torch.ones(1, 4, 4, 4)).mean().backward()
    state.optimiser.step()


@functools.cache
def _prepared() -> tuple[Path, bytes]:
    """A folder in memory, and the bytes of a good checkpoint."""
    torch.set_num_threads(1)
    folder, state = new_folder(), new_state()
    _step(state)
    good = Checkpoints(folder).save(state, Progress(iteration=1), _CONFIG).read_bytes()
    shutil.rmtree(folder)
    folder.mkdir()
    return folder, good
