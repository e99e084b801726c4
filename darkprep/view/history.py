"""The course of a spool during a run: how full it was and how many shards stood ready, second by second.

The trade-off: lines get rarer as a run grows older, a thousandth of its age apart, so that a day makes
some five thousand; each tells the most and the least that was seen since the one before.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from darkprep.shards import DarkprepError
from darkprep.shards.files import disk_errors, json_objects, open_regular_file, read_regular_file

log = logging.getLogger(__name__)

FILE = "spool.jsonl"
_EVERY_S = 1.0
_SHARE = 1000
_LEAST, _MOST = 1e-100, 1e18
"""Between these, but for 0, a number makes sense: its square, its logarithm and sums of it are numbers too."""


class SpoolHistory:
    """Takes a spool's record (darkprep/view/status.py) now and then, and writes spool.jsonl of a run."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / FILE
        self._began: float | None = None
        self._written = float("-inf")
        self._most = self._least = 0
        self._failed = False

    def begin(self) -> None:
        """The directory is ours from now on: go on after the last line of it, if there is one."""
        before = checked_lines(self._path, ("seconds",))
        self._began = time.monotonic() - (before[-1]["seconds"] if before else 0.0)

    def take(self, record: dict[str, Any]) -> None:
        """Note a record; write a line when it is time to. A full disk is said once and costs no run."""
        if self._began is None:
            return
        used = int(record["disk_bytes"])
        self._most = max(self._most, used)
        self._least = min(self._least or used, used)
        now = time.monotonic() - self._began
        if now - self._written < max(_EVERY_S, now / _SHARE):
            return
        line = {
            "seconds": round(now, 1),
            "disk_bytes": self._most,
            "least_disk_bytes": self._least,
            "shards_ready": record["shards_ready"],
            "budget_bytes": record["budget_bytes"],
        }
        self._written, self._most, self._least = now, used, used
        try:
            with (
                disk_errors(self._path),
                open(self._path, "a", encoding="utf-8", opener=open_regular_file) as file,
            ):
                file.write(json.dumps(line) + "\n")
        except (DarkprepError, OSError) as error:
            if not self._failed:
                log.warning("the course of the spool is not written down: %s", error)
            self._failed = True


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file with one a line; damaged lines are left out, no file is no lines."""
    try:
        text = read_regular_file(path).decode("utf-8", "replace")
    except OSError:
        return []
    return json_objects(text.splitlines())


def checked_lines(path: Path, numbers: Sequence[str]) -> list[dict[str, Any]]:
    """Those of `read_lines` that have all of `numbers`, as numbers; the others are as good as damaged."""
    return [
        line for line in read_lines(path) if all(number(line, name) is not None for name in numbers)
    ]


def number(record: dict[str, Any], name: str) -> float | None:
    """The number of that name in a record that anybody may have edited; None where there is none."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if value == 0 or _LEAST < abs(value) < _MOST else None
