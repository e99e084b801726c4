"""The command `build`: make shards from RAW pairs, in this process or in the background."""

from __future__ import annotations

import threading
from pathlib import Path

import click

from darkprep.commands.options import (
    build_budget_option,
    check_camera,
    crop_option,
    dark_shading_option,
    epochs_ahead_option,
    exclude_misaligned_option,
    executor_options,
    frames_directory_options,
    frames_option,
    jobs_option,
    multiplier_option,
    output_options,
    pair_options,
    root_option,
    seed_option,
    shard_options,
    shrink_option,
    split_option,
    spool_option,
    staging_budget_option,
    staging_option,
    target_option,
    xtrans_option,
)
from darkprep.commands.output import print_skipped
from darkprep.commands.parameters import COUNT_OR_INF, PART, PATH, FiniteRange
from darkprep.jobs import background
from darkprep.jobs.build import BuildOptions, PreparedBuild, find_own_pairs, prepare_build
from darkprep.jobs.calibrate import noise_options
from darkprep.jobs.produce import create_producer, worker_started_early
from darkprep.jobs.remote_spool import BuildSpool
from darkprep.pipeline.noise.calibrations import CALIBRATIONS
from darkprep.pipeline.pairs.origin import PairOrigin
from darkprep.pipeline.pairs.table import Frames
from darkprep.pipeline.plan.options import DEFAULT_MARGIN, PlanOptions
from darkprep.pipeline.produce.executors.config import ExecutorConfig
from darkprep.pipeline.raw.amplify import DEFAULT_MULTIPLIER
from darkprep.shards import Target
from darkprep.shards.remote.url import StoreUrl
from darkprep.view.live import LogFormat, Progress
from darkprep.view.numbers import format_bytes, format_count, format_duration

_DEFAULT_MARGINS = "{bayer}, X-Trans {xtrans}".format(**DEFAULT_MARGIN)


@click.command(short_help="Make shards from RAW pairs, under a disk budget.")
@pair_options
@click.option(
    "--fraction", type=FiniteRange(0, 1, min_open=True), default=PlanOptions.fraction,
    show_default=True, metavar="F", help="Share of the scenes to use.",
)  # fmt: skip
@root_option
@spool_option
@build_budget_option
@shrink_option
@jobs_option(
    "Number of worker processes.",
    show_default="all CPUs of the process, fewer where memory is short",
    default=lambda: None,
)
@click.option(
    "--epochs", type=COUNT_OR_INF, default=PlanOptions.epochs, show_default=True, metavar="N|inf",
    help="Number of times that each pair is used; inf for no end.",
)  # fmt: skip
@epochs_ahead_option
@seed_option
@crop_option
@click.option(
    "--margin", type=click.IntRange(min=0), show_default=_DEFAULT_MARGINS, metavar="PX",
    help="Pixels stored around each crop, for shifts and flips.",
)  # fmt: skip
@shard_options
@click.option(
    "--window", type=click.IntRange(1, 4096), default=PlanOptions.window, show_default=True,
    metavar="N", help="Number of consecutive shards whose samples a trainer mixes.",
)  # fmt: skip
@click.option(
    "--amplify", default=PlanOptions.amplify, show_default=True, metavar="ratio|estimate|FACTOR",
    help="Amplify short exposures by the exposure ratio (ratio), by a factor estimated from the brightness as in REDIRT (estimate), or by a constant FACTOR.",
)  # fmt: skip
@multiplier_option
@frames_option
@exclude_misaligned_option
@split_option(PlanOptions.split)
@xtrans_option
@target_option
@click.option(
    "--noise", metavar="CAMERA|FILE.json|DIR",
    help=f"Simulate short exposures from the long ones, with the noise of CAMERA ({', '.join(CALIBRATIONS)}), of the camera measured in FILE.json (written by darkprep calibrate), "
    "or of the dark frames in DIR. Photographed short exposures are then not needed.",
)  # fmt: skip
@click.option(
    "--shot-noise", type=PATH, metavar="FILE.json", show_default="K drawn at random between those of the known cameras",
    help="With dark frames as --noise: file of darkprep calibrate whose gain K gives the shot noise.",
)  # fmt: skip
@dark_shading_option
@click.option(
    "--lmdb", metavar="NAME",
    help="Use the training patches that ELD's authors published, instead of RAW files: SID_Sony stands for the LMDB files SID_Sony_input_Raw.db and SID_Sony_target_Raw.db below --root. If --noise is given, only long exposures are read, from SID_Sony_Raw.db.",
)  # fmt: skip
@click.option(
    "--part", type=PART, metavar="n/N", default="0/1", show_default="all",
    help="Make only shards n, n + N, n + 2N ... of the plan, as one of N machines; n is 0 to N - 1 (docs/scale.md).",
)  # fmt: skip
@frames_directory_options
@staging_budget_option
@staging_option
@executor_options
@click.option(
    "--background", "in_background", is_flag=True,
    help="Run in the background and return at once; see darkprep status and darkprep stop.",
)  # fmt: skip
@output_options
def build(
    *,
    camera: str | None,
    pairs: Path | None,
    layout: str | None,
    fraction: float,
    root: Path,
    spool: Path | StoreUrl,
    disk_budget: int | None,
    shrink: bool,
    jobs: int | None,
    epochs: int | None,
    epochs_ahead: int | None,
    seed: int,
    crop: int | None,
    margin: int | None,
    samples_per_shard: int,
    crops_per_visit: int,
    window: int,
    amplify: str,
    multiplier: float | None,
    frames: Frames,
    exclude_misaligned: bool,
    split: str,
    xtrans: str,
    sample_target: Target,
    noise: str | None,
    shot_noise: Path | None,
    dark_shading: Path | None,
    lmdb: str | None,
    part: tuple[int, int],
    frames_dir: Path | None,
    frames_budget: int | None,
    staging_budget: int | None,
    staging: Path | None,
    backend: str,
    address: str | None,
    in_background: bool,
    quiet: bool,
    log_format: LogFormat,
) -> None:
    """Decode, develop, crop and amplify RAW pairs into shards, which a trainer uses and deletes.

    The command writes the plan first (which crops of which pairs are in which shard) and then, as a producer, the shards. It
    ends when every pair has been written into shards --epochs times. If the disk budget cannot hold all shards, it
    waits until a trainer has used some. While no trainer is running, it also waits after --epochs-ahead epochs. Started again, it
    continues where it stopped.

    Example: darkprep build --camera sony --fraction 0.2 --disk-budget 20GB
    """
    if amplify == "estimate" and multiplier is None:
        multiplier = DEFAULT_MULTIPLIER
    origin = PairOrigin(
        root=root, camera=check_camera(camera, pairs, layout), table=pairs, layout=layout
    )
    plan = PlanOptions(
        camera=origin.label,
        split=split,
        fraction=fraction,
        seed=seed,
        epochs=epochs,
        crop=crop,
        margin=margin,
        samples_per_shard=samples_per_shard,
        crops_per_visit=crops_per_visit,
        window=window,
        amplify=amplify,
        multiplier=multiplier,
        frames=frames,
        exclude_misaligned=exclude_misaligned,
        xtrans=xtrans,
        target=sample_target,
        lmdb=lmdb,
        **noise_options(noise, shot_noise, dark_shading),
    )
    executor = ExecutorConfig(backend=backend, address=address)
    executor.check_installed()
    stop = threading.Event()
    target = BuildSpool.at(spool, staging, stop)
    options = BuildOptions(
        origin=origin,
        plan=plan,
        target=target,
        executor=executor,
        darks=Path(noise) if noise and plan.sampled_darks else None,
        dark_shading=dark_shading,
        disk_budget=disk_budget,
        staging_budget=staging_budget,
        frames_dir=frames_dir,
        frames_budget=frames_budget,
        shrink=shrink,
        jobs=jobs,
        epochs_ahead=epochs_ahead,
        part=part,
    )
    found = find_own_pairs(options)
    worker = worker_started_early(executor, in_background=in_background)
    click.get_current_context().with_resource(worker)
    prepared = prepare_build(options, found)
    progress = Progress(quiet=quiet, log_format=log_format)
    progress.print(_summary(prepared), event="plan")
    if jobs is None:
        progress.print(
            f"{format_count(prepared.jobs.count, 'worker')}, limited by {prepared.jobs.bound}; --jobs sets another number"
        )
    if not quiet:
        print_skipped(prepared.plan.skipped)
    if in_background:
        config = prepared.producer
        process = background.start_producer(
            target.spool,
            jobs=config.jobs,
            budget_bytes=config.budget_bytes,
            until=config.until,
            executor=executor,
            location=target.producer_options(),
            epochs_ahead=config.epochs_ahead,
            shrink=config.shrink,
        )
        progress.print(
            f"producing in the background (pid {process.pid}), log in {background.log_path(target.spool)}; stop it with `darkprep stop`"
        )
        return
    title = f"darkprep build · {origin.label}"
    producer = create_producer(target, prepared.producer, progress, executor, stop)
    try:
        with progress, progress.monitor(target.status, title=title):
            final = producer.run()
    finally:
        print_skipped(producer.skipped)
    progress.print(
        f"{final.state}: {format_count(final.shards_made or 0, 'shard')} made in {format_duration(final.running_s or 0)} ({final.mb_per_s:.1f} MB/s), {final.shards_ready} ready, "
        f"{format_count(final.frames_decoded or 0, 'frame')} decoded, spool {format_bytes(final.disk_bytes or 0)} of {format_bytes(final.budget_bytes or 0)}",
        event="summary",
    )


def _summary(prepared: PreparedBuild) -> str:
    plan = prepared.plan
    shard_bytes = plan.stream.layout().shard_bytes
    scenes = len({pair.pair.scene for pair in plan.pairs})
    total = (
        "no end"
        if plan.shards is None
        else f"{format_count(plan.shards, 'shard')}, {format_bytes(plan.shards * shard_bytes)}"
    )
    return (
        f"{plan.options.camera}: {format_count(len(plan.pairs), 'pair')} of {format_count(scenes, 'scene')}, {total}; "
        f"{plan.options.samples_per_shard} samples or {format_bytes(shard_bytes)} per shard; disk budget {format_bytes(prepared.budget_bytes)}"
    )
