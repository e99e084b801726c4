"""Shards on their way through a bucket: nothing lost, nothing twice, never more than the budget, the same batches."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import xxhash

from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.plan.planner import make_plan
from darkprep.pipeline.produce.budget import smallest_budget
from darkprep.pipeline.produce.producer import Producer, ProducerConfig
from darkprep.shards import Cursor, Spool, SpoolBusy, SpoolError, SpoolReader, StreamEnded
from darkprep.shards.plan_record import PlanRecord, ProducerSettings
from darkprep.shards.remote.bucket import Bucket, shard_name
from darkprep.shards.remote.downloader import Downloader, DownloaderConfig
from darkprep.shards.remote.lease import Lease
from darkprep.shards.remote.object_store import Check
from darkprep.shards.remote.uploader import UPLOADS, Uploader
from tests.support.builds import SMALL, InlinePool
from tests.support.fake_store import FakeStore
from tests.support.processes import wait_until
from tests.support.s3_server import PATIENT_S
from tests.support.sid_tree import write_sid
from tests.support.small_spools import fill, stream

LOOK_S = 0.02
SHARDS = 6
ROOM = 3
"""The window of the small spools, and one."""


@pytest.fixture
def bucket(fake: FakeStore) -> Bucket:
    return Bucket(fake, "memory://spool")


def published(bucket: Bucket, spool: Spool, shards: range | list[int] = range(SHARDS)) -> None:
    """Put the plan of a spool and some of its shards into the bucket."""
    bucket.publish(spool.plan)
    fill(spool, [shard for shard in shards if not spool.shard_path(shard).exists()])
    for shard in shards:
        bucket.upload(shard, spool.shard_path(shard))


def lease(bucket: Bucket, role: str, **how: Any) -> Lease:
    return Lease(bucket.store, f"{role}/lease.json", role, renewal_s=0.05, **how)


def uploader(spool: Spool, bucket: Bucket) -> Uploader:
    return Uploader(spool, bucket, lease=lease(bucket, "producers"), list_every_s=LOOK_S)


class AtWork(NamedTuple):
    downloader: Downloader
    ended: threading.Event


@contextlib.contextmanager
def fetching(
    spool: Spool, bucket: Bucket, *, clock: Callable[[], float] = time.monotonic, **changes: Any
) -> Iterator[AtWork]:
    """A downloader at work beside a reader; what it raises is raised at the end."""
    stop, raised = threading.Event(), list[BaseException]()
    config = DownloaderConfig(
        **{"max_shards": ROOM, "until": SHARDS, "list_every_s": LOOK_S, "producer_timeout_s": 0.2}
        | changes
    )
    role = lease(bucket, "cursors", clock=clock)
    downloader = Downloader(spool, bucket, config, lease=role, stop=stop)
    work = AtWork(downloader, threading.Event())

    def run() -> None:
        try:
            downloader.run()
        except BaseException as error:
            raised.append(error)
        finally:
            work.ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield work
    finally:
        stop.set()
        thread.join()
    if raised:
        raise raised[0]


def batches(reader: SpoolReader) -> str:
    """A hash over all that a reader lends, in order."""
    total = xxhash.xxh3_64()
    for batch in reader:
        total.update(repr((batch.index, [meta.key for meta in batch.metas], batch.uses)).encode())
        total.update(batch.low.tobytes())
        total.update(batch.gt.tobytes())
    return total.hexdigest()


SpoolAt = Callable[..., Spool]


@pytest.fixture
def spool_at(tmp_path: Path) -> SpoolAt:
    """Makes spools of one plan under different names, with some shards in them."""

    def make(name: str = "spool", ready: range | list[int] = range(0)) -> Spool:
        spool = Spool(tmp_path / name)
        spool.create(
            PlanRecord(
                stream=stream(shards=SHARDS),
                recipe={"pairs": []},
                settings=ProducerSettings(root="data"),
            )
        )
        fill(spool, ready)
        return spool

    return make


def local_batches(spool_at: SpoolAt, **how: Any) -> str:
    """What training on a spool in a directory would see."""
    spool = spool_at("plain", ready=range(SHARDS))
    with SpoolReader(spool, batch_size=4, shards=SHARDS, **how) as reader:
        return batches(reader)


# -- the producer's end -------------------------------------------------------------------------------


def test_finished_shards_are_put_once_each_and_leave_the_directory(spool_at, bucket, fake):
    spool = spool_at(ready=range(4))

    with uploader(spool, bucket).session() as destination:
        wait_until(destination.all_delivered)
        assert destination.ready_shards() == [0, 1, 2, 3]
        assert destination.disk_bytes() >= 4 * spool.stream.layout().shard_bytes

    assert spool.ready_shards() == []
    assert sorted(name for name in fake.puts if "ready" in name) == [shard_name(n) for n in range(4)]  # fmt: skip
    assert bucket.watch_producer().look() is None


def test_a_shard_counts_as_there_at_every_moment_of_its_way(spool_at, bucket):
    spool = spool_at(ready=range(6))

    with uploader(spool, bucket).session() as destination:
        while not destination.all_delivered():
            assert destination.ready_shards() == [0, 1, 2, 3, 4, 5]


def test_what_the_listing_does_not_show_yet_is_there_all_the_same(spool_at, bucket, fake):
    spool = spool_at(ready=range(3))
    fake.listing = {}

    with uploader(spool, bucket).session() as destination:
        wait_until(destination.all_delivered)
        time.sleep(5 * LOOK_S)
        assert destination.ready_shards() == [0, 1, 2]


def test_what_an_earlier_producer_put_is_known_though_the_listing_is_late(spool_at, bucket, fake):
    spool = spool_at()
    published(bucket, spool, [0, 1, 3])
    for shard in (0, 1, 3):
        spool.delete(shard)
    fake.listing = {}

    with uploader(spool, bucket).session() as destination:
        assert destination.ready_shards() == [0, 1, 3]


class Surveyed(NamedTuple):
    found: list[int]
    asked: int


Survey = Callable[..., Surveyed]


@pytest.fixture
def survey(tmp_path: Path, bucket: Bucket, fake: FakeStore) -> Survey:
    """What a producer knows first of a bucket with some objects, of which some are listed, and what it asks."""

    def run(
        there: list[int], listed: list[int], *, jobs: int = 1, plan: int | None = None
    ) -> Surveyed:
        spool = Spool(tmp_path / "spool")
        spool.create(
            PlanRecord(
                stream=stream(shards=plan),
                recipe={"pairs": []},
                settings=ProducerSettings(root="data"),
            )
        )
        data = bytes(spool.stream.layout().shard_bytes)
        fake.objects |= {shard_name(shard): data for shard in there}
        fake.listing = {shard_name(shard): data for shard in listed}
        asked: list[str] = []
        size = fake.size

        def noted(name: str) -> int | None:
            asked.append(name)
            return size(name)

        fake.size = noted  # type: ignore[method-assign]
        role = lease(bucket, "producers")
        with Uploader(
            spool, bucket, jobs=jobs, lease=role, list_every_s=3600
        ).session() as destination:
            return Surveyed(destination.ready_shards(), len(asked))

    return run


@pytest.mark.parametrize(("jobs", "last"), [(1, 33), (200, 201)])
def test_shards_that_many_workers_finished_out_of_order_are_found_unlisted(survey, jobs, last):
    """Whom the trainer waits for may be the slowest of 32 workers, and the producer die meanwhile."""
    assert survey([0, last], [], jobs=jobs).found == [0, last]


def test_a_listed_shard_shows_that_more_may_follow(survey):
    assert survey([50, 100], [50]).found == [50, 100]


def test_little_is_asked_for_where_nothing_is(survey):
    assert survey([], []) == ([], 64)


def test_nothing_is_asked_for_beyond_the_end_of_the_plan(survey):
    assert survey([0, 1], [1], plan=6) == ([0, 1], 5)


def test_a_shard_that_the_trainer_deleted_is_missing_soon_though_the_listing_shows_it(
    spool_at, bucket, fake
):
    spool = spool_at(ready=range(2))

    with uploader(spool, bucket).session() as destination:
        wait_until(destination.all_delivered)
        bucket.delete(1)
        wait_until(lambda: destination.ready_shards() == [0])


def test_an_object_of_a_wrong_size_is_deleted_and_made_again(spool_at, bucket, fake, caplog):
    spool = spool_at()
    fake.objects[shard_name(0)] = b"short"

    with uploader(spool, bucket).session() as destination:
        assert destination.ready_shards() == []
        assert shard_name(0) not in fake.objects
        fill(spool, [0])
        wait_until(destination.all_delivered)

    assert len(fake.objects[shard_name(0)]) == spool.stream.layout().shard_bytes
    assert "shard 0 has 5 bytes" in caplog.text


def test_a_late_listing_of_a_wrong_size_condemns_no_object(spool_at, bucket, fake):
    spool = spool_at(ready=[0])
    fake.listing = {shard_name(0): b"short"}

    with uploader(spool, bucket).session() as destination:
        wait_until(destination.all_delivered)
        time.sleep(5 * LOOK_S)
        assert destination.ready_shards() == [0]

    assert shard_name(0) in fake.objects


def test_objects_that_are_not_ours_stay(spool_at, bucket, fake):
    fake.objects |= {"ready/notes.txt": b"x", "ready/0000000001.tar": b"x", "other": b"x"}

    with uploader(spool_at(ready=[0]), bucket).session() as destination:
        wait_until(destination.all_delivered)
        destination.delete(0)

    assert {"ready/notes.txt", "ready/0000000001.tar", "other"} <= fake.objects.keys()


def test_what_was_not_carried_when_a_producer_ended_is_carried_by_the_next(spool_at, bucket, fake):
    spool = spool_at(ready=range(3))
    fake.upload = lambda name, path, **_: time.sleep(0.2)
    with uploader(spool, bucket).session():
        pass
    del fake.upload
    fill(spool, [n for n in range(3) if not spool.shard_path(n).exists()])

    with uploader(spool, bucket).session() as destination:
        wait_until(destination.all_delivered)

    assert len(bucket.list_shards()) == 3


def test_a_shard_that_was_put_before_a_crash_is_not_put_again(spool_at, bucket, fake):
    spool = spool_at(ready=range(2))
    published(bucket, spool, range(2))
    fake.puts.clear()

    with uploader(spool, bucket).session() as destination:
        wait_until(destination.all_delivered)

    assert not [name for name in fake.puts if "ready" in name]


def test_shards_that_the_trainer_has_passed_are_not_carried(spool_at, bucket, fake):
    spool = spool_at(ready=range(4))
    bucket.write_cursor(Cursor(rank=0, world=1, batch=0, shard=2))

    with uploader(spool, bucket).session() as destination:
        assert destination.oldest_needed() == 2
        wait_until(destination.all_delivered)

    assert sorted(bucket.list_shards()) == [2, 3]


def test_a_put_whose_answer_was_lost_does_not_bring_back_what_was_used_meanwhile(
    spool_at, bucket, fake
):
    spool = spool_at(ready=range(2))

    def put_twice(name: str, path: Path, **_: Any) -> None:
        fake.write(name, path.read_bytes())
        bucket.write_cursor(Cursor(rank=0, world=1, batch=0, shard=2))
        fake.delete(name)
        fake.write(name, path.read_bytes())

    fake.upload = put_twice
    with uploader(spool, bucket).session() as destination:
        wait_until(destination.all_delivered)

    assert not [name for name in fake.objects if "ready" in name]
    assert spool.ready_shards() == []


def test_a_shard_that_is_dropped_while_it_is_carried_leaves_no_object_that_nobody_counted(
    spool_at, bucket, fake
):
    spool = spool_at(ready=[0])

    with uploader(spool, bucket).session() as destination:
        wait_until(destination.all_delivered)

        def drop_meanwhile(name: str, path: Path, **_: Any) -> None:
            data = path.read_bytes()
            destination.delete(5)
            fake.write(name, data)

        fake.upload = drop_meanwhile
        fill(spool, [5])
        wait_until(destination.all_delivered)
        assert destination.ready_shards() == [0]

    assert [name for name in fake.objects if "ready" in name] == [shard_name(0)]


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (SpoolError("memory://: does not answer"), "does not answer"),
        (MemoryError("no room"), "no room"),
    ],
)
def test_what_goes_wrong_on_the_way_is_raised_to_the_producer(
    spool_at, bucket, fake, trouble, told
):
    spool = spool_at(ready=[0])

    def fail(name: str, path: Path, **_: Any) -> None:
        raise trouble

    fake.upload = fail
    with uploader(spool, bucket).session() as destination:
        with pytest.raises(type(trouble), match=told):
            wait_until(lambda: destination.ready_shards() == [])

    assert spool.ready_shards() == [0], "kept for the next time"


def test_a_shard_on_its_way_is_not_tried_again_once_the_role_was_not_renewed(
    spool_at, bucket, fake
):
    spool, now = spool_at(ready=[0]), [0.0]
    role = lease(bucket, "producers", clock=lambda: now[0])

    def put(name: str, path: Path, check: Check) -> None:
        now[0] += 61
        check()

    fake.upload = put
    with Uploader(spool, bucket, lease=role, list_every_s=LOOK_S).session() as destination:
        with pytest.raises(SpoolError, match="another process may now be producers"):
            wait_until(lambda: destination.ready_shards() == [])

    assert "ready" not in str(fake.puts)


def test_a_second_producer_is_refused(spool_at, bucket):
    spool = spool_at()

    with uploader(spool, bucket).session(), pytest.raises(SpoolBusy, match="producers is already"):
        with uploader(spool, bucket).session():
            pass


# -- the trainer's end --------------------------------------------------------------------------------


@pytest.mark.parametrize("reuse", [1, 2])
def test_batches_through_a_bucket_are_those_of_a_directory(spool_at, bucket, fake, reuse):
    published(bucket, spool_at("made"))
    spool = spool_at("staging")
    heaviest = 0

    with SpoolReader(spool, batch_size=4, shards=SHARDS, reuse=reuse) as reader:
        with fetching(spool, bucket):
            expected = local_batches(spool_at, reuse=reuse)
            heaviest = max(heaviest, len(spool.ready_shards()))
            assert batches(reader) == expected
            reader.close()

    assert bucket.list_shards() == {}
    cursor = bucket.read_cursor()
    assert cursor is not None
    assert (cursor.shard, cursor.batch) == (SHARDS, SHARDS * reuse)
    assert heaviest <= ROOM
    assert fake.objects.keys() == {"plan.json", "cursors/rank-0.json", "cursors/lease.json"}
    assert bucket.watch_trainer().look() is None


def test_the_directory_never_holds_more_than_its_room(spool_at, bucket):
    published(bucket, spool_at("made"))
    spool = spool_at("staging")
    seen, done = [0], threading.Event()

    def look() -> None:
        while not done.is_set():
            # A file may be seen at both places while it is renamed.
            files = [*spool.partial.iterdir(), *spool.ready.iterdir()]
            seen.append(len({file.name[:8] for file in files}))

    watch = threading.Thread(target=look)
    watch.start()
    with SpoolReader(spool, batch_size=4, shards=SHARDS) as reader, fetching(spool, bucket):
        batches(reader)
        reader.close()
    done.set()
    watch.join()

    assert 2 <= max(seen) <= ROOM


def test_an_object_is_deleted_only_after_the_cursor_says_that_it_was_used(spool_at, bucket, fake):
    published(bucket, spool_at("made"))
    spool = spool_at("staging")
    delete = fake.delete
    told: list[tuple[str, int]] = []

    def noted(name: str, **how: Any) -> None:
        cursor = bucket.read_cursor()
        told.append((name, cursor.shard if cursor else 0))
        delete(name, **how)

    fake.delete = noted
    with SpoolReader(spool, batch_size=4, shards=SHARDS) as reader, fetching(spool, bucket):
        batches(reader)
        reader.close()

    deleted = [(int(name[6:14]), needed) for name, needed in told if name.startswith("ready/")]
    assert {shard for shard, _ in deleted} == set(range(SHARDS))
    assert all(shard < needed for shard, needed in deleted)


def damaged(data: bytes, how: str) -> bytes:
    if how == "short":
        return data[:-512]
    flipped = bytearray(data)
    flipped[{"header": 10, "payload": 700}[how]] ^= 1
    return bytes(flipped)


@pytest.mark.parametrize("how", ["short", "header", "payload"])
def test_a_damaged_object_is_deleted_counted_and_made_again(spool_at, bucket, fake, how, caplog):
    made, spool = spool_at("made"), spool_at("staging")
    published(bucket, made)
    good = fake.objects[shard_name(2)]
    fake.objects[shard_name(2)] = damaged(good, how)
    expected = local_batches(spool_at)

    with SpoolReader(spool, batch_size=4, shards=SHARDS) as reader:
        with fetching(spool, bucket, producer_timeout_s=60) as work:
            mended = threading.Thread(target=_put_again, args=(fake, good))
            mended.start()
            assert batches(reader) == expected
            reader.close()
            mended.join()

    assert work.downloader._damaged == {2: 1}
    assert reader.stats.damaged == 0, "the reader never sees it"
    assert "shard 2 is damaged" in caplog.text


def _put_again(fake: FakeStore, data: bytes) -> None:
    """What the producer does when a shard is missing."""
    wait_until(lambda: shard_name(2) not in fake.objects)
    fake.objects[shard_name(2)] = data


def test_a_store_that_damages_a_shard_again_and_again_ends_it_in_one_line(spool_at, bucket, fake):
    published(bucket, spool_at("made"))
    spool = spool_at("staging")
    bad = damaged(fake.objects[shard_name(0)], "payload")
    fake.objects[shard_name(0)] = bad
    fake.delete = lambda name, **_: None

    with pytest.raises(SpoolError, match="shard 0 was damaged 10 times"):
        with SpoolReader(spool, batch_size=4, shards=SHARDS), fetching(spool, bucket) as work:
            work.ended.wait(PATIENT_S)


def test_reading_goes_on_though_the_listing_shows_nothing(spool_at, bucket, fake):
    published(bucket, spool_at("made"))
    spool = spool_at("staging")
    fake.listing = {}
    expected = local_batches(spool_at)

    with SpoolReader(spool, batch_size=4, shards=SHARDS) as reader, fetching(spool, bucket):
        assert batches(reader) == expected
        reader.close()

    assert not [name for name in fake.objects if "ready" in name], "used and not deleted"


def test_objects_that_are_listed_and_gone_are_waited_for(spool_at, bucket, fake):
    made, spool = spool_at("made"), spool_at("staging")
    published(bucket, made)
    fake.listing = dict(fake.objects)
    late = {name: fake.objects.pop(name) for name in (shard_name(1), shard_name(3))}
    expected = local_batches(spool_at)

    with SpoolReader(spool, batch_size=4, shards=SHARDS) as reader:
        with fetching(spool, bucket, producer_timeout_s=60):
            threading.Timer(0.3, lambda: fake.objects.update(late)).start()
            assert batches(reader) == expected


def test_publishing_everything_again_all_the_time_changes_no_batch(spool_at, bucket, fake):
    made, spool = spool_at("made"), spool_at("staging")
    published(bucket, made)
    everything = {name: data for name, data in fake.objects.items() if name.startswith("ready/")}
    expected = local_batches(spool_at)
    done = threading.Event()

    def publish() -> None:
        while not done.wait(0.005):
            fake.objects.update(everything)

    again = threading.Thread(target=publish)
    again.start()
    with SpoolReader(spool, batch_size=4, shards=SHARDS) as reader:
        with fetching(spool, bucket):
            assert batches(reader) == expected
            reader.close()
            done.set()
            again.join()

    assert bucket.list_shards() == {}


def test_a_shard_that_is_needed_and_that_nobody_makes_ends_it_in_one_line(spool_at, bucket):
    published(bucket, spool_at("made"), range(2))
    spool = spool_at("staging")

    with pytest.raises(
        StreamEnded, match="shard 2 is missing and no producer is running; run"
    ) as caught:
        with SpoolReader(spool, batch_size=4, shards=SHARDS) as reader:
            with fetching(spool, bucket) as work:
                next(reader)
                work.ended.wait(PATIENT_S)
    assert "\n" not in str(caught.value)


def test_a_shard_that_somebody_makes_is_waited_for(spool_at, bucket):
    made, spool = spool_at("made"), spool_at("staging")
    published(bucket, made, range(2))
    expected = local_batches(spool_at)

    with SpoolReader(spool, batch_size=4, shards=SHARDS) as reader:
        with lease(bucket, "producers"), fetching(spool, bucket, producer_timeout_s=0.0):
            threading.Timer(0.5, lambda: published(bucket, made)).start()
            assert batches(reader) == expected


def test_what_ended_a_downloader_is_raised_though_the_store_fails_at_the_end_too(
    spool_at, bucket, fake, caplog
):
    published(bucket, spool_at("made"), range(2))
    spool = spool_at("staging")

    listed = fake.sizes

    def refuse(folder: str) -> Any:
        if work.downloader._stop.is_set():
            raise SpoolError("memory://spool: the store does not answer")
        return listed(folder)

    with pytest.raises(StreamEnded, match="shard 2 is missing"), spool.trainer_lock():
        with fetching(spool, bucket) as work:
            fake.sizes = refuse
            spool.write_cursor(Cursor(rank=0, world=1, batch=0, shard=1))
            assert work.ended.wait(PATIENT_S)

    assert spool.heartbeats()[-1].status.state == "stopped"
    assert "the store does not answer" in caplog.text


def test_a_downloader_that_is_stopped_publishes_the_last_position_and_releases_its_lease(
    spool_at, bucket
):
    published(bucket, spool_at("made"))
    spool = spool_at("staging")

    with SpoolReader(spool, batch_size=4, shards=SHARDS) as reader, fetching(spool, bucket):
        for _ in range(3):
            next(reader)
        reader.close()

    assert bucket.watch_trainer().look() is None
    cursor = bucket.read_cursor()
    assert cursor.shard == spool.oldest_needed() > 0
    # A reader that waits for a shard releases what it read ahead; that is rebuilt for the next training.
    first, *others = sorted(bucket.list_shards())
    assert cursor.shard <= first <= cursor.shard + spool.stream.window
    assert others == list(range(first + 1, SHARDS))


def test_a_trainer_that_goes_back_gets_its_shards_again(spool_at, bucket):
    made, spool = spool_at("made"), spool_at("staging")
    published(bucket, made)
    with SpoolReader(spool, batch_size=4, shards=SHARDS) as reader, fetching(spool, bucket):
        batches(reader)
        reader.close()
    assert bucket.list_shards() == {}
    assert bucket.read_cursor().shard == SHARDS
    expected = local_batches(spool_at, start=2)

    with SpoolReader(spool, batch_size=4, shards=SHARDS, start=2) as reader:
        with lease(bucket, "producers"), fetching(spool, bucket):
            wait_until(lambda: bucket.read_cursor().shard < 2)
            published(bucket, made)
            assert batches(reader) == expected


def test_a_downloader_whose_lease_was_taken_publishes_nothing_more(spool_at, bucket, fake):
    """The other trainer may be at an earlier shard: a cursor of ours would have its shards never made."""
    published(bucket, spool_at("made"))
    spool = spool_at("staging")

    with pytest.raises(SpoolBusy), spool.trainer_lock(), fetching(spool, bucket) as work:
        spool.write_cursor(Cursor(rank=0, world=1, batch=0, shard=0))
        wait_until(lambda: bucket.read_cursor() is not None)
        fake.objects["cursors/lease.json"] = b'{"token": "another", "beat": 1}'
        theirs = Cursor(rank=0, world=1, batch=2, shard=1)
        bucket.write_cursor(theirs)
        wait_until(lambda: work.downloader._lease._failure is not None)
        spool.write_cursor(Cursor(rank=0, world=1, batch=9, shard=4))
        assert work.ended.wait(PATIENT_S)

    assert bucket.read_cursor() == theirs
    assert sorted(bucket.list_shards()) == list(range(SHARDS))


@pytest.mark.parametrize("when", ["before", "while it is told"])
def test_a_downloader_whose_lease_was_not_renewed_publishes_and_deletes_nothing_more(
    spool_at, bucket, fake, when
):
    """Another trainer may have the role by now, and need what ours has passed."""
    published(bucket, spool_at("made"))
    spool, now = spool_at("staging"), [0.0]
    write = fake.write

    def hang(name: str, data: bytes, check: Check | None = None) -> None:
        if "rank" in name:
            now[0] += 61 * (when != "before")
        write(name, data, check=check)

    with (
        pytest.raises(SpoolError, match="another process may now be cursors"),
        spool.trainer_lock(),
    ):
        with fetching(spool, bucket, clock=lambda: now[0]) as work:
            spool.write_cursor(Cursor(rank=0, world=1, batch=0, shard=0))
            wait_until(lambda: bucket.read_cursor() is not None)
            fake.write = hang
            now[0] += 61 * (when == "before")
            spool.write_cursor(Cursor(rank=0, world=1, batch=9, shard=4))
            assert work.ended.wait(PATIENT_S)

    assert bucket.read_cursor().shard == 0
    assert sorted(bucket.list_shards()) == list(range(SHARDS))


def test_a_cursor_that_another_overwrote_is_told_again(spool_at, bucket, monkeypatch):
    monkeypatch.setattr("darkprep.shards.remote.downloader._CURSOR_EVERY_S", 0.1)
    published(bucket, spool_at("made"))
    spool = spool_at("staging")

    with spool.trainer_lock(), fetching(spool, bucket):
        spool.write_cursor(Cursor(rank=0, world=1, batch=0, shard=0))
        wait_until(lambda: bucket.read_cursor() is not None)
        bucket.write_cursor(Cursor(rank=0, world=1, batch=9, shard=4))
        wait_until(lambda: bucket.read_cursor().shard == 0, 10)


def test_an_object_that_late_listings_go_on_to_show_is_counted_as_deleted_once(
    spool_at, bucket, fake
):
    published(bucket, spool_at("made"))
    spool = spool_at("staging")
    fake.listing = dict(fake.objects)

    with SpoolReader(spool, batch_size=4, shards=SHARDS) as reader:
        with fetching(spool, bucket) as work:
            for _ in reader:
                time.sleep(3 * LOOK_S)
            reader.close()

    assert spool.heartbeats()[-1].status.deleted == SHARDS
    assert work.downloader._downloaded == SHARDS


def test_a_late_listing_of_a_damaged_object_does_not_condemn_the_one_made_again(
    spool_at, bucket, fake
):
    published(bucket, spool_at("made"))
    spool = spool_at("staging")
    fake.listing = fake.objects | {shard_name(1): b"short"}
    expected = local_batches(spool_at)

    def give_up(shard: int, seconds: float) -> None:
        if seconds > 5:
            raise StreamEnded(f"shard {shard} will not come")

    with SpoolReader(spool, batch_size=4, shards=SHARDS, on_starving=give_up) as reader:
        with fetching(spool, bucket) as work:
            assert batches(reader) == expected

    assert not work.downloader._damaged


def test_nothing_is_deleted_before_every_rank_has_said_where_it_begins(spool_at, bucket):
    published(bucket, spool_at("made"))
    spool = spool_at("staging")

    with spool.trainer_lock(), fetching(spool, bucket):
        spool.write_cursor(Cursor(rank=0, world=2, batch=9, shard=4))
        time.sleep(10 * LOOK_S)
        assert len(bucket.list_shards()) == SHARDS
        assert bucket.read_cursor() is None
        spool.write_cursor(Cursor(rank=1, world=2, batch=3, shard=1))
        wait_until(lambda: sorted(bucket.list_shards()) == [1, 2, 3, 4, 5])


# -- both ends ----------------------------------------------------------------------------------------


class Liar(FakeStore):
    """A store whose listings show a mixture of now and earlier, which no real one is worse than."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._past: list[dict[str, bytes]] = []

    def sizes(self, folder: str) -> dict[str, int]:
        now = dict(self.objects)
        self._past = [*self._past[-20:], now]
        old = self._random.choice(self._past)
        self.listing = {
            name: data
            for name, data in (now | old).items()
            if name in (old if self._random.random() < 0.5 else now)
        }
        return super().sizes(folder)


@pytest.mark.parametrize("producers", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_late_listings_and_two_producers_change_no_batch_and_break_no_budget(
    seed, producers, tmp_path
):
    """Shards are functions of the plan: whatever is made twice, late or in vain is the same bytes.

    Of two producers, which only a mishap lets be, each keeps the budget as far as it sees the other.
    """
    store = Liar(seed)
    bucket = Bucket(store, "memory://spool")
    root = write_sid(tmp_path / "data")
    plan = make_plan(root, PlanOptions(**SMALL))
    plain = Spool(tmp_path / "plain")
    plan.save(plain)
    Producer(plain, ProducerConfig(budget_bytes=1 << 30, jobs=1, until=9), InlinePool()).run()
    with SpoolReader(plain, batch_size=8, shards=9) as reader:
        expected = batches(reader)

    stop = threading.Event()
    makers = [maker(tmp_path / f"making{n}", plan, bucket, n, stop) for n in range(producers)]
    bucket.publish(makers[0][0].plan)
    using = Spool(tmp_path / "using")
    using.create(
        PlanRecord(
            stream=plan.stream, recipe=plan.recipe(), settings=ProducerSettings(root=str(root))
        )
    )
    threads = [threading.Thread(target=producer.run) for _, producer in makers]
    heaviest, done = [0], threading.Event()
    watch = threading.Thread(target=weigh, args=(store, makers[0][0], heaviest, done))
    watch.start()
    for thread in threads:
        thread.start()
    with SpoolReader(using, batch_size=8, shards=9) as reader:
        with fetching(using, bucket, until=9, producer_timeout_s=60):
            found = batches(reader)
            reader.close()
            stop.set()
            for thread in threads:
                thread.join()
    done.set()
    watch.join()

    assert found == expected
    assert producers > 1 or heaviest[0] <= makers[0][1].budget.budget_bytes


def maker(
    path: Path, plan: Plan, bucket: Bucket, number: int, stop: threading.Event
) -> tuple[Spool, Producer]:
    """A producer that carries into the bucket, under a role of its own: two by mishap."""
    spool = Spool(path)
    plan.save(spool)
    budget = smallest_budget(plan, in_transit=UPLOADS)
    config = ProducerConfig(budget_bytes=budget, jobs=1, until=9)
    role = lease(bucket, f"producers{number}")
    destination = Uploader(spool, bucket, lease=role, list_every_s=LOOK_S)
    return spool, Producer(spool, config, InlinePool(), stop=stop, destination=destination)


def weigh(store: FakeStore, spool: Spool, heaviest: list[int], done: threading.Event) -> None:
    """The most that objects and one producer's directory weigh together at any moment."""
    while not done.is_set():
        weight = spool.disk_bytes() + sum(len(data) for data in list(store.objects.values()))
        heaviest[0] = max(heaviest[0], weight)
