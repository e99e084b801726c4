"""X-Trans mosaics for a Bayer network: resampled to RGGB, or packed as in the published code.

The trade-off of `rggb`: a pixel whose filter has the wanted colour keeps its code; other pixels get a local
linear fit through their neighbours of that colour. So noise differs from pixel to pixel, and detail near
the sampling limit is lost; in return one network can be used for all cameras.

`plain` is what the published code does: it unshuffles every mosaic 2x2, regardless of its colours.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from darkprep.shards.cfa import CANONICAL, Site
from darkprep.shards.errors import OptionError
from darkprep.shards.format import PERIOD, U16, CfaKind

XtransMode = Literal["native", "plain", "rggb"]
"""How an X-Trans camera is fed to a network: nine planes, or four in either of two ways. A Bayer
camera has the same four planes in all three modes."""

XTRANS_MODES: tuple[XtransMode, ...] = get_args(XtransMode)

_PERIOD = PERIOD["xtrans"]
_REACH = 2
"""Rows and columns to each side that a fit uses."""
_SIGMA = 0.7
"""Standard deviation of the fit's weights, in pixels."""


def parse_xtrans_mode(name: str) -> XtransMode:
    """Return the X-Trans mode with this name. Raises OptionError, which lists all names."""
    for mode in XTRANS_MODES:
        if mode == name:
            return mode
    raise OptionError(f"xtrans must be one of {', '.join(XTRANS_MODES)}, not {name!r}")


def sample_cfa(cfa: CfaKind, xtrans: XtransMode) -> CfaKind:
    """Return the CFA of the packed planes that a mosaic gives in an X-Trans mode."""
    return cfa if xtrans == "native" else "bayer"


def xtrans_to_rggb(mosaic: U16) -> U16:
    """Resample a canonical X-Trans mosaic `(H, W)` to an RGGB mosaic of the same size and scene.

    Uniform areas and linear gradients are exact up to rounding. Beyond the border, the mosaic is
    continued by its outermost period. Raises ValueError for a mosaic that does not consist of whole periods.
    """
    if mosaic.ndim != 2 or mosaic.shape[0] % _PERIOD or mosaic.shape[1] % _PERIOD:
        raise ValueError(
            f"a mosaic of {mosaic.shape} does not consist of whole periods of {_PERIOD} pixels"
        )
    height, width = mosaic.shape
    wide = _pad(mosaic)
    out = np.empty_like(mosaic)
    for (y, x), taps in _stencils().items():
        value = np.zeros((height // _PERIOD, width // _PERIOD), np.float32)
        for (dy, dx), weight in taps:
            top, left = _PERIOD + y + dy, _PERIOD + x + dx
            value += weight * wide[top : top + height : _PERIOD, left : left + width : _PERIOD]
        np.rint(value, out=value)
        out[y::_PERIOD, x::_PERIOD] = np.clip(value, 0, 65535, out=value)
    return out


def _pad(mosaic: U16) -> npt.NDArray[np.float32]:
    """Repeat the mosaic's outermost period once on each side, so that the pattern continues."""
    height, width = mosaic.shape
    rows = np.r_[:_PERIOD, :height, height - _PERIOD : height]
    columns = np.r_[:_PERIOD, :width, width - _PERIOD : width]
    return np.asarray(mosaic[np.ix_(rows, columns)], np.float32)


Taps = tuple[tuple[Site, np.float32], ...]
"""Neighbours, as rows and columns away, and their weights."""


@cache
def _stencils() -> dict[Site, Taps]:
    """Return for each pixel of the period the neighbours from which it is computed, with their weights."""
    tile, wanted = CANONICAL["xtrans"], CANONICAL["bayer"]
    found: dict[Site, Taps] = {}
    for y in range(_PERIOD):
        for x in range(_PERIOD):
            colour = wanted[y % 2][x % 2]
            if tile[y][x] == colour:
                found[y, x] = (((0, 0), np.float32(1)),)
                continue
            reach = range(-_REACH, _REACH + 1)
            sites = [
                (dy, dx)
                for dy in reach
                for dx in reach
                if tile[(y + dy) % _PERIOD][(x + dx) % _PERIOD] == colour
            ]
            found[y, x] = _linear_fit(sites)
    return found


def _linear_fit(sites: list[Site]) -> Taps:
    """Return the weights that give, from values at `sites`, the value at the origin of a plane fitted to them."""
    at = np.array(sites, np.float64)
    trust = np.exp(-np.square(at).sum(axis=1) / (2 * _SIGMA**2))
    plane = np.column_stack([np.ones(len(at)), at])
    weighted = plane.T * trust
    weights = np.linalg.solve(weighted @ plane, weighted)[0]
    return tuple((site, np.float32(w)) for site, w in zip(sites, weights, strict=True))
