"""A calibration of any bytes is refused by one OptionError, or its noise and its dark shading can be used."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from darkprep.pipeline.noise.camera_calibration import (
    CameraCalibration,
    Gain,
    GainMode,
    IsoCalibration,
    ReadNoise,
    read_calibration,
    read_shading,
    write_calibration,
    write_shading,
)
from darkprep.pipeline.noise.dark_shading import ShadingMaps
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.shards.errors import OptionError
from fuzz.choices import Choices
from fuzz.memory import new_folder

PARTS = ("json", "map", "noise table of a plan")
_SIZE = (8, 12)
_ISOS = (800.0, 3200.0)


def try_input(data: bytes) -> tuple[str, bool]:
    """Try one calibration; raise whatever its reader must not raise."""
    path, good, slope = _prepared()
    choices = Choices(data)
    part = choices.one_of(PARTS)
    if part == "noise table of a plan":
        return part, _is_option(choices)
    path.write_bytes(choices.json(json.loads(good)) if part == "json" else good)
    path.with_name("camera-shading-0-slope.npy").write_bytes(
        choices.edited(slope) if part == "map" else slope
    )
    try:
        _use(path)
    except OptionError as error:
        assert "\n" not in str(error), error
        return part, False
    return part, True


def _use(path: Path) -> None:
    calibration = read_calibration(path)
    for iso in (1.0, 1600.0, 1e9):
        shading = read_shading(path, calibration, iso)
        assert shading is None or shading.shape == (calibration.height, calibration.width)
    table = calibration.noise_table(str(path))
    for iso in (1.0, 1600.0, 1e9):
        assert table.parameters(iso, np.random.default_rng(0)).gain > 0


def _is_option(choices: Choices) -> bool:
    """Try the table that a plan holds; the options around it are valid."""
    table = json.loads(json.dumps(asdict(_calibration().noise_table("x"))))
    record = {"camera": "sony", "noise": "measured", "measured_noise": choices.with_a_leaf_replaced(table)}  # fmt: skip
    try:
        options = PlanOptions.from_record(record)
    except (OptionError, ValueError, TypeError):  # as Plan.load expects
        return False
    assert options.measured_noise is not None
    assert options.measured_noise.parameters(1600.0).gain > 0
    return True


@functools.cache
def _calibration(**shading: Any) -> CameraCalibration:
    read = ReadNoise(shape=0.1, scale=2.0, std=2.0, r2_tukey=0.9, r2_normal=0.9)
    return CameraCalibration(
        camera="SONY ILCE-7SM2",
        cfa="bayer",
        height=_SIZE[0],
        width=_SIZE[1],
        black=512.0,
        white=16383,
        isos=tuple(
            IsoCalibration(
                iso=iso, exposure_s=0.1, darks=6, gain=Gain(value=1.0, error=0.1, channels=(1.0,) * 3, pairs=2),
                read=read, row_sigma=0.1, row_error=0.1, column_sigma=0.1, fixed_column_sigma=0.1, fixed_pixel_sigma=0.1,
                colour_bias=(0.0,) * 4, step=1,
            )
            for iso in _ISOS
        ),
        modes=tuple(GainMode(lowest=iso, highest=iso, **shading) for iso in _ISOS),
    )  # fmt: skip


@functools.cache
def _prepared() -> tuple[Path, bytes, bytes]:
    """The path of a calibration, and the good bytes of it and of its slope."""
    path = new_folder() / "camera.json"
    values = np.random.default_rng(0).random(_SIZE, np.float32)
    maps = ShadingMaps(isos=(800.0, 3200.0), slope=values, offset=values)
    stem, checksums = write_shading(path, 0, maps)
    write_calibration(path, _calibration(shading=stem, checksums=checksums))
    return path, path.read_bytes(), path.with_name(f"{stem}-slope.npy").read_bytes()
