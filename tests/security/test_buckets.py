"""What a bucket of someone else holds floods neither terminal nor memory, and is not asked for object by object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest

from darkprep.shards import Cursor, SpoolError
from darkprep.shards.heartbeat import ProducerStatus
from darkprep.shards.process import ProcessId
from darkprep.shards.remote.bucket import Bucket
from darkprep.shards.remote.downloader import Downloader, DownloaderConfig
from darkprep.shards.remote.failures import classify, message
from darkprep.shards.remote.lease import Holder, Lease
from darkprep.shards.remote.object_store import Check, ObjectStore
from darkprep.shards.remote.url import StoreUrl
from darkprep.view.read_status import BucketReader
from darkprep.view.text import status_lines
from tests.support.fake_store import FakeStore
from tests.support.small_spools import MakeSpool

LONG = "x" * 50_000


@pytest.fixture
def bucket(make_spool: MakeSpool) -> Bucket:
    store = FakeStore()
    bucket = Bucket(store, "memory://spool")
    bucket.publish(make_spool().plan)
    return bucket


def lease(**changes: Any) -> bytes:
    report = ProducerStatus(state=changes.pop("state", "making")).to_json()
    record = {"beat": 1, "machine": "x", "report": report, "host": "here", "pid": 1, "started": 1}
    return json.dumps(record | changes).encode()


@pytest.mark.parametrize("changes", [{"host": LONG}, {"host": "a\nlimit  none"}, {"state": LONG}])
def test_a_lease_with_a_long_text_is_shown_on_short_lines(bucket: Bucket, changes: dict[str, str]):
    assert isinstance(bucket.store, FakeStore)
    bucket.store.objects["producers/lease.json"] = lease(**changes)

    lines = status_lines(BucketReader(bucket).status())

    assert max(map(len, lines)) < 300
    assert not any("\n" in line for line in lines)
    holder = Holder.of(lease(**changes))
    assert holder is not None
    assert len(str(holder)) < 300


def test_a_cursor_with_a_long_path_is_read_without_it():
    record = Cursor(rank=0, world=1, batch=9, shard=2, run=LONG).to_json()

    cursor = Cursor.from_json(record)

    assert cursor is not None
    assert cursor.run == ""


@pytest.mark.parametrize("run", ["/net/elsewhere/run", "../run", "runs/../../run"])
def test_the_run_of_a_trainer_elsewhere_is_read_only_below_the_working_directory(
    bucket: Bucket, run: str
):
    assert isinstance(bucket.store, FakeStore)
    record = Cursor(rank=0, world=1, batch=9, shard=2).to_json()
    for named, read in ((run, ""), ("runs/a", "runs/a")):
        bucket.store.objects["cursors/rank-0.json"] = json.dumps(record | {"run": named}).encode()
        cursor = bucket.read_cursor()
        assert cursor is not None
        assert (cursor.run, cursor.batch) == (read, 9)


def test_a_process_of_a_host_that_no_machine_can_have_is_unknown():
    own = asdict(ProcessId.own())

    assert ProcessId.from_json(own) == ProcessId.own()
    for host in (LONG, "a\x1b[2J", "a\nb"):
        assert ProcessId.from_json(own | {"host": host}) is None


# -- very many objects --------------------------------------------------------------------------------


class CountingStore(FakeStore):
    """Counts the requests for one object."""

    requests = 0

    def size(self, name: str) -> int | None:
        self.requests += 1
        return super().size(name)

    def delete(self, name: str, *, check: Check | None = None) -> None:
        self.requests += 1
        super().delete(name, check=check)


def test_shards_of_a_wrong_size_are_requested_in_small_numbers():
    store = CountingStore()
    store.objects = {f"ready/{n:08d}.tar": b"x" * (1 + (n == 500)) for n in range(1000)}
    damaged: list[int] = []

    complete = Bucket(store, "memory://spool").complete_shards(
        2, lambda shard, _: damaged.append(shard), {7}
    )

    assert complete == {500}
    assert damaged == [7, *range(7), *range(8, 21)]
    assert store.requests == 21


def test_a_shard_that_the_plan_does_not_have_is_not_listed(bucket: Bucket):
    assert isinstance(bucket.store, FakeStore)
    bucket.store.objects |= {f"ready/{n:08d}.tar": b"x" for n in (0, 5, 6, 10**11)}

    assert bucket.list_shards() == {0: 1, 5: 1}


def test_a_downloader_deletes_passed_objects_in_small_numbers(make_spool: MakeSpool):
    spool = make_spool(shards=None)
    store = CountingStore()
    bucket = Bucket(store, "memory://spool")
    bucket.publish(spool.plan)
    store.objects |= {f"ready/{n:08d}.tar": b"x" for n in range(2000)}
    downloader = Downloader(spool, bucket, DownloaderConfig(max_shards=4, until=None))
    downloader._cursor = Cursor(rank=0, world=1, batch=0, shard=1500)
    downloader._objects = set(bucket.list_shards())
    downloader._lease = NoLease()

    downloader._delete_objects(1500)

    assert store.requests == 100
    assert bucket.list_shards().keys() == set(range(100, 2000))


class NoLease(Lease):
    """A lease that is always held."""

    def __init__(self) -> None:
        pass

    def check(self) -> None:
        """Do nothing."""


class ManyObjects:
    """A client of a store with a million objects."""

    pages = 0

    def list(self, folder: str = "", chunk_size: int = 50) -> Iterator[list[dict[str, Any]]]:
        for page in range(1_000_000 // chunk_size):
            self.pages += 1
            yield [{"path": f"{folder}/{page}-{n}", "size": 1} for n in range(chunk_size)]


def test_a_listing_ends_after_very_many_objects_and_opening_needs_one_page(
    monkeypatch: pytest.MonkeyPatch,
):
    client: Any = ManyObjects()
    monkeypatch.setattr("darkprep.shards.remote.object_store.connector", lambda _: lambda _: client)

    store = ObjectStore.open(StoreUrl("s3", "bucket", ""))

    assert client.pages == 1
    with pytest.raises(SpoolError, match=r"ready: holds more than 100,000 objects, .*; delete"):
        store.sizes("ready")
    assert client.pages == 102


def test_a_name_that_is_no_path_is_named_with_a_remedy():
    class InvalidPathError(Exception):
        """As obstore's."""

    kind, detail = classify(InvalidPathError('Error parsing Path "a/../b": illegal\n\nDebug'))

    assert (
        'an object has a name that cannot be used (Error parsing Path "a/../b": illegal); delete it'
        in (message("s3://a", kind, detail))
    )
