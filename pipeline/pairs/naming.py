"""Derive the names of scenes and pairs from the names of their files."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from darkprep.pipeline.pairs.table import Pair


def default_scene(short: str, long: str) -> str:
    """Return the name of the folder if both files lie directly in the same one, else the common beginning of their names up to a `_`.

    If the names have no common beginning, the name of the long exposure is returned, so that all short
    exposures of one long exposure form a scene.
    """
    one, other = PurePosixPath(short), PurePosixPath(long)
    if one.parent == other.parent and one.parent.name not in ("", ".."):
        return one.parent.name
    words = zip(one.stem.split("_"), other.stem.split("_"), strict=False)
    common = itertools.takewhile(lambda both: both[0] == both[1], words)
    return "_".join(word for word, _ in common) or other.stem


def named_apart(drafts: Sequence[Pair]) -> list[Pair]:
    """Return the pairs with unique ids; a pair without an id gets one from its scene and file."""
    names = default_ids([(pair.scene, pair.short) for pair in drafts])
    return [
        pair if pair.id else replace(pair, id=name)
        for pair, name in zip(drafts, names, strict=True)
    ]


def default_ids(files: Sequence[tuple[str, str]]) -> list[str]:
    """Return a unique id for each (scene, short exposure), usable as a file name.

    The id is the name of the file if it begins with the scene, otherwise scene and name; if two ids would
    be equal, the whole path is used. Ids are published, so of absolute paths the directory above all is left out.
    """
    names = [_file_id(scene, PurePosixPath(short)) for scene, short in files]
    count = Counter(names)
    above = _directory_above([short for _, short in files if short.startswith("/")])
    return [
        name if count[name] == 1 else short.removeprefix(above).strip("/").replace("/", "_")
        for name, (_, short) in zip(names, files, strict=True)
    ]


def _directory_above(paths: Sequence[str]) -> str:
    """Return the directory that is above all of these absolute paths; "" for no paths."""
    return os.path.commonpath([PurePosixPath(path).parent for path in paths]) if paths else ""


def _file_id(scene: str, short: PurePosixPath) -> str:
    stem = short.stem if short.stem.startswith(scene) else f"{scene}_{short.stem}"
    return stem.replace("/", "_")
