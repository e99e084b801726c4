"""Real trainings are killed, told to end, starved and fed damage: the losses are those of an undisturbed one."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from darkprep.jobs.background import stop_producers
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.budget import smallest_budget
from darkprep.shards import Spool
from darkprep.shards.plan_record import ProducerSettings
from tests.support.builds import planned
from tests.support.processes import workers_of
from tests.support.sid_tree import write_sid
from tests.support.storm import leftovers

ITERATIONS = 12
PLAN = {"crop": 192, "margin": 4, "samples_per_shard": 2, "crops_per_visit": 1, "epochs": None}
CHOICES = (
    *("--model", "redirt-2rdb", "--batch-size", "1", "--iterations", str(ITERATIONS), "--device", "cpu"),
    *("--log-every", "1", "--checkpoint-every", "4", "--seed", "3"),
)  # fmt: skip
"""Two steps a shard; a checkpoint every two shards."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sid(tmp_path_factory.mktemp("data"), scenes=2, shorts=1, size=(208, 224))


@pytest.fixture
def spool(root: Path, tmp_path: Path) -> Iterator[Spool]:
    spool = planned(tmp_path / "spool", root, **PLAN)
    yield spool
    stop_producers(spool)


def command(spool: Spool, *more: str) -> list[str]:
    place = ["--spool", str(spool.path), "--run", str(spool.path.parent / "run")]
    return [sys.executable, "-m", "darkprep", "stream-train", *place, *CHOICES, *more]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@contextmanager
def training(spool: Spool, *more: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command(spool, "--producers", "1", *more),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str], seconds: float = 120) -> str:
    """What it said on stderr; it must have ended well."""
    _, said = process.communicate(timeout=seconds)
    assert process.returncode == 0, said
    return said


def lines(spool: Spool) -> list[dict[str, Any]]:
    path = spool.path.parent / "run/metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def losses(spool: Spool) -> list[float]:
    assert [line["iteration"] for line in lines(spool)] == list(range(1, ITERATIONS + 1))
    return [line["loss"] for line in lines(spool)]


def checkpoints(spool: Spool) -> list[str]:
    return sorted(path.name for path in (spool.path.parent / "run/checkpoints").glob("*.pt"))


def summary(spool: Spool) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((spool.path.parent / "run/summary.json").read_text())
    return told


def wait_until(true: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while not true():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    spool = planned(tmp_path_factory.mktemp("calm") / "spool", root, **PLAN)
    with training(spool) as process:
        finish(process)
    stop_producers(spool)
    return losses(spool)


@pytest.mark.slow
def test_a_trainer_killed_between_deleting_a_shard_and_its_next_checkpoint_gets_it_again(
    spool: Spool, undisturbed: list[float]
):
    """The checkpoint after four steps still needs shard 1; the cursor says that it is done with."""
    with training(spool) as process:
        wait_until(lambda: checkpoints(spool) and spool.oldest_needed() >= 2, process)
        wait_until(lambda: not spool.shard_path(1).exists(), process)  # the cursor comes first
        process.kill()
        process.wait()
    assert checkpoints(spool) == ["00000004.pt"]

    with training(spool, "--resume") as process:
        finish(process)

    assert losses(spool) == undisturbed
    assert not list(leftovers(spool))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_training_writes_a_checkpoint_and_resumes_with_the_same_losses(
    number: int, spool: Spool, undisturbed: list[float]
):
    with training(spool) as process:
        wait_until(lambda: len(lines(spool)) >= 2, process)
        process.send_signal(number)
        began = time.monotonic()
        finish(process, 30)
        seconds = time.monotonic() - began
    done = summary(spool)
    assert done["ended"] == "stopped"
    assert 2 <= done["iterations"] < ITERATIONS
    assert checkpoints(spool)[-1] == f"{done['iterations']:08d}.pt"
    assert seconds < 20

    with training(spool, "--resume") as process:
        finish(process)

    assert losses(spool) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_training_that_waits_for_data_can_be_stopped_at_once(
    number: int, spool: Spool, tmp_path: Path
):
    """Somebody holds the producer's role and makes nothing, so that the trainer waits."""
    with spool.producer_lock(), training(spool) as process:
        wait_until(lambda: spool.has_trainer() and spool.read_cursors(), process)
        time.sleep(0.5)
        process.send_signal(number)
        began = time.monotonic()
        finish(process, 30)
        assert time.monotonic() - began < 15
    assert summary(spool)["ended"] == "stopped"
    assert checkpoints(spool) == ["00000000.pt"]


@pytest.mark.slow
def test_a_closed_terminal_leaves_a_checkpoint_weights_and_no_producer(spool: Spool):
    """The terminal of the training is closed: it gets SIGHUP, and writing to its output fails."""
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
        os.execvpe(sys.executable, command(spool, "--producers", "1"), ENVIRONMENT)
    deadline = time.monotonic() + 90
    while len(lines(spool)) < 2:
        assert time.monotonic() < deadline, "it does not train"
        if select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 1 << 16)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    done = summary(spool)
    assert done["ended"] == "stopped"
    assert checkpoints(spool)[-1] == f"{done['iterations']:08d}.pt"
    assert (spool.path.parent / "run/weights.safetensors").exists()
    assert not spool.has_producer()


def test_a_producer_ends_with_a_trainer_that_is_killed(spool: Spool):
    plan = Plan.load(spool)
    code = f"""
import os, signal
from darkprep.jobs.background import Supervisor
from darkprep.shards import Spool
spool = Spool({str(spool.path)!r}).open()
assert Supervisor(spool, jobs=1, budget_bytes={smallest_budget(plan)}, until=None).ensure_producer()
os.kill(os.getpid(), signal.SIGKILL)"""

    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=False)

    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while spool.has_producer():
        assert time.monotonic() < deadline, "the producer is still there"
        time.sleep(0.05)


@pytest.mark.slow
def test_damaged_shards_are_rebuilt_and_the_stream_stays_the_same(
    spool: Spool, undisturbed: list[float]
):
    layout = spool.stream.layout()
    make = [sys.executable, "-m", "darkprep", "produce", "--spool", str(spool.path), "--jobs", "1"]
    subprocess.run([*make, "--until", "3", "--disk-budget", "100MB"], check=True)
    with spool.shard_path(1).open("r+b") as file:
        file.seek(layout.sample_bytes + layout.gt_offset + 1000)
        file.write(b"flipped")
    os.truncate(spool.shard_path(2), 5000)

    with training(spool) as process:
        said = finish(process)

    assert losses(spool) == undisturbed
    assert summary(spool)["damaged_shards"] == 2
    assert [record.shard for record in spool.quarantine.records()] == [1, 2]
    assert said.count("it is quarantined and will be rebuilt") == 2


@pytest.mark.slow
def test_a_training_survives_the_death_of_its_producer(spool: Spool, undisturbed: list[float]):
    """The system's killer may take it; the trainer starts another when it starves."""
    killed: list[int] = []
    plan = Plan.load(spool)
    # The producer must wait for the trainer: one that has made all six shards cannot be killed any more.
    plan.save(spool, ProducerSettings(budget_bytes=smallest_budget(plan), jobs=1))
    with training(spool) as process:
        for count in (1, 4):
            wait_until(lambda: len(lines(spool)) >= count, process)  # noqa: B023 # waited for here
            producer = spool.producer_process()
            if producer:
                for pid in (producer.pid, *workers_of(producer.pid)):
                    os.kill(pid, signal.SIGKILL)
                killed.append(producer.pid)
                for shard in spool.ready_shards()[1:]:
                    spool.delete(shard)
        finish(process)

    assert killed
    assert losses(spool) == undisturbed


@pytest.mark.soak
def test_a_training_killed_twenty_times_has_the_losses_of_an_undisturbed_one(
    spool: Spool, undisturbed: list[float]
):
    def going_on() -> tuple[str, ...]:
        """What was killed before it was a run cannot be resumed."""
        begun = (spool.path.parent / "run/config.json").exists()
        return ("--checkpoint-every", "1", *["--resume"] * begun)

    for death in range(20):
        before = len(lines(spool))
        with training(spool, *going_on()) as process:
            if death % 2 or before > ITERATIONS - 3:  # while it starts
                time.sleep(1.0 + 0.2 * death)
            else:  # while it trains
                wait_until(lambda: len(lines(spool)) > before, process)  # noqa: B023 # waited for here
                time.sleep(0.01 * death)
            process.kill()
            process.wait()
    with training(spool, *going_on()) as process:
        finish(process)

    assert losses(spool) == undisturbed
    assert not list(leftovers(spool))
