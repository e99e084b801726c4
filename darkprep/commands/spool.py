"""Commands on an existing spool: `status`, `verify`, `stop`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import click

from darkprep.commands.echo import echo
from darkprep.commands.options import spool_option, staging_option
from darkprep.jobs.background import stop_on_signals, stop_producers
from darkprep.jobs.remote_spool import (
    refuse_staging_options,
    stop_local_producers,
    verify_bucket,
)
from darkprep.jobs.verify import verify_spool
from darkprep.shards import Spool
from darkprep.shards.remote.bucket import Bucket
from darkprep.shards.remote.url import StoreUrl
from darkprep.view.live import Progress
from darkprep.view.numbers import format_count
from darkprep.view.read_status import BucketReader, spool_status
from darkprep.view.status import SpoolStatus
from darkprep.view.text import status_lines

_POLL_S = 0.2


@click.command(short_help="Show what a spool holds and which processes use it.")
@spool_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object; with --watch, one per line."
)
@click.option("--watch", is_flag=True, help="Update the output every second until Ctrl-C.")
def status(spool: Path | StoreUrl, as_json: bool, watch: bool) -> None:
    """Show a spool's shards, disk use and budget, trainer, producers, rates and damaged shards.

    Example: darkprep status --spool spool --watch
    """
    read_status: Callable[[], SpoolStatus]
    if isinstance(spool, StoreUrl):
        remote = BucketReader(Bucket.at(spool).open())
        read_status = remote.status
        if not watch:
            remote.wait_until_known()
    else:
        read_status = functools.partial(spool_status, Spool(spool).open())
    if not watch:
        found = read_status()
        echo(json.dumps(found.to_json(), indent=1) if as_json else "\n".join(status_lines(found)))
        return
    stop = stop_on_signals()
    progress = Progress(log_format="json" if as_json else "text", on_stdout=True)
    with progress, progress.monitor(read_status, title=str(spool)):
        while not stop.wait(_POLL_S):
            if progress.output_closed.is_set():
                raise BrokenPipeError


@click.command(short_help="Check everything in a spool.")
@spool_option
@staging_option
def verify(spool: Path | StoreUrl, staging: Path | None) -> int:
    """Check the plan, every shard and every decoded frame of a spool; exit with status 1 if any is damaged.

    For a spool in object storage, every shard is downloaded once; decoded frames are not stored there.

    Example: darkprep verify --spool spool
    """
    if isinstance(spool, StoreUrl):
        shards, faults = verify_bucket(Bucket.at(spool).open(), staging)
        checked = format_count(shards, "shard")
    else:
        refuse_staging_options(staging)
        shards, frames, faults = verify_spool(Spool(spool).open())
        checked = f"{format_count(shards, 'shard')} and {format_count(frames, 'frame')}"
    for fault in faults:
        echo(fault)
    echo(f"{checked} checked, {len(faults)} damaged")
    return 1 if faults else 0


@click.command(short_help="Stop the background producers of a spool.")
@spool_option
@staging_option
def stop(spool: Path | StoreUrl, staging: Path | None) -> None:
    """Stop the producers (`darkprep build` processes) that work on a spool in the background; finished shards stay.

    For a spool in object storage, only those on this machine are stopped.

    Example: darkprep stop --spool spool
    """
    if isinstance(spool, StoreUrl):
        echo(stop_local_producers(spool, staging))
        return
    refuse_staging_options(staging)
    pids = stop_producers(Spool(spool).open())
    stopped = ", ".join(f"pid {pid}" for pid in pids)
    echo(f"stopped {stopped}" if pids else "no producer is running")
