"""Find pairs in common folder layouts: `short/` and `long/`, one folder per scene, and RawNIND's names.

The trade-off: only names and Exif decide. If they are ambiguous (two long exposures fit one short
exposure), the file is reported and left out; `darkprep pairs` writes the other pairs as a table, to which
it can be added.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from darkprep.pipeline.pairs.naming import named_apart
from darkprep.pipeline.pairs.photograph import Photograph, light_ratio, read_photograph
from darkprep.pipeline.pairs.table import (
    Pair,
    Pairs,
    Skipped,
    Split,
    first_skipped,
    splits_by_scene,
)
from darkprep.pipeline.raw.guard import HEADER_S, GuardedReader
from darkprep.shards.errors import DatasetError, OptionError, RawError
from darkprep.shards.files import kinds_of_files, walk

Layout = Literal["short-long", "scenes", "rawnind"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

RAW_EXTENSIONS = frozenset(
    ".3fr .ari .arw .bay .cap .cin .cr2 .cr3 .crw .cs1 .dcr .dcs .dng .drf .eip .erf .fff .gpr .iiq "
    ".k25 .kdc .mdc .mef .mos .mrw .nef .nrw .orf .ori .pef .ptx .pxn .raf .raw .rw2 .rwl .rwz .sr2 "
    ".srf .srw .sti .x3f".split()
)
"""Extensions of RAW files that LibRaw reads, in lower case."""
_RAWNIND = re.compile(r"(?:Bayer|X-Trans)_(.+?)_(GT_)?ISO\d+_sha1=[0-9a-f]+", re.IGNORECASE)
_RAWNIND_TEST = ("TEST_", "UNK_TEST_")


def find_layout(root: Path, layout: str) -> Pairs:
    """Return the pairs below `root`, ordered by id; files without a pair are listed in `skipped`.

    `short-long`: each file in a folder `short` is paired with the file in the folder `long` beside it that
    has the same name, or the same beginning up to the last `_`. `scenes`: in each folder, the longest
    exposure at the lowest ISO is the truth of all other files. `rawnind`: RawNIND's file names; the truth
    of each set is chosen in the same way. Exposure ratios are ratios of ISO times exposure time. Raises
    OptionError for another layout, DatasetError when there is no pair.
    """
    if layout not in LAYOUTS:
        raise OptionError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout!r}")
    if not root.is_dir():
        problem = "is not a directory" if root.exists() else "does not exist"
        raise DatasetError(f"{root}: {problem}; give the folder of the photographs with --root")
    skipped: list[Skipped] = []
    find = {"short-long": _short_long, "scenes": _scenes, "rawnind": _rawnind}[layout]
    drafts = list(find(root, skipped))
    if not drafts:
        why = (
            f"; {first_skipped(skipped)}"
            if skipped
            else f" (found {kinds_of_files(root)}); give the folder of the photographs with --root, or choose another --layout"
        )
        raise DatasetError(f"{root}: holds no pairs in the layout {layout}{why}")
    if layout != "rawnind":
        splits = splits_by_scene(pair.scene for pair in drafts)
        drafts = [replace(pair, split=splits[pair.scene]) for pair in drafts]
    return Pairs(
        root=root,
        label=root.resolve().name or layout,
        pairs=tuple(sorted(named_apart(drafts), key=lambda pair: pair.id)),
        skipped=tuple(skipped),
        layout=layout,
    )


def raw_files_below(folder: Path, *, recursive: bool = True) -> Iterator[Path]:
    """Yield the files with a RAW file's extension in a folder, and in those below it if `recursive`, by name.

    Links to folders are not followed; hidden folders and files are left out.
    """
    for directory, below, names in walk(folder):
        if not recursive:
            below.clear()
        yield from _raw_files(directory, names)


def _raw_files(folder: Path, names: list[str]) -> list[Path]:
    return [folder / name for name in names if Path(name).suffix.lower() in RAW_EXTENSIONS]


# -- short/ and long/ ---------------------------------------------------------------------------------


def _short_long(root: Path, skipped: list[Skipped]) -> Iterator[Pair]:
    """Yield each file in a folder `short`, paired with the file of the same name in the folder `long` beside it."""
    for parent, folders, _ in walk(root):
        named = {name.lower(): parent / name for name in folders}
        if "short" in named and "long" in named:
            yield from _pairs_of_folders(root, named["short"], named["long"], skipped)


def _pairs_of_folders(
    root: Path, short: Path, long: Path, skipped: list[Skipped]
) -> Iterator[Pair]:
    shorts, longs = (_files_by_stem(root, folder, skipped) for folder in (short, long))
    of_beginning = defaultdict(list)
    for stem, path in longs.items():
        of_beginning[_beginning(stem)].append(path)
    known = _Known()
    for stem, path in shorts.items():
        beginning = _beginning(stem)
        fitting = [longs[key] for key in (stem, beginning) if key in longs][:1]
        fitting = fitting or of_beginning[beginning]
        if len(fitting) == 1:
            scene = fitting[0].stem if fitting[0].stem in (stem, beginning) else beginning
            yield from _paired(root, scene, path, fitting[0], known, skipped)
        else:
            names = ", ".join(one.name for one in fitting[:3])
            why = f"{len(fitting)} long exposures have the beginning of its name ({names})"
            if not fitting:
                why = f"{long.relative_to(root)} has no file named {stem} or {beginning}_..."
            skipped.append(Skipped(path.relative_to(root).as_posix(), why))


def _beginning(stem: str) -> str:
    """Return the part of a name before its last `_`; the whole name if it has none."""
    return stem.rpartition("_")[0] or stem


def _files_by_stem(root: Path, folder: Path, skipped: list[Skipped]) -> dict[str, Path]:
    """Return a folder's RAW files by the stem of their names; a DNG is left out if another RAW file has its stem."""
    found: dict[str, Path] = {}
    names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    files = _raw_files(folder, names)
    for path in sorted(files, key=lambda path: (path.suffix.lower() == ".dng", path.name)):
        if path.stem in found:
            why = f"{found[path.stem].name} has the same name and is used instead"
            skipped.append(Skipped(path.relative_to(root).as_posix(), why))
        else:
            found[path.stem] = path
    return dict(sorted(found.items()))


# -- a folder a scene ---------------------------------------------------------------------------------


def _scenes(root: Path, skipped: list[Skipped]) -> Iterator[Pair]:
    """Yield each file paired with the truth of its folder."""
    known = _Known()
    for folder, _, names in walk(root):
        files = _raw_files(folder, names)
        if folder == root and files:
            why = "is in no scene's folder; give the folder above the scene folders with --root"
            skipped += [Skipped(path.name, why) for path in files]
        elif files:
            yield from _pairs_of_scene(
                root, folder.name, files, _usable(root, files, known, skipped), known, skipped
            )


def _pairs_of_scene(
    root: Path,
    scene: str,
    files: list[Path],
    truths: Mapping[Path, Photograph],
    known: _Known,
    skipped: list[Skipped],
) -> Iterator[Pair]:
    """Yield each of `files`, paired with the longest exposure at the lowest ISO among `truths`."""
    if not truths:
        return

    def rank(path: Path) -> tuple[float, float, str]:
        found = truths[path]
        return found.iso or float("inf"), -found.exposure_s, path.name

    truth = min(truths, key=rank)
    for path in files:
        if path != truth and path not in known.failed:
            yield from _paired(root, scene, path, truth, known, skipped)
    if files == [truth]:
        why = "is the only photograph of its scene, so it has no pair; add a long exposure"
        skipped.append(Skipped(truth.relative_to(root).as_posix(), why))


def _usable(
    root: Path, files: list[Path], known: _Known, skipped: list[Skipped]
) -> dict[Path, Photograph]:
    """Return exposure and camera of each file; files without an exposure time are skipped."""
    found = {}
    for path in files:
        try:
            photograph = known.read(path)
        except RawError as error:
            skipped.append(Skipped(path.relative_to(root).as_posix(), error.reason))
            continue
        if photograph.exposure_s > 0:
            found[path] = photograph
        else:
            known.failed.add(path)
            why = "states no exposure time; list it in a table with a ratio"
            skipped.append(Skipped(path.relative_to(root).as_posix(), why))
    return found


# -- RawNIND ------------------------------------------------------------------------------------------


def _rawnind(root: Path, skipped: list[Skipped]) -> Iterator[Pair]:
    """Yield each noisy file paired with the truth of its set.

    The name of a file states its set, in whatever folder it is. Truths have `GT_` in the name or are in a
    folder `gt`. Photographs of a set are equally bright, so a ratio may be slightly below 1.
    """
    noisy: dict[str, list[Path]] = defaultdict(list)
    truths: dict[str, list[Path]] = defaultdict(list)
    for folder, _, names in walk(root):
        for path in _raw_files(folder, names):
            match = _RAWNIND.fullmatch(path.stem)
            if match:
                is_truth = match[2] or folder.name == "gt"
                (truths if is_truth else noisy)[match[1]].append(path)
            else:
                why = "its name is not like Bayer_SET_ISO3200_sha1=0123.ARW"
                skipped.append(Skipped(path.relative_to(root).as_posix(), why))
    known = _Known(smallest_ratio=0.1)
    for scene, files in sorted(noisy.items()):
        split: Split = "test" if scene.startswith(_RAWNIND_TEST) else "train"
        usable = _usable(root, truths[scene], known, skipped)
        if not usable:
            why = f"the set {scene} has no usable truth (a file with GT_ in its name); add one"
            skipped += [Skipped(path.relative_to(root).as_posix(), why) for path in files]
        _usable(root, files, known, skipped)
        for pair in _pairs_of_scene(root, scene, files, usable, known, skipped):
            yield replace(pair, split=split)


# -- any layout ---------------------------------------------------------------------------------------


class _Known:
    """Reads the header of each photograph once, and remembers which files could not be read."""

    def __init__(self, smallest_ratio: float = 1.0) -> None:
        self.smallest_ratio = smallest_ratio
        self.failed: set[Path] = set()
        self._found: dict[Path, Photograph] = {}
        self._read = GuardedReader(read_photograph, seconds=HEADER_S)

    def read(self, path: Path) -> Photograph:
        """Return exposure and camera of a file. Raises RawError if it cannot be used."""
        if path not in self._found:
            try:
                self._found[path] = self._read(path)
            except RawError:
                self.failed.add(path)
                raise
        return self._found[path]


def _paired(
    root: Path, scene: str, short: Path, long: Path, known: _Known, skipped: list[Skipped]
) -> Iterator[Pair]:
    """Yield the pair of two files, still without an id; yield nothing if the pair is skipped."""
    name = short.relative_to(root).as_posix()
    try:
        found, truth = known.read(short), known.read(long)
        ratio = light_ratio(found, truth, smallest=known.smallest_ratio)
    except RawError as error:
        of = "" if error.path == str(short) else f"its long exposure {Path(error.path).name} "
        skipped.append(Skipped(name, f"{of}{error.reason}"))
        return
    except ValueError as error:
        skipped.append(
            Skipped(
                name,
                f"{error}; list the pair in a table with its ratio, and give the table with --pairs",
            )
        )
        return
    yield Pair(
        id="",
        scene=scene,
        camera=found.camera,
        split="train",
        short=name,
        long=long.relative_to(root).as_posix(),
        ratio=ratio,
        iso=found.iso,
    )
