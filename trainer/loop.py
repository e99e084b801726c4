"""The training loop.

One loop serves every device, precision and number of ranks; the stream, the step and the lockstep of the
ranks contain what differs between them. The trade-off: the caller may replace network, loss, optimiser and schedule, not
the loop.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from darkprep.model import Network
from darkprep.model.own import NetworkSource
from darkprep.shards.errors import NonFiniteLoss, OptionError
from darkprep.trainer.checkpoint import Progress, TrainState
from darkprep.trainer.communicator import Communicator, SingleProcess, open_in_turn
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.device import open_device, out_of_memory_errors
from darkprep.trainer.noise_map import NoiseOf
from darkprep.trainer.prefetch import pinned_memory
from darkprep.trainer.recipe import Loss, MakeOptimiser, Recipe, Schedule
from darkprep.trainer.records import RunSummary, StepReport
from darkprep.trainer.run_files import (
    NoFiles,
    RunFiles,
    begin_run,
    finished_summary,
    training_lock,
)
from darkprep.trainer.training import OpenReader, Training, run_summary

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Validation:
    """How a network is evaluated while it is trained, on frames that it is not trained on."""

    every: int
    """Iterations between evaluations; another evaluation follows at the end."""
    evaluate: Callable[[Network, int], Mapping[str, Any]]
    """Called with the network and the iterations done; returns the content of a line of evaluations.jsonl."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise OptionError(
                f"Validation: `every` must be at least 1 iteration, not {self.every}; to train without evaluations, pass no Validation (on the command line: --evaluate-every 0)"
            )


def train(
    config: TrainConfig,
    open_reader: OpenReader,
    run_dir: Path,
    *,
    network: NetworkSource | None = None,
    loss: Loss | None = None,
    optimiser: MakeOptimiser | None = None,
    schedule: Schedule | None = None,
    resume: bool = False,
    on_step: Callable[[StepReport], None] | None = None,
    stop: threading.Event | None = None,
    validation: Validation | None = None,
    extra_metrics: Callable[[], Mapping[str, float]] = dict,
    communicator: Communicator | None = None,
    cameras: str = "",
    noise_of: NoiseOf | None = None,
) -> RunSummary:
    """Train a network, and write config.json, metrics.jsonl, summary.json, weights and checkpoints to `run_dir`.

    With `resume`, training continues after the newest undamaged checkpoint, at exactly the next sample; a
    run that has already done all iterations of `config` is not changed. Without `resume`, a directory that
    holds a run is refused. `on_step` is called after every step. When `stop` is set, training ends after
    the current step, with a checkpoint; a reader that waits for a shard should then raise StreamEnded.
    Training also ends when the stream ends. `validation` adds evaluations.jsonl; the time of evaluations
    does not count as training time. `extra_metrics` returns further numbers for each line of metrics.jsonl.

    `network` is a torch module, or a class or function that returns one: its `forward` maps float32 planes
    `(B, C, h, w)`, black subtracted, white = 1, amplified, to the target, `(B, *target shape)` with values in
    [0, 1]. `loss(restored, target)` returns a scalar. `optimiser(parameters)` returns a torch optimiser,
    which keeps its own learning rate unless `schedule(step)` returns the rate of each step, counted from 0.
    By default they are those of `config`, whose fields `model` and `loss` record the names of the code.
    A resumed run is given the same code again. What breaks the contract is refused before the first step.
    `cameras` is written into the weights file: the colours of the training cameras, as `cameras_to_text` of
    `darkprep.pipeline.raw.camera_colours` returns them. `noise_of` returns the noise level of a sample's metadata,
    for a network with a noise-level map; it is needed if `config.noise_levels`, a name of your choice for these
    levels, is not empty.

    With a `communicator`, every rank calls this function with the same arguments except its reader, which
    reads the rank's part of each batch. Only rank 0 writes files and evaluates. Its counts of deleted and
    damaged shards are sums over all ranks; its waiting time is its own. A signal to any rank stops all
    ranks after one more step.

    Raises SpoolBusy if another training run uses `run_dir`, OptionError, WeightsError, NonFiniteLoss,
    DiskFull, and whatever the reader raises. A checkpoint is then written, and after the last step the
    weights too, except after a non-finite loss or if the directory cannot be written. Raises RankLost if
    another rank died. If a rank failed, rank 0 raises its error and the other ranks raise RankStopped.
    """
    communicator, stop = communicator or SingleProcess(), stop or threading.Event()
    device = open_device(config.device)
    if config.has_noise_map != (noise_of is not None):
        raise OptionError(
            "noise_levels of the configuration and the argument noise_of can be used only together; give both or neither"
        )
    recipe = Recipe(network=network, loss=loss, optimiser=optimiser, schedule=schedule)
    with communicator.fail_together():
        config = recipe.named(config)
        state, start = recipe.new_state(config, device), Progress()
    state.network.cameras = cameras
    leader = communicator.rank == 0
    validation = validation if leader else None
    with contextlib.ExitStack() as resources:
        with communicator.fail_together():
            if leader:
                resources.enter_context(training_lock(run_dir))
                start = begin_run(run_dir, config, state, resume=resume)
        start = communicator.broadcast_state(state, start)
        if start.iteration >= config.iterations:
            return _finished(run_dir, config, state, start, device, writes=leader)
        reader = open_in_turn(
            communicator, lambda: open_reader(start.iteration, pinned_memory(device))
        )
        with contextlib.closing(reader):
            files: RunFiles | NoFiles = (
                RunFiles(run_dir, config, start=start.iteration) if leader else NoFiles()
            )
            resources.enter_context(files)
            training = Training(
                config,
                state,
                start,
                reader=reader,
                communicator=communicator,
                stop=stop,
                device=device,
                recipe=recipe,
                noise_of=noise_of,
            )
            try:
                with out_of_memory_errors(
                    f"batch_size {config.batch_size} in {config.precision}", device
                ):
                    _run_steps(
                        training,
                        files,
                        on_step=on_step,
                        validation=validation,
                        extra_metrics=extra_metrics,
                    )
                with training.lockstep.errors_on_all_ranks():
                    _log(training, files, extra_metrics)
                    files.save_checkpoint(state, training.progress())
                    files.write_weights(state, training.iteration)
            except BaseException as error:
                _save_after(error, training, files)
                raise
        # After closing, because that releases the last shards.
        training.lockstep.finish()
        summary = files.with_validations(training.summary())
        files.write_summary(summary)
        # Last, so that interrupting it costs nothing else; not again where the loop ended with one.
        if validation and training.has_new_steps and training.iteration % validation.every:
            _validate(training, validation, files)
            summary = files.with_validations(summary)
            files.write_summary(summary)
        files.write_hyperparameters(config.record(), summary)
    return summary


def _finished(
    run_dir: Path,
    config: TrainConfig,
    state: TrainState,
    done: Progress,
    device: torch.device,
    *,
    writes: bool,
) -> RunSummary:
    """Return the summary of a run that has no steps left; write its weights if an earlier attempt failed to."""
    known = finished_summary(run_dir, config) if writes else None
    if known:
        return known
    summary = run_summary(config, state, done, device=device)
    if writes:
        with RunFiles(run_dir, config, start=done.iteration) as files:
            files.write_weights(state, done.iteration)
            summary = files.with_validations(summary)
            files.write_summary(summary)
    return summary


def _save_after(error: BaseException, training: Training, files: RunFiles | NoFiles) -> None:
    """After `error` has ended a run, write a checkpoint, and the weights if all steps are done.

    Nothing is written after a non-finite loss, because it would occur again at the same batch; after an
    error while the weights were being changed; or if the options make training impossible.
    """
    impossible = isinstance(error, OptionError) and not training.has_new_steps
    if impossible or isinstance(error, NonFiniteLoss) or not training.is_between_steps:
        return
    try:
        files.save_checkpoint(training.state, training.progress())
        if training.iteration >= training.config.iterations:
            files.write_weights(training.state, training.iteration)
    except Exception as second:  # noqa: BLE001 # `error` is raised, whatever this was
        if str(second) != str(error):
            log.warning(
                "the checkpoint of iteration %d could not be written: %s",
                training.iteration,
                second,
            )


def _run_steps(
    training: Training,
    files: RunFiles | NoFiles,
    *,
    on_step: Callable[[StepReport], None] | None,
    validation: Validation | None,
    extra_metrics: Callable[[], Mapping[str, float]],
) -> None:
    """Train until all iterations are done, the stream ends, or the run must stop."""
    config = training.config
    while training.iteration < config.iterations:
        batch = training.next_batch()
        if batch is None:
            return
        with training.lockstep.errors_on_all_ranks():
            restored = training.step(batch)
            done = training.iteration
            if done % config.log_every == 0:
                _log(training, files, extra_metrics)
            if done % config.checkpoint_every == 0:
                files.save_checkpoint(training.state, training.progress())
                files.write_picture(restored[0], batch.gt[0], done)
            if validation and done % validation.every == 0:
                _validate(training, validation, files)
            if on_step:
                on_step(training.report())
        if training.lockstep.should_stop():
            return


def _log(
    training: Training,
    files: RunFiles | NoFiles,
    extra_metrics: Callable[[], Mapping[str, float]],
) -> None:
    """Write a line of metrics about the steps since the last line, if there were any."""
    line = training.metrics_line(extra_metrics)
    if line:
        files.write_metrics(line)


def _validate(training: Training, validation: Validation, files: RunFiles | NoFiles) -> None:
    """Evaluate the network in its present state; the time this takes is not counted as training time."""
    network = training.state.network
    with training.timer.paused():
        network.eval()
        try:
            scores = validation.evaluate(network, training.iteration)
        finally:
            network.train()
        if scores:
            files.write_evaluation({"iteration": training.iteration, **scores})
