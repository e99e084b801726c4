"""The training loop.

The trade-off: one plain loop for every device and precision; what differs between them (copies,
loss scaling, when a loss is known) stands behind the stream, the scaler and the guard.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from darkprep.model import Network, build_model, save_weights
from darkprep.shards.batch import Batch, ReaderStats
from darkprep.shards.errors import DarkprepError, OptionError, RankLost, StreamEnded
from darkprep.shards.files import disk_errors, write_json
from darkprep.shards.locks import FileLock
from darkprep.trainer.checkpoint import Checkpoints, Progress, TrainState
from darkprep.trainer.config import IDENTITY_FIELDS, Precision, TrainConfig
from darkprep.trainer.device import GpuMeter, open_device, out_of_memory_errors
from darkprep.trainer.distributed import Communicator, SingleProcess, StepStatus, in_turn
from darkprep.trainer.loss import restoration_loss
from darkprep.trainer.loss_guard import LossGuard
from darkprep.trainer.prefetch import Allocate, pinned_memory
from darkprep.trainer.records import (
    SUMMARY_FILE,
    MetricsLine,
    RunSummary,
    StepReport,
    limiting_side,
)
from darkprep.trainer.run_log import RunLog
from darkprep.trainer.step_timer import StepTimer
from darkprep.trainer.stream import DeviceBatch, DeviceStream

_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


class Reader(Protocol):
    """`shards.SpoolReader`, or anything that lends batches and can be closed."""

    stats: ReaderStats

    def __next__(self) -> Batch:
        """The next batch; the one before becomes invalid. Raises StopIteration at the end."""

    def close(self) -> None:
        """The batch that was handed out last has been used; give everything back."""


OpenReader = Callable[[int, Allocate | None], Reader]
"""Opens the samples at a global batch, with buffers from the given allocator (None: any memory)."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """How the network is judged now and then by frames that it does not train on."""

    every: int
    """Iterations between judgements; there is one more at the end."""
    judge: Callable[[Network, int], Mapping[str, Any]]
    """Given the network and the iterations done: what a line of evaluations.jsonl holds."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise OptionError(f"evaluate_every must be at least 1, not {self.every}")


def train(
    config: TrainConfig,
    open_reader: OpenReader,
    run_dir: Path,
    *,
    resume: bool = False,
    on_step: Callable[[StepReport], None] | None = None,
    stop: threading.Event | None = None,
    held_out: Validation | None = None,
    gauges: Callable[[], Mapping[str, float]] | None = None,
    ranks: Communicator | None = None,
) -> RunSummary:
    """Train, and leave config.json, metrics.jsonl, summary.json, weights and checkpoints in `run_dir`.

    `held_out` adds evaluations.jsonl; its time is not counted as training. `gauges` gives further
    numbers for each line of metrics.jsonl, such as what the spool weighs.

    `stop` set from outside ends the training after the step at hand, with a checkpoint. `resume` goes
    on at the newest whole checkpoint, to the exact sample; a new run refuses a used directory. Ends
    early, and well, when the stream does. A reader that waits for a shard while `stop` is set should
    raise StreamEnded.

    With `ranks`, each process of a group calls this alike, with a reader of its own part of the batches.
    Only rank 0 writes files, judges, and tells what went wrong; its `shards_deleted` and `damaged` are
    sums over all ranks, its waiting is its own. A signal to any rank stops all after one more step.

    Raises SpoolBusy when another training lives in `run_dir`, OptionError, WeightsError, NonFiniteLoss,
    DiskFull, and whatever the reader raises; after StreamEnded too there is a checkpoint to resume from.
    RankLost when another rank died; RankStopped on the ranks from 1 up when another one failed.
    """
    ranks = ranks or SingleProcess()
    device = open_device(config.device)
    stop = stop or threading.Event()
    trainee = _make_trainee(config, device)
    checkpoints = Checkpoints(
        run_dir / "checkpoints", must_match=IDENTITY_FIELDS, keep=config.keep_checkpoints
    )
    progress, leads = Progress(), ranks.rank == 0
    with contextlib.ExitStack() as held:
        with ranks.together():
            if leads:
                held.enter_context(only_training_in(run_dir))
                progress = _begin(checkpoints, trainee, config, run_dir, resume=resume)
        progress = ranks.share(trainee, progress)
        start, memory = progress.iteration, pinned_memory(device)
        reader: Reader = in_turn(ranks, lambda: open_reader(start, memory))
        run_log: RunLog | NoLog = RunLog(run_dir, start=start) if leads else NoLog()
        held.enter_context(run_log)
        with contextlib.closing(reader):
            run = _Run(
                config, trainee, device, reader, run_log, progress, gauges, checkpoints, ranks, stop
            )
            try:
                with out_of_memory_errors(
                    f"batch_size {config.batch_size} in {config.precision}", device
                ):
                    _take_steps(run, config, on_step, held_out if leads else None)
            except (StreamEnded, RankLost):
                run.save()
                raise
            with run.heard_by_all():
                run.log_line()
                run.save()
        # After the reader is closed, for closing releases the last shards.
        run.count_up()
        summary = run.summary(stopped=run.is_stopped())
        if leads:
            _leave(trainee, summary, run_dir)
            # Last, so that who is in a hurry loses nothing else.
            if held_out:
                run.judge(held_out)
        run_log.write_hyperparameters(config.record(), summary)
    return summary


def _take_steps(
    run: _Run,
    config: TrainConfig,
    on_step: Callable[[StepReport], None] | None,
    held_out: Validation | None,
) -> None:
    """Train until the iterations, the stream or everybody's patience end."""
    for batch in run.batches():
        with run.heard_by_all():
            run.step(batch)
            if run.is_due(config.log_every):
                run.log_line()
            if run.is_due(config.checkpoint_every):
                run.save()
                run.show(batch)
            if held_out and run.is_due(held_out.every):
                run.judge(held_out)
            if on_step:
                on_step(run.report())
        if run.is_stopped():
            return


class NoLog:
    """The run log of a rank that writes nothing."""

    def __enter__(self) -> NoLog:
        return self

    def __exit__(self, *_: object) -> None:
        """See RunLog."""

    def write_metrics(self, line: MetricsLine) -> None:
        """See RunLog."""

    def write_evaluation(self, record: Mapping[str, Any]) -> None:
        """See RunLog."""

    def write_hyperparameters(self, config: Mapping[str, Any], summary: RunSummary) -> None:
        """See RunLog."""

    def write_picture(self, restored: torch.Tensor, truth: torch.Tensor, iteration: int) -> None:
        """See RunLog."""


class _Run:
    """The moving parts of one training, from its start or its resumption to its end."""

    def __init__(
        self,
        config: TrainConfig,
        trainee: TrainState,
        device: torch.device,
        reader: Reader,
        run_log: RunLog | NoLog,
        before: Progress,
        gauges: Callable[[], Mapping[str, float]] | None,
        checkpoints: Checkpoints,
        ranks: Communicator,
        stop: threading.Event,
    ) -> None:
        self._checkpoints = checkpoints
        self._config, self._trainee, self._device = config, trainee, device
        self._ranks, self._stop = ranks, stop
        self._agreed = StepStatus()
        self._network = ranks.wrap(trainee.network, device)
        self._gauges = gauges or dict
        self._reader, self._log, self._before = reader, run_log, before
        self._stream = DeviceStream(
            reader,
            device,
            cfa=config.cfa,
            crop=config.crop,
            augment=config.augment,
            seed=config.seed,
        )
        self._guard, self._meter = LossGuard(device), GpuMeter(device)
        self._timer = StepTimer(self._stream.wait_s, device)
        self.iteration = before.iteration
        self._first_loss = before.first_loss
        self._losses: list[float] = []
        """Of the steps since the last line of metrics."""
        self._line_loss = before.last_loss
        self._newest_loss: float | None = None
        self._restored = torch.empty(0)
        self._judged = before.iteration

    def batches(self) -> Iterator[DeviceBatch]:
        """The batches that are still to train on; the clock starts when the first is there."""
        while self.iteration < self._config.iterations:
            batch = self._next_batch()
            if batch is None:
                return
            self._timer.start()
            yield batch

    def _next_batch(self) -> DeviceBatch | None:
        """The next batch once every rank has its part; None where the stream ends or was told to.

        Raises what any rank could not do, see Ranks.settle.
        """
        batch: DeviceBatch | None = None
        error: Exception | None = None
        try:
            batch = next(self._stream, None)
        except StreamEnded as ended:
            # A reader that is told to stop waiting ends so too.
            error = None if self._stop.is_set() else ended
        except Exception as caught:  # noqa: BLE001 # the others must hear of it first
            error = caught
        if batch is None:
            self._timer.stop()
        self._count(ended=batch is None, failed=error is not None)
        if self._agreed.failed:
            verdict = self._ranks.settle(error or self._own_fault())
            raise verdict from (error if verdict is not error else verdict.__cause__)
        return None if self._agreed.ended else batch

    @contextlib.contextmanager
    def heard_by_all(self) -> Iterator[None]:
        """Tells the other ranks, where they next ask for a batch or count up, what went wrong in the block."""
        try:
            yield
        except RankLost:
            raise
        except DarkprepError as error:
            self._count(failed=True)
            verdict = self._ranks.settle(error)
            raise verdict from (error if verdict is not error else error.__cause__)

    def _own_fault(self) -> DarkprepError | None:
        """On a GPU a bad loss of this rank may be known to others before it is known here."""
        try:
            self._learn(wait=True)
        except DarkprepError as error:
            return error
        return None

    def _count(self, *, ended: bool = False, failed: bool = False) -> None:
        stats = self._reader.stats
        self._agreed = self._ranks.agree(
            StepStatus(
                stop=int(self._stop.is_set()),
                ended=int(ended),
                failed=int(failed),
                shards_deleted=stats.shards_deleted,
                damaged=stats.damaged,
            )
        )

    def count_up(self) -> None:
        """Sum up what all ranks have done, after the last step; raises what one of them failed in since."""
        stopped = self._agreed.stop
        self._count()
        if self._agreed.failed:
            raise self._ranks.settle(self._own_fault())
        self._agreed = replace(self._agreed, stop=stopped)

    def is_stopped(self) -> bool:
        """Whether all ranks are to stop now; alone, whether this one was told so."""
        return self._stop.is_set() if self._ranks.world == 1 else self._agreed.stop > 0

    def step(self, batch: DeviceBatch) -> None:
        """One step of the optimiser; raises NonFiniteLoss, see LossGuard."""
        optimiser, scaler = self._trainee.optimiser, self._trainee.scaler
        for group in optimiser.param_groups:
            group["lr"] = self._config.learning_rate_at(self.iteration)
        with self._autocast():
            restored = self._network(batch.low)
        own = restoration_loss(restored, batch.gt)
        loss = self._guard.admit(own, batch, self._ranks.mean(own))
        with self._ranks.reachable():
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if not scaler.is_enabled():
            # What a scaler would tell fused Adam: on the device, without asking the host.
            optimiser.found_inf = self._guard.skip  # type: ignore[attr-defined]
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad()
        self._restored = restored.detach()
        self.iteration += 1
        self._timer.step()
        self._learn()

    def is_due(self, every: int) -> bool:
        """Whether `every` steps are full."""
        return self.iteration % every == 0

    def log_line(self) -> None:
        """Sum up the steps since the last line, if there were any."""
        self._learn(wait=True)
        if not self._losses:
            return
        self._line_loss = sum(self._losses) / len(self._losses)
        self._losses.clear()
        report = self.report()
        self._log.write_metrics(
            MetricsLine(
                iteration=self.iteration,
                loss=self._line_loss,
                learning_rate=report.learning_rate,
                iterations_per_s=report.iterations_per_s,
                samples_per_s=report.samples_per_s,
                data_wait_fraction=report.data_wait_fraction,
                gpu_busy_percent=report.gpu_busy_percent,
                shards_deleted=report.shards_deleted,
                damaged=report.damaged,
                seconds=self._trained_s(),
                extra=self._gauges(),
            )
        )

    def judge(self, held_out: Validation) -> None:
        """Judge the network as it is, unless that was done; the clock of the training stands still."""
        if self._judged == self.iteration:
            return
        self._judged = self.iteration
        with self._timer.paused():
            self._trainee.network.eval()
            try:
                scores = held_out.judge(self._trainee.network, self.iteration)
            finally:
                self._trainee.network.train()
            if scores:
                self._log.write_evaluation({"iteration": self.iteration, **scores})

    def show(self, batch: DeviceBatch) -> None:
        """Put the batch's first sample on TensorBoard."""
        self._log.write_picture(self._restored[0], batch.gt[0], self.iteration)

    def report(self) -> StepReport:
        """Where the training is now."""
        pace, wait = self._timer.rates()
        left = self._config.iterations - self.iteration
        return StepReport(
            iteration=self.iteration,
            iterations=self._config.iterations,
            loss=self._newest_loss,
            learning_rate=self._config.learning_rate_at(max(0, self.iteration - 1)),
            iterations_per_s=pace,
            samples_per_s=pace * self._config.batch_size,
            data_wait_fraction=wait,
            eta_s=left / pace if pace else math.inf,
            gpu_busy_percent=self._meter.busy_percent(),
            shards_deleted=self._before.shards_deleted + self._done.shards_deleted,
            damaged=self._before.damaged + self._done.damaged,
        )

    def save(self) -> None:
        """Write a checkpoint, on rank 0; raises NonFiniteLoss rather than keep a bad step."""
        reached = self.progress()
        if self._ranks.rank == 0:
            self._checkpoints.save(self._trainee, reached, self._config.record())

    def progress(self) -> Progress:
        """What a checkpoint keeps; raises NonFiniteLoss rather than keep a bad step."""
        self._learn(wait=True)
        stats = self._reader.stats
        return Progress(
            iteration=self.iteration,
            first_loss=self._first_loss,
            last_loss=self._line_loss,
            trained_s=self._trained_s(),
            waited_s=self._before.waited_s + self._timer.waited_s(),
            shards_deleted=self._before.shards_deleted + self._done.shards_deleted,
            damaged=self._before.damaged + self._done.damaged,
            peak_disk_bytes=max(self._before.peak_disk_bytes, stats.peak_disk_bytes),
        )

    def summary(self, *, stopped: bool) -> RunSummary:
        """The whole run in figures and words."""
        done = self.progress()
        wait = done.waited_s / done.trained_s if done.trained_s else 0.0
        samples = done.iteration * self._config.batch_size
        finished = done.iteration >= self._config.iterations
        return RunSummary(
            iterations=done.iteration,
            samples=samples,
            first_loss=done.first_loss,
            last_loss=done.last_loss,
            data_wait_fraction=wait,
            samples_per_second=samples / done.trained_s if done.trained_s else 0.0,
            seconds=done.trained_s,
            first_batch_seconds=self._reader.stats.first_batch_s,
            shards_deleted=done.shards_deleted,
            damaged_shards=done.damaged,
            peak_disk_bytes=done.peak_disk_bytes,
            parameters=sum(part.numel() for part in self._trainee.network.parameters()),
            ended="finished" if finished else "stopped" if stopped else "stream ended",
            limiting_side=limiting_side(wait, device=self._device.type),
        )

    @property
    def _done(self) -> StepStatus | ReaderStats:
        """What the readers did: this one's as of now, or all ranks' as of the last agreement."""
        return self._reader.stats if self._ranks.world == 1 else self._agreed

    def _autocast(self) -> torch.autocast:
        precision = self._config.precision
        return torch.autocast(self._device.type, _DTYPES[precision], enabled=precision != "fp32")

    def _learn(self, *, wait: bool = False) -> None:
        known = self._guard.known(wait=wait)
        if known:
            self._first_loss = known[0] if self._first_loss is None else self._first_loss
            self._newest_loss = known[-1]
            self._losses.extend(known)

    def _trained_s(self) -> float:
        return self._before.trained_s + self._timer.trained_s()


def _make_trainee(config: TrainConfig, device: torch.device) -> TrainState:
    torch.manual_seed(config.seed)
    network = build_model(config.model, config.cfa).to(device).train()
    return TrainState(
        network=network,
        optimiser=torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True),
        scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
    )


def check_unused(run_dir: Path) -> None:
    """Raise OptionError when a run stands in that directory."""
    if (run_dir / "config.json").exists():
        raise OptionError(
            f"{run_dir}: holds a run already; resume it with --resume, or choose another directory"
        )


def only_training_in(run_dir: Path) -> FileLock:
    """Returns the role, to be entered, of the one training that may write into a directory; makes the directory."""
    lock = run_dir / "lock"
    with disk_errors(lock):
        run_dir.mkdir(parents=True, exist_ok=True)
    return FileLock(lock, "a training", directory=run_dir, remedy="choose another --run")


def _begin(
    checkpoints: Checkpoints,
    trainee: TrainState,
    config: TrainConfig,
    run_dir: Path,
    *,
    resume: bool,
) -> Progress:
    """Prepare the run directory and say where to go on; a run killed before any checkpoint begins anew."""
    path = run_dir / "config.json"
    if not resume:
        check_unused(run_dir)
    progress = checkpoints.restore(trainee, config.record()) if resume else None
    if progress and progress.iteration > config.iterations:
        raise OptionError(
            f"iterations must be at least {progress.iteration}, which {run_dir} has done already, not {config.iterations}"
        )
    write_json(path, config.record())
    return progress or Progress()


def _leave(trainee: TrainState, summary: RunSummary, run_dir: Path) -> None:
    path = run_dir / "weights.safetensors"
    with disk_errors(path):
        save_weights(trainee.network, path, note=f"{summary.iterations} iterations")
    write_json(run_dir / SUMMARY_FILE, summary.record())
