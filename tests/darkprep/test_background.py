"""Background producers: when they are started and stopped, and the messages when shards do not come."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from darkprep.jobs import background
from darkprep.jobs.background import Supervisor, last_log_line, start_producer, stop_on_signals
from darkprep.jobs.train import jobs_beside_trainer
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.planner import make_plan
from darkprep.shards import Cursor, OptionError, Spool, SpoolError, StreamEnded
from darkprep.view.status import SpoolStatus
from tests.support.statuses import TRAINER, producer_of, status_of

PLENTY = 1 << 30


@pytest.mark.parametrize(
    ("jobs", "cores", "left"), [(16, 16, 14), (4, 16, 4), (2, 2, 1), (1, 1, 1)]
)
def test_beside_a_gpu_producers_leave_two_cores(jobs: int, cores: int, left: int):
    assert jobs_beside_trainer(jobs, cores) == left


@pytest.fixture
def spool(small_spool: Path) -> Spool:
    return Spool(small_spool).open()


@pytest.fixture
def empty_spool(small_data: Path) -> Spool:
    """A spool with a plan of three shards, of which none is made."""
    options = PlanOptions(
        camera="sony", crop=32, margin=4, samples_per_shard=8, crops_per_visit=4, window=2
    )
    spool = Spool("spool")
    make_plan(small_data, options).save(spool)
    return spool


class Process:
    """A fake producer process, which runs until it is terminated."""

    def __init__(self, status: int | None = None) -> None:
        self.status = status

    def poll(self) -> int | None:
        return self.status

    def terminate(self) -> None:
        self.status = -signal.SIGTERM

    def wait(self, timeout: float) -> int | None:
        return self.status


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Records the calls that would start a producer, and starts none."""
    calls: list[dict[str, Any]] = []

    def start(spool: Spool, **how: Any) -> Process:
        calls.append(how)
        return Process()

    monkeypatch.setattr(background, "start_producer", start)
    return calls


def supervisor(spool: Spool, *, jobs: int = 1, until: int | None = 3) -> Supervisor:
    return Supervisor(spool, jobs=jobs, budget_bytes=PLENTY, until=until)


def test_a_producer_is_started_when_shards_are_missing(empty_spool, started):
    assert supervisor(empty_spool).ensure_producer()
    assert len(started) == 1
    assert started[0].items() >= {"jobs": 1, "budget_bytes": PLENTY, "until": 3}.items()


def test_no_producer_is_started_when_all_shards_are_ready(spool, started):
    assert not supervisor(spool).ensure_producer()
    assert not started


def test_used_shards_do_not_count_as_missing(spool, started):
    spool.write_cursor(Cursor(rank=0, world=1, batch=4, shard=2))
    spool.delete(0)
    spool.delete(1)

    assert not supervisor(spool).ensure_producer()
    assert supervisor(spool, until=4).ensure_producer()


def test_an_endless_plan_always_misses_shards(spool, started):
    assert supervisor(spool, until=None).ensure_producer()


def test_no_second_producer_is_started(empty_spool, started):
    with empty_spool.producer_lock():
        assert not supervisor(empty_spool).ensure_producer()
    assert not started


def test_no_producer_is_started_with_producers_0(empty_spool, started):
    assert not supervisor(empty_spool, jobs=0).ensure_producer()
    assert not started
    with pytest.raises(OptionError, match="producers must be auto or at least 0, not -1"):
        supervisor(empty_spool, jobs=-1)


def test_a_producer_is_started_for_a_missing_shard_once(empty_spool, started):
    watch = supervisor(empty_spool)

    watch.on_missing_shard(0, 1.0)
    with empty_spool.producer_lock():
        watch.on_missing_shard(0, 2.0)

    assert len(started) == 1


def test_no_producer_is_started_for_a_shard_that_is_ready(spool, started):
    supervisor(spool, jobs=0).on_missing_shard(0, 1.0)

    assert not started


def test_a_reader_gives_up_when_no_producer_may_be_started(empty_spool):
    with pytest.raises(StreamEnded, match="shard 0 is missing and no producer is running"):
        supervisor(empty_spool, jobs=0).on_missing_shard(0, 1.0)


def test_a_reader_gives_up_with_the_last_log_line_of_a_failed_producer(empty_spool, monkeypatch):
    monkeypatch.setattr(background, "start_producer", lambda *_, **__: Process(status=1))
    background.log_path(empty_spool).write_text("much\ndarkprep: the disk is full\n\n")
    watch = supervisor(empty_spool)
    watch.ensure_producer()

    with pytest.raises(StreamEnded, match="the producer failed: the disk is full"):
        watch.on_missing_shard(0, 1.0)


def test_a_started_producer_is_stopped_with_the_training(empty_spool, monkeypatch):
    process = Process()
    monkeypatch.setattr(background, "start_producer", lambda *_, **__: process)
    watch = supervisor(empty_spool)
    watch.close()
    watch.ensure_producer()

    watch.close()

    assert process.status == -signal.SIGTERM


def test_without_a_log_its_path_is_reported(empty_spool):
    assert last_log_line(empty_spool) == "see spool/producers/log.txt"


def test_a_producer_that_ends_at_once_is_reported(empty_spool):
    with pytest.raises(SpoolError, match=r"ended immediately: disk-budget 0\.0 MB is too small"):
        start_producer(empty_spool, jobs=1, budget_bytes=1, until=None)


def test_a_large_log_is_started_again(empty_spool):
    log = background.log_path(empty_spool)
    log.write_text("old\n" * 200_000)

    with pytest.raises(SpoolError):
        start_producer(empty_spool, jobs=1, budget_bytes=1, until=None)

    assert log.stat().st_size < 1000


def test_a_producer_that_does_not_stop_is_reported_with_how_to_end_it(empty_spool, monkeypatch):
    ticks = itertools.count(step=20.0)
    code = f"""
import time
from darkprep.shards import Spool
held = Spool({str(empty_spool.path.absolute())!r}).producer_lock()
held.acquire()
print(flush=True)
time.sleep(60)"""

    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline()
        with (
            monkeypatch.context() as patch,
            pytest.raises(SpoolError, match=rf"does not stop; end it with `kill -9 {holder.pid}`"),
        ):
            patch.setattr(time, "monotonic", lambda: next(ticks))
            patch.setattr(signal, "pidfd_send_signal", lambda descriptor, number: None)
            background.stop_producers(empty_spool)
        holder.kill()


def test_the_first_ctrl_c_sets_the_event_and_the_second_interrupts(empty_directory):
    stop = stop_on_signals()

    os.kill(os.getpid(), signal.SIGINT)
    assert stop.wait(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_hangup_sets_the_event_unless_it_is_ignored(empty_directory):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert not stop_on_signals().is_set()
    os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    stop = stop_on_signals()
    os.kill(os.getpid(), signal.SIGHUP)
    assert stop.wait(1.0)


def test_an_interrupted_command_ends_with_status_130(call, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("darkprep.synth.dataset.synthesise", interrupted)

    result = call("synth", "out", "--camera", "sony")

    assert (result.exit_code, result.stderr) == (130, "darkprep: interrupted\n")


# -- in words -------------------------------------------------------------------------------------


def status_where(
    *,
    trains: bool,
    wait: float = 0.0,
    waiting_s: float = 0.0,
    produces: bool = True,
    state: str = "making",
    blocked: float = 0.0,
) -> SpoolStatus:
    producer = producer_of(alive=produces, state=state, running_s=10.0, blocked_s=10 * blocked)
    trainer = replace(TRAINER, alive=trains, wait_fraction=wait, waiting_s=waiting_s)
    return status_of(trainer=trainer, producers=(producer,))


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"trains": False, "produces": False}, "no producer and no trainer is running"),
        ({"trains": False}, "no trainer is running yet: the producer fills the budget"),
        (
            {"trains": False, "state": "waiting for the trainer"},
            "the producer waits, because the budget is full",
        ),
        ({"trains": True, "wait": 0.2}, "the producers are slower than the trainer: use more"),
        ({"trains": True, "wait": 0.05}, "nearly as fast as the trainer"),
        ({"trains": True, "wait": 0.005}, "equally fast: nothing to change"),
        ({"trains": True, "blocked": 0.5}, "the trainer is slower than the producers"),
        ({"trains": True}, "equally fast: nothing to change"),
        ({"trains": True, "produces": False}, "equally fast: nothing to change"),
        ({"trains": True, "waiting_s": 9.0, "produces": False}, "no producer is running: run"),
        ({"trains": True, "waiting_s": 9.0}, "waits for the next shard"),
        ({"trains": True, "waiting_s": 9.0, "wait": 0.2}, "the producers are slower"),
        ({"trains": True, "waiting_s": 0.5}, "equally fast: nothing to change"),
        ({"trains": True, "state": "waiting for disk space", "wait": 0.2}, "the disk is full"),
    ],
)
def test_the_slower_side_is_named_with_what_to_change(state, sentence):
    assert sentence in status_where(**state).limiting_side
