"""A loop over a spool ends: at the plan's end, or with one line where no process makes what it waits for."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkprep.shards import (
    Sample,
    Spool,
    SpoolBusy,
    SpoolError,
    SpoolReader,
    StreamEnded,
    producer_watch,
)
from tests.support.processes import wait_until
from tests.support.small_spools import MakeSpool, fill, sample

pytestmark = pytest.mark.usefixtures("unguarded")

ALL = {f"{shard:08d}-{index:04d}" for shard in range(6) for index in range(4)}


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """A loop that hangs fails within seconds."""

    def fail(*_: object) -> None:
        raise TimeoutError("the loop hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def stored(key: str, spool: Spool) -> Sample:
    shard, index = map(int, key.split("-"))
    return sample(shard, index, spool.stream)


def keys(batches: Any) -> list[str]:
    return [meta.key for batch in batches for meta in batch.metas]


# -- the plan's end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 7, 8, 23, 24, 25])
@pytest.mark.parametrize("reuse", [1, 2])
def test_a_loop_without_options_gets_every_sample_and_ends(
    batch_size: int, reuse: int, make_spool: MakeSpool
):
    spool = make_spool(ready=range(6))

    with SpoolReader(spool, batch_size=batch_size, reuse=reuse) as reader:
        batches = [
            (len(batch.low), len(batch.gt), len(batch.metas), len(batch.uses), keys([batch]))
            for batch in reader
        ]

    seen = [key for *_, found in batches for key in found]
    assert len(seen) == 24 * reuse
    assert set(seen) == ALL
    total = 24 * reuse
    full, rest = divmod(total, batch_size)
    assert [sizes[:4] for sizes in batches] == [(batch_size,) * 4] * full + [(rest,) * 4] * bool(
        rest
    )
    assert spool.ready_shards() == []


def test_the_arrays_of_the_last_batch_hold_its_samples(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))

    with SpoolReader(spool, batch_size=7) as reader:
        *_, last = reader

    assert len(last.metas) == 3
    for row, meta in enumerate(last.metas):
        wanted = stored(meta.key, spool)
        np.testing.assert_array_equal(last.low[row], wanted.low)
        np.testing.assert_array_equal(last.gt[row], wanted.gt)


def test_the_last_batch_is_dropped_on_request(make_spool: MakeSpool):
    with SpoolReader(make_spool(ready=range(6)), batch_size=7, drop_last=True) as reader:
        assert [len(batch.metas) for batch in reader] == [7, 7, 7]


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_batch_larger_than_the_plan_is_one_batch_or_none(drop_last: bool, make_spool: MakeSpool):
    with SpoolReader(make_spool(ready=range(6)), batch_size=100, drop_last=drop_last) as reader:
        assert len(keys(reader)) == (0 if drop_last else 24)


@pytest.mark.parametrize("start", [0, 2, 3, 4, 9])
def test_a_reader_that_starts_late_ends_there_too(start: int, make_spool: MakeSpool):
    with SpoolReader(make_spool(ready=range(6)), batch_size=7, start=start) as reader:
        assert len(keys(reader)) == max(0, 24 - 7 * start)


@pytest.mark.parametrize("world", [2, 3])
def test_every_rank_has_equally_many_samples_of_the_last_batch(world: int, make_spool: MakeSpool):
    """Ranks that train together take the same number of steps, with batches of one size."""
    spool = make_spool(ready=range(6), samples=5)
    readers = [SpoolReader(spool, batch_size=12, rank=rank, world=world) for rank in range(world)]

    seen = [[keys([batch]) for batch in reader] for reader in readers]

    sizes = [[len(batch) for batch in batches] for batches in seen]
    assert sizes == [[12 // world] * 2 + [6 // world]] * world
    assert len({key for batches in seen for batch in batches for key in batch}) == 30


def test_a_stream_is_endless_on_request(make_spool: MakeSpool):
    spool = make_spool(ready=range(9))

    with SpoolReader(spool, batch_size=4, endless=True, stop_after=8) as reader:
        assert len(keys(reader)) == 32


def test_a_plan_without_end_and_kept_shards_have_no_end(make_spool: MakeSpool):
    spool, kept = make_spool(shards=None, ready=range(9)), make_spool("kept", ready=range(6))

    with SpoolReader(spool, batch_size=4, stop_after=8) as reader:
        assert len(keys(reader)) == 32
    with SpoolReader(kept, batch_size=5, keep=True, stop_after=20) as reader:
        assert len(keys(reader)) == 100


# -- a shard that no process makes -------------------------------------------------------------------


@pytest.fixture
def short_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer_watch, "_ABSENT_S", 0.5)
    monkeypatch.setattr(producer_watch, "_REPORT_AFTER_S", 0.1)


def test_a_reader_ends_with_one_line_where_no_producer_makes_the_next_shard(
    make_spool: MakeSpool, short_absence: None
):
    spool = make_spool(ready=range(4))
    reader = SpoolReader(spool, batch_size=2)

    with pytest.raises(StreamEnded) as caught:
        keys(reader)

    text = str(caught.value)
    assert text.startswith(f"{spool.path}: shard 4 is missing and no producer is running")
    assert f"darkprep build --spool {spool.path}" in text
    assert "\n" not in text
    assert not spool.has_trainer()


def test_by_default_that_takes_a_few_seconds():
    assert 2 <= producer_watch._ABSENT_S <= 10


def test_a_reader_waits_for_a_producer_that_runs_and_reports_it_once(
    make_spool: MakeSpool, short_absence: None, caplog: pytest.LogCaptureFixture
):
    spool = make_spool(ready=range(3))

    def produce() -> None:
        for shard in range(3, 6):
            time.sleep(1.2)
            fill(spool, [shard])

    with spool.producer_lock(), SpoolReader(spool, batch_size=2) as reader:
        thread = threading.Thread(target=produce)
        thread.start()
        assert set(keys(reader)) == ALL
        thread.join()

    assert [record.getMessage() for record in caplog.records] == [
        f"{spool.path}: waiting for the producer to make shard 3"
    ]


def test_a_producer_that_ends_without_making_the_shard_ends_the_reader(
    make_spool: MakeSpool, short_absence: None
):
    spool = make_spool(ready=range(3))
    lock = spool.producer_lock()
    lock.acquire()
    threading.Timer(1.0, lock.release).start()

    with (
        pytest.raises(StreamEnded, match="shard 3 is missing"),
        SpoolReader(spool, batch_size=2) as reader,
    ):
        keys(reader)


# -- the lock is released -------------------------------------------------------------------------------


def exhaust(spool: Spool) -> SpoolReader:
    reader = SpoolReader(spool, batch_size=2)
    keys(reader)
    return reader


def close(spool: Spool) -> SpoolReader:
    reader = SpoolReader(spool, batch_size=2)
    next(reader)
    reader.close()
    return reader


def collect(spool: Spool) -> None:
    reader = SpoolReader(spool, batch_size=2)
    next(reader)
    next(reader)


def collect_cycle(spool: Spool) -> None:
    holder: list[object] = []
    holder += [SpoolReader(spool, batch_size=2), holder]
    del holder
    gc.collect()


def leave_loop(spool: Spool) -> None:
    for batch in SpoolReader(spool, batch_size=2):
        if batch.index == 3:
            break


def fail(spool: Spool) -> SpoolReader:
    reader = SpoolReader(spool, batch_size=2, on_starving=raise_error)
    spool.delete(0)
    with contextlib.suppress(ZeroDivisionError):
        keys(reader)
    return reader


def raise_error(shard: int, seconds: float) -> None:
    raise ZeroDivisionError


def stop(spool: Spool) -> SpoolReader:
    event = threading.Event()
    reader = SpoolReader(spool, batch_size=2, stop=event)
    next(reader)
    event.set()
    keys(reader)
    return reader


WAYS = [exhaust, close, collect, collect_cycle, leave_loop, fail, stop]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_reader_that_is_done_gives_its_lock_back(
    way: Callable[[Spool], object], make_spool: MakeSpool
):
    """As in a notebook, whose cell runs again in the same process while the old reader is still named."""
    spool = make_spool(ready=range(6))

    left = way(spool)

    fill(spool, [shard for shard in range(6) if shard not in spool.ready_shards()])
    with SpoolReader(spool, batch_size=2, keep=True) as again:
        next(again)
    assert not spool.has_trainer()
    assert reader_threads() == []
    if isinstance(left, SpoolReader):
        assert list(left) == []
        left.close()


def reader_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("spool-reader")]


def test_a_collected_reader_has_used_what_it_returned(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))

    leave_loop(spool)

    (cursor,) = spool.read_cursors()
    assert cursor.batch == 4


def test_a_reader_that_is_collected_in_a_thread_of_its_own_ends(make_spool: MakeSpool):
    """The collector runs in any thread: in the reader's own it must not wait for itself."""
    spool = make_spool(ready=range(6))
    holder: list[object] = []
    gc.disable()
    try:
        holder += [SpoolReader(spool, batch_size=2), holder]
        other = make_spool("other", ready=range(1))
        reader = SpoolReader(other, batch_size=2, on_starving=lambda *_: gc.collect() and None)
        del holder
        next(reader)
        wait_until(lambda: not spool.has_trainer(), 10)
        reader.close()
    finally:
        gc.enable()


def test_a_reader_that_is_never_closed_ends_with_its_process(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))
    code = f"""
from darkprep.shards import Sample, Spool, SpoolReader
reader = SpoolReader(Spool({str(spool.path)!r}).open(), batch_size=2)
next(reader), next(reader)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True
    )

    assert ended.stderr == ""
    assert spool.read_cursors()[0].batch == 2


def test_a_second_reader_in_the_same_process_is_refused_with_the_reason(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))

    with SpoolReader(spool, batch_size=2) as first:
        with pytest.raises(SpoolBusy) as caught:
            SpoolReader(spool, batch_size=2)
        assert set(keys(first)) == ALL

    assert f"pid {os.getpid()}" in str(caught.value)
    assert "this process); close it first" in str(caught.value)


def test_batches_stay_valid_after_the_end(make_spool: MakeSpool):
    spool = make_spool(ready=range(6))

    batches = list(SpoolReader(spool, batch_size=6, hold=4))

    for batch in batches:
        for row, meta in enumerate(batch.metas):
            wanted = stored(meta.key, spool)
            np.testing.assert_array_equal(batch.low[row], wanted.low)


def test_a_training_keeps_its_lock_and_its_shards_until_it_closes(make_spool: MakeSpool):
    """Its last checkpoint comes after the last batch and before the last shards are deleted."""
    spool = make_spool(ready=range(6))

    with SpoolReader(spool, batch_size=4, close_at_end=False) as reader:
        assert set(keys(reader)) == ALL
        assert spool.has_trainer()
        assert spool.ready_shards()
        assert list(reader) == []

    assert not spool.has_trainer()
    assert spool.ready_shards() == []


# -- other processes ----------------------------------------------------------------------------------


def in_child(code: Callable[[], object]) -> str:
    """What a forked child returns or raises."""
    received, sent = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(10)  # to its death, where it hangs
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        try:
            text = repr(code())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(sent, text.encode())
        os._exit(0)
    os.close(sent)
    with os.fdopen(received, encoding="utf-8") as file:
        text = file.read()
    os.waitpid(child, 0)
    return text


def test_a_reader_used_in_a_forked_process_raises_one_line_and_changes_nothing(
    make_spool: MakeSpool,
):
    spool = make_spool(ready=range(6))

    with SpoolReader(spool, batch_size=2) as reader:
        first = keys([next(reader)])
        text = in_child(lambda: next(reader))
        assert text.startswith(
            f"SpoolError: {spool.path}: a SpoolReader works only in the process that"
        )
        assert f"pid {os.getpid()}" in text
        assert "\n" not in text
        assert in_child(reader.close) == "None"
        assert in_child(lambda: reader._finalizer()) == "None"
        assert in_child(lambda: spool.has_trainer()) == "True"
        assert spool.has_trainer()
        rest = keys(reader)

    assert set(first + rest) == ALL
    assert len(first + rest) == 24


def test_a_forked_child_keeps_no_shard_open(make_spool: MakeSpool):
    """Otherwise the disk space of every shard that is deleted later stays occupied."""
    spool = make_spool(ready=range(6))

    def open_shards() -> list[str]:
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        targets = [str(link.readlink()) for link in links]
        return [target for target in targets if target.startswith(str(spool.path))]

    with SpoolReader(spool, batch_size=2, depth=1) as reader:
        next(reader)
        assert open_shards()
        assert in_child(open_shards) == "[]"
        assert len(keys(reader)) == 22


@pytest.mark.parametrize("send", [pickle.dumps, copy.copy, copy.deepcopy], ids=lambda f: f.__name__)
def test_a_reader_cannot_be_sent_to_another_process(
    send: Callable[[object], object], make_spool: MakeSpool
):
    with (
        SpoolReader(make_spool(ready=range(6)), batch_size=2) as reader,
        pytest.raises(SpoolError, match="cannot be sent to another process"),
    ):
        send(reader)


def test_a_reader_that_waits_ends_when_another_thread_closes_it(make_spool: MakeSpool):
    spool, ended = make_spool(ready=[0]), queue.SimpleQueue[list[str]]()
    reader = SpoolReader(spool, batch_size=2, on_starving=lambda *_: None)
    thread = threading.Thread(target=lambda: ended.put(keys(reader)))
    thread.start()
    wait_until(lambda: reader.stats.batches >= 1)
    time.sleep(0.2)

    reader.close()

    assert ended.get(timeout=5)
    thread.join()
