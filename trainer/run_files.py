"""The directory of a run: lock, configuration, checkpoints, logs, weights and summary.

The trade-off: every file is written by rank 0 alone, through `RunFiles`; the other ranks have `NoFiles`, so
that all ranks run the same loop.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from darkprep.model import save_weights
from darkprep.shards.errors import OptionError
from darkprep.shards.files import disk_errors, read_json, refuse_link, write_json
from darkprep.shards.locks import FileLock
from darkprep.trainer.checkpoint import Checkpoints, Progress, TrainState
from darkprep.trainer.config import IDENTITY_FIELDS, TrainConfig
from darkprep.trainer.records import SUMMARY_FILE, MetricsLine, RunSummary, read_summary
from darkprep.trainer.run_log import RunLog
from darkprep.trainer.validations import with_validations

_CONFIG_FILE, _WEIGHTS_FILE = "config.json", "weights.safetensors"
_CHECKPOINTS = "checkpoints"


def check_unused(run_dir: Path) -> None:
    """Raise OptionError if the directory holds a run."""
    if (run_dir / _CONFIG_FILE).exists():
        raise OptionError(
            f"{run_dir}: already holds a run; resume it with --resume, or choose another directory"
        )


def read_run_config(run_dir: Path) -> TrainConfig | None:
    """Return the configuration of the run in a directory; None if it holds no run.

    Raises OptionError if the run's configuration is missing or invalid.
    """
    path = run_dir / _CONFIG_FILE
    record = read_json(path)
    if record is not None:
        try:
            return TrainConfig.from_record(record)
        except OptionError as error:
            raise OptionError(
                f"{path}: {error}; write the value that the run had into this file, or start a new run"
            ) from error
    if os.path.lexists(path) or iterations_done(run_dir) is not None:
        what = "is damaged" if os.path.lexists(path) else "is missing"
        raise OptionError(
            f"{path}: {what}, so the settings of the run are unknown; put this file back from a copy, or start a new run"
        )
    return None


def iterations_done(run_dir: Path) -> int | None:
    """Return the number of iterations at a run's newest checkpoint; None if it has no checkpoint."""
    return Checkpoints(run_dir / _CHECKPOINTS).newest_iteration()


def finished_summary(run_dir: Path, config: TrainConfig) -> RunSummary | None:
    """Return the summary of a run that has done all iterations of `config` and has weights; otherwise None."""
    summary = read_summary(run_dir)
    is_finished = (
        summary is not None
        and summary.iterations == iterations_done(run_dir) == config.iterations
        and (run_dir / _WEIGHTS_FILE).is_file()
    )
    return summary if is_finished else None


def training_lock(run_dir: Path) -> FileLock:
    """Create the run directory if needed, and return the lock that only one training run at a time can hold.

    The lock is not yet acquired. Raises SpoolError if a part of the run is a link.
    """
    lock = run_dir / "lock"
    for name in (_CHECKPOINTS, "heldout", "tensorboard"):
        refuse_link(run_dir / name)
    with disk_errors(lock):
        run_dir.mkdir(parents=True, exist_ok=True)
    return FileLock(lock, "a training run", directory=run_dir, remedy="choose another --run")


def begin_run(run_dir: Path, config: TrainConfig, state: TrainState, *, resume: bool) -> Progress:
    """Write config.json and return the progress to continue from; with `resume`, load the newest checkpoint into `state`.

    A run without a checkpoint starts from the beginning; config.json of a finished run stays as it is.
    Raises OptionError for a directory that holds a run if `resume` is not set, and when fewer iterations
    are requested than are already done; also WeightsError, DiskFull and SpoolError.
    """
    if not resume:
        check_unused(run_dir)
    progress = _checkpoints(run_dir, config).load_newest(state, config.record()) if resume else None
    if progress and progress.iteration > config.iterations:
        raise OptionError(
            f"iterations must be at least {progress.iteration}, the number already done in {run_dir}, not {config.iterations}"
        )
    if not (resume and finished_summary(run_dir, config)):
        write_json(run_dir / _CONFIG_FILE, config.record())
    return progress or Progress()


class RunFiles(RunLog):
    """Writes the files of a run that started or resumed at iteration `start`. Use as a context manager."""

    def __init__(self, run_dir: Path, config: TrainConfig, *, start: int) -> None:
        super().__init__(run_dir, start=start)
        self._run_dir, self._config = run_dir, config
        self._checkpoints = _checkpoints(run_dir, config)

    def save_checkpoint(self, state: TrainState, progress: Progress) -> None:
        """Write a checkpoint and delete the oldest ones. Raises DiskFull or SpoolError."""
        self._checkpoints.save(state, progress, self._config.record())

    def write_weights(self, state: TrainState, iteration: int) -> None:
        """Write weights.safetensors. Raises DiskFull or SpoolError."""
        path = self._run_dir / _WEIGHTS_FILE
        with disk_errors(path):
            save_weights(state.network, path, note=f"{iteration} iterations")

    def write_summary(self, summary: RunSummary) -> None:
        """Write summary.json. Raises DiskFull or SpoolError."""
        write_json(self._run_dir / SUMMARY_FILE, summary.record())

    def with_validations(self, summary: RunSummary) -> RunSummary:
        """Return the summary with the scores of the evaluations so far."""
        return with_validations(summary, self._run_dir)


class NoFiles:
    """The files of a rank that writes nothing."""

    def __enter__(self) -> NoFiles:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: only rank 0 has open files."""

    def write_metrics(self, line: MetricsLine) -> None:
        """Do nothing: only rank 0 writes metrics."""

    def write_evaluation(self, record: Mapping[str, Any]) -> None:
        """Do nothing: only rank 0 writes evaluations."""

    def write_hyperparameters(self, config: Mapping[str, Any], summary: RunSummary) -> None:
        """Do nothing: only rank 0 writes hyperparameters."""

    def write_picture(self, restored: Tensor, truth: Tensor, iteration: int) -> None:
        """Do nothing: only rank 0 writes pictures."""

    def save_checkpoint(self, state: TrainState, progress: Progress) -> None:
        """Do nothing: only rank 0 writes checkpoints."""

    def write_weights(self, state: TrainState, iteration: int) -> None:
        """Do nothing: only rank 0 writes weights."""

    def write_summary(self, summary: RunSummary) -> None:
        """Do nothing: only rank 0 writes the summary."""

    def with_validations(self, summary: RunSummary) -> RunSummary:
        """Return the summary unchanged: only rank 0 evaluates."""
        return summary


def _checkpoints(run_dir: Path, config: TrainConfig) -> Checkpoints:
    return Checkpoints(
        run_dir / _CHECKPOINTS, must_match=IDENTITY_FIELDS, keep=config.keep_checkpoints
    )
