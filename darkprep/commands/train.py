"""`stream-train`: trains on a spool while producers fill it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from darkprep.commands.options import (
    device_option,
    output_options,
    precision_option,
    spool_option,
    staging_budget_option,
    staging_option,
)
from darkprep.commands.parameters import COUNT_OR_AUTO, PATH, FiniteRange
from darkprep.commands.torch_setup import prepare_torch
from darkprep.jobs.background import stop_on_signals
from darkprep.shards.remote.url import StoreUrl
from darkprep.trainer.config import (
    AUGMENT_MODES,
    RANK_TIMEOUT_S,
    AugmentMode,
    Precision,
    TrainConfig,
)
from darkprep.view.live import LogFormat, Progress
from darkprep.view.numbers import format_bytes, format_count

_POSITIVE = click.IntRange(min=1)


@click.command("stream-train", short_help="Train on a spool while it is being filled.")
@spool_option
@click.option(
    "--run", "--run-dir", "run_dir", type=PATH, show_default="runs/<time>", metavar="DIR",
    help="Directory for the run's files. Under torchrun, which has a --run of its own, write --run-dir.",
)  # fmt: skip
@click.option(
    "--iterations", type=_POSITIVE, default=TrainConfig.iterations, show_default=True, metavar="N",
    help="Number of iterations in total.",
)  # fmt: skip
@click.option(
    "--batch-size", type=_POSITIVE, default=TrainConfig.batch_size, show_default=True, metavar="N",
    help="Samples per iteration, over all ranks together.",
)  # fmt: skip
@click.option(
    "--model", default=TrainConfig.model, show_default=True, metavar="NAME",
    help="Network: redirt, redirt-2rdb, redirt-gn or sid.",
)  # fmt: skip
@device_option
@precision_option
@click.option(
    "--learning-rate", type=FiniteRange(0, 1, min_open=True, max_open=True),
    default=TrainConfig.learning_rate, show_default=True, metavar="RATE",
    help="Learning rate of the first half of the iterations; the second half has a tenth of it.",
)  # fmt: skip
@click.option(
    "--reuse", type=_POSITIVE, default=TrainConfig.reuse, show_default=True, metavar="N",
    help="How often each shard is used before it is deleted.",
)  # fmt: skip
@click.option(
    "--augment", type=click.Choice(AUGMENT_MODES), default=TrainConfig.augment, show_default=True,
    help="Flips and shifts that keep the CFA pattern (cfa), the published flips (paper), or none.",
)  # fmt: skip
@click.option(
    "--keep-shards", is_flag=True,
    help="Delete no shard; use the shards of the plan again and again.",
)  # fmt: skip
@click.option(
    "--producers", type=COUNT_OR_AUTO, default="auto", show_default=True, metavar="auto|N",
    help="If no producer runs, start one with N worker processes; auto: as many as build used; 0: start none.",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Continue the run in --run, or the newest run.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=TrainConfig.seed, show_default=True, metavar="N",
    help="Seed of all random choices.",
)  # fmt: skip
@click.option(
    "--checkpoint-every", type=_POSITIVE, default=TrainConfig.checkpoint_every, show_default=True, metavar="N",
    help="Iterations between checkpoints.",
)  # fmt: skip
@click.option(
    "--log-every", type=_POSITIVE, default=TrainConfig.log_every, show_default=True, metavar="N",
    help="Iterations per line of metrics.jsonl.",
)  # fmt: skip
@click.option(
    "--evaluate-every", type=click.IntRange(min=0), show_default="at each checkpoint", metavar="N",
    help="Iterations between evaluations on a few validation frames; 0 for none.",
)  # fmt: skip
@click.option(
    "--parts", type=_POSITIVE, default=TrainConfig.parts, show_default=True, metavar="N",
    help="Read a spool that holds the whole plan in the sample order of N nodes that each hold one part (docs/scale.md).",
)  # fmt: skip
@click.option(
    "--rank-timeout", type=FiniteRange(min=0, min_open=True), default=RANK_TIMEOUT_S, show_default=True,
    metavar="SECONDS", help="How long a rank waits for another that does not answer.",
)  # fmt: skip
@staging_budget_option
@staging_option
@output_options
def stream_train(
    *,
    spool: Path | StoreUrl,
    run_dir: Path | None,
    iterations: int,
    batch_size: int,
    model: str,
    device: str,
    precision: Precision,
    learning_rate: float,
    reuse: int,
    augment: AugmentMode,
    keep_shards: bool,
    producers: int | None,
    resume: bool,
    seed: int,
    checkpoint_every: int,
    log_every: int,
    evaluate_every: int | None,
    parts: int,
    rank_timeout: float,
    staging_budget: int | None,
    staging: Path | None,
    quiet: bool,
    log_format: LogFormat,
) -> None:
    """Train on a spool's shards and delete each one after use; start a producer if none is running.

    Ctrl-C and SIGTERM write a checkpoint and end the training; with --resume it continues with the
    next sample.

    On several GPUs: torchrun --nproc-per-node 4 -m darkprep stream-train ... (docs/scale.md).

    Example: darkprep stream-train --spool spool --iterations 100000 --device cuda --precision bf16
    """
    prepare_torch()
    from darkprep.jobs.remote_training import spool_to_train_on
    from darkprep.jobs.train import TrainOptions, stream_training
    from darkprep.trainer.distributed import communicator_from

    stop = stop_on_signals()
    with communicator_from(os.environ, rank_timeout) as communicator:
        quiet = quiet or communicator.rank > 0
        local, remote = spool_to_train_on(
            spool, staging=staging, staging_budget=staging_budget, ranks=communicator, stop=stop
        )
        with communicator.fail_together():
            config = TrainConfig(
                model=model,
                iterations=iterations,
                batch_size=batch_size,
                learning_rate=learning_rate,
                precision=precision,
                device=device,
                reuse=reuse,
                augment=augment,
                seed=seed,
                checkpoint_every=checkpoint_every,
                log_every=log_every,
                parts=parts,
            )
            options = TrainOptions(
                spool=local,
                remote=remote,
                config=config,
                run_dir=run_dir,
                resume=resume,
                keep_shards=keep_shards,
                producers=producers,
                evaluate_every=evaluate_every,
            )
        with Progress(quiet=quiet, log_format=log_format) as progress:
            run_dir, summary = stream_training(options, progress, stop, communicator=communicator)
    if communicator.rank > 0:
        return
    if log_format == "json":
        progress.event("summary", run=str(run_dir), **vars(summary))
    elif not quiet:
        click.echo(
            f"{summary.ended} after {format_count(summary.iterations, 'iteration')}, loss {_loss(summary.first_loss)} -> {_loss(summary.last_loss)}, "
            f"{summary.samples_per_second:.1f} samples/s, waited for data {summary.data_wait_fraction:.1%} of the time, "
            f"{format_count(summary.shards_deleted, 'shard')} deleted, spool at most {format_bytes(summary.peak_disk_bytes)}"
        )
        click.echo(summary.limiting_side)
        click.echo(f"run in {run_dir}")


def _loss(value: float | None) -> str:
    return "?" if value is None else f"{value:.4f}"
