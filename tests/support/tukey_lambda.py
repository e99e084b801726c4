"""The standard deviation of the distribution that read noise is drawn from."""

from __future__ import annotations

import math


def tukey_lambda_std(shape: float) -> float:
    """Return the standard deviation of Tukey's lambda distribution of scale 1 (Joiner, Rosenblatt 1971)."""
    if abs(shape) < 1e-6:
        return math.pi / math.sqrt(3.0)
    beta = math.gamma(shape + 1.0) ** 2 / math.gamma(2.0 * shape + 2.0)
    return math.sqrt(2.0 / shape**2 * (1.0 / (2.0 * shape + 1.0) - beta))
