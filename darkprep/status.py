"""What a spool holds and who works on it, as one JSON-ready record and as lines for people."""

from __future__ import annotations

import time
from typing import Any

from darkprep.values import spelled_bytes
from pipeline.frames import FrameStore
from shards import OpenShard, ShardDamaged, Spool

_BUSY = 0.05
"""Share of time lost above which a side counts as waiting."""


def spool_status(spool: Spool) -> dict[str, Any]:
    """The state of a spool now; raises PlanError or SpoolError when it is none."""
    stream = spool.stream
    producers = [_producer(record) for record in spool.heartbeats()]
    cursors = spool.read_cursors()
    trainer = cursors[0] if cursors else None
    newest = producers[-1] if producers else {}
    record = {
        "spool": str(spool.path),
        "camera": stream.camera,
        "plan": spool.digest,
        "shards_ready": len(spool.ready_shards()),
        "shards_planned": stream.shards,
        "shard_bytes": stream.layout().shard_bytes,
        "samples_per_shard": stream.samples,
        "budget_bytes": newest.get("budget_bytes", spool.place.get("budget_bytes")),
        "disk_bytes": spool.disk_bytes(),
        "next_needed": spool.oldest_needed(),
        "damaged": len(spool.refusals()),
        "trainer": {
            "alive": spool.has_trainer(),
            "ranks": len(cursors),
            "batch": trainer.batch if trainer else 0,
            "run": trainer.run if trainer else "",
            "wait_fraction": trainer.wait_fraction if trainer else 0.0,
        },
        "producers": producers,
    }
    return record | {"who_limits": who_limits(record)}


def _producer(record: dict[str, Any]) -> dict[str, Any]:
    running = float(record.get("running_s") or 0.0)
    blocked = float(record.get("blocked_s") or 0.0)
    return record | {
        "blocked_fraction": blocked / running if running else 0.0,
        "seconds_since": round(time.time() - float(record.get("time") or 0.0), 1),
    }


def who_limits(record: dict[str, Any]) -> str:
    """In words: which side is slower, and what to change."""
    trainer, alive = record["trainer"], [one for one in record["producers"] if one["alive"]]
    if not trainer["alive"]:
        if not alive:
            return "nobody works here"
        full = alive[-1]["state"] == "waiting for the trainer"
        return (
            "no trainer: the producer fills the budget and waits"
            if full
            else "no trainer yet: the producer fills the budget"
        )
    if trainer["wait_fraction"] > _BUSY:
        return "the producers are slower than the trainer: give more --jobs, a larger --reuse, or a budget that holds all frames"
    if alive and alive[-1]["blocked_fraction"] > _BUSY:
        return "the trainer is the slower side, the producers wait for it: nothing to change"
    return "producers and trainer keep pace: nothing to change"


def status_lines(record: dict[str, Any]) -> list[str]:
    """The record for people."""
    planned = (
        "no end" if record["shards_planned"] is None else f"{record['shards_planned']} planned"
    )
    budget = record["budget_bytes"]
    share = f" of {spelled_bytes(budget)} ({record['disk_bytes'] / budget:.0%})" if budget else ""
    trainer = record["trainer"]
    lines = [
        f"spool      {record['spool']} ({record['camera']}, plan {record['plan']})",
        f"shards     {record['shards_ready']} ready, {planned}, {spelled_bytes(record['shard_bytes'])} each",
        f"disk       {spelled_bytes(record['disk_bytes'])}{share}",
        f"trainer    {'at work' if trainer['alive'] else 'none'}, next batch {trainer['batch']}, needs shard {record['next_needed']} on, "
        f"waited {trainer['wait_fraction']:.1%} of the time",
    ]
    for one in record["producers"]:
        what = one["state"] if one["alive"] else f"ended ({one['state']})"
        lines.append(
            f"producer   pid {one['pid']} on {one['host']}: {what}, {one.get('shards_made', 0)} shards made, "
            f"{one.get('mb_per_s', 0.0):.1f} MB/s, blocked {one['blocked_fraction']:.0%}, {one['seconds_since']:.0f} s ago"
        )
    if record["damaged"]:
        lines.append(
            f"damaged    {record['damaged']} shards were refused; see damaged/refused.jsonl"
        )
    return [*lines, f"limit      {record['who_limits']}"]


def verify_spool(spool: Spool) -> tuple[int, int, list[str]]:
    """Check every shard's structure and payloads and every frame; numbers checked, and what is wrong."""
    faults: list[str] = []
    layout, plan = spool.stream.layout(), spool.digest
    shards = spool.ready_shards()
    for shard in shards:
        try:
            opened = OpenShard(spool.shard_path(shard), layout, shard, plan)
            try:
                opened.verify_all()
            finally:
                opened.close()
        except ShardDamaged as error:
            faults.append(f"damaged {error}")
        except FileNotFoundError:
            continue  # used and deleted meanwhile
    store = FrameStore(spool.frames)
    names = store.names()
    faults += [f"damaged frame {spool.frames / name}" for name in names if not store.is_whole(name)]
    return len(shards), len(names), faults
