"""The status of a spool: what it holds, who works on it, and which side is slower.

One record for `darkprep status`, its JSON, the live screen and the history of a run. The trade-off: a figure
that is not in this record cannot be shown.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from darkprep.shards.cursor import DATA_BOUND_WAIT, NEGLIGIBLE_WAIT
from darkprep.shards.heartbeat import ProducerStatus
from darkprep.trainer.records import StepReport

LONG_WAIT_S = 3.0
"""A wait for data that lasts longer is shown before it is over."""
_BLOCKED = 0.05
"""Share of its time that a producer waits for the trainer, above which it counts as the faster side."""


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """How far a training is, by its newest lines of metrics or, in its own process, by its last step."""

    iteration: int
    iterations: int | None
    loss: float | None
    iterations_per_s: float
    samples_per_s: float
    gpu_busy_percent: float | None
    eta_s: float | None
    recent_losses: tuple[float, ...] = ()
    """Losses of the newest lines of metrics, the oldest first."""
    learning_rate: float | None = None
    """Known in the training's own process only, as is the rest."""
    shards_deleted: int | None = None
    ends_in_s: float | None = None
    """Seconds until the deadline of a training that has one."""
    clock_s: float | None = None
    """Seconds since the start of a training that has a deadline."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object, without what only the training's own process knows where it is None."""
        record = asdict(self) | {"recent_losses": list(self.recent_losses)}
        optional = ("learning_rate", "shards_deleted", "ends_in_s", "clock_s")
        absent = {name for name in optional if record[name] is None}
        absent |= set() if self.recent_losses else {"recent_losses"}
        return {name: value for name, value in record.items() if name not in absent}

    @property
    def ends_by_clock(self) -> bool:
        """Whether the deadline comes before the last iteration."""
        return self.ends_in_s is not None and (self.eta_s is None or self.eta_s > self.ends_in_s)

    @property
    def share_done(self) -> float | None:
        """In [0, 1], by the clock where the training ends by it; None where the end is unknown."""
        if self.ends_by_clock:
            elapsed = self.clock_s or 0.0
            whole = elapsed + (self.ends_in_s or 0.0)
            return min(1.0, elapsed / whole) if whole else 1.0
        return min(1.0, self.iteration / self.iterations) if self.iterations else None


@dataclass(frozen=True, kw_only=True)
class TrainerStatus:
    """The trainer of a spool, by the cursors of its ranks and the files of its run."""

    alive: bool
    ranks: int
    """Cursors that were found."""
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
        """Return the JSON object: all on one level."""
        names = ("alive", "ranks", "batch", "run", "wait_fraction", "waiting_s")
        training = self.training.to_json() if self.training else {}
        return {name: getattr(self, name) for name in names} | training

    @property
    def waits_long(self) -> bool:
        """Whether a long wait for data is not over."""
        return self.waiting_s > LONG_WAIT_S


@dataclass(frozen=True, kw_only=True)
class WatchedProducer:
    """A producer's own report, and what is known of its process."""

    status: ProducerStatus
    alive: bool
    seconds_since: float
    """Since the last sign of life."""
    host: str
    pid: int
    started: int | None = None
    """As in ProcessId; None for producers of a spool in object storage, as is the next."""
    time: float | None = None
    """When the heartbeat was written, in seconds since the epoch."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object: all on one level."""
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
        """Share of its time that the producer waited for the trainer."""
        running = self.status.running_s
        return (self.status.blocked_s or 0.0) / running if running else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds until all shards are made; None without an end, or while the producer waits."""
        status = self.status
        if status.until is None or not status.shards_made or not status.running_s:
            return None
        if status.state != "making":
            return None
        missing = status.until - (status.next_needed or 0) - (status.shards_ready or 0)
        return max(0, missing) * status.running_s / status.shards_made


@dataclass(frozen=True, kw_only=True)
class FramesStatus:
    """Decoded frames that are kept outside the spool and its budget."""

    path: str
    disk_bytes: int
    budget_bytes: int


@dataclass(frozen=True, kw_only=True)
class SpoolStatus:
    """The status of a spool, which is a directory or in object storage."""

    spool: str
    """Its directory or URL."""
    camera: str
    plan: str
    """The plan's digest."""
    shards_ready: int
    shards_planned: int | None
    """None for a plan without an end."""
    shard_bytes: int
    samples_per_shard: int
    budget_bytes: int | None
    """None where no budget is recorded."""
    disk_bytes: int
    """All that counts against the budget."""
    objects_bytes: int | None = None
    """The part of `disk_bytes` in object storage; None for a spool in a directory, as is the next."""
    staged_bytes: int | None = None
    """The part of `disk_bytes` in the trainer's directory."""
    frames_elsewhere: FramesStatus | None = None
    next_needed: int
    """The oldest shard that the trainer still needs."""
    damaged: int
    """Shards that were found damaged."""
    trainer: TrainerStatus
    producers: tuple[WatchedProducer, ...]
    """In the order of their heartbeats, the newest last."""

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
        """The producers that run, the newest last."""
        return [producer for producer in self.producers if producer.alive]

    @property
    def limiting_side(self) -> str:
        """A sentence that says whether trainer or producers limit the speed, and what to change."""
        trainer, alive = self.trainer, self.live_producers
        state = alive[-1].status.state if alive else ""
        if not trainer.alive:
            if not alive:
                return "no producer and no trainer is running"
            if state == "waiting for the trainer":
                return "no trainer is running: the budget (or --epochs-ahead) is full and the producer waits"
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
            return "nearly balanced: more --jobs would close the gap"
        if alive and alive[-1].blocked_fraction > _BLOCKED:
            return "the trainer is slower than the producers, which wait for it: nothing to change"
        return "producers and trainer are equally fast: nothing to change"


def progress_of_step(report: StepReport, recent_losses: tuple[float, ...]) -> TrainingProgress:
    """Return the progress of a training in this process after a step."""
    return TrainingProgress(
        iteration=report.iteration,
        iterations=report.iterations,
        loss=report.loss,
        iterations_per_s=report.iterations_per_s,
        samples_per_s=report.samples_per_s,
        gpu_busy_percent=report.gpu_busy_percent,
        eta_s=report.eta_s if report.iterations_per_s else None,
        recent_losses=recent_losses,
        learning_rate=report.learning_rate,
        shards_deleted=report.shards_deleted,
    )
