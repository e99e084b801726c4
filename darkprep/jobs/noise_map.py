"""The noise levels that a network with a noise-level map reads, as `--noise-map` chooses them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from darkprep.pipeline.noise.calibrations import CALIBRATIONS, NoiseTable, calibration_of
from darkprep.pipeline.noise.camera_calibration import read_identified
from darkprep.pipeline.noise.noise_levels import NoiseLevels
from darkprep.pipeline.plan.options import SAMPLED
from darkprep.pipeline.plan.plan import read_recipe
from darkprep.shards import OptionError, Spool

AUTO = "auto"
"""Value of `--noise-map` that names no camera: the noise with which the spool was built, or of each camera."""


@dataclass(frozen=True, kw_only=True)
class TrainingNoise:
    """The noise levels of a training run."""

    samples: NoiseLevels
    """Of the samples of the spool."""
    frames: NoiseLevels
    """Of photographed validation frames."""
    identity: str
    """What must be equal when the run is resumed, apart from the plan."""


def noise_levels(chosen: str | None) -> NoiseLevels:
    """Return the noise levels of a published camera or a calibration file; of each exposure's own camera for None or `auto`.

    Raises OptionError for another value, or for a calibration that lacks K.
    """
    return _named(chosen)[0]


def training_noise(chosen: str, spool: Spool) -> TrainingNoise:
    """Return the noise levels for training on a spool, as `--noise-map` chooses them.

    With `auto`, they are those of the noise with which the spool was built, or for photographed short exposures of
    each sample's camera. Raises OptionError for another value, or if the noise of the samples is not known, and
    PlanError for an invalid plan.
    """
    levels, identity = _named(chosen)
    if chosen != AUTO:
        return TrainingNoise(samples=levels, frames=levels, identity=identity)
    made, camera = _noise_of_plan(spool), spool.stream.camera.casefold()
    fallback = made or (calibration_of(camera) if camera in CALIBRATIONS else None)
    return TrainingNoise(
        samples=NoiseLevels(table=made), frames=NoiseLevels(fallback=fallback), identity=identity
    )


def _named(chosen: str | None) -> tuple[NoiseLevels, str]:
    """Return the noise levels and what identifies them."""
    if chosen is None or chosen == AUTO:
        return NoiseLevels(), AUTO
    if chosen.casefold() in CALIBRATIONS:
        return NoiseLevels(table=calibration_of(chosen.casefold())), chosen.casefold()
    path = Path(chosen)
    if not path.is_file():
        raise OptionError(
            f"noise-map must be one of {', '.join(CALIBRATIONS)}, or a file of `darkprep calibrate`, not {chosen!r}"
        )
    made, digest = read_identified(path)
    for one in made.isos:
        if one.gain is None or one.is_clipped:
            missing = "gain K" if one.gain is None else "noise below black"
            raise OptionError(
                f"noise-map {chosen}: has no {missing} at ISO {one.iso:g}, without which the noise level is unknown; calibrate with --flats, or leave --noise-map out"
            )
    levels = NoiseLevels(table=made.noise_table(chosen), camera=made.camera)
    return levels, f"calibration {digest}"


def _noise_of_plan(spool: Spool) -> NoiseTable | None:
    """Return the noise of the short exposures that a spool's plan makes; None if they are photographed."""
    options, _ = read_recipe(spool)
    if options.noise == SAMPLED:
        raise OptionError(
            "noise-map auto cannot be used with a spool whose noise is of real dark frames; give --noise-map FILE.json with a file of `darkprep calibrate` for their camera"
        )
    return options.noise_table() if options.noise else None
