"""Record a spool's disk use during a run, in spool.jsonl in the run directory.

The trade-off: the older a run is, the fewer lines are written: the distance between two lines is a
thousandth of the run's age, so a day gives some five thousand lines. Each line holds the smallest and
largest values since the line before.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from darkprep.shards import DarkprepError
from darkprep.shards.decode import decode
from darkprep.shards.files import (
    disk_errors,
    json_objects,
    open_for_writing,
    read_last_lines,
)
from darkprep.view.status import SpoolStatus

log = logging.getLogger(__name__)

FILE = "spool.jsonl"
_MIN_INTERVAL_S = 1.0
_INTERVALS_PER_AGE = 1000


@dataclass(frozen=True, kw_only=True)
class SpoolHistoryLine:
    """One line of spool.jsonl."""

    seconds: float
    """Seconds since the run was started, including the time before it was resumed."""
    disk_bytes: int
    """Maximum since the previous line."""
    least_disk_bytes: int
    """Minimum since the previous line."""
    shards_ready: int | None = None
    budget_bytes: int | None = None


class SpoolHistory:
    """Writes spool.jsonl of a run; its caller passes a status about once a second."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / FILE
        self._began: float | None = None
        self._written = float("-inf")
        self._most = self._least = 0
        self._failed = False

    def start(self) -> None:
        """Start to write, or continue after the last line; before this call `add` does nothing."""
        before = read_history(self._path.parent)
        self._began = time.monotonic() - (before[-1].seconds if before else 0.0)

    def add(self, status: SpoolStatus) -> None:
        """Take a status into account, and write a line if one is due. The first write error is logged; none is raised."""
        if self._began is None:
            return
        used = status.disk_bytes
        self._most = max(self._most, used)
        self._least = min(self._least or used, used)
        now = time.monotonic() - self._began
        if now - self._written < max(_MIN_INTERVAL_S, now / _INTERVALS_PER_AGE):
            return
        line = SpoolHistoryLine(
            seconds=round(now, 1),
            disk_bytes=self._most,
            least_disk_bytes=self._least,
            shards_ready=status.shards_ready,
            budget_bytes=status.budget_bytes,
        )
        self._written, self._most, self._least = now, used, used
        try:
            with (
                disk_errors(self._path),
                open(self._path, "a", encoding="utf-8", opener=open_for_writing) as file,
            ):
                file.write(json.dumps(asdict(line)) + "\n")
        except (DarkprepError, OSError) as error:
            if not self._failed:
                log.warning("the spool's disk use could not be recorded for the report: %s", error)
            self._failed = True


def read_history(run_dir: Path) -> list[SpoolHistoryLine]:
    """Return the valid lines of a run's spool.jsonl; none if the file is missing or cannot be read."""
    try:
        rows = read_last_lines(run_dir / FILE)
    except OSError:
        return []
    lines = []
    for record in json_objects(rows):
        try:
            lines.append(decode(SpoolHistoryLine, record))
        except ValueError:
            continue
    return lines
