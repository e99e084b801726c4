"""The records of a RAW file: its header, and its decoded mosaic with the levels of its codes.

The trade-off: both are validated when they are created, so that code that receives them can rely on shapes
and levels; checking a frame takes microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from darkprep.shards.cfa import Rows
from darkprep.shards.format import PERIOD, U16, CfaKind

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class RawHeader:
    """What is known about a RAW file before its pixels are decoded. Raises ValueError, which names the invalid field."""

    path: str
    height: int
    """Number of rows of the visible area, as stored (never rotated)."""
    width: int
    cfa: CfaKind
    pattern: Rows
    """Filter colours at the top left of the visible area, one period: `("RG", "GB")`, or six rows
    of six. Both greens are G."""
    exposure_s: float
    """Exposure time in seconds; 0 if unknown."""
    iso: float
    """0 if unknown."""
    make: str
    model: str
    orientation: int
    """LibRaw's flip: how to turn the stored image upright. 0 none, 3 by 180 degrees, 5 and 6 by 90
    degrees counter-clockwise and clockwise. Restored pictures are rotated, training data never."""

    def __post_init__(self) -> None:
        period = PERIOD[self.cfa]
        if len(self.pattern) != period or any(len(row) != period for row in self.pattern):
            raise ValueError(f"pattern {self.pattern} is not one period of a {self.cfa} array")


@dataclass(frozen=True, eq=False, kw_only=True)
class RawFrame(RawHeader):
    """One decoded RAW file: header, levels, colours and mosaic. Raises ValueError, which names the invalid field."""

    black: F32
    """`(2, 2)` or `(6, 6)` black level in codes of each site of `pattern`. rawpy returns levels per
    colour only: for an X-Trans file with levels per site, this is their common part."""
    white: int
    """Code at which a pixel counts as saturated."""
    white_balance: tuple[float, float, float, float]
    """As-shot gains of R, G1, B, G2, green 1."""
    camera_to_srgb: F32
    """`(3, 3)` matrix from the camera's white-balanced R, G, B to linear sRGB, the one that development
    applies; zeros if neither the file nor LibRaw's table has one."""
    mosaic: U16
    """`(height, width)` uint16 sensor codes of the visible area. Owns its memory, except in an `OpenRaw`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        period = PERIOD[self.cfa]
        if self.black.shape != (period, period):
            raise ValueError(f"black must be ({period}, {period}), not {self.black.shape}")
        if not self.white > float(self.black.max()):
            raise ValueError(f"white {self.white} must be above black {self.black.max()}")
        if self.mosaic.shape != (self.height, self.width) or self.mosaic.dtype != np.uint16:
            raise ValueError(f"mosaic must be ({self.height}, {self.width}) uint16")

    def header(self) -> RawHeader:
        """Return the header alone, without the pixels."""
        return RawHeader(**header_fields(self))


def header_fields(header: RawHeader) -> dict[str, Any]:
    """Return the fields of `RawHeader` by name, from a header or a frame."""
    return {field.name: getattr(header, field.name) for field in fields(RawHeader)}
