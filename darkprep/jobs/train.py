"""Train on a spool: connect the trainer, its reader, a producer, the live view and the report.

The trade-off: the trainer takes batches from any reader, and producers work for any trainer; only this
module connects them.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from darkprep.jobs.background import Supervisor
from darkprep.jobs.gpus import check_gpu
from darkprep.jobs.placement import (
    RankPlacement,
    check_memory,
    check_ranks,
    check_room,
    own_device,
    rank_placement,
)
from darkprep.jobs.remote_training import BackgroundDownload
from darkprep.jobs.run_directory import check_run_directory
from darkprep.jobs.train_options import TrainOptions
from darkprep.jobs.validation import ValidationFrames
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.budget import default_budget
from darkprep.pipeline.produce.default_jobs import usable_cpus
from darkprep.pipeline.raw.camera_colours import cameras_from_text, cameras_to_text
from darkprep.report.provenance import FILE as PROVENANCE_FILE, run_provenance
from darkprep.report.run_page import write_run_report
from darkprep.shards import DarkprepError, DatasetError, Spool, SpoolReader
from darkprep.shards.files import write_json
from darkprep.shards.own_settings import are_own_settings
from darkprep.trainer.communicator import Communicator, SingleProcess
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.device import open_device
from darkprep.trainer.loop import Validation, train
from darkprep.trainer.prefetch import Allocate
from darkprep.trainer.records import RunSummary
from darkprep.trainer.run_files import iterations_done
from darkprep.view.history import SpoolHistory
from darkprep.view.live import Progress
from darkprep.view.numbers import format_count
from darkprep.view.read_status import spool_status

log = logging.getLogger(__name__)

TRAINER_CORES = 2
"""Cores for the reader and for launching the GPU's work, which worker processes would otherwise delay."""


def stream_training(
    options: TrainOptions,
    progress: Progress,
    stop: threading.Event,
    *,
    ends_at: float | None = None,
    communicator: Communicator | None = None,
) -> RunSummary:
    """Train on the spool, and start a producer if none is running; return the run's summary.

    `ends_at` is the `time.monotonic()` at which the caller will set `stop`, for the live view. Every rank
    calls this with the same options; only rank 0 writes files and shows progress.
    """
    communicator = communicator or SingleProcess()
    spool = options.spool
    with communicator.fail_together():
        config = options.spool_config(own_device(options.config.device, communicator))
        placement = rank_placement(spool, communicator)
        options.check_batch()
        check_memory(spool, config, communicator)
        device = open_device(config.device)
        supervisor = _supervisor(options, placement, device)
        check_gpu(device)
    check_ranks(spool, config, communicator)
    run_dir = options.run_dir
    frames = _prepare(options, config, device, placement, communicator, progress)
    history = SpoolHistory(run_dir)
    cameras = training_cameras(spool) if communicator.rank == 0 else ""

    def open_reader(start: int, allocate: Allocate | None) -> SpoolReader:
        if communicator.rank == 0:
            history.start()
            write_json(run_dir / PROVENANCE_FILE, run_provenance(spool, device), sync=False)
        if frames:
            frames.start()
        reader = _open_reader(
            options,
            config,
            placement,
            start=start,
            stop=stop,
            allocate=allocate,
            on_starving=None if options.read_only else supervisor.on_missing_shard,
        )
        try:
            started = placement.is_leader and supervisor.ensure_producer()
            if started and not options.remote:
                progress.print("no producer is running, so one was started in the background")
        except BaseException:
            reader.close()
            raise
        return reader

    title = f"darkprep stream-train · {config.model} on {config.camera}"
    with (
        contextlib.closing(supervisor),
        contextlib.closing(frames) if frames else contextlib.nullcontext(),
        progress.monitor(
            lambda: spool_status(spool),
            title=title,
            on_status=history.add if communicator.rank == 0 else None,
        ) as monitor,
    ):
        monitor.set_deadline(ends_at)
        try:
            summary = train(
                config,
                open_reader,
                run_dir,
                network=options.network,
                loss=options.loss,
                resume=options.resume,
                on_step=monitor.set_step,
                stop=stop,
                validation=_validation(options, frames),
                extra_metrics=monitor.gauges,
                communicator=communicator,
                cameras=cameras,
                noise_of=options.noise.samples.of_sample if options.noise else None,
            )
        except BaseException:
            if communicator.rank == 0 and options.resume_command and iterations_done(run_dir):
                progress.print(f"to continue: {options.resume_command}", event="resume")
            raise
    if communicator.rank == 0:
        _write_report(run_dir, progress)
    return summary


def _open_reader(
    options: TrainOptions,
    config: TrainConfig,
    placement: RankPlacement,
    *,
    start: int,
    stop: threading.Event,
    allocate: Allocate | None,
    on_starving: Callable[[int, float], None] | None,
) -> SpoolReader:
    """Open the reader of a rank's part of the batches from batch `start` on; the other arguments are those of SpoolReader."""
    return SpoolReader(
        options.spool,
        batch_size=config.batch_size,
        seed=config.seed,
        start=start,
        stop_after=config.iterations,
        rank=placement.rank,
        world=placement.world,
        parts=options.config.parts,
        endless=options.may_produce,
        drop_last=True,
        reuse=config.reuse,
        keep=config.keep_shards,
        read_only=options.read_only,
        run=str(options.run_dir.absolute()),
        stop=stop,
        allocate=allocate,
        on_starving=on_starving,
        # After the last checkpoint: what it does not cover must not be deleted.
        close_at_end=False,
    )


def _prepare(
    options: TrainOptions,
    config: TrainConfig,
    device: torch.device,
    placement: RankPlacement,
    communicator: Communicator,
    progress: Progress,
) -> ValidationFrames | None:
    """Check that the training run can start; return the validation frames, on rank 0."""
    frames = None
    with communicator.fail_together():
        if placement.is_leader:
            # A second trainer fails here, before it creates its run's directory.
            if options.remote:
                options.remote.check_free()
            if not options.read_only:
                with options.spool.trainer_lock():
                    pass
        if communicator.rank == 0:
            check_run_directory(options.run_dir, options.spool, resume=options.resume)
            frames = _validation_frames(options, device)
            _announce(options, config, device, frames, progress)
    return frames


def _validation_frames(options: TrainOptions, device: torch.device) -> ValidationFrames | None:
    """Return the validation frames.

    None if evaluations are off, there are no photographs for them, or someone else chose their directory.
    """
    if not options.validation_interval:
        return None
    if not are_own_settings(options.spool.plan):
        return None
    try:
        frames = ValidationFrames(
            Plan.load(options.spool),
            options.run_dir,
            device,
            noise=options.noise.frames.of_frame if options.noise else None,
        )
    except DatasetError:
        return None
    return frames if len(frames) else None


def training_cameras(spool: Spool) -> str:
    """Return the colours of the cameras of a spool's photographs as text for the weights file.

    A spool of an older version does not record them; then they are read from the photographs, if this user chose
    their directory. Returns "" if these cannot be read.
    """
    if spool.plan.cameras or not are_own_settings(spool.plan):
        cameras = cameras_from_text(cameras_to_text(spool.plan.cameras))
    else:
        try:
            cameras = Plan.load(spool).cameras
        except DarkprepError:
            return ""
    return cameras_to_text(camera.to_record() for camera in cameras)


def _validation(options: TrainOptions, frames: ValidationFrames | None) -> Validation | None:
    if frames is None:
        return None
    return Validation(every=options.validation_interval, evaluate=frames.evaluate)


def _announce(
    options: TrainOptions,
    config: TrainConfig,
    device: torch.device,
    frames: ValidationFrames | None,
    progress: Progress,
) -> None:
    """Print the settings of the run before it starts."""
    spool, stream = options.spool, options.spool.stream
    validation = (
        f"evaluated on {len(frames)} validation frame{'s' * (len(frames) > 1)} every {options.validation_interval:,} iterations"
        if frames
        else "not evaluated on validation frames"
    )
    if options.validation_interval and not are_own_settings(spool.plan):
        validation += f", as {spool.plan_file} was not written by this user on this machine (--root DIR names the photographs)"
    for text in options.messages:
        progress.print(text, event="resume")
    for text in (
        f"{config.model} on {config.camera}, {config.iterations:,} iterations of "
        f"{config.batch_size} x {config.crop} px, {device}, {config.precision}, run {options.run_dir}",
        f"  learning rate {config.learning_rate:g}, then {config.learning_rate / 10:g}; "
        f"reuse {config.reuse}, augment {config.augment}, seed {config.seed}; "
        f"{f'noise-level map of {config.noise_levels}; ' if config.noise_levels else ''}{validation}",
        f"  plan {spool.digest} in {options.remote.url if options.remote else spool.path}, {stream.samples} samples per shard, "
        f"{'no end' if stream.shards is None else format_count(stream.shards, 'shard')}; "
        f"shards are {'kept' if config.keep_shards else 'deleted after use'}",
    ):
        progress.print(text, event="config")


def _supervisor(
    options: TrainOptions, placement: RankPlacement, device: torch.device
) -> Supervisor | BackgroundDownload:
    spool, remote, until = options.spool, options.remote, options.shards_needed()
    budget_bytes = spool.settings.budget_bytes or default_budget(spool.path)
    check_room(
        spool,
        options.config.parts,
        budget_bytes,
        kept=until if options.config.keep_shards else None,
    )
    if remote:
        until = min(until, spool.stream.shards or until)
        return BackgroundDownload(remote, until=until, is_leader=placement.is_leader)
    jobs = 0 if options.read_only else options.producers
    if jobs is None:
        cpus = usable_cpus().count
        jobs = spool.settings.jobs or cpus
        if device.type == "cuda":
            jobs = jobs_beside_trainer(jobs, cpus)
    return Supervisor(
        spool,
        jobs=jobs,
        budget_bytes=budget_bytes,
        until=until,
        is_leader=placement.is_leader,
    )


def jobs_beside_trainer(jobs: int, cores: int) -> int:
    """Return at most `jobs` worker processes, and so few that two cores are left to a trainer that feeds a GPU."""
    return max(1, min(jobs, cores - TRAINER_CORES))


def _write_report(run_dir: Path, progress: Progress) -> None:
    """Write the run's page; if this fails, print a warning and do not fail the run."""
    try:
        progress.print(f"report: {write_run_report(run_dir)}", event="report")
    except (DarkprepError, OSError) as error:
        log.warning(
            "the report could not be written (write it with `darkprep report %s`): %s",
            run_dir,
            error,
        )
