"""Cut the training crop out of a stored sample, flipped and transposed so that the CFA's phase is kept.

A plain flip of a mosaic turns RGGB into GRBG. So the crop starts at a position where the flipped mosaic has
the canonical phase; the stored margin makes room for this. For each sample one affine map gives the source
of each pixel, the same map for `low` and `gt` and for every CFA. The trade-off: a gather reads an 8-byte
index for each value that it moves, which slicing would not need; in return a batch takes only a few
kernels, whatever the transforms of its samples are.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor

from darkprep.shards.cfa import CANONICAL, packing
from darkprep.shards.errors import OptionError
from darkprep.shards.format import CELL, PERIOD, PLANES, CfaKind
from darkprep.shards.rng import RngStream, random_bits
from darkprep.trainer.config import AUGMENT_MODES, AugmentMode

_COLUMN_FLIPS, _ROW_FLIPS, _CASES = 50, 20, 101
"""The published training flips columns in 50 of 101 cases and rows in 20 of 101."""

Index = npt.NDArray[np.int64]
Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Symmetry:
    """One of the eight symmetries of a square: an optional transposition and optional flips of rows and columns."""

    transpose: bool
    flip_rows: bool
    flip_columns: bool

    def source(self, row: int, column: int, side: int) -> tuple[int, int]:
        """Return the row and column in a `side` x `side` square that move to (row, column) of the result."""
        if self.transpose:
            row, column = column, row
        return (
            side - 1 - row if self.flip_rows else row,
            side - 1 - column if self.flip_columns else column,
        )


SYMMETRIES = tuple(Symmetry(*bits) for bits in product((False, True), repeat=3))
IDENTITY = SYMMETRIES[0]


@dataclass(frozen=True)
class CropTransform:
    """Where a crop is cut from the stored mosaic (first row and column, in pixels) and the symmetry applied to it."""

    symmetry: Symmetry
    row: int
    column: int


@dataclass(frozen=True, kw_only=True)
class CropGeometry:
    """The size of the stored mosaic and the side of the square crop cut from it, in pixels.

    Raises OptionError, which names the invalid field.
    """

    cfa: CfaKind
    height: int
    width: int
    crop: int

    def __post_init__(self) -> None:
        for name in ("height", "width", "crop"):
            if getattr(self, name) < 1 or getattr(self, name) % PERIOD[self.cfa]:
                raise OptionError(
                    f"{name} must be a multiple of {PERIOD[self.cfa]} for {self.cfa}, "
                    f"not {getattr(self, name)}"
                )
        if self.crop > min(self.height, self.width):
            raise OptionError(
                f"crop {self.crop} does not fit into stored samples of {self.height}x{self.width}; "
                f"choose a smaller crop, or build another spool with a larger --crop"
            )

    @property
    def last_start(self) -> tuple[int, int]:
        """The largest possible first row and first column of a crop."""
        return self.height - self.crop, self.width - self.crop


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Draws a random crop transform for each use of a sample, from (seed, sample key, use) alone.

    - `cfa`: all eight symmetries and shifts that keep the phase of the CFA. Without a margin, only the
      identity and, for a CFA equal to its own transpose, the transposition remain.
    - `paper`: the published flips of the mosaic, left-right with probability 50/101 and up-down with
      20/101, which change the phase of the CFA; and shifts by whole CFA periods.
    - `none`: the crop from the middle, unchanged.
    """

    geometry: CropGeometry
    mode: AugmentMode = "cfa"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in AUGMENT_MODES:
            raise OptionError(
                f"augment must be one of {', '.join(AUGMENT_MODES)}, not {self.mode!r}"
            )
        if self.seed < 0:
            raise OptionError(f"seed must be at least 0, not {self.seed}")

    def draw(self, key: str, use: int) -> CropTransform:
        """Return the crop transform for use number `use`, counted from 0, of the sample with this key."""
        words = random_bits(
            3, self.seed, RngStream.AUGMENT, xxhash.xxh3_64_intdigest(key.encode()), use
        )
        bits = [int(word) for word in words]
        if self.mode == "none":
            return self._middle
        if self.mode == "paper":
            flips = Symmetry(
                transpose=False,
                flip_rows=bits[0] % _CASES < _ROW_FLIPS,
                flip_columns=bits[1] % _CASES < _COLUMN_FLIPS,
            )
            return CropTransform(flips, *_pick(self._unflipped_starts, bits[2]))
        symmetry, starts = _pick(self._starts_of_symmetries, bits[0])
        return CropTransform(symmetry, *_pick(starts, bits[1]))

    @cached_property
    def _middle(self) -> CropTransform:
        period = PERIOD[self.geometry.cfa]
        row, column = (last // 2 // period * period for last in self.geometry.last_start)
        return CropTransform(IDENTITY, row, column)

    @cached_property
    def _unflipped_starts(self) -> tuple[tuple[int, int], ...]:
        return window_starts(self.geometry, IDENTITY)

    @cached_property
    def _starts_of_symmetries(self) -> tuple[tuple[Symmetry, tuple[tuple[int, int], ...]], ...]:
        every = ((symmetry, window_starts(self.geometry, symmetry)) for symmetry in SYMMETRIES)
        return tuple((symmetry, starts) for symmetry, starts in every if starts)


def _pick(choices: tuple[Choice, ...], word: int) -> Choice:
    return choices[word % len(choices)]


def window_starts(geometry: CropGeometry, symmetry: Symmetry) -> tuple[tuple[int, int], ...]:
    """Return every (row, column) at which a crop under `symmetry` has the canonical CFA phase; possibly none."""
    phases = _phases(geometry.cfa, symmetry, geometry.crop)
    period = PERIOD[geometry.cfa]
    last_row, last_column = geometry.last_start
    return tuple(
        (row, column)
        for row, column in product(range(last_row + 1), range(last_column + 1))
        if (row % period, column % period) in phases
    )


def _phases(cfa: CfaKind, symmetry: Symmetry, crop: int) -> frozenset[tuple[int, int]]:
    """Try all crop positions within one period of the CFA; return those that keep its phase."""
    pattern, period = CANONICAL[cfa], PERIOD[cfa]
    cells = [
        (pattern[y][x], symmetry.source(y, x, crop)) for y, x in product(range(period), repeat=2)
    ]
    return frozenset(
        (dy, dx)
        for dy, dx in product(range(period), repeat=2)
        if all(
            pattern[(dy + row) % period][(dx + column) % period] == colour
            for colour, (row, column) in cells
        )
    )


def packed_indices(cfa: CfaKind, height: int, width: int) -> Index:
    """Return for each packed value `(C, h, w)` its index in the flattened `height` x `width` mosaic."""
    period, step = PERIOD[cfa], PERIOD[cfa] // CELL[cfa]
    mosaic = np.arange(height * width).reshape(height, width)
    planes = np.empty((PLANES[cfa], height // CELL[cfa], width // CELL[cfa]), dtype=np.int64)
    for plane, (cell_row, cell_column), (row, column) in packing(cfa):
        planes[plane, cell_row::step, cell_column::step] = mosaic[row::period, column::period]
    return planes


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tables:
    """Indices that depend on a crop geometry alone, on one device; they are never changed."""

    packed_index: Tensor
    """For each pixel of the stored mosaic, its index among the stored packed values."""
    crop_pixels: Tensor
    """For each packed value of the crop, its pixel of the cropped mosaic."""
    crop_shape: tuple[int, ...]
    """`(C, h, w)` of the packed crop."""
    steps: Tensor
    """The numbers from 0 to crop - 1."""


@functools.lru_cache(maxsize=8)
def _tables(geometry: CropGeometry, device: torch.device) -> _Tables:
    stored = packed_indices(geometry.cfa, geometry.height, geometry.width).reshape(-1)
    packed_index = np.empty_like(stored)
    packed_index[stored] = np.arange(stored.size)
    crop = packed_indices(geometry.cfa, geometry.crop, geometry.crop)
    return _Tables(
        packed_index=torch.from_numpy(packed_index).to(device),
        crop_pixels=torch.from_numpy(crop.reshape(-1)).to(device),
        crop_shape=crop.shape,
        steps=torch.arange(geometry.crop, device=device),
    )


class Cropper:
    """Applies crop transforms to batches on one device; the results are written into reused buffers.

    A result is valid until the next call, unless `forget` is called before. Values are moved and never changed.
    """

    def __init__(self, geometry: CropGeometry, device: torch.device) -> None:
        self.geometry = geometry
        self.device = device
        self._tables = _tables(geometry, device)
        self._buffers: dict[str, Tensor] = {}

    def forget(self, *results: Tensor) -> None:
        """Leave the memory of these results to the caller; the next results are written elsewhere."""
        kept = {id(result) for result in results}
        self._buffers = {name: one for name, one in self._buffers.items() if id(one) not in kept}

    def apply(
        self, low: Tensor, gt: Tensor, transforms: list[CropTransform]
    ) -> tuple[Tensor, Tensor]:
        """Crop `low` (B, C, h, w) and `gt` (B, 3, H, W) or (B, C, h, w) by one transform per sample; any dtype is accepted.

        Returns (B, C, crop/cell, crop/cell), and `gt` as (B, 3, crop, crop) or of the shape of the first, of
        the same dtypes.
        """
        count, side = len(transforms), self.geometry.crop
        pixels = self._source_pixels(transforms)
        crop_pixels = self._tables.crop_pixels.expand(count, -1)
        sources = torch.gather(
            pixels, 1, crop_pixels, out=self._buffer("sources", crop_pixels.shape)
        )
        index = self._buffer("low index", sources.shape)
        torch.gather(self._tables.packed_index.expand(count, -1), 1, sources, out=index)
        cropped_low = self._cropped_planes("low", low, index)
        if gt.shape == low.shape:
            return cropped_low, self._cropped_planes("gt", gt, index)
        flat_gt = gt.reshape(count, 3, -1)
        cropped_gt = self._buffer("gt", (count, 3, side, side), gt.dtype)
        torch.gather(
            flat_gt, 2, pixels[:, None].expand(-1, 3, -1), out=cropped_gt.view(count, 3, -1)
        )
        return cropped_low, cropped_gt

    def _cropped_planes(self, name: str, planes: Tensor, index: Tensor) -> Tensor:
        count = len(planes)
        cropped = self._buffer(name, (count, *self._tables.crop_shape), planes.dtype)
        torch.gather(planes.reshape(count, -1), 1, index, out=cropped.view(count, -1))
        return cropped

    def _source_pixels(self, transforms: list[CropTransform]) -> Tensor:
        """Return for each pixel of each crop its index in the stored mosaic, (B, crop * crop) int64."""
        affine = torch.tensor([self._affine(transform) for transform in transforms])
        # Built on the host: building it on the device would wait for all the work queued there.
        coefficients = affine.to(self.device, non_blocking=True)
        base, down, right = coefficients[:, :, None, None].unbind(1)
        rows = base + self._tables.steps[:, None] * down
        side = self.geometry.crop
        pixels = self._buffer("pixels", (len(transforms), side, side))
        torch.add(rows, self._tables.steps[None, :] * right, out=pixels)
        return pixels.view(len(transforms), -1)

    def _affine(self, transform: CropTransform) -> tuple[int, int, int]:
        """Return the stored index of the crop's first pixel and the index steps to the next row and column."""

        def index(y: int, x: int) -> int:
            row, column = transform.symmetry.source(y, x, self.geometry.crop)
            return (transform.row + row) * self.geometry.width + transform.column + column

        base = index(0, 0)
        return base, index(1, 0) - base, index(0, 1) - base

    def _buffer(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.int64
    ) -> Tensor:
        """Return an uninitialised tensor; its memory is kept between calls, because new memory is slow to touch."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != shape or buffer.dtype != dtype:
            buffer = self._buffers[name] = torch.empty(shape, dtype=dtype, device=self.device)
        return buffer
