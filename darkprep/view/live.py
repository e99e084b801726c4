"""What people see while work goes on: a screen on a terminal, lines in a pipe, JSON lines on request.

The work only leaves its newest state here; a thread looks and draws, so that showing costs a training
step one assignment (docs/concepts/live-view.md has the figures). The trade-off: what is shown is up to
a second old.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal

from rich.console import Console
from rich.live import Live
from rich.text import Text

from darkprep.shards import DarkprepError
from darkprep.trainer.records import StepReport
from darkprep.view.screen import line, screen
from darkprep.view.status import limiting_side

log = logging.getLogger(__name__)

LogFormat = Literal["text", "json"]
Look = Callable[[], dict[str, Any]]
"""Gives the record of a spool now: `darkprep.view.status.spool_status`."""

DRAW_EVERY_S = 0.25
LOOK_EVERY_S = 1.0
_LINE_EVERY_S = 5.0
_LINE_AT_MOST_EVERY_S = 60.0
_JOIN_S = 10.0


class Progress:
    """Shows the latest state of some work. Use as a context manager.

    `show` is for simple work with one line to tell; `watching` for work on a spool.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        log_format: LogFormat = "text",
        console: Console | None = None,
        on_stdout: bool = False,
    ) -> None:
        """`on_stdout` is for a command whose whole result is what it shows."""
        self._json = log_format == "json" and not quiet
        self.unread = threading.Event()
        """Set when whoever read our lines has gone: the work goes on, unseen."""
        self._console = console or _Paper(
            self.unread, stderr=not on_stdout, quiet=quiet, highlight=False
        )
        # Not Console.is_terminal: FORCE_COLOR makes that true in a pipe.
        is_screen = self._console.file.isatty() and not self._console.is_dumb_terminal
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=True)
            if is_screen and not quiet and not self._json
            else None
        )
        self._quiet = quiet
        self._lock = threading.Lock()
        self._shown = float("-inf")
        self._handler = _Warnings(self)
        self._replaced: list[logging.Handler] = []

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        root = logging.getLogger()
        self._replaced, root.handlers = root.handlers, [self._handler]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        logging.getLogger().handlers = self._replaced
        if self._live:
            self._live.stop()

    # -- simple work ------------------------------------------------------------------------------

    def show(self, text: str, *, always: bool = False) -> None:
        """Show one line of simple work, if it is time to."""
        now = time.monotonic()
        if not always and now - self._shown < (DRAW_EVERY_S if self._live else _LINE_EVERY_S):
            return
        self._shown = now
        if self._json:
            self.event("progress", text=text)
        elif self._live:
            self._live.update(Text(text, overflow="fold"), refresh=True)
        else:
            self._console.print(text, soft_wrap=True, markup=False)

    def say(self, text: str, *, event: str = "message") -> None:
        """Print a line that stays, above the screen if there is one."""
        if self._json:
            self.event(event, text=text)
        else:
            self._console.print(text, soft_wrap=True, markup=False)

    def event(self, name: str, **fields: Any) -> None:
        """With JSON lines, print one; else nothing."""
        if self._json:
            told = {"time": round(time.time(), 3), "event": name, **fields}
            with self._lock:
                try:
                    sys.stdout.write(json.dumps(told, default=str) + "\n")
                    sys.stdout.flush()
                except BrokenPipeError:
                    self._json = False
                    self._quiet = True
                    self.unread.set()

    # -- work on a spool --------------------------------------------------------------------------

    @contextmanager
    def watching(
        self, look: Look, *, title: str, also: Callable[[dict[str, Any]], None] | None = None
    ) -> Iterator[Watch]:
        """Look at a spool about once a second, show it, and tell `also`, until the block ends."""
        watch = Watch(look, None if self._quiet else self._draw, also, title=title)
        if also or not self._quiet:
            watch.start()
        try:
            yield watch
        finally:
            watch.stop()

    def _draw(self, record: dict[str, Any], title: str, elapsed_s: float) -> None:
        if self._quiet:
            return
        if self._live:
            drawn = screen(record, title=title, elapsed_s=elapsed_s, width=self._console.size.width)
            self._live.update(drawn, refresh=True)
            return
        now = time.monotonic()
        # Long jobs fill logs: a line every 5 s at first, every minute after half an hour.
        every = min(_LINE_AT_MOST_EVERY_S, max(_LINE_EVERY_S, elapsed_s / 30))
        if now - self._shown < every:
            return
        self._shown = now
        if self._json:
            self.event("progress", elapsed_s=round(elapsed_s, 1), **record)
        else:
            self._console.print(line(record), soft_wrap=True, markup=False)


class _Paper(Console):
    """A console that falls silent when nobody reads it, where rich's would end the program."""

    def __init__(self, unread: threading.Event, **options: Any) -> None:
        super().__init__(**options)
        self._unread = unread

    def on_broken_pipe(self) -> None:
        """Say nothing from now on."""
        self.quiet = True
        self._unread.set()


class Watch:
    """The thread that looks and draws. The work hands in steps with `step`, which only stores them."""

    def __init__(
        self,
        look: Look,
        draw: Callable[[dict[str, Any], str, float], None] | None,
        also: Callable[[dict[str, Any]], None] | None,
        *,
        title: str,
    ) -> None:
        self._look, self._draw, self._also, self._title = look, draw, also, title
        self._step: StepReport | None = None
        self._ends: float | None = None
        self._began = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live-view", daemon=True)
        self.latest: dict[str, Any] = {}
        """The spool's record of the last look; empty before the first."""

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look a last time and end."""
        self._done.set()
        if self._thread.ident:
            self._thread.join(_JOIN_S)

    def step(self, report: StepReport) -> None:
        """Take the newest state of the training at hand."""
        self._step = report

    def gauges(self) -> dict[str, float]:
        """What the spool weighed at the last look, for a line of metrics; empty before the first."""
        names = ("disk_bytes", "shards_ready")
        return {name: self.latest[name] for name in names if name in self.latest}

    def ends_at(self, monotonic_s: float | None) -> None:
        """The training ends by the clock, at this `time.monotonic()`."""
        self._ends = monotonic_s

    def _run(self) -> None:
        looked = float("-inf")
        while True:
            ends = self._done.wait(0 if looked < 0 else DRAW_EVERY_S)
            try:
                if ends or time.monotonic() - looked >= LOOK_EVERY_S:
                    looked = time.monotonic()
                    self.latest = self._look()
                    if self._also:
                        self._also(self.latest)
                if self._draw and self.latest:
                    elapsed = time.monotonic() - self._began
                    self._draw(self._merged(), self._title, elapsed)
            except (DarkprepError, OSError) as error:
                log.debug("nothing to show: %s", error)
            if ends:
                return

    def _merged(self) -> dict[str, Any]:
        """The last look, with what the training at hand knows better."""
        if self._step is None:
            return self.latest
        trainer = self.latest["trainer"] | trainer_of(self._step)
        if self._ends is not None:
            now = time.monotonic()
            trainer |= {"ends_in_s": max(0.0, self._ends - now), "clock_s": now - self._began}
        merged = self.latest | {"trainer": trainer}
        return merged | {"limiting_side": limiting_side(merged)}


def trainer_of(step: StepReport) -> dict[str, Any]:
    """A step as the `trainer` part of a spool's record."""
    return {
        "alive": True,
        "iteration": step.iteration,
        "iterations": step.iterations,
        "loss": step.loss,
        "learning_rate": step.learning_rate,
        "iterations_per_s": step.iterations_per_s,
        "samples_per_s": step.samples_per_s,
        "wait_fraction": step.data_wait_fraction,
        "gpu_busy_percent": step.gpu_busy_percent,
        "eta_s": step.eta_s if step.iterations_per_s else None,
        "shards_deleted": step.shards_deleted,
    }


class _Warnings(logging.Handler):
    """Prints warnings through the view, which would otherwise be torn by them."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.WARNING)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        try:
            self._progress.say(f"darkprep: {record.getMessage()}", event="warning")
        except Exception:  # noqa: BLE001 # logging's own convention: a handler never raises
            self.handleError(record)
