"""ELD's LMDB files of training patches as photographs: each patch is a small RAW file of its own.

The trade-off: a patch has lost its photograph's levels and its codes are 16-bit shares of full scale,
already amplified where it is an input; it is taken as it is, with black 0, white 65535 and gain 1.

Layout (ELD's released code): `NAME.db/data.mdb` with keys `00000000`, `00000001`, ... and values of
uint16 `(4, h, w)`, planes R, G, B, G of the 2x2 cell; `NAME.db/meta_info.pkl` with white balance and
colour matrix of each. `NAME_input_Raw` and `NAME_target_Raw` are pairs, `NAME_Raw` long exposures alone.
A patch is addressed as `NAME.db/00000012`, like a file.

The pickle is read by an interpreter that can make plain values and arrays of numbers and nothing else.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from darkprep.pipeline.pairs.table import Camera, Pair, Pairs
from darkprep.pipeline.raw.colour import SRGB_TO_XYZ_LIBRAW, Colours
from darkprep.pipeline.raw.develop import develop
from darkprep.pipeline.raw.frame import RawHeader
from darkprep.pipeline.raw.mosaic import unpack
from darkprep.shards.cfa import CANONICAL
from darkprep.shards.errors import DatasetError, OptionError, RawError
from darkprep.shards.format import U16

SUFFIX = ".db"
WHITE = 65535
_FROM_RGBG = (0, 1, 3, 2)
"""Our planes R, G1, G2, B among theirs."""
_PATCHES_PER_PHOTOGRAPH = 8
_MOST_META_BYTES = 64 << 20


def is_patch(path: str | os.PathLike[str]) -> bool:
    """Tells whether a path addresses a patch in an LMDB, `NAME.db/00000012`."""
    return Path(path).parent.suffix == SUFFIX


def find_patches(root: Path, camera: Camera, name: str, *, longs_only: bool = False) -> Pairs:
    """Returns the pairs of `NAME_input_Raw.db` and `NAME_target_Raw.db` below `root`, all of split "train".

    With `longs_only`, the patches of `NAME_Raw.db`, or else of the targets, each as both its own short
    and long. The eight patches of one photograph count as one scene. Raises DatasetError when the files
    are missing, empty, or do not fit together.
    """
    names = [f"{name}_Raw", f"{name}_target_Raw"] if longs_only else [f"{name}_target_Raw"]
    long = next((one for one in names if (root / f"{one}{SUFFIX}").is_dir()), None)
    short = long if longs_only else f"{name}_input_Raw"
    if long is None or short is None or not (root / f"{short}{SUFFIX}").is_dir():
        wanted = " or ".join(names) if longs_only else f"{name}_input_Raw{SUFFIX} and {names[0]}"
        raise DatasetError(
            f"{root}: holds no {wanted}{SUFFIX}; give the folder that ELD's LMDB files lie in"
        )
    counts = [_environment(str(root / f"{one}{SUFFIX}")).stat()["entries"] for one in (short, long)]
    if counts[0] != counts[1] or not counts[0]:
        raise DatasetError(
            f"{root}: {short} has {counts[0]} patches and {long} {counts[1]}; download them again"
        )
    pairs = tuple(
        Pair(
            id=f"{name}-{k:08d}",
            scene=f"photograph-{k // _PATCHES_PER_PHOTOGRAPH:05d}",
            camera=camera.name,
            split="train",
            short=f"{short}{SUFFIX}/{k:08d}",
            long=f"{long}{SUFFIX}/{k:08d}",
            ratio=1.0,  # the inputs were amplified before they were stored
            iso=0.0,
        )
        for k in range(counts[0])
    )
    return Pairs(root=root, camera=camera, pairs=pairs, skipped=())


def patch_header(path: Path) -> RawHeader:
    """Returns what is known of a patch without its pixels. Raises RawError."""
    side = math.isqrt(len(_value(path)) // 8)
    return RawHeader(
        path=str(path),
        height=2 * side,
        width=2 * side,
        cfa="bayer",
        pattern=CANONICAL["bayer"],
        exposure_s=0.0,
        iso=0.0,
        make="",
        model="ELD patch",
        orientation=0,
    )


def patch_print(path: Path) -> str:
    """Returns size and hash of a patch, which tells a replaced one. Raises RawError."""
    value = _value(path)
    return f"{len(value):x}-{xxhash.xxh3_64_hexdigest(value)}"


def patch_planes(path: Path) -> U16:
    """Returns `(4, h, w)` uint16 codes of a patch, planes R, G1, G2, B. Raises RawError."""
    value = _value(path)
    side = math.isqrt(len(value) // 8)
    theirs = np.frombuffer(value, "<u2").reshape(4, side, side)
    return theirs[list(_FROM_RGBG)]


def patch_colours(path: Path) -> Colours:
    """Returns the white balance and matrix of a patch's photograph. Raises RawError."""
    folder = path.parent
    try:
        balance, matrix = _colours(str(folder))[int(path.name)]
        return Colours(gains=np.asarray(balance, np.float64)[:3] / balance[1], to_srgb=matrix)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise RawError(
            str(path), f"has no usable colours in {folder.name}/meta_info.pkl"
        ) from error


def develop_patch(path: Path) -> U16:
    """Develops a patch as `develop` does a RAW file, at constant brightness: `(3, H, W)` uint16 sRGB.

    Raises RawError.
    """
    from darkprep.pipeline.raw.dng import (  # its tifffile costs every worker's start
        DngTags,
        write_dng,
    )

    colours = patch_colours(path)
    neutral = colours.gains.min() / colours.gains
    matrix = np.linalg.inv(colours.to_srgb) @ np.linalg.inv(SRGB_TO_XYZ_LIBRAW)
    tags = DngTags(
        black=(0.0,),
        white=WHITE,
        as_shot_neutral=(float(neutral[0]), float(neutral[1]), float(neutral[2])),
        color_matrix=tuple(matrix.ravel().tolist()),
    )
    with tempfile.TemporaryDirectory() as folder:
        aside = Path(folder) / "patch.dng"
        write_dng(aside, unpack(patch_planes(path), "bayer"), tags)
        try:
            _, rgb = develop(aside, brightness="constant")
        except RawError as error:
            raise RawError(str(path), error.reason) from error
    return np.ascontiguousarray(rgb.transpose(2, 0, 1))


def _value(path: Path) -> bytes:
    """Returns a patch's bytes, of a length that four square planes have."""
    with _environment(str(path.parent)).begin() as transaction:
        value: bytes | None = transaction.get(path.name.encode())
    if value is None:
        raise RawError(str(path), "is not in the LMDB file")
    side = math.isqrt(len(value) // 8)
    if not side or 8 * side * side != len(value):
        raise RawError(
            str(path), f"has {len(value)} bytes, not those of four square planes of 16-bit RAW"
        )
    return value


@lru_cache(maxsize=8)
def _environment(folder: str) -> Any:
    """Opens an LMDB file for reading, without its lock file: nobody writes to it. Kept open."""
    try:
        import lmdb
    except ImportError as error:
        raise OptionError("LMDB files need the lmdb package: pip install darkprep[lmdb]") from error
    try:
        return lmdb.open(folder, readonly=True, lock=False, readahead=False, max_dbs=0)
    except lmdb.Error as error:
        raise DatasetError(f"{folder}: is no LMDB file ({error}); download it again") from error


# -- meta_info.pkl ------------------------------------------------------------------------------------

_Colours = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


@lru_cache(maxsize=8)
def _colours(folder: str) -> dict[int, _Colours]:
    """Returns white balance and matrix by patch number. Raises RawError for a file of anything else."""
    path = Path(folder) / "meta_info.pkl"
    try:
        if path.stat().st_size > _MOST_META_BYTES:
            raise RawError(str(path), f"is larger than {_MOST_META_BYTES >> 20} MiB")
        data = path.read_bytes()
    except OSError as error:
        raise RawError(str(path), f"cannot be read ({error.strerror})") from error
    found = read_inert_pickle(data, str(path))
    if not isinstance(found, dict):
        raise RawError(str(path), "is not a table of patches")
    return {
        key: (_numbers(value[0]), _numbers(value[1]))
        for key, value in found.items()
        if isinstance(key, int) and isinstance(value, tuple | list) and len(value) == 2
    }


def read_inert_pickle(data: bytes, name: str) -> Any:
    """Returns what a pickle holds, if that is plain values and numpy arrays of numbers only.

    No name in it is ever looked up: the few that arrays are spelled with stand for functions here that
    store what they are given. Everything else is refused. Raises RawError with `name`.
    """
    try:
        return _InertUnpickler(io.BytesIO(data)).load()
    except Exception as error:
        # An interpreter fed with arbitrary bytes answers with any exception there is.
        raise RawError(name, f"is not a pickle of plain values and arrays ({error})") from error


class _Array:
    """An array's pickled state, kept as data."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state


class _Kind:
    """A dtype's pickled name, such as `f4`; its state holds the byte order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1])


def _latin1(text: str, _encoding: str) -> bytes:
    """How pickles of old protocols spell bytes."""
    return text.encode("latin-1")


def _from_buffer(data: bytes, kind: _Kind, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.state = (1, shape, kind, order == "F", data)
    return array


_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_BUFFER_MODULES = ("numpy.core.numeric", "numpy._core.numeric")
_STAND_INS: dict[tuple[str, str], Any] = {
    **{(module, "_reconstruct"): lambda *_: _Array() for module in _ARRAY_MODULES},
    **{(module, "_frombuffer"): _from_buffer for module in _BUFFER_MODULES},
    ("numpy", "dtype"): lambda name, *_: _Kind(str(name)),
    ("numpy", "ndarray"): None,
    ("numpy", "uint16"): "uint16",
    ("_codecs", "encode"): _latin1,
}


class _InertUnpickler(pickle._Unpickler):
    """A pickle interpreter that knows the names above and no other.

    It is the one written in Python: the one in C reserves as much memory as a file asks for.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _STAND_INS[module, name]


def _numbers(value: Any) -> npt.NDArray[np.float64]:
    """Returns the numbers of an array that was read inertly. Raises ValueError or TypeError."""
    if not isinstance(value, _Array):
        return np.asarray(value, np.float64)
    _, shape, kind, fortran, data = value.state
    if not isinstance(kind, _Kind) or kind.name not in ("f4", "f8"):
        raise ValueError("not an array of floats")
    flat = np.frombuffer(data, f"{kind.order if kind.order in '<>' else '<'}{kind.name}")
    return flat.reshape(shape, order="F" if fortran else "C").astype(np.float64)
