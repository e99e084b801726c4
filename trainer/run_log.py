"""The log files of a run: metrics.jsonl, evaluations.jsonl, and TensorBoard's event files where it is installed.

Nothing is printed here; callers print the StepReports. The trade-off: lines are not fsynced, so a power
failure may lose the last ones; checkpoints are fsynced.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import torch
from torch import Tensor

from darkprep.shards.files import (
    disk_errors,
    open_for_writing,
    open_regular_file,
    replace_atomically,
)
from darkprep.shards.format import PLANES, CfaKind
from darkprep.trainer.picture import developed_simply
from darkprep.trainer.records import METRICS_FILE, MetricsLine, RunSummary
from darkprep.trainer.validations import VALIDATIONS_FILE

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)

_MOST_PICTURE_PX = 512
_LONGEST_LINE = 1 << 20


class RunLog:
    """Appends to the log files of a run directory. Use as a context manager.

    `start` is the iteration at which the run starts or resumes; lines of later iterations are removed.
    """

    def __init__(self, run_dir: Path, *, start: int) -> None:
        self._metrics = run_dir / METRICS_FILE
        self._evaluations = run_dir / VALIDATIONS_FILE
        _remove_lines_after(self._metrics, start)
        _remove_lines_after(self._evaluations, start)
        with disk_errors(self._metrics):
            self._file = open(self._metrics, "a", encoding="utf-8", opener=open_for_writing)
        self._tensorboard = _open_tensorboard(run_dir, start)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Closing tries again to write what a full disk refused; that error was raised then.
        with contextlib.suppress(OSError) if error else disk_errors(self._metrics):
            self._file.close()
        if self._tensorboard:
            self._tensorboard.close()

    def write_metrics(self, line: MetricsLine) -> None:
        """Append a line to metrics.jsonl and its numbers to TensorBoard. Raises DiskFull or SpoolError."""
        record = line.record()
        with disk_errors(self._metrics):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        self._write_scalars("train", record)

    def write_evaluation(self, record: Mapping[str, Any]) -> None:
        """Append a line to evaluations.jsonl and its numbers to TensorBoard. Raises DiskFull or SpoolError."""
        with (
            disk_errors(self._evaluations),
            open(self._evaluations, "a", encoding="utf-8", opener=open_for_writing) as file,
        ):
            file.write(json.dumps(record) + "\n")
        self._write_scalars("held-out", record)

    def write_hyperparameters(self, config: Mapping[str, Any], summary: RunSummary) -> None:
        """Write the configuration and the results to TensorBoard's hyperparameter page."""
        if self._tensorboard:
            chosen = {name: value for name, value in config.items() if value is not None}
            results = {
                f"summary/{name}": value
                for name, value in summary.record().items()
                if isinstance(value, int | float)
            }
            self._tensorboard.add_hparams(chosen, results, run_name=".")

    def write_picture(self, restored: Tensor, truth: Tensor, iteration: int) -> None:
        """Write the pictures `restored | truth`, each `(3, H, W)` in [0, 1], to TensorBoard.

        Packed planes `(C, h, w)` are shown as RGB pictures `(3, h, w)` without white balance.
        """
        if self._tensorboard:
            pair = [
                _viewable(part[:, :_MOST_PICTURE_PX, :_MOST_PICTURE_PX].float().cpu())
                for part in (restored, truth)
            ]
            self._tensorboard.add_image("restored | truth", torch.cat(pair, dim=2), iteration)

    def _write_scalars(self, group: str, record: Mapping[str, Any]) -> None:
        if not self._tensorboard:
            return
        for name, value in record.items():
            if name != "iteration" and isinstance(value, int | float):
                self._tensorboard.add_scalar(f"{group}/{name}", value, record["iteration"])


def _viewable(part: Tensor) -> Tensor:
    """Return RGB as it is, and packed planes as a picture without white balance."""
    if len(part) == 3:
        return part
    cfa: CfaKind = "bayer" if len(part) == PLANES["bayer"] else "xtrans"
    return torch.from_numpy(developed_simply(part.numpy(), cfa))


def _remove_lines_after(path: Path, start: int) -> None:
    """Remove the lines of steps that will be done again, so that each step has one line."""
    try:
        file = open(path, "rb", opener=open_regular_file)
    except FileNotFoundError:
        return

    def copy(target: BinaryIO) -> None:
        file.seek(0)
        for line in iter(lambda: file.readline(_LONGEST_LINE), b""):
            if _iteration_of(line) <= start:
                target.write(line)

    with file:
        replace_atomically(path, copy)


def _iteration_of(line: bytes) -> float:
    """Return the iteration of a line; infinity if the line is cut off or damaged."""
    try:
        return int(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")


def _open_tensorboard(run_dir: Path, start: int) -> SummaryWriter | None:
    """Return a TensorBoard writer if TensorBoard is installed; it is imported only here, because the import takes seconds."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    name = str(run_dir).encode("utf-8", "backslashreplace").decode()
    if name != str(run_dir):  # undecodable bytes, which TensorBoard does not accept
        log.warning(
            "%s: the name is not Unicode, so no TensorBoard files are written; rename the run directory",
            name,
        )
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run_dir / "tensorboard"), purge_step=start)
