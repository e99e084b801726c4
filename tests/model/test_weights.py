"""Weights files: a file that is not exactly right is refused with one line."""

import os
import pickle
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from darkprep.model import (
    PUBLISHED_LICENCE,
    InputForm,
    ModelError,
    build_model,
    import_published,
    load_model,
    load_weights,
    ready_for_inference,
    save_weights,
)
from darkprep.model.weights import FORMAT, published_names


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def one_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_every_tensor_of_the_released_file_has_a_counterpart(published: ModuleType):
    names = published_names()

    assert set(names) == set(published.checkpoint(seed=0))
    assert set(names.values()) == set(build_model("redirt").state_dict())


@pytest.mark.parametrize("cfa", ["bayer", "xtrans"])
@pytest.mark.parametrize("name", ["redirt", "redirt-2rdb", "redirt-gn", "sid"])
def test_saved_weights_are_loaded_as_the_same_network(tmp_path: Path, name: str, cfa: Any):
    model = build_model(name, cfa)
    save_weights(model, tmp_path / "w.safetensors")

    again = load_model(tmp_path / "w.safetensors")

    assert (again.name, again.cfa) == (name, cfa)
    state = again.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


def test_saving_leaves_no_other_file(tmp_path: Path):
    for _ in range(2):
        save_weights(build_model("redirt"), tmp_path / "w.safetensors")

    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "w.safetensors"
    save_weights(build_model("redirt"), path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_weights(build_model("redirt"), path)

    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("name", ["folder", "file/w", "nowhere/w", "x" * 256])
def test_a_path_that_cannot_be_written_is_named_as_it_was_given(tmp_path: Path, name: str):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")

    with pytest.raises(OSError, match=r"\[Errno") as error:
        save_weights(build_model("redirt"), tmp_path / name)

    assert (error.value.filename, error.value.filename2) == (str(tmp_path / name), None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_importing_the_released_file_keeps_function_and_licence(tmp_path: Path, released: Path):
    imported = import_published(released, tmp_path / "w.safetensors")

    again = load_model(tmp_path / "w.safetensors")
    packed = torch.rand(1, 4, 32, 32)
    assert torch.equal(imported(packed), again(packed))
    assert b"non-commercial" in (tmp_path / "w.safetensors").read_bytes()[:4000]
    assert "non-commercial" in PUBLISHED_LICENCE


def test_the_released_file_loads_by_itself(released: Path):
    model = load_model(released)

    assert (model.name, model.cfa) == ("redirt", "bayer")


def test_the_released_weights_get_input_clipped_at_black_as_in_their_training(
    tmp_path: Path, released: Path
):
    path = tmp_path / "w.safetensors"
    imported = import_published(released, path)
    noisy = torch.randn(1, 4, 32, 48, generator=torch.Generator().manual_seed(3)) * 0.1

    for model in (imported, load_model(path)):
        ready = ready_for_inference(model)
        assert torch.equal(ready(noisy), ready(noisy.clamp(min=0)))
    assert noisy.min() < 0


def test_darkprep_weights_get_input_below_black(tmp_path: Path, released: Path):
    own = build_model("redirt")
    load_weights(own, released)
    own.input_form = InputForm()
    save_weights(own, tmp_path / "own.safetensors")
    noisy = torch.randn(1, 4, 32, 48, generator=torch.Generator().manual_seed(3)) * 0.1

    ready = ready_for_inference(load_model(tmp_path / "own.safetensors"))

    assert not torch.equal(ready(noisy), ready(noisy.clamp(min=0)))


def test_a_darkprep_file_is_not_imported_again(tmp_path: Path, released: Path):
    import_published(released, tmp_path / "w.safetensors")

    with pytest.raises(ModelError, match="already"):
        import_published(tmp_path / "w.safetensors", tmp_path / "again.safetensors")


def test_the_released_file_is_never_overwritten(tmp_path: Path, released: Path):
    mine, link = tmp_path / "released", tmp_path / "link.safetensors"
    mine.write_bytes(released.read_bytes())
    link.symlink_to(mine)

    for destination in (mine, link):
        with pytest.raises(ModelError, match="the released file itself"):
            import_published(mine, destination)

    assert mine.read_bytes() == released.read_bytes()
    assert link.is_symlink()


def test_missing_tensors_are_named_by_their_names_in_the_file(
    tmp_path: Path, published: ModuleType
):
    state = published.checkpoint(seed=0)
    del state["RDB2.dense_layers.1.conv.1.weight_g"]
    torch.save({"model": state}, tmp_path / "w")

    with pytest.raises(ModelError) as error:
        load_weights(build_model("redirt"), tmp_path / "w")

    assert "lacks RDB2.dense_layers.1.conv.1.weight_g" in one_line(error)


def test_unknown_and_mis_shaped_tensors_are_named(tmp_path: Path, published: ModuleType):
    state = published.checkpoint(seed=0)
    state["head.bias"] = torch.zeros(3)
    state["conv2x.0.bias"] = torch.zeros(7)
    torch.save({"model": state}, tmp_path / "w")

    with pytest.raises(ModelError) as error:
        load_weights(build_model("redirt"), tmp_path / "w")

    assert "has unknown head.bias" in one_line(error)
    assert "has the wrong shape in conv2x.0.bias (7,), not (12,)" in one_line(error)


def test_another_architecture_under_the_same_key_is_summarised(tmp_path: Path):
    torch.save({"model": torch.nn.Linear(2, 2).state_dict()}, tmp_path / "w")

    with pytest.raises(ModelError) as error:
        load_weights(build_model("redirt"), tmp_path / "w")

    assert "and 59 more" in one_line(error)
    assert "has unknown weight, bias" in one_line(error)


def test_a_tensor_that_is_not_finite_is_refused(tmp_path: Path, published: ModuleType):
    state = published.checkpoint(seed=0)
    state["conv2x.0.bias"][3] = torch.nan
    torch.save({"model": state}, tmp_path / "w")

    with pytest.raises(ModelError, match=r"NaN or infinity in conv2x\.0\.bias"):
        load_weights(build_model("redirt"), tmp_path / "w")


@pytest.mark.filterwarnings("ignore")  # torch's own, of kinds that it may drop
@pytest.mark.parametrize(
    "spoil",
    [
        *(
            partial(Tensor.to, dtype=dtype)
            for dtype in (torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn)
        ),
        Tensor.to_sparse,
        partial(Tensor.to, device="meta"),
        lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        lambda tensor: torch.nested.nested_tensor([tensor, tensor[:3]]),
    ],
)
def test_tensors_without_dense_floats_are_refused(
    tmp_path: Path, published: ModuleType, spoil: Any
):
    state = published.checkpoint(seed=0)
    state["conv2x.0.bias"] = spoil(state["conv2x.0.bias"])
    torch.save({"model": state}, tmp_path / "w")

    with pytest.raises(ModelError) as error:
        load_weights(build_model("redirt"), tmp_path / "w")

    assert "no dense floating-point numbers in conv2x.0.bias" in one_line(error)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float8_e4m3fn])
def test_a_darkprep_file_without_dense_floats_is_refused(tmp_path: Path, dtype: torch.dtype):
    state = {name: tensor.to(dtype) for name, tensor in build_model("redirt").state_dict().items()}
    told = {"format": FORMAT, "name": "redirt", "cfa": "bayer"}
    save_file(state, tmp_path / "w", told)

    with pytest.raises(ModelError, match=r"dense floating-point numbers in .* and 59 more"):
        load_model(tmp_path / "w")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_another_width_are_accepted(
    tmp_path: Path, published: ModuleType, dtype: torch.dtype
):
    state = {name: tensor.to(dtype) for name, tensor in published.checkpoint(seed=0).items()}
    torch.save({"model": state}, tmp_path / "w")

    model = load_model(tmp_path / "w")

    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


def test_a_number_out_of_the_networks_range_is_refused(tmp_path: Path, published: ModuleType):
    state = published.checkpoint(seed=0)
    state["conv2x.0.bias"] = torch.full_like(state["conv2x.0.bias"], 1e300, dtype=torch.float64)
    torch.save({"model": state}, tmp_path / "w")

    with pytest.raises(ModelError, match=r"NaN or infinity in conv2x\.0\.bias"):
        load_weights(build_model("redirt"), tmp_path / "w")


def test_a_refused_file_does_not_change_the_network(tmp_path: Path, published: ModuleType):
    model = build_model("redirt")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = published.checkpoint(seed=0)
    del state["rdball.0.weight_g"]
    torch.save({"model": state}, tmp_path / "w")

    with pytest.raises(ModelError):
        load_weights(model, tmp_path / "w")

    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("name", "cfa"), [("redirt-2rdb", "bayer"), ("redirt", "xtrans")])
def test_weights_of_another_network_are_refused_by_its_name(tmp_path: Path, name: str, cfa: Any):
    save_weights(build_model("redirt"), tmp_path / "w")

    with pytest.raises(ModelError) as error:
        load_weights(build_model(name, cfa), tmp_path / "w")

    assert "holds weights of redirt (bayer)" in one_line(error)


def test_a_pickle_is_not_executed(tmp_path: Path):
    torch.save({"model": Bomb(tmp_path / "exploded")}, tmp_path / "zip")
    (tmp_path / "plain").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))

    for name in ("zip", "plain"):
        with pytest.raises(ModelError) as error:
            load_weights(build_model("redirt"), tmp_path / name)
        assert "not a weights file" in one_line(error)

    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"not weights at all, but text", b"PK\x03\x04broken", b"\x80\x02}q.", bytes(4096)],
)
def test_a_file_that_is_not_a_checkpoint_is_refused_in_one_line(tmp_path: Path, content: bytes):
    (tmp_path / "w").write_bytes(content)

    with pytest.raises(ModelError) as error:
        load_weights(build_model("redirt"), tmp_path / "w")

    assert str(tmp_path / "w") in one_line(error)


def test_a_torch_file_of_something_else_is_refused(tmp_path: Path):
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "w")

    with pytest.raises(ModelError, match="has no key 'model'"):
        load_model(tmp_path / "w")


def test_a_truncated_darkprep_file_is_refused(tmp_path: Path):
    path = tmp_path / "w"
    save_weights(build_model("redirt"), path)
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(ModelError) as error:
        load_model(path)

    assert "damaged" in one_line(error)


def test_an_undecodable_file_name_is_not_reported_as_damage(tmp_path: Path):
    path = tmp_path / os.fsdecode(b"caf\xe9")
    save_weights(build_model("redirt"), path)

    with pytest.raises(ModelError, match=r"a name that is not Unicode, .*; rename it"):
        load_model(path)
    assert load_model(path.rename(tmp_path / "café")).name == "redirt"


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path):
    save_file({"a": torch.zeros(1)}, tmp_path / "w")

    with pytest.raises(ModelError, match="does not hold weights of darkprep"):
        load_model(tmp_path / "w")


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ModelError) as error:
            load_model(path)
        assert f"{path}: cannot be read" in one_line(error)
