"""The cameras of SID and ELD: their names, and the folders in which their files are.

The trade-off: only layouts are listed here. Black level, white level, colours and the phase of the colour
filter array come from each file, so that a wrong entry cannot change a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from darkprep.shards.errors import DatasetError, OptionError
from darkprep.shards.format import CfaKind

Dataset = Literal["SID", "ELD"]


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A camera of a data set: its names and the layout of its files."""

    name: str
    """The name on the command line."""
    title: str
    """The name in tables and reports."""
    dataset: Dataset
    folder: str
    """The camera's folder below the root."""
    cfa: CfaKind
    """The CFA of the sensor, for synthetic files; for photographs it comes from each file."""
    extensions: tuple[str, ...]
    """Lower case, the camera's own first. DNG is what converters and `darkprep synth` write."""


def _camera(
    name: str, title: str, dataset: Dataset, folder: str, extension: str, cfa: CfaKind = "bayer"
) -> Camera:
    return Camera(
        name=name,
        title=title,
        dataset=dataset,
        folder=folder,
        cfa=cfa,
        extensions=(extension, ".dng"),
    )


CAMERAS: dict[str, Camera] = {
    camera.name: camera
    for camera in (
        _camera("sony", "Sony A7S II", "SID", "Sony", ".arw"),
        _camera("fuji", "Fuji X-T2", "SID", "Fuji", ".raf", "xtrans"),
        _camera("sonya7s2", "Sony A7S II (ELD)", "ELD", "SonyA7S2", ".arw"),
        _camera("nikond850", "Nikon D850", "ELD", "NikonD850", ".nef"),
        _camera("canon70d", "Canon 70D", "ELD", "CanonEOS70D", ".cr2"),
        _camera("canon700d", "Canon 700D", "ELD", "CanonEOS700D", ".cr2"),
        _camera("canon5d4", "Canon 5D Mark IV", "ELD", "CanonEOS5D4", ".cr2"),
    )
}
"""All cameras by name, Sony's A7S II twice: it took photographs for both data sets."""


def camera_named(name: str) -> Camera:
    """Return the camera with this name, in upper or lower case. Raises OptionError, which lists all names."""
    try:
        return CAMERAS[name.lower()]
    except KeyError:
        raise OptionError(f"unknown camera {name!r}; choose one of {', '.join(CAMERAS)}") from None


def dataset_of(camera: str) -> Dataset | None:
    """Return the data set to which the camera with this name belongs; None for other names."""
    return CAMERAS[camera].dataset if camera in CAMERAS else None


def raw_files(directory: Path, camera: Camera) -> list[Path]:
    """Return a directory's RAW files, those with the camera's own extension first, each group sorted by name.

    Raises DatasetError if the directory cannot be listed.
    """
    try:
        paths = [
            path
            for path in directory.iterdir()
            if path.suffix.lower() in camera.extensions and not path.name.startswith(".")
        ]
    except OSError as error:
        raise DatasetError(
            f"{directory}: cannot be listed ({error.strerror or error}); check its permissions and the disk"
        ) from error
    return sorted(paths, key=lambda p: (camera.extensions.index(p.suffix.lower()), p.name))
