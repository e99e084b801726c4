"""Load the weights that a user names: the file of a run, or the checkpoint released by REDIRT's authors."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import torch

from darkprep.jobs.own_code import import_network
from darkprep.model import (
    PUBLISHED_LICENCE,
    ModelError,
    Network,
    build_model,
    import_published,
    load_model,
    load_weights,
)
from darkprep.model.inference import Precision, ReadyNetwork, ready_for_inference
from darkprep.pipeline.raw.camera_colours import (
    CameraColours,
    cameras_to_text,
    full_camera_name,
)
from darkprep.pipeline.raw.colour import Colours
from darkprep.shards import OptionError, WeightsError
from darkprep.shards.files import disk_errors
from darkprep.synth.sensors import sensor_of

_DAYLIGHT_KELVIN = 5200.0
"""Colour temperature of the white balance that imported weights state for their camera."""


def load_restorer(
    weights: Path,
    device: torch.device,
    *,
    model: str | None = None,
    precision: Precision = "fp32",
) -> ReadyNetwork:
    """Return a network with these weights, ready to restore whole frames.

    Raises the errors of `load_network`, and OptionError for a precision that the device lacks.
    """
    network = load_network(weights, model=model)
    try:
        return ready_for_inference(network, precision=precision, device=device)
    except ModelError as error:
        raise OptionError(f"--precision: {error}") from error


def load_network(weights: Path, *, model: str | None = None) -> Network:
    """Return the network of a weights file, with its weights. Raises WeightsError.

    `model` is the name of the network, which weights of the user's own network need. Raises OptionError if it
    cannot be imported.
    """
    _refuse_other_files(weights)
    try:
        if weights.suffix == ".safetensors":
            own = import_network(model) if model else None
            network = load_model(weights, network=own, name=model if own and model else "")
            if model and network.name != model:
                raise WeightsError(
                    f"{weights}: holds weights of {network.name}, not of {model}; choose other weights, or another --model"
                )
        else:
            network = build_model("redirt")
            load_weights(network, weights)
    except ModelError as error:
        raise WeightsError(str(error)) from error
    return network


def _refuse_other_files(weights: Path) -> None:
    """Raise WeightsError for another file of a run, and name the file that was probably meant."""
    if weights.is_dir():
        raise WeightsError(f"{weights}: is a directory; choose the weights.safetensors in it")
    if weights.suffix == ".pt" and (weights.parent.parent / "config.json").exists():
        raise WeightsError(
            f"{weights}: is a checkpoint, which is for --resume only; choose the run's weights.safetensors, which is written when training ends"
        )
    if not weights.exists() and (weights.parent / "config.json").exists():
        raise WeightsError(
            f"{weights}: does not exist yet, because it is written when training ends; finish the run with `darkprep stream-train --resume --run {shlex.quote(str(weights.parent))}` (and the same --model and --loss if these were your own)"
        )


def import_released(published: Path, out: Path) -> str:
    """Convert the checkpoint released by REDIRT's authors to `out`, and return a message for the user.

    Raises WeightsError, DiskFull and SpoolError.
    """
    try:
        with disk_errors(out):
            _import(published, out)
    except ModelError as error:
        raise WeightsError(str(error)) from error
    except OSError as error:
        raise _unwritable(out, error) from error
    return f"wrote {out}. {PUBLISHED_LICENCE}"


def _import(published: Path, out: Path) -> None:
    """Convert `published` to `out`. Raises WeightsError if the directory of `out` does not exist."""
    try:
        import_published(published, out, cameras=_released_cameras())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _unwritable(out, error) from error


def _released_cameras() -> str:
    """Return the colours of the camera on whose photographs the released weights were trained, SID's Sony, as text."""
    sensor = sensor_of("sony")
    camera = CameraColours(
        camera=full_camera_name(sensor.make, sensor.model),
        colours=Colours(
            gains=1 / np.array(sensor.neutral(_DAYLIGHT_KELVIN)),
            to_srgb=np.array(np.linalg.inv(sensor.balanced_from_srgb()), np.float64),
        ),
    )
    return cameras_to_text([camera.to_record()])


def _unwritable(out: Path, error: OSError) -> WeightsError:
    return WeightsError(
        f"{out}: cannot be written ({error.strerror}); name a file in an existing directory"
    )
