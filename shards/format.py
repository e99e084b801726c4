"""The byte format of samples and shards (FORMAT.md), without access to the disk.

The trade-off: JSON is padded to a fixed length, so that every size is known beforehand and a disk budget
can be computed exactly. Padding costs a few hundred bytes per sample.
"""

from __future__ import annotations

import functools
import io
import json
import math
import tarfile
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import xxhash

from darkprep.shards.decode import decode, short_repr
from darkprep.shards.errors import ShardDamaged
from darkprep.shards.noise_level import NoiseLevel

LATEST_VERSION = 2
"""Version of samples and plans of the targets `linear` and `raw`; those of `srgb` stay at version 1."""

_MAX_NUMBER = 1e9
"""Upper bound of levels, amplification and ISO; a file with larger numbers is damaged."""

U16 = npt.NDArray[np.uint16]
CfaKind = Literal["bayer", "xtrans"]
Target = Literal["srgb", "linear", "raw"]
"""The target of training: the developed long exposure, its demosaiced camera RGB, or its codes."""
TARGETS: tuple[Target, ...] = get_args(Target)

PLANES: dict[CfaKind, int] = {"bayer": 4, "xtrans": 9}
"""Number of planes of a packed mosaic."""
CELL: dict[CfaKind, int] = {"bayer": 2, "xtrans": 3}
"""Side in pixels of the cell that packing folds into planes: packed height = mosaic height / CELL."""
PERIOD: dict[CfaKind, int] = {"bayer": 2, "xtrans": 6}
"""Side in pixels after which the colour filter array repeats; crop origins are multiples of it."""


@dataclass(frozen=True, kw_only=True)
class SampleMeta:
    """The metadata of one sample. Raises ValueError, which names the invalid field."""

    key: str
    """`KKKKKKKK-SSSS`: shard, sample. Whole frames carry their pair id instead."""
    pair: str
    """The pair's id in its data set, e.g. `00055_00_0.1s`."""
    camera: str
    cfa: CfaKind
    origin: tuple[int, int]
    """Row and column of the crop in the canonical mosaic, in pixels."""
    black: tuple[float, ...]
    """Black level per plane, in codes."""
    white: int
    """White level in codes; `white - black` is full scale."""
    ratio: float
    """Exposure ratio long / short of the pair, capped as in the data set's papers."""
    amplification: float
    """Factor that multiplies the network's input."""
    amplification_source: str
    """How the amplification was determined: `ratio`, `estimate`, or `constant`."""
    iso: float
    """ISO of the short exposure; 0 where the file has none."""
    low: str = ""
    """`xxh3:` and 16 hex digits over the bytes of the low array."""
    gt: str = ""
    """`xxh3:` and 16 hex digits over the bytes of the gt array."""
    target: Target = "srgb"
    gt_black: tuple[float, ...] = ()
    """Black level of the long exposure per plane, in codes; empty unless the target is `raw`."""
    gt_white: int = 0
    """White level of the long exposure in codes; 0 unless the target is `raw`."""

    def __post_init__(self) -> None:
        if self.cfa not in PLANES:
            raise ValueError(f"cfa must be one of {sorted(PLANES)}, not {self.cfa!r}")
        if len(self.black) != PLANES[self.cfa]:
            raise ValueError(
                f"black needs {PLANES[self.cfa]} values for {self.cfa}, not {len(self.black)}"
            )
        numbers = (*self.black, self.white, self.ratio, self.amplification, self.iso)
        if not all(abs(n) < _MAX_NUMBER for n in numbers):  # false for NaN
            raise ValueError(
                f"black, white, ratio, amplification and iso must be below {_MAX_NUMBER:g}"
            )
        if self.white <= max(self.black):
            raise ValueError(f"white {self.white} must be above black {max(self.black)}")
        if self.amplification <= 0:
            raise ValueError(f"amplification must be positive, not {self.amplification}")
        self._check_target()

    @property
    def full_scale(self) -> float:
        """Number of codes from black to white, the mean of the planes."""
        return self.white - sum(self.black) / len(self.black)

    def _check_target(self) -> None:
        check_target(self.target)
        planes = PLANES[self.cfa] if self.target == "raw" else 0
        if len(self.gt_black) != planes:
            raise ValueError(
                f"gt_black needs {planes} values for the target {self.target}, not {len(self.gt_black)}"
            )
        if not all(abs(n) < _MAX_NUMBER for n in (*self.gt_black, self.gt_white)):
            raise ValueError(f"gt_black and gt_white must be below {_MAX_NUMBER:g}")
        if planes and self.gt_white <= max(self.gt_black):
            raise ValueError(
                f"gt_white {self.gt_white} must be above gt_black {max(self.gt_black)}"
            )


@dataclass(frozen=True, eq=False)
class Sample:
    """One training example, or one whole frame for evaluation."""

    low: U16
    """`(C, h, w)` uint16 packed sensor codes: the planes R, G1, G2, B, or the nine of X-Trans."""
    gt: U16
    """uint16, by `meta.target`: `(3, H, W)` sRGB or camera RGB with H = h * CELL, or `(C, h, w)` packed codes."""
    meta: SampleMeta
    noise: NoiseLevel | None = None
    """How much noise `low` has; None if unknown. It is not stored in shards."""


TAR_BLOCK = 512
NPY_HEADER_BYTES = 128
META_BYTES = 1024
END_BYTES = 2 * TAR_BLOCK
_TAR_SUM = slice(148, 154)


def raw_bytes(array: U16) -> memoryview:
    """Return the bytes of a C-contiguous array without a copy."""
    assert array.flags.c_contiguous, "reading into a copy would lose the data"
    return array.reshape(-1).view(np.uint8).data


def checksum(array: U16) -> str:
    """Return `xxh3:` and 16 hex digits: the XXH3-64 of the bytes of a C-contiguous array."""
    return f"xxh3:{xxhash.xxh3_64_hexdigest(raw_bytes(array))}"


def padded(size: int) -> int:
    """Return a number of bytes rounded up to whole blocks of a tar."""
    return -(-size // TAR_BLOCK) * TAR_BLOCK


@functools.lru_cache(maxsize=16)
def npy_header(shape: tuple[int, ...]) -> bytes:
    """Return the NPY_HEADER_BYTES before the values of a uint16 array in a `.npy` file."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<u2", "fortran_order": False, "shape": shape}
    )
    header = file.getvalue()
    assert len(header) == NPY_HEADER_BYTES, "numpy pads headers of small arrays to 128 bytes"
    return header


def member_header(name: str, size: int) -> bytes:
    """Return the ustar header of a tar member: a template in which name and checksum are filled in."""
    nameless, text = _nameless_header(size), name.encode()
    header = bytearray(nameless)
    header[: len(text)] = text
    header[_TAR_SUM] = b"%06o" % (int(nameless[_TAR_SUM], 8) + sum(text))
    return bytes(header)


@functools.lru_cache(maxsize=16)
def _nameless_header(size: int) -> bytes:
    member = tarfile.TarInfo()
    member.size = size
    return member.tobuf(tarfile.USTAR_FORMAT)


@dataclass(frozen=True, kw_only=True)
class ShardLayout:
    """The position of every byte in a shard; all shards of a plan share one layout.

    `height` and `width` are those of the stored mosaic in pixels, multiples of the CFA's period. Raises
    ValueError, which names the invalid field.
    """

    cfa: CfaKind
    height: int
    width: int
    samples: int
    target: Target = "srgb"

    def __post_init__(self) -> None:
        if self.cfa not in PLANES:
            raise ValueError(f"cfa must be one of {sorted(PLANES)}, not {self.cfa!r}")
        check_target(self.target)
        for field in ("height", "width"):
            value = getattr(self, field)
            if value < PERIOD[self.cfa] or value % PERIOD[self.cfa]:
                raise ValueError(
                    f"{field} must be a positive multiple of {PERIOD[self.cfa]}, not {value}"
                )
        if not 1 <= self.samples <= 9999:
            raise ValueError(f"samples must be 1 to 9999, not {self.samples}")

    @property
    def low_shape(self) -> tuple[int, int, int]:
        """Shape of the packed mosaic, `(C, h, w)`."""
        cell = CELL[self.cfa]
        return (PLANES[self.cfa], self.height // cell, self.width // cell)

    @property
    def gt_shape(self) -> tuple[int, int, int]:
        """Shape of the target: `(3, H, W)` for a picture, `(C, h, w)` for packed planes."""
        return self.low_shape if self.target == "raw" else (3, self.height, self.width)

    @property
    def low_bytes(self) -> int:
        """Number of bytes of a `low` array, without its header."""
        return 2 * math.prod(self.low_shape)

    @property
    def gt_bytes(self) -> int:
        """Number of bytes of a `gt` array, without its header."""
        return 2 * math.prod(self.gt_shape)

    @property
    def low_offset(self) -> int:
        """Offset from a sample's start to the bytes of its `low` array."""
        return TAR_BLOCK + NPY_HEADER_BYTES

    @property
    def gt_offset(self) -> int:
        """Offset from a sample's start to the bytes of its `gt` array."""
        return self._gt_header_offset + TAR_BLOCK + NPY_HEADER_BYTES

    @property
    def meta_offset(self) -> int:
        """Offset from a sample's start to its JSON."""
        return self._meta_header_offset + TAR_BLOCK

    @property
    def sample_bytes(self) -> int:
        """Number of bytes of one sample in the tar, with headers and padding."""
        return self.meta_offset + META_BYTES

    @property
    def shard_bytes(self) -> int:
        """Number of bytes of a whole shard."""
        return self.samples * self.sample_bytes + END_BYTES

    @property
    def _gt_header_offset(self) -> int:
        return TAR_BLOCK + padded(NPY_HEADER_BYTES + self.low_bytes)

    @property
    def _meta_header_offset(self) -> int:
        return self._gt_header_offset + TAR_BLOCK + padded(NPY_HEADER_BYTES + self.gt_bytes)

    def headers(self, shard: int, sample: int) -> tuple[bytes, bytes, bytes]:
        """Return the bytes that precede the low, gt and JSON data: tar header and, for arrays, npy header."""
        key = sample_key(shard, sample)
        low = member_header(f"{key}.low.npy", NPY_HEADER_BYTES + self.low_bytes)
        gt = member_header(f"{key}.gt.npy", NPY_HEADER_BYTES + self.gt_bytes)
        meta = member_header(f"{key}.json", META_BYTES)
        return low + npy_header(self.low_shape), gt + npy_header(self.gt_shape), meta

    def header_offsets(self) -> tuple[int, int, int]:
        """Return the offset from a sample's start to each of the three headers that `headers` returns."""
        return 0, self._gt_header_offset, self._meta_header_offset


def sample_key(shard: int, sample: int) -> str:
    """Return the key of a sample in the tar, such as `00000042-0003`."""
    return f"{shard:08d}-{sample:04d}"


_JSON_NAMES = {"amplification_source": "gain"}
"""Fields that have another name in the JSON (FORMAT.md)."""
_TARGET_FIELDS = ("target", "gt_black", "gt_white")
"""Fields of version 2; the last two only with the target `raw`."""


def check_target(target: str) -> None:
    """Raise ValueError unless the name is one of TARGETS."""
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, not {target!r}")


def format_version(target: Target) -> int:
    """Return the format version of plans and samples with this target: 1 for `srgb`, else 2."""
    return 1 if target == "srgb" else LATEST_VERSION


def encode_meta(meta: SampleMeta, plan: str) -> bytes:
    """Return the metadata as JSON, padded with spaces to META_BYTES; `plan` is the digest of the plan.

    Raises ValueError when the JSON is too long, which happens only if a pair id has hundreds of characters.
    """
    data = meta_json(meta, plan)
    if len(data) > META_BYTES:
        raise ValueError(
            f"pair {meta.pair!r}: the metadata of a sample have {len(data)} bytes, more than the {META_BYTES} that a shard has room for; shorten the names of its scene and files"
        )
    return data.ljust(META_BYTES)


def meta_json(meta: SampleMeta, plan: str) -> bytes:
    """Return the metadata as JSON of any length."""
    stored = {"srgb": (), "linear": _TARGET_FIELDS[:1], "raw": _TARGET_FIELDS}[meta.target]
    fields = {
        _JSON_NAMES.get(name, name): value
        for name, value in asdict(meta).items()
        if name not in _TARGET_FIELDS or name in stored
    }
    version = format_version(meta.target)
    return json.dumps({"format": version, "plan": plan, **fields}, allow_nan=False).encode()


def decode_meta(data: bytes, plan: str) -> SampleMeta:
    """Decode metadata that `encode_meta` wrote with the same `plan`; raise ShardDamaged for any other bytes."""
    try:
        record: dict[str, Any] = json.loads(data)
        version, of_plan = record.pop("format"), record.pop("plan")
        meta = _meta_from_json(record)
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ShardDamaged(f"metadata cannot be read: {_reason(data, error)}") from error
    if type(version) is not int or version not in range(1, LATEST_VERSION + 1):
        raise ShardDamaged(
            f"has format version {short_repr(version)}, but this darkprep reads 1 to {LATEST_VERSION}; update darkprep"
        )
    if version != format_version(meta.target):
        raise ShardDamaged(
            f"states format version {version}, in which the target {meta.target} does not exist, so its metadata are wrong"
        )
    if of_plan != plan:
        raise ShardDamaged("it belongs to another plan")
    return meta


def _reason(data: bytes, error: Exception) -> str:
    """Return which field of damaged metadata is invalid; the reason of `error` where `data` is no JSON object."""
    try:
        record = json.loads(data)
        names = {stored: name for name, stored in _JSON_NAMES.items()}
        decode(SampleMeta, {names.get(name, name): value for name, value in record.items()})
    except (ValueError, TypeError, AttributeError, RecursionError) as named:
        return str(named)
    return str(error)


def _meta_from_json(record: dict[str, Any]) -> SampleMeta:
    for name in ("key", "pair", "camera", "gain", "low", "gt"):
        if not isinstance(record[name], str):
            raise TypeError(f"{name} must be a string")
    row, column = record.pop("origin")
    black = tuple(float(n) for n in record.pop("black"))
    gt_black = tuple(float(n) for n in record.pop("gt_black", ()))
    source = record.pop("gain")
    return SampleMeta(
        **record,
        origin=(int(row), int(column)),
        black=black,
        gt_black=gt_black,
        amplification_source=source,
    )
