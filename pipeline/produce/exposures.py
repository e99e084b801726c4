"""Get the exposures of a pair for a worker: from the frame store, or decoded and developed from their files.

The trade-off: a long exposure for which the store has no space is developed only where crops are cut, at every visit.
That costs a fraction of developing it whole, but again at every visit; a stored one costs nothing more.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from darkprep.pipeline.pairs.sources import source_of_fingerprint
from darkprep.pipeline.pairs.whole_frame import Correction
from darkprep.pipeline.plan.frame_names import FrameKind
from darkprep.pipeline.plan.plan import Plan, PlannedPair
from darkprep.pipeline.produce.frame_store import (
    Frame,
    FrameAttributes,
    FrameStore,
    SensorLevels,
)
from darkprep.pipeline.produce.quarantine import decoding_record
from darkprep.pipeline.raw.guard import CRASHES_DECODER
from darkprep.pipeline.raw.resample import XtransMode, parse_xtrans_mode
from darkprep.pipeline.raw.source import Source
from darkprep.shards import CELL, RawError, Spool
from darkprep.shards.cfa import Site
from darkprep.shards.errors import MachineError
from darkprep.shards.format import U16
from darkprep.shards.machine import with_retries

Content = TypeVar("Content")
_KINDS: tuple[FrameKind, ...] = ("long", "short")


@dataclass(frozen=True, eq=False, kw_only=True)
class Truth:
    """Crops of a long exposure."""

    crops: Sequence[U16]
    """`(C, h, w)` uint16 each: developed, or packed codes."""
    levels: SensorLevels | None
    """Levels of packed codes; None for developed crops."""


class ExposureReader:
    """Reads the exposures of one shard; several threads may use it if no frame is storable.

    Methods raise RawError for a file that cannot be used, whose reason is then added to `unusable`, and MachineError if
    the directory of the photographs is missing.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        spool: Spool,
        store: FrameStore,
        storable: Collection[str],
        quarantined: Collection[str],
        unusable: dict[str, str],
    ) -> None:
        self._plan = plan
        self._spool = spool
        self._store = store
        self._storable = storable
        self._quarantined = quarantined
        self._unusable = unusable
        self.decoded = 0
        """Number of RAW files that were decoded."""
        self._counting = threading.Lock()
        self.stored: list[str] = []
        """Names of the frames that were added to the store."""

    def load(self, kind: FrameKind, pair: PlannedPair) -> Frame:
        """Return a frame from the store; otherwise decode it, and store it if there is space."""
        return self._stored_frame(kind, pair) or self._decode(kind, pair)

    def load_truth(self, pair: PlannedPair, short: Frame, origins: Sequence[Site]) -> Truth:
        """Return crops of the long exposure at `origins`; one that is not stored is developed only there.

        `short` is the short exposure of the pair.
        """
        size = self._plan.options.stored_size(self._plan.cfa)
        names = [self._plan.frame_name(kind, pair) for kind in _KINDS]
        # With synthetic noise and the target `raw` the two exposures are one frame.
        frame = short if names[0] == names[1] else self._stored_frame("long", pair)
        if frame is None and self._plan.options.target != "raw":
            return Truth(crops=self._develop_crops(pair, origins, size), levels=None)
        frame = frame or self._decode("long", pair)
        levels = frame.attributes.levels
        cell = CELL[self._plan.cfa] if levels else 1
        crops = [crop_of(frame.array, origin, size, cell) for origin in origins]
        return Truth(crops=crops, levels=levels)

    def store(self, pair: PlannedPair) -> None:
        """Store the frames of a pair, except those that are stored or being decoded already."""
        for kind in _KINDS:
            name = self._plan.frame_name(kind, pair)
            if name in self._storable:
                with (
                    contextlib.suppress(RawError),
                    self._store.decode_lock(name, wait=False) as is_held,
                ):
                    if is_held and self._store.get(name) is None:
                        self._decode_and_store(kind, pair, name)

    def read_ahead(self, pair: PlannedPair) -> None:
        """Have the kernel read the files of a pair that are not stored, without waiting for them."""
        for kind in _KINDS:
            path = self._path(kind, pair)
            if not self._store.has(self._plan.frame_name(kind, pair)) and path.is_file():
                with contextlib.suppress(OSError), path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def _stored_frame(self, kind: FrameKind, pair: PlannedPair) -> Frame | None:
        """Return a frame that is stored, or that is stored now because there is space for it; otherwise None."""
        name = self._plan.frame_name(kind, pair)
        frame = self._store.get(name)
        if frame is None and name in self._storable:
            with self._store.decode_lock(name):
                frame = self._store.get(name) or self._decode_and_store(kind, pair, name)
        return frame

    def _decode_and_store(self, kind: FrameKind, pair: PlannedPair, name: str) -> Frame:
        decoded = self._decode(kind, pair)
        frame = with_retries(
            str(self._store.path / name),
            lambda: self._store.put(name, decoded.array, decoded.attributes),
            "written",
        )
        self.stored.append(name)
        return frame

    def _decode(self, kind: FrameKind, pair: PlannedPair) -> Frame:
        options = self._plan.options

        def decode(source: Source) -> Frame:
            if kind == "short" or options.target == "raw":
                is_corrected = kind == "short" and self._plan.subtracts_shading
                correct = self._plan.correction if is_corrected else None
                frame = decode_planes(source, parse_xtrans_mode(options.xtrans), correct)
            else:
                frame = _develop_long(source, linear=options.target == "linear")
            cell = CELL[self._plan.cfa] if frame.attributes.levels else 1
            height, width = frame.array.shape[-2:]
            _check_size(source, pair, height * cell, width * cell)
            return frame

        return self._read_file(kind, pair, decode)

    def _develop_crops(
        self, pair: PlannedPair, origins: Sequence[Site], size: int
    ) -> Sequence[U16]:
        def develop(source: Source) -> Sequence[U16]:
            is_linear = self._plan.options.target == "linear"
            developed = source.develop_crops(origins, size, linear=is_linear)
            _check_size(source, pair, developed.height, developed.width)
            return developed.crops

        return self._read_file("long", pair, develop)

    def _read_file(
        self, kind: FrameKind, pair: PlannedPair, read: Callable[[Source], Content]
    ) -> Content:
        """Return what `read` returns for the source of an exposure."""
        file_print = pair.short_fingerprint if kind == "short" else pair.long_fingerprint
        path = self._path(kind, pair)
        reason = self._unusable.get(file_print)
        if reason:
            raise RawError(str(path), reason)
        try:
            content = with_retries(str(path), lambda: self._read_once(path, file_print, read))
        except RawError as error:
            # A read that failed may succeed the next time.
            if not isinstance(error.__cause__, OSError):
                self._unusable[file_print] = error.reason
            raise
        with self._counting:
            self.decoded += 1
        return content

    def _read_once(self, path: Path, file_print: str, read: Callable[[Source], Content]) -> Content:
        if file_print in self._quarantined:
            raise RawError(str(path), CRASHES_DECODER)
        try:
            source = source_of_fingerprint(path, file_print)
            if source is None:
                raise RawError(str(path), "has changed since the plan was made; build a new spool")
            with decoding_record(self._spool, path, file_print):
                return read(source)
        except RawError as error:
            if isinstance(error.__cause__, OSError):
                self._check_root()
            raise

    def _path(self, kind: FrameKind, pair: PlannedPair) -> Path:
        return self._plan.root / (pair.pair.short if kind == "short" else pair.pair.long)

    def _check_root(self) -> None:
        """Raise MachineError if the directory of the photographs is missing, because then no file is at fault."""
        root = self._plan.root
        try:
            os.scandir(root).close()
        except OSError as error:
            reason = f"{error.strerror}; mount it or check its permissions, then start again"
            raise MachineError(str(root), reason) from error


def crop_of(frame: U16, origin: Site, size: int, cell: int) -> U16:
    """Return a view of a square of `size` pixels of a frame `(C, h, w)` whose planes have a value per `cell` pixels.

    `origin` is the row and column of the square in pixels.
    """
    y, x = origin
    return frame[:, y // cell : (y + size) // cell, x // cell : (x + size) // cell]


def decode_planes(source: Source, xtrans: XtransMode, correct: Correction | None = None) -> Frame:
    """Return the packed planes of an exposure with their levels, corrected by `correct`. Raises RawError."""
    decoded = source.decode(xtrans=xtrans)
    if correct is not None:
        decoded = correct(decoded)
    levels = SensorLevels(black=decoded.black, white=decoded.white, iso=decoded.header.iso)
    return Frame(decoded.planes, FrameAttributes(kind="short", raw=source.path.name, levels=levels))


def levels_of(short: Frame) -> SensorLevels:
    """Return the levels of a frame of packed codes."""
    assert short.attributes.levels is not None, "every short exposure has them"
    return short.attributes.levels


def _develop_long(source: Source, *, linear: bool) -> Frame:
    return Frame(source.develop(linear=linear), FrameAttributes(kind="long", raw=source.path.name))


def _check_size(source: Source, pair: PlannedPair, height: int, width: int) -> None:
    """Raise RawError if a file decodes to another size than its header stated when the plan was made."""
    if (height, width) != (pair.height, pair.width):
        raise RawError(
            str(source.path),
            f"decodes to {height}x{width}, but its header says {pair.height}x{pair.width}; replace it",
        )
