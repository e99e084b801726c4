"""What a spool holds and who works on it, as one JSON-ready record and as lines for people."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from darkprep.pipeline.produce.frame_store import FrameStore
from darkprep.pipeline.produce.frames_directory import FramesDirectory
from darkprep.shards import Cursor, ShardDamaged, Spool
from darkprep.shards.cursor import DATA_BOUND_WAIT, NEGLIGIBLE_WAIT
from darkprep.shards.disk_usage import allocated_bytes
from darkprep.shards.files import json_objects, open_regular_file, read_json
from darkprep.shards.heartbeat import Heartbeat, ProducerStatus
from darkprep.shards.remote.bucket import Bucket
from darkprep.shards.remote.lease import RENEWAL_S, Holder, Watch
from darkprep.shards.shard_file import verify_shard
from darkprep.view.history import number
from darkprep.view.numbers import format_bytes, format_duration

_BLOCKED = 0.05
"""Share of its time blocked above which the producer counts as the faster side."""
_LONG_S = 3.0
"""A wait above it is told though it is not over: by then the trainer has said so itself."""
_TAIL_BYTES = 16 << 10
"""Of metrics.jsonl: some sixty lines."""
_RECENT = 60


def spool_status(spool: Spool) -> dict[str, Any]:
    """The state of a spool now; raises PlanError or SpoolError when it is none."""
    stream = spool.stream
    producers = [_producer(beat) for beat in spool.heartbeats()]
    cursors = spool.read_cursors()
    newest = producers[-1] if producers else {}
    record = {
        "spool": str(spool.path),
        "camera": stream.camera,
        "plan": spool.digest,
        "shards_ready": len(spool.ready_shards()),
        "shards_planned": stream.shards,
        "shard_bytes": stream.layout().shard_bytes,
        "samples_per_shard": stream.samples,
        "budget_bytes": newest.get("budget_bytes") or spool.settings.budget_bytes or None,
        "disk_bytes": spool.disk_bytes(),
        "frames_elsewhere": _frames_elsewhere(spool),
        "next_needed": spool.oldest_needed(),
        "damaged": len(spool.quarantine.records()),
        "trainer": _trainer(cursors, alive=spool.has_trainer()),
        "producers": producers,
    }
    return record | {"limiting_side": limiting_side(record)}


def made_status(spool: Spool, bucket: Bucket) -> dict[str, Any]:
    """What a build into a bucket shows: its directory's state, with what its producer knows of the bucket."""
    record = spool_status(spool)
    alive = [one for one in record["producers"] if one["alive"]]
    known = {name: alive[-1][name] for name in ("shards_ready", "disk_bytes", "next_needed") if alive}  # fmt: skip
    budget = bucket.settings.budget_bytes or None
    return record | known | {"spool": str(bucket), "budget_bytes": budget}


class BucketStatus:
    """Looks at a spool in object storage; who lives there shows only by what changes between two looks."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._producer, self._trainer = bucket.watch_producer(), bucket.watch_trainer()
        self._producer_seen = self._trainer_seen = -float("inf")

    def settle(self) -> None:
        """Look until it is known who lives, some seconds at most."""
        deadline = time.monotonic() + 2 * RENEWAL_S
        watches = [self._producer, self._trainer]
        while watches and time.monotonic() < deadline:
            watches = [one for one in watches if _lives(one, one.look()) is None]
            time.sleep(0.2 if watches else 0)

    def record(self) -> dict[str, Any]:
        """The state now, in the form of `spool_status`; raises SpoolError."""
        bucket = self._bucket
        stream, listed, cursor = bucket.stream, bucket.list_shards(), bucket.read_cursor()
        maker, user = self._producer.look(), self._trainer.look()
        trainer = _trainer([cursor] if cursor else [], alive=bool(_lives(self._trainer, user)))
        made, used = _told(maker), _told(user)
        producers = [_far_producer(maker, made, self._producer)] if maker else []
        objects = sum(listed.values())
        staged = int(used.get("disk_bytes", 0)) if user else 0
        record = {
            "spool": str(bucket),
            "camera": stream.camera,
            "plan": bucket.digest,
            "shards_ready": len(listed),
            "shards_planned": stream.shards,
            "shard_bytes": stream.layout().shard_bytes,
            "samples_per_shard": stream.samples,
            "budget_bytes": bucket.settings.budget_bytes or None,
            "disk_bytes": objects + staged + int(made.get("directory_bytes", 0)),
            "objects_bytes": objects,
            "staged_bytes": staged,
            "frames_elsewhere": None,
            "next_needed": cursor.shard if cursor else 0,
            "damaged": int(used.get("damaged", 0)),
            "trainer": trainer,
            "producers": producers,
        }
        return record | {"limiting_side": limiting_side(record)}


def _lives(watch: Watch, holder: Holder | None) -> bool | None:
    """Whether a holder lives; one of this machine's living processes does, without a second look."""
    alive = watch.is_alive(holder)
    if alive is None and holder and holder.is_on_this_machine:
        return not holder.is_known_dead()
    return alive


def _told(holder: Holder | None) -> dict[str, Any]:
    """What a holder says of its work, where that makes sense."""
    status = ProducerStatus.from_json(holder.report) if holder else None
    return status.to_json() if status else {}


def _far_producer(holder: Holder, report: dict[str, Any], watch: Watch) -> dict[str, Any]:
    process = holder.process
    running, blocked = float(report.get("running_s", 0)), float(report.get("blocked_s", 0))
    return report | {
        "state": report.get("state", "making"),
        "pid": process.pid if process else 0,
        "host": process.host if process else "?",
        "alive": bool(_lives(watch, holder)),
        "blocked_fraction": blocked / running if running else 0.0,
        "seconds_since": round(watch.unchanged_s(), 1),
    }


def _frames_elsewhere(spool: Spool) -> dict[str, Any] | None:
    """What lies where frames are on another disk; None where they are in the spool."""
    place = FramesDirectory.from_spool(spool)
    if place.budget_bytes is None:
        return None
    return {
        "path": str(place.path),
        "disk_bytes": allocated_bytes(place.path),
        "budget_bytes": place.budget_bytes,
    }


def _trainer(cursors: list[Cursor], *, alive: bool) -> dict[str, Any]:
    """Where the trainer is by its cursor, and what the newest lines of its run's metrics say."""
    cursor = cursors[0] if cursors else None
    run = cursor.run if cursor else ""
    record = {
        "alive": alive,
        "ranks": len(cursors),
        "batch": cursor.batch if cursor else 0,
        "run": run,
        "wait_fraction": cursor.wait_fraction if cursor else 0.0,
        "waiting_s": max((one.waiting_s for one in cursors), default=0.0) if alive else 0.0,
    }
    lines = _newest_metrics(Path(run)) if run and alive else []
    if not lines:
        return record
    newest, config = lines[-1], read_json(Path(run) / "config.json") or {}
    pace, done = float(number(newest, "iterations_per_s") or 0.0), int(newest["iteration"])
    iterations = int(number(config, "iterations") or 0)
    return record | {
        "iteration": done,
        "iterations": iterations or None,
        "loss": number(newest, "loss"),
        "iterations_per_s": pace,
        "samples_per_s": float(number(newest, "samples_per_s") or 0.0),
        "wait_fraction": float(number(newest, "data_wait_fraction") or 0.0),
        "gpu_busy_percent": number(newest, "gpu_busy_percent"),
        "eta_s": (iterations - done) / pace if iterations and pace else None,
        "recent_losses": [loss for line in lines if (loss := number(line, "loss")) is not None],
    }


def _newest_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The last lines of a run's metrics.jsonl; none where there is no such file here."""
    try:
        with open(run_dir / "metrics.jsonl", "rb", opener=open_regular_file) as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read(_TAIL_BYTES)
    except OSError:
        return []
    # The first line may be cut by the seek, the last by its writer; those do not parse.
    lines = json_objects(tail.splitlines()[-_RECENT:])
    return [line for line in lines if number(line, "iteration") is not None]


def _producer(heartbeat: Heartbeat) -> dict[str, Any]:
    running, blocked = heartbeat.status.running_s or 0.0, heartbeat.status.blocked_s or 0.0
    return heartbeat.to_json() | {
        "alive": heartbeat.process.is_alive(),
        "blocked_fraction": blocked / running if running else 0.0,
        "seconds_since": round(time.time() - heartbeat.time, 1),
    }


def limiting_side(record: dict[str, Any]) -> str:
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
    if alive and alive[-1]["state"] == "waiting for disk space":
        return "the disk is full: the producer waits until something else frees room"
    if trainer["waiting_s"] > _LONG_S and not alive:
        return "the trainer waits for a shard that nobody makes: run `darkprep build`"
    if trainer["wait_fraction"] >= DATA_BOUND_WAIT:
        return "the producers are slower than the trainer: give more --jobs, a larger --reuse, or a budget that holds all frames"
    if trainer["waiting_s"] > _LONG_S:
        return "the trainer waits for the producers' next shard"
    if trainer["wait_fraction"] >= NEGLIGIBLE_WAIT:
        return "nearly balanced: more --jobs would close the gap"
    if alive and alive[-1]["blocked_fraction"] > _BLOCKED:
        return "the trainer is the slower side, the producers wait for it: nothing to change"
    return "producers and trainer keep pace: nothing to change"


def status_lines(record: dict[str, Any]) -> list[str]:
    """The record for people."""
    planned = (
        "no end" if record["shards_planned"] is None else f"{record['shards_planned']} planned"
    )
    budget = record["budget_bytes"]
    share = f" of {format_bytes(budget)} ({record['disk_bytes'] / budget:.0%})" if budget else ""
    trainer = record["trainer"]
    lines = [
        f"spool      {record['spool']} ({record['camera']}, plan {record['plan']})",
        f"shards     {record['shards_ready']} ready, {planned}, {format_bytes(record['shard_bytes'])} each",
        f"disk       {format_bytes(record['disk_bytes'])}{share}{_objects_words(record)}",
        *_frames_line(record["frames_elsewhere"]),
        f"trainer    {'at work' if trainer['alive'] else 'none'}, next batch {trainer['batch']}, needs shard {record['next_needed']} on, "
        f"waited {trainer['wait_fraction']:.1%} of the time{waiting_words(trainer)}",
        *_training_line(trainer),
    ]
    for one in record["producers"]:
        what = one["state"] if one["alive"] else f"ended ({one['state']})"
        lines.append(
            f"producer   pid {one['pid']} on {one['host']}: {what}, {one.get('shards_made', 0)} shards made, "
            f"{one.get('mb_per_s', 0.0):.1f} MB/s, blocked {one['blocked_fraction']:.0%}, {one['seconds_since']:.0f} s ago"
        )
    if record["damaged"]:
        see = "; see damaged/refused.jsonl" if "objects_bytes" not in record else ""
        lines.append(f"damaged    {record['damaged']} shards were refused{see}")
    return [*lines, f"limit      {record['limiting_side']}"]


def waiting_words(trainer: dict[str, Any]) -> str:
    """What to add to a share of time spent waiting while a long wait is not over."""
    waited = trainer["waiting_s"]
    return f", now for {format_duration(waited)}" if waited > _LONG_S else ""


def _objects_words(record: dict[str, Any]) -> str:
    """Where the bytes of a spool in object storage are."""
    if "objects_bytes" not in record:
        return ""
    objects, staged = record["objects_bytes"], record["staged_bytes"]
    rest = record["disk_bytes"] - objects - staged
    parts = [f"{format_bytes(objects)} objects"]
    parts += [f"{format_bytes(rest)} at the producer"] if rest else []
    parts += [f"{format_bytes(staged)} at the trainer"] if staged else []
    return f": {', '.join(parts)}"


def _frames_line(frames: dict[str, Any] | None) -> list[str]:
    if frames is None:
        return []
    return [
        f"frames     {format_bytes(frames['disk_bytes'])} of {format_bytes(frames['budget_bytes'])} in {frames['path']}"
    ]


def _training_line(trainer: dict[str, Any]) -> list[str]:
    if trainer.get("iteration") is None:
        return []
    loss = trainer["loss"]
    goal = f" of {trainer['iterations']:,}" if trainer["iterations"] else ""
    parts = [
        f"iteration {trainer['iteration']:,}{goal}",
        f"{trainer['iterations_per_s']:.2f} it/s",
        "loss ?" if loss is None else f"loss {loss:.4f}",
        f"ETA {format_duration(float('inf') if trainer['eta_s'] is None else trainer['eta_s'])}",
    ]
    return [f"           {', '.join(parts)}"]


def verify_spool(spool: Spool) -> tuple[int, int, list[str]]:
    """Check every shard's structure and payloads and every frame; numbers checked, and what is wrong."""
    faults: list[str] = []
    layout, plan = spool.stream.layout(), spool.digest
    shards = spool.ready_shards()
    for shard in shards:
        try:
            verify_shard(spool.shard_path(shard), layout, shard, plan)
        except ShardDamaged as error:
            faults.append(f"damaged {error}")
        except FileNotFoundError:
            continue  # used and deleted meanwhile
    store = FrameStore(FramesDirectory.from_spool(spool).path)
    names = store.names()
    faults += [f"damaged frame {store.path / name}" for name in names if not store.is_intact(name)]
    return len(shards), len(names), faults
