"""The form in which a network reads packed planes: their order, and whether values below black are kept.

Published codes differ in both. A network that gets planes in the wrong form raises no error, but its
results are wrong: blue and the second green are exchanged, or shadows are too bright. So a network has a
form, which its weights file stores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from darkprep.model.errors import ModelError

PlaneOrder = Literal["RGGB", "RGBG"]
PLANE_ORDERS: tuple[PlaneOrder, ...] = get_args(PlaneOrder)

_TO_RGBG = [0, 1, 3, 2]
"""Positions of R, G, B, G among R, G1, G2, B; the same list converts back."""
_TO_RGBG_WITH_MAP = [*_TO_RGBG, *(4 + plane for plane in _TO_RGBG)]
"""The same with a noise-level map, whose planes follow."""


@dataclass(frozen=True, kw_only=True)
class InputForm:
    """The form of a network's input. Raises ModelError, which names the invalid field."""

    plane_order: PlaneOrder = "RGGB"
    """Order of Bayer planes: `RGGB` as in darkprep's samples, or `RGBG` as in SID, ELD, PMN and LED."""
    cut_at_black: bool = False
    """Whether values below black are set to 0, as in the network's training."""

    def __post_init__(self) -> None:
        if self.plane_order not in PLANE_ORDERS:
            raise ModelError(
                f"plane_order must be one of {', '.join(PLANE_ORDERS)}, not {self.plane_order!r}"
            )

    def converted(self, packed: Tensor) -> Tensor:
        """Convert planes `(B, C, h, w)` from darkprep's form to this form."""
        packed = packed.clamp(min=0) if self.cut_at_black else packed
        return self.reordered(packed)

    def reordered(self, planes: Tensor) -> Tensor:
        """Convert `(B, 4, h, w)` or `(B, 8, h, w)` between the plane orders RGGB and this form's."""
        if self.plane_order == "RGGB":
            return planes
        return planes[:, _TO_RGBG if planes.shape[1] == len(_TO_RGBG) else _TO_RGBG_WITH_MAP]
