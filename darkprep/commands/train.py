"""The command `stream-train`: train on a spool while producers fill it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from darkprep.commands.echo import echo
from darkprep.commands.options import (
    NETWORKS,
    device_option,
    output_options,
    precision_option,
    reuse_option,
    spool_option,
    staging_budget_option,
    staging_option,
)
from darkprep.commands.parameters import COUNT_OR_AUTO, PATH, FiniteRange
from darkprep.commands.torch_setup import prepare_torch
from darkprep.jobs.background import stop_on_signals
from darkprep.shards.remote.url import StoreUrl
from darkprep.trainer.config import AUGMENT_MODES, RANK_TIMEOUT_S, TrainConfig
from darkprep.view.live import LogFormat, Progress
from darkprep.view.numbers import format_bytes, format_count

if TYPE_CHECKING:
    from darkprep.jobs.resume import RunChoice
    from darkprep.trainer.communicator import Communicator
    from darkprep.trainer.records import RunSummary

_POSITIVE = click.IntRange(min=1)
_REPEATED = ("spool", "root", "producers", "rank_timeout", "staging_budget", "staging")
"""Options that a run's directory does not record."""


@click.command("stream-train", short_help="Train on a spool while it is being filled.")
@spool_option
@click.option(
    "--run", "--run-dir", "run_dir", type=PATH, show_default="runs/<time>", metavar="DIR",
    help="Directory for the run's files. Under torchrun, which has its own option --run, write --run-dir.",
)  # fmt: skip
@click.option(
    "--root", type=PATH, show_default="that of build on this machine", metavar="DIR",
    help="Directory of the photographs, for a spool that was built on another machine or by someone else.",
)  # fmt: skip
@click.option(
    "--iterations", type=_POSITIVE, default=TrainConfig.iterations, show_default=True, metavar="N",
    help="Total number of iterations.",
)  # fmt: skip
@click.option(
    "--batch-size", type=_POSITIVE, default=TrainConfig.batch_size, show_default=True, metavar="N",
    help="Samples per iteration, over all ranks together.",
)  # fmt: skip
@click.option(
    "--model", default=TrainConfig.model, show_default=True, metavar="NAME|MODULE:CLASS",
    help=f"Network: {NETWORKS}. Or your own: package.module:Class, imported from the working directory (docs/extending.md).",
)  # fmt: skip
@click.option(
    "--loss", default=TrainConfig.loss, show_default=True, metavar="NAME|MODULE:FUNCTION",
    help="Loss: the published one of REDIRT for the target srgb and L1 for linear and raw (default), or your own: package.module:function.",
)  # fmt: skip
@device_option
@precision_option
@click.option(
    "--learning-rate", type=FiniteRange(0, 1, min_open=True, max_open=True),
    default=TrainConfig.learning_rate, show_default=True, metavar="RATE",
    help="Learning rate for the first half of the iterations; the second half uses a tenth of it.",
)  # fmt: skip
@reuse_option
@click.option(
    "--augment", type=click.Choice(AUGMENT_MODES), default=TrainConfig.augment, show_default=True,
    help="Flips and shifts that keep the CFA pattern (cfa), the published flips (paper), or none.",
)  # fmt: skip
@click.option(
    "--shot-noise", type=FiniteRange(min=0, max=100), default=TrainConfig.shot_noise, show_default=True, metavar="SHARE",
    help="Add a random amount of light to each short exposure, up to SHARE times its own (0.5: half as much again), with the shot noise of that light, as PMN does. Needs a spool of --target raw, and --full-scale-electrons.",
)  # fmt: skip
@click.option(
    "--full-scale-electrons", type=FiniteRange(min=0), default=TrainConfig.full_scale_electrons, show_default=True, metavar="N",
    help="Electrons from black to white at ISO 100, for --shot-noise; darkprep calibrate prints them.",
)  # fmt: skip
@click.option(
    "--noise-map", default=TrainConfig.noise_map, show_default="none", metavar="auto|CAMERA|FILE.json",
    help="Train a network that reads the noise level of each value as further input planes, so that one network serves all ISO values and cameras. The levels are those of the noise with which the spool was built, else of each sample's camera, if darkprep has its noise (auto); of a CAMERA whose noise darkprep has; or of a FILE.json of darkprep calibrate.",
)  # fmt: skip
@click.option(
    "--keep-shards", is_flag=True,
    help="Delete no shards; at the end of the plan, begin again with its first shard.",
)  # fmt: skip
@click.option(
    "--read-only", is_flag=True,
    help="Change nothing in the spool and take no lock, so that any number of training runs can read it. Needs --keep-shards.",
)  # fmt: skip
@click.option(
    "--producers", type=COUNT_OR_AUTO, default="auto", show_default=True, metavar="auto|N",
    help="Number of worker processes of the producer that is started if none is running; 0 starts no producer. auto: as many as build used; when training on a GPU, at most the number of CPU cores minus two.",
)  # fmt: skip
@click.option(
    "--resume", is_flag=True,
    help="Continue the run in --run, or the newest run, with its own settings except those given here; if there is no run, start one.",
)  # fmt: skip
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
    help="Iterations between lines of metrics.jsonl.",
)  # fmt: skip
@click.option(
    "--evaluate-every", type=click.IntRange(min=0), show_default="at each checkpoint", metavar="N",
    help="Iterations between evaluations on a few validation frames; 0 for none.",
)  # fmt: skip
@click.option(
    "--parts", type=_POSITIVE, default=TrainConfig.parts, show_default=True, metavar="N",
    help="For one machine: use the samples in the order in which N machines, each with one part of the plan, would use them (docs/scale.md).",
)  # fmt: skip
@click.option(
    "--rank-timeout", type=FiniteRange(min=0, min_open=True), default=RANK_TIMEOUT_S, show_default=True,
    metavar="SECONDS", help="Seconds that a rank waits for another rank's answer before it stops.",
)  # fmt: skip
@staging_budget_option
@staging_option
@output_options
@click.pass_context
def stream_train(
    ctx: click.Context,
    /,
    *,
    spool: Path | StoreUrl,
    run_dir: Path | None,
    root: Path | None,
    read_only: bool,
    producers: int | None,
    resume: bool,
    rank_timeout: float,
    staging_budget: int | None,
    staging: Path | None,
    quiet: bool,
    log_format: LogFormat,
    **settings: Any,
) -> None:
    """Train on a spool's shards and delete each one after use; start a producer (a `darkprep build` in the background) if none is running.

    After Ctrl-C or SIGTERM a checkpoint is written and training ends; --resume continues it with the
    next sample. A run that ends early prints the command that continues it.

    On several GPUs: torchrun --nproc-per-node 4 -m darkprep stream-train ... (docs/scale.md).

    Example: darkprep stream-train --spool spool --iterations 100000 --device cuda --precision bf16
    """
    prepare_torch()
    from darkprep.jobs.own_code import import_loss, import_network
    from darkprep.jobs.remote_training import spool_to_train_on
    from darkprep.jobs.resume import choose_run
    from darkprep.jobs.train import stream_training
    from darkprep.jobs.train_options import TrainOptions
    from darkprep.trainer.distributed import communicator_from

    stop = stop_on_signals()
    given = frozenset(name for name in settings if _is_given(ctx, name))
    if read_only:
        settings, given = settings | {"keep_shards": True}, given | {"keep_shards"}
    with communicator_from(os.environ, rank_timeout) as communicator:
        quiet = quiet or communicator.rank > 0
        run = choose_run(run_dir, settings, given, communicator, resume=resume)
        command = _resume_command(ctx, run, communicator)
        with Progress(quiet=quiet, log_format=log_format) as progress:
            if run.is_finished:
                progress.print(*run.messages, event="finished")
                return
            local, remote = spool_to_train_on(
                spool,
                staging=staging,
                staging_budget=staging_budget,
                ranks=communicator,
                stop=stop,
                root=root,
                read_only=read_only,
            )
            with communicator.fail_together():
                options = TrainOptions(
                    spool=local,
                    remote=remote,
                    config=run.config,
                    network=import_network(run.config.model),
                    loss=import_loss(run.config.loss),
                    run_dir=run.run_dir,
                    resume=run.resume,
                    messages=run.messages,
                    producers=producers,
                    read_only=read_only,
                    resume_command=command,
                )
            summary = stream_training(options, progress, stop, communicator=communicator)
    if log_format == "json":
        progress.event("summary", run=str(run.run_dir), command=command, **vars(summary))
    elif not quiet:
        _print_summary(summary, run.run_dir, command)


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _resume_command(ctx: click.Context, run: RunChoice, communicator: Communicator) -> str:
    """Return the command that continues this run, with the options that the run's directory does not record."""
    words = ["darkprep", "stream-train", "--resume", "--run", str(run.run_dir)]
    if communicator.world > 1:
        nodes = communicator.world // communicator.local_world
        start = ["torchrun", *(["--nnodes", str(nodes), "..."] if nodes > 1 else [])]
        start += ["--nproc-per-node", str(communicator.local_world), "-m"]
        words = [*start, *words[:-2], "--run-dir", str(run.run_dir)]
    for option, name in (("--model", run.config.model), ("--loss", run.config.loss)):
        words += [option, name] if ":" in name else []
    words += ["--read-only"] if ctx.params["read_only"] else []
    for name in _REPEATED:
        value = ctx.params[name]
        if _is_given(ctx, name):
            words += ["--" + name.replace("_", "-"), "auto" if value is None else str(value)]
    return shlex.join(words)


def _print_summary(summary: RunSummary, run_dir: Path, command: str) -> None:
    echo(
        f"{summary.ended} after {format_count(summary.iterations, 'iteration')}, loss {_loss(summary.first_loss)} -> {_loss(summary.last_loss)}, "
        f"{summary.samples_per_second:.1f} samples/s, waited for data {summary.data_wait_fraction:.1%} of the time, "
        f"{format_count(summary.shards_deleted, 'shard')} deleted, largest size of the spool {format_bytes(summary.peak_disk_bytes)}"
    )
    validation = _validation_text(summary)
    if validation:
        echo(validation)
    echo(summary.limiting_side)
    echo(f"run in {run_dir}")
    if summary.ended != "finished":
        echo(f"to continue: {command}")


def _validation_text(summary: RunSummary) -> str:
    """Return the scores of the last and the best evaluation on validation frames; empty if there were none."""
    psnr, ssim, best = (
        summary.validation_psnr,
        summary.validation_ssim,
        summary.best_validation_psnr,
    )
    if psnr is None or ssim is None or best is None:
        return ""
    when = format_count(summary.best_validation_iteration or 0, "iteration")
    return f"validation PSNR {psnr:.2f} dB, SSIM {ssim:.3f}; best PSNR {best:.2f} dB after {when}"


def _loss(value: float | None) -> str:
    return "?" if value is None else f"{value:.4f}"
