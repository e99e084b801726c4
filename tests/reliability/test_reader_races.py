"""What a reader, other ranks and a producer do to each other's files at the same moment."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from darkprep.shards import Cursor, ShardFile, Spool, SpoolReader, quarantine, release
from tests.support.small_spools import fill, sample

MakeSpool = Callable[..., Spool]


def opened(spool: Spool, shard: int) -> ShardFile:
    return ShardFile(spool.shard_path(shard), spool.stream.layout(), shard, spool.digest)


def test_a_late_quarantine_by_another_rank_leaves_the_rebuilt_shard(make_spool: MakeSpool):
    spool = make_spool(ready=[3])
    late = opened(spool, 3)

    spool.quarantine.add(spool.shard_path(3), 3, "found by rank 0", seen=late.seen)
    fill(spool, [3])
    spool.quarantine.add(spool.shard_path(3), 3, "found by rank 1", seen=late.seen)

    assert spool.ready_shards() == [3]
    assert [record.reason for record in spool.quarantine.records()] == ["found by rank 0"]
    opened(spool, 3).verify_all()


def test_a_producer_may_delete_a_shard_while_it_is_quarantined(
    make_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch
):
    spool = make_spool(ready=[3])
    utime = os.utime

    def drop_first(path: Path, **rest: object) -> None:
        spool.quarantine.trim(0)
        utime(path, **rest)

    monkeypatch.setattr(os, "utime", drop_first)
    spool.quarantine.add(spool.shard_path(3), 3, "damaged")

    assert spool.ready_shards() == []
    assert len(spool.quarantine.records()) == 1


def test_the_quarantine_log_is_bounded(make_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch):
    spool = make_spool()
    monkeypatch.setattr(quarantine, "LOG_BYTES", 4096)

    for number in range(100):
        (spool.ready / "00000003.tar").touch()
        spool.quarantine.add(spool.shard_path(3), 3, f"{number:03} {'x' * 100}")

    assert (spool.damaged / "refused.jsonl").stat().st_size <= 4096 + 200
    assert spool.quarantine.records()[-1].reason.startswith("099")


def test_a_cursor_never_goes_back_while_its_reader_lives(
    make_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch
):
    """A batch spans more shards than may be open: read ones go before the trainer had their batch.

    Where the cursor went back then, a producer made them again and dropped for them what came next.
    """
    spool = make_spool(ready=range(4), shards=12)
    told: list[int] = []
    publish = Spool.write_cursor

    def write_cursor(self: Spool, cursor: Cursor) -> None:
        told.append(cursor.shard)
        publish(self, cursor)

    monkeypatch.setattr(Spool, "write_cursor", write_cursor)
    monkeypatch.setattr(release, "_MEASURE_EVERY_S", 0.0)
    made = iter(range(4, 12))

    with SpoolReader(
        spool,
        batch_size=16,
        shards=12,
        on_starving=lambda shard, seconds: fill(spool, [next(made)]),
    ) as reader:
        for _ in reader:
            time.sleep(0.1)
        while_alive = list(told)

    assert while_alive == sorted(while_alive)
    assert max(while_alive) > 4


def test_a_shard_that_is_no_longer_needed_is_deleted_by_the_reader_too(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))

    with SpoolReader(spool, batch_size=4, shards=6) as reader:
        for batch in reader:
            if batch.index == 4:
                fill(spool, [0])

    assert spool.ready_shards() == []


def test_a_reader_that_cannot_begin_releases_the_lock(
    make_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch
):
    spool = make_spool(ready=range(6))

    def refuse(self: Spool, cursor: Cursor) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Spool, "write_cursor", refuse)
        with pytest.raises(PermissionError):
            SpoolReader(spool, batch_size=2)

    assert not spool.has_trainer()


def test_a_link_in_place_of_a_shard_is_quarantined_and_training_continues(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))
    target = spool.path.parent / "precious.tar"
    shutil.copy(spool.shard_path(2), target)
    spool.shard_path(2).unlink()
    spool.shard_path(2).symlink_to(target)

    with SpoolReader(
        spool, batch_size=2, shards=6, on_starving=lambda shard, seconds: fill(spool, [shard])
    ) as reader:
        keys = [meta.key for batch in reader for meta in batch.metas]

    assert len(set(keys)) == 24
    assert reader.stats.damaged == 1
    assert target.read_bytes()[:8] == b"00000002"
    assert sample(2, 0, spool.stream).meta.pair
