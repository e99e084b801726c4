"""The program that tests run under torchrun: one rank of a small training, optionally with a fault.

Usage: rank_program.py SETTINGS, a JSON object: spool, run, iterations, resume, and `fault`, a list of
rank, batch and the fault of that rank before that batch: kill, term, nan, hang or end; or rank,
iteration and `full`: the disk is full at that checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from darkprep.jobs.background import stop_on_signals
from darkprep.shards import Spool, SpoolReader, StreamEnded
from darkprep.shards.batch import Batch
from darkprep.shards.errors import DarkprepError, DiskFull, RankStopped
from darkprep.trainer.checkpoint import Checkpoints, Progress, TrainState
from darkprep.trainer.communicator import Communicator
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.distributed import communicator_from
from darkprep.trainer.loop import train
from darkprep.trainer.prefetch import Allocate

BATCH_SIZE = 4


class FaultyReader:
    """A SpoolReader that records its keys and has a fault at a given batch."""

    def __init__(self, inner: SpoolReader, settings: dict[str, Any], rank: int) -> None:
        self.stats = inner.stats
        self._inner = inner
        self._rank = rank
        self._keys = Path(settings["run"] + f"-keys-{rank}.jsonl")
        self._fault = settings.get("fault")

    def __next__(self) -> Batch:
        batch = next(self._inner)
        if self._fault and self._fault[:2] == [self._rank, batch.index]:
            self._fail(self._fault[2], batch)
        with self._keys.open("a") as file:
            file.write(json.dumps([batch.index, [meta.key for meta in batch.metas]]) + "\n")
        return batch

    def _fail(self, fault: str, batch: Batch) -> None:
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        if fault == "hang":
            time.sleep(600)
        if fault == "end":
            raise StreamEnded("shard 7 is missing and there is no producer")
        if fault == "nan":
            object.__setattr__(batch.metas[0], "amplification", float("nan"))

    def close(self) -> None:
        self._inner.close()


def fill_the_disk(iteration: int) -> None:
    """Let the disk be full at the checkpoint of one iteration."""
    save = Checkpoints.save

    def refuse(
        checkpoints: Checkpoints, state: TrainState, progress: Progress, config: Mapping[str, Any]
    ) -> Path:
        if progress.iteration == iteration:
            raise DiskFull("run/checkpoints: the disk is full")
        return save(checkpoints, state, progress, config)

    Checkpoints.save = refuse  # type: ignore[method-assign, assignment]


def run(settings: dict[str, Any], ranks: Communicator) -> None:
    rank, iteration, fault = settings.get("fault") or (-1, -1, "")
    if rank == ranks.rank and fault == "full":
        fill_the_disk(iteration)
    spool = Spool(settings["spool"]).open()
    config = TrainConfig(
        model="redirt-2rdb",
        crop=192,
        batch_size=BATCH_SIZE,
        iterations=settings["iterations"],
        log_every=1,
        checkpoint_every=settings.get("checkpoint_every", 1000),
        plan=spool.digest,
        camera="sony",
    )
    ranks.check_same({"plan": spool.digest, "iterations": config.iterations})

    def open_reader(start: int, allocate: Allocate | None) -> FaultyReader:
        reader = SpoolReader(
            spool,
            batch_size=BATCH_SIZE,
            start=start,
            stop_after=config.iterations,
            shards=spool.stream.shards,
            rank=ranks.rank,
            world=ranks.world,
            allocate=allocate,
            drop_last=True,
            close_at_end=False,
        )
        return FaultyReader(reader, settings, ranks.rank)

    summary = train(
        config,
        open_reader,
        Path(settings["run"]),
        resume=settings.get("resume", False),
        stop=stop_on_signals(),
        communicator=ranks,
    )
    sys.stdout.write(f"rank {ranks.rank}: {summary.ended} after {summary.iterations}\n")


def main() -> None:
    torch.set_num_threads(1)
    settings = json.loads(sys.argv[1])
    try:
        with communicator_from(os.environ, settings.get("patience_s", 60.0)) as ranks:
            run(settings, ranks)
    except RankStopped:
        sys.exit(1)
    except DarkprepError as error:
        sys.stdout.write(f"error: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
