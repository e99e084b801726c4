"""Validations do not change the training, have a file of their own, and do not count as its time."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from darkprep.shards.errors import OptionError
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.loop import Validation, train
from darkprep.trainer.records import read_summary
from darkprep.trainer.step_timer import StepTimer

pytestmark = pytest.mark.usefixtures("quick_networks")

TINY = TrainConfig(
    model="redirt-2rdb", crop=192, batch_size=2, iterations=4, log_every=1, checkpoint_every=2
)


@pytest.fixture
def open_reader(make_reader):
    return lambda start, allocate: make_reader(start=start)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_network_is_validated_at_intervals_and_at_the_end(tmp_path, open_reader):
    modes = []

    def evaluate(network, iteration):
        modes.append(network.training)
        return {"psnr": 20.0 + iteration}

    config = replace(TINY, iterations=3)
    train(config, open_reader, tmp_path, validation=Validation(every=2, evaluate=evaluate))

    assert lines_of(tmp_path / "evaluations.jsonl") == [
        {"iteration": 2, "psnr": 22.0},
        {"iteration": 3, "psnr": 23.0},
    ]
    assert modes == [False, False]


def test_the_summary_has_the_last_and_the_best_validation(tmp_path, open_reader):
    """Those of before a resumption and after the last step count too."""
    psnr = iter([25.0, 22.0, 23.0])

    def evaluate(network, iteration):
        return {"psnr": next(psnr), "ssim": 0.5}

    validation = Validation(every=3, evaluate=evaluate)
    train(replace(TINY, iterations=2), open_reader, tmp_path, validation=validation)
    longer = replace(TINY, iterations=4)
    summary = train(longer, open_reader, tmp_path, validation=validation, resume=True)

    assert (summary.validation_psnr, summary.validation_ssim) == (23.0, 0.5)
    assert (summary.best_validation_psnr, summary.best_validation_iteration) == (25.0, 2)
    assert read_summary(tmp_path) == summary


def test_validation_changes_no_loss(tmp_path, open_reader):
    def evaluate(network, iteration):
        with torch.inference_mode():
            network(torch.rand(1, 4, 96, 96))
        return {}

    train(TINY, open_reader, tmp_path / "plain")
    train(
        TINY, open_reader, tmp_path / "validated", validation=Validation(every=1, evaluate=evaluate)
    )

    losses = [
        [line["loss"] for line in lines_of(tmp_path / run / "metrics.jsonl")]
        for run in ("plain", "validated")
    ]
    assert losses[0] == losses[1]
    assert not (tmp_path / "validated" / "evaluations.jsonl").exists()


def test_the_time_of_validation_does_not_count_as_training(tmp_path, open_reader):
    def evaluate(network, iteration):
        time.sleep(3.0)
        return {"psnr": 1.0}

    summary = train(
        replace(TINY, iterations=2),
        open_reader,
        tmp_path,
        validation=Validation(every=1, evaluate=evaluate),
    )

    assert summary.seconds < 3.0


def test_a_pause_does_not_change_the_pace():
    timer = StepTimer(lambda: 0.0, torch.device("cpu"))
    timer.start()
    time.sleep(0.05)
    timer.step()
    before = timer.rates()[0]
    with timer.paused():
        time.sleep(0.2)
    time.sleep(0.05)
    timer.step()

    assert timer.rates()[0] == pytest.approx(before, rel=0.5)


def test_a_resumed_run_removes_evaluations_that_will_be_repeated(tmp_path, open_reader):
    train(replace(TINY, iterations=2), open_reader, tmp_path)
    (tmp_path / "evaluations.jsonl").write_text(
        '{"iteration": 2, "psnr": 2}\n{"iteration": 3, "psnr": 3}\n'
    )
    train(TINY, open_reader, tmp_path, resume=True)

    assert lines_of(tmp_path / "evaluations.jsonl") == [{"iteration": 2, "psnr": 2}]


def test_extra_metrics_are_in_every_line_of_metrics(tmp_path, open_reader):
    train(TINY, open_reader, tmp_path, extra_metrics=lambda: {"disk_bytes": 7})

    assert [line["disk_bytes"] for line in lines_of(tmp_path / "metrics.jsonl")] == [7] * 4


def test_an_interval_below_one_is_refused():
    with pytest.raises(OptionError, match="`every` must be at least 1 iteration, not"):
        Validation(every=0, evaluate=lambda network, iteration: {})


def test_tensorboard_gets_held_out_scores_and_hyperparameters(tmp_path, open_reader):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    validation = Validation(every=2, evaluate=lambda network, iteration: {"psnr": 30.0})
    train(TINY, open_reader, tmp_path, validation=validation)

    written = events.EventAccumulator(str(tmp_path / "tensorboard"))
    written.Reload()
    assert [event.value for event in written.Scalars("held-out/psnr")] == [30.0, 30.0]
    assert len(written.Scalars("train/loss")) == 4
    assert "_hparams_/session_start_info" in written.summary_metadata
    assert written.Scalars("summary/samples_per_second")
