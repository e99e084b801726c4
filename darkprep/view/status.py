"""The status of a spool: what it contains, which processes use it, and which side is slower.

One record for `darkprep status`, its JSON, the live screen and the history of a run. The trade-off: a
figure that is not in this record cannot be shown.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from darkprep.shards.cursor import DATA_BOUND_WAIT, NEGLIGIBLE_WAIT
from darkprep.shards.heartbeat import ProducerStatus
from darkprep.trainer.records import StepReport

LONG_WAIT_S = 3.0
"""Seconds after which a wait for data is shown while it lasts."""
_BLOCKED = 0.05
"""If a producer waits for the trainer for more than this share of the time, it counts as the faster side."""


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """How far a run is, from its newest lines of metrics or, in the run's own process, from its last step."""

    iteration: int
    iterations: int | None
    loss: float | None
    iterations_per_s: float
    samples_per_s: float
    gpu_busy_percent: float | None
    eta_s: float | None
    recent_losses: tuple[float, ...] = ()
    """Losses of the newest lines of metrics, the oldest first."""
    validation: tuple[int, float, float] | None = None
    """Iteration, PSNR in dB and SSIM of the last evaluation on validation frames; None before the first."""
    learning_rate: float | None = None
    """Known only in the run's own process, like the fields below."""
    shards_deleted: int | None = None
    ends_in_s: float | None = None
    """Seconds until the run's deadline; None without a deadline."""
    clock_s: float | None = None
    """Seconds since the start of a run with a deadline; None without a deadline."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object; fields that are known only in the run's own process are left out if None."""
        record = asdict(self) | {"recent_losses": list(self.recent_losses)}
        if self.validation:
            names = ("validation_iteration", "validation_psnr", "validation_ssim")
            record |= dict(zip(names, self.validation, strict=True))
        del record["validation"]
        optional = ("learning_rate", "shards_deleted", "ends_in_s", "clock_s")
        absent = {name for name in optional if record[name] is None}
        absent |= set() if self.recent_losses else {"recent_losses"}
        return {name: value for name, value in record.items() if name not in absent}

    @property
    def ends_by_clock(self) -> bool:
        """Whether the run's deadline will come before its last iteration."""
        return self.ends_in_s is not None and (self.eta_s is None or self.eta_s > self.ends_in_s)

    @property
    def share_done(self) -> float | None:
        """Share of the run that is done, in [0, 1], by time if it has a deadline; None if its end is unknown."""
        if self.ends_by_clock:
            elapsed = self.clock_s or 0.0
            whole = elapsed + (self.ends_in_s or 0.0)
            return min(1.0, elapsed / whole) if whole else 1.0
        return min(1.0, self.iteration / self.iterations) if self.iterations else None


@dataclass(frozen=True, kw_only=True)
class TrainerStatus:
    """The status of a spool's trainer, from the cursors of its ranks and the files of its run."""

    alive: bool
    ranks: int
    """Number of trainer ranks, from their cursors."""
    batch: int
    """The next global batch."""
    run: str
    """The run directory; empty where it is unknown."""
    wait_fraction: float
    """Share of its time that the trainer waited for data."""
    waiting_s: float
    """Seconds of the present wait for data; 0 while there is none."""
    training: TrainingProgress | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object, with all fields on one level."""
        names = ("alive", "ranks", "batch", "run", "wait_fraction", "waiting_s")
        training = self.training.to_json() if self.training else {}
        return {name: getattr(self, name) for name in names} | training

    @property
    def waits_long(self) -> bool:
        """Whether the trainer has been waiting for data for a long time and still is."""
        return self.waiting_s > LONG_WAIT_S


@dataclass(frozen=True, kw_only=True)
class WatchedProducer:
    """A producer's own report, and what is known about its process."""

    status: ProducerStatus
    alive: bool
    seconds_since: float | None
    """Seconds since the last heartbeat; None where only another host's clock states its time."""
    host: str
    pid: int
    started: int | None = None
    """The process's start time, as in ProcessId; None for a spool in object storage, like the next field."""
    time: float | None = None
    """When the heartbeat was written, in seconds since the epoch."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object, with all fields on one level."""
        process = {name: getattr(self, name) for name in ("host", "pid", "started", "time")}
        return {
            **self.status.to_json(),
            **{name: value for name, value in process.items() if value is not None},
            "alive": self.alive,
            "blocked_fraction": self.blocked_fraction,
            "seconds_since": self.seconds_since,
        }

    @property
    def blocked_fraction(self) -> float:
        """Share of the time in which the producer waited for the trainer."""
        running = self.status.running_s
        return (self.status.blocked_s or 0.0) / running if running else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds until all shards are made; None for a plan without end, or while the producer waits."""
        status = self.status
        if status.until is None or not status.shards_made or not status.running_s:
            return None
        if status.state != "making":
            return None
        missing = status.until - (status.next_needed or 0) - (status.shards_ready or 0)
        return max(0, missing) * status.running_s / status.shards_made


@dataclass(frozen=True, kw_only=True)
class FramesStatus:
    """The status of decoded frames that are stored outside the spool and its budget."""

    path: str
    disk_bytes: int
    budget_bytes: int


@dataclass(frozen=True, kw_only=True)
class SpoolStatus:
    """The status of a spool in a directory or in object storage."""

    spool: str
    """Directory or URL of the spool."""
    camera: str
    plan: str
    """The plan's digest."""
    shards_ready: int
    shards_planned: int | None
    """Number of shards of the plan; None for a plan without end."""
    shard_bytes: int
    samples_per_shard: int
    budget_bytes: int | None
    """The disk budget; None if it is not recorded."""
    disk_bytes: int
    """Bytes of everything that counts against the budget."""
    objects_bytes: int | None = None
    """The part of `disk_bytes` in object storage; None for a spool in a directory, like the next field."""
    staged_bytes: int | None = None
    """The part of `disk_bytes` in the trainer's directory."""
    frames_elsewhere: FramesStatus | None = None
    next_needed: int
    """The oldest shard that the trainer still needs."""
    damaged: int
    """Number of shards that were found damaged."""
    trainer: TrainerStatus
    producers: tuple[WatchedProducer, ...]
    """Producers in the order of their heartbeats, the newest last."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that `darkprep status --json` prints."""
        record = {
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "frames_elsewhere": asdict(self.frames_elsewhere) if self.frames_elsewhere else None,
            "trainer": self.trainer.to_json(),
            "producers": [producer.to_json() for producer in self.producers],
            "limiting_side": self.limiting_side,
        }
        if self.objects_bytes is None:
            del record["objects_bytes"], record["staged_bytes"]
        return record

    @property
    def live_producers(self) -> list[WatchedProducer]:
        """The producers that are running, the newest last."""
        return [producer for producer in self.producers if producer.alive]

    @property
    def limiting_side(self) -> str:
        """A sentence that states whether trainer or producers limit the pace, and what to change."""
        trainer, alive = self.trainer, self.live_producers
        state = alive[-1].status.state if alive else ""
        if not trainer.alive:
            if not alive:
                return "no producer and no trainer is running"
            if state == "waiting for the trainer":
                return "no trainer is running: the producer waits, because the budget is full or --epochs-ahead is reached"
            return "no trainer is running yet: the producer fills the budget"
        if state == "waiting for disk space":
            return "the disk is full: the producer waits until space is freed"
        if trainer.waits_long and not alive:
            return "the trainer waits for a shard and no producer is running: run `darkprep build`"
        if trainer.wait_fraction >= DATA_BOUND_WAIT:
            return "the producers are slower than the trainer: use more --jobs, a larger --reuse, or a budget that holds all frames"
        if trainer.waits_long:
            return "the trainer waits for the next shard"
        if trainer.wait_fraction >= NEGLIGIBLE_WAIT:
            return (
                "the producers are nearly as fast as the trainer: a few more --jobs would be enough"
            )
        if alive and alive[-1].blocked_fraction > _BLOCKED:
            return "the trainer is slower than the producers, which wait for it: nothing to change"
        return "producers and trainer are equally fast: nothing to change"


def progress_of_step(report: StepReport, from_files: TrainingProgress | None) -> TrainingProgress:
    """Return the progress of a training run in this process after a step; `from_files` is the progress that was read from the run's files."""
    return TrainingProgress(
        iteration=report.iteration,
        iterations=report.iterations,
        loss=report.loss,
        iterations_per_s=report.iterations_per_s,
        samples_per_s=report.samples_per_s,
        gpu_busy_percent=report.gpu_busy_percent,
        eta_s=report.eta_s if report.iterations_per_s else None,
        recent_losses=from_files.recent_losses if from_files else (),
        validation=from_files.validation if from_files else None,
        learning_rate=report.learning_rate,
        shards_deleted=report.shards_deleted,
    )
