"""Makes one shard: what a worker process does, from RAW files or stored frames to a published tar.

The trade-off: a worker keeps one visit's frames in memory and the shard's crops (tens of megabytes),
so that each frame is decoded once a visit whether or not it fits the store.
"""

from __future__ import annotations

import contextlib
import functools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from darkprep.pipeline.noise.darken import Darkened, darken, noise_rng
from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.pairs.table import Skipped
from darkprep.pipeline.plan.frame_names import FrameKind
from darkprep.pipeline.plan.plan import Crop, Plan, PlannedPair, Visit
from darkprep.pipeline.produce.frame_store import Frame, FrameStore
from darkprep.pipeline.produce.quarantine import WHY, decoding
from darkprep.pipeline.raw.amplify import estimate_amplification
from darkprep.pipeline.raw.resample import XtransMode, parse_xtrans_mode
from darkprep.pipeline.raw.source import Source
from darkprep.shards import (
    CELL,
    DatasetError,
    PlanError,
    RawError,
    Sample,
    SampleMeta,
    Spool,
    SpoolError,
    write_shard,
)
from darkprep.shards.format import U16
from darkprep.shards.process import ProcessId


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """The order to make one shard."""

    spool: str
    digest: str
    """Of the plan, so that a worker never works for another one."""
    store: str
    """Folder of the frame store."""
    shard: int
    frames: frozenset[str]
    """Names of the frames that may be stored."""
    crashing: frozenset[str]
    """Prints of files that are known to crash the decoder."""
    owner: ProcessId
    """Who ordered it; a worker whose owner is dead makes nothing."""


@dataclass(frozen=True, kw_only=True)
class ShardMade:
    """What making a shard took, or storing frames of one."""

    shard: int
    published: bool
    """Whether the shard is there now, and not only frames of it."""
    seconds: float
    cpu_seconds: float
    decoded: int
    """RAW files decoded, others came from the store."""
    stored: tuple[str, ...]
    """Frames added to the store."""
    skipped: tuple[Skipped, ...]


@dataclass
class _WorkerState:
    """What one worker process keeps from shard to shard for one plan."""

    spool: Spool
    plan: Plan
    store: FrameStore
    refused: dict[str, str] = field(default_factory=dict)
    """Per print, why a file cannot be used. Not the error, which would keep alive all that its frames held."""
    estimates: dict[str, float] = field(default_factory=dict)
    """Per print, the estimated amplification."""


def make_shard(task: ShardTask) -> ShardMade:
    """Make and publish one shard of the spool's plan; the same task gives the same bytes.

    Unusable files are replaced as the plan says and named in the result. Raises DatasetError when no
    usable pair is left, PlanError when the spool holds another plan now, DiskFull, or SpoolError, also
    when the producer that ordered the shard has a successor.
    """
    work = _worker_state(task.spool, task.digest, task.store, task.owner)
    with work.spool.writer_lock(task.owner):
        return _make(task, work)


def store_frames(task: ShardTask) -> ShardMade:
    """Decode and store frames of a shard that somebody else is making, from its last visit on backwards.

    So that the first shard of a spool, which a trainer waits for, is there sooner. What another worker
    is decoding is left to it, and so are files that prove unusable. Raises as `make_shard`.
    """
    work = _worker_state(task.spool, task.digest, task.store, task.owner)
    with work.spool.writer_lock(task.owner):
        making = _ShardBuilder(task, work)
        for visit in reversed(list(work.plan.visits(task.shard))):
            making.stop_if_abandoned()
            making.store_ahead(visit)
        return making.result(published=False)


def _make(task: ShardTask, work: _WorkerState) -> ShardMade:
    making = _ShardBuilder(task, work)
    samples: list[Sample | None] = [None] * work.plan.options.samples_per_shard
    for visit in work.plan.visits(task.shard):
        making.stop_if_abandoned()
        for slot, sample in making.visit_samples(visit):
            samples[slot] = sample
    whole = [sample for sample in samples if sample is not None]
    spool = work.spool
    # A cluster gives the task of a worker that died to another, while the producer knows of nothing.
    spool.delete_partial(task.shard)
    write_shard(
        spool.shard_path(task.shard),
        work.plan.stream.layout(),
        task.shard,
        whole,
        plan=task.digest,
        partial=spool.partial,
    )
    return making.result(published=True)


class _ShardBuilder:
    """The making of one shard."""

    def __init__(self, task: ShardTask, work: _WorkerState) -> None:
        self._task = task
        self._worker_state = work
        self._began, self._cpu = time.monotonic(), time.process_time()
        self._decoded = 0
        self._stored: list[str] = []
        self._skipped: list[Skipped] = []

    def result(self, *, published: bool) -> ShardMade:
        """What it took so far."""
        return ShardMade(
            shard=self._task.shard,
            published=published,
            seconds=time.monotonic() - self._began,
            cpu_seconds=time.process_time() - self._cpu,
            decoded=self._decoded,
            stored=tuple(self._stored),
            skipped=tuple(self._skipped),
        )

    def stop_if_abandoned(self) -> None:
        """Raise SpoolError when whoever ordered the shard is dead, so that its successor need not wait."""
        if self._task.owner.is_local and not self._task.owner.is_alive():
            raise SpoolError("the producer that ordered this shard is gone")

    def visit_samples(self, visit: Visit) -> list[tuple[int, Sample]]:
        """The samples of one visit with their slots, from its pair or the first usable substitute."""
        plan = self._worker_state.plan
        for pair in plan.candidates(visit.number):
            try:
                short, long = self._frame("short", pair), self._frame("long", pair)
            except RawError as error:
                self._skipped.append(Skipped(error.path, error.reason))
                continue
            return [
                (crop.slot, self._cut(pair, short, long, crop)) for crop in plan.crops(visit, pair)
            ]
        raise DatasetError(
            f"{plan.root}: none of the plan's {len(plan.pairs)} pairs can be used any more; see the files named before"
        )

    def store_ahead(self, visit: Visit) -> None:
        """Store the frames of a visit's pair that nobody has stored or is decoding."""
        pair = next(self._worker_state.plan.candidates(visit.number))
        kinds: tuple[FrameKind, ...] = ("long", "short")
        for kind in kinds:
            name = self._worker_state.plan.frame_name(kind, pair)
            if name in self._task.frames:
                with (
                    contextlib.suppress(RawError),
                    self._worker_state.store.being_made(name, wait=False) as ours,
                ):
                    if ours and self._worker_state.store.get(name) is None:
                        self._store(kind, pair, name)

    def _frame(self, kind: FrameKind, pair: PlannedPair) -> Frame:
        """A frame from the store, or decoded now and stored if there is room for it."""
        name = self._worker_state.plan.frame_name(kind, pair)
        store = self._worker_state.store
        frame = store.get(name)
        if frame is None and name in self._task.frames:
            with store.being_made(name):
                frame = store.get(name) or self._store(kind, pair, name)
        return frame or Frame(*self._decode(kind, pair))

    def _store(self, kind: FrameKind, pair: PlannedPair, name: str) -> Frame:
        frame = self._worker_state.store.put(name, *self._decode(kind, pair))
        self._stored.append(name)
        return frame

    def _decode(self, kind: FrameKind, pair: PlannedPair) -> tuple[U16, dict[str, Any]]:
        file_print = pair.short_print if kind == "short" else pair.long_print
        path = self._worker_state.plan.root / (
            pair.pair.short if kind == "short" else pair.pair.long
        )
        refused = self._worker_state.refused.get(file_print)
        if refused:
            raise RawError(str(path), refused)
        try:
            if file_print in self._task.crashing:
                raise RawError(str(path), WHY)
            source = open_source(path)
            if source.fingerprint() != file_print:
                raise RawError(str(path), "has changed since the plan was made; build a new spool")
            with decoding(self._worker_state.spool, path, file_print):
                if kind == "short":
                    array, facts = _decode_short(
                        source, parse_xtrans_mode(self._worker_state.plan.options.xtrans)
                    )
                else:
                    array, facts = _decode_long(source)
            cell = 1 if kind == "long" else CELL[self._worker_state.plan.options.cfa]
            if array.shape[-2:] != (pair.height // cell, pair.width // cell):
                raise RawError(
                    str(path),
                    f"decodes to {array.shape}, its header promised {pair.height}x{pair.width}",
                )
        except RawError as error:
            # A disk that did not answer may do so the next time.
            if not isinstance(error.__cause__, OSError):
                self._worker_state.refused[file_print] = error.reason
            raise
        self._decoded += 1
        return array, facts

    def _amplification(self, pair: PlannedPair, short: Frame, ratio: float) -> float:
        options = self._worker_state.plan.options
        constant = options.constant_amplification()
        if constant is not None:
            return constant
        if options.amplify == "ratio":
            return ratio
        known = self._worker_state.estimates
        if pair.short_print not in known:
            black = np.asarray(short.facts["black"], np.float64)
            known[pair.short_print] = estimate_amplification(
                short.array, black, short.facts["white"], options.multiplier or 1.0
            )
        return known[pair.short_print]

    def _cut(self, pair: PlannedPair, short: Frame, long: Frame, crop: Crop) -> Sample:
        options = self._worker_state.plan.options
        size, cell = options.stored_size(), CELL[options.cfa]
        y, x = crop.origin
        low = short.array[:, y // cell : (y + size) // cell, x // cell : (x + size) // cell]
        gt = long.array[:, y : y + size, x : x + size]
        black = tuple(float(b) for b in short.facts["black"])
        white = int(short.facts["white"])
        ratio, iso = pair.pair.ratio, float(short.facts["iso"])
        if options.noise is not None:
            dark = self._darkened(low, black, white, crop.slot)
            low, black, white = dark.planes, dark.black, dark.white
            ratio, iso = dark.ratio, dark.iso
        meta = SampleMeta(
            key="",
            pair=pair.pair.id,
            camera=options.camera,
            cfa=options.cfa,
            origin=crop.origin,
            black=black,
            white=white,
            ratio=ratio,
            amplification=self._amplification(pair, short, ratio),
            amplification_source=options.amplify
            if options.constant_amplification() is None
            else "constant",
            iso=iso,
        )
        return Sample(np.ascontiguousarray(low), np.ascontiguousarray(gt), meta)

    def _darkened(self, crop: U16, black: tuple[float, ...], white: int, slot: int) -> Darkened:
        """The crop of a long exposure as a short one would have it, with noise of its own."""
        options = self._worker_state.plan.options
        assert options.noise is not None, "only plans with noise darken"
        return darken(
            crop,
            black=black,
            white=white,
            cfa=options.cfa,
            camera=options.noise,
            shares=options.lmdb is not None,
            rng=noise_rng(options.seed, self._task.shard, slot),
        )


@functools.lru_cache(maxsize=1)
def _worker_state(path: str, digest: str, store: str, owner: ProcessId) -> _WorkerState:
    """What a worker keeps for one producer; a cluster's workers outlive it, and the next may want other places."""
    spool = Spool(path).open()
    if spool.digest != digest:
        raise PlanError(
            f"{path}: its plan was replaced while shards were being made; start the producer again"
        )
    return _WorkerState(spool, Plan.load(spool), FrameStore(Path(store)))


def _decode_short(source: Source, xtrans: XtransMode) -> tuple[U16, dict[str, Any]]:
    frame = source.decode(xtrans=xtrans)
    facts = {
        "kind": "short",
        "black": list(frame.black),
        "white": frame.white,
        "iso": frame.header.iso,
        "raw": source.path.name,
    }
    return frame.planes, facts


def _decode_long(source: Source) -> tuple[U16, dict[str, Any]]:
    return source.develop(), {"kind": "long", "raw": source.path.name}
