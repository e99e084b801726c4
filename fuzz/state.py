"""Plan, cursors, heartbeats, quarantine, lock holders: read, or counted as absent, or one DarkprepError."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import Plan, PlannedPair
from darkprep.pipeline.produce.quarantine import FileQuarantine, crashes_decoder
from darkprep.shards import PlanError, Spool
from darkprep.shards.locks import last_holder
from darkprep.shards.plan_record import MAX_SHARDS, ProducerSettings, plan_digest
from darkprep.shards.quarantine import QuarantineRecord
from darkprep.view.read_status import spool_status
from darkprep.view.text import status_lines
from fuzz.choices import Choices
from fuzz.memory import new_folder

_HEARTBEAT = {
    "state": "making", "shards_made": 3, "running_s": 10.0, "blocked_s": 1.0, "mb_per_s": 5.0, "budget_bytes": 10**9,
    "disk_bytes": 10**6, "host": "here", "pid": 1, "started": 1, "time": 1.7e9,
}  # fmt: skip
_CURSOR = {"rank": 0, "world": 1, "batch": 9, "shard": 2, "run": "runs/x", "wait_fraction": 0.1}
_QUARANTINED = {"shard": 3, "reason": "x", "time": 1.7e9}
_CRASHING = {"prints": ["1-0000000000000000"]}
_HOLDER = {"host": "here", "pid": 1, "started": 1}
_DECODING = {"path": "a.dng", "print": "1-0"} | _HOLDER


def try_input(data: bytes) -> tuple[str, bool]:
    """Try one file of the state; raise whatever a reader of the state must not raise."""
    choices = Choices(data)
    part = choices.one_of(PARTS)
    return part, _PARSERS[part](choices)


def _damaged_plan(choices: Choices) -> bool:
    _, record = _prepared()
    return _opens(choices.json(record))


def _hostile_plan(choices: Choices) -> bool:
    """Try a plan whose digest fits; accept one only where what the digest covers was changed."""
    _, record = _prepared()
    covered = {name: record[name] for name in ("stream", "recipe")}
    changed = record | choices.with_a_leaf_replaced(covered)
    try:
        changed["digest"] = plan_digest(changed["stream"], changed["recipe"])
    except (ValueError, TypeError, KeyError, RecursionError):
        pass  # no digest fits
    opens = _opens(json.dumps(changed).encode())
    return opens and changed["digest"] != record["digest"]


def _opens(data: bytes) -> bool:
    spool, record = _prepared()
    spool.plan_file.write_bytes(data)
    try:
        opened = Spool(spool.path).open()
        assert opened.stream.layout().shard_bytes > 0
        assert Plan.load(opened).pairs
    except PlanError as error:
        assert "\n" not in str(error)
        return False
    finally:
        spool.plan_file.write_text(json.dumps(record))
    return True


def _cursor(choices: Choices) -> bool:
    spool, _ = _prepared()
    (spool.cursors / "rank-0.json").write_bytes(choices.json(_CURSOR))
    assert 0 <= spool.oldest_needed() < MAX_SHARDS
    cursors = spool.read_cursors()
    for cursor in cursors:
        assert min(cursor.rank, cursor.world, cursor.batch, cursor.shard) >= 0
    _check_status(spool)
    return bool(cursors)


def _heartbeat(choices: Choices) -> bool:
    spool, _ = _prepared()
    (spool.producers / "here-1.json").write_bytes(choices.json(_HEARTBEAT))
    found = bool(spool.heartbeats())
    spool.remove_dead_heartbeats()
    _check_status(spool)
    return found


def _check_status(spool: Spool) -> None:
    assert status_lines(spool_status(spool))


def _quarantine_log(choices: Choices) -> bool:
    spool, _ = _prepared()
    (spool.damaged / "refused.jsonl").write_bytes(
        choices.json(_QUARANTINED) + b"\n" + choices.rest()
    )
    records = spool.quarantine.records()
    assert all(isinstance(record, QuarantineRecord) for record in records)
    return bool(records)


def _holder(choices: Choices) -> bool:
    spool, _ = _prepared()
    path = spool.producers / "lock"
    path.write_bytes(choices.json(_HOLDER))
    found = last_holder(path)
    assert found is None or str(found)
    with spool.producer_lock():
        assert last_holder(path)
    return found is not None


def _quarantine(choices: Choices) -> bool:
    spool, _ = _prepared()
    (spool.producers / "crashing.json").write_bytes(choices.json(_CRASHING))
    quarantine = FileQuarantine(spool, crashes_decoder, 1e9)
    quarantine.load()
    (spool.producers / "decoding-1.json").write_bytes(choices.json(_DECODING))
    quarantine.kill_stuck_workers()
    assert quarantine.handle_worker_death() is None
    assert not list(spool.producers.glob("decoding-*"))
    return bool(quarantine.fingerprints and quarantine.decoding_at_death)


_PARSERS: dict[str, Callable[[Choices], bool]] = {
    "damaged plan": _damaged_plan,
    "hostile plan": _hostile_plan,
    "cursor": _cursor,
    "heartbeat": _heartbeat,
    "quarantine log": _quarantine_log,
    "lock holder": _holder,
    "quarantine": _quarantine,
}
PARTS = tuple(_PARSERS)


@functools.cache
def _prepared() -> tuple[Spool, dict[str, Any]]:
    """A spool in memory with a good plan, and the record of the plan."""
    spool = Spool(new_folder() / "spool")
    plan = _good_plan()
    plan.save(spool, ProducerSettings(budget_bytes=10**9, jobs=2))
    return spool, json.loads(spool.plan_file.read_text())


def _good_plan() -> Plan:
    from darkprep.pipeline.pairs.table import Pair

    pair = Pair(
        id="00001_00_0.1s", scene="00001", camera="sony", split="train", short="Sony/short/a.dng",
        long="Sony/long/a.dng", ratio=100.0, iso=800.0,
    )  # fmt: skip
    planned = PlannedPair(
        pair=pair, height=64, width=96, short_fingerprint="1-a", long_fingerprint="1-b"
    )
    options = PlanOptions(camera="sony", crop=32, margin=4, samples_per_shard=8, crops_per_visit=4)
    return Plan(options=options, pairs=(planned,), cfa="bayer", root=Path("data"))
