"""Read the status of a spool from its directory, or from object storage.

The trade-off: in a directory, locks and pids show at once which processes are running; in object storage
only a change between two reads shows this, so BucketReader needs a few seconds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from darkprep.pipeline.produce.frames_directory import FramesDirectory
from darkprep.shards import Cursor, Spool
from darkprep.shards.disk_usage import allocated_bytes
from darkprep.shards.files import read_json
from darkprep.shards.heartbeat import Heartbeat, ProducerStatus
from darkprep.shards.remote.bucket import Bucket
from darkprep.shards.remote.lease import RENEWAL_S, Holder, Watch
from darkprep.trainer.records import read_metrics
from darkprep.trainer.validations import read_validations
from darkprep.view.status import (
    FramesStatus,
    SpoolStatus,
    TrainerStatus,
    TrainingProgress,
    WatchedProducer,
)

_TAIL_BYTES = 16 << 10
"""Of metrics.jsonl: some sixty lines."""
_MAX_RECENT = 60


def spool_status(spool: Spool) -> SpoolStatus:
    """Return the status of a spool in a directory. Raises PlanError or SpoolError if there is no spool."""
    stream = spool.stream
    # The lock decides, because the process ids of another container are not valid here.
    holder = spool.producer_process()
    producers = tuple(
        _watched_producer(heartbeat, alive=heartbeat.process == holder)
        for heartbeat in spool.heartbeats()
    )
    # The newest heartbeat by its own clock may be of a producer that has ended.
    at_work = [producer for producer in producers if producer.alive] or producers
    reported_budget = at_work[-1].status.budget_bytes if at_work else None
    return SpoolStatus(
        spool=str(spool.path),
        camera=stream.camera,
        plan=spool.digest,
        shards_ready=len(spool.ready_shards()),
        shards_planned=stream.shards,
        shard_bytes=stream.layout().shard_bytes,
        samples_per_shard=stream.samples,
        budget_bytes=reported_budget or spool.settings.budget_bytes or None,
        disk_bytes=spool.disk_bytes(),
        frames_elsewhere=_frames_status(spool),
        next_needed=spool.oldest_needed(),
        damaged=len(spool.quarantine.records()),
        trainer=_trainer_status(spool.read_cursors(), alive=spool.has_trainer()),
        producers=producers,
    )


def build_status(spool: Spool, bucket: Bucket) -> SpoolStatus:
    """Return the status of a build into a bucket, from its local directory and the producer's report about the bucket."""
    status = replace(
        spool_status(spool), spool=str(bucket), budget_bytes=bucket.settings.budget_bytes or None
    )
    if not status.live_producers:
        return status
    reported = status.live_producers[-1].status
    return replace(
        status,
        shards_ready=_first(reported.shards_ready, status.shards_ready),
        disk_bytes=_first(reported.disk_bytes, status.disk_bytes),
        next_needed=_first(reported.next_needed, status.next_needed),
    )


class BucketReader:
    """Reads the status of a spool in object storage; a process is alive if its lease changes between two reads."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._producer, self._trainer = bucket.watch_producer(), bucket.watch_trainer()

    def wait_until_known(self) -> None:
        """Read the leases until it is known whether their holders are alive, for at most a few seconds."""
        deadline = time.monotonic() + 2 * RENEWAL_S
        unknown = [self._producer, self._trainer]
        while unknown and time.monotonic() < deadline:
            unknown = [watch for watch in unknown if _is_alive(watch, watch.look()) is None]
            time.sleep(0.2 if unknown else 0)

    def status(self) -> SpoolStatus:
        """Return the present status. Raises SpoolError."""
        bucket = self._bucket
        stream, objects, cursor = bucket.stream, bucket.list_shards(), bucket.read_cursor()
        producer, trainer = self._producer.look(), self._trainer.look()
        made, used = _reported(producer), _reported(trainer)
        objects_bytes = sum(objects.values())
        staged_bytes = int(used.disk_bytes or 0)
        return SpoolStatus(
            spool=str(bucket),
            camera=stream.camera,
            plan=bucket.digest,
            shards_ready=len(objects),
            shards_planned=stream.shards,
            shard_bytes=stream.layout().shard_bytes,
            samples_per_shard=stream.samples,
            budget_bytes=bucket.settings.budget_bytes or None,
            disk_bytes=objects_bytes + staged_bytes + int(made.directory_bytes or 0),
            objects_bytes=objects_bytes,
            staged_bytes=staged_bytes,
            next_needed=cursor.shard if cursor else 0,
            damaged=int(used.damaged or 0),
            trainer=_trainer_status(
                [cursor] if cursor else [], alive=bool(_is_alive(self._trainer, trainer))
            ),
            producers=(self._watched(producer, made),) if producer else (),
        )

    def _watched(self, holder: Holder, reported: ProducerStatus) -> WatchedProducer:
        process = holder.process
        return WatchedProducer(
            status=reported,
            alive=bool(_is_alive(self._producer, holder)),
            seconds_since=round(self._producer.unchanged_s(), 1),
            host=process.host if process else "?",
            pid=process.pid if process else 0,
        )


def _is_alive(watch: Watch, holder: Holder | None) -> bool | None:
    """Return whether the holder of a lease is alive; None while unknown. For local processes it is known at once."""
    alive = watch.is_alive(holder)
    if alive is None and holder and holder.is_on_this_machine:
        return not holder.is_known_dead()
    return alive


def _reported(holder: Holder | None) -> ProducerStatus:
    """Return the status that the holder of a lease published; a status without figures if it is invalid."""
    status = ProducerStatus.from_json(holder.report) if holder else None
    return status or ProducerStatus(state="making")


def _watched_producer(heartbeat: Heartbeat, *, alive: bool) -> WatchedProducer:
    process = heartbeat.process
    # The clocks of two hosts are never compared.
    since = max(0.0, time.time() - heartbeat.time) if process.is_local else None
    return WatchedProducer(
        status=heartbeat.status,
        alive=alive,
        seconds_since=None if since is None else round(since, 1),
        host=process.host,
        pid=process.pid,
        started=process.started,
        time=heartbeat.time,
    )


def _frames_status(spool: Spool) -> FramesStatus | None:
    """Return the status of the frames directory on another disk; None if frames are in the spool."""
    directory = FramesDirectory.from_spool(spool)
    if directory.budget_bytes is None:
        return None
    return FramesStatus(
        path=str(directory.path),
        disk_bytes=allocated_bytes(directory.path),
        budget_bytes=directory.budget_bytes,
    )


def _trainer_status(cursors: Sequence[Cursor], *, alive: bool) -> TrainerStatus:
    first = cursors[0] if cursors else None
    status = TrainerStatus(
        alive=alive,
        ranks=len(cursors),
        batch=first.batch if first else 0,
        run=first.run if first else "",
        wait_fraction=first.wait_fraction if first else 0.0,
        waiting_s=max((one.waiting_s for one in cursors), default=0.0) if alive else 0.0,
    )
    if not (alive and status.run):
        return status
    lines = read_metrics(Path(status.run), tail_bytes=_TAIL_BYTES)[-_MAX_RECENT:]
    if not lines:
        return status
    newest = lines[-1]
    iterations = _iterations(Path(status.run))
    remaining = (iterations or 0) - newest.iteration
    progress = TrainingProgress(
        iteration=newest.iteration,
        iterations=iterations,
        loss=newest.loss,
        iterations_per_s=newest.iterations_per_s,
        samples_per_s=newest.samples_per_s,
        gpu_busy_percent=newest.gpu_busy_percent,
        eta_s=remaining / newest.iterations_per_s
        if iterations and newest.iterations_per_s
        else None,
        recent_losses=tuple(line.loss for line in lines),
        validation=_validation(Path(status.run)),
    )
    return replace(status, wait_fraction=newest.data_wait_fraction, training=progress)


def _validation(run_dir: Path) -> tuple[int, float, float] | None:
    """Return iteration, PSNR and SSIM of a run's last evaluation; None before the first."""
    found = read_validations(run_dir, tail_bytes=_TAIL_BYTES)
    return (found[-1].iteration, found[-1].psnr, found[-1].ssim) if found else None


def _iterations(run_dir: Path) -> int | None:
    """Return the number of iterations for which a run was started; None if its configuration is missing or invalid."""
    iterations = (read_json(run_dir / "config.json") or {}).get("iterations")
    return iterations if type(iterations) is int and 0 < iterations <= 10**9 else None


def _first(reported: int | None, otherwise: int) -> int:
    return otherwise if reported is None else reported
