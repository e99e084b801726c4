"""ELD's LMDB files and their pickle of any bytes: a patch, or one error of the file; a crash costs a forked process."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.inert_pickle import read_inert_pickle
from darkprep.pipeline.pairs.lmdb import LmdbPatch, close_files, find_patches
from darkprep.pipeline.raw.guard import guarded_call
from darkprep.shards.errors import DatasetError, MachineError, RawError
from fuzz.choices import Choices
from fuzz.memory import new_folder

PARTS = ("pickle", "colours", "lmdb")
_SIDE = 4


def try_input(data: bytes) -> tuple[str, bool]:
    """Try one LMDB file or its pickle; raise whatever their readers must not raise."""
    folder, good, colours = _prepared()
    choices = Choices(data)
    part = choices.one_of(PARTS)
    if part == "pickle":
        return part, _is_read(choices.edited(colours))
    close_files()
    (folder / "meta_info.pkl").write_bytes(
        _other_colours(choices) if part == "colours" else colours
    )
    (folder / "data.mdb").write_bytes(_edited_pages(choices, good) if part == "lmdb" else good)
    try:
        _use(folder)
    except (DatasetError, MachineError) as error:
        assert "\n" not in str(error), error
        return part, False
    return part, True


def _is_read(data: bytes) -> bool:
    try:
        read_inert_pickle(data, "meta_info.pkl")
    except RawError:
        return False
    return True


def _use(folder: Path) -> None:
    find_patches(folder.parent, camera_named("sony"), "SID_Sony", longs_only=True)
    patch = LmdbPatch(folder / "00000000")
    assert guarded_call(patch.planes, folder, seconds=60.0).shape == (4, _SIDE, _SIDE)
    colours = patch.colours()
    assert np.isfinite(np.linalg.inv(colours.to_srgb)).all()


def _other_colours(choices: Choices) -> bytes:
    """A pickle whose white balance or matrix is another value."""
    entry: list[Any] = [[2.0, 1.0, 1.5, 1.0], np.eye(3).tolist()]
    return pickle.dumps({0: choices.with_a_leaf_replaced(entry)}, protocol=choices.below(6))


def _edited_pages(choices: Choices, good: bytes) -> bytes:
    """The file with changes in one of its pages, most of which are empty."""
    page = 4096 * choices.below(len(good) // 4096)
    return good[:page] + choices.edited(good[page : page + 4096])[:4096].ljust(4096, b"\0") + good[page + 4096 :]  # fmt: skip


@functools.cache
def _prepared() -> tuple[Path, bytes, bytes]:
    """The folder of an LMDB file, and the good bytes of the file and of its pickle."""
    folder = new_folder() / "SID_Sony_Raw.db"
    folder.mkdir()
    with lmdb.open(str(folder), map_size=1 << 16) as environment, environment.begin(write=True) as put:  # fmt: skip
        put.put(b"00000000", bytes(8 * _SIDE * _SIDE))
    colours = {"shape": (4, _SIDE, _SIDE), 0: (np.array([2.0, 1.0, 1.5, 1.0], np.float32), np.eye(3, dtype=np.float32))}  # fmt: skip
    data = (folder / "data.mdb").read_bytes()
    return folder, data[: len(data) // 4096 * 4096], pickle.dumps(colours)
