from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from darkprep.shards import Cursor, OptionError, Spool, SpoolBusy, SpoolReader, StreamEnded
from darkprep.shards.order import UseOrder
from tests.support.small_spools import MakeSpool, fill, sample


def keys(reader: SpoolReader, count: int | None = None) -> list[list[str]]:
    found = []
    for batch in reader:
        found.append(
            [f"{meta.key}+{use}" for meta, use in zip(batch.metas, batch.uses, strict=True)]
        )
        if len(found) == count:
            break
    return found


def flat(batches: list[list[str]]) -> list[str]:
    return [key for batch in batches for key in batch]


def in_background(spool: Spool, shards: range, delay: float = 0.05) -> threading.Thread:
    def run() -> None:
        for shard in shards:
            time.sleep(delay)
            fill(spool, [shard])

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_batches_hold_the_samples_that_their_metadata_name(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))

    with SpoolReader(spool, batch_size=3, shards=6) as reader:
        for batch in reader:
            for row, meta in enumerate(batch.metas):
                shard, index = map(int, meta.key.split("-"))
                wanted = sample(shard, index, spool.stream)
                np.testing.assert_array_equal(batch.low[row], wanted.low)
                np.testing.assert_array_equal(batch.gt[row], wanted.gt)


def test_without_hold_every_batch_stays_as_it_was_and_dropped_ones_are_used_again(
    make_spool: MakeSpool,
):
    spool = make_spool(ready=range(6))

    with SpoolReader(spool, batch_size=5, keep=True, shards=6, hold=None) as reader:
        batches = list(reader)
    for batch in batches:
        for row, meta in enumerate(batch.metas):
            shard, index = map(int, meta.key.split("-"))
            np.testing.assert_array_equal(batch.gt[row], sample(shard, index, spool.stream).gt)
    assert len(batches[-1].low) == 4

    with SpoolReader(spool, batch_size=2, keep=True, shards=6, hold=None, depth=1) as reader:
        addresses, view = set(), next(reader).gt[1:]
        before = view.copy()
        for batch in reader:
            addresses.add(batch.low.ctypes.data)
    assert len(addresses) <= 4
    np.testing.assert_array_equal(view, before)  # a view owns the memory too


def test_every_sample_is_read_once_and_every_shard_deleted(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))

    with SpoolReader(spool, batch_size=2, shards=6) as reader:
        seen = flat(keys(reader))

    assert sorted(seen) == [f"0000000{k}-000{s}+0" for k in range(6) for s in range(4)]
    assert spool.ready_shards() == []
    assert reader.stats.shards_deleted == 6
    assert reader.stats.batches == 12


def test_a_shard_that_a_producer_deleted_first_is_counted_too(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))

    with SpoolReader(spool, batch_size=2, shards=6) as reader:
        for _ in reader:
            for shard in spool.ready_shards():
                if shard < spool.oldest_needed():
                    spool.delete(shard)

    assert reader.stats.shards_deleted == 6


def test_a_resumed_reader_counts_only_shards_deleted_since_its_start(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))
    counts = []

    for start, stop in ((0, 7), (7, 12)):
        with SpoolReader(spool, batch_size=2, shards=6, start=start, stop_after=stop) as reader:
            keys(reader)
        counts.append(reader.stats.shards_deleted)

    assert min(counts) > 0
    assert sum(counts) == 6


def test_shards_are_deleted_during_training_not_at_the_end(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))

    with SpoolReader(spool, batch_size=2, shards=6, depth=1) as reader:
        keys(reader, 8)
        deadline = time.monotonic() + 5
        while spool.ready_shards()[0] < 2 and time.monotonic() < deadline:
            time.sleep(0.01)

        assert spool.ready_shards()[0] >= 2


def test_two_readers_of_one_seed_see_the_same_and_another_seed_another_order(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))

    runs = []
    for seed in (5, 5, 6):
        with SpoolReader(spool, batch_size=4, seed=seed, stop_after=20, keep=True) as reader:
            runs.append(keys(reader))

    assert runs[0] == runs[1] != runs[2]
    assert len(runs[0]) == 20


def test_a_reader_started_in_the_middle_continues_with_the_same_batches(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))
    with SpoolReader(spool, batch_size=3, stop_after=7, keep=True) as reader:
        whole = keys(reader)

    with SpoolReader(spool, batch_size=3, start=4, stop_after=7, keep=True) as reader:
        assert keys(reader) == whole[4:]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_divide_the_global_batches_of_one_rank(world: int, make_spool: MakeSpool):
    spool = make_spool(ready=range(6))
    with SpoolReader(spool, batch_size=4, stop_after=6, keep=True) as reader:
        whole = keys(reader)

    dealt = []
    for rank in range(world):
        with SpoolReader(
            spool, batch_size=4, rank=rank, world=world, stop_after=6, keep=True
        ) as reader:
            dealt.append(keys(reader))

    for batch, expected in enumerate(whole):
        for rank in range(world):
            assert dealt[rank][batch] == expected[rank::world]


def test_a_shard_is_deleted_only_when_every_rank_has_passed_it(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))
    first = SpoolReader(spool, batch_size=4, rank=0, world=2, shards=6)
    second = SpoolReader(spool, batch_size=4, rank=1, world=2, shards=6)

    keys(first)
    first.close()
    assert spool.ready_shards() == list(range(6))
    keys(second)
    second.close()
    assert spool.ready_shards() == []


def test_reuse_uses_every_sample_several_times_before_its_shard_is_deleted(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))

    with SpoolReader(spool, batch_size=2, shards=6, reuse=3) as reader:
        seen = flat(keys(reader))

    assert sorted(seen) == sorted(
        f"0000000{k}-000{s}+{u}" for k in range(6) for s in range(4) for u in range(3)
    )
    assert spool.ready_shards() == []


def test_kept_shards_repeat_with_increasing_use_numbers(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))

    with SpoolReader(spool, batch_size=4, stop_after=30, keep=True) as reader:
        seen = flat(keys(reader))

    assert len(seen) == len(set(seen)) == 120
    assert max(int(key.split("+")[1]) for key in seen) >= 4
    assert spool.ready_shards() == list(range(6))


def test_of_kept_shards_only_the_window_is_open_at_a_time(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))

    with SpoolReader(spool, batch_size=4, stop_after=30, keep=True, depth=1) as reader:
        most = max(open_files(spool.ready) for _ in reader)

    assert most <= spool.stream.window + 3, "one in the queue, one with its thread, one here"


def open_files(folder: Path) -> int:
    names = Path("/proc/self/fd").iterdir()
    return sum(os.path.realpath(name).startswith(f"{folder}/") for name in names)


def test_the_reader_waits_for_shards_that_come_later(make_spool: MakeSpool):
    spool = make_spool()
    thread = in_background(spool, range(6))

    with SpoolReader(spool, batch_size=2, shards=6) as reader:
        assert len(keys(reader)) == 12
    thread.join()
    assert reader.stats.wait_s > 0.1


def test_a_starving_reader_calls_back_and_the_callback_may_end_it(make_spool: MakeSpool):
    spool = make_spool(ready=[0])

    def give_up(shard: int, seconds: float) -> None:
        raise StreamEnded(f"shard {shard} will not come")

    with (
        SpoolReader(spool, batch_size=2, on_starving=give_up) as reader,
        pytest.raises(StreamEnded, match="shard 1 will"),
    ):
        keys(reader)


def test_a_damaged_shard_is_quarantined_and_training_continues_with_the_rebuilt_one(
    make_spool: MakeSpool,
):
    spool = make_spool(ready=range(6))
    layout = spool.stream.layout()
    with spool.shard_path(1).open("r+b") as file:
        file.truncate(1000)
    with spool.shard_path(3).open("r+b") as file:
        file.seek(layout.gt_offset + 2 * layout.sample_bytes)
        file.write(b"flipped!")

    def make_again(shard: int, seconds: float) -> None:
        fill(spool, [shard])

    with SpoolReader(spool, batch_size=2, shards=6, on_starving=make_again) as reader:
        seen = flat(keys(reader))

    assert len(set(seen)) == 24
    assert reader.stats.damaged == 2
    assert [record.shard for record in spool.quarantine.records()] == [1, 3]
    assert "checksum of gt" in spool.quarantine.records()[1].reason


def spoil(spool: Spool, shard: int, sample: int) -> None:
    """Damage one array, which is found only when that sample is read."""
    layout = spool.stream.layout()
    with spool.shard_path(shard).open("r+b") as file:
        file.seek(layout.gt_offset + sample * layout.sample_bytes)
        file.write(b"flipped!")


def test_of_two_damaged_shards_in_one_batch_the_earlier_is_not_released_during_the_wait_for_the_later(
    make_spool: MakeSpool,
):
    """The helper thread reads the earlier rows: their damaged samples must be waited for first."""
    spool = make_spool(ready=range(3), shards=3)
    # The end of the last batch is in two intervals and opens no shard; shard 1 ends in the first.
    order = UseOrder(samples=4, window=2, seed=0, shards=3)
    tail = order.uses(order.start(2), 6)[:, :2].tolist()
    assert tail[0][0] == 2 and tail[2][0] == 1, "choose a seed whose order is so"
    spoil(spool, *tail[2])
    spoil(spool, *tail[-1])
    waited = [0]

    def make_again(shard: int, seconds: float) -> None:
        waited[0] += 1
        if waited[0] > 4:
            raise StreamEnded(f"shard {shard} will not come")
        needed = spool.oldest_needed()
        fill(spool, [n for n in range(needed, 3) if not spool.shard_path(n).exists()])

    with SpoolReader(spool, batch_size=12, shards=3, on_starving=make_again) as reader:
        assert len(set(flat(keys(reader)))) == 12

    assert reader.stats.damaged == 2


def test_a_second_trainer_on_the_spool_is_refused(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))

    with (
        SpoolReader(spool, batch_size=2),
        pytest.raises(SpoolBusy, match="a trainer is already running"),
    ):
        SpoolReader(spool, batch_size=2)


def test_closing_keeps_what_was_not_used(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))

    with SpoolReader(spool, batch_size=4, shards=6) as reader:
        first = keys(reader, 3)
    assert spool.read_cursors()[0].batch == 3

    with SpoolReader(spool, batch_size=4, start=3, shards=6) as reader:
        rest = keys(reader)
    assert len(set(flat(first + rest))) == 24


def test_a_reader_closed_with_all_buffers_full_ends(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))
    reader = SpoolReader(spool, batch_size=2, shards=6, depth=2)
    next(reader)
    deadline = time.monotonic() + 5
    while reader._reading._filled.qsize() < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    reader.close()

    rest = threading.Thread(target=lambda: list(reader), daemon=True)
    rest.start()
    rest.join(10)
    assert not rest.is_alive(), "it waits for a batch that nobody reads any more"


def test_a_batch_is_not_overwritten_until_the_next_is_requested(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))

    with SpoolReader(spool, batch_size=2, shards=6, depth=2) as reader:
        batch = next(reader)
        copy = batch.low.copy()
        time.sleep(0.1)
        np.testing.assert_array_equal(batch.low, copy)


def test_buffers_come_from_the_caller_and_are_reused(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))
    made: list[np.ndarray] = []

    def allocate(shape: tuple[int, ...]) -> np.ndarray:
        made.append(np.empty(shape, np.uint16))
        return made[-1]

    with SpoolReader(spool, batch_size=2, shards=6, depth=2, allocate=allocate) as reader:
        lent = {id(batch.low) for batch in reader}

    assert lent <= {id(array) for array in made}
    assert len(made) == 6


def test_a_batch_too_large_for_memory_is_refused_and_the_lock_released(
    make_spool: MakeSpool,
):
    def allocate(shape: tuple[int, ...]) -> np.ndarray:
        raise MemoryError

    spool = make_spool()
    with pytest.raises(
        OptionError, match="batch-size: not enough memory for 5 batches of 6 samples"
    ):
        SpoolReader(spool, batch_size=6, allocate=allocate)
    assert not spool.has_trainer()


def test_a_window_of_shards_is_enough_even_when_a_batch_spans_it(
    make_spool: MakeSpool, tmp_path: Path
):
    """With room for only `window` shards there must be no deadlock: read shards are deleted before new ones are built."""
    spool = make_spool(ready=range(2), shards=8)
    stop = threading.Event()

    def producer() -> None:
        made = 2
        while made < 8 and not stop.is_set():
            if len(spool.ready_shards()) < 2:
                fill(spool, [made])
                made += 1
            time.sleep(0.002)

    thread = threading.Thread(target=producer)
    thread.start()
    try:
        with SpoolReader(spool, batch_size=16, shards=8) as reader:
            assert len(keys(reader)) == 2
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"batch_size": 0}, "batch-size"),
        ({"batch_size": 3, "world": 2}, "ranks"),
        ({"batch_size": 2, "reuse": 0}, "reuse"),
    ],
)
def test_invalid_options_are_named(options: dict[str, int], field: str, make_spool: MakeSpool):
    with pytest.raises(OptionError, match=field):
        SpoolReader(make_spool(), **options)


def test_keeping_an_endless_plan_is_refused(make_spool: MakeSpool):
    with pytest.raises(OptionError, match="--epochs N"):
        SpoolReader(make_spool(shards=None), batch_size=1, keep=True)


def test_the_cursor_holds_the_share_of_time_spent_waiting(make_spool: MakeSpool):
    spool = make_spool(ready=[0])
    thread = in_background(spool, range(1, 6), delay=0.2)

    with SpoolReader(spool, batch_size=2, shards=6) as reader:
        keys(reader)
    thread.join()

    assert spool.read_cursors()[0].wait_fraction > 0.5


def test_time_before_the_first_request_does_not_lower_the_share_of_waiting(make_spool: MakeSpool):
    spool = make_spool(ready=[0])
    thread = in_background(spool, range(1, 6), delay=0.2)

    with SpoolReader(spool, batch_size=2, shards=6) as reader:
        time.sleep(0.4)
        keys(reader)
    thread.join()

    assert spool.read_cursors()[0].wait_fraction > 0.7


def test_the_cursor_holds_the_length_of_the_present_wait(make_spool: MakeSpool):
    spool, stop = make_spool(ready=[0]), threading.Event()
    told: list[Cursor] = []

    def look(shard: int, seconds: float) -> None:
        told.extend(spool.read_cursors())
        if seconds > 20 or told[-1].waiting_s > 0.5:
            stop.set()

    with SpoolReader(spool, batch_size=2, stop=stop, on_starving=look) as reader:
        while True:
            try:
                next(reader)
            except StopIteration:
                break

    assert 0.5 < told[-1].waiting_s < 20
    assert told[-1].wait_fraction > 0.5
    assert spool.read_cursors()[0].waiting_s == 0
