"""Checkpoints are whole or absent, damage is detected, and those of another network are refused."""

from __future__ import annotations

import errno
import io
import logging
import zipfile
from pathlib import Path

import pytest
import torch

from darkprep.model import build_model
from darkprep.shards.errors import DiskFull, WeightsError
from darkprep.trainer.adam import EagerAdam
from darkprep.trainer.checkpoint import Checkpoints, Progress, TrainState, read_checkpoint

CONFIG = {"model": "redirt", "crop": 512, "iterations": 10}


def make_state(name: str = "redirt-2rdb", cfa="bayer") -> TrainState:
    network = build_model(name, cfa)
    return TrainState(
        network=network,
        optimiser=EagerAdam(network.parameters()),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
    )


def same_weights(first: TrainState, second: TrainState) -> bool:
    theirs = second.network.state_dict()
    return all(torch.equal(v, theirs[k]) for k, v in first.network.state_dict().items())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def test_everything_is_restored(folder):
    trained, progress = make_state(), Progress(iteration=7, first_loss=0.5, trained_s=3.0)
    trained.network(torch.rand(1, 4, 16, 16)).mean().backward()
    trained.optimiser.step()
    Checkpoints(folder).save(trained, progress, CONFIG)
    drawn = torch.rand(3)

    fresh = make_state()
    restored = Checkpoints(folder).load_newest(fresh, CONFIG)

    assert restored == progress
    assert same_weights(trained, fresh)
    assert torch.equal(torch.rand(3), drawn), "the random state is restored"
    ours, theirs = trained.optimiser.state_dict(), fresh.optimiser.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    for index, state in ours["state"].items():
        assert all(torch.equal(value, theirs["state"][index][key]) for key, value in state.items())


def test_an_optimiser_of_ones_own_may_have_a_large_state(folder, monkeypatch):
    """L-BFGS and Shampoo keep many times as many numbers as the network has."""

    def state() -> TrainState:
        network = torch.nn.Linear(100, 100)
        optimiser = torch.optim.SGD(network.parameters(), momentum=0.9)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        return TrainState(network=network, optimiser=optimiser, scaler=scaler)

    monkeypatch.setattr("darkprep.trainer.checkpoint._REMAINING_BYTES", 100_000)
    trained = state()
    parameter = next(trained.network.parameters())
    trained.optimiser.state[parameter]["history"] = torch.ones(50, 100, 100)
    Checkpoints(folder).save(trained, Progress(iteration=3), CONFIG)

    assert Checkpoints(folder).load_newest(state(), CONFIG) == Progress(iteration=3)


def test_only_the_newest_are_kept(folder):
    checkpoints = Checkpoints(folder, keep=2)
    for iteration in (5, 10, 15):
        checkpoints.save(make_state(), Progress(iteration=iteration), CONFIG)

    assert sorted(path.name for path in folder.iterdir()) == ["00000010.pt", "00000015.pt"]


def test_skipped_damaged_checkpoints_do_not_count_as_kept_ones(folder):
    for iteration in (5, 20, 30):
        path = Checkpoints(folder).save(make_state(), Progress(iteration=iteration), CONFIG)
        if iteration > 5:
            damage_by_cutting(path)
    checkpoints = Checkpoints(folder, keep=2)
    checkpoints.load_newest(make_state(), CONFIG)

    checkpoints.save(make_state(), Progress(iteration=10), CONFIG)

    assert checkpoints.load_newest(make_state(), CONFIG) == Progress(iteration=10)


def test_without_a_checkpoint_nothing_is_loaded(folder):
    assert Checkpoints(folder).load_newest(make_state(), CONFIG) is None


def damage_by_cutting(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def damage_by_flipping(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_by_emptying(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_by_cutting, damage_by_flipping, damage_by_emptying])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(folder, caplog, damage):
    checkpoints = Checkpoints(folder)
    older = make_state()
    checkpoints.save(older, Progress(iteration=5), CONFIG)
    damage(checkpoints.save(make_state(), Progress(iteration=10), CONFIG))

    fresh = make_state()
    with caplog.at_level(logging.WARNING):
        progress = checkpoints.load_newest(fresh, CONFIG)

    assert progress == Progress(iteration=5)
    assert same_weights(older, fresh)
    assert "00000010.pt: is damaged" in caplog.text


def test_damage_of_all_checkpoints_is_reported(folder):
    damage_by_emptying(Checkpoints(folder).save(make_state(), Progress(iteration=5), CONFIG))

    with pytest.raises(WeightsError, match=r"all checkpoints \(1\) are damaged"):
        Checkpoints(folder).load_newest(make_state(), CONFIG)


def test_a_checkpoint_of_another_network_is_refused_with_its_keys(folder):
    Checkpoints(folder).save(make_state("sid"), Progress(iteration=5), CONFIG)

    with pytest.raises(
        WeightsError, match=r"is of another network: lacks body\.\S+, .* has unknown"
    ):
        Checkpoints(folder).load_newest(make_state(), CONFIG)


def test_a_checkpoint_of_another_configuration_is_refused_with_the_fields(folder):
    Checkpoints(folder).save(make_state(), Progress(iteration=5), CONFIG)
    checkpoints = Checkpoints(folder, must_match=("model", "crop"))

    with pytest.raises(WeightsError, match="was trained with crop 512, not 256; choose the same"):
        checkpoints.load_newest(make_state(), CONFIG | {"crop": 256})

    assert checkpoints.load_newest(make_state(), CONFIG | {"iterations": 20}) is not None


def test_a_pickle_that_would_execute_is_refused(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    folder.mkdir()
    torch.save({"format": 1, "network": Evil()}, folder / "00000001.pt")

    with pytest.raises(WeightsError, match="damaged"):
        read_checkpoint(folder / "00000001.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("record", [3, {"model": {}}, {"format": 99}, {"format": 1, "config": {}}])
def test_a_torch_file_that_is_not_a_checkpoint_is_refused(tmp_path, record):
    torch.save(record, tmp_path / "x.pt")

    with pytest.raises(WeightsError, match=r"not a darkprep checkpoint|has format 99"):
        read_checkpoint(tmp_path / "x.pt")


def test_a_foreign_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as entries:
        entries.writestr("readme", "hello")

    with pytest.raises(WeightsError, match="is damaged"):
        read_checkpoint(tmp_path / "x.pt")


def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(folder, monkeypatch):
    checkpoints = Checkpoints(folder)
    checkpoints.save(make_state(), Progress(iteration=5), CONFIG)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskFull, match="the disk is full"):
        checkpoints.save(make_state(), Progress(iteration=10), CONFIG)

    assert [path.name for path in folder.iterdir()] == ["00000005.pt"]
    assert checkpoints.load_newest(make_state(), CONFIG) == Progress(iteration=5)


def test_torch_alone_would_not_notice_a_flipped_bit(folder):
    """The reason why every entry's checksum is compared before a file is loaded."""
    path = Checkpoints(folder).save(make_state(), Progress(iteration=5), CONFIG)
    damage_by_flipping(path)

    assert torch.load(io.BytesIO(path.read_bytes()), weights_only=True)["format"] == 1
