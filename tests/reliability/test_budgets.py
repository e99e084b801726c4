"""Nothing finished is deleted unsaid, and no disk fills for a trainer that does not come."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.budget import smallest_budget
from darkprep.pipeline.produce.producer import Producer, ProducerConfig
from darkprep.shards import BudgetTooSmall, Cursor, Spool
from darkprep.shards.heartbeat import ProducerStatus
from tests.support.builds import InlinePool, planned
from tests.support.command_line import SMALL, build_spool, snapshot
from tests.support.processes import wait_until
from tests.support.sid_tree import write_sid

pytestmark = pytest.mark.usefixtures("unguarded")

BUILD = ("build", "--camera", "sony", *SMALL, "--epochs", "3")
"""Nine shards."""


@pytest.fixture(autouse=True)
def _in_an_empty_directory(empty_directory: None) -> None:
    pass


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_data: Path) -> Path:
    words = (*SMALL, "--epochs", "3", "--root", small_data, "--disk-budget", "1GB")
    return build_spool(tmp_path_factory.mktemp("built"), *words)


@pytest.fixture
def built(finished: Path) -> Spool:
    """A finished spool of nine shards, for this test alone, in ./spool."""
    shutil.copytree(finished, "spool")
    return Spool("spool").open()


def holds(spool: Spool, shards: int) -> int:
    """A budget in bytes for so many shards and no frame."""
    plan = Plan.load(spool)
    one = smallest_budget(plan, in_transit=1) - smallest_budget(plan)
    return smallest_budget(plan) + (shards - plan.options.window - 1) * one


# -- a smaller budget ---------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [(), ("--background",)], ids=["foreground", "background"])
def test_a_smaller_budget_names_what_it_would_delete_and_is_refused(
    where: tuple[str, ...], built: Spool, complaint: Any, small_data: Path
):
    before = snapshot(built.path)

    told = complaint(
        *BUILD, "--root", small_data, "--disk-budget", holds(built, 5), "--quiet", *where
    )

    size = 4 * built.shard_path(0).stat().st_blocks * 512
    assert told.startswith("spool: disk-budget ")
    assert " has no room for 4 of 9 finished shards (0." in told
    assert f"({size / 1e6:,.1f} MB)" in told
    assert " and 9 of 9 decoded frames (" in told
    assert "--shrink" in told
    assert snapshot(built.path) == before
    assert not built.has_producer()


def test_a_smaller_budget_that_has_room_for_all_shards_names_the_frames(
    built: Spool, complaint: Any, small_data: Path
):
    told = complaint(*BUILD, "--root", small_data, "--disk-budget", holds(built, 9), "--quiet")

    assert "has no room for 9 of 9 decoded frames (" in told
    assert "finished shards" not in told


def test_a_smaller_budget_that_has_room_for_everything_is_accepted(
    built: Spool, call: Any, small_data: Path
):
    result = call(*BUILD, "--root", small_data, "--disk-budget", "500MB")

    assert result.exit_code == 0, result.output
    assert Spool("spool").open().settings.budget_bytes == 500 * 10**6
    assert len(built.ready_shards()) == 9


def test_without_a_budget_an_existing_spool_keeps_its_own(
    built: Spool, call: Any, small_data: Path
):
    """Otherwise the default would shrink a spool that was given more."""
    assert call(*BUILD, "--root", small_data).exit_code == 0

    assert Spool("spool").open().settings.budget_bytes == 10**9


def test_on_request_a_smaller_budget_deletes_and_says_so(
    built: Spool, start: Any, call: Any, small_data: Path
):
    words = ("--disk-budget", holds(built, 5), "--shrink", "--background")

    process = start(*BUILD, "--root", small_data, *words)
    assert process.wait(60) == 0, process.stderr.read()
    wait_until(lambda: built.ready_shards() == [0, 1, 2, 3, 4], 30)
    call("stop")

    log = (built.producers / "log.txt").read_text()
    assert "has no room for 4 of 9 finished shards (0." in log
    assert "which are therefore deleted" in log


def test_a_producer_that_must_not_shrink_deletes_nothing(raw_spool: Spool):
    """As for a spool in object storage, whose shards are counted when the producer holds the lease."""
    run(raw_spool)

    with pytest.raises(BudgetTooSmall, match=r"no room for 4 of 9 finished shards .*--shrink"):
        run(raw_spool, budget_bytes=holds(raw_spool, 5), shrink=False)

    assert len(raw_spool.ready_shards()) == 9


def test_fewer_workers_delete_no_finished_shard(raw_spool: Spool):
    """With six, more room is reserved for shards than with one; frames then have less."""
    budget = holds(raw_spool, 9) + 40_000
    run(raw_spool, jobs=6, budget_bytes=budget, until=None, stop_when="waiting for the trainer")
    ready = raw_spool.ready_shards()

    run(raw_spool, budget_bytes=budget, shrink=False, until=None, stop_when="waiting")

    assert set(ready) <= set(raw_spool.ready_shards())


def run(
    spool: Spool, *, stop_when: str = "", until: int | None = 9, jobs: int = 1, **settings: Any
) -> Producer:
    stop = threading.Event()

    def report(status: ProducerStatus) -> None:
        if stop_when and status.state.startswith(stop_when):
            stop.set()

    config = ProducerConfig(**({"budget_bytes": 1 << 30} | settings), jobs=jobs, until=until)
    producer = Producer(spool, config, InlinePool(), report=report, stop=stop)
    producer.run()
    return producer


# -- an absent trainer --------------------------------------------------------------------------------


@contextmanager
def producing(spool: Spool, **settings: Any) -> Iterator[Producer]:
    """A producer with a large budget in a thread."""
    stop = threading.Event()
    config = ProducerConfig(budget_bytes=1 << 30, jobs=1, until=None, **settings)
    producer = Producer(spool, config, InlinePool(), stop=stop)
    thread = threading.Thread(target=producer.run)
    thread.start()
    try:
        yield producer
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(("epochs", "shards"), [(1, 5), (2, 6), (4, 12)])
def test_a_producer_goes_so_many_epochs_ahead_of_an_absent_trainer(
    epochs: int, shards: int, tmp_path: Path
):
    """Three shards are an epoch; the window, the worker's own and two more are always made."""
    spool = planned(tmp_path / "spool", write_sid(tmp_path / "data"), epochs=None)

    with producing(spool, epochs_ahead=epochs) as producer:
        wait_until(lambda: producer.is_ahead, 30)
        assert spool.ready_shards() == list(range(shards))

        spool.write_cursor(Cursor(rank=0, world=1, batch=0, shard=2))
        wait_until(lambda: spool.ready_shards()[-1:] == [shards + 1], 30)
        wait_until(lambda: producer.is_ahead, 30)

        with spool.trainer_lock():
            wait_until(lambda: len(spool.ready_shards()) > 3 * shards, 30)


def test_without_the_limit_the_budget_is_used(tmp_path: Path):
    spool = planned(tmp_path / "spool", write_sid(tmp_path / "data"), epochs=None)

    with producing(spool, epochs_ahead=None):
        wait_until(lambda: len(spool.ready_shards()) > 40, 30)


ENDLESS = ("build", "--camera", "sony", *SMALL, "--epochs", "inf", "--disk-budget", "1GB")


@pytest.mark.parametrize(
    "quiet",
    [pytest.param((), marks=pytest.mark.slow), ("--quiet",)],
    ids=["plain", "quiet"],
)
def test_a_build_that_is_far_enough_ahead_says_so(
    quiet: tuple[str, ...], start: Any, small_data: Path
):
    process = start(*ENDLESS, "--root", small_data, "--epochs-ahead", "2", *quiet)

    lines = iter(process.stderr.readline, "")
    line = next(line for line in lines if "waiting for `darkprep stream-train" in line)

    prefix = "darkprep: " if quiet else ""
    assert line.startswith(f"{prefix}2 epochs ahead of the trainer (--epochs-ahead): waiting for ")
    assert Spool("spool").ready_shards() == list(range(6))
    process.terminate()
    assert process.wait(30) == 0
    if quiet:
        assert process.stderr.read() == ""


def test_by_default_a_producer_in_the_background_goes_eight_epochs_ahead(
    start: Any, call: Any, small_data: Path
):
    process = start(*ENDLESS, "--root", small_data, "--background")
    assert process.wait(60) == 0, process.stderr.read()

    spool = Spool("spool").open()
    try:
        wait_until(lambda: is_waiting(spool), 60)
        assert spool.ready_shards() == list(range(24))
    finally:
        call("stop")


def is_waiting(spool: Spool) -> bool:
    return any(beat.status.state == "waiting for the trainer" for beat in spool.heartbeats())
