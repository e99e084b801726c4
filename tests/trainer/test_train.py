"""A training writes its files, stops on request, and resumes at the exact sample."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from darkprep.model import ModelError, load_model, ready_for_inference
from darkprep.shards.batch import Batch
from darkprep.shards.errors import (
    DiskFull,
    NonFiniteLoss,
    OptionError,
    ShardDamaged,
    SpoolBusy,
    SpoolError,
    StreamEnded,
    WeightsError,
)
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.device import open_device
from darkprep.trainer.loop import Validation, train
from darkprep.trainer.loss_guard import LossGuard
from darkprep.trainer.records import StepReport, limiting_side
from tests.support.fake_reader import FakeReader

pytestmark = pytest.mark.usefixtures("quick_networks")

TINY = TrainConfig(
    model="redirt-2rdb",
    crop=192,
    batch_size=2,
    iterations=6,
    log_every=1,
    checkpoint_every=3,
    learning_rate=1e-3,
)


@pytest.fixture
def open_reader(make_reader):
    return lambda start, allocate: make_reader(start=start)


def losses_in(run_dir) -> list[float]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.usefixtures("published_networks")
def test_a_run_writes_all_its_files(tmp_path, open_reader):
    summary = train(TINY, open_reader, tmp_path / "run")

    run = tmp_path / "run"
    assert json.loads((run / "config.json").read_text()) == TINY.record()
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "00000003.pt",
        "00000006.pt",
    ]
    assert load_model(run / "weights.safetensors").name == "redirt-2rdb"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["learning_rate"] for line in lines] == pytest.approx([1e-3] * 3 + [1e-4] * 3)
    record = json.loads((run / "summary.json").read_text())
    assert record == vars(summary)
    assert record["iterations"] == 6
    assert record["samples"] == 12
    assert record["first_loss"] == lines[0]["loss"]
    assert record["last_loss"] == lines[-1]["loss"]
    assert record["shards_deleted"] == 6
    assert record["ended"] == "finished"
    assert record["parameters"] == 581_792
    assert 0 <= record["data_wait_fraction"] <= 1


@pytest.mark.usefixtures("published_networks")
def test_a_resumed_run_has_exactly_the_losses_of_an_uninterrupted_one(tmp_path, open_reader):
    longer = replace(TINY, iterations=8)
    train(longer, open_reader, tmp_path / "whole")
    stop = threading.Event()

    def stop_after_four(report):
        if report.iteration == 4:
            stop.set()

    stopped = train(longer, open_reader, tmp_path / "cut", on_step=stop_after_four, stop=stop)
    resumed = train(longer, open_reader, tmp_path / "cut", resume=True)

    assert (stopped.ended, stopped.iterations) == ("stopped", 4)
    assert (resumed.ended, resumed.iterations, resumed.samples) == ("finished", 8, 16)
    assert losses_in(tmp_path / "cut") == losses_in(tmp_path / "whole")
    ours, theirs = (load_model(tmp_path / n / "weights.safetensors") for n in ("cut", "whole"))
    expected = theirs.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in ours.state_dict().items())


def test_a_crash_after_a_checkpoint_repeats_the_steps_since_and_logs_each_once(
    tmp_path, open_reader, make_reader
):
    def crash(index: int) -> None:
        if index == 5:
            raise RuntimeError("killed")

    train(TINY, open_reader, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="killed"):
        train(TINY, lambda start, _: make_reader(start=start, before=crash), tmp_path / "cut")
    train(TINY, open_reader, tmp_path / "cut", resume=True)

    assert losses_in(tmp_path / "cut") == losses_in(tmp_path / "whole")


@pytest.mark.usefixtures("published_networks")
def test_the_loss_falls_on_one_repeated_batch(tmp_path, make_reader):
    config = replace(TINY, iterations=30, learning_rate=2e-3, augment="none", log_every=10)
    summary = train(config, lambda start, _: make_reader(advance=False), tmp_path / "run")

    assert summary.first_loss and summary.last_loss
    assert summary.last_loss < 0.6 * summary.first_loss


def test_a_non_finite_loss_names_the_samples_and_does_not_change_the_weights(tmp_path, make_reader):
    def poison(batch: Batch) -> Batch:
        if batch.index == 4:
            # No shard can hold such a value; a network that diverged makes it.
            object.__setattr__(batch.metas[1], "amplification", float("nan"))
        return batch

    seen = []
    with pytest.raises(
        NonFiniteLoss, match=r"loss of batch 4 is nan.* 00000004-0000, 00000004-0001"
    ):
        train(
            TINY,
            lambda start, _: make_reader(start=start, alter=poison),
            tmp_path / "run",
            on_step=lambda report: seen.append(report.iteration),
        )

    assert seen == [1, 2, 3, 4]
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["00000003.pt"]


def too_much_for_cuda() -> None:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")


def too_much_for_the_host() -> None:
    torch.empty(1 << 55, dtype=torch.uint8)


def too_much_for_numpy() -> None:
    raise MemoryError


@pytest.mark.parametrize("too_much", [too_much_for_cuda, too_much_for_the_host, too_much_for_numpy])
def test_a_batch_too_large_for_the_device_is_reported_in_one_line(tmp_path, make_reader, too_much):
    def refuse(index: int) -> None:
        too_much()

    with pytest.raises(OptionError, match="device cpu: not enough memory for batch_size 2 in fp32"):
        train(TINY, lambda start, _: make_reader(before=refuse), tmp_path / "run")


def test_the_end_of_the_stream_ends_the_run_normally(tmp_path, make_reader):
    readers = []

    def open_reader(start, allocate):
        readers.append(make_reader(start=start, stop_after=2))
        return readers[-1]

    summary = train(TINY, open_reader, tmp_path / "run")

    assert (summary.ended, summary.iterations) == ("stream ended", 2)
    assert readers[0].closed
    assert (tmp_path / "run" / "weights.safetensors").exists()


def test_when_no_producer_is_left_there_is_a_checkpoint_to_resume_from(tmp_path, make_reader):
    def abandon(index: int) -> None:
        if index == 2:
            raise StreamEnded("shard 7 is missing")

    with pytest.raises(StreamEnded):
        train(TINY, lambda start, _: make_reader(start=start, before=abandon), tmp_path / "run")

    assert (tmp_path / "run" / "checkpoints" / "00000002.pt").exists()


SHORT = replace(TINY, iterations=3, checkpoint_every=100)


@pytest.fixture
def undisturbed(tmp_path) -> list[float]:
    """The losses of SHORT."""
    run = tmp_path / "undisturbed"
    train(SHORT, lambda start, _: FakeReader(start=start), run)
    return losses_in(run)


@pytest.mark.parametrize(
    "error",
    [
        SpoolError("spool/cursors: does not exist"),
        pytest.param(
            SpoolError("spool: cannot be written (Read-only file system)"), marks=pytest.mark.slow
        ),
        pytest.param(ShardDamaged("spool/ready/00000001.tar: is damaged"), marks=pytest.mark.slow),
        OSError(errno.EIO, "Input/output error", "spool/ready/00000001.tar"),
        MemoryError(),
        RuntimeError("an error of the code"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_any_error_of_the_reader_leaves_a_checkpoint_and_no_loss_changes(
    tmp_path, open_reader, make_reader, undisturbed, error
):
    def fail(index: int) -> None:
        if index == 2:
            raise error

    kind = OptionError if isinstance(error, MemoryError) else type(error)
    with pytest.raises(kind):
        train(SHORT, lambda start, _: make_reader(start=start, before=fail), tmp_path / "cut")
    assert [path.name for path in (tmp_path / "cut/checkpoints").iterdir()] == ["00000002.pt"]

    train(SHORT, open_reader, tmp_path / "cut", resume=True)
    assert losses_in(tmp_path / "cut") == undisturbed


@pytest.mark.parametrize("place", ["step", "close", "validation"])
def test_an_error_after_the_last_step_costs_neither_checkpoint_nor_weights(
    tmp_path, make_reader, place
):
    def fail(*_: object) -> None:
        raise RuntimeError("too late")

    def open_reader(start, allocate):
        reader = make_reader(start=start)
        reader.close = fail if place == "close" else reader.close
        return reader

    config = replace(TINY, iterations=1)
    with pytest.raises(RuntimeError, match="too late"):
        train(
            config,
            open_reader,
            tmp_path / "run",
            on_step=fail if place == "step" else None,
            validation=Validation(every=5, evaluate=fail) if place == "validation" else None,
        )

    assert (tmp_path / "run/checkpoints/00000001.pt").exists()
    assert load_model(tmp_path / "run/weights.safetensors").name == "redirt-2rdb"
    assert train(config, fail, tmp_path / "run", resume=True).ended == "finished"
    assert (tmp_path / "run/summary.json").exists()


def test_no_checkpoint_is_written_of_weights_that_a_step_was_changing(
    tmp_path, open_reader, monkeypatch
):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("torch.amp.GradScaler.update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(TINY, open_reader, tmp_path / "run")

    assert not (tmp_path / "run/checkpoints").exists()


class OwnNet(torch.nn.Module):
    """The smallest network that keeps to the contract."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(4, 12, 1), torch.nn.PixelShuffle(2))

    def forward(self, low: torch.Tensor) -> torch.Tensor:
        restored: torch.Tensor = self.layers(low)
        return restored


def own_loss(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.mse_loss(restored, target)


def test_network_loss_optimiser_and_schedule_are_replaced(tmp_path, open_reader):
    own = {
        "network": OwnNet,
        "loss": own_loss,
        "optimiser": lambda parameters: torch.optim.SGD(parameters, lr=0.5, momentum=0.9),
        "schedule": lambda step: 0.1 / (step + 1),
    }
    config = replace(TINY, model="redirt", iterations=4, checkpoint_every=2, keep_checkpoints=9)
    train(config, open_reader, tmp_path / "whole", **own)

    (tmp_path / "cut").mkdir()
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(tmp_path / "whole" / name, tmp_path / "cut")
    (tmp_path / "cut/checkpoints").mkdir()
    shutil.copy(tmp_path / "whole/checkpoints/00000002.pt", tmp_path / "cut/checkpoints")
    train(config, open_reader, tmp_path / "cut", resume=True, **own)

    assert losses_in(tmp_path / "cut") == losses_in(tmp_path / "whole")
    lines = (tmp_path / "whole/metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line)["learning_rate"] for line in lines]
    assert rates == pytest.approx([0.1, 0.05, 0.1 / 3, 0.025])
    recorded = json.loads((tmp_path / "whole/config.json").read_text())
    assert (recorded["model"], recorded["loss"]) == (
        f"{__name__}:OwnNet",
        f"{__name__}:own_loss",
    )
    weights = tmp_path / "whole/weights.safetensors"
    with pytest.raises(ModelError, match=r"holds weights of .*:OwnNet, a network of your own"):
        load_model(weights)
    network = ready_for_inference(load_model(weights, network=OwnNet))
    assert network(torch.rand(1, 4, 30, 50)).shape == (1, 3, 60, 100)
    with pytest.raises(OptionError, match="imports only code that you name yourself"):
        train(TrainConfig.from_record(recorded), open_reader, tmp_path / "cut", resume=True)


def test_an_optimiser_without_a_schedule_keeps_its_own_learning_rate(tmp_path, open_reader):
    train(
        replace(TINY, iterations=2),
        open_reader,
        tmp_path / "run",
        network=OwnNet(),
        optimiser=lambda parameters: torch.optim.SGD(parameters, lr=0.25),
    )

    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["learning_rate"] for line in lines] == [0.25, 0.25]


def test_a_stop_while_waiting_for_a_shard_ends_the_run_normally(tmp_path, make_reader):
    stop = threading.Event()

    def stop_waiting(index: int) -> None:
        if index == 2:
            stop.set()
            raise StreamEnded("stopped")

    summary = train(
        TINY,
        lambda start, _: make_reader(start=start, before=stop_waiting),
        tmp_path / "run",
        stop=stop,
    )

    assert (summary.ended, summary.iterations) == ("stopped", 2)
    assert (tmp_path / "run" / "checkpoints" / "00000002.pt").exists()


def test_a_run_that_is_stopped_while_it_waits_reports_that_the_data_limits_it(
    tmp_path, make_reader
):
    stop = threading.Event()
    requested: list[float] = []

    def wait_long(index: int) -> None:
        requested.append(time.monotonic())
        if index == 2:
            time.sleep(5 * (requested[2] - requested[0]))
            stop.set()
            raise StreamEnded("stopped")

    summary = train(
        TINY,
        lambda start, _: make_reader(start=start, before=wait_long),
        tmp_path / "run",
        stop=stop,
    )

    assert (summary.iterations, summary.ended) == (2, "stopped")
    assert summary.data_wait_fraction > 0.7
    assert "the data limits the pace" in summary.limiting_side


def test_counts_continue_in_a_resumed_run(tmp_path, make_reader):
    def damaging(start, allocate):
        reader = make_reader(start=start)
        reader.stats.damaged = 2
        return reader

    train(replace(TINY, iterations=3), damaging, tmp_path / "run")
    resumed = train(TINY, damaging, tmp_path / "run", resume=True)

    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["damaged"] for line in lines] == [2] * 3 + [4] * 3
    assert resumed.damaged_shards == 4


def test_resuming_a_finished_run_changes_nothing(tmp_path, open_reader):
    config = replace(TINY, iterations=2)
    done = train(config, open_reader, tmp_path / "run")

    again = train(config, open_reader, tmp_path / "run", resume=True)

    assert replace(again, first_batch_seconds=0) == replace(done, first_batch_seconds=0)


def test_a_full_disk_at_a_checkpoint_stops_the_run_and_keeps_the_older_one(
    tmp_path, open_reader, make_reader, monkeypatch
):
    readers = []

    def remember(start, allocate):
        readers.append(make_reader(start=start))
        return readers[-1]

    def fill_disk(report: StepReport) -> None:
        if report.iteration == 4:

            def full(*_: object) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            monkeypatch.setattr("os.fsync", full)

    with pytest.raises(DiskFull, match=r"checkpoints: the disk is full"):
        train(TINY, remember, tmp_path / "run", on_step=fill_disk)
    monkeypatch.undo()

    assert readers[0].closed
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["00000003.pt"]
    assert train(TINY, open_reader, tmp_path / "run", resume=True).iterations == 6


def test_a_second_training_in_a_directory_is_refused_and_changes_nothing(tmp_path, open_reader):
    run, messages = tmp_path / "run", []

    def start_another(report: StepReport) -> None:
        before = sorted(path.name for path in run.iterdir())
        with pytest.raises(SpoolBusy) as error:
            train(TINY, open_reader, run, resume=True)
        messages.append(str(error.value))
        assert sorted(path.name for path in run.iterdir()) == before

    train(replace(TINY, iterations=1), open_reader, run, on_step=start_another)

    (message,) = messages
    assert message.startswith(f"{run}: a training run is already running (pid {os.getpid()}")
    assert message.endswith("close it first or choose another --run")
    assert len(losses_in(run)) == 1
    train(TINY, open_reader, run, resume=True)


def test_a_used_directory_is_refused_and_so_is_resuming_another_run(tmp_path, open_reader):
    config = replace(TINY, iterations=1)
    train(config, open_reader, tmp_path / "run")

    with pytest.raises(OptionError, match="already holds a run; resume it with --resume"):
        train(config, open_reader, tmp_path / "run")
    other = replace(config, model="redirt", seed=4)
    with pytest.raises(WeightsError, match="model 'redirt-2rdb', not 'redirt'; seed 0, not 4"):
        train(other, open_reader, tmp_path / "run", resume=True)


def test_resuming_without_a_checkpoint_starts_the_run(tmp_path, open_reader):
    summary = train(replace(TINY, iterations=1), open_reader, tmp_path / "run", resume=True)

    assert summary.iterations == 1


@pytest.mark.usefixtures("published_networks")
@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_lower_precisions_train(tmp_path, open_reader, precision):
    config = replace(TINY, iterations=1, precision=precision)

    summary = train(config, open_reader, tmp_path / precision)
    exact = train(replace(config, precision="fp32"), open_reader, tmp_path / "fp32")

    resumed = train(replace(config, iterations=2), open_reader, tmp_path / precision, resume=True)

    assert summary.first_loss == pytest.approx(exact.first_loss, rel=0.02)
    assert resumed.last_loss == pytest.approx(exact.last_loss, rel=0.5)


def test_reports_follow_every_step(tmp_path, open_reader):
    reports: list[StepReport] = []

    train(replace(TINY, iterations=3), open_reader, tmp_path / "run", on_step=reports.append)

    assert [report.iteration for report in reports] == [1, 2, 3]
    assert [report.loss for report in reports] == losses_in(tmp_path / "run")
    assert reports[-1].eta_s == 0
    assert reports[-1].samples_per_s == pytest.approx(2 * reports[-1].iterations_per_s)
    assert reports[-1].gpu_busy_percent is None


@pytest.mark.usefixtures("published_networks")
def test_xtrans_trains(tmp_path, make_reader):
    config = replace(TINY, cfa="xtrans", iterations=1, batch_size=1)

    summary = train(
        config,
        lambda start, _: make_reader(start=start, side=198, batch_size=1, cfa="xtrans"),
        tmp_path / "run",
    )

    assert np.isfinite(summary.last_loss)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "model",
            "resnet",
            "model must be one of redirt, redirt-2rdb, redirt-gn, sid, unet, nafnet, not 'resnet'",
        ),
        ("crop", 200, "crop must be a multiple of 32 for bayer, not 200"),
        ("crop", 160, "crop must be at least 161"),
        ("reuse", 0, "reuse must be at least 1, not 0"),
        ("reuse", 10**9, "reuse must be at most 1,000"),
        ("iterations", 10**24, "iterations must be at most 1,000,000,000"),
        ("seed", 10**24, "seed must be below 2"),
        ("precision", "fp8", "precision must be one of fp32, fp16, bf16, not 'fp8'"),
        ("learning_rate", 0, "learning_rate must be between 0 and 1"),
        ("seed", -1, "seed must be at least 0"),
        ("augment", "flip", "augment must be one of cfa, paper, none"),
    ],
)
def test_an_invalid_setting_is_refused_by_name(field, value, message):
    with pytest.raises(OptionError, match=message):
        replace(TINY, **{field: value})


def test_devices_are_opened_by_name_or_refused():
    assert open_device("cpu") == torch.device("cpu")
    assert open_device("auto").type in ("cpu", "cuda")
    for name in ("tpu", "meta", "cuda:99"):
        with pytest.raises(OptionError, match="device"):
            open_device(name)


def test_the_summary_states_the_limiting_side():
    assert "the cpu limits" in limiting_side(0.001, device="cpu")
    assert "nearly as fast" in limiting_side(0.05, device="cpu")
    assert "the data limits the pace: the cuda waited for it 40.0%" in limiting_side(
        0.4, device="cuda"
    )


@pytest.mark.usefixtures("published_networks")
@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_between_two_log_lines_a_cuda_run_never_waits_for_the_device(
    tmp_path, open_reader, precision
):
    def forbid_waiting(report: StepReport) -> None:
        if report.iteration == 4:
            torch.cuda.set_sync_debug_mode("error")
        if report.iteration == 10:
            torch.cuda.set_sync_debug_mode("default")

    config = replace(
        TINY, iterations=12, log_every=12, checkpoint_every=12, device="cuda", precision=precision
    )

    try:
        summary = train(config, open_reader, tmp_path / "run", on_step=forbid_waiting)
    finally:  # a failure must not forbid it to the tests that follow
        torch.cuda.set_sync_debug_mode("default")

    assert summary.last_loss is not None


@pytest.mark.usefixtures("published_networks")
@pytest.mark.gpu
def test_a_cuda_run_has_the_losses_of_a_cpu_run(tmp_path, open_reader):
    train(TINY, open_reader, tmp_path / "cpu")
    train(replace(TINY, device="cuda"), open_reader, tmp_path / "cuda")

    assert losses_in(tmp_path / "cuda") == pytest.approx(losses_in(tmp_path / "cpu"), rel=1e-2)


@pytest.mark.usefixtures("published_networks")
@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "rel"), [("fp32", 1e-3), ("fp16", 1e-2), ("bf16", 1e-2)])
def test_a_run_with_a_cuda_graph_has_the_losses_of_one_without_also_when_resumed(
    tmp_path, open_reader, monkeypatch, caplog, precision, rel
):
    def refuse(*_):
        raise RuntimeError("operation not permitted when stream is capturing")

    def stop_after_four(report):
        if report.iteration == 4:
            stop.set()

    config, stop = replace(TINY, device="cuda", precision=precision), threading.Event()
    train(config, open_reader, tmp_path / "graph")
    train(config, open_reader, tmp_path / "cut", on_step=stop_after_four, stop=stop)
    train(config, open_reader, tmp_path / "cut", resume=True)
    assert "CUDA graph" not in caplog.text
    monkeypatch.setattr("darkprep.trainer.step_graph.capture", refuse)
    train(config, open_reader, tmp_path / "plain")

    assert "cannot be captured as a CUDA graph (operation not permitted" in caplog.text
    assert losses_in(tmp_path / "graph") == pytest.approx(losses_in(tmp_path / "plain"), rel=rel)
    assert losses_in(tmp_path / "cut") == pytest.approx(losses_in(tmp_path / "plain"), rel=rel)


@pytest.mark.gpu
@pytest.mark.parametrize("reported_by", ["report", "the next check"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_non_finite_loss_on_cuda_never_reaches_the_weights(precision, reported_by):
    device = torch.device("cuda")
    weight = torch.nn.Parameter(torch.ones(3, device=device))
    optimiser = torch.optim.Adam([weight], fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")
    guard = LossGuard(device)

    class Batch:
        index, keys = 7, ("00000003-0001",)

    # Before the loss that must stay pending: loading a kernel may wait for the device.
    guard.check((weight * 1).sum(), Batch)
    assert guard.report(wait=True) == [3.0]

    torch.cuda._sleep(400_000_000)  # type: ignore[no-untyped-call]
    loss = guard.check((weight * float("nan")).sum(), Batch)
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    if not scaler.is_enabled():
        optimiser.found_inf = guard.skip  # type: ignore[attr-defined]
    scaler.step(optimiser)

    assert torch.equal(weight.detach().cpu(), torch.ones(3))
    with pytest.raises(NonFiniteLoss, match=r"batch 7 is nan.*00000003-0001"):
        if reported_by == "report":
            guard.report(wait=True)
        else:
            guard.check(weight.sum(), Batch)
