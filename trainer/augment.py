"""Cuts the final crop out of a stored sample: a window, flipped and transposed, the CFA's phase kept.

A plain flip of a mosaic turns RGGB into GRBG, so the window starts where the flipped mosaic has the
canonical phase again; the stored margin gives it room. One affine map a sample says where each pixel
comes from, the same for `low` and `gt` and for every CFA. The trade-off: moving pixels by a gather
reads an index of 8 bytes for each value, which a specialised slicing would not; in return it is a
handful of kernels a batch whatever each sample drew.
"""

from __future__ import annotations

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

_LEFT_RIGHT, _UP_DOWN, _OF = 50, 20, 101
"""The published training flips columns in 50 of 101 cases and rows in 20 of 101."""

Index = npt.NDArray[np.int64]
Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Dihedral:
    """One of the eight symmetries of a square: pixel (y, x) of the result comes from `at(y, x)`."""

    transpose: bool
    flip_rows: bool
    flip_columns: bool

    def at(self, row: int, column: int, side: int) -> tuple[int, int]:
        """Where pixel (row, column) of the result lies in the `side` x `side` source."""
        if self.transpose:
            row, column = column, row
        return (
            side - 1 - row if self.flip_rows else row,
            side - 1 - column if self.flip_columns else column,
        )


SYMMETRIES = tuple(Dihedral(*bits) for bits in product((False, True), repeat=3))
IDENTITY = SYMMETRIES[0]


@dataclass(frozen=True)
class Move:
    """A symmetry and the first row and column of the window that it is applied to, in mosaic pixels."""

    symmetry: Dihedral
    row: int
    column: int


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The stored mosaic's size and the side of the square cut from it, in pixels.

    Raises OptionError naming the field.
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
                f"choose a smaller crop, or build again"
            )

    @property
    def free(self) -> tuple[int, int]:
        """Last possible first row and first column of a window."""
        return self.height - self.crop, self.width - self.crop


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What a sample's use draws; a function of (seed, sample key, use) and of nothing else.

    - `cfa`: all eight symmetries that leave the CFA's phase as it was, and shifts on its lattice.
      Without a margin that is the identity and, where the CFA is its own mirror image, the
      transpose.
    - `paper`: the published flips of the mosaic, left-right 50/101 and up-down 20/101, which give
      the network other phases than RGGB to see; shifts on the lattice.
    - `none`: always the middle window, as it is.
    """

    geometry: Geometry
    mode: AugmentMode = "cfa"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in AUGMENT_MODES:
            raise OptionError(
                f"augment must be one of {', '.join(AUGMENT_MODES)}, not {self.mode!r}"
            )
        if self.seed < 0:
            raise OptionError(f"seed must not be negative, not {self.seed}")

    def draw(self, key: str, use: int) -> Move:
        """The move of sample `key` at its `use`-th use."""
        words = random_bits(
            3, self.seed, RngStream.AUGMENT, xxhash.xxh3_64_intdigest(key.encode()), use
        )
        bits = [int(word) for word in words]
        if self.mode == "none":
            return self._middle
        if self.mode == "paper":
            flips = Dihedral(
                transpose=False,
                flip_rows=bits[0] % _OF < _UP_DOWN,
                flip_columns=bits[1] % _OF < _LEFT_RIGHT,
            )
            return Move(flips, *_pick(self._lattice, bits[2]))
        symmetry, starts = _pick(self._moves, bits[0])
        return Move(symmetry, *_pick(starts, bits[1]))

    @cached_property
    def _middle(self) -> Move:
        period = PERIOD[self.geometry.cfa]
        row, column = (free // 2 // period * period for free in self.geometry.free)
        return Move(IDENTITY, row, column)

    @cached_property
    def _lattice(self) -> tuple[tuple[int, int], ...]:
        return window_starts(self.geometry, IDENTITY)

    @cached_property
    def _moves(self) -> tuple[tuple[Dihedral, tuple[tuple[int, int], ...]], ...]:
        every = ((symmetry, window_starts(self.geometry, symmetry)) for symmetry in SYMMETRIES)
        return tuple((symmetry, starts) for symmetry, starts in every if starts)


def _pick(choices: tuple[Choice, ...], word: int) -> Choice:
    return choices[word % len(choices)]


def window_starts(geometry: Geometry, symmetry: Dihedral) -> tuple[tuple[int, int], ...]:
    """All (row, column) where a window under `symmetry` shows the canonical CFA; may be none."""
    phases = _phases(geometry.cfa, symmetry, geometry.crop)
    period = PERIOD[geometry.cfa]
    last_row, last_column = geometry.free
    return tuple(
        (row, column)
        for row, column in product(range(last_row + 1), range(last_column + 1))
        if (row % period, column % period) in phases
    )


def _phases(cfa: CfaKind, symmetry: Dihedral, crop: int) -> frozenset[tuple[int, int]]:
    """Window starts modulo the period that restore the phase; found by trying them all."""
    pattern, period = CANONICAL[cfa], PERIOD[cfa]
    cells = [(pattern[y][x], symmetry.at(y, x, crop)) for y, x in product(range(period), repeat=2)]
    return frozenset(
        (dy, dx)
        for dy, dx in product(range(period), repeat=2)
        if all(
            pattern[(dy + row) % period][(dx + column) % period] == colour
            for colour, (row, column) in cells
        )
    )


def packed_places(cfa: CfaKind, height: int, width: int) -> Index:
    """Row-major mosaic index of every packed value: `(C, h, w)` int64 for a `height` x `width` mosaic."""
    period, step = PERIOD[cfa], PERIOD[cfa] // CELL[cfa]
    places = np.arange(height * width).reshape(height, width)
    planes = np.empty((PLANES[cfa], height // CELL[cfa], width // CELL[cfa]), dtype=np.int64)
    for plane, (cell_row, cell_column), (row, column) in packing(cfa):
        planes[plane, cell_row::step, cell_column::step] = places[row::period, column::period]
    return planes


class Cropper:
    """Applies moves to batches on one device, with buffers that are used again.

    What it returns is lent until the next call. The gathers are exact: values move, none changes.
    """

    def __init__(self, geometry: Geometry, device: torch.device) -> None:
        self.geometry = geometry
        self.device = device
        stored = packed_places(geometry.cfa, geometry.height, geometry.width).reshape(-1)
        packed_at = np.empty_like(stored)
        packed_at[stored] = np.arange(stored.size)
        self._packed_at = torch.from_numpy(packed_at).to(device)
        """For each pixel of the stored mosaic its place among the stored packed values."""
        crop = packed_places(geometry.cfa, geometry.crop, geometry.crop)
        self._crop_shape = crop.shape
        self._wanted = torch.from_numpy(crop.reshape(-1)).to(device)
        """For each packed value of the crop its pixel of the cropped mosaic."""
        self._steps = torch.arange(geometry.crop, device=device)
        self._buffers: dict[str, Tensor] = {}

    def apply(self, low: Tensor, gt: Tensor, moves: list[Move]) -> tuple[Tensor, Tensor]:
        """Move `low` (B, C, h, w) and `gt` (B, 3, H, W), each of any dtype that torch can gather.

        Returns (B, C, crop/cell, crop/cell) and (B, 3, crop, crop) of the same dtypes.
        """
        count, side = len(moves), self.geometry.crop
        pixels = self._pixels(moves)
        wanted = self._wanted.expand(count, -1)
        places = torch.gather(pixels, 1, wanted, out=self._buffer("places", wanted.shape))
        torch.gather(
            self._packed_at.expand(count, -1),
            1,
            places,
            out=self._buffer("low index", places.shape),
        )
        index = self._buffer("low index", places.shape)
        flat_low, flat_gt = low.reshape(count, -1), gt.reshape(count, 3, -1)
        cut_low = self._buffer("low", (count, *self._crop_shape), low.dtype)
        torch.gather(flat_low, 1, index, out=cut_low.view(count, -1))
        cut_gt = self._buffer("gt", (count, 3, side, side), gt.dtype)
        torch.gather(flat_gt, 2, pixels[:, None].expand(-1, 3, -1), out=cut_gt.view(count, 3, -1))
        return cut_low, cut_gt

    def _pixels(self, moves: list[Move]) -> Tensor:
        """(B, crop * crop) int64: where each pixel of each crop lies in its stored mosaic."""
        affine = torch.tensor([self._affine(move) for move in moves])
        # Not made on the device at once: that would wait for all the device has to do.
        there = affine.to(self.device, non_blocking=True)
        base, down, right = there[:, :, None, None].unbind(1)
        rows = base + self._steps[:, None] * down
        side = self.geometry.crop
        pixels = self._buffer("pixels", (len(moves), side, side))
        torch.add(rows, self._steps[None, :] * right, out=pixels)
        return pixels.view(len(moves), -1)

    def _affine(self, move: Move) -> tuple[int, int, int]:
        """Index of the crop's first pixel in the stored mosaic, and its change per row and column."""

        def index(y: int, x: int) -> int:
            row, column = move.symmetry.at(y, x, self.geometry.crop)
            return (move.row + row) * self.geometry.width + move.column + column

        base = index(0, 0)
        return base, index(1, 0) - base, index(0, 1) - base

    def _buffer(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.int64
    ) -> Tensor:
        """A tensor that keeps its memory between calls, as fresh pages cost more than the copy."""
        kept = self._buffers.get(name)
        if kept is None or kept.shape != shape or kept.dtype != dtype:
            kept = self._buffers[name] = torch.empty(shape, dtype=dtype, device=self.device)
        return kept
