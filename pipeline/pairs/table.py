"""Pairs of a short and a long exposure, found in SID's and ELD's folders by name and by Exif.

The trade-off: a pair is made only from what names, list files and Exif state. Nothing is paired by
its place in a listing, so an odd file costs itself, by name, and never shifts the rest.

Layouts (SID: its README and list files; ELD: its evaluation code):

    ROOT/Sony/short/00055_00_0.1s.ARW   ROOT/Sony/long/00055_00_10s.ARW   ROOT/Sony_train_list.txt
    ROOT/SonyA7S2/scene-1/IMG_0004.ARW

No pixel is read here.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

from darkprep.pipeline.raw.amplify import exposure_ratio
from darkprep.pipeline.raw.exif import Exposure, read_exposure
from darkprep.shards.errors import DatasetError, OptionError, RawError
from darkprep.shards.format import CfaKind

Split = Literal["train", "val", "test"]
Frames = Literal["first", "all"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPLIT_CHOICES: dict[str, tuple[Split, ...]] = {
    **{split: (split,) for split in SPLITS},
    "val+test": ("val", "test"),
}
"""What `--split` takes. ELD's indoor scenes of SID are of two splits."""
MISALIGNED: dict[str, frozenset[str]] = {"sony": frozenset({"10034", "10045", "10172"})}
"""Scenes by camera that SID's authors ask to leave out of figures: short and long are not aligned. Fuji's
of the same numbers are other scenes."""
SID_MOST_RATIO = 300.0
ELD_IMAGES = 16
"""Images of every ELD scene; with more or fewer, ids no longer tell what an image is."""
ELD_REFERENCES: dict[int, int] = {
    **dict.fromkeys((2, 3), 1),
    **dict.fromkeys((4, 5, 7, 8), 6),
    **dict.fromkeys((9, 10, 12, 13), 11),
    **dict.fromkeys((14, 15), 16),
}
"""The reference of each noisy ELD image, by id: the nearest of the four, shot at ISO 100."""
ELD_EVALUATED = frozenset({4, 9, 14, 5, 10, 15})
"""ELD's published figures: the x100 (first three) and the x200 images."""
ELD_FACTORS: dict[int, int] = {
    **dict.fromkeys((2, 7, 12), 1),
    **dict.fromkeys((3, 8, 13), 10),
    **dict.fromkeys((4, 9, 14), 100),
    **dict.fromkeys((5, 10, 15), 200),
}
"""The light factor that each noisy ELD image was taken for; the ratio from Exif comes near it."""
ELD_SID_SCENES = frozenset(
    "10185 10187 10191 10193 10198 10213 10217 10226 10227 10228 "
    "20188 20201 20208 20210 20211".split()
)
"""SID's indoor scenes that ELD's authors report, of test and of val (their SID_Sony_15_paired.txt)."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A camera of a data set: where its files stand. Its levels and phase stand in its files."""

    name: str
    dataset: Literal["SID", "ELD"]
    folder: str
    """The camera's folder below the root."""
    cfa: CfaKind
    """What its files are expected to hold."""
    extensions: tuple[str, ...]
    """Lower case, the camera's own first. DNG is what converters and `darkprep synth` write."""


def _camera(
    name: str, dataset: Literal["SID", "ELD"], folder: str, own: str, cfa: CfaKind = "bayer"
) -> Camera:
    return Camera(name=name, dataset=dataset, folder=folder, cfa=cfa, extensions=(own, ".dng"))


CAMERAS: dict[str, Camera] = {
    camera.name: camera
    for camera in (
        _camera("sony", "SID", "Sony", ".arw"),
        _camera("fuji", "SID", "Fuji", ".raf", "xtrans"),
        _camera("sonya7s2", "ELD", "SonyA7S2", ".arw"),
        _camera("nikond850", "ELD", "NikonD850", ".nef"),
        _camera("canon70d", "ELD", "CanonEOS70D", ".cr2"),
        _camera("canon700d", "ELD", "CanonEOS700D", ".cr2"),
        _camera("canon5d4", "ELD", "CanonEOS5D4", ".cr2"),
    )
}
"""All cameras by name, Sony's A7S II twice: it took pictures for both data sets."""


def camera_named(name: str) -> Camera:
    """Returns the camera of that name, in any case. Raises OptionError listing all."""
    try:
        return CAMERAS[name.lower()]
    except KeyError:
        raise OptionError(f"unknown camera {name!r}; choose one of {', '.join(CAMERAS)}") from None


def splits_named(choice: str) -> tuple[Split, ...]:
    """Returns the splits that a choice stands for. Raises OptionError listing all choices."""
    if choice not in SPLIT_CHOICES:
        raise OptionError(f"split must be one of {', '.join(SPLIT_CHOICES)}, not {choice!r}")
    return SPLIT_CHOICES[choice]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One short exposure and its long exposure."""

    id: str
    """Unique in its data set and usable as a file name: `00055_00_0.1s`, `scene-3_IMG_0004`."""
    scene: str
    camera: str
    split: Split
    short: str
    """POSIX path relative to the root, as is `long`."""
    long: str
    ratio: float
    """Exposure ratio long / short as the data set's papers compute it."""
    iso: float
    """ISO of the short exposure where the list or Exif says it, else 0."""


@dataclass(frozen=True)
class Skipped:
    """A file or folder that gave no pair, and why."""

    path: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """All pairs of one camera below one root, ordered by id."""

    root: Path
    camera: Camera
    pairs: tuple[Pair, ...]
    skipped: tuple[Skipped, ...]

    def of_split(self, split: str) -> Pairs:
        """Returns the pairs of a choice of SPLIT_CHOICES.

        Raises OptionError for another word, DatasetError when there is no such pair.
        """
        wanted = splits_named(split)
        pairs = tuple(pair for pair in self.pairs if pair.split in wanted)
        if not pairs:
            there = ", ".join(sorted({pair.split for pair in self.pairs}))
            raise DatasetError(
                f"{self.root}: no {split} pairs of {self.camera.name}; there are {there} ones"
            )
        return replace(self, pairs=pairs)


def find_pairs(
    root: str | os.PathLike[str],
    camera: Camera,
    *,
    frames: Frames = "first",
    exclude_misaligned: bool = False,
) -> Pairs:
    """Finds a camera's pairs below `root`.

    SID: by its list files where they are, else by scanning `short/` and `long/`. `frames` is "first"
    for the first frame of each burst, which SID's own code trains and tests on, or "all".
    ELD: by image id; the ratio is that of ISO times time from Exif; all pairs are of split "test".
    `frames` is "first" for the published evaluation's six images a scene, or "all" for all twelve.

    A file that gives no pair is named in `skipped`. Raises DatasetError when the root is missing or
    holds no pair at all.
    """
    home = _existing(root, camera)
    find = _sid_pairs if camera.dataset == "SID" else _eld_pairs
    skipped: list[Skipped] = []
    pairs = _in_order(find(home, camera, frames, skipped), exclude_misaligned)
    return _found(home, camera, pairs, skipped, "pairs")


def find_longs(
    root: str | os.PathLike[str], camera: Camera, *, exclude_misaligned: bool = False
) -> Pairs:
    """Finds a camera's long exposures below `root`, each as a pair with itself and of ratio 1.

    SID: one of each scene in `long/`; no short exposure need be there. ELD: the four references of each
    scene. For training on short exposures that are made from these (`darken.py`). Raises as `find_pairs`.
    """
    home = _existing(root, camera)
    find = _sid_longs if camera.dataset == "SID" else _eld_longs
    skipped: list[Skipped] = []
    pairs = _in_order(find(home, camera, skipped), exclude_misaligned)
    return _found(home, camera, pairs, skipped, "long exposures")


def _existing(root: str | os.PathLike[str], camera: Camera) -> Path:
    home = Path(root)
    if not home.is_dir():
        what = "is not a directory" if home.exists() else "does not exist"
        raise DatasetError(
            f"{home}: {what}; give the folder that holds {camera.folder}/, or make one with "
            f"`darkprep synth {home} --camera {camera.name}`"
        )
    return home


def _found(
    home: Path, camera: Camera, pairs: tuple[Pair, ...], skipped: list[Skipped], what: str
) -> Pairs:
    if not pairs:
        reasons = "".join(f"; {one.path}: {one.why}" for one in skipped[:3])
        more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        raise DatasetError(f"{home}: holds no {what} of {camera.name}{reasons}{more}")
    return Pairs(root=home, camera=camera, pairs=pairs, skipped=tuple(skipped))


def _in_order(found: Iterable[Pair], exclude_misaligned: bool) -> tuple[Pair, ...]:
    kept = (pair for pair in found if not (exclude_misaligned and _is_misaligned(pair)))
    return tuple(sorted(kept, key=lambda pair: pair.id))


def _is_misaligned(pair: Pair) -> bool:
    return pair.scene in MISALIGNED.get(pair.camera, ())


def reported_in(pair: Pair) -> tuple[str, ...]:
    """Returns the groups that papers report figures for and this pair belongs to.

    SID: by exposure ratio, without the misaligned scenes of a camera that has such, and ELD's fifteen
    indoor scenes by ratio. ELD: by light factor.
    """
    if camera_named(pair.camera).dataset == "ELD":
        return (f"x{ELD_FACTORS[int(pair.id[-4:])]}",)
    ratio = f"x{round(pair.ratio)}"
    groups = [ratio]
    if pair.camera in MISALIGNED and not _is_misaligned(pair):
        groups.append("without misaligned scenes")
    if pair.camera == "sony" and pair.scene in ELD_SID_SCENES:
        groups.append(f"ELD's indoor scenes {ratio}")
    return tuple(groups)


def draw_fraction(pairs: Sequence[Pair], fraction: float, seed: int) -> tuple[Pair, ...]:
    """Returns the pairs of a seeded draw of whole scenes, of each split alike, at least one of each.

    A scene's place in the draw is a hash of seed, camera and scene. So it does not depend on which
    other scenes there are, nor on any order or library, and a smaller fraction draws a subset of a
    larger one. Raises OptionError for a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise OptionError(f"the fraction must be above 0 and at most 1, not {fraction:g}")
    scenes = {(pair.camera, pair.split, pair.scene) for pair in pairs}
    drawn: set[tuple[str, str, str]] = set()
    for part in {scene[:2] for scene in scenes}:
        ranked = sorted((scene for scene in scenes if scene[:2] == part), key=partial(_rank, seed))
        drawn.update(ranked[: max(1, round(fraction * len(ranked)))])
    return tuple(pair for pair in pairs if (pair.camera, pair.split, pair.scene) in drawn)


def _rank(seed: int, scene: tuple[str, str, str]) -> bytes:
    return hashlib.blake2b("/".join((str(seed), *scene)).encode(), digest_size=16).digest()


_SID_NAME = re.compile(r"([012])(\d{4})_(\d{2})_(\d+(?:\.\d+)?)s")
_SID_SPLITS: dict[str, Split] = {"0": "train", "1": "test", "2": "val"}


@dataclass(frozen=True, kw_only=True)
class _SidFile:
    """A file of SID: its path below the root, and what its name says."""

    path: str
    stem: str
    scene: str
    frame: str
    """Number in the burst, two digits."""
    exposure_s: float
    """From the name, as the published ratios are; Exif has 1/30 where names have 0.033."""

    @property
    def split(self) -> Split:
        """The data set's division, by the scene's first digit."""
        return _SID_SPLITS[self.scene[0]]


def _sid_file(path: str) -> _SidFile | None:
    """Reads a file's name; None when it is not SID's."""
    stem = PurePosixPath(path).stem
    match = _SID_NAME.fullmatch(stem)
    if match is None or not float(match[4]) > 0:
        return None
    return _SidFile(
        path=path,
        stem=stem,
        scene=match[1] + match[2],
        frame=match[3],
        exposure_s=float(match[4]),
    )


def _sid_pairs(
    root: Path, camera: Camera, frames: Frames, skipped: list[Skipped]
) -> Iterator[Pair]:
    """Yields SID's pairs: of each split from its list file, or by scanning when it has none."""
    folder = _sid_folder(root, camera, ("short", "long"))
    shorts = _sid_files(root, folder / "short", camera, skipped)
    longs = _sid_files(root, folder / "long", camera, skipped)
    if frames == "first":
        shorts = {stem: file for stem, file in shorts.items() if file.frame == "00"}
    lists = _sid_lists(root, folder, camera)
    listed: set[str] = set()
    for split, path in lists.items():
        for short, long, iso in _listed(path, frames, shorts, longs, skipped):
            if short.stem not in listed:
                listed.add(short.stem)
                yield _sid_pair(camera, split, short, long, iso)
    for short, long in _matched(shorts.values(), longs.values(), lists, skipped):
        if short.stem not in listed:
            yield _sid_pair(camera, short.split, short, long, 0.0)


def _sid_longs(root: Path, camera: Camera, skipped: list[Skipped]) -> Iterator[Pair]:
    """Yields a pair of each scene's long exposure with itself."""
    folder = _sid_folder(root, camera, ("long",))
    for long in _truths(_sid_files(root, folder / "long", camera, skipped).values()).values():
        yield _with_itself(camera, long.stem, long.scene, long.split, long.path)


def _with_itself(camera: Camera, name: str, scene: str, split: Split, path: str) -> Pair:
    return Pair(
        id=name,
        scene=scene,
        camera=camera.name,
        split=split,
        short=path,
        long=path,
        ratio=1.0,
        iso=0.0,
    )


def _sid_folder(root: Path, camera: Camera, parts: tuple[str, ...]) -> Path:
    """Returns the folder that holds the parts, or raises DatasetError saying where it was sought."""
    candidates = (root / camera.folder, root / "dataset" / camera.folder, root)
    for folder in candidates:
        if all((folder / part).is_dir() for part in parts):
            return folder
    wanted = " and ".join(f"{camera.folder}/{part}" for part in parts)
    raise DatasetError(
        f"{root}: holds no {wanted} folder{'s' * (len(parts) > 1)}; "
        f"give the folder above {camera.folder}/"
    )


def _sid_files(
    root: Path, folder: Path, camera: Camera, skipped: list[Skipped]
) -> dict[str, _SidFile]:
    """Indexes a folder's RAW files by stem; names of another form are skipped."""
    found: dict[str, _SidFile] = {}
    for path in _raw_files(folder, camera):
        file = _sid_file(path.relative_to(root).as_posix())
        if file is None:
            relative = path.relative_to(root).as_posix()
            skipped.append(Skipped(relative, "its name is not like 00055_00_0.1s"))
        elif file.stem in found:
            used = found[file.stem].path
            skipped.append(Skipped(file.path, f"{used} has the same name and is used"))
        else:
            found[file.stem] = file
    return found


def _raw_files(folder: Path, camera: Camera) -> list[Path]:
    """Lists a folder's RAW files, a camera's own extension before .dng, each in order of names."""
    try:
        paths = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in camera.extensions and not path.name.startswith(".")
        ]
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be listed ({error.strerror or error})") from error
    return sorted(paths, key=lambda p: (camera.extensions.index(p.suffix.lower()), p.name))


def _sid_lists(root: Path, folder: Path, camera: Camera) -> dict[Split, Path]:
    """Returns the list file of each split that has one."""
    lists: dict[Split, Path] = {}
    for split in SPLITS:
        for home in (root, root / "dataset", folder.parent):
            path = home / f"{camera.folder}_{split}_list.txt"
            if path.is_file():
                lists.setdefault(split, path)
    return lists


def _listed(
    path: Path,
    frames: Frames,
    shorts: dict[str, _SidFile],
    longs: dict[str, _SidFile],
    skipped: list[Skipped],
) -> Iterator[tuple[_SidFile, _SidFile, float]]:
    """Yields short, long and ISO of the lines of a list file whose frames are wanted and there.

    A line names its files with the camera's extension; they are found by stem, so that a converted
    set works with the same list.
    """
    for number, line in enumerate(_lines(path), start=1):
        fields = line.split()
        if not fields:
            continue
        names = [_sid_file(field) for field in fields[:2]]
        if len(names) < 2 or names[0] is None or names[1] is None:
            raise DatasetError(
                f"{path}:{number}: is not a line like ./Sony/short/00001_00_0.1s.ARW "
                f"./Sony/long/00001_00_10s.ARW ISO200 F8: {line[:80]!r}"
            )
        if frames == "first" and names[0].frame != "00":
            continue
        short, long = shorts.get(names[0].stem), longs.get(names[1].stem)
        if short is None:
            skipped.append(Skipped(fields[0], f"{path.name} lists it, but it is not there"))
        elif long is None:
            skipped.append(Skipped(short.path, f"its long exposure {fields[1]} is not there"))
        elif short.scene != long.scene:
            why = f"{path.name} pairs it with another scene, {long.path}"
            skipped.append(Skipped(short.path, why))
        else:
            yield short, long, _listed_iso(fields)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error})") from error


def _listed_iso(fields: list[str]) -> float:
    """Returns the ISO of a list line's third field, `ISO200`; 0 when it has none."""
    match = re.fullmatch(r"ISO(\d+)", fields[2]) if len(fields) > 2 else None
    return float(match[1]) if match else 0.0


def _matched(
    shorts: Iterable[_SidFile],
    longs: Iterable[_SidFile],
    lists: Container[Split],
    skipped: list[Skipped],
) -> Iterator[tuple[_SidFile, _SidFile]]:
    """Yields shorts of the splits without a list file, each with its scene's long exposure."""
    truth = _truths(longs)
    for short in shorts:
        found = truth.get(short.scene)
        if short.split in lists:
            continue
        if found is None:
            why = f"scene {short.scene} has no long exposure"
            skipped.append(Skipped(short.path, why))
        else:
            yield short, found


def _truths(longs: Iterable[_SidFile]) -> dict[str, _SidFile]:
    """Returns each scene's long exposure: of several the first frame's, then the longest."""
    truth: dict[str, _SidFile] = {}
    for long in sorted(longs, key=lambda file: (file.frame, -file.exposure_s)):
        truth.setdefault(long.scene, long)
    return truth


def _sid_pair(camera: Camera, split: Split, short: _SidFile, long: _SidFile, iso: float) -> Pair:
    ratio = exposure_ratio(short_s=short.exposure_s, long_s=long.exposure_s, maximum=SID_MOST_RATIO)
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


_ELD_SCENE = re.compile(r"scene-(\d+)")
_ELD_IMAGE = re.compile(r"IMG_(\d{4})", re.IGNORECASE)


def _eld_pairs(
    root: Path, camera: Camera, frames: Frames, skipped: list[Skipped]
) -> Iterator[Pair]:
    """Yields ELD's pairs, scene by scene."""
    for scene in _eld_scenes(root, camera):
        images = _eld_images(root, scene, camera, skipped)
        for number, reference in ELD_REFERENCES.items() if images else ():
            if frames == "all" or number in ELD_EVALUATED:
                yield from _eld_pair(
                    root, camera, scene.name, images[number], images[reference], skipped
                )


def _eld_longs(root: Path, camera: Camera, skipped: list[Skipped]) -> Iterator[Pair]:
    """Yields a pair of each reference with itself."""
    for scene in _eld_scenes(root, camera):
        images = _eld_images(root, scene, camera, skipped)
        for number in sorted(set(ELD_REFERENCES.values())) if images else ():
            path = images[number]
            name = f"{scene.name}_{path.stem}"
            yield _with_itself(camera, name, scene.name, "test", path.relative_to(root).as_posix())


def _eld_scenes(root: Path, camera: Camera) -> list[Path]:
    """Returns the camera's scene folders, or raises DatasetError saying where they were sought."""
    for folder in (root / camera.folder, root / "ELD" / camera.folder, root):
        scenes = sorted(folder.glob("scene-*"))
        scenes = [path for path in scenes if path.is_dir() and _ELD_SCENE.fullmatch(path.name)]
        if scenes:
            return scenes
    raise DatasetError(
        f"{root}: holds no {camera.folder}/scene-1 folder or the like; "
        f"give the folder above {camera.folder}/"
    )


def _eld_images(root: Path, scene: Path, camera: Camera, skipped: list[Skipped]) -> dict[int, Path]:
    """Returns a scene's sixteen RAW files by id; an incomplete or surplus scene is skipped whole.

    An early upload of ELD had 17 and 18 files in some scenes: then an id is not what it should be.
    """
    files = _raw_files(scene, camera)
    own = [path for path in files if path.suffix.lower() == files[0].suffix.lower()]
    found = {int(match[1]): path for path in own if (match := _ELD_IMAGE.fullmatch(path.stem))}
    if len(own) == ELD_IMAGES and sorted(found) == list(range(1, ELD_IMAGES + 1)):
        return found
    why = f"holds {len(own)} RAW files, not IMG_0001 to IMG_{ELD_IMAGES:04d}"
    skipped.append(Skipped(scene.relative_to(root).as_posix(), why))
    return {}


def _eld_pair(
    root: Path, camera: Camera, scene: str, short: Path, long: Path, skipped: list[Skipped]
) -> Iterator[Pair]:
    """Yields the pair of a noisy image and its reference, unless their exposure is unknown."""
    try:
        shot, truth = _known_exposure(short), _known_exposure(long)
    except RawError as error:
        path = short.relative_to(root).as_posix()
        why = (
            error.reason
            if error.path == str(short)
            else f"its reference {long.name} {error.reason}"
        )
        skipped.append(Skipped(path, why))
        return
    yield Pair(
        id=f"{scene}_{short.stem}",
        scene=scene,
        camera=camera.name,
        split="test",
        short=short.relative_to(root).as_posix(),
        long=long.relative_to(root).as_posix(),
        ratio=exposure_ratio(
            short_s=shot.exposure_s,
            long_s=truth.exposure_s,
            short_iso=shot.iso,
            long_iso=truth.iso,
        ),
        iso=shot.iso,
    )


def _known_exposure(path: Path) -> Exposure:
    exposure = read_exposure(path)
    if not (exposure.exposure_s > 0 and exposure.iso > 0):
        raise RawError(str(path), "states no exposure time or no ISO in its Exif data")
    return exposure
