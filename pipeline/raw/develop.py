"""Develop a RAW file to 16-bit sRGB as the papers do, aligned with its mosaic.

The trade-off: LibRaw's default development, as SID and its successors used it, costs 1 s (Bayer)
or 14 s (X-Trans) for a frame on one thread, and is bit for bit the same in every run; a faster
demosaic would give another ground truth than the one of the published figures.

Camera white balance, no automatic brightness, default demosaic and gamma (BT.709's, not sRGB's),
highlights clipped, orientation never applied.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rawpy

from darkprep.pipeline.raw.borders import Edition, Window
from darkprep.pipeline.raw.frame import F32, RawFrame, RawHeader
from darkprep.pipeline.raw.mosaic import (
    canonical_mosaic,
    canonical_origin,
    canonical_rgb,
    canonical_shape,
    plane_black,
    unpack,
)
from darkprep.pipeline.raw.reader import OpenRaw, open_raw, owning
from darkprep.shards.format import PERIOD, U16
from darkprep.shards.machine import with_retries

Brightness = Literal["paper", "constant"]

_ADJUST_ABOVE = 0.75
"""LibRaw's default adjust_maximum_thr, as 32-bit float there too; 0.75 is exact in both."""


def develop(
    path: str | os.PathLike[str],
    *,
    brightness: Brightness = "paper",
    linear: bool = False,
    edition: Edition = 2,
) -> tuple[RawFrame, U16]:
    """Decode a RAW file and develop it. Raises the errors of `read_raw`.

    Returns the frame, and `(H, W, 3)` uint16 sRGB of the same height and width, pixel for pixel.

    `brightness` determines which code becomes full scale. "paper" is LibRaw's default, which the papers
    used: if the brightest pixel is between 0.75 and 1 of full scale, it becomes full scale, so a single hot
    pixel can change the brightness by a factor of up to 1.33. "constant" maps white minus black to full
    scale, so that equal light gives equal values in all frames.

    With `linear` the result is camera RGB instead: only LibRaw's demosaic, without white balance, colour
    matrix and gamma curve; 0 is black and 65535 is white, for either value of `brightness`.
    """
    return with_retries(os.fspath(path), lambda: _develop_once(path, brightness, linear, edition))


def _develop_once(
    path: str | os.PathLike[str], brightness: Brightness, linear: bool, edition: Edition
) -> tuple[RawFrame, U16]:
    with open_raw(path, edition=edition) as raw:
        full = full_scale(raw.frame, "constant" if linear else brightness)
        return owning(raw.frame), raw.postprocess(user_sat=full, **_settings(linear))


def develop_windows(
    path: str | os.PathLike[str],
    windows: Callable[[RawHeader], Sequence[Window]],
    *,
    brightness: Brightness = "paper",
    linear: bool = False,
    edition: Edition = 2,
) -> tuple[RawHeader, list[U16]]:
    """Decode a RAW file and develop windows of it, to the bits that `develop` gives them.

    `windows` returns the windows of a frame, relative to its mosaic. Returns the frame's header, and `(h, w, 3)`
    uint16 for each window. A Bayer frame costs only its windows' pixels, some 25 ms for 512 x 512, where that is
    possible (`window.py`), and is checked once for each kind of file. The whole frame is developed where it is not
    possible, and where the windows have more pixels than the frame. Raises the errors of `read_raw`.
    """
    return with_retries(
        os.fspath(path), lambda: _develop_windows(path, windows, brightness, linear, edition)
    )


def _develop_windows(
    path: str | os.PathLike[str],
    windows: Callable[[RawHeader], Sequence[Window]],
    brightness: Brightness,
    linear: bool,
    edition: Edition,
) -> tuple[RawHeader, list[U16]]:
    with open_raw(path, edition=edition) as raw:
        header = raw.frame.header()
        wanted = windows(header)
        settings = _settings(linear)
        settings["user_sat"] = full_scale(raw.frame, "constant" if linear else brightness)
        kind = _kind_of(raw, linear)
        alone = raw.postprocess_windows(wanted, settings) if _IS_EXACT.get(kind, True) else None
        with _checking:  # another thread may be checking the same kind
            if alone is not None and kind not in _IS_EXACT:
                _IS_EXACT[kind] = raw.windows_are_exact(wanted, alone, settings)
        if alone is not None and _IS_EXACT[kind]:
            return header, alone
        rgb = raw.postprocess(**settings)
        return header, [rgb[window.slices] for window in wanted]


_checking = threading.Lock()
_IS_EXACT: dict[Hashable, bool] = {}
"""Whether the windows of a kind of file had the bits of the whole frame's development, in this process."""


def _kind_of(raw: OpenRaw, linear: bool) -> Hashable:
    """Return what files have in common that LibRaw decodes and develops alike: camera, format, sizes and pattern."""
    frame, sizes = raw.frame, raw.handle.sizes
    suffix = Path(frame.path).suffix.lower()
    return frame.make, frame.model, suffix, frame.pattern, sizes.raw_height, sizes.raw_width, linear


def _settings(linear: bool) -> dict[str, Any]:
    """Return LibRaw's settings of a development to sRGB or to camera RGB, without its full scale."""
    common = {"no_auto_bright": True, "adjust_maximum_thr": 0.0}
    if not linear:
        return {**common, "use_camera_wb": True}
    return {
        **common,
        "output_color": rawpy.ColorSpace.raw,
        "gamma": (1, 1),
        "user_wb": [1.0, 1.0, 1.0, 1.0],
    }


def develop_amplified(
    path: str | os.PathLike[str],
    amplification: float,
    *,
    levels: tuple[float, float] | None = None,
    linear: bool = False,
) -> U16:
    """Develop a short exposure without a network, its codes above black times `amplification`.

    Codes are clipped at black and at white, as LibRaw does itself. Returns `(3, H, W)` uint16 sRGB
    of the canonical mosaic: the baseline for a network. `levels` are a black and a white level to use
    instead of the file's, such as another camera's. With `linear` the result is camera RGB as `develop` makes
    it. Raises RawError as `read_raw`.
    """
    return with_retries(
        os.fspath(path), lambda: _develop_amplified(path, amplification, levels, linear)
    )


def _develop_amplified(
    path: str | os.PathLike[str],
    amplification: float,
    levels: tuple[float, float] | None,
    linear: bool,
) -> U16:
    with open_raw(path) as raw:
        frame = raw.frame
        raw.replace_mosaic(_amplified(frame, amplification, levels))
        rgb = raw.postprocess(user_sat=full_scale(frame, "constant"), **_settings(linear))
        return canonical_rgb(rgb, canonical_origin(frame.pattern), canonical_shape(frame))


def _amplified(frame: RawFrame, amplification: float, levels: tuple[float, float] | None) -> U16:
    """Return the frame's codes with their distance from the black level multiplied."""
    codes = frame.mosaic.copy()
    period = PERIOD[frame.cfa]
    for y, x in np.ndindex(period, period):
        black = float(frame.black[y, x])
        taken, full = levels or (black, frame.white)
        factor = amplification * (frame.white - black) / (full - taken)
        above = np.maximum(codes[y::period, x::period].astype(np.float32) - taken, 0.0)
        codes[y::period, x::period] = np.minimum(np.rint(black + above * factor), frame.white)
    return codes


def develop_planes(path: str | os.PathLike[str], planes: F32) -> U16:
    """Develop packed planes in place of the codes of the file at `path`, with its colours and its full scale.

    `planes` are `(C, h, w)` of the file's canonical mosaic, 0 at its black level and 1 at its white level. Returns
    `(3, H, W)` uint16 sRGB: for the planes of the file's own codes what `develop` returns. Raises RawError as
    `read_raw`.
    """
    return with_retries(os.fspath(path), lambda: _develop_planes(path, planes))


def _develop_planes(path: str | os.PathLike[str], planes: F32) -> U16:
    with open_raw(path) as raw:
        frame = raw.frame
        origin, shape = canonical_origin(frame.pattern), canonical_shape(frame)
        full = full_scale(frame, "paper")
        black = np.array(plane_black(frame), np.float32)[:, None, None]
        codes = np.rint(np.clip(planes, 0, 1) * (np.float32(frame.white) - black) + black)
        mosaic = frame.mosaic.copy()
        canonical_mosaic(replace(frame, mosaic=mosaic))[:] = unpack(
            codes.astype(np.uint16), frame.cfa
        )
        raw.replace_mosaic(mosaic)
        rgb = raw.postprocess(user_sat=full, **_settings(linear=False))
        return canonical_rgb(rgb, origin, shape)


def full_scale(frame: RawFrame, brightness: Brightness) -> int:
    """Return the number of codes above black that development maps to full scale.

    As in LibRaw (adjust_bl and adjust_maximum in its sources), black is subtracted for each colour
    separately, but full scale is counted from the lowest black level.
    """
    nominal = frame.white - int(frame.black.min())
    if brightness == "constant":
        return nominal
    brightest = _brightest(frame)
    return brightest if _ADJUST_ABOVE * nominal < brightest < nominal else nominal


def _brightest(frame: RawFrame) -> int:
    """Return the largest code after subtracting the black level of its own colour."""
    period = PERIOD[frame.cfa]
    if frame.black.min() == frame.black.max():
        return int(frame.mosaic.max()) - int(frame.black.min())
    return max(
        int(frame.mosaic[y::period, x::period].max()) - int(frame.black[y, x])
        for y in range(period)
        for x in range(period)
    )
