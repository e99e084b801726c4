"""A run's log has each step once, also after a crash, and TensorBoard's files where it is installed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from darkprep.shards.errors import DiskFull
from darkprep.trainer.device import GpuMeter
from darkprep.trainer.records import MetricsLine
from darkprep.trainer.run_log import RunLog
from darkprep.trainer.step_timer import StepTimer


def metrics_line(iteration: int, loss: float) -> MetricsLine:
    return MetricsLine(
        iteration=iteration,
        loss=loss,
        learning_rate=1e-4,
        iterations_per_s=2.0,
        samples_per_s=4.0,
        data_wait_fraction=0.01,
        gpu_busy_percent=None,
        shards_deleted=1,
        damaged=0,
        seconds=3.0,
    )


def test_lines_after_the_checkpoint_and_truncated_ones_are_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 5}\n{"iteration": 10}\n{"iteration": 15}\n{"iter')
    line = metrics_line(15, loss=0.5)

    with RunLog(tmp_path, start=10) as log:
        log.write_metrics(line)

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"iteration": 5}, {"iteration": 10}, line.record()]


def test_a_full_disk_is_reported_when_metrics_are_written(tmp_path):
    log = RunLog(tmp_path, start=0)
    log._file.close()
    log._file = Path("/dev/full").open("a")

    with pytest.raises(DiskFull, match="the disk is full"), log:
        log.write_metrics(metrics_line(1, loss=0.5))


def test_the_pace_is_that_of_the_last_steps():
    timer = StepTimer(lambda: 0.0, torch.device("cpu"))
    timer.start()
    assert timer.rates() == (0.0, 0.0)
    for _ in range(100):
        timer.step()
    steps_per_s, waiting = timer.rates()

    assert steps_per_s > 0
    assert waiting == 0


def test_without_a_gpu_its_utilisation_is_unknown():
    assert GpuMeter(torch.device("cpu")).busy_percent() is None
    if not torch.cuda.is_available():
        assert GpuMeter(torch.device("cuda")).busy_percent() is None


def test_tensorboard_gets_the_numbers_and_a_picture(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with RunLog(tmp_path, start=0) as log:
        log.write_metrics(metrics_line(3, loss=0.25))
        log.write_picture(torch.zeros(3, 20, 30), torch.ones(3, 20, 30), 3)

    written = events.EventAccumulator(str(tmp_path / "tensorboard"))
    written.Reload()
    assert [event.value for event in written.Scalars("train/loss")] == [0.25]
    (picture,) = written.Images("restored | truth")
    assert (picture.width, picture.height) == (60, 20)


def test_a_run_with_an_undecodable_name_has_no_tensorboard_files(tmp_path, caplog):
    pytest.importorskip("tensorboard")
    run = tmp_path / os.fsdecode(b"caf\xe9")
    run.mkdir()

    with RunLog(run, start=0) as log:
        log.write_metrics(metrics_line(3, loss=0.25))

    assert [path.name for path in run.iterdir()] == ["metrics.jsonl"]
    (warning,) = caplog.messages
    assert warning.endswith(
        r"caf\udce9: the name is not Unicode, so no TensorBoard files are written; rename the run directory"
    )
