"""Show progress: a live screen on a terminal, lines in a pipe, JSON lines on request.

The caller only stores its newest state; a thread reads the spool and draws, so that the display costs a
training step only one assignment (docs/concepts.md has the figures). The trade-off: the display is up to a
second old.
"""

from __future__ import annotations

import errno
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from darkprep.shards import DarkprepError
from darkprep.trainer.records import StepReport
from darkprep.view.numbers import printable
from darkprep.view.screen import screen
from darkprep.view.status import SpoolStatus, progress_of_step
from darkprep.view.text import summary_line

log = logging.getLogger(__name__)

LogFormat = Literal["text", "json"]
ReadStatus = Callable[[], SpoolStatus]
OnStatus = Callable[[SpoolStatus], None]

DRAW_INTERVAL_S = 0.25
READ_INTERVAL_S = 1.0
_LINE_INTERVAL_S = 5.0
_MAX_LINE_INTERVAL_S = 60.0
_JOIN_S = 10.0


class Progress:
    """Shows the progress of some work on stderr. Use as a context manager.

    `show` is for work that has one line to show; `monitor` is for work on a spool.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        log_format: LogFormat = "text",
        console: Console | None = None,
        on_stdout: bool = False,
    ) -> None:
        """Create a display; `on_stdout` is for a command whose only result is the display."""
        self._json = log_format == "json" and not quiet
        self.output_closed = threading.Event()
        """Set when the program that reads the output has ended; the work continues without output."""
        self._console = console or _PipeConsole(
            self.output_closed, stderr=not on_stdout, quiet=quiet, highlight=False
        )
        # Not Console.is_terminal: FORCE_COLOR makes that true in a pipe.
        is_screen = self._console.file.isatty() and not self._console.is_dumb_terminal
        self._live = (
            # Not "ellipsis": its last line is as wide as the terminal, where a `^C` would begin another.
            Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                vertical_overflow="crop",
            )
            if is_screen and not quiet and not self._json
            else None
        )
        self._quiet = quiet
        self._lock = threading.Lock()
        self._shown = float("-inf")
        self._handler = _WarningHandler(self)
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
            # rich draws the last state once more, whole: on a short terminal its top could not be erased.
            self._live.update(Text(""), refresh=True)
            self._live.stop()

    def show(self, text: str, *, always: bool = False) -> None:
        """Replace the line shown before by another one, if enough time has passed or `always` is set."""
        now = time.monotonic()
        if not always and now - self._shown < (DRAW_INTERVAL_S if self._live else _LINE_INTERVAL_S):
            return
        self._shown = now
        if self._json:
            self.event("progress", text=text)
        elif self._live:
            self._live.update(Text(text, overflow="fold"), refresh=True)
        else:
            self._console.print(text, soft_wrap=True, markup=False)

    def print(self, text: str, *, event: str = "message") -> None:
        """Print a line that is not replaced, above the screen if there is one."""
        if self._json:
            self.event(event, text=text)
        else:
            self._console.print(text, soft_wrap=True, markup=False)

    def warn(self, text: str) -> None:
        """Print a line that the user needs even with `quiet`: on stderr then."""
        if self._quiet:
            with suppress(OSError):  # the program that read stderr may have ended
                sys.stderr.write(printable(f"darkprep: {text}") + "\n")
                sys.stderr.flush()
        else:
            self.print(text)

    def event(self, name: str, **fields: Any) -> None:
        """Print one JSON line if JSON lines were requested; otherwise do nothing."""
        if self._json:
            record = {"time": round(time.time(), 3), "event": name, **fields}
            with self._lock:
                try:
                    sys.stdout.write(json.dumps(record, default=str) + "\n")
                    sys.stdout.flush()
                except BrokenPipeError:
                    self._json = False
                    self._quiet = True
                    self.output_closed.set()

    @contextmanager
    def monitor(
        self, read_status: ReadStatus, *, title: str, on_status: OnStatus | None = None
    ) -> Iterator[StatusMonitor]:
        """Read and show the status of a spool about once a second during a `with` block.

        `on_status` is called with every status, even if nothing is shown.
        """
        draw = None if self._quiet else self._draw
        monitor = StatusMonitor(read_status, draw, on_status, title=title)
        if on_status or not self._quiet:
            monitor.start()
        try:
            yield monitor
        finally:
            monitor.stop()

    def _draw(self, status: SpoolStatus, title: str, elapsed_s: float) -> None:
        if self._quiet:
            return
        if self._live:
            width = self._console.size.width
            drawn = screen(status, title=title, elapsed_s=elapsed_s, width=width)
            self._live.update(drawn, refresh=True)
            return
        now = time.monotonic()
        # Long jobs fill logs: a line every 5 s at first, every minute after half an hour.
        interval = min(_MAX_LINE_INTERVAL_S, max(_LINE_INTERVAL_S, elapsed_s / 30))
        if now - self._shown < interval:
            return
        self._shown = now
        if self._json:
            self.event("progress", elapsed_s=round(elapsed_s, 1), **status.to_json())
        else:
            self._console.print(summary_line(status), soft_wrap=True, markup=False)


class _PipeConsole(Console):
    """A console that stops printing at a broken pipe or closed terminal, where rich's own console ends the program.

    It escapes control characters: names and files of others may hold terminal commands.
    """

    def __init__(self, closed: threading.Event, **options: Any) -> None:
        super().__init__(**options)
        self._closed = closed

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments to print; only segments of rich itself control the terminal."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

    def _check_buffer(self) -> None:
        """Write what is buffered. A terminal that was closed gives EIO, maybe before its SIGHUP arrives."""
        try:
            super()._check_buffer()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Print nothing from now on."""
        self.quiet = True
        self._closed.set()


class StatusMonitor:
    """A thread that reads a spool's status and draws it. `set_step` and `set_deadline` only store values."""

    def __init__(
        self,
        read_status: ReadStatus,
        draw: Callable[[SpoolStatus, str, float], None] | None,
        on_status: OnStatus | None,
        *,
        title: str,
    ) -> None:
        self._read_status, self._draw, self._on_status = read_status, draw, on_status
        self._title = title
        self._step: StepReport | None = None
        self._deadline: float | None = None
        self._began = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live-view", daemon=True)
        self.latest: SpoolStatus | None = None
        """The status that was read last; None before the first."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Read and draw the status a last time, and end the thread."""
        self._done.set()
        if self._thread.ident:
            self._thread.join(_JOIN_S)

    def set_step(self, report: StepReport) -> None:
        """Store the newest step of a training run in this process."""
        self._step = report

    def set_deadline(self, monotonic_s: float | None) -> None:
        """Store the `time.monotonic()` at which the training run will be ended; None for no deadline."""
        self._deadline = monotonic_s

    def gauges(self) -> dict[str, float]:
        """Return the size of the spool, for a line of metrics; empty before the first status is read."""
        latest = self.latest
        if latest is None:
            return {}
        return {"disk_bytes": latest.disk_bytes, "shards_ready": latest.shards_ready}

    def _run(self) -> None:
        read = float("-inf")
        while True:
            ends = self._done.wait(0 if read < 0 else DRAW_INTERVAL_S)
            try:
                if ends or time.monotonic() - read >= READ_INTERVAL_S:
                    read = time.monotonic()
                    self.latest = self._read_status()
                    if self._on_status:
                        self._on_status(self.latest)
                if self._draw and self.latest:
                    elapsed = time.monotonic() - self._began
                    self._draw(self._with_step(self.latest), self._title, elapsed)
            except (DarkprepError, OSError) as error:
                log.debug("the spool's status cannot be shown: %s", error)
            if ends:
                return

    def _with_step(self, status: SpoolStatus) -> SpoolStatus:
        """Return the status with the newest step, which is newer than the run's files."""
        if self._step is None:
            return status
        progress = progress_of_step(self._step, status.trainer.training)
        if self._deadline is not None:
            now = time.monotonic()
            progress = replace(
                progress, ends_in_s=max(0.0, self._deadline - now), clock_s=now - self._began
            )
        trainer = replace(
            status.trainer,
            alive=True,
            wait_fraction=self._step.data_wait_fraction,
            training=progress,
        )
        return replace(status, trainer=trainer)


class _WarningHandler(logging.Handler):
    """Prints warnings above the screen; printed directly, they would damage the screen."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.WARNING)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        """Print one warning."""
        try:
            self._progress.print(f"darkprep: {record.getMessage()}", event="warning")
        except Exception:  # noqa: BLE001 # logging's own convention: a handler never raises
            self.handleError(record)
