"""Carries out the cells of a study: each once, by whoever comes first, however often all are interrupted.

A cell is a data set to make, a training, or a table's entry. What it found stands in a record that is
written when it is done, so the same command goes on where it was; a lock per cell lets several processes
share one output folder. The trade-off: a process that finds all cells taken looks again every two seconds.
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
from darkprep.shards.files import disk_errors, read_json, write_json
from darkprep.view.live import Progress
from darkprep.view.numbers import format_duration

_LOOK_AGAIN_S = 2.0


class Stopped(DarkprepError):
    """The user asked to stop; all finished cells are kept."""

    def __init__(self) -> None:
        super().__init__("stopped; give the same command again and it goes on")


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """Where a study works and who watches."""

    out: Path
    root: Path
    """Where the photographs lie."""
    progress: Progress
    stop: threading.Event

    def check(self) -> None:
        """Raises Stopped when the user wants an end."""
        if self.stop.is_set():
            raise Stopped

    def result(self, name: str) -> dict[str, Any] | None:
        """What a finished cell found; None while it is not finished."""
        record = read_json(self.record_path(name)) or {}
        return record.get("result")

    def seconds(self, name: str) -> float:
        """How long a finished cell took, all attempts together."""
        return float((read_json(self.record_path(name)) or {}).get("seconds", 0.0))

    def record_path(self, name: str) -> Path:
        """The file that says what a cell is, and what it found."""
        return self.out / "cells" / f"{name}.json"


class Cell(Protocol):
    """One piece of a study."""

    @property
    def name(self) -> str:
        """Unique in its output folder, and a file name."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the cells that must be finished before."""

    def spec(self) -> dict[str, Any]:
        """Everything that its result depends on, as JSON values."""

    def run(self, work: Work) -> dict[str, Any]:
        """Do it, going on where an earlier attempt was; what it found, as JSON values."""


def carry_out(cells: Sequence[Cell], work: Work) -> None:
    """Finish all cells, or wait for other processes to. Raises Stopped, OptionError when a cell in the
    folder is another one than wanted, and whatever cells raise."""
    with disk_errors(work.out):
        (work.out / "cells").mkdir(parents=True, exist_ok=True)
    left, told = list(cells), False
    while left:
        work.check()
        settled = [cell for cell in left if _settle(cell, work, f"{_position(cell, cells)}")]
        left = [cell for cell in left if cell not in settled]
        if left and not settled:
            if not told:
                names = ", ".join(cell.name for cell in left)
                work.progress.print(f"waiting for another process that works on: {names}")
                told = True
            work.stop.wait(_LOOK_AGAIN_S)


def _position(cell: Cell, cells: Sequence[Cell]) -> str:
    return f"{list(cells).index(cell) + 1}/{len(cells)}"


def _settle(cell: Cell, work: Work, position: str) -> bool:
    """Finish a cell if that can be done now; whether it is finished."""
    if _is_finished(cell, work):
        return True
    if any(work.result(name) is None for name in cell.needs):
        return False
    with _claim(work.record_path(cell.name).with_suffix(".lock")) as mine:
        if not mine:
            return False
        if not _is_finished(cell, work):  # by another process, a moment ago
            work.check()
            _finish(cell, work, position)
    return True


def _finish(cell: Cell, work: Work, position: str) -> None:
    path = work.record_path(cell.name)
    spent = work.seconds(cell.name)
    record: dict[str, Any] = {"spec": cell.spec(), "seconds": spent, "result": None}
    write_json(path, record)
    work.progress.print(f"[{position}] {cell.name}")
    began = time.monotonic()
    try:
        record["result"] = cell.run(work)
    finally:
        record["seconds"] = spent + time.monotonic() - began
        write_json(path, record)
    work.progress.print(f"[{position}] {cell.name} took {format_duration(record['seconds'])}")


def _is_finished(cell: Cell, work: Work) -> bool:
    record = read_json(work.record_path(cell.name))
    if record is None:
        return False
    wanted, there = cell.spec(), record.get("spec")
    if there != wanted:
        differing = ", ".join(
            key for key in wanted if not isinstance(there, dict) or there.get(key) != wanted[key]
        )
        raise OptionError(
            f"{work.out}: holds {cell.name} made with another {differing}; choose another --out"
        )
    return record.get("result") is not None


@contextlib.contextmanager
def _claim(path: Path) -> Iterator[bool]:
    """Hold a cell against other processes; false when one has it. The system frees it for the dead."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise SpoolError(f"{path}: cannot be locked ({error.strerror})") from error
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
