"""Choose the run that a training command continues, and its settings; report what the given options change.

The trade-off: only a run's configuration is stored. The spool's location and the number of producer
processes belong to the machine, so they must be given again; the printed command contains them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from darkprep.jobs.run_directory import new_run, newest_run
from darkprep.model.own import is_own
from darkprep.shards import OptionError
from darkprep.trainer.communicator import Communicator, StepStatus
from darkprep.trainer.config import IDENTITY_FIELDS, TrainConfig
from darkprep.trainer.run_files import finished_summary, iterations_done, read_run_config


@dataclass(frozen=True, kw_only=True)
class RunChoice:
    """The run that a training command starts or continues."""

    run_dir: Path
    config: TrainConfig
    resume: bool
    """Whether the directory holds a run."""
    messages: tuple[str, ...] = ()
    """Lines for the user about the run; on rank 0 only."""
    is_finished: bool = False
    """Whether the run has already done all iterations."""


def choose_run(
    run_dir: Path | None,
    settings: Mapping[str, Any],
    given: frozenset[str],
    communicator: Communicator,
    *,
    resume: bool,
) -> RunChoice:
    """Return the run in `run_dir`; without `run_dir`, the newest run if `resume` is set, otherwise a new run.

    `settings` are fields of TrainConfig. In a run that is resumed, only the settings that the user has
    `given` replace its own settings; a run that is started, also for lack of a run to resume, uses all of
    them. Only rank 0 reads the directory. Raises OptionError for an invalid setting or configuration.
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
        after = replace(before, **{field: settings[field] for field in given})
        run = _resumed(Path(name), before, after, communicator)
        unnamed = [
            one for one in ("model", "loss") if one not in given and is_own(stored.get(one, ""))
        ]
        if unnamed and not run.is_finished:
            again = " ".join(f"--{one} {stored[one]}" for one in unnamed)
            raise OptionError(
                f"{name}: this run uses code of your own; give {again} again (for safety, darkprep imports only code that you name yourself)"
            )
        return run


def _find_run(run_dir: Path | None, *, resume: bool) -> tuple[Path, TrainConfig | None]:
    """Return a run's directory, and its configuration if there is a run to resume."""
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
    """Return lines that state where the run continues, and each changed setting with its effect on the learning rate."""
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
    """Return the learning rate of the changed run as text, and how it differs at the iteration reached."""
    now = after.learning_rate_at(done)
    text = (
        f"learning rate {after.learning_rate:g} up to iteration {after.half_time:,}, then "
        f"{after.learning_rate / 10:g}: iteration {done + 1:,} has {now:g}"
    )
    if not done:
        return text
    was = before.learning_rate_at(done - 1)
    return f"{text}, {'as before' if now == was else f'before it was {was:g}'}"
