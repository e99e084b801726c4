"""A step whose passes are a graph computes what a step without one computes; here a graph is repeated by the CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from darkprep.shards.errors import NonFiniteLoss
from darkprep.trainer import step_graph
from darkprep.trainer.communicator import SingleProcess
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.recipe import Recipe
from darkprep.trainer.step import TrainStep
from darkprep.trainer.step_graph import Outputs
from darkprep.trainer.stream import DeviceBatch
from tests.support.fake_reader import meta_of

CPU = torch.device("cpu")
CONFIG = TrainConfig(model="redirt-2rdb", crop=192, batch_size=2, iterations=6, learning_rate=1e-3)


def batch(index: int, count: int) -> DeviceBatch:
    random = torch.Generator().manual_seed(index)
    return DeviceBatch(
        index=index,
        low=torch.rand(count, 4, 96, 96, generator=random),
        gt=torch.rand(count, 3, 192, 192, generator=random),
        metas=tuple(meta_of(f"{number:08d}-0000") for number in range(count)),
        uses=(0,) * count,
    )


def new_step(*, graph: bool) -> tuple[TrainStep, list[torch.nn.Parameter]]:
    state = Recipe().new_state(CONFIG, CPU)
    step = TrainStep(CONFIG, state, SingleProcess(), CPU, Recipe())
    step._captures = graph
    return step, list(state.network.parameters())


def capture_for(parameters: list[torch.nn.Parameter], runs: list[int]):
    """Return a stand-in for `capture` whose graph writes to the same tensors in each call, as a CUDA graph does."""

    def capture(run: Callable[[], Outputs], device: torch.device):
        outputs = run()
        gradients = [parameter.grad for parameter in parameters]

        def replay() -> None:
            runs.append(1)
            for old, new in zip(outputs, run(), strict=True):
                old.copy_(new)
            for kept, parameter in zip(gradients, parameters, strict=True):
                assert isinstance(kept, Tensor)
                assert isinstance(parameter.grad, Tensor)
                kept.copy_(parameter.grad)

        return replay, outputs

    return capture


def test_a_graph_changes_no_result_and_another_shape_runs_without_it(monkeypatch):
    plain, expected = new_step(graph=False)
    graphed, parameters = new_step(graph=True)
    runs: list[int] = []
    monkeypatch.setattr(step_graph, "capture", capture_for(parameters, runs))

    for index, count in enumerate((2, 2, 1, 2)):
        one = batch(index, count)
        assert torch.equal(graphed(one, index), plain(one, index))

    assert len(runs) == 3
    assert all(map(torch.equal, parameters, expected))
    assert graphed.guard.report() == plain.guard.report()
    assert all(parameter.grad is None for parameter in parameters)


def test_in_a_graph_a_non_finite_loss_does_not_reach_the_weights(monkeypatch):
    step, parameters = new_step(graph=True)
    monkeypatch.setattr(step_graph, "capture", capture_for(parameters, []))
    step(batch(0, 2), 0)
    before = [parameter.detach().clone() for parameter in parameters]
    bad = batch(1, 2)
    bad.gt.fill_(float("nan"))

    with pytest.raises(NonFiniteLoss, match="batch 1 is nan"):
        step(bad, 1)

    assert step.guard.skip == 1
    assert all(map(torch.equal, parameters, before))


def test_a_step_that_cannot_be_captured_runs_without_a_graph(monkeypatch, caplog):
    def refuse(run: Callable[[], Outputs], device: torch.device):
        run()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    plain, expected = new_step(graph=False)
    step, parameters = new_step(graph=True)
    monkeypatch.setattr(step_graph, "capture", refuse)
    for index in range(2):
        step(batch(index, 2), index)
        plain(batch(index, 2), index)

    assert all(map(torch.equal, parameters, expected))
    assert len(caplog.records) == 1
    assert "(operation not permitted when stream is capturing); training continues" in caplog.text
