"""Photograph a scene: write what a camera's sensor records of it as DNG files.

The trade-off: a whole frame is in memory, 8 bytes a pixel, and files are uncompressed, so that most of the
time is spent on the noise.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from darkprep.pipeline.noise.model import add_noise, noise_parameters
from darkprep.pipeline.raw.dng import DngTags, write_dng
from darkprep.synth.layouts import Exposure, Rng, ScenePlan, scene_rng
from darkprep.synth.renderer.render import render_tiles
from darkprep.synth.renderer.scene import Scene
from darkprep.synth.scenes.generate import make_scene
from darkprep.synth.sensors import Sensor, sensor_of

F32 = npt.NDArray[np.float32]


def capture_scene(out: Path, plan: ScenePlan) -> ScenePlan:
    """Write all photographs of the scene in `plan` below `out`; return `plan`."""
    sensor = sensor_of(plan.camera)
    scene = make_scene(plan.seed, plan.number)
    clean = expose(scene, sensor, plan.size)
    for stream, exposure in enumerate(plan.exposures, start=1):
        rng = scene_rng(plan.seed, plan.number, sensor, stream=stream)
        codes = record(clean, sensor, exposure, rng)
        write_dng(out / exposure.path, codes, _tags(sensor, scene, plan, stream))
    return plan


def expose(scene: Scene, sensor: Sensor, size: tuple[int, int]) -> F32:
    """Return the noiseless mosaic `(H, W)` float32 of a scene, 1 = full scale, without the sensor's masked margins.

    sRGB radiance is converted to the camera's colours by the inverse of what a RAW developer applies: the
    row-normalised colour matrix, then white balance. Each pixel keeps the colour of its filter only.
    """
    weights = _filter_weights(sensor, scene.kelvin)
    clean = np.empty(size, np.float32)
    for rows, columns, image in render_tiles(scene, size):
        y = np.arange(rows.start, rows.stop) % sensor.period
        x = np.arange(columns.start, columns.stop) % sensor.period
        clean[rows, columns] = (image * weights[np.ix_(y, x)]).sum(axis=2)
    return clean


def record(clean: F32, sensor: Sensor, exposure: Exposure, rng: Rng) -> npt.NDArray[np.uint16]:
    """Return the codes that the sensor records of a noiseless mosaic, `(H, W)` uint16 with the masked margins.

    Pixels in the masked margins have noise but no light. Codes below the black level are kept; codes above
    the white level become the white level, because the sensor saturates there.
    """
    scale = (sensor.white - sensor.black) / exposure.ratio
    lit = np.pad(clean * np.float32(scale), [(margin, 0) for margin in sensor.margins])
    noisy = add_noise(lit, noise_parameters(sensor.camera, exposure.iso, rng), rng, sensor.cfa)
    noisy += np.float32(sensor.black)
    return np.clip(noisy, 0, sensor.white, out=noisy).astype(np.uint16)


def _filter_weights(sensor: Sensor, kelvin: float) -> F32:
    """Return the response of each pixel of one CFA period to linear sRGB, `(period, period, 3)`."""
    neutral = np.array(sensor.neutral(kelvin))
    camera = sensor.balanced_from_srgb() * neutral[:, None]
    channels = [["RGB".index(letter) for letter in row] for row in sensor.cfa]
    return np.asarray(camera[np.array(channels)], np.float32)


def _tags(sensor: Sensor, scene: Scene, plan: ScenePlan, stream: int) -> DngTags:
    """Return the metadata of photograph number `stream` of a scene; its time is a minute after the one before."""
    exposure = plan.exposures[stream - 1]
    top, left = sensor.margins
    day, minute = divmod(20 * plan.number + stream, 24 * 60)
    return DngTags(
        cfa=sensor.cfa,
        black=(float(sensor.black),),
        white=sensor.white,
        as_shot_neutral=sensor.neutral(scene.kelvin),
        color_matrix=tuple(sensor.matrix.ravel().tolist()),
        make=sensor.make,
        model=sensor.model,
        exposure_s=exposure.exposure_s,
        f_number=plan.f_number,
        iso=exposure.iso,
        margins=(top, left, 0, 0),
        date_time=f"2024:05:{1 + day % 28:02d} {minute // 60:02d}:{minute % 60:02d}:00",
    )
