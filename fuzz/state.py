"""Plan, cursors, heartbeats, refusals, names of holders: read, or counted as absent, or one DarkprepError."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from darkprep.pipeline.plan.plan import Plan, PlannedPair, PlanOptions
from darkprep.pipeline.produce.executors.loky import crashes_decoder
from darkprep.pipeline.produce.quarantine import Quarantine
from darkprep.shards import PlanError, Spool
from darkprep.shards.locks import last_holder
from darkprep.shards.plan_record import MAX_SHARDS, ProducerSettings, plan_digest
from darkprep.shards.quarantine import QuarantineRecord
from darkprep.view.status import spool_status, status_lines
from fuzz.choices import Choices

_HEARTBEAT = {
    "state": "making", "shards_made": 3, "running_s": 10.0, "blocked_s": 1.0, "mb_per_s": 5.0, "budget_bytes": 10**9,
    "disk_bytes": 10**6, "host": "here", "pid": 1, "started": 1, "time": 1.7e9,
}  # fmt: skip
_CURSOR = {"rank": 0, "world": 1, "batch": 9, "shard": 2, "run": "runs/x", "wait_fraction": 0.1}
_REFUSAL = {"shard": 3, "reason": "x", "time": 1.7e9}
_CRASHING = {"prints": ["1-0000000000000000"]}
_CRUMB = {"path": "a.dng", "print": "1-0", "host": "here", "pid": 1, "started": 1}


def try_input(data: bytes) -> None:
    """See the module; raises whatever a reader of the state must not raise."""
    choices = Choices(data)
    choices.one_of(_PARSERS)(choices)


def _plan(choices: Choices) -> None:
    """Damaged, or hostile: then even the digest fits."""
    spool, record = _prepared()
    changed = choices.json(record)
    if choices.below(2):
        changed = _with_its_digest(changed)
    spool.plan_file.write_bytes(changed)
    try:
        opened = Spool(spool.path).open()
        assert opened.stream.layout().shard_bytes > 0
        assert Plan.load(opened).pairs
    except PlanError as error:
        assert "\n" not in str(error)
    finally:
        spool.plan_file.write_text(json.dumps(record))


def _with_its_digest(data: bytes) -> bytes:
    try:
        record = json.loads(data)
        record["digest"] = plan_digest(record["stream"], record["recipe"])
        return json.dumps(record).encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        return data


def _cursor(choices: Choices) -> None:
    spool, _ = _prepared()
    (spool.cursors / "rank-0.json").write_bytes(choices.json(_CURSOR))
    assert 0 <= spool.oldest_needed() < MAX_SHARDS
    for cursor in spool.read_cursors():
        assert min(cursor.rank, cursor.world, cursor.batch, cursor.shard) >= 0
    _tell(spool)


def _heartbeat(choices: Choices) -> None:
    spool, _ = _prepared()
    (spool.producers / "here-1.json").write_bytes(choices.json(_HEARTBEAT))
    spool.remove_dead_heartbeats()
    _tell(spool)


def _tell(spool: Spool) -> None:
    assert status_lines(spool_status(spool))


def _refusals(choices: Choices) -> None:
    spool, _ = _prepared()
    (spool.damaged / "refused.jsonl").write_bytes(choices.json(_REFUSAL) + b"\n" + choices.rest())
    assert all(isinstance(record, QuarantineRecord) for record in spool.quarantine.records())


def _holder(choices: Choices) -> None:
    spool, _ = _prepared()
    path = spool.producers / "lock"
    path.write_bytes(choices.json(_CRUMB))
    assert last_holder(path) is None or str(last_holder(path))
    with spool.producer_lock():
        assert last_holder(path)


def _suspects(choices: Choices) -> None:
    spool, _ = _prepared()
    (spool.producers / "crashing.json").write_bytes(choices.json(_CRASHING))
    suspects = Quarantine(spool, crashes_decoder, 1e9)
    suspects.load()
    (spool.producers / "decoding-1.json").write_bytes(choices.json(_CRUMB))
    suspects.end_stuck()
    assert suspects.after_death() is None
    assert not list(spool.producers.glob("decoding-*"))


_PARSERS: tuple[Callable[[Choices], None], ...] = (
    _plan, _plan, _cursor, _heartbeat, _refusals, _holder, _suspects,
)  # fmt: skip


@functools.cache
def _prepared() -> tuple[Spool, dict[str, Any]]:
    """A spool in memory with a good plan, and the record of the plan."""
    folder = tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)  # noqa: S108, PTH112
    spool = Spool(Path(folder) / "spool")
    plan = _good_plan()
    plan.save(spool, ProducerSettings(budget_bytes=10**9, jobs=2))
    return spool, json.loads(spool.plan_file.read_text())


def _good_plan() -> Plan:
    from darkprep.pipeline.pairs.table import Pair

    pair = Pair(
        id="00001_00_0.1s", scene="00001", camera="sony", split="train", short="Sony/short/a.dng",
        long="Sony/long/a.dng", ratio=100.0, iso=800.0,
    )  # fmt: skip
    planned = PlannedPair(pair=pair, height=64, width=96, short_print="1-a", long_print="1-b")
    options = PlanOptions(camera="sony", crop=32, margin=4, samples_per_shard=8, crops_per_visit=4)
    return Plan(options=options, pairs=(planned,), root=Path("data"))
