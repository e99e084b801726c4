"""The long exposure as the papers show it: RAW file to 16-bit sRGB, aligned with its mosaic.

The trade-off: LibRaw's default development, as SID and its successors used it, costs 1 s (Bayer)
or 14 s (X-Trans) for a frame on one thread, and is bit for bit the same in every run; faster
demosaics give another ground truth than the published figures were measured on.

Camera white balance, no automatic brightness, default demosaic and gamma (BT.709's, not sRGB's),
highlights clipped, orientation never applied.
"""

from __future__ import annotations

import os
from typing import Literal

import numpy as np

from darkprep.pipeline.raw.mosaic import canonical_origin, canonical_shape, canonical_truth
from darkprep.pipeline.raw.reader import RawFrame, open_raw
from darkprep.shards.format import PERIOD, U16

Brightness = Literal["paper", "constant"]

_ADJUST_ABOVE = 0.75
"""LibRaw's default adjust_maximum_thr, as 32-bit float there too; 0.75 is exact in both."""


def develop(
    path: str | os.PathLike[str], *, brightness: Brightness = "paper"
) -> tuple[RawFrame, U16]:
    """Decodes a RAW file and develops it. Raises RawError as `read_raw` does.

    Returns the frame, and `(H, W, 3)` uint16 sRGB of the same height and width, pixel for pixel.

    `brightness` says which code becomes full scale. "paper" is what LibRaw does unasked and the
    papers left so: when the brightest pixel lies between 0.75 and 1 of full scale, it becomes full
    scale, a gain of up to 1.33 that one hot pixel can toggle. "constant" is white minus black, so
    that equal light gives equal values in all frames.
    """
    with open_raw(path) as raw:
        full = full_scale(raw.frame, brightness)
        rgb = raw.postprocess(
            use_camera_wb=True, no_auto_bright=True, adjust_maximum_thr=0.0, user_sat=full
        )
        return raw.frame, rgb


def develop_amplified(
    path: str | os.PathLike[str],
    amplification: float,
    *,
    levels: tuple[float, float] | None = None,
) -> U16:
    """Develops a short exposure as plain software would, its codes above black times `amplification`.

    Codes are clipped at black and at white, as LibRaw does itself. Returns `(3, H, W)` uint16 sRGB
    of the canonical mosaic: the picture that a network has to beat. With `levels`, black and white are
    these and not the file's: what another camera's constants make of it. Raises RawError as `read_raw`.
    """
    with open_raw(path) as raw:
        frame = raw.frame
        raw.replace_mosaic(_amplified(frame, amplification, levels))
        rgb = raw.postprocess(
            use_camera_wb=True,
            no_auto_bright=True,
            adjust_maximum_thr=0.0,
            user_sat=full_scale(frame, "constant"),
        )
        return canonical_truth(rgb, canonical_origin(frame.pattern), canonical_shape(frame))


def _amplified(frame: RawFrame, amplification: float, levels: tuple[float, float] | None) -> U16:
    """The frame's codes with everything above black multiplied, per site of the CFA's period."""
    codes = frame.mosaic.copy()
    period = PERIOD[frame.cfa]
    for y, x in np.ndindex(period, period):
        black = float(frame.black[y, x])
        taken, full = levels or (black, frame.white)
        gain = amplification * (frame.white - black) / (full - taken)
        above = np.maximum(codes[y::period, x::period].astype(np.float32) - taken, 0.0)
        codes[y::period, x::period] = np.minimum(np.rint(black + above * gain), frame.white)
    return codes


def full_scale(frame: RawFrame, brightness: Brightness) -> int:
    """Returns the code above black that development maps to full scale.

    LibRaw takes black from each colour but full scale from the lowest black (adjust_bl and
    adjust_maximum in its sources), and so does this.
    """
    nominal = frame.white - int(frame.black.min())
    if brightness == "constant":
        return nominal
    brightest = _brightest(frame)
    return brightest if _ADJUST_ABOVE * nominal < brightest < nominal else nominal


def _brightest(frame: RawFrame) -> int:
    """Returns the largest code above its own colour's black."""
    period = PERIOD[frame.cfa]
    if frame.black.min() == frame.black.max():
        return int(frame.mosaic.max()) - int(frame.black.min())
    return max(
        int(frame.mosaic[y::period, x::period].max()) - int(frame.black[y, x])
        for y in range(period)
        for x in range(period)
    )
