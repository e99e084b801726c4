"""The command `study`: make a table of several training runs and evaluations."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from darkprep.commands.echo import echo
from darkprep.commands.options import (
    device_option,
    jobs_option,
    precision_option,
    root_option,
    seed_option,
)
from darkprep.commands.parameters import PATH, SIZE
from darkprep.commands.torch_setup import prepare_torch
from darkprep.jobs.background import stop_on_signals
from darkprep.pipeline.pairs.folders import LAYOUTS
from darkprep.trainer.config import Precision
from darkprep.view.live import Progress


@click.command(short_help="Make a table of several training runs and evaluations.")
@click.argument("name", metavar="NAME")
@root_option
@click.option(
    "--pairs", type=PATH, metavar="FILE.csv",
    help="CSV table of your own pairs, for section-7 and targets.",
)  # fmt: skip
@click.option(
    "--layout", type=click.Choice(LAYOUTS),
    help="Find your own pairs in folders below --root, for section-7 and targets.",
)  # fmt: skip
@click.option(
    "--out", type=PATH, default=Path("studies"), show_default=True, metavar="DIR",
    help="Directory for runs, scores and tables; studies in the same directory share training runs.",
)  # fmt: skip
@click.option(
    "--small", is_flag=True,
    help="Use synthetic photographs and short training runs, which take minutes on two CPU cores.",
)  # fmt: skip
@click.option(
    "--iterations", type=click.IntRange(min=1), metavar="N",
    show_default="as published; 3500 with --small, for noise 1500, for targets 1000",
    help="Number of iterations of each training run.",
)  # fmt: skip
@device_option
@precision_option
@jobs_option(
    "Number of worker processes that make the shards of a training run.",
    show_default="all CPUs of the process; 1 with --small",
)
@click.option(
    "--disk-budget", type=SIZE, metavar="SIZE",
    show_default="20GB, at most half of the free space; 250MB with --small",
    help="Maximum size of each training run's spool.",
)  # fmt: skip
@click.option(
    "--xtrans", "fuji_xtrans", type=click.Choice(("rggb", "plain")), default="rggb", show_default=True,
    help="How section-5 feeds Fuji's X-Trans mosaic to a network that also reads Bayer cameras.",
)  # fmt: skip
@click.option(
    "--weights", type=PATH, metavar="FILE",
    help="For the study levels: trained weights to use instead of training a network.",
)  # fmt: skip
@seed_option
@click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
def study(
    *,
    name: str,
    root: Path,
    pairs: Path | None,
    layout: str | None,
    out: Path,
    small: bool,
    iterations: int | None,
    device: str,
    precision: Precision,
    jobs: int,
    disk_budget: int | None,
    fuji_xtrans: str,
    weights: Path | None,
    seed: int,
    quiet: bool,
) -> None:
    """Run the study NAME: section-5, section-7, levels, x-trans, noise or targets.

    \b
    section-5  train on Sony and on Fuji, once with all scenes and once with a fifth of them; test on three more cameras
    section-7  train the standard network, one with one block fewer, and two with group normalisation
    levels     decode photographs of four cameras with the published black and white levels and with those of the files
    x-trans    feed an X-Trans camera to a network in three ways
    noise      train on photographed short exposures and on ones made with a noise model
    targets    train towards sRGB, linear camera RGB and RAW; score all in sRGB and in RAW

    Sections 5 and 7 are those of the REDIRT paper (Lamba and Mitra, CVPR 2021).

    If it is stopped or killed, the same command continues it; several processes may share one --out.

    Example: darkprep study section-7 --small
    """
    prepare_torch()
    from darkprep.studies.catalogue import run_study
    from darkprep.studies.options import SMALL_BUDGET_BYTES, SmallRun, StudyOptions
    from darkprep.studies.task_kinds import ExecutionOptions
    from darkprep.studies.tasks import StudyContext

    jobs_given = click.get_current_context().get_parameter_source("jobs")
    if small and jobs_given is ParameterSource.DEFAULT:
        jobs = 1
    if small and disk_budget is None:
        disk_budget = SMALL_BUDGET_BYTES
    options = StudyOptions(
        out=out,
        root=root,
        pairs=pairs,
        layout=layout,
        small=SmallRun() if small else None,
        iterations=iterations,
        execution=ExecutionOptions(
            device=device, precision=precision, jobs=jobs, disk_budget=disk_budget
        ),
        fuji_xtrans=fuji_xtrans,
        weights=weights,
        seed=seed,
    )
    with Progress(quiet=quiet) as progress:
        context = StudyContext(
            out=out, root=options.data_root(), progress=progress, stop=stop_on_signals()
        )
        page = run_study(name, options, context)
    if not quiet:
        echo((page.parent / "table.md").read_text(encoding="utf-8"), nl=False)
        echo(f"\n{page}")
