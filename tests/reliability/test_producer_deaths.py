"""Workers die, decoders crash and hang, producers are killed: the shards come, and nothing else stays."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.executors.loky import LokyPool
from darkprep.pipeline.produce.executors.pool import WorkerDied
from darkprep.pipeline.produce.frame_store import FrameAttributes, FrameStore, SensorLevels
from darkprep.pipeline.produce.producer import Producer, ProducerConfig
from darkprep.pipeline.produce.quarantine import crashes_decoder, decoding_record
from darkprep.pipeline.produce.worker import ShardTask, TaskResult, store_frames
from darkprep.pipeline.raw.source import RawFile
from darkprep.shards import ShardFile, Spool, SpoolError
from darkprep.shards.heartbeat import ProducerStatus
from tests.support.builds import planned, shard_bytes
from tests.support.processes import is_running, wait_until, workers_of
from tests.support.sid_tree import write_sid
from tests.support.storm import leftovers

PLENTY = 1 << 30
SHORT = FrameAttributes(
    kind="short",
    raw="a.dng",
    levels=SensorLevels(black=(512.0,) * 4, white=16383, iso=800.0),
)


def produce(spool: Spool, pool: Any, *, jobs: int = 1, **rest: Any) -> ProducerStatus:
    config = ProducerConfig(
        budget_bytes=PLENTY, jobs=jobs, until=9, decode_timeout_s=rest.pop("timeout", 900.0)
    )
    producer = Producer(spool, config, pool, **rest)
    return producer.run()


class BreakingPool:
    """`jobs` workers that make shards when all have one; at some rounds they all die, as loky's do."""

    def __init__(self, jobs: int, dies: Callable[[int], bool], spool: Spool) -> None:
        self._jobs, self._dies, self._spool = jobs, dies, spool
        self._waiting: list[tuple[Future[Any], Callable[[Any], Any], Any]] = []
        self._round = 0
        self._late: int | None = None

    def submit(self, function: Callable[[Any], Any], task: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if function is store_frames:
            future.set_result(function(task))
            return future
        self._waiting.append((future, function, task))
        if len(self._waiting) == self._jobs:
            self._run()
        return future

    def _run(self) -> None:
        self._round += 1
        waiting, self._waiting = self._waiting, []
        if self._dies(self._round):
            self._late = waiting[-1][2].shard
        for future, function, task in waiting:
            if self._late is None:
                future.set_result(function(task))
            else:
                future.set_exception(WorkerDied("killed"))

    def close(self) -> None:
        """loky fails the tasks first and kills the workers then: one still begins a file in between."""
        for future, _, _ in self._waiting:
            future.set_exception(WorkerDied("killed"))
        self._waiting.clear()
        if self._late is not None:
            (self._spool.partial / f"{self._late:08d}.{os.getppid()}.tar").write_bytes(b"half")
            self._late = None


def test_files_that_a_dying_worker_began_are_removed_and_their_shards_rebuilt(
    raw_spool: Spool,
):
    pool = BreakingPool(3, lambda number: number == 2, raw_spool)

    report = produce(raw_spool, pool, jobs=3)

    assert raw_spool.ready_shards() == list(range(9))
    assert report.deaths == 1
    assert not list(leftovers(raw_spool))


def test_one_death_among_many_workers_counts_once(raw_spool: Spool):
    """loky breaks the whole set when one worker dies: 24 broken tasks are not 24 deaths in a row."""

    def produce_with(dies: Callable[[int], bool]) -> ProducerStatus:
        config = ProducerConfig(budget_bytes=PLENTY, jobs=24, until=48)
        return Producer(raw_spool, config, BreakingPool(24, dies, raw_spool)).run()

    assert produce_with(lambda number: number <= 2).deaths == 2
    assert raw_spool.ready_shards() == list(range(48))


class MiscastPool(LokyPool):
    """Real workers, whose decoder of one file is replaced by something that no Python code survives."""

    def __init__(self, jobs: int, name: str, fate: str) -> None:
        super().__init__(jobs)
        self._name, self._fate = name, fate

    def submit(self, function: Callable[[Any], Any], task: Any) -> Future[Any]:
        return super().submit(_work_with_a_bad_file, (function, task, self._name, self._fate))


def _work_with_a_bad_file(
    given: tuple[Callable[[ShardTask], TaskResult], ShardTask, str, str],
) -> TaskResult:
    function, task, name, fate = given

    decode = getattr(RawFile.decode, "original", RawFile.decode)  # of a task before this one

    def decode_or_die(source: RawFile, **rest: Any) -> Any:
        if source.path.name != name:
            return decode(source, **rest)
        if fate == "segfault":
            ctypes.string_at(0)
        time.sleep(600)

    vars(decode_or_die)["original"] = decode
    RawFile.decode = decode_or_die  # type: ignore[method-assign, assignment]
    return function(task)


@pytest.mark.slow
@pytest.mark.parametrize("fate", ["segfault", "hang"])
def test_a_file_that_kills_its_decoder_is_named_and_skipped(
    fate: str, raw_spool: Spool, tmp_path: Path
):
    bad = tmp_path / "data/Sony/short/00002_00_0.1s.dng"
    tried: list[str] = []

    def crashes(path: Path) -> bool:
        tried.append(path.name)
        return path == bad

    config = ProducerConfig(
        budget_bytes=PLENTY, jobs=2, until=9, decode_timeout_s=1.0 if fate == "hang" else 900.0
    )
    producer = Producer(raw_spool, config, MiscastPool(2, bad.name, fate), crash_test=crashes)
    report = producer.run()

    assert raw_spool.ready_shards() == list(range(9))
    assert [Path(skipped.path) for skipped in producer.skipped] == [bad]
    assert producer.skipped[0].reason == "crashes the decoder; replace the file"
    assert (report.deaths or 0) <= 3
    assert bad.name in tried
    assert not list(leftovers(raw_spool))
    layout = raw_spool.stream.layout()
    pairs = {
        meta.pair
        for shard in range(9)
        for meta in ShardFile(raw_spool.shard_path(shard), layout, shard, raw_spool.digest).metas
    }
    assert bad.stem not in pairs
    # The next producer reads the quarantine and makes the same shards without a death.
    again = planned(tmp_path / "again", tmp_path / "data")
    (again.producers / "crashing.json").write_bytes(
        (raw_spool.producers / "crashing.json").read_bytes()
    )
    assert produce(again, MiscastPool(2, bad.name, fate), jobs=2).deaths == 0
    assert shard_bytes(again) == shard_bytes(raw_spool)


def test_the_probe_distinguishes_files_that_decode_from_files_that_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = next(iter(sorted((write_sid(tmp_path) / "Sony/short").iterdir())))

    assert not crashes_decoder(path)
    path.write_bytes(b"no RAW file")
    assert not crashes_decoder(path)
    monkeypatch.setattr("darkprep.pipeline.produce.quarantine._develop_quietly", _crash)
    assert crashes_decoder(path)


def test_a_producer_that_is_stopped_does_not_wait_for_its_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("darkprep.pipeline.produce.quarantine._develop_quietly", _never_end)
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    before = multiprocessing.active_children()
    began = time.monotonic()

    assert not crashes_decoder(tmp_path / "slow.dng", stop), "nothing is known of it"
    assert time.monotonic() - began < 20
    assert set(multiprocessing.active_children()) <= set(before)


def _crash(path: Path) -> None:
    ctypes.string_at(0)


def _never_end(path: Path) -> None:
    time.sleep(600)


def test_files_are_not_probed_after_one_death(raw_spool: Spool):
    def crashes(path: Path) -> bool:
        raise AssertionError(f"{path} was tried")

    pool = BreakingPool(1, lambda number: number == 2, raw_spool)
    produce(raw_spool, pool, crash_test=crashes)

    assert raw_spool.ready_shards() == list(range(9))


def test_workers_that_never_finish_are_an_error_that_names_their_file(raw_spool: Spool):
    path = Plan.load(raw_spool).root / "Sony/short/00001_00_0.1s.dng"

    class DyingPool(BreakingPool):
        def submit(self, function: Callable[[Any], Any], task: Any) -> Future[Any]:
            with decoding_record(raw_spool, path, "print"):
                record = (raw_spool.producers / f"decoding-{os.getpid()}.json").read_bytes()
            (raw_spool.producers / "decoding-4194304.json").write_bytes(record)
            return super().submit(function, task)

    pool = DyingPool(1, lambda number: True, raw_spool)
    with pytest.raises(SpoolError, match=r"00001_00_0.1s.dng.*fewer --jobs"):
        produce(raw_spool, pool, crash_test=lambda path: False)


def test_a_frame_truncated_while_mapped_costs_one_worker_only(raw_spool: Spool, tmp_path: Path):
    """Reading past the end of a mapped file is SIGBUS; the next workers see the damage and decode again."""
    calm = planned(tmp_path / "calm", tmp_path / "data")
    produce(calm, LokyPool(1))
    cut: list[int] = []

    def cut_frames(report: ProducerStatus) -> None:
        if (report.shards_made or 0) >= 3 and not cut:
            for chunk in raw_spool.frames.glob("*/0.0.0"):
                os.truncate(chunk, 0)
                cut.append(1)

    class SlowPool(LokyPool):
        def submit(self, function: Callable[[Any], Any], task: Any) -> Future[Any]:
            time.sleep(0.3)
            return super().submit(function, task)

    report = produce(raw_spool, SlowPool(1), report=cut_frames)

    assert cut
    assert (report.deaths or 0) >= 1
    assert shard_bytes(raw_spool) == shard_bytes(calm)


def test_workers_die_with_their_producer(raw_spool: Spool):
    command = [sys.executable, "-m", "darkprep", "produce", "--spool", str(raw_spool.path)]
    command += ["--jobs", "2", "--until", "inf", "--disk-budget", "6MB"]
    with subprocess.Popen(command, start_new_session=True) as producer:
        wait_until(lambda: raw_spool.ready_shards() and list(workers_of(producer.pid)))
        workers = list(workers_of(producer.pid))
        producer.kill()

    wait_until(lambda: not any(is_running(pid) for pid in workers), 5)
    wait_until(
        lambda: not raw_spool.has_writers(), 5
    )  # files are closed after a zombie's last thread


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_stopped_producer_leaves_whole_shards_and_no_process(number: int, raw_spool: Spool):
    command = [sys.executable, "-m", "darkprep", "produce", "--spool", str(raw_spool.path)]
    command += ["--jobs", "2", "--until", "inf", "--disk-budget", "6MB"]
    with subprocess.Popen(command, start_new_session=True) as producer:
        wait_until(lambda: raw_spool.ready_shards() and list(workers_of(producer.pid)))
        workers = list(workers_of(producer.pid))
        producer.send_signal(number)
        assert producer.wait(20) == 0

    assert not any(is_running(pid) for pid in workers)
    assert not list(leftovers(raw_spool))
    for shard in raw_spool.ready_shards():
        layout = raw_spool.stream.layout()
        ShardFile(raw_spool.shard_path(shard), layout, shard, raw_spool.digest).verify_all()


# -- frames -------------------------------------------------------------------------------------------


def frame(seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 65536, (3, 8, 10), dtype=np.uint16)


@pytest.fixture
def store(tmp_path: Path) -> FrameStore:
    store = FrameStore(tmp_path / "frames")
    store.create()
    return store


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("zarr.json", b"512.0", b"513.0"),
        ("zarr.json", b"16383", b"16283"),
        ("zarr.json", b'"short"', b'"shirt"'),
        ("zarr.json", b"8,", b"9,"),
        ("zarr.json", b"xxh3:", b"xxh4:"),
        ("zarr.json", b"{", b"["),
    ],
)
def test_a_flipped_digit_in_the_attributes_is_damage_too(
    file: str, old: bytes, new: bytes, store: FrameStore
):
    store.put("short-1", frame(), SHORT)
    assert FrameStore(store.path).get("short-1") is not None
    path = store.path / "short-1" / file
    data = path.read_bytes()
    assert old in data

    path.write_bytes(data.replace(old, new, 1))

    assert FrameStore(store.path).get("short-1") is None


def test_a_damaged_frame_is_replaced_by_the_next_put(store: FrameStore):
    store.put("short-1", frame(), SHORT)
    (store.path / "short-1/0.0.0").write_bytes(b"x")
    fresh = FrameStore(store.path)

    assert fresh.get("short-1") is None
    fresh.put("short-1", frame(), SHORT)

    found = FrameStore(store.path).get("short-1")
    assert found is not None
    np.testing.assert_array_equal(found.array, frame())


def test_a_frame_is_on_the_disk_once_even_after_its_writer_was_killed(store: FrameStore):
    left = store.path / f".short-1.{os.getppid()}.tmp"
    left.mkdir()
    (left / "0.0.0").write_bytes(bytes(1 << 20))

    store.put("short-1", frame(), SHORT)

    assert not left.exists()


def test_half_written_group_metadata_are_written_again(store: FrameStore):
    (store.path / "zarr.json").write_bytes(b"")

    store.create()

    import zarr

    assert zarr.open_group(str(store.path), mode="r").attrs["darkprep"] == 1


def test_a_producer_that_ends_during_decoding_leaves_no_decoding_record(raw_spool: Spool):
    """Its workers are killed, but the files that they were decoding are not suspected."""
    stop = threading.Event()
    pool = MiscastPool(2, "00002_00_0.1s.dng", "hang")

    def end_while_decoding(report: ProducerStatus) -> None:
        if any(raw_spool.producers.glob("decoding-*.json")):
            stop.set()

    report = produce(raw_spool, pool, jobs=2, stop=stop, report=end_while_decoding)

    assert report.state == "stopped"
    assert not list(leftovers(raw_spool))
