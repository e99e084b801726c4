"""The noise parameters of one exposure, and of one ISO of a camera."""

from __future__ import annotations

import math
from dataclasses import dataclass

LARGEST = 1e9
"""The largest number in a record; larger ones are damage."""


def checked_number(name: str, value: object, *, low: float = -LARGEST) -> float:
    """Return a number from a file as a float. Raises TypeError for another type, ValueError if it is out of range."""
    if type(value) not in (int, float):
        raise TypeError(f"{name} must be a number")
    assert isinstance(value, int | float)
    if not low <= value <= LARGEST:  # also false for NaN
        raise ValueError(f"{name} must be from {low:g} to {LARGEST:g}")
    return float(value)


@dataclass(frozen=True, kw_only=True)
class NoiseParameters:
    """The noise parameters of one exposure. Raises ValueError, which names the invalid field."""

    gain: float
    """The system gain K, in codes per electron."""
    read_shape: float
    """Tukey lambda of the read noise: 0 is the logistic distribution, negative has longer tails."""
    read_scale: float
    """Scale of the read noise in codes; NOT its standard deviation."""
    row_sigma: float
    """Standard deviation in codes of the offset that each row has as a whole."""
    colour_bias: tuple[float, float, float, float]
    """Offset in codes of R, G (in the rows of R), B, G (in the rows of B)."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.gain) and self.gain > 0):
            raise ValueError(f"gain must be positive, not {self.gain}")
        if not (math.isfinite(self.read_shape) and abs(self.read_shape) < 0.5):
            raise ValueError(f"read_shape must lie within (-0.5, 0.5), not {self.read_shape}")
        if not (self.read_scale >= 0 and self.row_sigma >= 0):
            raise ValueError("read_scale and row_sigma must not be negative")
        if not all(map(math.isfinite, self.colour_bias)):
            raise ValueError("colour_bias must be finite")


@dataclass(frozen=True, kw_only=True)
class IsoNoise:
    """The noise parameters that were measured at one ISO. Raises ValueError for an ISO that is not positive."""

    iso: float
    parameters: NoiseParameters

    def __post_init__(self) -> None:
        if not (math.isfinite(self.iso) and self.iso > 0):
            raise ValueError(f"iso must be positive, not {self.iso}")
