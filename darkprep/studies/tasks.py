"""Run the tasks of a study: each task once, by any of several processes, even if all are interrupted.

A task makes a data set, trains a network, or evaluates one. Its result is recorded in a file when it is
finished, so that the same command continues a study; a file lock per task lets several processes share an
output directory. The trade-off: a process that finds all tasks locked looks again only every two seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from darkprep.shards import DarkprepError, OptionError, SpoolError
from darkprep.shards.decode import is_number
from darkprep.shards.files import (
    disk_errors,
    open_for_writing,
    read_json,
    refuse_link,
    write_json,
)
from darkprep.view.live import Progress
from darkprep.view.numbers import format_duration

_POLL_S = 2.0
_RECORDS = "cells"
"""Subdirectory of the output directory for the records of tasks."""
_LEVELS = 3
"""Levels of directories that a study makes below its output directory, such as `trainings/NAME/run`; a run checks its own."""


class Stopped(DarkprepError):
    """The user stopped the study; finished tasks are kept."""

    def __init__(self) -> None:
        super().__init__("stopped; run the same command again to continue")


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyContext:
    """What all tasks of a study use: directories, progress display and stop signal."""

    out: Path
    root: Path
    """Directory of the photographs."""
    progress: Progress
    stop: threading.Event

    def raise_if_stopped(self) -> None:
        """Raise Stopped when the user has stopped the study."""
        if self.stop.is_set():
            raise Stopped

    def result(self, name: str) -> dict[str, Any] | None:
        """Return the result of a task; None if it is not finished."""
        record = read_json(self.record_path(name)) or {}
        result = record.get("result")
        return result if isinstance(result, dict) else None

    def seconds(self, name: str) -> float:
        """Return for how many seconds a task has run, all attempts together."""
        seconds = (read_json(self.record_path(name)) or {}).get("seconds")
        return float(seconds) if is_number(seconds) else 0.0

    def record_path(self, name: str) -> Path:
        """Return the path of the file with a task's specification and result."""
        return self.out / _RECORDS / f"{name}.json"


class Task(Protocol):
    """One step of a study."""

    @property
    def name(self) -> str:
        """The task's name; it is unique in the output directory and usable as a file name."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the tasks that must be finished before this one."""

    def spec(self) -> dict[str, Any]:
        """Return all settings on which the result depends, as JSON values."""

    def run(self, context: StudyContext) -> dict[str, Any]:
        """Run the task, continuing an earlier attempt, and return its result as JSON values."""


def run_tasks(tasks: Sequence[Task], context: StudyContext) -> None:
    """Run all tasks that are not finished, or wait until other processes have finished them.

    Raises Stopped, OptionError when a record in the output directory has another specification, SpoolError
    when a part of that directory is a link, and the errors of the tasks.
    """
    _refuse_links(context.out)
    with disk_errors(context.out):
        (context.out / _RECORDS).mkdir(parents=True, exist_ok=True)
    remaining, announced = list(tasks), False
    while remaining:
        context.raise_if_stopped()
        finished = [
            task
            for task in remaining
            if _finish_if_possible(task, context, f"{tasks.index(task) + 1}/{len(tasks)}")
        ]
        remaining = [task for task in remaining if task not in finished]
        if remaining and not finished:
            if not announced:
                names = ", ".join(task.name for task in remaining)
                context.progress.print(
                    f"waiting for another process, which runs these tasks: {names}"
                )
                announced = True
            context.stop.wait(_POLL_S)


def _refuse_links(out: Path) -> None:
    """Raise SpoolError if a file or directory of a study is a link: the study may come from someone else."""
    for level in range(1, _LEVELS + 1):
        for path in out.glob("/".join("*" * level)):
            refuse_link(path)


def _finish_if_possible(task: Task, context: StudyContext, position: str) -> bool:
    """Run a task unless it is finished, locked, or must wait for others; return whether it is finished."""
    if _is_finished(task, context):
        return True
    if any(context.result(name) is None for name in task.needs):
        return False
    with _lock(context.record_path(task.name).with_suffix(".lock")) as locked:
        if not locked:
            return False
        if not _is_finished(task, context):  # by another process, a moment ago
            context.raise_if_stopped()
            _run(task, context, position)
    return True


def _run(task: Task, context: StudyContext, position: str) -> None:
    path = context.record_path(task.name)
    before = context.seconds(task.name)
    record: dict[str, Any] = {"spec": task.spec(), "seconds": before, "result": None}
    write_json(path, record)
    context.progress.print(f"[{position}] {task.name}")
    began = time.monotonic()
    try:
        record["result"] = task.run(context)
    finally:
        record["seconds"] = before + time.monotonic() - began
        write_json(path, record)
    context.progress.print(f"[{position}] {task.name} took {format_duration(record['seconds'])}")


def _is_finished(task: Task, context: StudyContext) -> bool:
    """Return whether a task has a result. Raises OptionError if the recorded specification differs from the task's."""
    record = read_json(context.record_path(task.name))
    if record is None:
        return False
    spec, recorded = task.spec(), record.get("spec")
    if recorded != spec:
        differing = ", ".join(
            key for key in spec if not isinstance(recorded, dict) or recorded.get(key) != spec[key]
        )
        raise OptionError(
            f"{context.out}: holds {task.name} with other settings ({differing}); choose another --out"
        )
    return context.result(task.name) is not None


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Lock a task and yield True; yield False if another process has locked it.

    The system releases the locks of processes that died.
    """
    try:
        descriptor = open_for_writing(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise SpoolError(
            f"{path}: cannot be locked ({error.strerror}); choose an --out on a disk that supports file locks"
        ) from error
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        yield False
        return
    try:
        yield True
    finally:
        os.close(descriptor)
