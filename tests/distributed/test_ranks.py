"""Training on several ranks started by torchrun: the same batches, the same end, one message."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.support.processes import free_port
from tests.support.rank_training import PATIENCE_S, RANK_PROGRAM, SAMPLES, SHARDS


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def keys(run: Path, ranks: int) -> list[list[str]]:
    """Return the samples of each global batch in order, combined from what each rank has read."""
    of_rank = [
        dict(json.loads(line) for line in Path(f"{run}-keys-{rank}.jsonl").read_text().splitlines())
        for rank in range(ranks)
    ]
    return [
        [key for row in zip(*(rank[batch] for rank in of_rank), strict=True) for key in row]
        for batch in sorted(of_rank[0])
    ]


def error_lines(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("error: ")]


@pytest.mark.slow
def test_two_and_four_ranks_train_on_the_batches_of_one(train_on, spool_at, tmp_path):
    runs = {ranks: tmp_path / f"run{ranks}" for ranks in (1, 2, 4)}
    for ranks, run in runs.items():
        spool = spool_at(f"spool{ranks}")
        train_on(ranks, spool, run)
        assert spool.ready_shards() == []

    alone = keys(runs[1], 1)
    assert len({key for batch in alone for key in batch}) == SHARDS * SAMPLES
    assert keys(runs[2], 2) == alone
    assert keys(runs[4], 4) == alone
    assert losses(runs[2]) == pytest.approx(losses(runs[1]), abs=1e-5)
    assert losses(runs[4]) == pytest.approx(losses(runs[1]), abs=1e-5)
    for run in runs.values():
        done = json.loads((run / "summary.json").read_text())
        assert (done["samples"], done["shards_deleted"]) == (SHARDS * SAMPLES, SHARDS)


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_and_a_single_rank_resumes(train_on, spool_at, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_on(1, spool_at("whole-spool"), whole)
    spool = spool_at("cut-spool")

    output = train_on(2, spool, cut, fault=[1, 2, "term"])
    assert output.count("stopped after 3") == 2
    train_on(1, spool, cut, resume=True)

    assert losses(cut) == pytest.approx(losses(whole), abs=1e-5)


@pytest.mark.slow
def test_a_non_finite_loss_on_one_rank_stops_all_and_its_samples_are_named(
    train_on, spool_at, tmp_path
):
    output = train_on(2, spool_at("spool"), tmp_path / "run", fault=[1, 2, "nan"], fails=True)

    (line,) = error_lines(output)
    assert line.startswith("error: rank 1: the loss of batch 2 is nan")
    batch = json.loads((tmp_path / "run-keys-1.jsonl").read_text().splitlines()[2])
    assert ", ".join(batch[1]) in line


@pytest.mark.slow
def test_a_stream_that_ends_for_one_rank_ends_all_and_leaves_a_checkpoint(
    train_on, spool_at, tmp_path
):
    output = train_on(2, spool_at("spool"), tmp_path / "run", fault=[1, 3, "end"], fails=True)

    assert error_lines(output) == ["error: rank 1: shard 7 is missing and there is no producer"]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["00000003.pt"]


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_soon_and_the_run_is_resumed(train_on, spool_at, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_on(1, spool_at("whole-spool"), whole)
    spool = spool_at("cut-spool")

    began = time.monotonic()
    output = train_on(2, spool, cut, fault=[1, 3, "kill"], fails=True)
    assert time.monotonic() - began < 90
    (line,) = error_lines(output)
    assert "another rank has ended" in line
    assert "--resume" in line
    assert (cut / "checkpoints" / "00000003.pt").exists()
    train_on(2, spool, cut, resume=True)

    assert losses(cut) == pytest.approx(losses(whole), abs=1e-5)


@pytest.mark.slow
def test_a_hanging_rank_counts_as_lost_after_the_timeout(train_on, spool_at, tmp_path):
    output = train_on(
        2, spool_at("spool"), tmp_path / "run", fault=[1, 1, "hang"], patience_s=5, fails=True
    )

    assert "rank 0 of 2: another rank has ended or does not answer" in output


@pytest.mark.slow
def test_ranks_with_different_settings_are_refused_in_one_line(torchrun, spool_at, tmp_path):
    spool, port = spool_at("spool"), free_port()
    settings = [
        {"spool": str(spool.path), "run": str(tmp_path / "run"), "iterations": iterations}
        for iterations in (6, 4)
    ]
    nodes = [
        torchrun(1, *RANK_PROGRAM, json.dumps(one), nodes=(node, 2, port))
        for node, one in enumerate(settings)
    ]

    output = "".join(node.communicate(timeout=PATIENCE_S)[0] for node in nodes)

    (line,) = error_lines(output)
    assert "rank 1 differs from rank 0 in iterations 4, not 6;" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("checkpoint_every", [2, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_full_disk_at_the_last_checkpoint_ends_all_ranks_at_once(
    checkpoint_every: int, fail_without_torchrun, spool_at, tmp_path
):
    """The last checkpoint is written in the last step, or after it."""
    began = time.monotonic()

    first, second = fail_without_torchrun(
        2,
        spool_at("spool"),
        tmp_path / "run",
        iterations=2,
        fault=[0, 2, "full"],
        checkpoint_every=checkpoint_every,
        patience_s=300,
    )

    assert time.monotonic() - began < 200
    assert error_lines(first + second) == ["error: run/checkpoints: the disk is full"]
    assert "rank 1: finished" not in second
