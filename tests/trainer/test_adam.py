"""The optimiser of trainings is torch's Adam in all it computes and keeps, and loads no compiler."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from darkprep.trainer.adam import EagerAdam
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.loop import train


def trained(make: type[torch.optim.Adam], steps: int) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """The weights and the optimiser's state after some steps, with a new optimiser that loads the state halfway."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 2, 3))
    optimiser = make(network.parameters(), lr=1e-2, fused=True)
    for step in range(steps):
        network(torch.rand(2, 3, 9, 9)).square().sum().backward()
        assert optimiser.step() is None
        optimiser.zero_grad()
        assert all(one.grad is None for one in network.parameters())
        if step == steps // 2:
            kept = optimiser.state_dict()
            optimiser = make(network.parameters(), lr=1.0, fused=True)
            optimiser.load_state_dict(kept)
    return list(network.parameters()), optimiser.state_dict()


def test_weights_and_state_are_those_of_torch():
    (ours, our_state), (theirs, their_state) = trained(EagerAdam, 6), trained(torch.optim.Adam, 6)

    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert our_state["param_groups"] == their_state["param_groups"]
    assert our_state["state"].keys() == their_state["state"].keys()
    for index, values in their_state["state"].items():
        assert values.keys() == our_state["state"][index].keys()
        assert all(torch.equal(our_state["state"][index][name], values[name]) for name in values)


@pytest.mark.usefixtures("quick_networks")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_loads_no_compiler(tmp_path, make_reader, monkeypatch, precision):
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # an import of it fails
    # An earlier test may have loaded it, which replaces this function.
    monkeypatch.setattr(torch, "manual_seed", torch.random.manual_seed)
    with pytest.raises(ImportError):
        torch.optim.Adam([torch.zeros(1, requires_grad=True)]).step()
    config = TrainConfig(
        model="redirt-2rdb", crop=192, batch_size=2, iterations=1, checkpoint_every=1,
        precision=precision,
    )  # fmt: skip

    train(config, lambda start, _: make_reader(start=start), tmp_path / "run")
    config = replace(config, iterations=2)
    summary = train(
        config, lambda start, _: make_reader(start=start), tmp_path / "run", resume=True
    )

    assert summary.iterations == 2
