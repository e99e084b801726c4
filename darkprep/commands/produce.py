"""The hidden command `produce`: a producer in the background.

jobs/background.py starts it; nothing else uses its options.
"""

from __future__ import annotations

import threading
from pathlib import Path

import click

from darkprep.commands.options import (
    epochs_ahead_option,
    executor_options,
    shrink_option,
    spool_option,
    staging_option,
)
from darkprep.commands.output import print_skipped
from darkprep.commands.parameters import COUNT_OR_INF, SIZE
from darkprep.jobs.background import stop_with_parent
from darkprep.jobs.produce import create_producer
from darkprep.jobs.remote_spool import BuildSpool
from darkprep.pipeline.produce.executors.config import ExecutorConfig
from darkprep.pipeline.produce.producer import ProducerConfig
from darkprep.shards.remote.url import StoreUrl
from darkprep.view.live import Progress


@click.command(hidden=True)
@spool_option
@staging_option
@click.option("--jobs", type=int, required=True)
@click.option("--disk-budget", type=SIZE, required=True)
@click.option("--until", type=COUNT_OR_INF, required=True)
@executor_options
@epochs_ahead_option
@shrink_option
@click.option("--parent", type=int)
def produce(
    spool: Path | StoreUrl,
    staging: Path | None,
    jobs: int,
    disk_budget: int,
    until: int | None,
    backend: str,
    address: str | None,
    epochs_ahead: int | None,
    shrink: bool,
    parent: int | None,
) -> None:
    """Run a background producer; it prints no progress and waits for disk space without end.

    With --parent PID, it stops when this process, which started it, has ended.
    """
    config = ProducerConfig(
        budget_bytes=disk_budget,
        jobs=jobs,
        until=until,
        disk_full_timeout_s=float("inf"),
        epochs_ahead=epochs_ahead,
        shrink=shrink,
    )
    executor = ExecutorConfig(backend=backend, address=address)
    stop = threading.Event()
    if parent is not None:
        stop_with_parent(parent, stop)
    target = BuildSpool.at(spool, staging, stop)
    target.reopen()
    producer = create_producer(target, config, Progress(quiet=True), executor, stop)
    try:
        producer.run()
    finally:
        print_skipped(producer.skipped)
