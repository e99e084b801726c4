"""Which run a training continues, with which settings, and what the options given now change in it.

The trade-off: what is stored of a run is its configuration. The spool's location and the number of producer
processes belong to the machine, so they are given again, as the printed command does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from darkprep.jobs.run_directory import new_run, newest_run
from darkprep.trainer.communicator import Communicator, StepStatus
from darkprep.trainer.config import IDENTITY_FIELDS, TrainConfig
from darkprep.trainer.run_files import finished_summary, iterations_done, read_run_config


@dataclass(frozen=True, kw_only=True)
class RunChoice:
    """The run that a training starts or continues."""

    run_dir: Path
    config: TrainConfig
    resume: bool
    """Whether the directory holds a run."""
    messages: tuple[str, ...] = ()
    """What the user must know of it, a line each; on rank 0."""
    is_finished: bool = False
    """Whether the run has no iterations left."""


def choose_run(
    run_dir: Path | None,
    settings: Mapping[str, Any],
    given: frozenset[str],
    communicator: Communicator,
    *,
    resume: bool,
) -> RunChoice:
    """Return the run in `run_dir`; without one, with `resume` the newest run, else a new one.

    `settings` are fields of TrainConfig. Those `given` by the user override the settings of a run that is
    resumed; all of them apply to one that starts, also because there is nothing to resume. Rank 0 reads the
    directory. Raises OptionError for an invalid setting or configuration.
    """
    found: tuple[Path, TrainConfig | None] | None = None
    with communicator.fail_together():
        if communicator.rank == 0:
            found = _find_run(run_dir, resume=resume)
    text = json.dumps([str(found[0]), found[1] and found[1].record()] if found else None)
    name, stored = json.loads(communicator.broadcast(text))
    with communicator.fail_together():
        if stored is None:
            start = RunChoice(run_dir=Path(name), config=TrainConfig(**settings), resume=False)
            note = f"no run to resume: starting one in {name}"
            return replace(start, messages=(note,)) if resume else start
        before = TrainConfig.from_record(stored)
        if communicator.world > 1 and before.device.startswith("cuda"):
            before = replace(before, device="cuda")  # recorded as the device of rank 0
        overrides = {field: settings[field] for field in given}
        return _resumed(Path(name), before, replace(before, **overrides), communicator)


def _find_run(run_dir: Path | None, *, resume: bool) -> tuple[Path, TrainConfig | None]:
    """Return a run's directory, and its configuration if it is to be resumed and there is one."""
    run_dir = run_dir or (newest_run() if resume else None)
    if run_dir is None:
        return new_run(), None
    return run_dir, read_run_config(run_dir) if resume else None


def _resumed(
    run_dir: Path, before: TrainConfig, after: TrainConfig, communicator: Communicator
) -> RunChoice:
    is_same = all(getattr(after, name) == getattr(before, name) for name in IDENTITY_FIELDS)
    is_finished = bool(
        communicator.rank == 0 and is_same and finished_summary(run_dir, after) is not None
    )
    if communicator.agree(StepStatus(ended=int(is_finished))).ended:
        note = (
            f"{run_dir}: the run is finished, {after.iterations:,} of {after.iterations:,} iterations; "
            "nothing was changed; to train it further, give more --iterations"
        )
        return RunChoice(
            run_dir=run_dir, config=before, resume=True, messages=(note,), is_finished=True
        )
    messages = tuple(_messages(run_dir, before, after)) if communicator.rank == 0 else ()
    return RunChoice(run_dir=run_dir, config=after, resume=True, messages=messages)


def _messages(run_dir: Path, before: TrainConfig, after: TrainConfig) -> list[str]:
    """Return where the run continues, and each changed setting with its effect on the learning rate."""
    done = iterations_done(run_dir)
    lines = [
        f"resuming {run_dir} after {done:,} of {after.iterations:,} iterations"
        if done is not None
        else f"{run_dir}: has no checkpoint yet, so it starts again with its own settings"
    ]
    stored = asdict(before)
    changed = {name: value for name, value in asdict(after).items() if value != stored[name]}
    lines += [
        f"--{name.replace('_', '-')} {value} instead of {stored[name]}"
        for name, value in changed.items()
    ]
    if changed.keys() & {"iterations", "learning_rate"}:
        lines.append(_schedule(before, after, done or 0))
    return lines


def _schedule(before: TrainConfig, after: TrainConfig, done: int) -> str:
    """Return the learning rate of the changed run, and how it differs at the iteration reached."""
    now = after.learning_rate_at(done)
    text = (
        f"learning rate {after.learning_rate:g} up to iteration {after.half_time:,}, then "
        f"{after.learning_rate / 10:g}: iteration {done + 1:,} has {now:g}"
    )
    if not done:
        return text
    was = before.learning_rate_at(done - 1)
    return f"{text}, {'as the one before' if now == was else f'the one before had {was:g}'}"
