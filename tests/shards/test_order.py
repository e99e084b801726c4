from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from darkprep.shards import UseOrder

orders = st.builds(
    UseOrder,
    samples=st.integers(1, 9),
    window=st.integers(1, 6),
    seed=st.integers(0, 2**32),
    reuse=st.integers(1, 3),
    shards=st.integers(1, 12),
)


@given(orders)
def test_every_sample_is_used_exactly_as_often_as_asked(order: UseOrder):
    assert order.shards is not None and order.total is not None

    uses = Counter(map(tuple, order.uses(0, order.total + 10).tolist()))

    expected = {
        (shard, sample, use)
        for shard in range(order.shards)
        for sample in range(order.samples)
        for use in range(order.reuse)
    }
    assert set(uses) == expected
    assert set(uses.values()) == {1}


@given(orders, st.data())
def test_any_slice_equals_the_same_slice_of_the_whole(order: UseOrder, data: st.DataObject):
    assert order.total is not None
    whole = order.uses(0, order.total)
    start = data.draw(st.integers(0, order.total - 1))
    count = data.draw(st.integers(1, 20))

    np.testing.assert_array_equal(order.uses(start, count), whole[start : start + count])


@given(orders)
def test_positions_need_only_shards_between_oldest_and_newest(order: UseOrder):
    assert order.total is not None
    shards = order.uses(0, order.total)[:, 0]

    for position in range(order.total):
        assert shards[position:].min() >= order.oldest_shard(position)
        assert shards[: position + 1].max() <= order.newest_shard(position)
        assert order.newest_shard(position) - order.oldest_shard(position) < order.window


@given(orders)
def test_an_endless_stream_starts_like_the_finite_one(order: UseOrder):
    assert order.shards is not None
    endless = UseOrder(
        samples=order.samples, window=order.window, seed=order.seed, reuse=order.reuse
    )
    common = order.start(order.shards)

    np.testing.assert_array_equal(endless.uses(0, common), order.uses(0, common))


def test_the_first_batch_needs_only_the_first_shard():
    order = UseOrder(samples=32, window=4, seed=0)

    assert set(order.uses(0, 8)[:, 0].tolist()) == {0}


def test_a_late_batch_mixes_the_whole_window():
    order = UseOrder(samples=32, window=4, seed=0)

    distinct = [len(set(order.uses(8 * batch, 8)[:, 0].tolist())) for batch in range(40, 140)]

    assert np.mean(distinct) > 3.2


def test_a_far_position_is_found_fast():
    order = UseOrder(samples=32, window=4, seed=0)

    uses = order.uses(8_000_000_000, 8)

    assert abs(int(uses[0, 0]) - 250_000_000) <= 4


@given(st.integers(0, 2**40), st.integers(0, 2**40))
@settings(max_examples=30)
def test_another_seed_is_another_order(first: int, second: int):
    one, other = (
        UseOrder(samples=40, window=3, seed=seed).uses(0, 100) for seed in (first, second)
    )

    assert (first == second) == np.array_equal(one, other)


@pytest.mark.parametrize("field", ["samples", "window", "reuse", "shards"])
def test_an_invalid_order_names_the_field(field: str):
    with pytest.raises(ValueError, match=field):
        UseOrder(**{"samples": 1, "window": 1, "seed": 0, field: 0})
