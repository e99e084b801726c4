"""The colours of a camera (typical white balance and colour matrix), from some of its photographs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

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
from darkprep.pipeline.raw.colour import Colours, colours_of
from darkprep.pipeline.raw.guard import guarded
from darkprep.pipeline.raw.reader import read_raw
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
        return colours_of(guarded(read_raw, Path(source)), source)
    pairs = find_pairs(root, camera_named(source)).pairs
    paths = [str(root / pair.short) for pair in _spread(pairs)]
    return typical_colours([colours_of(guarded(read_raw, Path(path)), path) for path in paths])


def pair_colours(root: Path, pairs: Sequence[Pair]) -> tuple[CameraColours, ...]:
    """Return the typical colours of each camera among pairs below `root`, those with the most pairs first.

    Some short exposures of each camera are decoded. Cameras without a name or without usable colours are left
    out, as are files that cannot be read.
    """
    labelled = defaultdict[str, list[Pair]](list)
    for pair in pairs:
        labelled[pair.camera].append(pair)
    ordered = sorted(labelled.values(), key=len, reverse=True)[:MAX_CAMERAS]
    found = defaultdict[str, list[Colours]](list)
    for pair in (pair for own in ordered for pair in _spread(own)):
        try:
            frame = guarded(lambda path: open_source(path).decode(), root / pair.short)
            found[camera_name(frame.header)].append(colours_of(frame, pair.short))
        except RawError:
            continue
    return tuple(
        CameraColours(camera=camera, colours=typical_colours(several))
        for camera, several in list(found.items())[:MAX_CAMERAS]
        if camera
    )


def _spread(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Return some of the pairs, spread evenly."""
    return pairs[:: -(-len(pairs) // _SAMPLED)]
