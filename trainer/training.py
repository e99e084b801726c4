"""A training run in progress: its parts, the number of steps done, and all figures that are reported about it.

The trade-off: figures are computed only when they are requested, from the parts that measure them, so that
a step only has to count.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from darkprep.shards.batch import ReaderStats
from darkprep.shards.errors import StreamEnded
from darkprep.trainer.checkpoint import Progress, TrainState
from darkprep.trainer.communicator import Communicator
from darkprep.trainer.config import TrainConfig
from darkprep.trainer.device import GpuMeter
from darkprep.trainer.lockstep import Lockstep
from darkprep.trainer.noise_map import NoiseOf
from darkprep.trainer.prefetch import Allocate, BatchReader
from darkprep.trainer.recipe import Recipe
from darkprep.trainer.records import MetricsLine, RunSummary, StepReport, limiting_side
from darkprep.trainer.shot_noise import shot_noise_from
from darkprep.trainer.step import TrainStep
from darkprep.trainer.step_timer import StepTimer
from darkprep.trainer.stream import DeviceBatch, DeviceStream


class Reader(BatchReader, Protocol):
    """A reader with a method `close`: `shards.SpoolReader`, or any other iterator of batches."""

    stats: ReaderStats

    def close(self) -> None:
        """Release all resources, including the last batch."""


OpenReader = Callable[[int, Allocate | None], Reader]
"""Opens a reader at the given global batch, with buffers from the given allocator (None: ordinary memory)."""


class Training:
    """Trains on the batches of a reader, beginning at the step that `start` records."""

    def __init__(
        self,
        config: TrainConfig,
        state: TrainState,
        start: Progress,
        *,
        reader: Reader,
        communicator: Communicator,
        stop: threading.Event,
        device: torch.device,
        recipe: Recipe,
        noise_of: NoiseOf | None = None,
    ) -> None:
        self.config, self.state = config, state
        self.iteration = start.iteration
        """Steps done."""
        self.stream = DeviceStream(
            reader,
            device,
            cfa=config.cfa,
            crop=config.crop,
            augment=config.augment,
            seed=config.seed,
            target=config.target,
            shot_noise=shot_noise_from(config.shot_noise, config.full_scale_electrons, config.seed),
            noise_of=noise_of,
        )
        self.timer = StepTimer(self.stream.wait_s, device)
        self.lockstep = Lockstep(
            communicator,
            reader.stats,
            stop,
            wait_for_losses=lambda: self._collect_losses(wait=True),
        )
        self._step = TrainStep(config, state, communicator, device, recipe)
        self._start, self._stats, self._device = start, reader.stats, device
        self._gpu = GpuMeter(device)
        self._first_loss = start.first_loss
        self._newest_loss: float | None = None
        self._line_loss = start.last_loss
        self._losses: list[float] = []
        """Losses of the steps since the last line of metrics."""

    @property
    def has_new_steps(self) -> bool:
        """Whether a step was done since the run was started or resumed."""
        return self.iteration > self._start.iteration

    @property
    def is_between_steps(self) -> bool:
        """Whether the weights are those after `iteration` complete steps, even if a later step failed."""
        return not self._step.changes_weights

    def next_batch(self) -> DeviceBatch | None:
        """Return the next batch, or None at the end of the stream. Raises the errors of Lockstep.next_batch.

        The clock starts at the first batch. The last wait, which ends with the stream, counts as training time.
        """
        try:
            batch = self.lockstep.next_batch(self.stream)
        except StreamEnded:
            self.timer.stop()
            raise
        if batch is None:
            self.timer.stop()
        else:
            self.timer.start()
        return batch

    def step(self, batch: DeviceBatch) -> Tensor:
        """Train on a batch and return the restored batch, `(B, 3, H, W)`. Raises the errors of TrainStep."""
        restored = self._step(batch, self.iteration)
        self.iteration += 1
        self._step.changes_weights = False
        self.timer.step()
        self._collect_losses()
        return restored

    def report(self) -> StepReport:
        """Return the state after the last step."""
        pace, wait = self.timer.rates()
        left = self.config.iterations - self.iteration
        return StepReport(
            iteration=self.iteration,
            iterations=self.config.iterations,
            loss=self._newest_loss,
            learning_rate=float(self.state.optimiser.param_groups[0]["lr"]),
            iterations_per_s=pace,
            samples_per_s=pace * self.config.batch_size,
            data_wait_fraction=wait,
            eta_s=left / pace if pace else math.inf,
            gpu_busy_percent=self._gpu.busy_percent(),
            shards_deleted=self._start.shards_deleted + self.lockstep.shards_deleted(),
            damaged=self._start.damaged + self.lockstep.damaged(),
        )

    def metrics_line(self, extra_metrics: Callable[[], Mapping[str, float]]) -> MetricsLine | None:
        """Return the figures of the steps since the last line; None if no step was done since then."""
        self._collect_losses(wait=True)
        if not self._losses:
            return None
        self._line_loss = sum(self._losses) / len(self._losses)
        self._losses.clear()
        report = self.report()
        return MetricsLine(
            iteration=self.iteration,
            loss=self._line_loss,
            learning_rate=report.learning_rate,
            iterations_per_s=report.iterations_per_s,
            samples_per_s=report.samples_per_s,
            data_wait_fraction=report.data_wait_fraction,
            gpu_busy_percent=report.gpu_busy_percent,
            shards_deleted=report.shards_deleted,
            damaged=report.damaged,
            seconds=self._start.trained_s + self.timer.trained_s(),
            extra=extra_metrics(),
        )

    def progress(self) -> Progress:
        """Return what a checkpoint records. Raises NonFiniteLoss if a pending loss is not finite."""
        self._collect_losses(wait=True)
        return Progress(
            iteration=self.iteration,
            first_loss=self._first_loss,
            last_loss=self._line_loss,
            trained_s=self._start.trained_s + self.timer.trained_s(),
            waited_s=self._start.waited_s + self.timer.waited_s(),
            shards_deleted=self._start.shards_deleted + self.lockstep.shards_deleted(),
            damaged=self._start.damaged + self.lockstep.damaged(),
            peak_disk_bytes=max(self._start.peak_disk_bytes, self._stats.peak_disk_bytes),
        )

    def summary(self) -> RunSummary:
        """Return the result of the whole run."""
        return run_summary(
            self.config,
            self.state,
            self.progress(),
            device=self._device,
            first_batch_s=self._stats.first_batch_s,
            stopped=self.lockstep.should_stop(),
        )

    def _collect_losses(self, *, wait: bool = False) -> None:
        losses = self._step.guard.report(wait=wait)
        if losses:
            self._first_loss = losses[0] if self._first_loss is None else self._first_loss
            self._newest_loss = losses[-1]
            self._losses.extend(losses)


def run_summary(
    config: TrainConfig,
    state: TrainState,
    done: Progress,
    *,
    device: torch.device,
    first_batch_s: float = 0.0,
    stopped: bool = False,
) -> RunSummary:
    """Return the summary of a run with the progress `done`; `stopped` states whether it was asked to end."""
    wait = done.waited_s / done.trained_s if done.trained_s else 0.0
    samples = done.iteration * config.batch_size
    finished = done.iteration >= config.iterations
    return RunSummary(
        iterations=done.iteration,
        samples=samples,
        first_loss=done.first_loss,
        last_loss=done.last_loss,
        data_wait_fraction=wait,
        samples_per_second=samples / done.trained_s if done.trained_s else 0.0,
        seconds=done.trained_s,
        first_batch_seconds=first_batch_s,
        shards_deleted=done.shards_deleted,
        damaged_shards=done.damaged,
        peak_disk_bytes=done.peak_disk_bytes,
        parameters=sum(part.numel() for part in state.network.parameters()),
        ended="finished" if finished else "stopped" if stopped else "stream ended",
        limiting_side=limiting_side(wait, device=device.type),
    )
