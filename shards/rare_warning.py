"""Warnings about a condition that lasts: the first at once, the others rarely.

The trade-off: what changes between two warnings is not reported; a log that repeats one line hides the others.
"""

from __future__ import annotations

import logging
import time

EVERY_S = 600.0
"""The shortest time between two warnings of one kind."""


class RareWarning:
    """Logs a warning at most once in ten minutes."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._logged = -EVERY_S

    def __call__(self, message: str, *arguments: object) -> None:
        """Log the warning, unless one was logged a short time ago."""
        now = time.monotonic()
        if now - self._logged >= EVERY_S:
            self._logged = now
            self._log.warning(message, *arguments)
