"""The layout of SID: pairs by scene number, from its list files or by scanning its folders.

    ROOT/Sony/short/00055_00_0.1s.ARW   ROOT/Sony/long/00055_00_10s.ARW   ROOT/Sony_train_list.txt

The trade-off: exposure times come from the file names, as the published ratios do; Exif states 1/30
where names have 0.033. No pixel is read here.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from darkprep.pipeline.pairs.cameras import Camera, raw_files
from darkprep.pipeline.pairs.table import (
    SPLITS,
    Frames,
    Pair,
    Skipped,
    Split,
    long_paired_with_itself,
)
from darkprep.pipeline.raw.amplify import exposure_ratio
from darkprep.shards.errors import DatasetError
from darkprep.shards.files import read_regular_file

MISALIGNED_SCENES: dict[str, frozenset[str]] = {"sony": frozenset({"10034", "10045", "10172"})}
"""Scenes by camera that SID's authors ask to leave out of figures: short and long are not aligned. Fuji's
of the same numbers are other scenes."""
_MAX_RATIO = 300.0
_NAME = re.compile(r"([012])(\d{4})_(\d{2})_(\d+(?:\.\d+)?)s")
_SPLIT_OF_DIGIT: dict[str, Split] = {"0": "train", "1": "test", "2": "val"}


@dataclass(frozen=True, kw_only=True)
class _SidFile:
    """A file of SID: its path below the root and the parts of its name."""

    path: str
    stem: str
    scene: str
    frame: str
    """Number in the burst, two digits."""
    exposure_s: float

    @property
    def split(self) -> Split:
        """The split of the file's scene, from the first digit of the scene's number."""
        return _SPLIT_OF_DIGIT[self.scene[0]]


def sid_pairs(root: Path, camera: Camera, frames: Frames, skipped: list[Skipped]) -> Iterator[Pair]:
    """Yield the pairs of each split from its list file, or by scanning the folders if it has no list file.

    Files without a pair are appended to `skipped`. Raises DatasetError if folders are missing or a list
    file is malformed.
    """
    folder = _camera_folder(root, camera, ("short", "long"))
    shorts = _files_by_stem(root, folder / "short", camera, skipped)
    longs = _files_by_stem(root, folder / "long", camera, skipped)
    if frames == "first":
        shorts = {stem: file for stem, file in shorts.items() if file.frame == "00"}
    lists = _list_files(root, folder, camera)
    listed: set[str] = set()
    for split, path in lists.items():
        for short, long, iso in _read_list(path, frames, shorts, longs, skipped):
            if short.stem not in listed:
                listed.add(short.stem)
                yield _pair(camera, split, short, long, iso)
    for short, long in _pair_by_scene(shorts.values(), longs.values(), lists, skipped):
        if short.stem not in listed:
            yield _pair(camera, short.split, short, long, 0.0)


def sid_longs(root: Path, camera: Camera, skipped: list[Skipped]) -> Iterator[Pair]:
    """Yield the long exposure of each scene, paired with itself."""
    folder = _camera_folder(root, camera, ("long",))
    longs = _files_by_stem(root, folder / "long", camera, skipped).values()
    for long in _long_by_scene(longs).values():
        yield long_paired_with_itself(
            id=long.stem, scene=long.scene, camera=camera.name, split=long.split, path=long.path
        )


def is_misaligned(pair: Pair) -> bool:
    """Return whether a pair's scene is one of MISALIGNED_SCENES."""
    return pair.scene in MISALIGNED_SCENES.get(pair.camera, ())


def _camera_folder(root: Path, camera: Camera, parts: tuple[str, ...]) -> Path:
    """Return the folder that holds the subfolders `parts`. Raises DatasetError, which names the expected folders."""
    for folder in (root / camera.folder, root / "dataset" / camera.folder, root):
        if all((folder / part).is_dir() for part in parts):
            return folder
    wanted = " and ".join(f"{camera.folder}/{part}" for part in parts)
    raise DatasetError(
        f"{root}: holds no {wanted} folder{'s' * (len(parts) > 1)}; "
        f"give the folder above {camera.folder}/"
    )


def _files_by_stem(
    root: Path, folder: Path, camera: Camera, skipped: list[Skipped]
) -> dict[str, _SidFile]:
    """Return a folder's RAW files by the stem of their names; files with other names are skipped."""
    found: dict[str, _SidFile] = {}
    for path in raw_files(folder, camera):
        relative = path.relative_to(root).as_posix()
        file = _parse_name(relative)
        if file is None:
            skipped.append(
                Skipped(relative, "its name is not like 00055_00_0.1s; rename it or leave it out")
            )
        elif file.stem in found:
            used = found[file.stem].path
            skipped.append(Skipped(file.path, f"{used} has the same name and is used instead"))
        else:
            found[file.stem] = file
    return found


def _parse_name(path: str) -> _SidFile | None:
    """Return the parts of a file's name; None if it is not a name of SID's."""
    stem = PurePosixPath(path).stem
    match = _NAME.fullmatch(stem)
    if match is None or not float(match[4]) > 0:
        return None
    return _SidFile(
        path=path,
        stem=stem,
        scene=match[1] + match[2],
        frame=match[3],
        exposure_s=float(match[4]),
    )


def _list_files(root: Path, folder: Path, camera: Camera) -> dict[Split, Path]:
    """Return the list files by split, for the splits that have one."""
    lists: dict[Split, Path] = {}
    for split in SPLITS:
        for directory in (root, root / "dataset", folder.parent):
            path = directory / f"{camera.folder}_{split}_list.txt"
            if path.is_file():
                lists.setdefault(split, path)
    return lists


def _read_list(
    path: Path,
    frames: Frames,
    shorts: dict[str, _SidFile],
    longs: dict[str, _SidFile],
    skipped: list[Skipped],
) -> Iterator[tuple[_SidFile, _SidFile, float]]:
    """Yield short exposure, long exposure and ISO from the lines of a list file, for existing and wanted frames.

    A line names its files with the camera's extension. They are found by stem, so that a data set converted
    to DNG works with the same list.
    """
    for number, line in enumerate(_lines(path), start=1):
        fields = line.split()
        if not fields:
            continue
        names = [_parse_name(field) for field in fields[:2]]
        if len(names) < 2 or names[0] is None or names[1] is None:
            raise DatasetError(
                f"{path}:{number}: is not a line like ./Sony/short/00001_00_0.1s.ARW "
                f"./Sony/long/00001_00_10s.ARW ISO200 F8: {line[:80]!r}"
            )
        if frames == "first" and names[0].frame != "00":
            continue
        short, long = shorts.get(names[0].stem), longs.get(names[1].stem)
        if short is None:
            skipped.append(
                Skipped(
                    fields[0],
                    f"listed in {path.name}, but there is no such file; download it or remove the line",
                )
            )
        elif long is None:
            skipped.append(
                Skipped(
                    short.path,
                    f"its long exposure {fields[1]} does not exist; download it or remove the line",
                )
            )
        elif short.scene != long.scene:
            why = f"{path.name} pairs it with another scene, {long.path}; correct the line"
            skipped.append(Skipped(short.path, why))
        else:
            yield short, long, _iso_of_line(fields)


def _lines(path: Path) -> list[str]:
    try:
        return read_regular_file(path).decode("utf-8", "surrogateescape").splitlines()
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions"
        ) from error


def _iso_of_line(fields: list[str]) -> float:
    """Return the ISO in the third field of a list line, such as `ISO200`; 0 if there is none."""
    match = re.fullmatch(r"ISO(\d{1,9})", fields[2]) if len(fields) > 2 else None
    return float(match[1]) if match else 0.0


def _pair_by_scene(
    shorts: Iterable[_SidFile],
    longs: Iterable[_SidFile],
    listed_splits: Container[Split],
    skipped: list[Skipped],
) -> Iterator[tuple[_SidFile, _SidFile]]:
    """Yield the short exposures of splits without a list file, each with its scene's long exposure."""
    long_of = _long_by_scene(longs)
    for short in shorts:
        if short.split in listed_splits:
            continue
        long = long_of.get(short.scene)
        if long is None:
            why = f"its scene {short.scene} has no long exposure; add one or remove this file"
            skipped.append(Skipped(short.path, why))
        else:
            yield short, long


def _long_by_scene(longs: Iterable[_SidFile]) -> dict[str, _SidFile]:
    """Return each scene's long exposure: the lowest frame number, then the longest exposure time."""
    long_of: dict[str, _SidFile] = {}
    for long in sorted(longs, key=lambda file: (file.frame, -file.exposure_s)):
        long_of.setdefault(long.scene, long)
    return long_of


def _pair(camera: Camera, split: Split, short: _SidFile, long: _SidFile, iso: float) -> Pair:
    ratio = exposure_ratio(short_s=short.exposure_s, long_s=long.exposure_s, maximum=_MAX_RATIO)
    return Pair(
        id=short.stem,
        scene=short.scene,
        camera=camera.name,
        split=split,
        short=short.path,
        long=long.path,
        ratio=ratio,
        iso=iso,
    )
