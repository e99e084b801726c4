"""A checkpoint or weights file of someone else is refused in one line before torch uses a value of it."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from darkprep.model import load_model
from darkprep.model.errors import ModelError
from darkprep.shards.errors import WeightsError
from darkprep.trainer.checkpoint import Checkpoints, Progress, read_checkpoint
from tests.support.changed_records import REMOVED, VALUES, places, replace_at
from tests.support.train_states import new_state

CONFIG = {"model": "redirt-2rdb", "crop": 512}
SHORT_VALUES = [value for value in VALUES if len(repr(value)) < 5_000]
Edit = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the bytes of a checkpoint of a network after one step."""
    state = new_state()
    state.network(torch.rand(1, 4, 8, 8)).mean().backward()
    state.optimiser.step()
    folder = tmp_path_factory.mktemp("checkpoint")
    return Checkpoints(folder).save(state, Progress(iteration=1), CONFIG).read_bytes()


@pytest.fixture
def load(content: bytes, tmp_path: Path) -> Callable[[Edit], Progress | None]:
    """Return a function that loads the checkpoint after an edit of its record."""

    def edited(edit: Edit) -> Progress | None:
        record = torch.load(io.BytesIO(content), weights_only=True)
        edit(record)
        torch.save(record, tmp_path / "00000001.pt")
        checkpoints = Checkpoints(tmp_path, must_match=tuple(CONFIG))
        return checkpoints.load_newest(new_state(), CONFIG)

    return edited


def test_the_checkpoint_itself_is_loaded(load):
    assert load(lambda _: None) == Progress(iteration=1)


def adam(record: dict[str, Any]) -> dict[str, Any]:
    """Return the state of the first parameter of four dimensions."""
    states = record["optimiser"]["state"].values()
    return next(one for one in states if one["exp_avg"].dim() == 4)


def set_adam(name: str, change: Callable[[Any], Any]) -> Edit:
    def edit(record: dict[str, Any]) -> None:
        adam(record)[name] = change(adam(record)[name])

    return edit


def set_group(name: str, value: Any) -> Edit:
    return lambda record: record["optimiser"]["param_groups"][0].update({name: value})


def set_part(part: str, name: Any, value: Any) -> Edit:
    return lambda record: record[part].update({name: value})


def change_first(change: Callable[[torch.Tensor], Any]) -> Edit:
    def edit(record: dict[str, Any]) -> None:
        name = next(iter(record["network"]))
        record["network"][name] = change(record["network"][name])

    return edit


UNFIT = {
    "smaller moment": set_adam("exp_avg", lambda t: t.flatten()[:1].clone()),
    "larger moment": set_adam("exp_avg_sq", lambda t: t.new_zeros(t.numel() + 1)),
    "expanded moment": set_adam("exp_avg", lambda t: torch.zeros(1).expand(t.shape)),
    "transposed moment": set_adam(
        "exp_avg", lambda t: torch.zeros(t.shape[::-1]).permute(*reversed(range(t.dim())))
    ),
    "moment of doubles": set_adam("exp_avg", torch.Tensor.double),
    "moment of integers": set_adam("exp_avg", torch.Tensor.int),
    "sparse moment": set_adam("exp_avg", torch.Tensor.to_sparse),
    "complex moment": set_adam("exp_avg", lambda t: t.to(torch.complex64)),
    "moment that is not a number": set_adam("exp_avg", lambda t: torch.full_like(t, torch.nan)),
    "moment without data": set_adam("exp_avg", lambda t: t.to("meta")),
    "moment that is a number": set_adam("exp_avg", lambda _: 1.0),
    "vector of steps": set_adam("step", lambda _: torch.ones(3)),
    "step of nan": set_adam("step", lambda _: torch.tensor(torch.nan)),
    "step that is text": set_adam("step", lambda _: "1"),
    "no moment": lambda record: adam(record).pop("exp_avg"),
    "unknown moment": lambda record: adam(record).update(other=torch.zeros(1)),
    "state that is a list": lambda record: record["optimiser"].update(state=[1]),
    "state of no parameter": lambda record: record["optimiser"]["state"].update({9999: {}}),
    "state of a text": lambda record: record["optimiser"]["state"].update({"0": {}}),
    "state that is none": lambda record: record["optimiser"]["state"].update({0: None}),
    "amsgrad": set_group("amsgrad", True),
    "not fused": set_group("fused", "yes"),
    "capturable": set_group("capturable", True),
    "learning rate that is a tensor": set_group("lr", torch.ones(5)),
    "one beta": set_group("betas", (0.9,)),
    "beta above 1": set_group("betas", (0.9, 2.0)),
    "negative eps": set_group("eps", -1.0),
    "decay of nan": set_group("weight_decay", float("nan")),
    "other parameters": set_group("params", [0]),
    "unknown option": set_group("hook", "x"),
    "two groups": lambda record: record["optimiser"]["param_groups"].append({}),
    "groups of text": lambda record: record["optimiser"].update(param_groups=["x"]),
    "groups none": lambda record: record["optimiser"].update(param_groups=None),
    "weights of doubles": change_first(torch.Tensor.double),
    "weights of integers": change_first(torch.Tensor.int),
    "weights of another shape": change_first(lambda t: t[..., None]),
    "weights none": change_first(lambda _: None),
    "name that is a number": set_part("network", 7, torch.zeros(1)),
    "random state of another size": set_part("random", "host", torch.zeros(9, dtype=torch.uint8)),
    "random state of zeros": set_part("random", "host", torch.zeros(5056, dtype=torch.uint8)),
    "random state of text": set_part("random", "host", "x"),
    "random state of devices": set_part("random", "devices", "x"),
    "infinite scale": set_part("scaler", "scale", float("inf")),
    "scale of text": set_part("scaler", "scale", "x"),
    "growth interval of half": set_part("scaler", "growth_interval", 0.5),
    "crop that is a tensor": set_part("config", "crop", torch.ones(2)),
    "model that is a list": set_part("config", "model", ["x"] * 100_000),
    "negative iteration": set_part("progress", "iteration", -1),
    "iteration that is a tensor": set_part("progress", "iteration", torch.ones(2)),
    "endless number": set_part("progress", "iteration", 10**5000),
    "format that is a tensor": lambda record: record.update(format=torch.ones(2)),
}


@pytest.mark.parametrize("edit", UNFIT.values(), ids=UNFIT)
def test_a_value_that_does_not_fit_is_refused_in_one_line(load, edit):
    with pytest.raises(WeightsError) as refused:
        load(edit)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "values",
    [
        (None, float("nan"), "", REMOVED),
        pytest.param((*SHORT_VALUES, REMOVED), marks=pytest.mark.slow),
    ],
    ids=["some", "all"],
)
def test_any_place_of_a_checkpoint_replaced_by_any_value_is_refused_or_loaded(
    load, content, values
):
    record = torch.load(io.BytesIO(content), weights_only=True)
    for place in places({name: part for name, part in record.items() if name != "network"}):
        for value in values:
            with contextlib.suppress(WeightsError):
                load(lambda loaded, place=place, value=value: replace_at(loaded, place, value))


def shared_lists() -> object:
    value: object = "x"
    for _ in range(40):
        value = [value, value]
    return value


def test_lists_that_are_shared_do_not_make_a_message_endless(load):
    with pytest.raises(WeightsError, match="are damaged"):
        load(set_part("config", "model", shared_lists()))


def torch_file(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return path


def key_that_is_hashed_for_ever() -> bytes:
    value = b"U\x01xq\x00"
    for n in range(60):
        value += b"h" + bytes([n]) + b"\x86q" + bytes([n + 1])
    return b"\x80\x02}" + value + b"K\x01s."


@pytest.mark.parametrize("read", [read_checkpoint, load_model])
def test_a_key_that_would_be_hashed_for_ever_is_refused(tmp_path, read):
    path = torch_file(tmp_path / "00000001.pt", key_that_is_hashed_for_ever())

    with pytest.raises((WeightsError, ModelError)):
        read(path)


@pytest.mark.parametrize("read", [read_checkpoint, load_model])
def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path, read, monkeypatch):
    path = torch_file(tmp_path / "00000001.pt", bytes(1 << 20), zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda _: pytest.fail("unpacks"))

    with pytest.raises((WeightsError, ModelError)):
        read(path)


def test_few_checkpoints_are_tried_and_none_that_is_larger_than_the_network_needs(
    tmp_path, content, monkeypatch, caplog
):
    for number in range(1, 31):
        (tmp_path / f"{number:08d}.pt").write_bytes(b"")
    with (tmp_path / "00000031.pt").open("wb") as file:
        file.truncate(1 << 40)
        file.write(content)
    read: list[int] = []
    monkeypatch.setattr(
        "darkprep.trainer.checkpoint.check_torch_file",
        lambda file: read.append(os.fstat(file.fileno()).st_size),
    )

    with pytest.raises(WeightsError, match="all checkpoints"):
        Checkpoints(tmp_path).load_newest(new_state(), CONFIG)

    assert read == [0] * 9
    assert f"{1 << 40} bytes are more than a checkpoint of this network has" in caplog.text
