"""Write dark frames and pairs of flat fields of a camera whose noise is known, to test a calibration against it.

The trade-off: the scene is one evenly lit surface behind a lens that darkens towards the corners, so the only
noise is that of the model, with an optional fixed pattern.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from darkprep.pipeline.noise.model import add_noise, noise_parameters
from darkprep.pipeline.noise.parameters import NoiseParameters
from darkprep.pipeline.raw.dng import DngTags, write_dng
from darkprep.synth.sensors import Sensor

F32 = npt.NDArray[np.float32]

LEVELS = (0.02, 0.05, 0.12, 0.25, 0.45, 0.65)
"""Brightness of the flat fields, as shares of full scale."""
_CORNER = 0.4
"""Share of the light that the corners of a flat field lack."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FrameSettings:
    """What the frames are written with, besides the camera's noise."""

    size: tuple[int, int] = (516, 768)
    """Height and width in pixels, whole periods of the CFA."""
    darks: int = 20
    """Dark frames per ISO."""
    levels: tuple[float, ...] = LEVELS
    """Brightness of each pair of flat fields; empty for no flat fields."""
    bits_lost: int = 0
    """Lowest bits that the files lack: 2 makes 12-bit files of a 14-bit camera."""
    black: int | None = None
    """Black level in codes of the camera's own bits; None for the camera's. 0 cuts off noise below black."""
    fixed_pattern: F32 | None = None
    """`(H, W)` codes that are added to every frame."""
    response: F32 | None = None
    """`(H, W)` factor by which pixels respond to light."""
    is_rotated: bool = False
    """Whether the files are turned by 90 degrees, so that the sensor's rows are their columns."""


def write_calibration_frames(
    out: Path,
    sensor: Sensor,
    isos: Sequence[int],
    *,
    seed: int = 0,
    settings: FrameSettings | None = None,
    noise: dict[int, NoiseParameters] | None = None,
) -> dict[int, NoiseParameters]:
    """Write `out/darks` and `out/flats`; return the true noise parameters by ISO, in codes of the files.

    `noise` replaces the published parameters of the sensor's camera, by ISO. The same arguments give the
    same bytes. Raises DiskFull or SpoolError.
    """
    settings = settings or FrameSettings()
    truth = {}
    for folder in ("darks", "flats")[: 2 if settings.levels else 1]:
        (out / folder).mkdir(parents=True, exist_ok=True)
    levels = _levels(sensor, settings)
    for iso in isos:
        camera = (noise or {}).get(iso) or noise_parameters(sensor.camera, iso)
        truth[iso] = parameters = _in_file_codes(camera, settings.bits_lost)
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, iso])))
        for number in range(settings.darks):
            clean = np.zeros(settings.size, np.float32)
            codes = _codes(clean, sensor, parameters, settings, rng)
            path = out / "darks" / f"iso{iso}-{number:03d}.dng"
            _write(path, codes, sensor, settings, iso, 0.01)
        for number, level in enumerate(settings.levels):
            clean = _flat(settings, level * (levels[1] - levels[0]))
            for which in "ab":
                codes = _codes(clean, sensor, parameters, settings, rng)
                path = out / "flats" / f"iso{iso}-{number:03d}{which}.dng"
                _write(path, codes, sensor, settings, iso, level)
    return truth


def _levels(sensor: Sensor, settings: FrameSettings) -> tuple[int, int]:
    """Return the files' black and white levels."""
    black = sensor.black if settings.black is None else settings.black
    return round(black / (1 << settings.bits_lost)), sensor.white >> settings.bits_lost


def _flat(settings: FrameSettings, level: float) -> F32:
    height, width = settings.size
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    clean = (level * (1 - _CORNER * (x**2 + y**2) / 2)).astype(np.float32)
    return clean if settings.response is None else clean * settings.response


def _codes(
    clean: F32,
    sensor: Sensor,
    parameters: NoiseParameters,
    settings: FrameSettings,
    rng: np.random.Generator,
) -> npt.NDArray[np.uint16]:
    black, white = _levels(sensor, settings)
    noisy = add_noise(clean, parameters, rng, sensor.cfa)
    if settings.fixed_pattern is not None:
        noisy = np.rint(noisy + settings.fixed_pattern)
    stored = np.clip(noisy + np.float32(black), 0, white).astype(np.uint16)
    return np.ascontiguousarray(stored.T) if settings.is_rotated else stored


def _write(
    path: Path,
    codes: npt.NDArray[np.uint16],
    sensor: Sensor,
    settings: FrameSettings,
    iso: int,
    exposure_s: float,
) -> None:
    black, white = _levels(sensor, settings)
    cfa = tuple(map("".join, zip(*sensor.cfa, strict=True))) if settings.is_rotated else sensor.cfa
    tags = DngTags(
        cfa=cfa,
        black=(float(black),),
        white=white,
        make=sensor.make,
        model=sensor.model,
        exposure_s=exposure_s,
        iso=iso,
    )
    write_dng(path, codes, tags)


def _in_file_codes(parameters: NoiseParameters, bits_lost: int) -> NoiseParameters:
    divisor = 1 << bits_lost
    red, green, blue, green_of_blue = (value / divisor for value in parameters.colour_bias)
    return NoiseParameters(
        gain=parameters.gain / divisor,
        read_shape=parameters.read_shape,
        read_scale=parameters.read_scale / divisor,
        row_sigma=parameters.row_sigma / divisor,
        colour_bias=(red, green, blue, green_of_blue),
    )
