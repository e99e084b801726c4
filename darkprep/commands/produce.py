"""The hidden commands that run in the background: `produce` for a spool, `fetch` for a trainer.

They are how jobs/background.py starts them; nothing else relies on their options.
"""

from __future__ import annotations

import threading
from pathlib import Path

import click

from darkprep.commands.options import executor_options, spool_option, staging_option
from darkprep.commands.output import print_skipped
from darkprep.commands.parameters import COUNT_OR_INF, SIZE
from darkprep.jobs.background import stop_on_signals
from darkprep.jobs.produce import run_producer
from darkprep.jobs.remote_spool import BuildSpool, folder_for
from darkprep.pipeline.produce.executors.config import ExecutorConfig
from darkprep.pipeline.produce.producer import ProducerConfig
from darkprep.shards import Spool
from darkprep.shards.remote.bucket import Bucket
from darkprep.shards.remote.downloader import Downloader, DownloaderConfig
from darkprep.shards.remote.url import StoreUrl
from darkprep.view.live import Progress


@click.command(hidden=True)
@spool_option
@staging_option
@click.option("--jobs", type=int, required=True)
@click.option("--disk-budget", type=SIZE, required=True)
@click.option("--until", type=COUNT_OR_INF, required=True)
@executor_options
def produce(
    spool: Path | StoreUrl,
    staging: Path | None,
    jobs: int,
    disk_budget: int,
    until: int | None,
    backend: str,
    address: str | None,
) -> None:
    """Run a background producer; it prints no progress and waits for disk space without end."""
    config = ProducerConfig(
        budget_bytes=disk_budget, jobs=jobs, until=until, disk_full_timeout_s=float("inf")
    )
    executor = ExecutorConfig(backend=backend, address=address)
    stop = threading.Event()
    target = BuildSpool.at(spool, staging, stop)
    target.again()
    producer, _ = run_producer(target, config, Progress(quiet=True), executor, stop)
    print_skipped(producer.skipped)


@click.command(hidden=True)
@spool_option
@staging_option
@click.option("--room", type=int, required=True)
@click.option("--until", type=COUNT_OR_INF, required=True)
def fetch(spool: StoreUrl, staging: Path | None, room: int, until: int | None) -> None:
    """Download shards for a trainer from object storage, and delete there what it has used."""
    stop = stop_on_signals()
    local = Spool(folder_for(spool, staging, "using")).open()
    bucket = Bucket.at(spool, stop=stop).open()
    Downloader(local, bucket, DownloaderConfig(room=room, until=until), stop=stop).run()
