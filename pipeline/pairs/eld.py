"""The layout of ELD: sixteen images per scene, whose ids state which are noisy and which are their references.

    ROOT/SonyA7S2/scene-1/IMG_0004.ARW

The trade-off: a scene with more or fewer images is left out completely, since its ids no longer have their
meaning. Exposure ratios are ratios of ISO times exposure time, from Exif. No pixel is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from darkprep.pipeline.pairs.cameras import Camera, raw_files
from darkprep.pipeline.pairs.table import Frames, Pair, Skipped, long_paired_with_itself
from darkprep.pipeline.raw.amplify import exposure_ratio
from darkprep.pipeline.raw.exif import Exposure, read_exposure
from darkprep.shards.errors import DatasetError, RawError

_IMAGES_PER_SCENE = 16
_REFERENCE_OF: dict[int, int] = {
    **dict.fromkeys((2, 3), 1),
    **dict.fromkeys((4, 5, 7, 8), 6),
    **dict.fromkeys((9, 10, 12, 13), 11),
    **dict.fromkeys((14, 15), 16),
}
"""The reference of each noisy image, by id: the nearest of the four, shot at ISO 100."""
_EVALUATED = frozenset({4, 9, 14, 5, 10, 15})
"""The images of ELD's published figures: x100 (first three) and x200."""
LIGHT_FACTORS: dict[int, int] = {
    **dict.fromkeys((2, 7, 12), 1),
    **dict.fromkeys((3, 8, 13), 10),
    **dict.fromkeys((4, 9, 14), 100),
    **dict.fromkeys((5, 10, 15), 200),
}
"""The light factor that each noisy image was taken for, by id; the ratio from Exif is close to it."""
_SCENE = re.compile(r"scene-(\d+)")
_IMAGE = re.compile(r"IMG_(\d{4})", re.IGNORECASE)


def eld_pairs(root: Path, camera: Camera, frames: Frames, skipped: list[Skipped]) -> Iterator[Pair]:
    """Yield the pairs scene by scene; `frames`: "first" for the 6 of a scene that ELD evaluates, "all" for all 12.

    Files and scenes without a pair are appended to `skipped`. Raises DatasetError if there is no scene
    folder.
    """
    for scene in _scene_folders(root, camera):
        images = _images_by_id(root, scene, camera, skipped)
        for number, reference in _REFERENCE_OF.items() if images else ():
            if frames == "all" or number in _EVALUATED:
                try:
                    yield _pair(root, camera, images[number], images[reference])
                except RawError as error:
                    skipped.append(_skipped(root, images[number], error))


def eld_longs(root: Path, camera: Camera, skipped: list[Skipped]) -> Iterator[Pair]:
    """Yield each reference, paired with itself."""
    for scene in _scene_folders(root, camera):
        images = _images_by_id(root, scene, camera, skipped)
        for number in sorted(set(_REFERENCE_OF.values())) if images else ():
            path = images[number]
            yield long_paired_with_itself(
                id=f"{scene.name}_{path.stem}",
                scene=scene.name,
                camera=camera.name,
                split="test",
                path=path.relative_to(root).as_posix(),
            )


def light_factor(pair: Pair) -> int | None:
    """Return the factor, such as 100 or 200, by which the light of an ELD pair's noisy image was reduced; None for other names."""
    match = _IMAGE.search(pair.id)
    return LIGHT_FACTORS.get(int(match[1])) if match else None


def _scene_folders(root: Path, camera: Camera) -> list[Path]:
    """Return the camera's scene folders. Raises DatasetError, which names the expected folders."""
    for folder in (root / camera.folder, root / "ELD" / camera.folder, root):
        scenes = sorted(folder.glob("scene-*"))
        scenes = [path for path in scenes if path.is_dir() and _SCENE.fullmatch(path.name)]
        if scenes:
            return scenes
    raise DatasetError(
        f"{root}: holds no {camera.folder}/scene-1 folder or the like; "
        f"give the folder above {camera.folder}/"
    )


def _images_by_id(
    root: Path, scene: Path, camera: Camera, skipped: list[Skipped]
) -> dict[int, Path]:
    """Return a scene's sixteen RAW files by id; skip the scene if it has another number of files.

    An early upload of ELD had 17 and 18 files in some scenes, in which an id has another meaning.
    """
    files = raw_files(scene, camera)
    own = [path for path in files if path.suffix.lower() == files[0].suffix.lower()]
    found = {int(match[1]): path for path in own if (match := _IMAGE.fullmatch(path.stem))}
    if len(own) == _IMAGES_PER_SCENE and sorted(found) == list(range(1, _IMAGES_PER_SCENE + 1)):
        return found
    why = f"holds {len(own)} RAW files, not IMG_0001 to IMG_{_IMAGES_PER_SCENE:04d}; download it again"
    skipped.append(Skipped(scene.relative_to(root).as_posix(), why))
    return {}


def _pair(root: Path, camera: Camera, short: Path, long: Path) -> Pair:
    """Return the pair of a noisy image and its reference. Raises RawError if the exposure of either is unknown."""
    short_exposure, long_exposure = _known_exposure(short), _known_exposure(long)
    scene = short.parent.name
    return Pair(
        id=f"{scene}_{short.stem}",
        scene=scene,
        camera=camera.name,
        split="test",
        short=short.relative_to(root).as_posix(),
        long=long.relative_to(root).as_posix(),
        ratio=exposure_ratio(
            short_s=short_exposure.exposure_s,
            long_s=long_exposure.exposure_s,
            short_iso=short_exposure.iso,
            long_iso=long_exposure.iso,
        ),
        iso=short_exposure.iso,
    )


def _skipped(root: Path, short: Path, error: RawError) -> Skipped:
    is_own = error.path == str(short)
    why = error.reason if is_own else f"its reference {Path(error.path).name} {error.reason}"
    return Skipped(short.relative_to(root).as_posix(), why)


def _known_exposure(path: Path) -> Exposure:
    exposure = read_exposure(path)
    if not (exposure.exposure_s > 0 and exposure.iso > 0):
        raise RawError(
            str(path),
            "has no exposure time or no ISO in its Exif data; use the camera's original file",
        )
    return exposure
