"""Log warnings about a lasting condition: the first one at once, later ones rarely.

The trade-off: changes between two warnings are not reported; but a log that repeats one line would hide all
others.
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
        """Log the warning, unless it was logged within the last ten minutes."""
        now = time.monotonic()
        if now - self._logged >= EVERY_S:
            self._logged = now
            self._log.warning(message, *arguments)
