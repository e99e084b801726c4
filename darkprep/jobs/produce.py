"""Create the producer that `build` and background producers run in this process."""

from __future__ import annotations

import contextlib
import threading

from darkprep.jobs.background import stop_on_signals
from darkprep.jobs.remote_spool import BuildSpool
from darkprep.pipeline.produce.executors.config import LOCAL, ExecutorConfig
from darkprep.pipeline.produce.executors.loky import worker_started
from darkprep.pipeline.produce.producer import Producer, ProducerConfig
from darkprep.shards.heartbeat import ProducerStatus
from darkprep.view.live import Progress


def worker_started_early(
    executor: ExecutorConfig, *, in_background: bool
) -> contextlib.AbstractContextManager[None]:
    """Return a context in which the first worker starts while the plan is made; no worker outlives it.

    None is started if this process needs none: for a cluster, and for a producer `in_background`.
    """
    if in_background or executor.backend != LOCAL.backend:
        return contextlib.nullcontext()
    return worker_started()


def create_producer(
    target: BuildSpool,
    config: ProducerConfig,
    progress: Progress,
    executor: ExecutorConfig,
    stop: threading.Event,
) -> Producer:
    """Return a producer that signals stop, and that prints a line the first time that it waits while no trainer is running.

    The line is printed with `--quiet` too: otherwise nothing would show why the build does not end.
    """
    announced = threading.Event()

    def report(now: ProducerStatus) -> None:
        if now.state != "waiting for the trainer" or announced.is_set():
            return
        if not target.spool.has_trainer():
            announced.set()
            reason = (
                f"{config.epochs_ahead} epochs ahead of the trainer (--epochs-ahead)"
                if producer.is_ahead
                else "the disk budget is used up"
            )
            progress.warn(
                f"{reason}: waiting for `darkprep stream-train --spool {target.location}` to use shards (Ctrl-C stops the build; finished shards are kept)"
            )

    stop_on_signals(stop)
    producer = Producer(
        target.spool,
        config,
        executor.create_pool(config.jobs),
        report=report,
        stop=stop,
        destination=target.destination(config.jobs),
    )
    return producer
