"""A remedy that fails is tried again a few times, with pauses, and then reported once; nothing is retried for ever."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from darkprep.commands.main import main
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.producer import Producer, ProducerConfig
from darkprep.shards import ShardFile, Spool, SpoolBusy, SpoolError, SpoolReader, open_shards
from darkprep.shards.heartbeat import ProducerStatus
from darkprep.shards.locks import shared_lock
from tests.support.builds import InlinePool, planned, shard_bytes
from tests.support.sid_tree import write_sid
from tests.support.small_spools import MakeSpool, fill

DIRECTORIES = ("ready", "partial", "damaged", "cursors", "producers", "frames")
EACH_DIRECTORY = [
    name if name in ("ready", "damaged") else pytest.param(name, marks=pytest.mark.slow)
    for name in DIRECTORIES
]
PLENTY = 1 << 30


def damage(spool: Spool, shard: int) -> None:
    os.truncate(spool.shard_path(shard), 1000)


def read_all(spool: Spool, **options: Any) -> list[str]:
    """The keys of all samples, in order; missing shards are made when the reader waits for them."""
    options = {"on_starving": lambda shard, seconds: fill(spool, [shard])} | options
    with SpoolReader(spool, batch_size=2, shards=6, **options) as reader:
        return [meta.key for batch in reader for meta in batch.metas]


def assert_no_line_repeats(log: pytest.LogCaptureFixture, most: int = 1) -> None:
    counts = Counter(record.getMessage() for record in log.records)
    assert not counts or max(counts.values()) <= most, counts


# -- directories that are missing -------------------------------------------------------------------


@pytest.mark.parametrize("name", EACH_DIRECTORY)
def test_a_spool_whose_directory_was_dropped_is_read_with_its_damaged_shard(
    name: str, make_spool: MakeSpool, caplog: pytest.LogCaptureFixture
):
    """Copies drop empty directories; without `damaged/` a damaged shard was refused for ever."""
    whole, spool = make_spool("whole", ready=range(6)), make_spool(ready=range(6))
    damage(spool, 2)
    shutil.rmtree(spool.path / name, ignore_errors=True)

    assert read_all(Spool(spool.path).open()) == read_all(whole)
    assert_no_line_repeats(caplog)


@pytest.mark.parametrize("name", EACH_DIRECTORY)
def test_a_directory_that_is_removed_while_a_trainer_reads_changes_nothing(
    name: str,
    make_spool: MakeSpool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("darkprep.shards.release._MEASURE_EVERY_S", 0.0)
    whole, spool = make_spool("whole", ready=range(6)), make_spool(ready=range(6))
    expected, keys = read_all(whole), list[str]()
    damage(spool, 4)

    with SpoolReader(
        spool,
        batch_size=2,
        shards=6,
        depth=1,
        on_starving=lambda shard, seconds: fill(spool, [shard]),
        close_at_end=False,
    ) as reader:
        for batch in reader:
            keys += [meta.key for meta in batch.metas]
            if batch.index % 3 == 0:
                shutil.rmtree(spool.path / name, ignore_errors=True)
                time.sleep(0.1)
        assert spool.has_trainer(), "the lock went with its directory"
        with pytest.raises(SpoolBusy):
            spool.trainer_lock().acquire()

    assert keys == expected
    assert_no_line_repeats(caplog)


@pytest.mark.parametrize("name", EACH_DIRECTORY)
def test_a_directory_that_is_removed_while_a_producer_works_changes_no_byte(
    name: str, tmp_path: Path
):
    root = write_sid(tmp_path / "data", scenes=2, shorts=1)
    whole = planned(tmp_path / "whole", root, epochs=4)
    spool = planned(tmp_path / "spool", root, epochs=4)
    shards, removed = Plan.load(whole).shards, threading.Event()
    assert shards and shards > 2
    produce(whole)

    def remove(report: object) -> None:
        if spool.ready_shards() and not removed.is_set():
            removed.set()
            shutil.rmtree(spool.path / name)

    produce(spool, remove)

    assert removed.is_set()
    assert shard_bytes(spool) == shard_bytes(whole)
    assert len(shard_bytes(spool)) == shards


def produce(spool: Spool, report: Callable[[Any], None] = lambda report: None) -> None:
    config = ProducerConfig(budget_bytes=PLENTY, jobs=1, until=Plan.load(spool).shards)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("darkprep.pipeline.produce.producer.REPORT_EVERY_S", 0.0)
        Producer(spool, config, InlinePool(), report=report).run()


def test_a_command_trains_on_a_spool_without_any_of_its_directories(tmp_path: Path):
    spool = planned(
        tmp_path / "spool",
        write_sid(tmp_path / "data", scenes=2, shorts=1, size=(208, 224)),
        crop=192,
        samples_per_shard=2,
        crops_per_visit=1,
        epochs=1,
    )
    produce(spool)
    for name in set(DIRECTORIES) - {"ready"}:
        shutil.rmtree(spool.path / name)

    words = [
        *("stream-train", "--spool", str(spool.path), "--run", str(tmp_path / "run"), "--quiet"),
        *("--model", "redirt-2rdb", "--batch-size", "1", "--iterations", "1", "--device", "cpu"),
        *("--producers", "0", "--evaluate-every", "0"),
    ]
    ended = CliRunner().invoke(main, words, catch_exceptions=False)

    assert ended.exit_code == 0, ended.output
    assert ended.output == ""


@pytest.mark.parametrize("name", EACH_DIRECTORY[:5])
def test_a_file_in_the_place_of_a_directory_is_named(name: str, make_spool: MakeSpool):
    spool = make_spool(ready=range(6))
    shutil.rmtree(spool.path / name)
    (spool.path / name).write_text("")

    with pytest.raises(SpoolError) as caught:
        SpoolReader(Spool(spool.path).open(), batch_size=2)

    assert str(caught.value).startswith(f"{spool.path / name}: is not a directory")


@pytest.mark.parametrize(
    "write",
    [
        lambda spool: fill(spool, [1]),
        lambda spool: spool.write_heartbeat(ProducerStatus(state="making")),
        lambda spool: spool.producer_lock().acquire(),
        lambda spool: spool.restore_directories(),
    ],
)
def test_a_spool_that_was_removed_is_not_created_again(
    write: Callable[[Spool], None], make_spool: MakeSpool
):
    spool = make_spool(ready=[0])
    assert spool.plan
    shutil.rmtree(spool.path)

    with pytest.raises(SpoolError, match=rf"{spool.path}/\w+: does not exist"):
        write(spool)

    assert not spool.path.exists()


def test_a_second_trainer_that_took_the_lock_of_a_removed_directory_ends_the_first(
    make_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("darkprep.shards.release._MEASURE_EVERY_S", 0.0)
    spool, ended = make_spool(ready=range(6)), list[SpoolBusy]()
    with SpoolReader(spool, batch_size=2, shards=6, depth=1) as reader:
        next(reader)
        monkeypatch.setattr("darkprep.shards.release._MEASURE_EVERY_S", 1000.0)
        time.sleep(0.1)
        shutil.rmtree(spool.cursors)
        with spool.trainer_lock():
            monkeypatch.setattr("darkprep.shards.release._MEASURE_EVERY_S", 0.0)
            try:
                for _ in reader:
                    pass
            except SpoolBusy as error:
                ended.append(error)

    assert ended


# -- damaged shards ------------------------------------------------------------------------------------


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_shards, "_RETRY_AFTER_S", (0.01, 0.02, 0.04))


def refuse_quarantine(monkeypatch: pytest.MonkeyPatch, attempts: list[float]) -> None:
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if Path(target).parent.name == "damaged":
            attempts.append(time.monotonic())
            raise OSError(errno.EROFS, "Read-only file system")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)


def test_a_damaged_shard_that_cannot_be_moved_ends_the_reader_with_one_line(
    make_spool: MakeSpool,
    short_pauses: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    spool, attempts = make_spool(ready=range(6)), list[float]()
    damage(spool, 1)
    refuse_quarantine(monkeypatch, attempts)

    with pytest.raises(SpoolError, match=r"cannot be moved .* remove it by hand"):
        read_all(spool)

    assert len(attempts) == 4
    assert len(caplog.records) <= 1
    assert not spool.has_trainer()


@pytest.mark.parametrize("how", ["stop", "close"])
def test_a_reader_that_tries_to_quarantine_a_shard_ends_at_once_when_asked_to(
    how: str, make_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch
):
    spool, stop, attempts = make_spool(ready=range(6)), threading.Event(), list[float]()
    damage(spool, 0)
    refuse_quarantine(monkeypatch, attempts)
    monkeypatch.setattr(open_shards, "_RETRY_AFTER_S", (60.0,))
    reader = SpoolReader(spool, batch_size=2, shards=6, stop=stop)
    while not attempts:
        time.sleep(0.01)

    began = time.monotonic()
    if how == "stop":
        stop.set()
        assert list(reader) == []
    reader.close()

    assert time.monotonic() - began < 2


def test_a_shard_that_is_damaged_however_often_it_is_rebuilt_ends_the_reader_with_one_line(
    make_spool: MakeSpool, caplog: pytest.LogCaptureFixture
):
    spool = make_spool(ready=range(6))
    damage(spool, 3)

    def rebuild(shard: int, seconds: float) -> None:
        fill(spool, [shard])
        damage(spool, shard)

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(SpoolError, match=r"00000003.tar.* rebuilt 5 times and damaged each time"),
    ):
        patch.setattr(open_shards, "_STARVING_EVERY_S", 0.01)
        read_all(spool, on_starving=rebuild)

    assert_no_line_repeats(caplog, most=5)


# -- the machine's troubles are over at a later attempt ----------------------------------------------

PASSING = [
    number if number in (errno.EIO, errno.ENOMEM) else pytest.param(number, marks=pytest.mark.slow)
    for number in (
        errno.EIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
    )
]


def failing(monkeypatch: pytest.MonkeyPatch, call: str, number: int, times: int) -> list[int]:
    """Let calls of os.`call` on shards fail with an error number; what remains to fail."""
    left, real = [times], getattr(os, call)

    def fail(target: Any, *rest: Any) -> Any:
        is_shard = call != "open" or str(target).endswith(".tar")
        if left[0] and is_shard and threading.current_thread().name.startswith("spool-reader"):
            left[0] -= 1
            raise OSError(number, os.strerror(number), str(target))
        return real(target, *rest)

    monkeypatch.setattr(os, call, fail)
    return left


@pytest.mark.parametrize("number", PASSING, ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("call", ["open", "pread", "preadv"])
def test_an_error_of_the_machine_is_tried_again_and_no_shard_is_blamed(
    call: str,
    number: int,
    make_spool: MakeSpool,
    short_pauses: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    whole, spool = make_spool("whole", ready=range(6)), make_spool(ready=range(6))
    expected = read_all(whole)
    left = failing(monkeypatch, call, number, times=2)

    assert read_all(spool) == expected
    assert left == [0]
    assert spool.quarantine.records() == []
    assert not caplog.records


def test_a_machine_without_descriptors_is_named_and_no_shard_is_blamed(
    make_spool: MakeSpool, short_pauses: None, monkeypatch: pytest.MonkeyPatch
):
    spool = make_spool(ready=range(6))
    failing(monkeypatch, "open", errno.EMFILE, times=1000)

    with pytest.raises(SpoolError, match=r"Too many open files.*the shard itself is not damaged"):
        read_all(spool)

    assert spool.ready_shards() == list(range(6))


def test_a_shard_on_a_bad_sector_is_rebuilt_elsewhere(
    make_spool: MakeSpool, short_pauses: None, monkeypatch: pytest.MonkeyPatch
):
    whole, spool = make_spool("whole", ready=range(6)), make_spool(ready=range(6))
    expected = read_all(whole)
    failing(monkeypatch, "preadv", errno.EIO, times=7)

    assert read_all(spool) == expected
    assert len(spool.quarantine.records()) == 1


# -- cursors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.ENOSPC, errno.ESTALE])
def test_a_trainer_goes_on_when_neither_cursor_nor_deletion_succeeds_and_says_so_once(
    number: int,
    make_spool: MakeSpool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setattr("darkprep.shards.release._MEASURE_EVERY_S", 0.0)
    spool = make_spool(ready=range(6))
    caplog.set_level(logging.WARNING)

    def fail(self: Path, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(self))

    with SpoolReader(spool, batch_size=2, shards=6) as reader, monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        patch.setattr(Path, "unlink", fail)
        keys = [meta.key for batch in reader for meta in batch.metas]
        reader.close()

    assert len(set(keys)) == 24
    assert len(caplog.records) == 2
    assert not spool.has_trainer()


def test_a_damaged_shard_is_found_by_its_structure_alone(make_spool: MakeSpool):
    """What the tests above change is what a reader finds."""
    spool = make_spool(ready=[0])
    damage(spool, 0)

    with pytest.raises(SpoolError, match="1000 bytes, but shards of the plan have"):
        ShardFile(spool.shard_path(0), spool.stream.layout(), 0, spool.digest)


# -- waits --------------------------------------------------------------------------------------------


def test_a_wait_for_workers_that_never_exit_is_reported_and_ends_with_one_line(
    raw_spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("darkprep.pipeline.produce.recovery._WRITERS_WARNING_AFTER_S", 0.1)
    monkeypatch.setattr("darkprep.pipeline.produce.recovery._WRITERS_TIMEOUT_S", 0.5)

    with (
        shared_lock(raw_spool.producers / "workers"),
        pytest.raises(SpoolError, match=r"producers/workers: workers of an earlier .*`lslocks`"),
    ):
        produce(raw_spool)

    assert [record.getMessage() for record in caplog.records] == [
        f"{raw_spool.path}: waiting until workers of an earlier producer have exited"
    ]
    assert not raw_spool.has_producer()


def test_a_wait_for_workers_ends_at_once_when_asked_to(raw_spool: Spool):
    stop = threading.Event()
    config = ProducerConfig(budget_bytes=PLENTY, jobs=1, until=9)
    threading.Timer(0.3, stop.set).start()
    began = time.monotonic()

    with shared_lock(raw_spool.producers / "workers"):
        final = Producer(raw_spool, config, InlinePool(), stop=stop).run()

    assert final.state == "stopped"
    assert time.monotonic() - began < 5
