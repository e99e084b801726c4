"""Plan the photographs of a synthetic data set: names, exposures and splits as in SID and ELD.

The trade-off: exposures are drawn from the published ranges, not copied from the data sets' file lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from darkprep.synth.sensors import SENSORS, Sensor

Rng = np.random.Generator

SPLITS = ("train", "test", "val")
"""In the order of the first digit of the names of SID's scenes."""
SID_ISOS = {"sony": (100, 160, 200, 250, 320, 400, 500, 640), "fuji": (100, 125, 160, 200, 250)}
"""The low end of SID's range, 50 to 25600, where long exposures have the least noise."""

_SID_SHORT_S = {"0.1": 0.1, "0.04": 0.04, "0.033": 1 / 30}
"""SID's short exposure times in seconds, as written in file names."""
_SID_F_NUMBERS = (3.2, 4.0, 5.6, 8.0, 9.0, 11.0)
_ELD_ISOS = (800, 1600, 3200)
_ELD_RATIOS = (1, 10, 100, 200)
_ELD_REFERENCE_ISO = 100
_ELD_REFERENCE_S = (10.0, 15.0, 20.0, 30.0)


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """One photograph of a scene."""

    path: str
    """Path below the data root."""
    exposure_s: float
    iso: int
    ratio: float
    """How many times more exposure would reach full scale."""


@dataclass(frozen=True, kw_only=True)
class ScenePlan:
    """All photographs of one scene by one camera."""

    camera: str
    number: int
    """The scene's number, from 0."""
    seed: int
    size: tuple[int, int]
    """Visible height and width in pixels."""
    f_number: float
    exposures: tuple[Exposure, ...]
    list_lines: str = ""
    """The scene's lines in its split's list file (SID)."""
    split: str = ""
    """One of SPLITS (SID)."""


def plan_sid_scene(
    sensor: Sensor,
    number: int,
    *,
    scenes: int,
    shorts: int,
    seed: int,
    size: tuple[int, int],
    isos: Sequence[int],
) -> ScenePlan:
    """Return the plan of scene `number` out of `scenes`: `shorts` short exposures, then the long one.

    As in SID, a scene whose long exposure is 30 s has short exposures of 0.1 s only (ratio 300), and Fuji's
    long exposures are 10 s.
    """
    rng = scene_rng(seed, number, sensor, stream=0)
    iso, f_number = int(rng.choice(isos)), float(rng.choice(_SID_F_NUMBERS))
    long_s = 30.0 if sensor.camera == "sony" and number % 2 else 10.0
    split = split_of(number, scenes)
    name, folder = f"{split}{number + 1:04d}", sensor.layout.folder
    long = Exposure(
        path=f"{folder}/long/{name}_00_{long_s:g}s.dng", exposure_s=long_s, iso=iso, ratio=1.0
    )
    times = ["0.1"] if long_s == 30.0 else list(_SID_SHORT_S)
    short = [
        Exposure(
            path=f"{folder}/short/{name}_{k // len(times):02d}_{times[k % len(times)]}s.dng",
            exposure_s=_SID_SHORT_S[times[k % len(times)]],
            iso=iso,
            ratio=long_s / _SID_SHORT_S[times[k % len(times)]],
        )
        for k in range(shorts)
    ]
    lines = (f"./{one.path} ./{long.path} ISO{iso} F{f_number:g}\n" for one in short)
    return ScenePlan(
        camera=sensor.camera,
        number=number,
        seed=seed,
        size=size,
        f_number=f_number,
        exposures=(*short, long),
        list_lines="".join(lines),
        split=SPLITS[split],
    )


def plan_eld_scene(sensor: Sensor, number: int, *, seed: int, size: tuple[int, int]) -> ScenePlan:
    """Return the plan of a scene's sixteen images: a reference, then for each ISO ratios 1, 10, 100, 200 and a reference."""
    rng = scene_rng(seed, number, sensor, stream=0)
    reference_s, f_number = float(rng.choice(_ELD_REFERENCE_S)), float(rng.choice(_SID_F_NUMBERS))
    settings = [(_ELD_REFERENCE_ISO, 1)]
    for iso in _ELD_ISOS:
        settings += [(iso, ratio) for ratio in _ELD_RATIOS] + [(_ELD_REFERENCE_ISO, 1)]
    exposures = tuple(
        Exposure(
            path=f"{sensor.layout.folder}/scene-{number + 1}/IMG_{k + 1:04d}.dng",
            exposure_s=reference_s * _ELD_REFERENCE_ISO / iso / ratio,
            iso=iso,
            ratio=float(ratio),
        )
        for k, (iso, ratio) in enumerate(settings)
    )
    return ScenePlan(
        camera=sensor.camera,
        number=number,
        seed=seed,
        size=size,
        f_number=f_number,
        exposures=exposures,
    )


def split_of(number: int, scenes: int) -> int:
    """Return the index in SPLITS of a scene's split: about 70 % train, 21 % test and 9 % validation, as in SID."""
    test = max(1, round(0.21 * scenes)) if scenes > 1 else 0
    val = round(0.09 * scenes)
    train = scenes - test - val
    return 0 if number < train else 1 if number < train + test else 2


def scene_rng(seed: int, number: int, sensor: Sensor, *, stream: int) -> Rng:
    """Return a random generator for a scene: stream 0 for its plan, stream k for its k-th photograph."""
    camera = list(SENSORS).index(sensor.camera) + 1
    return np.random.Generator(
        np.random.Philox(key=[seed, (number + 1) << 32 | camera << 16 | stream])
    )
