"""What a training says of itself: live reports, a line of metrics now and then, a summary at the end.

Nothing is printed here; a caller shows StepReport as it likes. The trade-off: metrics.jsonl is not
fsynced, a power loss may cost its last lines; the checkpoint, which matters, is.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from darkprep.shards.files import disk_errors, read_regular_file, write_bytes
from darkprep.shards.spool import WAIT_LIMITS, WAIT_UNSEEN

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)

Ending = Literal["finished", "stream ended", "stopped"]

_PACE_STEPS = 64
_SHOWN_ROWS = 512


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """Where a training is after a step."""

    iteration: int
    """Steps done, of all resumed parts."""
    iterations: int
    """Steps wanted."""
    loss: float | None
    """The newest loss that is known; on a GPU that of a few steps ago."""
    learning_rate: float
    iterations_per_s: float
    """Over the last steps, as are the next three."""
    samples_per_s: float
    data_wait_fraction: float
    """Share of the time that the device stood still for want of data."""
    eta_s: float
    gpu_busy_percent: float | None
    """By the driver's count; None where it does not answer."""
    shards_deleted: int
    damaged: int
    """Shards refused so far, to be made again."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What a training did, all resumed parts together; summary.json holds the same."""

    iterations: int
    samples: int
    first_loss: float | None
    """Of the very first step."""
    last_loss: float | None
    """Mean over the last line of metrics.jsonl."""
    data_wait_fraction: float
    """Share of the time, from each start's first batch on, that the device stood still for data."""
    samples_per_second: float
    seconds: float
    first_batch_seconds: float
    """From the last start to its first batch."""
    shards_deleted: int
    damaged_shards: int
    peak_disk_bytes: int
    """Largest weight of the spool directory seen."""
    parameters: int
    ended: Ending
    limiting_side: str


class Pace:
    """Rates over the last steps, from the clock and the stream's wait."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, float]] = deque(maxlen=_PACE_STEPS + 1)

    def step(self, wait_s: float) -> None:
        """A step ended now, and the device has waited `wait_s` in all."""
        self._marks.append((time.perf_counter(), wait_s))

    def pause(self, seconds: float) -> None:
        """So long nothing was trained, on purpose: leave it out."""
        later = [(mark + seconds, waited) for mark, waited in self._marks]
        self._marks = deque(later, maxlen=self._marks.maxlen)

    def rates(self) -> tuple[float, float]:
        """Steps per second and the share of waiting; zeros before the second step."""
        if len(self._marks) < 2:
            return 0.0, 0.0
        (began, waited), (now, waits) = self._marks[0], self._marks[-1]
        elapsed = max(now - began, 1e-9)
        return (len(self._marks) - 1) / elapsed, min(1.0, (waits - waited) / elapsed)


class RunLog:
    """The files of a run directory that grow: metrics.jsonl, evaluations.jsonl, and TensorBoard's.

    TensorBoard's only where it is installed.
    """

    def __init__(self, run_dir: Path, *, start: int) -> None:
        self._path = run_dir / "metrics.jsonl"
        self._evaluations = run_dir / "evaluations.jsonl"
        _forget_after(self._path, start)
        _forget_after(self._evaluations, start)
        with disk_errors(self._path):
            self._file = self._path.open("a", encoding="utf-8")
        self._board = _open_board(run_dir, start)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Closing writes what a full disk refused before, which was told then.
        with contextlib.suppress(OSError) if error else disk_errors(self._path):
            self._file.close()
        if self._board:
            self._board.close()

    def write(self, line: dict[str, Any]) -> None:
        """Append one line; its numbers also go to TensorBoard. Raises DiskFull or SpoolError."""
        with disk_errors(self._path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        if self._board:
            for name, value in line.items():
                if name != "iteration" and value is not None:
                    self._board.add_scalar(f"train/{name}", value, line["iteration"])

    def evaluated(self, line: dict[str, Any]) -> None:
        """Append a line to evaluations.jsonl; its numbers also go to TensorBoard. Raises as `write`."""
        with disk_errors(self._evaluations), self._evaluations.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._board:
            for name, value in line.items():
                if name != "iteration" and isinstance(value, int | float):
                    self._board.add_scalar(f"held-out/{name}", value, line["iteration"])

    def sum_up(self, config: dict[str, Any], summary: dict[str, Any]) -> None:
        """Put the configuration beside the results on TensorBoard's page of hyperparameters."""
        if self._board:
            chosen = {name: value for name, value in config.items() if value is not None}
            results = {
                f"summary/{name}": value
                for name, value in summary.items()
                if isinstance(value, int | float)
            }
            self._board.add_hparams(chosen, results, run_name=".")

    def show(self, restored: Tensor, truth: Tensor, iteration: int) -> None:
        """Put `restored | truth`, each `(3, H, W)` in [0, 1], on TensorBoard."""
        if self._board:
            pair = [part[:, :_SHOWN_ROWS, :_SHOWN_ROWS].float().cpu() for part in (restored, truth)]
            self._board.add_image("restored | truth", torch.cat(pair, dim=2), iteration)


def _forget_after(path: Path, start: int) -> None:
    """Drop the lines of steps that are made again, so that each step is told once."""
    try:
        lines = read_regular_file(path).splitlines(keepends=True)
    except FileNotFoundError:
        return
    write_bytes(path, b"".join(line for line in lines if _iteration_of(line) <= start))


def _iteration_of(line: bytes) -> float:
    """Its iteration; infinite for a line that a crash cut off or somebody damaged."""
    try:
        return int(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")


def _open_board(run_dir: Path, start: int) -> SummaryWriter | None:
    """TensorBoard's writer where it is installed; loading it takes seconds, so only here."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    named = str(run_dir).encode("utf-8", "backslashreplace").decode()
    if named != str(run_dir):  # bytes that are no text, which TensorBoard cannot take
        log.warning("%s: is no Unicode name; the run has no TensorBoard files", named)
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run_dir / "tensorboard"), purge_step=start)


def limiting_side(data_wait_fraction: float, *, device: str) -> str:
    """In words which side made the training as slow as it was, and what to change."""
    share = f"{100 * data_wait_fraction:.1f} % of the time"
    if data_wait_fraction < WAIT_UNSEEN:
        return f"the {device} limits: it waited for data {share}; nothing to change"
    if data_wait_fraction < WAIT_LIMITS:
        return (
            f"nearly balanced: the {device} waited for data {share}; more jobs would close the gap"
        )
    return (
        f"the data limits: the {device} waited for it {share}; give the producers more jobs, use each "
        f"sample more often (reuse), or, if they stand blocked, a bigger disk budget"
    )
