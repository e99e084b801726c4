"""Typed records of the spool: bytes on disk as in version 1, and hostile input in one line or ignored."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from darkprep.shards import Cursor, PlanError, Spool
from darkprep.shards.files import json_bytes, parse_json_object
from darkprep.shards.heartbeat import Heartbeat, ProducerStatus
from darkprep.shards.plan_record import PlanRecord, ProducerSettings, StreamSpec, plan_digest
from darkprep.shards.process import ProcessId
from darkprep.shards.quarantine import QuarantineRecord
from tests.support.small_spools import MakeSpool, stream

PLAN = b"""{
 "format": 1,
 "digest": "ec7debf481dda534",
 "stream": {
  "camera": "sony",
  "cfa": "bayer",
  "height": 528,
  "width": 528,
  "crop": 512,
  "samples": 32,
  "window": 4,
  "shards": 12,
  "seed": 7
 },
 "recipe": {
  "options": {
   "fraction": 0.2,
   "camera": "sony"
  },
  "pairs": [
   {
    "pair": {
     "id": "00001_00_0.1s",
     "ratio": 100.0
    },
    "height": 2848
   }
  ]
 },
 "place": {
  "root": "/data/SID",
  "budget_bytes": 20000000000,
  "jobs": 2,
  "frames_dir": "/fast/frames",
  "frames_budget_bytes": 5000000000,
  "backend": "dask",
  "address": null,
  "part": 1,
  "parts": 3
 }
}
"""
"""Written by the first version of darkprep."""
CURSOR = b"""{
 "rank": 0,
 "world": 2,
 "batch": 120,
 "shard": 7,
 "run": "runs/x",
 "wait_fraction": 0.25,
 "waiting_s": 1.5,
 "host": "here",
 "pid": 7,
 "started": 9
}
"""
HEARTBEAT = b"""{
 "state": "making",
 "shards_made": 3,
 "until": null,
 "running_s": 1.5,
 "host": "here",
 "pid": 7,
 "started": 9,
 "time": 1767225600.123
}
"""
PROCESS = ProcessId(host="here", pid=7, started=9)
DEEP: Any = None
for _ in range(500):
    DEEP = [DEEP]
WRONG_NUMBERS = ["7", None, True, -1, 1.5, float("nan"), float("inf"), 10**400, [1], {"a": 1}, DEEP]


def decoded(record: dict[str, Any] | None) -> PlanRecord:
    return PlanRecord.from_json(record, "spool/plan.json", "build it again")


def plan_json(**changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(PLAN)
    return record | changes


def with_settings(**settings: Any) -> dict[str, Any]:
    return plan_json(place=plan_json()["place"] | settings)


def with_digest(record: dict[str, Any]) -> dict[str, Any]:
    return record | {"digest": plan_digest(record["stream"], record["recipe"])}


def test_a_plan_of_the_first_version_is_read_and_written_byte_for_byte():
    plan = decoded(parse_json_object(PLAN))

    assert json_bytes(plan.to_json()) == PLAN
    assert plan.digest == "ec7debf481dda534"
    assert plan.stream.shards == 12
    assert plan.settings == ProducerSettings(
        root="/data/SID",
        budget_bytes=20 * 10**9,
        jobs=2,
        frames_dir="/fast/frames",
        frames_budget_bytes=5 * 10**9,
        backend="dask",
        part=1,
        parts=3,
    )


def test_settings_that_are_not_recorded_are_not_in_the_file():
    assert ProducerSettings().to_json() == {}
    assert ProducerSettings.from_json({}, "plan.json") == ProducerSettings()
    assert ProducerSettings(root="a", parts=1).to_json() == {"root": "a"}


def test_unknown_settings_are_ignored():
    assert decoded(with_settings(later="x")).settings == decoded(plan_json()).settings


@pytest.mark.parametrize("value", WRONG_NUMBERS, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("name", ["budget_bytes", "jobs", "staging_bytes", "frames_budget_bytes"])
def test_an_invalid_number_in_the_settings_is_one_line(name: str, value: Any):
    with pytest.raises(PlanError, match=rf"^spool/plan.json: {name} .* is invalid") as caught:
        decoded(with_settings(**{name: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [1, True, None, ["a"], {"a": "b"}, DEEP], ids=type)
@pytest.mark.parametrize("name", ["root", "frames_dir", "backend"])
def test_an_invalid_text_in_the_settings_is_one_line(name: str, value: Any):
    with pytest.raises(PlanError, match=rf"^spool/plan.json: {name} .* is invalid") as caught:
        decoded(with_settings(**{name: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "parts"), [(3, 3), (-1, 3), ("0", 3), (0, 0), (0, None), (True, 3), (0, 10**400)]
)
def test_an_invalid_part_is_named(part: Any, parts: Any):
    with pytest.raises(PlanError, match=r"^spool/plan.json: part .* of .* is invalid; build a new"):
        decoded(with_settings(part=part, parts=parts))


def test_a_directory_of_frames_needs_its_budget():
    record = plan_json()
    del record["place"]["frames_budget_bytes"]

    with pytest.raises(PlanError, match="only one of frames_dir and frames_budget_bytes"):
        decoded(record)


@pytest.mark.parametrize("value", WRONG_NUMBERS, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("name", [*asdict(stream())])
def test_an_invalid_stream_is_damage_even_with_its_digest(name: str, value: Any):
    record = plan_json()
    record["stream"][name] = value
    if (name, value) in [("shards", None), ("camera", "7"), ("seed", 10**400)]:
        return  # valid
    if value == value and value != float("inf"):
        record = with_digest(record)

    with pytest.raises(PlanError, match="is damaged") as caught:
        decoded(record)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"stream": []},
        {"stream": {"camera": "sony"}},
        {"stream": asdict(stream()) | {"extra": 1}},
        {"recipe": []},
        {"recipe": None},
        {"recipe": {"pairs": [float("nan")]}},
        {"place": []},
        {"place": None},
        {"digest": 5},
        {"digest": "\ud800"},
    ],
    ids=str,
)
def test_a_plan_with_a_wrong_part_is_damaged(changes: dict[str, Any]):
    with pytest.raises(PlanError, match=r"is damaged \(its digest does not match\)"):
        decoded(plan_json(**changes))


@pytest.mark.parametrize("version", [3, "1", None, "\ud800\n", DEEP, 10**400])
def test_another_version_is_named_in_one_line(version: Any):
    with pytest.raises(PlanError, match="this darkprep reads 1") as caught:
        decoded(plan_json(format=version))
    assert "\n" not in str(caught.value)


def test_the_difference_of_two_plans_is_one_line_whatever_they_hold():
    deep: dict[str, Any] = {}
    for _ in range(400):
        deep = {"deeper": deep}
    theirs = PlanRecord(stream=stream(), recipe={"a\nb": "c\nd", "deep": deep})

    with pytest.raises(PlanError, match="holds another plan") as caught:
        theirs.check_same(PlanRecord(stream=stream(seed=2), recipe={}), "spool")
    assert "\n" not in str(caught.value)


def test_building_again_replaces_invalid_settings(make_spool: MakeSpool):
    spool = make_spool()
    plan = spool.plan
    record = plan.to_json() | {"place": {"jobs": "two", "frames_dir": 5}}
    spool.plan_file.write_text(json.dumps(record))
    with pytest.raises(PlanError, match="jobs 'two' is invalid; run `darkprep build` again"):
        Spool(spool.path).open()

    Spool(spool.path).create(plan)

    assert Spool(spool.path).open().settings == plan.settings


def test_building_the_same_plan_again_leaves_the_file_alone(make_spool: MakeSpool):
    spool = make_spool()
    before = spool.plan_file.stat()

    Spool(spool.path).create(spool.plan)

    assert spool.plan_file.stat().st_ino == before.st_ino


def test_a_cursor_of_the_first_version_is_read_and_written_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ProcessId, "own", lambda: PROCESS)

    cursor = Cursor.from_json(parse_json_object(CURSOR))

    assert cursor is not None
    assert json_bytes(cursor.to_json()) == CURSOR
    assert (cursor.world, cursor.waiting_s) == (2, 1.5)


@pytest.mark.parametrize("value", WRONG_NUMBERS, ids=lambda value: repr(value)[:12])
def test_invalid_numbers_in_a_cursor(value: Any):
    """A count makes the cursor absent; a number for display becomes 0."""
    record = json.loads(CURSOR)

    for name in ("rank", "world", "batch", "shard"):
        assert Cursor.from_json(record | {name: value}) is None
    if value != 1.5:
        for name in ("wait_fraction", "waiting_s"):
            cursor = Cursor.from_json(record | {name: value})
            assert cursor is not None
            assert getattr(cursor, name) == 0.0


def test_a_heartbeat_of_the_first_version_is_read_and_written_byte_for_byte():
    heartbeat = Heartbeat.from_json(parse_json_object(HEARTBEAT))

    assert heartbeat is not None
    assert json_bytes(heartbeat.to_json()) == HEARTBEAT
    assert heartbeat.process == PROCESS
    assert heartbeat.status == ProducerStatus(state="making", shards_made=3, running_s=1.5)
    assert heartbeat.file_name == "here-7.json"


@pytest.mark.parametrize(
    "value", ["7", None, True, float("nan"), 10**400, [1], DEEP], ids=lambda value: repr(value)[:12]
)
@pytest.mark.parametrize("name", ["shards_made", "running_s", "pid", "started", "time"])
def test_a_heartbeat_with_an_invalid_number_is_ignored(name: str, value: Any):
    assert Heartbeat.from_json(json.loads(HEARTBEAT) | {name: value}) is None


@pytest.mark.parametrize("name", ["state", "host", "pid", "started", "time"])
def test_a_heartbeat_without_a_field_is_ignored(name: str):
    record = json.loads(HEARTBEAT)
    del record[name]

    assert Heartbeat.from_json(record) is None
    assert Heartbeat.from_json(None) is None


def test_unknown_keys_of_a_heartbeat_are_ignored():
    record = json.loads(HEARTBEAT) | {"later": {"a": [1]}}

    assert Heartbeat.from_json(record) == Heartbeat.from_json(json.loads(HEARTBEAT))


@pytest.mark.parametrize(
    ("state", "is_working"),
    [("making", True), ("waiting for the trainer", True), ("done", False), ("failed", False)],
)
def test_a_status_is_working_while_making_or_waiting(state: str, is_working: bool):
    assert ProducerStatus(state=state).is_working == is_working


def test_a_quarantine_record_is_written_as_in_the_first_version():
    record = QuarantineRecord(shard=3, reason="cut", time=1767225600.123)

    assert json.dumps(record.to_json()) == '{"shard": 3, "reason": "cut", "time": 1767225600.123}'
    assert QuarantineRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize(
    "changes", [{"shard": "3"}, {"shard": True}, {"reason": 5}, {"time": "x"}, {"time": True}]
)
def test_a_quarantine_record_with_an_invalid_field_is_ignored(changes: dict[str, Any]):
    record: dict[str, Any] = {"shard": 3, "reason": "cut", "time": 1.0}

    assert QuarantineRecord.from_json(record | changes) is None


def test_a_stream_needs_every_field_and_no_other():
    record = asdict(stream())
    assert StreamSpec.from_json(record) == stream()

    with pytest.raises(TypeError):
        StreamSpec.from_json({name: record[name] for name in record if name != "seed"})
    with pytest.raises(TypeError):
        StreamSpec.from_json(record | {"extra": 1})
