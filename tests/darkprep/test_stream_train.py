"""`stream-train`: producers started and stopped, shards deleted, runs written and resumed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from darkprep.jobs.train import training_cameras
from darkprep.model import load_model
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.planner import make_plan
from darkprep.pipeline.produce.budget import smallest_budget
from darkprep.pipeline.raw.camera_colours import cameras_from_text
from darkprep.shards import Spool
from darkprep.shards.files import json_bytes
from darkprep.shards.plan_record import ProducerSettings
from darkprep.trainer.run_files import training_lock
from tests.support.command_line import snapshot

pytestmark = pytest.mark.usefixtures("quick_networks")

TRAIN = ("stream-train", "--batch-size", "2", "--log-every", "1", "--device", "cpu")
NO_PRODUCERS = ("--producers", "0")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def summary(run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(run, "summary.json").read_text())
    return found


def metrics(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


@contextlib.contextmanager
def sigterm_when(happened: Callable[[], bool]) -> Iterator[None]:
    """Send this process SIGTERM as soon as a condition holds, while the block runs."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            if happened():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.usefixtures("published_networks")
def test_a_training_starts_a_producer_deletes_used_shards_and_stops_it(call, large_spool):
    """Six steps of two samples need shard 3, but the plan's epochs end with shard 1."""
    trained = call(*TRAIN, "--iterations", "6", "--run", "run")

    assert trained.exit_code == 0, trained.output
    assert "no producer is running, so one was started in the background" in trained.output
    assert "finished after 6 iterations" in trained.stdout
    assert "run in run" in trained.stdout
    done = summary("run")
    assert (done["iterations"], done["samples"], done["ended"]) == (6, 12, "finished")
    assert done["parameters"] == 784_768
    assert done["shards_deleted"] >= 2
    assert 0 <= done["data_wait_fraction"] <= 1
    spool = Spool(large_spool).open()
    assert min(spool.ready_shards()) == spool.oldest_needed() >= 2
    assert not spool.has_producer()
    assert not spool.has_trainer()


def test_a_run_leaves_what_it_produced(call, large_spool):
    result = call(*TRAIN, *NO_PRODUCERS, "--iterations", "2", "--run", "runs/first")

    assert result.exit_code == 0
    left = {path.name for path in Path("runs/first").iterdir()}
    assert left >= {
        *("config.json", "metrics.jsonl", "summary.json", "weights.safetensors", "checkpoints")
    }
    assert [line["iteration"] for line in metrics("runs/first")] == [1, 2]
    config = json.loads(Path("runs/first/config.json").read_text())
    assert (config["camera"], config["plan"]) == ("sony", Spool(large_spool).open().digest)
    weights = load_model(Path("runs/first/weights.safetensors"))
    assert weights.name == "redirt"
    assert [one.camera for one in cameras_from_text(weights.cameras)] == ["darkprep Synthetic"]
    # A spool of an older version does not record them.
    recorded = Spool(large_spool).open()
    assert training_cameras(recorded) == weights.cameras
    assert recorded.plan.cameras
    without = replace(recorded.plan, cameras=())
    assert without.digest == recorded.digest
    (large_spool / "plan.json").write_bytes(json_bytes(without.to_json()))
    assert training_cameras(Spool(large_spool).open()) == weights.cameras


def test_without_producers_a_finished_plan_ends_the_training_without_error(call, large_spool):
    result = call(*TRAIN, *NO_PRODUCERS, "--iterations", "100", "--run", "run")

    assert result.exit_code == 0
    assert "stream ended after 4 iterations" in result.stdout
    assert (summary("run")["samples"], summary("run")["shards_deleted"]) == (8, 2)
    assert not list((large_spool / "ready").iterdir())


def test_without_producers_a_missing_shard_is_named_and_finished_steps_are_kept(
    complaint, large_spool
):
    (large_spool / "ready/00000001.tar").unlink()

    line = complaint(*TRAIN, *NO_PRODUCERS, "--iterations", "9", "--run", "run", "--quiet")

    assert line.startswith(
        "spool: shard 1 is missing and no producer is running; run `darkprep build`"
    )
    assert list(Path("run/checkpoints").glob("*.pt"))


def test_a_training_that_fails_prints_the_command_that_continues_it(call, large_spool):
    (large_spool / "ready/00000001.tar").unlink()

    result = call(*TRAIN, *NO_PRODUCERS, "--iterations", "9", "--run", "my run")

    assert result.exit_code == 1
    command = "darkprep stream-train --resume --run 'my run' --producers 0"
    assert f"to continue: {command}\n" in result.stderr


@pytest.mark.parametrize("run", ["spool", "spool/run", "link/run"])
def test_a_run_inside_the_spool_is_refused(run, complaint, large_spool):
    Path("link").symlink_to(large_spool)
    before = snapshot(large_spool)

    line = complaint(*TRAIN, *NO_PRODUCERS, "--iterations", "1", "--run", run)

    assert line.startswith(f"{run}: is the spool or inside it")
    assert line.endswith("choose another --run")
    assert snapshot(large_spool).keys() - {"cursors/lock"} == before.keys()


@pytest.mark.parametrize("named", [("--run", "runs/mine"), ()])
def test_a_run_in_use_by_another_training_is_refused_before_anything_is_written(
    named, complaint, call, large_spool
):
    run = Path("runs/mine")
    call(*TRAIN, *NO_PRODUCERS, "--iterations", "1", "--run", run)
    before = snapshot(run)

    with training_lock(run):
        held = snapshot(run)  # the lock names its holder
        line = complaint(*TRAIN, *NO_PRODUCERS, "--iterations", "2", *named, "--resume")
        assert snapshot(run) == held

    assert line.startswith("runs/mine: a training run is already running (pid ")
    assert held.keys() == before.keys()


def test_kept_shards_are_used_again_and_not_deleted(call, large_spool):
    before = snapshot(large_spool / "ready")

    result = call(*TRAIN, "--keep-shards", "--iterations", "6", "--run", "run")

    assert result.exit_code == 0
    assert "started a producer" not in result.output
    assert (summary("run")["iterations"], summary("run")["shards_deleted"]) == (6, 0)
    assert snapshot(large_spool / "ready") == before


@pytest.mark.parametrize(("name", "value"), [("jobs", "two"), ("jobs", -2), ("budget_bytes", [1])])
def test_an_invalid_value_in_the_plan_is_named(complaint, large_spool, name, value):
    plan = json.loads((large_spool / "plan.json").read_text())
    plan["place"][name] = value
    (large_spool / "plan.json").write_text(json.dumps(plan))

    line = complaint(*TRAIN, "--iterations", "1", "--quiet")

    assert line.startswith(f"spool/plan.json: {name} {value!r} is invalid")


@pytest.mark.parametrize("value", ["20GB", [1], -1, 1.5, 10**400])
def test_a_status_names_an_invalid_budget_in_the_plan(complaint, large_spool, value):
    plan = json.loads((large_spool / "plan.json").read_text())
    plan["place"]["budget_bytes"] = value
    (large_spool / "plan.json").write_text(json.dumps(plan))
    for heartbeat in (large_spool / "producers").glob("*.json"):
        heartbeat.unlink()

    line = complaint("status", "--spool", large_spool)

    assert line.startswith(f"spool/plan.json: budget_bytes {value!r} is invalid")


def test_the_shards_of_an_endless_plan_cannot_be_kept(complaint, large_data):
    options = PlanOptions(camera="sony", crop=192, samples_per_shard=8, epochs=None)
    make_plan(large_data, options).save(Spool("spool"))

    line = complaint(*TRAIN, "--keep-shards", "--iterations", "2", "--quiet")

    assert (
        line
        == "--keep-shards needs a spool with a finite number of epochs, but this one was built with --epochs inf; build another spool with --epochs N"
    )


def test_sigterm_leaves_a_checkpoint_and_resume_continues_from_it(call, large_spool):
    keep = ("--keep-shards", "--run", "run")
    log = Path("run/metrics.jsonl").absolute()

    with sigterm_when(lambda: log.exists() and log.stat().st_size > 0):
        stopped = call(*TRAIN, *keep, "--iterations", "1000")

    assert stopped.exit_code == 0
    first = summary("run")
    assert first["ended"] == "stopped"
    resumed = call(*TRAIN, *keep, "--iterations", str(first["iterations"] + 2), "--resume")
    assert resumed.exit_code == 0
    second = summary("run")
    assert (second["iterations"], second["ended"]) == (first["iterations"] + 2, "finished")
    assert second["first_loss"] == first["first_loss"]
    assert [line["iteration"] for line in metrics("run")] == [*range(1, second["iterations"] + 1)]


def test_a_run_is_not_resumed_with_fewer_iterations_than_it_has_done(call, complaint, large_spool):
    train = (*TRAIN, "--keep-shards", "--run", "run", "--quiet")
    assert call(*train, "--iterations", "3").exit_code == 0
    before = snapshot(Path("run"))

    line = complaint(*train, "--iterations", "2", "--resume")

    assert line == "iterations must be at least 3, the number already done in run, not 2"
    after = snapshot(Path("run"))
    assert after | {"lock": before["lock"]} == before  # the lock names who held it last
    assert call(*train, "--iterations", "3", "--resume").exit_code == 0


def test_resume_without_a_name_continues_the_newest_run(call, large_spool):
    for name in ("2025-01-01T00-00-00", "of-my-own", "2024-01-01T00-00-00"):
        train = (*TRAIN, "--keep-shards", "--iterations", "1", "--run", f"runs/{name}")
        assert call(*train).exit_code == 0

    result = call(*TRAIN, "--keep-shards", "--iterations", "2", "--resume")

    assert result.exit_code == 0
    assert "run in runs/2024-01-01T00-00-00" in result.stdout
    assert summary("runs/2025-01-01T00-00-00")["iterations"] == 1


def test_a_run_without_a_name_is_named_after_its_start_time(call, large_spool):
    for _ in range(2):
        assert call(*TRAIN, "--keep-shards", "--iterations", "1").exit_code == 0

    runs = sorted(path.name for path in Path("runs").iterdir())
    assert len(runs) == 2
    assert all(name.startswith("20") for name in runs)


def test_a_used_run_directory_is_refused(call, complaint, large_spool):
    train = (*TRAIN, "--keep-shards", "--iterations", "1", "--run", "run", "--quiet")
    assert call(*train).exit_code == 0
    before = snapshot(Path("run"))

    # Not quiet: one line and no word of a training to come.
    assert complaint(*train[:-1]).startswith("run: already holds a run; ")
    assert snapshot(Path("run")) == before


def test_a_run_directory_that_is_a_file_is_refused_before_anything_is_printed(
    complaint, large_spool
):
    Path("file").write_text("")

    train = (*TRAIN, *NO_PRODUCERS, "--iterations", "1", "--run", "file")
    assert complaint(*train) == "file: is a file; give --run a directory"


@pytest.mark.parametrize("named", [("--run", "runs/mine"), ()])
def test_where_there_is_nothing_to_resume_a_run_starts_and_the_same_command_finishes_it(
    named, call, large_spool
):
    train = (*TRAIN, "--keep-shards", "--iterations", "2", "--resume", *named)

    first, second = call(*train), call(*train)

    assert "no run to resume: starting one in runs/" in first.stderr
    assert "finished after 2 iterations" in first.stdout
    assert second.exit_code == 0
    assert "the run is finished, 2 of 2 iterations" in second.stderr
    assert len(list(Path("runs").iterdir())) == 1


@pytest.mark.usefixtures("published_networks")
def test_a_resumed_run_keeps_its_own_settings(call, large_spool):
    own = ("--keep-shards", "--iterations", "4", "--learning-rate", "0.002", "--seed", "5")
    whole = call(*TRAIN, *own, "--run", "whole", "--model", "redirt-2rdb")
    log = Path("run/metrics.jsonl").absolute()
    with sigterm_when(lambda: log.exists() and log.stat().st_size > 0):
        stopped = call(*TRAIN, *own, "--run", "run", "--model", "redirt-2rdb")
    before = Path("run/config.json").read_text()

    resumed = call("stream-train", "--resume", "--run", "run")

    assert whole.exit_code == stopped.exit_code == resumed.exit_code == 0
    assert "to continue: darkprep stream-train --resume --run run\n" in stopped.stdout
    assert Path("run/config.json").read_text() == before
    assert [line["loss"] for line in metrics("run")] == [line["loss"] for line in metrics("whole")]
    assert (summary("run")["iterations"], summary("run")["shards_deleted"]) == (4, 0)


@pytest.mark.parametrize("spool", ["spool", "gone"])
def test_a_finished_run_stays_finished_and_unchanged(spool, call, large_spool):
    call(*TRAIN, "--keep-shards", "--iterations", "2", "--run", "run")
    before = snapshot(Path("run"))

    resumed = call("stream-train", "--resume", "--run", "run", "--spool", spool)

    assert resumed.exit_code == 0
    assert "run: the run is finished, 2 of 2 iterations; nothing was changed" in resumed.stderr
    assert snapshot(Path("run")) == before


def test_an_option_given_with_resume_overrides_and_its_effect_on_the_learning_rate_is_printed(
    call, large_spool
):
    call(*TRAIN, "--keep-shards", "--iterations", "2", "--run", "run")

    resumed = call("stream-train", "--resume", "--run", "run", "--iterations", "6")

    assert "resuming run after 2 of 6 iterations" in resumed.stderr
    assert "--iterations 6 instead of 2" in resumed.stderr
    assert (
        "learning rate 0.0001 up to iteration 3, then 1e-05: iteration 3 has 0.0001, before it was 1e-05"
        in resumed.stderr
    )
    assert json.loads(Path("run/config.json").read_text())["iterations"] == 6
    assert [line["learning_rate"] for line in metrics("run")][2:] == [1e-4, 1e-5, 1e-5, 1e-5]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "config.json: is missing, so the settings of the run are unknown; "),
        ("{", "config.json: is damaged, so the settings of the run are unknown; "),
        ("{}", "config.json: model is missing; "),
        ({"iterations": "many"}, "config.json: iterations is not valid: 'many'; "),
        ({"reuse": 10**6}, "config.json: reuse must be at most 1,000, not 1000000; "),
    ],
)
def test_a_run_whose_settings_are_unknown_is_not_resumed_with_others(
    content, said, call, complaint, large_spool
):
    call(*TRAIN, "--keep-shards", "--iterations", "1", "--run", "run")
    path = Path("run/config.json")
    if isinstance(content, dict):
        content = json.dumps(json.loads(path.read_text()) | content)
    path.unlink() if content is None else path.write_text(content)

    line = complaint("stream-train", "--resume", "--run", "run")

    assert line.startswith(f"run/{said}")


def test_resuming_with_another_network_is_refused(call, complaint, large_spool):
    train = (*TRAIN, "--keep-shards", "--run", "run", "--quiet")
    assert call(*train, "--iterations", "1").exit_code == 0

    line = complaint(*train, "--iterations", "2", "--resume", "--seed", "7")

    assert "was trained with seed 0, not 7" in line


def test_a_second_trainer_is_refused_by_name(complaint, large_spool):
    with Spool(large_spool).open().trainer_lock():
        line = complaint(*TRAIN, *NO_PRODUCERS, "--iterations", "2", "--run", "run", "--quiet")

    assert line.startswith(f"spool: a trainer is already running (pid {os.getpid()} on ")
    assert not Path("run").exists()
    assert len(list((large_spool / "ready").iterdir())) == 2


@pytest.mark.slow
def test_a_damaged_shard_is_quarantined_and_rebuilt_and_the_training_continues(start, large_spool):
    os.truncate(large_spool / "ready/00000001.tar", 5000)

    trained = start(*TRAIN, "--iterations", "4", "--run", "run")

    _, said = trained.communicate(timeout=120)
    assert trained.returncode == 0, said
    assert "it is quarantined and will be rebuilt" in said
    assert summary("run")["damaged_shards"] == 1
    assert (large_spool / "damaged/00000001.tar").exists()


def test_keeping_more_shards_than_the_budget_has_room_for_is_refused(complaint, large_data):
    options = PlanOptions(camera="sony", crop=192, samples_per_shard=8, window=2, epochs=9)
    plan = make_plan(large_data, options)
    plan.save(Spool("spool"), ProducerSettings(budget_bytes=smallest_budget(plan)))

    line = complaint(*TRAIN, "--keep-shards", "--iterations", "1000", "--quiet")

    assert line == (
        "keep-shards needs 18 shards on the disk at once, but the budget has room for 3; "
        "build with a larger --disk-budget, or leave it out"
    )
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        (["--iterations", "0"], "'--iterations': 0 is not in the range x>=1", 2),
        (["--batch-size", "0"], "'--batch-size': 0 is not in the range x>=1", 2),
        (["--reuse", "0"], "'--reuse': 0 is not in the range x>=1", 2),
        (["--reuse", "1001"], "reuse must be at most 1,000, not 1001", 1),
        (["--learning-rate", "0"], "'--learning-rate': 0.0 is not in the range 0<x<1", 2),
        (["--seed", "-1"], "'--seed': -1 is not in the range x>=0", 2),
        (["--model", "resnet"], "model must be one of redirt, ", 1),
        (["--precision", "fp8"], "'fp8' is not one of 'fp32', 'fp16', 'bf16'", 2),
        (["--augment", "all"], "'all' is not one of 'cfa', 'paper', 'none'", 2),
        (["--device", "tpu"], "device must be auto, cpu, cuda or cuda:N, not 'tpu'", 1),
        (["--device", "cuda:99"], "device cuda:99: ", 1),
        (["--producers", "many"], "'many' is neither a whole number of at least 0 nor auto", 2),
        (["--producers", "-1"], "'-1' is neither a whole number of at least 0 nor auto", 2),
        (["--rank-timeout", "nan"], "'nan' is not a finite number", 2),
    ],
)
def test_an_invalid_value_is_refused_before_anything_is_written(
    complaint, large_spool, words, said, status
):
    before = snapshot(large_spool)
    train = (*TRAIN, "--iterations", "2", "--run", "run", "--quiet")

    assert said in complaint(*train, *words, status=status)
    assert not Path("run").exists()
    assert snapshot(large_spool) == before


@pytest.mark.parametrize("option", ["--spool", "--run", "--staging"])
def test_a_second_directory_for_one_option_is_refused(option, complaint, large_spool):
    line = complaint(*TRAIN, option, "one", option, "two", status=2)

    assert line.startswith(f"{option} is given 2 times; give it once")
    assert not Path("runs").exists()


def test_read_only_trainings_beside_a_trainer_have_equal_losses_and_change_nothing(
    call, large_spool
):
    train = (*TRAIN, "--read-only", "--iterations", "3", "--model", "redirt-2rdb")
    with Spool(large_spool).open().trainer_lock():
        before = snapshot(large_spool)
        assert call(*train, "--run", "one").exit_code == 0
        assert call(*train, "--run", "two").exit_code == 0
        assert snapshot(large_spool) == before

    assert metrics("one")[-1]["loss"] == metrics("two")[-1]["loss"]
    assert summary("one")["shards_deleted"] == 0


def test_a_batch_larger_than_the_plan_is_refused(complaint, large_spool):
    train = ("stream-train", "--device", "cpu", *NO_PRODUCERS, "--iterations", "1", "--run", "run")

    line = complaint(*train, "--batch-size", "9")

    assert line == (
        "batch-size must be at most 8, the number of samples in the plan, not 9; "
        "for a larger batch size, build a spool with more --epochs"
    )
    assert not Path("run").exists()


def test_a_batch_larger_than_the_memory_is_refused(complaint, large_spool, monkeypatch):
    monkeypatch.setattr("darkprep.jobs.placement.available_memory", lambda: 100_000)

    line = complaint(*TRAIN, *NO_PRODUCERS, "--iterations", "2", "--run", "run", "--quiet")

    assert "GB of memory for" in line
    assert "choose a smaller --batch-size" in line
    assert not Path("run").exists()


def test_crops_too_small_for_the_loss_are_refused(complaint, small_spool):
    line = complaint(*TRAIN, "--iterations", "2", "--run", "run", "--quiet")

    assert line.startswith("crop must be ")
    assert not Path("run").exists()


@pytest.mark.parametrize("run", ["file", "file/below"])
def test_a_run_directory_that_cannot_be_created_is_named(complaint, large_spool, run):
    Path("file").write_text("")

    line = complaint(*TRAIN, *NO_PRODUCERS, "--iterations", "2", "--run", run, "--quiet")

    assert line.startswith("file")
