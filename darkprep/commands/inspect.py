"""Commands that only report: `report` on a run, `advise` on a machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from darkprep.commands.echo import echo
from darkprep.commands.options import (
    NETWORKS,
    check_camera,
    crop_option,
    device_option,
    disk_budget_option,
    jobs_option,
    pair_options,
    precision_option,
    reuse_option,
    root_option,
    shard_options,
    target_option,
)
from darkprep.commands.parameters import PATH, SIZE, SPOOL_LOCATION, FiniteRange
from darkprep.commands.torch_setup import prepare_torch
from darkprep.pipeline.pairs.origin import PairOrigin
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.shards import OptionError, Target
from darkprep.shards.remote.url import StoreUrl
from darkprep.trainer.config import Precision, TrainConfig
from darkprep.view.live import Progress

if TYPE_CHECKING:
    from darkprep.jobs.advise import AdviseOptions

_POSITIVE = click.IntRange(min=1)


@click.command(short_help="Write an HTML report of a run.")
@click.argument("run", type=PATH)
def report(run: Path) -> None:
    """Write report.html into the directory RUN: curves, validation pictures, disk use, settings.

    A training run does this when it ends; use this command while it is still running, or after it was killed.

    Example: darkprep report runs/2026-01-31T18-00-00
    """
    from darkprep.report.run_page import write_run_report

    echo(str(write_run_report(run)))


@click.command(short_help="Measure this machine and suggest settings.")
@pair_options
@root_option
@click.option(
    "--spool", type=SPOOL_LOCATION, default=Path("spool"), show_default=True, metavar="DIR",
    help="Directory where the spool will be; its disk is measured, and no files remain.",
)  # fmt: skip
@click.option(
    "--model", default=TrainConfig.model, show_default=True, metavar="NAME",
    help=f"Network to train: {NETWORKS}.",
)  # fmt: skip
@device_option
@precision_option
@click.option(
    "--batch-size", type=_POSITIVE, default=TrainConfig.batch_size, show_default=True, metavar="N",
    help="Samples per iteration.",
)  # fmt: skip
@crop_option
@shard_options
@target_option
@click.option(
    "--iterations", type=_POSITIVE, default=TrainConfig.iterations, show_default=True, metavar="N",
    help="Number of iterations for which the time is predicted.",
)  # fmt: skip
@jobs_option(
    "Number of worker processes.",
    "all CPUs of the process; with --machine, all its cores",
    lambda: None,
)
@reuse_option
@disk_budget_option
@click.option(
    "--machine",
    metavar="NAME|CORES,GPU,DISK",
    help="Measure nothing, and compare three ways to feed the training run on the described machine: v100 (8 cores, 100 GB), h200 (16 cores, 100 GB), or for example 16,h200,2TB. The GPU is v100, h200 or a pace such as 250/s, in samples that it trains per second.",
)
@click.option(
    "--price-per-hour",
    type=FiniteRange(min=0),
    metavar="PRICE",
    help="Price of the machine of --machine for an hour, in any currency; the comparison then has the price of each way.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def advise(
    *,
    camera: str | None,
    pairs: Path | None,
    layout: str | None,
    root: Path,
    spool: Path | StoreUrl,
    model: str,
    device: str,
    precision: Precision,
    batch_size: int,
    crop: int | None,
    samples_per_shard: int,
    crops_per_visit: int,
    sample_target: Target,
    iterations: int,
    jobs: int,
    reuse: int,
    disk_budget: int | None,
    machine: str | None,
    price_per_hour: float | None,
    as_json: bool,
) -> None:
    """Measure this machine for about a minute, predict the speed of training and suggest settings.

    Decoding, developing, cropping, writing, reading and training are measured with the same code as in a
    real run, on your photographs or, if a data set is not there, on synthetic ones. The command prints samples per
    second, the time that the GPU waits for data, hours, bytes written, and values for --jobs, --reuse and
    --disk-budget.

    With --machine, nothing is measured: the command compares streaming by darkprep, writing all samples first, and a
    DataLoader that decodes each sample, by hours and bytes, from the figures of docs/benchmarks.md.

    Example: darkprep advise --camera sony --iterations 1000000

    Example: darkprep advise --camera sony --machine 8,v100,100GB --price-per-hour 2.50
    """
    if machine is None and price_per_hour is not None:
        raise OptionError("--price-per-hour can be used only with --machine; add --machine")
    if isinstance(spool, StoreUrl):
        raise OptionError(
            f"spool {spool}: only a local disk can be measured; give --spool the local directory that you will use as --staging"
        )
    prepare_torch()
    from darkprep.jobs.advise import AdviseOptions, advice_lines, advice_record, advise as measure
    from darkprep.jobs.gpus import unused_gpu

    origin = PairOrigin(
        root=root, camera=check_camera(camera, pairs, layout), table=pairs, layout=layout
    )
    plan = PlanOptions(
        camera=origin.label,
        target=sample_target,
        crop=crop,
        samples_per_shard=samples_per_shard,
        crops_per_visit=crops_per_visit,
        epochs=None,
    )
    config = TrainConfig(
        model=model,
        device=device,
        precision=precision,
        batch_size=batch_size,
        iterations=iterations,
        reuse=reuse,
    )
    options = AdviseOptions(
        plan=plan,
        config=config,
        root=root,
        pairs=pairs,
        layout=layout,
        spool=spool,
        jobs=jobs,
        disk_budget=disk_budget,
    )
    if machine is not None:
        _compare(options, machine, price_per_hour, as_json=as_json)
        return
    hint = unused_gpu()
    if hint:
        echo(f"darkprep: {hint}", err=True)
    with Progress(quiet=as_json) as progress:
        advice = measure(options, lambda text: progress.show(text, always=True))
    if as_json:
        echo(json.dumps(advice_record(advice), indent=1))
    else:
        echo("\n".join(advice_lines(advice)))


def _compare(
    options: AdviseOptions, machine: str, price_per_hour: float | None, *, as_json: bool
) -> None:
    from darkprep.jobs.advise import advice_lines, advice_record
    from darkprep.jobs.feeding_ways import advise_for_machine, way_lines
    from darkprep.jobs.machines import machine_from_text

    described = machine_from_text(machine, lambda text: SIZE.convert(text, None, None))
    advice, ways = advise_for_machine(options, described)
    if as_json:
        record = advice_record(advice) | {"ways": [asdict(one) for one in ways]}
        echo(json.dumps(record, indent=1))
    else:
        lines = way_lines(ways, described.disk_bytes, price_per_hour)
        echo("\n".join([*advice_lines(advice), *lines]))
