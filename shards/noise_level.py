"""How much noise an exposure has: shot noise and read noise, in its own codes.

The trade-off: two numbers for all pixels of an exposure; row noise counts as noise of each pixel, and colours are
taken to have the same gain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class NoiseLevel:
    """The noise of one exposure: a signal of D codes above black has the variance `gain` * D + `read_sigma` squared.

    Raises ValueError, which names the invalid field.
    """

    gain: float
    """The system gain K in codes per electron."""
    read_sigma: float
    """Standard deviation in codes of what the exposure would be without light."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.gain) and self.gain > 0):
            raise ValueError(f"gain must be positive, not {self.gain}")
        if not (math.isfinite(self.read_sigma) and self.read_sigma >= 0):
            raise ValueError(f"read_sigma must be at least 0, not {self.read_sigma}")
