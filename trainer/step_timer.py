"""Measure the pace of a training run and the share of time in which its device waited for data.

The trade-off: rates are means over the last 64 steps, so they follow a change only after 64 steps.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator

import torch

from darkprep.trainer.device import synchronize

_STEPS = 64
_SHORTEST_S = 1e-9


class StepTimer:
    """The clock of a training run: it starts at the first batch and does not count evaluations.

    `wait_s` is a function that returns for how many seconds the device has waited for data so far.
    """

    def __init__(self, wait_s: Callable[[], float], device: torch.device) -> None:
        self._wait_s = wait_s
        self._device = device
        self._wait_before_s = 0.0
        self._started: float | None = None
        self._stopped = 0.0
        self._marks: deque[tuple[float, float]] = deque(maxlen=_STEPS + 1)
        """Clock time and seconds waited so far, after each of the last steps."""

    def start(self) -> None:
        """Start the clock at the arrival of the first batch; later calls do nothing."""
        if self._started is None:
            synchronize(self._device)
            self._wait_before_s = self._wait_s()
            self._started = self._stopped = time.perf_counter()
            self._marks.append((self._started, 0.0))

    def step(self) -> None:
        """Count a step that has just ended."""
        self.stop()
        self._marks.append((self._stopped, self.waited_s()))

    def stop(self) -> None:
        """Count the time up to now as training time: the time of a step, or of a wait for a batch that did not come."""
        if self._started is not None:
            self._stopped = time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of the block from all figures."""
        synchronize(self._device)
        began = time.perf_counter()
        yield
        pause = time.perf_counter() - began
        if self._started is not None:
            self._started, self._stopped = self._started + pause, self._stopped + pause
        later = [(clock + pause, waited) for clock, waited in self._marks]
        self._marks = deque(later, maxlen=self._marks.maxlen)

    def trained_s(self) -> float:
        """Return the seconds from the first batch to the end of the last step."""
        return 0.0 if self._started is None else self._stopped - self._started

    def waited_s(self) -> float:
        """Return for how many seconds the device has waited for data since the first batch."""
        return 0.0 if self._started is None else self._wait_s() - self._wait_before_s

    def rates(self) -> tuple[float, float]:
        """Return steps per second, and the share of time spent waiting in [0, 1]; zeros before the second step."""
        if len(self._marks) < 2:
            return 0.0, 0.0
        (began, waited_before), (now, waited) = self._marks[0], self._marks[-1]
        elapsed = max(now - began, _SHORTEST_S)
        return (len(self._marks) - 1) / elapsed, min(1.0, (waited - waited_before) / elapsed)
