"""What a sample and a shard are, byte for byte (FORMAT.md); no disk is touched here.

The trade-off: everything has a size known beforehand, the JSON is padded for it, so that a budget is
arithmetic. It costs a few hundred bytes a sample.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xxhash

from shards.errors import ShardDamaged

FORMAT_VERSION = 1

U16 = npt.NDArray[np.uint16]
CfaKind = Literal["bayer", "xtrans"]

PLANES: dict[CfaKind, int] = {"bayer": 4, "xtrans": 9}
"""Planes of a packed mosaic."""
CELL: dict[CfaKind, int] = {"bayer": 2, "xtrans": 3}
"""Side in pixels of the cell that packing folds into planes: packed height = mosaic height / CELL."""
PERIOD: dict[CfaKind, int] = {"bayer": 2, "xtrans": 6}
"""Side in pixels after which the colour filter array repeats; crop origins are multiples of it."""


@dataclass(frozen=True, kw_only=True)
class SampleMeta:
    """What is known of one sample beside its two arrays."""

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
    """Exposure ratio long / short of the pair, capped as the data set's papers do."""
    amplification: float
    """Factor that the network's input is multiplied with."""
    gain: str
    """How the amplification was found: `ratio`, `estimate`, or `constant`."""
    iso: float
    """ISO of the short exposure; 0 where the file does not say."""
    low: str = ""
    """`xxh3:` and 16 hex digits over the bytes of the low array."""
    gt: str = ""
    """The same over the bytes of the gt array."""

    def __post_init__(self) -> None:
        if self.cfa not in PLANES:
            raise ValueError(f"cfa must be one of {sorted(PLANES)}, not {self.cfa!r}")
        if len(self.black) != PLANES[self.cfa]:
            raise ValueError(f"black needs {PLANES[self.cfa]} values for {self.cfa}, not {len(self.black)}")
        numbers = (*self.black, self.white, self.ratio, self.amplification, self.iso)
        if not all(math.isfinite(n) for n in numbers):
            raise ValueError("black, white, ratio, amplification and iso must be finite")
        if self.white <= max(self.black):
            raise ValueError(f"white {self.white} must be above black {max(self.black)}")
        if self.amplification <= 0:
            raise ValueError(f"amplification must be positive, not {self.amplification}")


@dataclass(frozen=True, eq=False)
class Sample:
    """One training example, or one whole frame."""

    low: U16
    """`(C, h, w)` uint16 sensor codes, packed: R, G1, G2, B planes, or X-Trans's nine."""
    gt: U16
    """`(3, H, W)` uint16 sRGB, H = h * CELL."""
    meta: SampleMeta
