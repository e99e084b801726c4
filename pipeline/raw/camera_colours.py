"""The colours of the cameras on which a network is trained: recorded in the plan and in the weights file.

The trade-off: one white balance and one matrix describe a camera, although its photographs differ in white
balance, so that a few numbers are enough to convert another camera's frames without any photograph.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from darkprep.pipeline.raw.colour import Colours
from darkprep.pipeline.raw.frame import RawHeader

MAX_CAMERAS = 16
"""Cameras of a plan that are recorded; those with the most pairs come first."""
_MAX_NAME = 200
_MAX_TEXT = 1 << 16
_DIGITS = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraColours:
    """A camera's name and its typical colours. Raises ValueError, which names the invalid field."""

    camera: str
    """Maker and model as `camera_name` returns them."""
    colours: Colours

    def __post_init__(self) -> None:
        if not (0 < len(self.camera) <= _MAX_NAME and self.camera.isprintable()):
            raise ValueError(f"camera must be 1 to {_MAX_NAME} printable characters")

    def to_record(self) -> dict[str, Any]:
        """Return the camera as JSON values."""
        return {
            "camera": self.camera,
            "white_balance": self.colours.gains.round(_DIGITS).tolist(),
            "to_srgb": self.colours.to_srgb.round(_DIGITS).tolist(),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> CameraColours:
        """Create a camera from JSON values. Raises KeyError, TypeError or ValueError if they are invalid."""
        if not isinstance(record["camera"], str):
            raise TypeError("camera must be a string")
        return cls(
            camera=record["camera"],
            colours=Colours(
                gains=np.array(record["white_balance"], np.float64),
                to_srgb=np.array(record["to_srgb"], np.float64),
            ),
        )


def camera_name(header: RawHeader) -> str:
    """Return maker and model of a file's camera as one name, such as `SONY ILCE-7SM2` or `NIKON D1`; "" if unknown.

    A model that begins with the maker's name is returned alone.
    """
    return full_camera_name(header.make, header.model)


def full_camera_name(make: str, model: str) -> str:
    """Return maker and model as one name; see `camera_name`."""
    first = (make.split() or [""])[0].casefold()
    is_named = bool(first) and model.casefold().startswith(first)
    name = model if is_named else f"{make} {model}"
    return "".join(c if c.isprintable() else " " for c in name).strip()[:_MAX_NAME]


def typical_colours(several: Sequence[Colours]) -> Colours:
    """Return the median white balance of photographs of one camera, and the matrix of the first one."""
    gains = np.exp(np.median(np.log([one.gains for one in several]), axis=0))
    return Colours(gains=gains / gains[1], to_srgb=several[0].to_srgb)


def colours_for(camera: str, cameras: Iterable[CameraColours]) -> Colours | None:
    """Return the colours to which a file of `camera` is converted for a network trained on `cameras`.

    Returns None if no conversion is needed, because the network was trained on this camera, or if no camera is
    known. Otherwise the first camera is used: the one with the most training pairs.
    """
    known = {one.camera.casefold(): one.colours for one in reversed(list(cameras))}
    return None if camera.casefold() in known else next(reversed(known.values()), None)


def cameras_to_text(records: Iterable[Mapping[str, Any]]) -> str:
    """Return records of cameras as JSON text for a weights file; "" for none."""
    listed = list(records)
    return json.dumps(listed, separators=(",", ":")) if listed else ""


def cameras_from_text(text: str) -> tuple[CameraColours, ...]:
    """Return the cameras in a weights file's metadata; empty if it has none or they are invalid.

    Weights may come from anyone: text of more than 64 KiB is not parsed, and at most 16 cameras are read.
    """
    if not text or len(text) > _MAX_TEXT:
        return ()
    try:
        records = json.loads(text)
        return tuple(CameraColours.from_record(one) for one in records[:MAX_CAMERAS])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return ()
