from __future__ import annotations

import errno
import gc
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from darkprep.pipeline.plan.frame_names import frame_name
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.budget import default_budget, divide_budget, smallest_budget
from darkprep.pipeline.produce.executors.loky import LokyPool
from darkprep.pipeline.produce.frame_store import Frame, FrameStore
from darkprep.pipeline.produce.producer import Producer, ProducerConfig
from darkprep.pipeline.produce.worker import ShardTask
from darkprep.pipeline.raw.mosaic import pack
from darkprep.pipeline.raw.reader import read_raw
from darkprep.pipeline.raw.source import RawFile
from darkprep.shards import (
    BudgetTooSmall,
    Cursor,
    DatasetError,
    DiskFull,
    OptionError,
    RawError,
    ShardFile,
    Spool,
    SpoolBusy,
)
from darkprep.shards.heartbeat import ProducerStatus
from tests.support.builds import InlinePool, make_shards, planned, shard_bytes
from tests.support.processes import wait_until
from tests.support.sid_tree import write_sid

PLENTY = 1 << 30


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return planned(tmp_path / "spool", write_sid(tmp_path / "data"))


def produce(
    spool: Spool, *, budget: int = PLENTY, pool: Any = None, until: int | None = 9, **rest: Any
) -> Producer:
    config = ProducerConfig(
        budget_bytes=budget,
        jobs=rest.pop("jobs", 1),
        until=until,
        disk_full_timeout_s=rest.pop("timeout", 0.0),
    )
    producer = Producer(spool, config, pool or InlinePool(), **rest)
    producer.run()
    return producer


def least(spool: Spool) -> int:
    return smallest_budget(Plan.load(spool))


def release(spool: Spool, shard: int) -> None:
    """What a trainer does when it has passed all shards before `shard`."""
    spool.write_cursor(Cursor(rank=0, world=1, batch=0, shard=shard))
    for old in spool.ready_shards():
        if old < shard:
            spool.delete(old)


def test_all_shards_of_the_plan_are_made_and_whole(spool: Spool):
    produce(spool)

    assert spool.ready_shards() == list(range(9))
    for shard in range(9):
        ShardFile(spool.shard_path(shard), spool.stream.layout(), shard, spool.digest).verify_all()
    assert not list(spool.partial.iterdir())


def test_samples_are_the_crops_of_their_pairs_frames(spool: Spool):
    produce(spool, until=2)
    layout = spool.stream.layout()
    low, gt = np.empty(layout.low_shape, np.uint16), np.empty(layout.gt_shape, np.uint16)
    opened = ShardFile(spool.shard_path(1), layout, 1, spool.digest)

    for index, meta in enumerate(opened.metas):
        opened.read(index, low, gt)
        y, x = meta.origin
        frame = read_raw(Plan.load(spool).root / f"Sony/short/{meta.pair}.dng")
        np.testing.assert_array_equal(low, pack(frame.mosaic[y : y + 36, x : x + 36], "bayer"))
        long = FrameStore(spool.frames).get(frame_name("long", print_of(spool, meta.pair)))
        assert long is not None
        np.testing.assert_array_equal(gt, long.array[:, y : y + 36, x : x + 36])
        assert meta.ratio == meta.amplification == {"0.1s": 100.0, ".04s": 250.0}[meta.pair[-4:]]
        assert (meta.black, meta.white, meta.iso) == ((512.0,) * 4, 16383, 800.0)


def print_of(spool: Spool, pair_id: str) -> str:
    return next(pair.long_fingerprint for pair in Plan.load(spool).pairs if pair.pair.id == pair_id)


def test_one_and_two_real_workers_make_the_same_bytes_as_this_process(spool: Spool, tmp_path: Path):
    root = tmp_path / "data"
    produce(spool)
    for jobs in (1, 2):
        other = planned(tmp_path / f"jobs{jobs}", root)
        produce(other, pool=LokyPool(jobs), jobs=jobs)
        assert shard_bytes(other) == shard_bytes(spool)


class NotedPool(LokyPool):
    """Real workers; the names of what they were asked for, and the tasks."""

    def __init__(self, jobs: int) -> None:
        super().__init__(jobs)
        self.asked: list[str] = []
        self.tasks: list[ShardTask] = []

    def submit(self, function: Callable[[Any], Any], task: Any) -> Future[Any]:
        self.asked.append(f"{function.__name__} {task.shard}")
        self.tasks.append(task)
        return super().submit(function, task)


def test_idle_workers_decode_for_the_first_shard_before_they_begin_the_next(spool: Spool):
    pool = NotedPool(2)
    reports: list[ProducerStatus] = []
    produce(spool, pool=pool, jobs=2, report=reports.append)

    assert pool.asked[:3] == ["make_shard 0", "store_frames 0", "make_shard 1"]
    assert pool.asked.count("store_frames 0") == 1
    assert reports[-1].shards_made == 9
    assert reports[-1].frames_decoded == len(FrameStore(spool.frames).names())


@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_all_workers_threads_make_the_first_shard_from_crops_of_large_frames(
    tmp_path: Path, jobs: int
):
    root, small = write_sid(tmp_path / "data"), {"crop": 16, "crops_per_visit": 2, "epochs": 1}
    whole, spool = (
        planned(tmp_path / "whole", root, **small),
        planned(tmp_path / "s", root, **small),
    )
    make_shards(whole, range(2), stored=True)
    pool = NotedPool(jobs)

    produce(spool, pool=pool, jobs=jobs, until=2)

    assert pool.asked == ["make_shard 0", "make_shard 1"]
    first, second = pool.tasks
    assert (first.threads, second.threads) == (jobs, 1)
    assert not first.storable_frames
    assert second.storable_frames
    assert shard_bytes(spool) == shard_bytes(whole)


def test_no_worker_decodes_ahead_if_no_frame_can_be_stored(spool: Spool):
    pool = NotedPool(2)
    produce(spool, pool=pool, jobs=2, until=2, budget=least(spool) + 1)

    assert pool.asked == ["make_shard 0", "make_shard 1"]


def test_shards_are_the_same_with_no_room_for_frames(spool: Spool, tmp_path: Path):
    produce(spool)
    small = planned(tmp_path / "small", tmp_path / "data")
    made = {}

    def trainer(report: ProducerStatus) -> None:
        for shard in small.ready_shards():
            made[shard] = small.shard_path(shard).read_bytes()
        release(small, small.oldest_needed() + 1)

    producer = produce(small, budget=least(small), report=trainer)
    trainer(None)

    assert not producer.budget.frames
    assert FrameStore(small.frames).names() == []
    assert [made[shard] for shard in sorted(made)] == shard_bytes(spool)


def test_any_zarr_reader_opens_the_stored_frames(spool: Spool):
    produce(spool, until=1)
    group = zarr.open_group(str(spool.frames), mode="r")

    names = FrameStore(spool.frames).names()
    assert len(names) >= 2
    for name in names:
        frame = FrameStore(spool.frames).get(name)
        assert frame is not None
        np.testing.assert_array_equal(np.asarray(group[name]), frame.array)


def test_each_raw_file_is_decoded_once_when_its_frame_fits(spool: Spool):
    reports: list[ProducerStatus] = []
    produce(spool, report=reports.append)

    assert reports[-1].frames_decoded == 9  # 6 shorts, 3 longs
    assert reports[-1].frames_kept == reports[-1].frames_wanted == 9


def test_a_stored_frame_that_was_flipped_on_disk_is_decoded_again(spool: Spool, tmp_path: Path):
    produce(spool, until=9)
    wanted = shard_bytes(spool)
    for chunk in spool.frames.glob("*/0.0.0"):
        with chunk.open("r+b") as file:
            file.seek(100)
            file.write(b"flip")
    for shard in range(9):
        spool.delete(shard)
    from darkprep.pipeline.produce import worker

    worker._worker_state.cache_clear()  # a new worker process has mapped nothing yet
    produce(spool)

    assert shard_bytes(spool) == wanted


def test_the_producer_waits_when_the_budget_is_full_and_goes_on_when_the_trainer_releases(
    spool: Spool,
):
    stop = threading.Event()
    seen: list[ProducerStatus] = []
    config = ProducerConfig(budget_bytes=least(spool), jobs=1, until=9)
    thread = threading.Thread(
        target=Producer(spool, config, InlinePool(), report=seen.append, stop=stop).run
    )
    thread.start()
    wait_until(lambda: any(report.state == "waiting for the trainer" for report in seen))
    assert spool.ready_shards() == [0, 1, 2]

    release(spool, 2)
    wait_until(lambda: spool.ready_shards() == [2, 3, 4])
    release(spool, 9)
    thread.join(timeout=20)

    assert not thread.is_alive()
    assert seen[-1].state == "done"
    assert (seen[-1].blocked_s or 0) > 0


@pytest.mark.parametrize(
    "extra", [0, 3, *(pytest.param(extra, marks=pytest.mark.slow) for extra in (1, 8))]
)
def test_the_disk_never_holds_more_than_the_budget(extra: int, spool: Spool):
    budget = least(spool) + extra * 100_000
    heaviest = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal heaviest
        while not done.is_set():
            heaviest = max(heaviest, spool.disk_bytes())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        produce(
            spool, budget=budget, report=lambda report: release(spool, spool.oldest_needed() + 1)
        )
    finally:
        done.set()
        watcher.join()
    assert 0 < heaviest <= budget


@pytest.mark.parametrize("extra", [0, 3])
def test_a_smaller_budget_than_the_last_drops_the_shards_that_are_needed_last(
    extra: int, spool: Spool
):
    produce(spool)
    spool.quarantine.add(spool.shard_path(8), 8, "for the test")
    budget = least(spool) + extra * spool.stream.layout().shard_bytes
    stop = threading.Event()
    weights = []

    def look(report: ProducerStatus) -> None:
        weights.append(spool.disk_bytes())
        if len(weights) == 3:
            stop.set()

    produce(spool, budget=budget, report=look, stop=stop)

    assert max(weights) <= budget
    assert spool.ready_shards() == list(
        range(divide_budget(Plan.load(spool), budget, jobs=1).max_shards)
    )


def test_the_default_budget_stays_what_it_is_while_the_spool_fills(tmp_path: Path, monkeypatch):
    fill = tmp_path / "spool" / "ready" / "00000000.tar"
    free = 10**9

    def disk(path: object) -> os.statvfs_result:
        left = free - (fill.stat().st_blocks * 512 if fill.exists() else 0)
        return os.statvfs_result((512, 512, free, left // 512, left // 512, 0, 0, 0, 0, 255))

    monkeypatch.setattr(os, "statvfs", disk)
    before = default_budget(tmp_path / "spool")
    fill.parent.mkdir(parents=True)
    fill.write_bytes(bytes(10**6))

    assert before == pytest.approx(free // 2, abs=512)
    assert default_budget(tmp_path / "spool") == pytest.approx(before, abs=20_000)


def test_a_budget_below_the_smallest_is_refused_with_the_one_that_works(spool: Spool):
    with pytest.raises(BudgetTooSmall, match=r"too small.*need \dMB"):
        produce(spool, budget=least(spool) - 1)
    produce(spool, budget=least(spool), until=2)


def test_a_missing_shard_and_a_quarantined_one_are_rebuilt_bit_for_bit(spool: Spool):
    produce(spool)
    wanted = shard_bytes(spool)
    spool.delete(2)
    spool.quarantine.add(spool.shard_path(4), 4, "test")
    stale = spool.partial / "00000006.4194305.tar"
    stale.write_bytes(b"half")

    produce(spool)

    assert shard_bytes(spool) == wanted
    assert not stale.exists()


def test_a_trainer_that_resumed_earlier_gets_its_shards_even_when_later_ones_fill_the_budget(
    spool: Spool,
):
    release(spool, 5)
    produce(spool, budget=least(spool), until=8)
    assert spool.ready_shards() == [5, 6, 7]
    spool.write_cursor(Cursor(rank=0, world=1, batch=0, shard=1))

    stop = threading.Event()
    thread = threading.Thread(
        target=Producer(
            spool,
            ProducerConfig(budget_bytes=least(spool), jobs=1, until=9),
            InlinePool(),
            stop=stop,
        ).run
    )
    thread.start()
    wait_until(lambda: spool.ready_shards()[:3] == [1, 2, 3])
    stop.set()
    thread.join()


def test_a_worker_that_dies_is_replaced_and_its_shard_rebuilt(spool: Spool):
    died: list[int] = []

    def dies(task: Any) -> bool:
        if task.shard % 3 == 1 and died.count(task.shard) < 2:
            died.append(task.shard)
            return True
        return False

    reports: list[ProducerStatus] = []
    produce(spool, pool=InlinePool(dies), report=reports.append)

    assert spool.ready_shards() == list(range(9))
    assert reports[-1].deaths == 6


def test_a_real_worker_that_is_killed_is_replaced(spool: Spool):
    killed = threading.Event()

    def kill_one(report: ProducerStatus) -> None:
        from joblib.externals.loky import get_reusable_executor

        processes = list(getattr(get_reusable_executor(reuse=True), "_processes", {}))
        if processes and not killed.is_set():
            os.kill(processes[0], 9)
            killed.set()

    produce(spool, pool=LokyPool(2), jobs=2, report=kill_one)

    assert spool.ready_shards() == list(range(9))


def test_workers_that_keep_dying_are_reported_in_one_error(spool: Spool):
    from darkprep.shards import SpoolError

    with pytest.raises(SpoolError, match="fewer --jobs"):
        produce(spool, pool=InlinePool(lambda task: True))


@pytest.mark.parametrize("fate", ["removed", "truncated", "replaced"])
def test_a_file_that_changed_since_the_plan_is_replaced_by_other_pairs_and_named(
    fate: str, spool: Spool, tmp_path: Path
):
    path = tmp_path / "data/Sony/short/00002_00_0.1s.dng"
    other = tmp_path / "data/Sony/short/00001_00_0.1s.dng"
    if fate == "removed":
        path.unlink()
    elif fate == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.write_bytes(other.read_bytes())

    producer = produce(spool)

    assert spool.ready_shards() == list(range(9))
    assert [Path(skipped.path).name for skipped in producer.skipped] == [path.name]
    opened = ShardFile(spool.shard_path(0), spool.stream.layout(), 0, spool.digest)
    assert all(meta.pair != "00002_00_0.1s" for meta in opened.metas)


@pytest.mark.parametrize("lost", [(0, 2), (2, 0)])
def test_a_file_that_decodes_to_another_size_than_its_header_states_is_named(
    lost: tuple[int, int], spool: Spool, monkeypatch
):
    develop = RawFile.develop

    def cut(source: RawFile, **options: Any) -> Any:
        whole = develop(source, **options)
        rows, columns = whole.shape[1] - lost[0], whole.shape[2] - lost[1]
        return whole[:, :rows, :columns].copy() if "00001" in source.path.name else whole

    monkeypatch.setattr(RawFile, "develop", cut)

    producer = produce(spool)

    assert [Path(one.path).name for one in producer.skipped] == ["00001_00_10s.dng"]
    assert "but its header says 64x96" in producer.skipped[0].reason
    assert spool.ready_shards() == list(range(9))


def test_a_worker_keeps_no_frame_of_visits_with_a_bad_file(spool: Spool, tmp_path: Path):
    def alive() -> set[int]:
        gc.collect()
        return {id(one) for one in gc.get_objects() if type(one) is Frame}

    path = tmp_path / "data/Sony/long/00002_00_10s.dng"
    os.truncate(path, path.stat().st_size // 2)
    before = alive()

    producer = produce(spool, budget=least(spool), until=2)
    release(spool, 2)
    produce(spool, budget=least(spool), until=4)

    assert [Path(one.path) for one in producer.skipped] == [path]
    assert not alive() - before


def test_a_file_whose_read_failed_is_used_once_it_succeeds(
    spool: Spool, tmp_path: Path, monkeypatch
):
    untroubled = planned(tmp_path / "untroubled", tmp_path / "data")
    produce(untroubled)
    refusals: list[Path] = []
    fingerprint = RawFile.fingerprint

    def unreliable(source: RawFile) -> str:
        path = source.path
        if path.name == "00002_00_0.1s.dng" and len(refusals) < 2:
            refusals.append(path)
            raise RawError(str(path), "cannot be read") from OSError(errno.EIO, "input/output")
        return fingerprint(source)

    monkeypatch.setattr(RawFile, "fingerprint", unreliable)
    produce(spool)

    assert len(refusals) == 2
    assert shard_bytes(spool)[-3:] == shard_bytes(untroubled)[-3:]


def test_a_producer_without_usable_files_reports_it(spool: Spool, tmp_path: Path):
    for path in (tmp_path / "data/Sony/long").iterdir():
        path.unlink()

    with pytest.raises(DatasetError, match="none of the plan's 6 pairs"):
        produce(spool)
    assert [beat.status.state for beat in spool.heartbeats()] == ["failed"]


def test_a_full_disk_ends_the_producer_after_the_timeout(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
):
    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)

    with pytest.raises(DiskFull, match="the disk is full"):
        produce(spool, timeout=0.2)
    assert spool.ready_shards() == []
    assert not list(spool.partial.iterdir())


def test_a_second_producer_is_refused(spool: Spool):
    with spool.producer_lock(), pytest.raises(SpoolBusy, match="a producer is already running"):
        produce(spool)


@pytest.mark.parametrize(
    ("amplify", "expected"), [("ratio", {100.0, 250.0}), ("120", {120.0}), ("estimate", None)]
)
def test_the_amplification_follows_the_plan(
    amplify: str, expected: set[float] | None, tmp_path: Path
):
    spool = planned(tmp_path / "spool", write_sid(tmp_path / "data"), amplify=amplify)
    produce(spool, until=2)

    metas = ShardFile(spool.shard_path(0), spool.stream.layout(), 0, spool.digest).metas
    found = {meta.amplification for meta in metas}
    if expected is None:
        assert all(1 <= amplification <= 300 for amplification in found)
        assert {meta.amplification_source for meta in metas} == {"estimate"}
    else:
        assert found <= expected


def test_a_stopped_producer_leaves_only_whole_shards(spool: Spool):
    stop = threading.Event()
    produce(spool, stop=stop, report=lambda report: stop.set(), pool=LokyPool(2), jobs=2)

    for shard in spool.ready_shards():
        ShardFile(spool.shard_path(shard), spool.stream.layout(), shard, spool.digest).verify_all()
    assert not list(spool.partial.iterdir())
    assert not spool.has_producer()


def test_noise_is_the_same_when_a_shard_is_rebuilt_and_differs_between_crops(
    tmp_path: Path,
):
    root = write_sid(tmp_path / "data")
    first = planned(tmp_path / "one", root, noise="canon70d")
    second = planned(tmp_path / "two", root, noise="canon70d")

    produce(first, until=2)
    produce(second, until=1)

    assert shard_bytes(first)[0] == shard_bytes(second)[0]
    opened = ShardFile(first.shard_path(0), first.stream.layout(), 0, first.digest)
    metas = opened.metas
    assert len({meta.ratio for meta in metas}) == len({meta.iso for meta in metas}) == len(metas)
    assert all(meta.amplification == meta.ratio for meta in metas)
    assert all(100 <= meta.ratio <= 300 and meta.amplification_source == "ratio" for meta in metas)


def test_noise_works_with_a_constant_amplification(tmp_path: Path):
    spool = planned(tmp_path / "spool", write_sid(tmp_path / "data"), noise="sony", amplify="150")

    produce(spool, until=1)

    metas = ShardFile(spool.shard_path(0), spool.stream.layout(), 0, spool.digest).metas
    assert {meta.amplification for meta in metas} == {150.0}
    assert {meta.amplification_source for meta in metas} == {"constant"}


def test_a_resampled_frame_is_stored_beside_the_native_one(tmp_path: Path):
    plan = Plan.load(planned(tmp_path / "spool", write_sid(tmp_path / "data"), xtrans="rggb"))
    native = Plan.load(planned(tmp_path / "native", tmp_path / "data"))

    pair = plan.pairs[0]
    assert plan.frame_name("long", pair) == native.frame_name("long", pair)
    assert plan.frame_name("short", pair) == f"{native.frame_name('short', pair)}-rggb"


def test_frames_of_another_libraw_version_are_not_used(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
):
    produce(spool, until=1)
    before = set(FrameStore(spool.frames).names())
    spool.shard_path(0).unlink()
    monkeypatch.setattr("darkprep.pipeline.plan.frame_names.libraw_version", lambda: "99.0.0")

    produce(spool, until=1)

    after = set(FrameStore(spool.frames).names())
    assert len(before) == len(after) > 0
    assert not before & after, "frames of the other version were kept in the spool's budget"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"jobs": 0}, "jobs must be 1 to .*, not 0"),
        ({"until": 0}, "until, the number of shards to make, must be at least 1, not 0"),
    ],
)
def test_a_producer_that_could_make_nothing_is_refused(wrong: dict[str, int], message: str):
    with pytest.raises(OptionError, match=message):
        ProducerConfig(**{"budget_bytes": PLENTY, "jobs": 1, "until": 1, **wrong})
