"""Colour filter arrays of samples: the canonical phase, and the plane to which packing moves each pixel.

The trade-off: samples have two layouts only, RGGB and X-Trans in SID's phase; producers crop mosaics of any
other phase to one of these (pipeline/raw/mosaic.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from darkprep.shards.format import CfaKind

Rows = tuple[str, ...]
"""A colour filter array: one string per row, letters R, G, B."""

Site = tuple[int, int]
"""Row and column in the colour filter array's period."""

CANONICAL: dict[CfaKind, Rows] = {
    "bayer": ("RG", "GB"),
    "xtrans": ("RBGBRG", "GGRGGB", "GGBGGR", "BRGRBG", "GGBGGR", "GGRGGB"),
}
"""The phase of every canonical mosaic; X-Trans as in SID's packing (train_Fuji.py)."""

PLANE_COLOURS: dict[CfaKind, str] = {"bayer": "RGGB", "xtrans": "RGBRBGGGG"}
"""The colour of each packed plane."""

# Planes 0 to 4 of SID's packing: for a cell of even or odd (row, column), its site in the 6x6 period.
# The site within the 3x3 cell differs from cell to cell, so a plain pixel unshuffle does not give them.
_XTRANS_SITES: tuple[dict[Site, Site], ...] = (
    {(0, 0): (0, 0), (0, 1): (0, 4), (1, 0): (3, 1), (1, 1): (3, 3)},
    {(0, 0): (0, 2), (0, 1): (0, 5), (1, 0): (3, 2), (1, 1): (3, 5)},
    {(0, 0): (0, 1), (0, 1): (0, 3), (1, 0): (3, 0), (1, 1): (3, 4)},
    {(0, 0): (1, 2), (0, 1): (2, 5), (1, 0): (5, 2), (1, 1): (4, 5)},
    {(0, 0): (2, 2), (0, 1): (1, 5), (1, 0): (4, 2), (1, 1): (5, 5)},
)
_XTRANS_FIXED: tuple[Site, ...] = ((1, 0), (1, 1), (2, 0), (2, 1))
"""Planes 5 to 8, all green, each at one fixed site of the 3x3 cell."""


def packing(cfa: CfaKind) -> Iterator[tuple[int, Site, Site]]:
    """Yield for each copy in one period of the CFA: the plane, the cell within the period, the pixel within the period.

    Source of the X-Trans planes: Chen et al., "Learning to See in the Dark", CVPR 2018, the released
    packing for the X-T2.
    """
    if cfa == "bayer":
        for plane in range(4):
            yield plane, (0, 0), divmod(plane, 2)
        return
    for plane, sites in enumerate(_XTRANS_SITES):
        for cell, site in sites.items():
            yield plane, cell, site
    for plane, (y, x) in enumerate(_XTRANS_FIXED, start=len(_XTRANS_SITES)):
        for cy in range(2):
            for cx in range(2):
                yield plane, (cy, cx), (3 * cy + y, 3 * cx + x)
