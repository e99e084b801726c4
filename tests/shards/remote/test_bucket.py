"""A spool's objects: one plan, names and sizes that are checked, a cursor."""

from __future__ import annotations

import json
from typing import Any

import pytest

from darkprep.shards import Cursor, PlanError, SpoolError
from darkprep.shards.plan_record import PlanRecord, ProducerSettings
from darkprep.shards.remote.bucket import Bucket
from tests.support.fake_store import FakeStore
from tests.support.small_spools import stream


@pytest.fixture
def bucket(fake: FakeStore) -> Bucket:
    return Bucket(fake, "memory://spool")


def plan(*, pairs: str = "a", **settings: Any) -> PlanRecord:
    return PlanRecord(
        stream=stream(),
        recipe={"pairs": [pairs]},
        settings=ProducerSettings(root="data", **settings),
    )


def test_a_plan_is_published_once_and_read_by_others(bucket, fake):
    bucket.publish(plan())
    bucket.publish(plan())

    other = Bucket(fake, "memory://spool").open()
    assert other.stream == stream()
    assert other.digest == bucket.digest
    assert other.plan.settings == ProducerSettings(root="data")
    assert fake.puts == ["plan.json"]


def test_the_place_may_change_without_the_plan_being_another_one(bucket, fake):
    bucket.publish(plan(budget_bytes=1))
    bucket.publish(plan(budget_bytes=2))

    assert Bucket(fake, "").plan.settings.budget_bytes == 2


def test_a_prefix_that_holds_another_plan_is_refused_with_what_differs(bucket):
    bucket.publish(plan())

    with pytest.raises(PlanError, match=r"memory://spool: holds another plan \(pairs") as caught:
        bucket.publish(plan(pairs="b"))
    assert "\n" not in str(caught.value)
    with pytest.raises(PlanError, match="holds part 0/1 of its plan, not 1/2"):
        bucket.publish(plan(part=1, parts=2))


def test_another_plan_that_came_first_by_an_instant_is_seen(bucket, fake):
    def somebody_faster(name: str, data: bytes, version: None) -> None:
        fake.objects[name] = json.dumps(plan(pairs="b").to_json()).encode()

    fake.write_if = somebody_faster

    with pytest.raises(PlanError, match="holds another plan"):
        bucket.publish(plan())


def test_a_prefix_without_a_plan_is_said(bucket):
    with pytest.raises(SpoolError, match="no spool there; make one with `darkprep build"):
        bucket.open()


@pytest.mark.parametrize("garbage", [b"{", b"[]", b"[" * 100_000, b'{"format": 1}', b"\xff\xfe"])
def test_a_plan_that_makes_no_sense_is_said_in_one_line(bucket, fake, garbage):
    fake.objects["plan.json"] = garbage

    with pytest.raises(PlanError, match=r"memory://spool/plan.json: is damaged") as caught:
        bucket.open()
    assert "\n" not in str(caught.value)


def test_a_plan_of_another_version_or_with_a_wrong_digest_is_refused(bucket, fake):
    fake.objects["plan.json"] = json.dumps({**plan().to_json(), "format": 3}).encode()
    with pytest.raises(PlanError, match="version 3, but this darkprep reads 1 to 2"):
        bucket.open()
    fake.objects["plan.json"] = json.dumps({**plan().to_json(), "digest": "0"}).encode()
    with pytest.raises(PlanError, match="its digest does not match"):
        bucket.open()


def test_only_names_of_the_very_form_are_shards(bucket, fake):
    names = ["00000042.tar", "0000000042.tar", "42.tar", "../00000001.tar", "00000001.tar.tmp"]
    names += ["00000001.TAR", "٠٠٠٠٠٠٠١.tar", "00000001.tar ", "0000000000001.tar", "x"]
    for name in names:
        fake.objects[f"ready/{name}"] = b"12345"

    assert bucket.list_shards() == {42: 5}


def test_shards_too_large_for_one_put_are_refused_at_the_start(bucket, monkeypatch):
    monkeypatch.setattr("darkprep.shards.remote.bucket.MAX_PUT_BYTES", 1000)

    with pytest.raises(PlanError, match="too large for one PUT; give fewer --samples-per"):
        bucket.publish(plan())


def test_a_cursor_is_written_and_read(bucket, fake):
    cursor = Cursor(
        rank=0, world=1, batch=7, shard=3, run="runs/x", wait_fraction=0.5, waiting_s=2.5
    )

    assert bucket.read_cursor() is None
    bucket.write_cursor(cursor)

    assert bucket.read_cursor() == cursor
    assert list(fake.objects) == ["cursors/rank-0.json"]


@pytest.mark.parametrize(
    "garbage", [b"{", b"[]", b"[" * 10_000, b'{"rank": 0}', b'{"shard": 1e400}', b"\xff"]
)
def test_a_cursor_that_makes_no_sense_is_none(bucket, fake, garbage):
    fake.objects["cursors/rank-0.json"] = garbage

    assert bucket.read_cursor() is None
