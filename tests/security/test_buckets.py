"""What a bucket of someone else holds floods neither terminal nor memory, and is not asked for object by object."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from darkprep.shards import Cursor
from darkprep.shards.heartbeat import ProducerStatus
from darkprep.shards.process import ProcessId
from darkprep.shards.remote.bucket import Bucket
from darkprep.shards.remote.lease import Holder
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


def test_a_process_of_a_host_that_no_machine_can_have_is_unknown():
    own = asdict(ProcessId.own())

    assert ProcessId.from_json(own) == ProcessId.own()
    for host in (LONG, "a\x1b[2J", "a\nb"):
        assert ProcessId.from_json(own | {"host": host}) is None
