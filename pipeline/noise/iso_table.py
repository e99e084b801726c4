"""Noise parameters measured at several ISO values, for any ISO: interpolated within a gain mode, never across modes.

The trade-off: between the last ISO of one gain mode and the first of the next, the nearest of the two is
used, because the ISO at which the camera switches is not measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from darkprep.pipeline.noise.parameters import LARGEST, IsoNoise, NoiseParameters
from darkprep.shards.errors import OptionError

_MOST_ISOS = 1000
"""ISO values of a table at most; a camera has some forty."""


def check_iso(iso: float) -> None:
    """Raise OptionError unless `iso` is a positive number."""
    if not (math.isfinite(iso) and iso > 0):
        raise OptionError(f"ISO must be positive, not {iso}")


def hardware_iso(iso: float, lowest: float) -> float:
    """Return the ISO whose gain the sensor has: an extended ISO below `lowest` has that of twice the ISO.

    Source: the dark frames that the authors of PMN published for the Sony A7S II are equal at ISO 50 and 100, 64
    and 125, 80 and 160.
    """
    while 0 < iso < lowest:
        iso *= 2
    return iso


@dataclass(frozen=True, kw_only=True)
class IsoTable:
    """The noise of one camera at measured ISO values. Raises ValueError, which names the invalid field."""

    black: float
    """Black level of the codes in which the camera was measured."""
    white: int
    """White level of the codes in which the camera was measured."""
    modes: tuple[tuple[IsoNoise, ...], ...]
    """The gain modes in ascending order of ISO, each with its measured ISO values in ascending order."""
    drawn_isos: tuple[float, float]
    """The lowest and the highest ISO of simulated exposures."""
    bias_resets: tuple[float, ...] = ()
    """ISO values from which on the camera corrects its black level anew: no colour bias is used across them."""
    lowest_iso: float = 0.0
    """The lowest ISO that is not extended; 0 if unknown."""
    read_spread: float = 0.0
    """Standard deviation of the logarithm of the read noise's scale between exposures."""
    row_spread: float = 0.0
    """Standard deviation of the logarithm of the row noise between exposures."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.black) and 0 <= self.black < self.white <= LARGEST):
            raise ValueError(f"black {self.black} and white {self.white} need 0 <= black < white")
        isos = [one.iso for mode in self.modes for one in mode]
        if not isos or any(not mode for mode in self.modes):
            raise ValueError("modes must not be empty")
        if len(isos) > _MOST_ISOS:
            raise ValueError(f"modes must have at most {_MOST_ISOS} ISO values")
        if any(low >= high for low, high in pairwise(isos)):
            raise ValueError("modes: ISO values must ascend")
        if not 0 < self.drawn_isos[0] <= self.drawn_isos[1] < math.inf:
            raise ValueError("drawn_isos must be positive and ascend")
        if not (0 <= self.read_spread < 1 and 0 <= self.row_spread < 1):
            raise ValueError("read_spread and row_spread must be at least 0 and below 1")

    def without_bias(self) -> IsoTable:
        """Return the table with colour biases of 0, for exposures from which they are subtracted."""

        def unbiased(one: IsoNoise) -> IsoNoise:
            return replace(one, parameters=replace(one.parameters, colour_bias=(0.0,) * 4))

        return replace(self, modes=tuple(tuple(map(unbiased, mode)) for mode in self.modes))

    def parameters(self, iso: float, rng: np.random.Generator | None = None) -> NoiseParameters:
        """Return the noise parameters at an ISO: the medians, or with `rng` one random draw.

        Gain and sigmas are interpolated in logarithms between the two neighbouring ISO values of a gain mode,
        lambda linearly in the logarithm of ISO; the colour bias is that of the nearest ISO on the same side of
        every reset. Below the lowest ISO, and between modes, sigmas stay as they are in codes; above the
        highest, in electrons. Raises OptionError for an ISO that is not positive.
        """
        check_iso(iso)
        iso = hardware_iso(iso, self.lowest_iso)
        found = replace(self._median(iso), colour_bias=self._bias(iso))
        if rng is None:
            return found
        read, row = (
            math.exp(spread * float(rng.standard_normal()))
            for spread in (self.read_spread, self.row_spread)
        )
        return replace(found, read_scale=found.read_scale * read, row_sigma=found.row_sigma * row)

    def _median(self, iso: float) -> NoiseParameters:
        for mode in self.modes:
            if mode[0].iso <= iso <= mode[-1].iso:
                return _interpolated(mode, iso)
        ends = [one for mode in self.modes for one in (mode[0], mode[-1])]
        nearest = _nearest(ends, iso)
        factor = iso / nearest.iso
        electrons = factor if iso > ends[-1].iso else 1.0
        found = nearest.parameters
        return replace(
            found,
            gain=found.gain * factor,
            read_scale=found.read_scale * electrons,
            row_sigma=found.row_sigma * electrons,
        )

    def _bias(self, iso: float) -> tuple[float, float, float, float]:
        def segment(value: float) -> int:
            return sum(value >= reset for reset in self.bias_resets)

        known = [one for mode in self.modes for one in mode]
        same_side = [one for one in known if segment(one.iso) == segment(iso)]
        return _nearest(same_side or known, iso).parameters.colour_bias


def _nearest(known: Sequence[IsoNoise], iso: float) -> IsoNoise:
    return min(known, key=lambda one: abs(math.log(one.iso / iso)))


def _interpolated(mode: tuple[IsoNoise, ...], iso: float) -> NoiseParameters:
    if iso == mode[-1].iso:
        return mode[-1].parameters
    at = next(index for index, one in enumerate(mode[1:]) if iso < one.iso)
    low, high = mode[at], mode[at + 1]
    share = math.log(iso / low.iso) / math.log(high.iso / low.iso)
    below, above = low.parameters, high.parameters

    def between(first: float, second: float) -> float:
        if first <= 0 or second <= 0:
            return first + share * (second - first)
        return math.exp(math.log(first) + share * math.log(second / first))

    return NoiseParameters(
        gain=between(below.gain, above.gain),
        read_shape=below.read_shape + share * (above.read_shape - below.read_shape),
        read_scale=between(below.read_scale, above.read_scale),
        row_sigma=between(below.row_sigma, above.row_sigma),
        colour_bias=below.colour_bias,
    )
