"""Subtract the dark shading and the black-level error of a calibration from a decoded frame.

The trade-off: frames keep whole codes, so the pattern is subtracted rounded to codes, where the noise is larger
than the rounding. The error of the black level, a constant per colour, goes into the frame's black levels exactly.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from darkprep.pipeline.noise.camera_calibration import (
    CameraCalibration,
    IsoCalibration,
    read_identified,
    read_shading,
)
from darkprep.pipeline.raw.camera_colours import camera_name
from darkprep.pipeline.raw.mosaic import pack
from darkprep.pipeline.raw.source import PackedFrame
from darkprep.shards.cfa import PLANE_COLOURS
from darkprep.shards.errors import OptionError, RawError
from darkprep.shards.format import CELL


@dataclass(frozen=True, kw_only=True)
class ShadingCorrection:
    """A calibration whose dark shading is subtracted from frames of its camera."""

    path: Path
    """The calibration's JSON file, beside which the maps lie."""
    calibration: CameraCalibration
    digest: str
    """Sixteen hex digits that identify the content of the JSON file, and with it the maps."""

    @classmethod
    def at(cls, path: Path, digest: str | None = None) -> ShadingCorrection:
        """Read a calibration. Raises OptionError if it is invalid, has no maps, or has not the wanted `digest`."""
        calibration, found = read_identified(path)
        if digest is not None and digest != found:
            raise OptionError(
                f"{path}: has changed since the plan was made; put the earlier file back, or build a new spool"
            )
        if any(mode.shading is None for mode in calibration.modes):
            raise OptionError(
                f"{path}: has no dark shading; write it again with `darkprep calibrate`"
            )
        return cls(path=path, calibration=calibration, digest=found)

    def corrected(self, frame: PackedFrame) -> PackedFrame:
        """Return the frame without the shading at its ISO, and with its true black levels.

        Raises RawError for a frame of another camera or size, or without an ISO, OptionError for a damaged map.
        """
        made = self.calibration
        path, cell = frame.header.path, CELL[frame.cfa]
        size = (frame.planes.shape[1] * cell, frame.planes.shape[2] * cell)
        if frame.xtrans != "native" or camera_name(frame.header) != made.camera:
            raise RawError(
                path,
                f"is of camera {camera_name(frame.header)}, but the dark shading is of {made.camera}; use a calibration of {camera_name(frame.header)}",
            )
        if size != (made.height, made.width) or frame.cfa != made.cfa:
            raise RawError(
                path,
                f"is {size[0]}x{size[1]}, but the dark shading is {made.height}x{made.width}; use a calibration from frames of {size[0]}x{size[1]}",
            )
        if not frame.iso > 0:
            raise RawError(
                path,
                "states no ISO, on which the dark shading depends; use the original file of the camera",
            )
        shading = _planes_of_shading(self.path, self.digest, made, frame.iso)
        codes = frame.planes - shading
        np.rint(codes, out=codes)
        bias = _plane_biases(nearest_iso(made, frame.iso), frame.cfa)
        return replace(
            frame,
            planes=np.clip(codes, 0, 65535, out=codes).astype(np.uint16),
            black=tuple(black + own for black, own in zip(frame.black, bias, strict=True)),
        )


def nearest_iso(calibration: CameraCalibration, iso: float) -> IsoCalibration:
    """Return what was measured at the nearest ISO of the nearest gain mode."""
    return min(calibration.isos, key=lambda one: abs(math.log(one.iso / iso)))


def _plane_biases(one: IsoCalibration, cfa: str) -> tuple[float, ...]:
    red, green, blue, green_of_blue = one.colour_bias
    if cfa == "bayer":
        return red, green, green_of_blue, blue
    return tuple({"R": red, "G": green, "B": blue}[letter] for letter in PLANE_COLOURS["xtrans"])


@functools.lru_cache(maxsize=1)
def _planes_of_shading(
    path: Path, digest: str, calibration: CameraCalibration, iso: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return the packed shading of one ISO, `(C, h, w)`; the last one is kept."""
    found = read_shading(path, calibration, iso)
    assert found is not None, "checked when the calibration was read"
    return pack(found, calibration.cfa)
