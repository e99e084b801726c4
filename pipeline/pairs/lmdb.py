"""ELD's LMDB files of training patches: their pairs, and each patch as a source.

The trade-off: a patch no longer has its photograph's levels, its codes are 16-bit shares of full scale,
and inputs are amplified already. It is used as it is, with black 0, white 65535 and amplification 1.

Layout (ELD's released code): `NAME.db/data.mdb` with keys `00000000`, `00000001`, ... and values of
uint16 `(4, h, w)`, planes R, G, B, G of the 2x2 cell; `NAME.db/meta_info.pkl` with white balance and
colour matrix of each. `NAME_input_Raw` and `NAME_target_Raw` are pairs, `NAME_Raw` long exposures alone.
A patch is addressed as `NAME.db/00000012`, like a file.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import struct
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from darkprep.pipeline.pairs.cameras import Camera
from darkprep.pipeline.pairs.inert_pickle import floats_of, read_inert_pickle
from darkprep.pipeline.pairs.table import Pair, Pairs
from darkprep.pipeline.raw.colour import SRGB_TO_XYZ_LIBRAW, Colours
from darkprep.pipeline.raw.develop import develop
from darkprep.pipeline.raw.frame import RawHeader
from darkprep.pipeline.raw.guard import HEADER_S, GuardedReader
from darkprep.pipeline.raw.mosaic import unpack
from darkprep.pipeline.raw.resample import XtransMode
from darkprep.pipeline.raw.source import DevelopedCrops, PackedFrame
from darkprep.shards.cfa import CANONICAL, Site
from darkprep.shards.errors import DatasetError, OptionError, RawError
from darkprep.shards.files import open_regular_file, read_regular_file
from darkprep.shards.format import U16
from darkprep.shards.machine import raise_machine_error, with_retries

LMDB_SUFFIX = ".db"
_WHITE = 65535
_FROM_RGBG = (0, 1, 3, 2)
"""Positions of R, G1, G2, B among a patch's planes."""
_PATCHES_PER_PHOTOGRAPH = 8
_MAX_META_BYTES = 64 << 20
_DATA = "data.mdb"
_MOST_PATCHES = 1_000_000
"""ELD's largest file has some 15,000."""
_LEAST_PATCH_BYTES = 26
"""Of a patch of one pixel per plane, with its key and what LMDB stores with both."""
_META = struct.Struct("<16x I 20x I 92x Q")
"""Magic number, bytes of a page, and last page, of the two pages at the start of an LMDB file (MDB_meta in its source)."""
_MAGIC = 0xBEEFC0DE
_UNWRITTEN_BYTES = 16 << 20
"""LMDB counts pages that it allocated and never wrote; these are few."""


def find_patches(root: Path, camera: Camera, name: str, *, longs_only: bool = False) -> Pairs:
    """Return the pairs of `NAME_input_Raw.db` and `NAME_target_Raw.db` below `root`, all of split "train".

    With `longs_only`, the patches of `NAME_Raw.db`, or else of the targets, each as both its own short
    and long. The eight patches of one photograph count as one scene. Raises DatasetError when the files
    are missing, empty, or do not fit together.
    """
    names = [f"{name}_Raw", f"{name}_target_Raw"] if longs_only else [f"{name}_target_Raw"]
    long = next((one for one in names if (root / f"{one}{LMDB_SUFFIX}").is_dir()), None)
    short = long if longs_only else f"{name}_input_Raw"
    if long is None or short is None or not (root / f"{short}{LMDB_SUFFIX}").is_dir():
        files = [f"{one}{LMDB_SUFFIX}" for one in names]
        wanted = (
            " or ".join(files) if longs_only else f"{name}_input_Raw{LMDB_SUFFIX} and {files[0]}"
        )
        raise DatasetError(
            f"{root}: holds no {wanted}; give the directory of ELD's LMDB files with --root"
        )
    counts = _patch_counts([root / f"{one}{LMDB_SUFFIX}" for one in (short, long)])
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
            short=f"{short}{LMDB_SUFFIX}/{k:08d}",
            long=f"{long}{LMDB_SUFFIX}/{k:08d}",
            ratio=1.0,  # the inputs were amplified before they were stored
            iso=0.0,
        )
        for k in range(counts[0])
    )
    return Pairs(root=root, label=camera.name, pairs=pairs, skipped=())


def _patch_counts(paths: Sequence[Path]) -> list[int]:
    """Return the number of patches in each LMDB file."""
    # LMDB trusts the pages of a file: a damaged one may crash it.
    with GuardedReader(_patches, seconds=HEADER_S) as count:
        found = {path: with_retries(str(path), partial(count, path)) for path in set(paths)}
    return [found[path] for path in paths]


def _patches(path: Path) -> int:
    with _lmdb_errors(str(path)):
        count = int(_environment(str(path)).stat()["entries"])
    # A count that no file of this size can hold would make as many pairs, until memory is used up.
    if not 0 <= count <= min(_MOST_PATCHES, (path / _DATA).stat().st_size // _LEAST_PATCH_BYTES):
        raise DatasetError(
            f"{path}: states {count} patches, more than it can hold; download it again"
        )
    return count


def close_files() -> None:
    """Close all LMDB files and forget what was read from them; those that are used again are opened again."""
    _environment.cache_clear()
    _meta_colours.cache_clear()


@dataclass(frozen=True)
class LmdbPatch:
    """A patch of an LMDB file as a source: a square Bayer mosaic in the phase RGGB.

    Methods raise RawError for a patch that is missing or unusable, DatasetError for a file that is not an
    LMDB file, and OptionError if the lmdb package is not installed.
    """

    path: Path
    """`NAME.db/00000012`."""

    def header(self) -> RawHeader:
        """Return the header with the patch's size; exposure, ISO and camera are unknown."""
        side = math.isqrt(len(self._value()) // 8)
        return RawHeader(
            path=str(self.path),
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

    def white_balance(self) -> None:
        """Return None: patches hold no white balance."""
        return None

    def decode(self, *, xtrans: XtransMode = "native") -> PackedFrame:
        """Return the planes with black 0 and white 65535; `xtrans` has no effect, because patches are Bayer."""
        colours = self.colours()
        red, _, blue = (float(gain) for gain in colours.gains)
        return PackedFrame(
            planes=self.planes(),
            black=(0.0,) * 4,
            white=_WHITE,
            header=self.header(),
            white_balance=(red, 1.0, blue, 1.0),
            camera_to_srgb=colours.to_srgb.astype(np.float32),
        )

    def develop(self, *, linear: bool = False) -> U16:
        """Develop the patch as `RawFile` does a RAW file, at constant brightness, to `(3, H, W)` uint16."""
        from darkprep.pipeline.raw.dng import (  # its tifffile would slow down every worker's start
            DngTags,
            write_dng,
        )

        colours = self.colours()
        neutral = colours.gains.min() / colours.gains
        matrix = np.linalg.inv(colours.to_srgb) @ np.linalg.inv(SRGB_TO_XYZ_LIBRAW)
        tags = DngTags(
            black=(0.0,),
            white=_WHITE,
            as_shot_neutral=(float(neutral[0]), float(neutral[1]), float(neutral[2])),
            color_matrix=tuple(matrix.ravel().tolist()),
        )
        with tempfile.TemporaryDirectory() as directory:
            dng = Path(directory) / "patch.dng"
            write_dng(dng, unpack(self.planes(), "bayer"), tags)
            try:
                _, rgb = develop(dng, brightness="constant", linear=linear)
            except RawError as error:
                raise RawError(str(self.path), error.reason) from error
        return np.ascontiguousarray(rgb.transpose(2, 0, 1))

    def develop_crops(
        self, origins: Sequence[Site], size: int, *, linear: bool = False
    ) -> DevelopedCrops:
        """Return crops of what `develop` returns; a patch is small, so it is developed whole."""
        whole = self.develop(linear=linear)
        _, height, width = whole.shape
        crops = [whole[:, y : y + size, x : x + size] for y, x in origins]
        return DevelopedCrops(height=height, width=width, crops=crops)

    def fingerprint(self) -> str:
        """Return the size and a hash of the patch."""
        value = self._value()
        return f"{len(value):x}-{xxhash.xxh3_64_hexdigest(value)}"

    def planes(self) -> U16:
        """Return the codes, `(4, h, w)` uint16, planes R, G1, G2, B."""
        value = self._value()
        side = math.isqrt(len(value) // 8)
        stored = np.frombuffer(value, "<u2").reshape(4, side, side)
        return stored[list(_FROM_RGBG)]

    def colours(self) -> Colours:
        """Return the white balance and the colour matrix of the photograph that the patch was cut from."""
        directory = self.path.parent
        try:
            balance, matrix = _meta_colours(str(directory))[int(self.path.name)]
            with np.errstate(all="ignore"):  # Colours refuses what is not finite
                gains = np.asarray(balance, np.float64)[:3] / balance[1]
                if not np.isfinite(np.linalg.inv(matrix)).all():
                    raise ValueError("the colour matrix has no inverse")
            return Colours(gains=gains, to_srgb=matrix)
        except (KeyError, ValueError, TypeError, IndexError, OverflowError) as error:
            raise RawError(
                str(self.path),
                f"has no usable white balance or colour matrix in {directory.name}/meta_info.pkl; download it again",
            ) from error

    def _value(self) -> bytes:
        """Return the patch's bytes. Raises RawError unless their number fits four square planes."""
        value = with_retries(str(self.path), self._read)
        if value is None:
            raise RawError(str(self.path), "is not in the LMDB file; download the file again")
        side = math.isqrt(len(value) // 8)
        if not side or 8 * side * side != len(value):
            raise RawError(
                str(self.path),
                f"has {len(value)} bytes, which do not fit four square 16-bit planes; download the file again",
            )
        return value

    def _read(self) -> bytes | None:
        with _lmdb_errors(str(self.path.parent)):
            with _environment(str(self.path.parent)).begin() as transaction:
                value: bytes | None = transaction.get(self.path.name.encode())
                return value


@contextlib.contextmanager
def _lmdb_errors(directory: str) -> Iterator[None]:
    """Raise MachineError for errors of lmdb that the machine caused, DatasetError for those that the file caused.

    lmdb's errors have no error number, only the text of the operating system.
    """
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("lmdb"):
            raise
        for number in errno.errorcode:
            if str(error).endswith(os.strerror(number)):
                raise_machine_error(directory, OSError(number, os.strerror(number)))
        raise DatasetError(f"{directory}: not an LMDB file ({error}); download it again") from error


@lru_cache(maxsize=8)
def _environment(directory: str) -> Any:
    """Open an LMDB file for reading and keep it open; no lock file is needed, since nobody writes to it."""
    try:
        import lmdb
    except ImportError as error:
        raise OptionError(
            "LMDB files need the package lmdb; install it with pip install 'darkprep[lmdb]'"
        ) from error
    _check_size(directory)
    with _lmdb_errors(directory):
        return lmdb.open(directory, readonly=True, lock=False, readahead=False, max_dbs=0)


def _check_size(directory: str) -> None:
    """Raise DatasetError for a file that states far more pages than it has, for LMDB would map as much memory.

    Files that are missing or have other content pass, since LMDB itself refuses them.
    """
    path = Path(directory) / _DATA
    with contextlib.suppress(OSError), open(path, "rb", opener=open_regular_file) as file:
        size, stated, at = os.fstat(file.fileno()).st_size, 0, 0
        for _ in range(2):
            file.seek(at)
            data = file.read(_META.size)
            magic, page_bytes, last_page = _META.unpack(data.ljust(_META.size, b"\0"))
            if magic == _MAGIC:
                at, stated = page_bytes, max(stated, (last_page + 1) * page_bytes)
        if stated > size + _UNWRITTEN_BYTES:
            raise DatasetError(
                f"{directory}: has {size} bytes and states {stated}; download it again"
            )


_BalanceAndMatrix = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


@lru_cache(maxsize=8)
def _meta_colours(directory: str) -> dict[int, _BalanceAndMatrix]:
    """Return white balance and colour matrix by patch number. Raises RawError for a file with other content."""
    path = Path(directory) / "meta_info.pkl"
    try:
        data = with_retries(str(path), lambda: read_regular_file(path, _MAX_META_BYTES + 1))
    except OSError as error:
        raise RawError(str(path), f"cannot be read ({error.strerror}); check the file") from error
    if len(data) > _MAX_META_BYTES:
        raise RawError(str(path), f"is larger than {_MAX_META_BYTES >> 20} MiB; download it again")
    entries = read_inert_pickle(data, str(path))
    if not isinstance(entries, dict):
        raise RawError(str(path), "is not a table of patches; download it again")
    return {
        key: (floats_of(value[0]), floats_of(value[1]))
        for key, value in entries.items()
        if isinstance(key, int) and isinstance(value, tuple | list) and len(value) == 2
    }
