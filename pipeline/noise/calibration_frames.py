"""Read dark frames and flat fields: group them by ISO, refuse what does not belong together, and measure each ISO.

The trade-off: the ISO is that of the files' Exif data, not of folders; one frame is decoded at a time, in a process
that may crash, so that memory does not depend on the number of frames.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from darkprep.pipeline.noise.dark_frames import DarkStack, DarkStatistics
from darkprep.pipeline.noise.photon_transfer import FlatStack, PhotonTransfer
from darkprep.pipeline.noise.tukey_lambda import F64
from darkprep.pipeline.raw.camera_colours import camera_name
from darkprep.pipeline.raw.frame import RawHeader
from darkprep.pipeline.raw.guard import HEADER_S, GuardedReader
from darkprep.pipeline.raw.mosaic import canonical_mosaic, canonical_origin
from darkprep.pipeline.raw.reader import read_header, read_raw
from darkprep.shards.cfa import CANONICAL
from darkprep.shards.errors import DatasetError
from darkprep.shards.format import U16

ReadMosaic = Callable[[Path], tuple[U16, F64, int]]
"""`read_mosaic`, or the same in a process of its own."""

_LIT = 0.02
"""Mean above black of a dark frame, as a share of the range, from which it has light."""
_SAME_SCENE = 0.05
"""Largest relative difference of the means of the two frames of a pair."""


@dataclass(frozen=True, eq=False, kw_only=True)
class IsoGroup:
    """The frames of one ISO."""

    iso: float
    darks: tuple[RawHeader, ...]
    flats: tuple[RawHeader, ...]


def frames_by_iso(darks: Sequence[Path], flats: Sequence[Path]) -> list[IsoGroup]:
    """Read the headers; return the frames by ISO. Raises DatasetError for frames that do not belong together."""
    if not darks:
        raise DatasetError(
            "no dark frames to calibrate from; give a directory of RAW files to --darks"
        )
    first: RawHeader | None = None
    found: tuple[dict[float, list[RawHeader]], dict[float, list[RawHeader]]] = (
        defaultdict(list), defaultdict(list),
    )  # fmt: skip
    with GuardedReader(read_header, seconds=HEADER_S) as read:
        for kind, paths in zip(found, (darks, flats), strict=True):
            for path in paths:
                header = read(path)
                first = first or header
                _check_same(header, first)
                kind[header.iso].append(header)
    of_darks, of_flats = found
    for iso, headers in of_darks.items():
        if len(headers) < 2:
            raise DatasetError(
                f"{headers[0].path}: is the only dark frame at ISO {iso:g}; at least 2 are needed, and 16 are advised"
            )
    for iso, headers in of_flats.items():
        if iso not in of_darks:
            raise DatasetError(
                f"{headers[0].path}: is a flat field at ISO {iso:g}, but there are no dark frames at this ISO; add some or remove it"
            )
    return [
        IsoGroup(iso=iso, darks=tuple(of_darks[iso]), flats=tuple(of_flats.get(iso, ())))
        for iso in sorted(of_darks)
    ]


def check_same_camera(headers: Sequence[RawHeader]) -> None:
    """Raise DatasetError, which names the file, unless all frames are of one camera and size and state an ISO."""
    for header in headers:
        _check_same(header, headers[0])


def _check_same(header: RawHeader, first: RawHeader) -> None:
    if not header.iso > 0:
        raise DatasetError(
            f"{header.path}: states no ISO in its Exif data, by which frames are grouped; replace this file with the camera's original, or remove it from the directory"
        )
    if camera_name(header) != camera_name(first):
        raise DatasetError(
            f"{header.path}: is of camera {camera_name(header)}, but {first.path} of {camera_name(first)}; calibrate one camera at a time"
        )
    if (header.height, header.width, header.pattern) != (first.height, first.width, first.pattern):
        raise DatasetError(
            f"{header.path}: is {header.height}x{header.width} with filters {'/'.join(header.pattern)}, but {first.path} "
            f"is {first.height}x{first.width} with {'/'.join(first.pattern)}; use frames of the same size and filter pattern"
        )


def read_mosaic(path: Path) -> tuple[U16, F64, int]:
    """Decode a frame; return its canonical mosaic, the black level of each site, and the white level. Raises RawError."""
    frame = read_raw(path)
    black = np.roll(frame.black, [-shift for shift in canonical_origin(frame.pattern)], axis=(0, 1))
    return np.ascontiguousarray(canonical_mosaic(frame)), black.astype(np.float64), frame.white


def measure_darks(
    group: IsoGroup, read: ReadMosaic, tick: Callable[[str], None]
) -> tuple[F64, int, DarkStatistics]:
    """Read the dark frames of an ISO once; return the black level of each site, the white level, and what was measured.

    `tick` is called with the name of each frame that was read. Raises DatasetError, which names the file, for one
    with light and for frames that give no noise, RawError for one that cannot be read.
    """
    stack: DarkStack | None = None
    white = 0
    for header in group.darks:
        mosaic, black, white = read(Path(header.path))
        stack = stack or DarkStack(black=black)
        mean = stack.add(mosaic)
        if mean > _LIT * (white - stack.black.max()):
            raise DatasetError(
                f"{header.path}: is not a dark frame: its mean is {mean:.0f} raw units above black; cover the lens and the viewfinder"
            )
        tick(Path(header.path).name)
    assert stack is not None, "a group has dark frames"
    found = stack.statistics()
    if found.pixel_variance == 0:
        raise DatasetError(
            f"{group.darks[0].path}: the dark frames at ISO {group.iso:g} are copies of one frame; use frames that were photographed separately"
        )
    if found.read is None:
        raise DatasetError(
            f"{group.darks[0].path}: the dark frames at ISO {group.iso:g} have too few different raw values to measure noise; use a higher ISO"
        )
    return stack.black, white, found


def measure_flats(
    group: IsoGroup, black: F64, white: int, read: ReadMosaic, tick: Callable[[str], None]
) -> PhotonTransfer | None:
    """Read the flat fields of an ISO once and return the photon transfer of their pairs; None without flat fields.

    `black` is the black level of each site. Raises DatasetError, which names a file, for flat fields that give no
    gain, RawError for one that cannot be read.
    """
    if not group.flats:
        return None
    stack = FlatStack(black=black, colours=CANONICAL[group.flats[0].cfa], white=white)
    for first, second in _pairs(group.flats, read, tick):
        stack.add(first, second)
    where = f"{group.flats[0].path}: the flat fields at ISO {group.iso:g}"
    if not stack.pairs:
        raise DatasetError(
            f"{where} have no pair of frames: the two frames of a pair must have the same scene, exposure time and brightness, and must be neighbours when the files are sorted by name"
        )
    try:
        return stack.result()
    except ValueError as error:
        raise DatasetError(f"{where} {error}") from error


def _pairs(
    flats: Sequence[RawHeader], read: ReadMosaic, tick: Callable[[str], None]
) -> Iterator[tuple[U16, U16]]:
    """Yield two frames that follow each other and have the same exposure time and brightness."""
    before: tuple[RawHeader, U16] | None = None
    for header in sorted(flats, key=lambda one: one.path):
        mosaic, _, _ = read(Path(header.path))
        tick(Path(header.path).name)
        if before is not None:
            means = before[1].mean(dtype=np.float64), mosaic.mean(dtype=np.float64)
            is_same = before[0].exposure_s == header.exposure_s
            if is_same and abs(means[0] - means[1]) <= _SAME_SCENE * max(means):
                yield before[1], mosaic
                before = None
                continue
        before = header, mosaic
