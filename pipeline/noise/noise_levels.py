"""The noise level of exposures whose camera is known: for networks that read it as further input planes.

The trade-off: published and measured parameters only; nothing is estimated from the picture, in which texture and
noise are easily confused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from darkprep.pipeline.noise.calibrations import (
    CALIBRATIONS,
    PUBLISHED_CAMERAS,
    NoiseTable,
    calibration_of,
)
from darkprep.pipeline.noise.parameters import NoiseParameters
from darkprep.pipeline.noise.tukey_lambda import standard_deviation
from darkprep.pipeline.raw.camera_colours import camera_name
from darkprep.pipeline.raw.source import PackedFrame
from darkprep.shards.errors import OptionError, RawError
from darkprep.shards.format import SampleMeta
from darkprep.shards.noise_level import NoiseLevel

_REMEDY = "give --noise-map FILE.json with a file of `darkprep calibrate`"
_QUANTISATION_VARIANCE = 1 / 12


@dataclass(frozen=True, kw_only=True)
class NoiseLevels:
    """Returns noise levels: of one camera for all exposures, or of each exposure's own camera if its noise is known."""

    table: NoiseTable | None = None
    """The noise of all exposures; None for each camera's own."""
    camera: str = ""
    """Maker and model of the only camera that `table` is for; "" for any."""
    fallback: NoiseTable | None = None
    """The noise of cameras that are not published; None to refuse them."""

    def of_sample(self, meta: SampleMeta) -> NoiseLevel:
        """Return the noise level of a training sample, by its camera's name in SID or ELD and by its ISO.

        Raises OptionError for a camera whose noise is not known, or without an ISO.
        """
        name = meta.camera.casefold()
        published = calibration_of(name) if name in CALIBRATIONS else None
        table = self.table or published or self.fallback
        if table is None:
            raise OptionError(
                f"noise-map: the noise of the camera {meta.camera!r} of {meta.pair} is not known; {_REMEDY}, or the name of a camera whose noise darkprep has: {', '.join(CALIBRATIONS)}"
            )
        if not meta.iso > 0:
            raise OptionError(
                f"noise-map: the ISO of {meta.pair} is not known, on which its noise depends; leave --noise-map out"
            )
        return noise_level(table, meta.iso, meta.full_scale)

    def of_frame(self, frame: PackedFrame) -> NoiseLevel:
        """Return the noise level of a decoded file, by the camera and the ISO that it states.

        Raises RawError for a camera whose noise is not known, or without an ISO.
        """
        name, path = camera_name(frame.header), frame.header.path
        if self.camera and self.camera.casefold() != name.casefold():
            raise RawError(
                path,
                f"is of camera {name or 'unknown'}, but the noise parameters are of {self.camera}; {_REMEDY} of the camera of this file",
            )
        key = PUBLISHED_CAMERAS.get(name.casefold())
        table = self.table or (calibration_of(key) if key else self.fallback)
        if table is None:
            raise RawError(
                path,
                f"is of camera {name or 'unknown'}, whose noise is not known, but the network reads a noise-level map; {_REMEDY} of this camera",
            )
        if not frame.iso > 0:
            raise RawError(
                path,
                "states no ISO, on which its noise depends, but the network reads a noise-level map; use the original file of the camera",
            )
        return noise_level(table, frame.iso, frame.white - sum(frame.black) / len(frame.black))


def noise_level(table: NoiseTable, iso: float, full_scale: float) -> NoiseLevel:
    """Return the noise level at an ISO of a camera, for codes with `full_scale` codes from black to white.

    Parameters are converted from the full scale of the table, so that files of another bit depth get their own.
    """
    parameters = table.parameters(iso)
    scale = full_scale / (table.white - table.black)
    variance = _variance_in_the_dark(parameters) * scale**2 + _QUANTISATION_VARIANCE
    return NoiseLevel(gain=parameters.gain * scale, read_sigma=math.sqrt(variance))


def _variance_in_the_dark(parameters: NoiseParameters) -> float:
    read = parameters.read_scale * standard_deviation(parameters.read_shape)
    return read**2 + parameters.row_sigma**2
