"""Statuses of a spool for tests of what is shown of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from darkprep.shards.heartbeat import ProducerStatus
from darkprep.view.status import SpoolStatus, TrainerStatus, TrainingProgress, WatchedProducer

PROGRESS = TrainingProgress(
    iteration=20, iterations=2000, loss=0.1537, iterations_per_s=1.75, samples_per_s=7.0,
    gpu_busy_percent=97.0, eta_s=1130.0, recent_losses=(0.4, 0.3, 0.2, 0.15),
)  # fmt: skip
TRAINER = TrainerStatus(
    alive=True, ranks=1, batch=27, run="runs/x", wait_fraction=0.004, waiting_s=0.0,
    training=PROGRESS,
)  # fmt: skip
NO_TRAINER = replace(TRAINER, alive=False, batch=40, run="", training=None)
_REPORT = ProducerStatus(
    state="making", mb_per_s=12.4, shards_made=83, frames_decoded=1204, frames_kept=10,
    frames_wanted=12, until=100, next_needed=14, shards_ready=6, running_s=83.0, blocked_s=2.49,
)  # fmt: skip


def producer_of(*, alive: bool = True, **reported: Any) -> WatchedProducer:
    """A producer that runs; `reported` are fields of its ProducerStatus."""
    return WatchedProducer(
        status=replace(_REPORT, **reported), alive=alive, seconds_since=0.1, host="here", pid=7,
        started=1, time=1.7e9,
    )  # fmt: skip


def status_of(**changes: Any) -> SpoolStatus:
    """A spool at half of its budget, with a producer and a trainer; `changes` are fields of SpoolStatus."""
    fields: dict[str, Any] = {
        "spool": "spool", "camera": "sony", "plan": "0123", "shards_ready": 6, "shards_planned": 50,
        "shard_bytes": 5_600_000, "samples_per_shard": 8, "disk_bytes": 40_000_000,
        "budget_bytes": 80_000_000, "next_needed": 14, "damaged": 0,
        "producers": (producer_of(),), "trainer": TRAINER,
    }  # fmt: skip
    return SpoolStatus(**(fields | changes))
