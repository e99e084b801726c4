"""The colours of a camera (typical white balance and colour matrix), from some of its photographs."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from darkprep.pipeline.pairs.cameras import CAMERAS, camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.raw.camera_colours import (
    MAX_CAMERAS,
    CameraColours,
    camera_name,
    typical_colours,
)
from darkprep.pipeline.raw.colour import F64, Colours, colours_of
from darkprep.pipeline.raw.guard import DECODE_S, GuardedReader, guarded
from darkprep.shards.errors import RawError

_SAMPLED = 9
"""Photographs whose median white balance is taken."""


def reference_colours(source: str, root: Path) -> Colours:
    """Return the colours of a RAW file, or of a camera given by name.

    For a camera: the median white balance of photographs that are spread evenly over those below `root`,
    and their colour matrix. Raises DatasetError if there is no photograph of the camera, RawError for a
    file that cannot be used.
    """
    if source.lower() not in CAMERAS:
        return guarded(_photograph_colours, Path(source))[1]
    pairs = find_pairs(root, camera_named(source)).pairs
    with GuardedReader(_photograph_colours, seconds=DECODE_S) as read:
        return typical_colours([read(root / pair.short)[1] for pair in _spread(pairs)])


def pair_colours(root: Path, pairs: Sequence[Pair]) -> tuple[CameraColours, ...]:
    """Return the typical colours of each camera among pairs below `root`, those with the most pairs first.

    The white balances are those of some short exposures of each camera; one of them is decoded for the colour
    matrix. Cameras without a name or without usable colours are left out, as are files that cannot be read.
    """
    labelled = defaultdict[str, list[Pair]](list)
    for pair in pairs:
        labelled[pair.camera].append(pair)
    ordered = sorted(labelled.values(), key=len, reverse=True)[:MAX_CAMERAS]
    found = defaultdict[str, list[Colours]](list)
    with GuardedReader(_ColourReader(), seconds=DECODE_S) as read:
        for pair in (pair for own in ordered for pair in _spread(own)):
            with contextlib.suppress(RawError):
                camera, colours = read(root / pair.short)
                found[camera].append(colours)
    return tuple(
        CameraColours(camera=camera, colours=typical_colours(several))
        for camera, several in list(found.items())[:MAX_CAMERAS]
        if camera
    )


class _ColourReader:
    """Returns the camera and the colours of photographs, and decodes only the first one of each camera.

    The others have its colour matrix, and the white balance of their own headers. Decoding nine files takes a second.
    """

    def __init__(self) -> None:
        self._matrices: dict[str, F64] = {}

    def __call__(self, path: Path) -> tuple[str, Colours]:
        """Return the name of a file's camera and its colours. Raises RawError."""
        source = open_source(path)
        camera = camera_name(source.header())
        matrix = self._matrices.get(camera)
        gains = source.white_balance() if matrix is not None else None
        if matrix is None or gains is None:
            camera, colours = _photograph_colours(path)
            self._matrices[camera] = colours.to_srgb
            return camera, colours
        red, _, blue, _ = gains
        return camera, Colours(gains=np.array([red, 1.0, blue]), to_srgb=matrix)


def _photograph_colours(path: Path) -> tuple[str, Colours]:
    """Return the name of a file's camera and its colours. Raises RawError."""
    frame = open_source(path).decode()
    return camera_name(frame.header), colours_of(frame, str(path))


def _spread(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Return some of the pairs, spread evenly."""
    return pairs[:: -(-len(pairs) // _SAMPLED)]
