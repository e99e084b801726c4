"""Recognise the colour filter array of a RAW file that LibRaw has opened.

The trade-off: only Bayer and X-Trans arrays of red, green and blue filters are used; files with others are refused.
"""

from __future__ import annotations

import numpy as np
import rawpy

from darkprep.pipeline.raw.libraw import SAMPLED, Indices
from darkprep.pipeline.raw.mosaic import canonical_origin
from darkprep.shards.cfa import Rows
from darkprep.shards.errors import RawError
from darkprep.shards.format import PERIOD, CfaKind

_NOT_A_MOSAIC = "holds demosaiced colours (LinearDNG, sRAW, Foveon), not a colour filter mosaic; use the camera's original file"
LEAVE_OUT = "leave it out"
"""What to do about a file that darkprep does not support."""


def unpacked_indices(path: str, raw: rawpy.RawPy) -> Indices:
    """Return the colour index of each filter at the top left of an unpacked file's visible area, `(12, 12)`.

    rawpy's own raw_pattern reads out of bounds if an X-Trans file has margins of more than six pixels. Raises
    RawError for a file without a mosaic.
    """
    if raw.raw_type is not rawpy.RawType.Flat:
        raise RawError(path, _NOT_A_MOSAIC)
    top, left = raw.sizes.top_margin, raw.sizes.left_margin
    return np.array(
        [[raw.raw_color(top + y, left + x) for x in range(SAMPLED)] for y in range(SAMPLED)]
    )


def filter_array(path: str, raw: rawpy.RawPy, indices: Indices) -> tuple[CfaKind, Rows]:
    """Return the kind of colour filter array and its letters; LibRaw's second green (G2) counts as G.

    `indices` is from `unpacked_indices` or from the header. Raises RawError for an array that is not supported.
    """
    names = raw.color_desc.decode("ascii", "replace")
    if raw.num_colors == 1:
        raise RawError(path, f"is monochrome: there is no colour mosaic to restore; {LEAVE_OUT}")
    if indices.min() < 0 or indices.max() >= len(names):  # LibRaw's 6 stands for "no filter"
        raise RawError(path, _NOT_A_MOSAIC)
    if set(names) - set("RGB"):
        raise RawError(
            path, f"has filters of the colours {names}; only R, G and B are supported; {LEAVE_OUT}"
        )
    letters = np.array(list(names))[indices]
    for cfa, period in PERIOD.items():
        rows = tuple("".join(row) for row in letters[:period, :period])
        tiled = np.tile(letters[:period, :period], (SAMPLED // period, SAMPLED // period))
        if np.array_equal(tiled, letters) and _is_known(rows):
            return cfa, rows
    raise RawError(
        path, f"has a colour filter array that is neither Bayer nor X-Trans; {LEAVE_OUT}"
    )


def _is_known(rows: Rows) -> bool:
    try:
        canonical_origin(rows)
    except ValueError:
        return False
    return True
