"""Mosaics to packed planes and back, for every Bayer phase and for X-Trans (pure numpy).

The trade-off: a frame of another phase is cropped by a pixel or a few until it starts where all
others do (the canonical mosaic), so everything after this handles two layouts only. It costs
up to one row and column (Bayer) or eleven (X-Trans) of pixels, and never resamples a value.

Codes keep their meaning (black, white): only their positions change here.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from darkprep.pipeline.raw.frame import RawFrame, RawHeader
from darkprep.shards.cfa import CANONICAL, Rows, Site, packing
from darkprep.shards.format import CELL, PERIOD, PLANES, U16, CfaKind

_BAND_PERIODS = 32
"""Rows of CFA periods that are packed at a time, so that they stay in the processor's cache."""

Values = TypeVar("Values", U16, npt.NDArray[np.float32])
"""Packing takes codes (uint16) and linear light (float32)."""


def canonical_origin(pattern: Rows) -> tuple[int, int]:
    """Return the first row and column at which a mosaic with this `pattern` has the canonical phase.

    `pattern` holds the filter colours of one period at the mosaic's top left. Raises ValueError for a
    pattern that no shift makes canonical.
    """
    for cfa, wanted in CANONICAL.items():
        period = PERIOD[cfa]
        if len(pattern) != period or any(len(row) != period for row in pattern):
            continue
        for dy in range(period):
            for dx in range(period):
                if shifted(pattern, dy, dx) == wanted:
                    return dy, dx
    raise ValueError(f"the colour filter array {'/'.join(pattern)} is neither Bayer nor X-Trans")


def shifted(pattern: Rows, dy: int, dx: int) -> Rows:
    """Return the CFA pattern of a mosaic with this `pattern` after its first `dy` rows and `dx` columns are removed."""
    dy, dx = dy % len(pattern), dx % len(pattern[0])
    rows = pattern[dy:] + pattern[:dy]
    return tuple(row[dx:] + row[:dx] for row in rows)


def canonical_shape(header: RawHeader) -> tuple[int, int]:
    """Return height and width of the frame's canonical mosaic: as many whole periods as fit from its origin."""
    dy, dx = canonical_origin(header.pattern)
    period = PERIOD[header.cfa]
    return (header.height - dy) // period * period, (header.width - dx) // period * period


def canonical_mosaic(frame: RawFrame) -> U16:
    """Return a view of the part of the frame's mosaic that starts at the canonical phase and has whole periods."""
    dy, dx = canonical_origin(frame.pattern)
    height, width = canonical_shape(frame)
    return frame.mosaic[dy : dy + height, dx : dx + width]


def canonical_rgb(rgb: U16, origin: tuple[int, int], shape: tuple[int, int]) -> U16:
    """Crop a developed frame as its mosaic is cropped, and move the channels to the front.

    `rgb` is `(H, W, 3)`, aligned with the visible mosaic; `origin` and `shape` are those of the
    canonical mosaic. Returns `(3, *shape)`, contiguous. Raises ValueError when `rgb` is too small.
    """
    (dy, dx), (height, width) = origin, shape
    if rgb.ndim != 3 or rgb.shape[0] < dy + height or rgb.shape[1] < dx + width:
        raise ValueError(f"a crop of {shape} at {origin} does not lie in an image of {rgb.shape}")
    return np.ascontiguousarray(rgb[dy : dy + height, dx : dx + width].transpose(2, 0, 1))


def plane_black(frame: RawFrame) -> tuple[float, ...]:
    """Return the black level in codes of each packed plane of the canonical mosaic.

    A plane that collects several pixels of a period (X-Trans) gets the mean of their levels; these pixels
    have the same colour, and files have one black level per colour.
    """
    dy, dx = canonical_origin(frame.pattern)
    black = np.roll(frame.black, (-dy, -dx), axis=(0, 1))
    return tuple(
        float(np.mean([black[site] for site in sites])) for sites in plane_sites(frame.cfa)
    )


def plane_sites(cfa: CfaKind) -> tuple[tuple[Site, ...], ...]:
    """Return for each packed plane the positions in the CFA's period from which it collects pixels."""
    sites: list[list[Site]] = [[] for _ in range(PLANES[cfa])]
    for plane, _, site in packing(cfa):
        sites[plane].append(site)
    return tuple(tuple(own) for own in sites)


def pack(mosaic: Values, cfa: CfaKind) -> Values:
    """Fold a canonical mosaic `(H, W)` into planes `(C, H/2, W/2)` or `(C, H/3, W/3)`.

    Bayer: R, G1, G2, B, the order of torch's pixel_unshuffle. X-Trans: SID's nine planes. Values
    are copied unchanged. Raises ValueError for a mosaic that does not consist of whole periods.
    """
    period, cell = PERIOD[cfa], CELL[cfa]
    if mosaic.ndim != 2 or mosaic.shape[0] % period or mosaic.shape[1] % period:
        raise ValueError(
            f"a mosaic of {mosaic.shape} does not consist of whole periods of {period} pixels"
        )
    height, width = mosaic.shape
    planes = np.empty((PLANES[cfa], height // cell, width // cell), mosaic.dtype)
    step, sites = period // cell, tuple(packing(cfa))
    for first in range(0, height // period, _BAND_PERIODS):
        rows = mosaic[period * first : period * (first + _BAND_PERIODS)]
        band = planes[:, step * first : step * (first + _BAND_PERIODS)]
        for plane, (cy, cx), (y, x) in sites:
            band[plane, cy::step, cx::step] = rows[y::period, x::period]
    return planes


def unpack(planes: Values, cfa: CfaKind) -> Values:
    """Invert `pack`: unfold planes `(C, h, w)` to the canonical mosaic, exactly."""
    period, cell = PERIOD[cfa], CELL[cfa]
    step = period // cell
    if (
        planes.ndim != 3
        or len(planes) != PLANES[cfa]
        or planes.shape[1] % step
        or planes.shape[2] % step
    ):
        raise ValueError(f"planes of shape {planes.shape} are not a packed {cfa} mosaic")
    mosaic = np.empty((planes.shape[1] * cell, planes.shape[2] * cell), planes.dtype)
    for plane, (cy, cx), (y, x) in packing(cfa):
        mosaic[y::period, x::period] = planes[plane, cy::step, cx::step]
    return mosaic
