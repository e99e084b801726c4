"""Read-only readers: any number at once, beside one trainer, and nothing in the spool changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from darkprep.shards import OptionError, SpoolError, SpoolReader, StreamEnded
from tests.support.command_line import snapshot
from tests.support.small_spools import MakeSpool, fill


def keys(reader: SpoolReader) -> list[str]:
    return [meta.key for batch in reader for meta in batch.metas]


def test_read_only_readers_read_the_same_at_once_beside_a_trainer_and_change_nothing(
    make_spool: MakeSpool,
):
    spool = make_spool(ready=range(6))
    with SpoolReader(spool, batch_size=2, keep=True, stop_after=12) as trainer:
        next(trainer)
        before = snapshot(spool.path)
        first = SpoolReader(spool, batch_size=2, read_only=True)
        second = SpoolReader(spool, batch_size=2, read_only=True)
        with first, second:
            seen = [
                [meta.key for batch in pair for meta in batch.metas]
                for pair in zip(first, second, strict=True)
            ]
        changed = {
            name for name, status in snapshot(spool.path).items() if before.get(name) != status
        }
        assert changed <= {"cursors/rank-0.json"}  # of the trainer

    assert all(both[: len(both) // 2] == both[len(both) // 2 :] for both in seen)
    assert len(seen) == 12
    assert spool.ready_shards() == list(range(6))


def test_a_read_only_spool_needs_no_directory_that_can_be_written(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))
    for name in ("cursors", "damaged", "partial", "producers"):
        directory = Path(spool.path / name)
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
    before = snapshot(spool.path)

    with SpoolReader(spool, batch_size=2, read_only=True, keep=True, stop_after=30) as reader:
        assert len(keys(reader)) == 60

    assert snapshot(spool.path) == before
    assert not (spool.path / "cursors").exists()


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_spool_whose_shards_are_deleted_after_use_is_refused(when, make_spool: MakeSpool):
    spool = make_spool(ready=range(6))

    def train() -> None:
        with SpoolReader(spool, batch_size=4, stop_after=4) as trainer:
            assert keys(trainer)

    said = r"a training run has passed shard \d and deletes used shards; build another spool"
    if when == "before":
        train()
        with pytest.raises(SpoolError, match=said):
            SpoolReader(spool, batch_size=2, read_only=True)
    else:
        with SpoolReader(spool, batch_size=2, read_only=True, keep=True, depth=1) as reader:
            next(reader)
            train()
            with pytest.raises(SpoolError, match=said):
                keys(reader)


def test_a_damaged_shard_is_named_and_stays_where_it_is(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))
    os.truncate(spool.shard_path(1), 100)
    before = snapshot(spool.path)

    with (
        pytest.raises(SpoolError, match="a read-only reader repairs nothing: run `darkprep"),
        SpoolReader(spool, batch_size=2, read_only=True) as reader,
    ):
        keys(reader)

    assert snapshot(spool.path) == before


def test_a_plan_without_an_end_is_refused(make_spool: MakeSpool):
    spool = make_spool(shards=None)

    with pytest.raises(
        OptionError, match="--read-only needs a spool with a finite number of epochs"
    ):
        SpoolReader(spool, batch_size=2, read_only=True)


def test_a_missing_shard_without_a_producer_ends_the_reader(make_spool: MakeSpool, monkeypatch):
    monkeypatch.setattr("darkprep.shards.producer_watch._ABSENT_S", 0.1)
    spool = make_spool(ready=range(2))
    fill(spool, [3, 4, 5])

    with (
        pytest.raises(StreamEnded, match="shard 2 is missing and no producer is running"),
        SpoolReader(spool, batch_size=2, read_only=True) as reader,
    ):
        keys(reader)
