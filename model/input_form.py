"""In which form a network was trained to read packed planes: their order, and whether noise below black was kept.

Published codes differ in both, and a network that reads the other form is wrong without any error: blue and
the second green are swapped, or shadows are too bright. So a network states its form, and its weights file
stores it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from darkprep.model.errors import ModelError

PlaneOrder = Literal["RGGB", "RGBG"]
PLANE_ORDERS: tuple[PlaneOrder, ...] = get_args(PlaneOrder)

_TO_RGBG = [0, 1, 3, 2]
"""Positions of R, G, B, G among R, G1, G2, B; the same list leads back."""


@dataclass(frozen=True, kw_only=True)
class InputForm:
    """The form of a network's input. Raises ModelError naming the field."""

    plane_order: PlaneOrder = "RGGB"
    """Of Bayer planes: `RGGB` as darkprep's samples, or `RGBG` as SID, ELD, PMN and LED pack them."""
    cut_at_black: bool = False
    """Whether values below black were set to 0 in its training."""

    def __post_init__(self) -> None:
        if self.plane_order not in PLANE_ORDERS:
            raise ModelError(
                f"plane_order must be one of {', '.join(PLANE_ORDERS)}, not {self.plane_order!r}"
            )

    def converted(self, packed: Tensor) -> Tensor:
        """Return darkprep's planes `(B, C, h, w)` in this form."""
        packed = packed.clamp(min=0) if self.cut_at_black else packed
        return self.reordered(packed)

    def reordered(self, planes: Tensor) -> Tensor:
        """Return `(B, 4, h, w)` from RGGB to this order, or from this order to RGGB; others as they are."""
        return planes[:, _TO_RGBG] if self.plane_order == "RGBG" else planes
