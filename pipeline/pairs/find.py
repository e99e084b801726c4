"""Find a camera's pairs below a data root, by the layout of its data set.

The trade-off: pairs are found only by names, list files and Exif, never by their position in a directory
listing, so a stray file is skipped by name and does not shift the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from darkprep.pipeline.pairs.cameras import Camera
from darkprep.pipeline.pairs.eld import eld_longs, eld_pairs
from darkprep.pipeline.pairs.sid import is_misaligned, sid_longs, sid_pairs
from darkprep.pipeline.pairs.table import Frames, Pair, Pairs, Skipped, first_skipped
from darkprep.shards.errors import DatasetError
from darkprep.shards.files import kinds_of_files


def find_pairs(
    root: str | os.PathLike[str],
    camera: Camera,
    *,
    frames: Frames = "first",
    exclude_misaligned: bool = False,
) -> Pairs:
    """Find a camera's pairs below `root`.

    SID: by its list files if they exist, else by scanning `short/` and `long/`. `frames` is "first" for the
    first frame of each burst, which SID's own code trains and tests on, or "all". ELD: by image id; the
    exposure ratio is computed from ISO and exposure time in Exif; all pairs are in the split "test".
    `frames` is "first" for the published evaluation's six images per scene, or "all" for all twelve.

    A file without a pair is listed in `skipped`. Raises DatasetError when the root is missing or holds no
    pair.
    """
    directory = _existing_root(root, camera)
    skipped: list[Skipped] = []
    find = sid_pairs if camera.dataset == "SID" else eld_pairs
    pairs = _sorted(find(directory, camera, frames, skipped), exclude_misaligned)
    return _checked(directory, camera, pairs, skipped, "pairs")


def find_longs(
    root: str | os.PathLike[str], camera: Camera, *, exclude_misaligned: bool = False
) -> Pairs:
    """Find a camera's long exposures below `root`, each paired with itself at ratio 1.

    SID: one for each scene in `long/`; short exposures are not needed. ELD: the four references of each
    scene. They are used for training on simulated short exposures (`noise/darken.py`). Raises the errors of
    `find_pairs`.
    """
    directory = _existing_root(root, camera)
    skipped: list[Skipped] = []
    find = sid_longs if camera.dataset == "SID" else eld_longs
    pairs = _sorted(find(directory, camera, skipped), exclude_misaligned)
    return _checked(directory, camera, pairs, skipped, "long exposures")


def _existing_root(root: str | os.PathLike[str], camera: Camera) -> Path:
    directory = Path(root)
    if not directory.is_dir():
        problem = "is not a directory" if directory.exists() else "does not exist"
        raise DatasetError(
            f"{directory}: {problem}; give the folder that holds {camera.folder}/, or make one with "
            f"`darkprep synth {directory} --camera {camera.name}`"
        )
    return directory


def _sorted(found: Iterable[Pair], exclude_misaligned: bool) -> tuple[Pair, ...]:
    kept = (pair for pair in found if not (exclude_misaligned and is_misaligned(pair)))
    return tuple(sorted(kept, key=lambda pair: pair.id))


def _checked(
    root: Path, camera: Camera, pairs: tuple[Pair, ...], skipped: list[Skipped], wanted: str
) -> Pairs:
    if not pairs:
        reasons = f"; {first_skipped(skipped)}" if skipped else _found(root, camera)
        raise DatasetError(f"{root}: holds no {wanted} of {camera.name}{reasons}")
    return Pairs(root=root, label=camera.name, pairs=pairs, skipped=tuple(skipped))


def _found(root: Path, camera: Camera) -> str:
    """Describe what the camera's folder holds: how many files of which extensions, and which are expected."""
    folder = root / camera.folder
    kinds = kinds_of_files(folder if folder.is_dir() else root)
    return f" (found {kinds}; expected {' or '.join(camera.extensions)})"
