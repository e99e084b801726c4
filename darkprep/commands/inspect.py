"""Commands for looking: `report` of a run, `advise` on a machine. Kept apart from those that do work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from darkprep.commands.parameters import SIZE, SPOOL_LOCATION
from darkprep.shards import OptionError
from darkprep.shards.remote.object_store import StoreUrl
from darkprep.view.live import Progress


@click.command(short_help="Make a page to look at from a run.")
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Make report.html in the directory RUN: curves, held-out pictures, the disk budget, configuration.

    Every training makes it at its end; this makes it of one that is at work or was killed.

    Example: darkprep report runs/2026-01-31T18-00-00
    """
    from darkprep.report.run_page import write_run_report

    click.echo(write_run_report(run))


@click.command(short_help="Measure this machine; say what to expect and set.")
@click.option("--camera", required=True, metavar="NAME", help="The camera to train for.")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    default=Path("data"),
    show_default=True,
    envvar="DARKPREP_DATA",
    help="Where the photographs lie; without any, synthetic frames are measured.",
)
@click.option(
    "--spool",
    type=SPOOL_LOCATION,
    default=Path("spool"),
    show_default=True,
    metavar="DIR",
    help="Where the spool will be: its disk is measured. Nothing stays there.",
)
@click.option("--model", default="redirt", show_default=True, metavar="NAME")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--precision", default="fp32", show_default=True, metavar="fp32|fp16|bf16")
@click.option("--batch-size", default=8, show_default=True)
@click.option("--crop", type=int, metavar="PX", help="Side of the crops.  [default: as build]")
@click.option("--samples-per-shard", default=32, show_default=True)
@click.option("--crops-per-visit", default=8, show_default=True)
@click.option("--iterations", default=1_000_000, show_default=True)
@click.option("--jobs", type=int, help="Worker processes.  [default: all cores]")
@click.option("--reuse", default=1, show_default=True, help="Uses of each shard.")
@click.option("--disk-budget", type=SIZE, metavar="SIZE", help="As for build.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def advise(as_json: bool, spool: Path | StoreUrl, **chosen: Any) -> None:
    """Measure this machine for about a minute and predict what a training on it will be like.

    Decoding, developing, cutting, writing, reading and training are measured by the code that will run.
    Then: samples a second, whether the GPU will wait, jobs, reuse, budget, hours, bytes written.

    Example: darkprep advise --camera sony --iterations 1000000
    """
    from darkprep.jobs.advise import AdviseChoices, advice_lines, advice_record
    from darkprep.jobs.advise import advise as measure
    from darkprep.jobs.gpus import idle_gpu

    if isinstance(spool, StoreUrl):
        raise OptionError(
            f"spool {spool}: only a disk of this machine is measured; name the directory that will be its --staging"
        )
    choices = AdviseChoices(spool=spool, **chosen)
    hint = idle_gpu()
    if hint:
        click.echo(f"darkprep: {hint}", err=True)
    with Progress(quiet=as_json) as progress:
        found = measure(choices, lambda text: progress.show(text, always=True))
    if as_json:
        click.echo(json.dumps(advice_record(found), indent=1))
    else:
        click.echo("\n".join(advice_lines(found)))
