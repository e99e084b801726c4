"""Progress for people: one live line block on a terminal, a plain line now and then in a pipe.

The trade-off: nothing is drawn more often than four times a second, so showing never slows the work.
"""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from darkprep.values import spelled_bytes, spelled_seconds
from pipeline.produce import ProducerReport

_DRAW_EVERY_S = 0.25
_LINE_EVERY_S = 5.0


class Progress:
    """Shows the latest state of some work. Use as a context manager."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=True)
            if self._console.is_terminal and not quiet
            else None
        )
        self._shown = float("-inf")

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, line: str, *, always: bool = False) -> None:
        """Show the state now if it is time to."""
        now = time.monotonic()
        if not always and now - self._shown < (_DRAW_EVERY_S if self._live else _LINE_EVERY_S):
            return
        self._shown = now
        if self._live:
            self._live.update(Text(line, overflow="fold"), refresh=True)
        else:
            self._console.print(line, soft_wrap=True)

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._console.print(line, soft_wrap=True)


def producer_line(report: ProducerReport) -> str:
    """One line on what a producer does."""
    goal = "" if report.until is None else f"/{report.until}"
    done = report.next_needed + report.shards_ready
    pace = report.shards_made / report.running_s if report.running_s else 0.0
    left = float("inf") if report.until is None or not pace else (report.until - done) / pace
    parts = [
        f"shards {done}{goal}",
        f"{report.shards_ready} ready",
        f"{report.mb_per_s:.1f} MB/s",
        f"budget {spelled_bytes(report.disk_bytes)} of {spelled_bytes(report.budget_bytes)}",
        f"frames decoded {report.frames_decoded} of {report.frames_wanted}",
    ]
    if report.skipped:
        parts.append(f"{report.skipped} files skipped")
    if report.deaths:
        parts.append(f"{report.deaths} workers replaced")
    parts.append(f"ETA {spelled_seconds(left)}" if report.state == "making" else report.state)
    return " | ".join(parts)
