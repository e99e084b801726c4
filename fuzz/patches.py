"""ELD's LMDB files and their pickle of any bytes: a patch, or one error of the file; LMDB may crash its own process only.

The trade-off: one forked process reads one LMDB file after another until a file crashes it, as a process for each
would take nearly all of the time. No coverage guides the edits of these files, for LMDB is written in C.
"""

from __future__ import annotations

import functools
import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lmdb
import numpy as np

from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.inert_pickle import read_inert_pickle
from darkprep.pipeline.pairs.lmdb import LmdbPatch, close_files, find_patches
from darkprep.pipeline.raw.guard import GuardedReader
from darkprep.shards import machine
from darkprep.shards.errors import DatasetError, RawError
from fuzz.choices import Choices
from fuzz.memory import new_folder

PARTS = ("pickle", "colours", "lmdb")
_SIDE, _PATCHES = 24, 200
_ODD = (b"\0" * 8, b"\xff" * 8, b"\x01", b"\xff\xff", b"\0\0\0\x80", b"\0" * 4 + b"\x01", b"\0" * 7 + b"\x40", b"\x05")  # fmt: skip
_SECONDS = 5.0
_MEMORY_BYTES = 2 << 30


def try_input(data: bytes) -> tuple[str, bool]:
    """Try one LMDB file or its pickle; raise whatever their readers must not raise."""
    folder, good, colours = _prepared()
    choices = Choices(data)
    part = choices.one_of(PARTS)
    if part == "pickle":
        return part, _is_read(choices.edited(colours))
    try:
        if part == "colours":
            (folder / "meta_info.pkl").write_bytes(_other_colours(choices))
            _use_colours(folder)
        else:
            (folder / "data.mdb").write_bytes(_edited_pages(choices, good))
            _reader()(folder)
    except DatasetError as error:
        assert "\n" not in str(error), error
        return part, False
    return part, True


def _is_read(data: bytes) -> bool:
    try:
        read_inert_pickle(data, "meta_info.pkl")
    except RawError:
        return False
    return True


def _use_colours(folder: Path) -> None:
    close_files()
    colours = LmdbPatch(folder / "00000000").colours()
    assert np.isfinite(np.linalg.inv(colours.to_srgb)).all()


@functools.cache
def _reader() -> GuardedReader[None]:
    return GuardedReader(_use_patches, seconds=_SECONDS)


def _use_patches(folder: Path) -> None:
    """Find and read the patches, in a process that may crash; what the product guards runs here."""
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    close_files()
    with (
        patch("darkprep.pipeline.pairs.lmdb.GuardedReader", _Unguarded),
        patch.object(machine, "RETRY_AFTER_S", ()),
    ):
        find_patches(folder.parent, camera_named("sony"), "SID_Sony", longs_only=True)
        for name in ("00000000", f"{_PATCHES - 1:08d}"):
            one = LmdbPatch(folder / name)
            assert one.planes().shape == (4, one.header().height // 2, one.header().width // 2)


class _Unguarded:
    """Calls a function on a path, as GuardedReader does, but in this process."""

    def __init__(self, read: Callable[[Path], Any], *, seconds: float) -> None:
        self._read, self._seconds = read, seconds

    def __enter__(self) -> Callable[[Path], Any]:
        return self._read

    def __exit__(self, *_: object) -> None:
        """Do nothing: there is no process to end."""


def _other_colours(choices: Choices) -> bytes:
    """A pickle whose white balance or matrix is another value."""
    entry: list[Any] = [[2.0, 1.0, 1.5, 1.0], np.eye(3).tolist()]
    return pickle.dumps({0: choices.with_a_leaf_replaced(entry)}, protocol=choices.below(6))


def _edited_pages(choices: Choices, good: bytes) -> bytes:
    """The file with other bytes where LMDB's own are, or else cut or longer anywhere."""
    if choices.below(8) == 0:
        return choices.edited(good)
    data = bytearray(good)
    for _ in range(1 + choices.below(3)):
        at = choices.one_of(_own_bytes(good))
        piece = choices.one_of(_ODD) if choices.below(2) else choices.take(1 + choices.below(8))
        data[at : at + len(piece)] = piece
    return bytes(data)


@functools.cache
def _own_bytes(good: bytes) -> list[int]:
    """The positions of the bytes of a file that are not zero, or near such a byte: its headers, keys and pointers."""
    near = [good[max(0, at - 8) : at + 8].strip(b"\0") for at in range(len(good))]
    return [at for at, around in enumerate(near) if around]


@functools.cache
def _prepared() -> tuple[Path, bytes, bytes]:
    """The folder of an LMDB file, and the good bytes of the file and of its pickle.

    The first patch has pages of its own, as ELD's have, and there are enough others for a tree of two levels.
    """
    folder = new_folder() / "SID_Sony_Raw.db"
    folder.mkdir()
    with lmdb.open(str(folder), map_size=1 << 17) as environment, environment.begin(write=True) as put:  # fmt: skip
        put.put(b"00000000", bytes(8 * _SIDE * _SIDE))
        for number in range(1, _PATCHES):
            put.put(f"{number:08d}".encode(), bytes(8))
    colours = {"shape": (4, _SIDE, _SIDE), 0: (np.array([2.0, 1.0, 1.5, 1.0], np.float32), np.eye(3, dtype=np.float32))}  # fmt: skip
    data = (folder / "data.mdb").read_bytes()
    return folder, data[: len(data) // 4096 * 4096], pickle.dumps(colours)
