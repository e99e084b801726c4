"""A plan divided among nodes, each with a spool of its own part: together they train on one stream."""

from __future__ import annotations

import numpy as np
import pytest

from darkprep.jobs.placement import check_ranks
from darkprep.shards import OptionError, PlanError, Spool, SpoolReader, UseOrder
from darkprep.shards.order import interleaved_order
from darkprep.shards.plan_record import PlanRecord, ProducerSettings
from darkprep.trainer.communicator import SingleProcess
from darkprep.trainer.config import TrainConfig
from tests.support.small_spools import fill, stream

SHARDS, BATCH = 8, 4


def plan(*, part: int, parts: int) -> PlanRecord:
    settings = ProducerSettings(root="data", part=part, parts=parts)
    return PlanRecord(stream=stream(shards=SHARDS), recipe={"pairs": ["same"]}, settings=settings)


@pytest.fixture
def spool_of(tmp_path):
    def make(name: str, *, part: int = 0, parts: int = 1) -> Spool:
        spool = Spool(tmp_path / name)
        spool.create(plan(part=part, parts=parts))
        fill(spool, list(spool.shards_in_part(0, SHARDS)))
        return spool

    return make


def batches_of(spool: Spool, **settings) -> list[list[tuple[str, int]]]:
    """Return the key and the sum of the codes of each sample, by batch."""
    with SpoolReader(spool, batch_size=BATCH, shards=SHARDS, **settings) as reader:
        return [
            [(meta.key, int(low.sum())) for meta, low in zip(batch.metas, batch.low, strict=True)]
            for batch in reader
        ]


def test_two_nodes_train_on_the_batches_of_one_machine(spool_of):
    nodes = [batches_of(spool_of(f"node{n}", part=n, parts=2)) for n in range(2)]

    alone = batches_of(spool_of("whole"), parts=2)

    assert len(alone) == SHARDS * 4 // BATCH
    for batch, (first, second) in zip(alone, zip(*nodes, strict=True), strict=True):
        assert batch[0::2] == first
        assert batch[1::2] == second


def test_the_union_over_the_nodes_is_the_stream_of_one_machine(spool_of):
    nodes = [batches_of(spool_of(f"node{n}", part=n, parts=2)) for n in range(2)]

    alone = batches_of(spool_of("whole"))

    union = [sample for node in nodes for batch in node for sample in batch]
    assert sorted(union) == sorted(sample for batch in alone for sample in batch)
    assert len(set(union)) == len(union)


def test_ranks_of_a_node_share_its_part(spool_of):
    alone = batches_of(spool_of("alone", part=1, parts=2))
    spool = spool_of("shared", part=1, parts=2)
    readers = [
        SpoolReader(spool, batch_size=BATCH, shards=SHARDS, rank=rank, world=2) for rank in range(2)
    ]
    batches = [[[meta.key for meta in batch.metas] for batch in reader] for reader in readers]
    for reader in readers:
        reader.close()

    for expected, *got in zip(alone, *batches, strict=True):
        assert [key for key, _ in expected] == [key for pair in zip(*got) for key in pair]  # noqa: B905
    assert spool.ready_shards() == []


def test_a_node_deletes_its_shards_as_they_are_used(spool_of):
    spool = spool_of("node", part=1, parts=2)
    assert spool.ready_shards() == [1, 3, 5, 7]

    batches_of(spool)

    assert spool.ready_shards() == []


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
@pytest.mark.parametrize("start", [0, 1, 7, 40])
def test_an_interleaved_order_can_be_read_from_any_position(parts: int, start: int):
    order = interleaved_order(samples=6, window=3, seed=4, reuse=2, shards=None, parts=parts)

    whole = order.uses(0, 100)

    np.testing.assert_array_equal(order.uses(start, 25), whole[start : start + 25])
    assert (whole[:, 0] % parts == np.arange(100) % parts).all()
    assert order.oldest_shard(start) <= whole[start:, 0].min()
    assert order.newest_shard(99) >= whole[:, 0].max()


def test_all_parts_end_together_where_the_shards_do_not_divide():
    orders = [
        UseOrder(samples=4, window=2, seed=0, shards=7, part=part, parts=3) for part in range(3)
    ]

    assert [order.total for order in orders] == [8, 8, 8]
    order = interleaved_order(samples=4, window=2, seed=0, reuse=1, shards=7, parts=3)
    assert len(order.uses(0, 1000)) == 24


def test_a_spool_of_one_part_is_never_used_as_another(spool_of, tmp_path):
    spool_of("node", part=1, parts=2)

    with pytest.raises(PlanError, match=r"holds part 1/2 of its plan, not 0/2"):
        Spool(tmp_path / "node").create(plan(part=0, parts=2))


def test_a_batch_that_cannot_be_divided_is_refused(spool_of):
    with pytest.raises(OptionError, match="2 nodes of 1 ranks; choose a multiple of 2"):
        SpoolReader(spool_of("node", part=1, parts=2), batch_size=3)
    with pytest.raises(OptionError, match="parts must be 1 or 2"):
        SpoolReader(spool_of("node", part=1, parts=2), batch_size=6, parts=3)


class ManyRanks(SingleProcess):
    """Ranks of 500 nodes with four GPUs each."""

    world, local_world = 2000, 4


def test_more_ranks_than_cursors_are_read_cannot_share_a_spool(spool_of):
    with pytest.raises(OptionError, match=r"2000 ranks are too many for one spool; .*--part n/N"):
        check_ranks(spool_of("whole"), TrainConfig(), ManyRanks())

    with pytest.raises(OptionError, match="no rank has part"):  # four share the spool of a node
        check_ranks(spool_of("node", part=0, parts=500), TrainConfig(), ManyRanks())
