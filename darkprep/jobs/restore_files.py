"""Which files `restore` reads, and where it writes each picture: folders, names, and files that exist already."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from darkprep.pipeline.pairs.folders import raw_files_below
from darkprep.pipeline.raw.tiff import Tiff
from darkprep.shards import OptionError

EXISTING = ("skip", "replace", "rename")
_SOFTWARE = 305
_TIFF_SUFFIXES = (".dng", ".tif", ".tiff")
_MAX_NUMBER = 10_000


@dataclass(frozen=True, kw_only=True)
class PlannedFile:
    """A RAW file and the picture that is made of it."""

    source: Path
    target: Path
    amplify: str
    """How it is amplified: `estimate` or a number."""
    exists: bool = False
    """Whether the picture exists already and is left as it is."""


def find_raw_files(paths: Sequence[Path], *, recursive: bool) -> list[tuple[Path, Path]]:
    """Return each RAW file with the folder of its picture below the output directory.

    A folder stands for the files in it that have a RAW file's extension, in order of their names; with `recursive`
    its subfolders are kept in the output. Raises OptionError for a folder without such files.
    """
    found: list[tuple[Path, Path]] = []
    for path in paths:
        if not path.is_dir():
            found.append((path, Path()))
            continue
        inside = [
            (file, file.parent.relative_to(path))
            for file in raw_files_below(path, recursive=recursive)
        ]
        if not inside:
            hint = "" if recursive else "; --recursive also looks into its subfolders"
            raise OptionError(f"{path}: holds no RAW files{hint}")
        found += inside
    return found


def plan_files(
    found: Sequence[tuple[Path, Path]],
    out: Path,
    suffix: str,
    *,
    amplify: Sequence[str],
    existing: str = "skip",
) -> list[PlannedFile]:
    """Return what is written for each file and amplification, in order; no two pictures have the same path.

    With several amplifications a name ends in `_x50`. `existing` states what happens to a picture that exists:
    `skip` leaves it, `replace` overwrites it, `rename` gives the new one a number. Raises OptionError if a RAW file would be overwritten.
    """
    if existing not in EXISTING:
        raise OptionError(f"--existing must be one of {', '.join(EXISTING)}, not {existing!r}")
    sources = {_file_id(path) for path, _ in found} - {None}
    taken: set[Path] = set()
    planned = []
    for source, folder in found:
        for factor in amplify:
            ending = f"_x{factor}" if len(amplify) > 1 and factor != "estimate" else ""
            target = free_name(
                out / folder, f"{source.stem}{ending}", suffix, taken, avoid=existing == "rename"
            )
            taken.add(target)
            if _file_id(target) in sources:
                raise OptionError(
                    f"{target}: is one of the files to restore and would be overwritten; choose another --out"
                )
            exists = os.path.lexists(target) and not target.is_dir() and existing == "skip"
            planned.append(PlannedFile(source=source, target=target, amplify=factor, exists=exists))
    return planned


def is_foreign(target: Path) -> bool:
    """Return whether `target` is an existing DNG or TIFF file that darkprep did not write; it may be an original."""
    if target.suffix.lower() not in _TIFF_SUFFIXES or not target.is_file():
        return False
    try:
        with target.open("rb") as file:
            tiff = Tiff(file)
            software = tiff.values(tiff.first_directory()).get(_SOFTWARE)
    except (OSError, struct.error):
        return True
    return not str(software or "").startswith("darkprep")


def free_name(folder: Path, stem: str, suffix: str, taken: set[Path], *, avoid: bool) -> Path:
    """Return a path that is not taken and, with `avoid`, does not exist; later ones get numbers."""
    for count in range(1, _MAX_NUMBER):
        name = stem if count == 1 else f"{stem}-{count}"
        path = folder / f"{name}{suffix}"
        if path not in taken and not (avoid and os.path.lexists(path)):
            return path
    raise OptionError(
        f"{folder / stem}: {_MAX_NUMBER} numbered files of this name exist already; choose another --out"
    )


def _file_id(path: Path) -> tuple[int, int] | None:
    """Return device and inode, which are equal for all links to a file; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
