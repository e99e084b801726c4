"""The work of a worker process: make one shard, from RAW files or stored frames to a published tar.

The trade-off: a worker keeps the frames of one visit and the crops of the shard in memory (tens of
megabytes), so that each file is decoded only once per visit even if the store has no space for its frame.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import numpy as np

from darkprep.pipeline.noise.darken import Darkened, darken, noise_rng
from darkprep.pipeline.noise.sampled_darks import darken_with_frame
from darkprep.pipeline.noise.shading_correction import ShadingCorrection
from darkprep.pipeline.pairs.sources import is_patch, source_of_fingerprint
from darkprep.pipeline.pairs.table import Skipped, first_skipped
from darkprep.pipeline.plan.plan import Crop, Plan, PlannedPair, Visit
from darkprep.pipeline.produce.exposures import (
    ExposureReader,
    crop_of,
    decode_planes,
    levels_of,
)
from darkprep.pipeline.produce.frame_store import (
    Frame,
    FrameStore,
    SensorLevels,
)
from darkprep.pipeline.produce.kept_memory import keep_freed_memory
from darkprep.pipeline.raw.amplify import estimate_amplification
from darkprep.shards import (
    CELL,
    PERIOD,
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
from darkprep.shards.machine import machine_errors, with_retries
from darkprep.shards.process import ProcessId


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """The task to make one shard, or to store frames of the shard."""

    spool: str
    digest: str
    """Digest of the plan, so that a worker never works on another plan."""
    frame_store: str
    """Directory of the frame store."""
    shard: int
    storable_frames: frozenset[str]
    """Names of the frames that may be stored."""
    quarantined: frozenset[str]
    """Fingerprints of files that crash the decoder."""
    producer: ProcessId
    """The producer that submitted the task; if it has ended, the worker makes nothing."""
    threads: int = 1
    """Maximum number of visits that are made at once; more than 1 only without storable frames."""

    @classmethod
    def of_this_process(
        cls, spool: Spool, shard: int, storable_frames: frozenset[str], *, threads: int = 1
    ) -> ShardTask:
        """Return a task that this process submits without a Producer, with frames stored in the spool: to measure or test."""
        return cls(
            spool=str(spool.path.absolute()),
            digest=spool.digest,
            frame_store=str(spool.frames.absolute()),
            shard=shard,
            storable_frames=storable_frames,
            quarantined=frozenset(),
            producer=ProcessId.own(),
            threads=threads,
        )


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What a task has done."""

    shard: int
    published: bool
    """Whether the shard is now published, rather than only some of its frames stored."""
    seconds: float
    cpu_seconds: float
    decoded: int
    """Number of RAW files that were decoded; other frames came from the store."""
    stored: tuple[str, ...]
    """Names of the frames that were added to the store."""
    skipped: tuple[Skipped, ...]


@dataclass
class _WorkerState:
    """Data that a worker process keeps between tasks of one plan."""

    spool: Spool
    plan: Plan
    store: FrameStore
    unusable: dict[str, str] = field(default_factory=dict)
    """Reasons why files are unusable, by fingerprint (texts, because exceptions would keep stack frames in memory)."""
    amplifications: dict[str, float] = field(default_factory=dict)
    """Estimated amplifications by fingerprint."""


def make_shard(task: ShardTask) -> TaskResult:
    """Make and publish one shard of the spool's plan; the same task gives the same bytes.

    Unusable files are replaced as the plan defines and listed in the result. Raises DatasetError when no
    usable pair is left, PlanError when the spool now holds another plan, DiskFull, and SpoolError, also
    when the producer that submitted the task has ended.
    """
    state = _worker_state(task.spool, task.digest, task.frame_store, task.producer)
    plan, spool = state.plan, state.spool
    with (
        spool.writer_lock(task.producer),
        machine_errors(f"{spool.path}: shard {task.shard}", "written"),
    ):
        builder = _ShardBuilder(task, state)
        slots: list[Sample | None] = [None] * plan.options.samples_per_shard
        for slot, sample in builder.all_samples():
            slots[slot] = sample
        samples = [sample for sample in slots if sample is not None]
        path = str(spool.shard_path(task.shard))
        with_retries(path, lambda: _publish_shard(task, state, samples), "written")
        return builder.result(published=True)


def _publish_shard(task: ShardTask, state: _WorkerState, samples: list[Sample]) -> None:
    spool = state.spool
    # A cluster restarts the task of a dead worker elsewhere without the producer's knowledge.
    spool.delete_partial(task.shard)
    write_shard(
        spool.shard_path(task.shard),
        state.plan.stream.layout(),
        task.shard,
        samples,
        plan=task.digest,
        partial=spool.partial,
    )


def store_frames(task: ShardTask) -> TaskResult:
    """Help another worker to make a shard: decode the shard's frames, last one first, and put them into the frame store.

    The other worker, which starts with the first frame, then finds the last ones decoded. So the first
    shard of a spool, for which a trainer waits, is ready earlier. Frames that are being decoded and unusable
    files are left to the other worker. Raises the errors of `make_shard`.
    """
    state = _worker_state(task.spool, task.digest, task.frame_store, task.producer)
    writing = machine_errors(f"{task.spool}: frames of shard {task.shard}", "written")
    with state.spool.writer_lock(task.producer), writing:
        builder = _ShardBuilder(task, state)
        for visit in reversed(list(state.plan.visits(task.shard))):
            builder.check_producer()
            builder.exposures.store(next(state.plan.candidates(visit.number)))
        return builder.result(published=False)


class _ShardBuilder:
    """Cuts the samples of one shard from the exposures of its visits."""

    def __init__(self, task: ShardTask, state: _WorkerState) -> None:
        self._task = task
        self._state = state
        self._plan = state.plan
        self._began, self._cpu_began = time.monotonic(), time.process_time()
        self.exposures = ExposureReader(
            plan=state.plan,
            spool=state.spool,
            store=state.store,
            storable=task.storable_frames,
            quarantined=task.quarantined,
            unusable=state.unusable,
        )
        self._skipped: list[Skipped] = []

    def result(self, *, published: bool) -> TaskResult:
        """Return what has been done so far."""
        return TaskResult(
            shard=self._task.shard,
            published=published,
            seconds=time.monotonic() - self._began,
            cpu_seconds=time.process_time() - self._cpu_began,
            decoded=self.exposures.decoded,
            stored=tuple(self.exposures.stored),
            skipped=tuple(self._skipped),
        )

    def check_producer(self) -> None:
        """Raise SpoolError when the producer is dead, so that the next producer need not wait for this worker.

        A producer on another host counts as alive, and so does a producer in another container that holds
        its lock.
        """
        producer = self._task.producer
        if not producer.is_local or producer.is_alive():
            return
        if self._state.spool.producer_process() != producer:
            raise SpoolError(
                f"{self._task.spool}: the producer that submitted shard {self._task.shard} has ended, so the shard is not made; run `darkprep build` again to continue"
            )

    def all_samples(self) -> Iterator[tuple[int, Sample]]:
        """Yield all samples of the shard with their slots, made by as many threads as the task and this machine allow."""
        visits = list(self._plan.visits(self._task.shard))
        threads = min(self._task.threads, len(visits), len(os.sched_getaffinity(0)))
        if threads == 1:
            for visit, following in zip_longest(visits, visits[1:]):
                if following is not None:
                    self.exposures.read_ahead(next(self._plan.candidates(following.number)))
                yield from self._checked_visit(visit)
            return
        with ThreadPoolExecutor(threads) as pool:
            for found in pool.map(self._checked_visit, visits):
                yield from found

    def _checked_visit(self, visit: Visit) -> list[tuple[int, Sample]]:
        self.check_producer()
        return self.visit_samples(visit)

    def visit_samples(self, visit: Visit) -> list[tuple[int, Sample]]:
        """Return the samples of one visit with their slots, from its pair or the first usable substitute."""
        for pair in self._plan.candidates(visit.number):
            crops = self._plan.crops(visit, pair)
            try:
                short = self.exposures.load("short", pair)
                truth = self.exposures.load_truth(pair, short, [crop.origin for crop in crops])
            except RawError as error:
                self._skipped.append(Skipped(error.path, error.reason))
                continue
            return [
                (crop.slot, self._cut_sample(pair, short, truth.levels, gt, crop, visit.number))
                for crop, gt in zip(crops, truth.crops, strict=True)
            ]
        raise DatasetError(
            f"{self._plan.root}: none of the plan's {len(self._plan.pairs)} pairs can be used any more: {first_skipped(self._skipped)}"
        )

    def _cut_sample(
        self,
        pair: PlannedPair,
        short: Frame,
        truth: SensorLevels | None,
        gt: U16,
        crop: Crop,
        visit: int,
    ) -> Sample:
        options, cfa = self._plan.options, self._plan.cfa
        low = crop_of(short.array, crop.origin, options.stored_size(cfa), CELL[cfa])
        levels = levels_of(short)
        black, white = levels.black, levels.white
        ratio, iso = pair.pair.ratio, levels.iso
        if options.noise is not None:
            dark = self._darken(pair, low, levels, crop, visit)
            low, black, white = dark.planes, dark.black, dark.white
            ratio, iso = dark.ratio, dark.iso
        meta = SampleMeta(
            key="",
            pair=pair.pair.id,
            camera=pair.pair.camera,
            cfa=cfa,
            origin=crop.origin,
            black=black,
            white=white,
            ratio=ratio,
            amplification=self._amplification(pair, short, ratio),
            amplification_source=options.amplify
            if options.constant_amplification() is None
            else "constant",
            iso=iso,
            target=options.target,
            gt_black=truth.black if truth else (),
            gt_white=truth.white if truth else 0,
        )
        return Sample(np.ascontiguousarray(low), np.ascontiguousarray(gt), meta)

    def _amplification(self, pair: PlannedPair, short: Frame, ratio: float) -> float:
        options = self._plan.options
        constant = options.constant_amplification()
        if constant is not None:
            return constant
        if options.amplify == "ratio":
            return ratio
        known = self._state.amplifications
        if pair.short_fingerprint not in known:
            levels = levels_of(short)
            known[pair.short_fingerprint] = estimate_amplification(
                short.array,
                np.asarray(levels.black, np.float64),
                levels.white,
                options.multiplier or 1.0,
            )
        return known[pair.short_fingerprint]

    def _darken(
        self, pair: PlannedPair, planes: U16, levels: SensorLevels, crop: Crop, visit: int
    ) -> Darkened:
        """Return the crop of a long exposure as a simulated short exposure with its own noise."""
        options = self._plan.options
        rng = noise_rng(options.seed, self._task.shard, crop.slot)
        if options.sampled_darks is not None:
            return self._darken_with_frame(pair, planes, levels, crop, visit, rng)
        return darken(
            planes,
            black=levels.black,
            white=levels.white,
            cfa=self._plan.cfa,
            noise=options.noise_table(),
            convert_levels=options.noise_edition > 1 or is_patch(pair.pair.short),
            rng=rng,
        )

    def _darken_with_frame(
        self,
        pair: PlannedPair,
        planes: U16,
        levels: SensorLevels,
        crop: Crop,
        visit: int,
        rng: np.random.Generator,
    ) -> Darkened:
        """Return the crop with the noise of the visit's dark frame, at the same place if the sensors have one size."""
        options, cell = self._plan.options, CELL[self._plan.cfa]
        darks, directory = options.sampled_darks, self._plan.darks
        assert darks is not None, "checked by the caller"
        if directory is None:
            raise PlanError(
                f"{self._task.spool}: this machine has no record of where its dark frames are; run `darkprep build` again here, with --noise DIR"
            )
        file = darks.of_visit(options.seed, visit)
        dark = _dark_frame(
            directory / file.path, file.fingerprint, self._plan.shading, options.dark_shading
        )
        origin = crop.origin
        if (darks.height, darks.width) != (pair.height, pair.width):
            period, size = PERIOD[self._plan.cfa], options.stored_size(self._plan.cfa)
            sides = ((side - size) // period + 1 for side in (darks.height, darks.width))
            y, x = (period * int(rng.integers(side)) for side in sides)
            origin = (y, x)
        y, x = (start // cell for start in origin)
        _, height, width = planes.shape
        dark_levels = levels_of(dark)
        return darken_with_frame(
            planes,
            dark.array[:, y : y + height, x : x + width],
            file,
            levels=(levels.black, levels.white),
            dark_levels=(dark_levels.black, dark_levels.white),
            rng=rng,
        )


@functools.lru_cache(maxsize=2)
def _dark_frame(path: Path, fingerprint: str, shading: Path | None, digest: str | None) -> Frame:
    """Return a dark frame, without its shading if a calibration file is given. Raises DatasetError.

    The last ones are kept, since all crops of a visit need the same.
    """
    correct = ShadingCorrection.at(shading, digest).corrected if shading and digest else None
    try:
        source = source_of_fingerprint(path, fingerprint)
        if source is None:
            raise RawError(str(path), "has changed since the plan was made; build a new spool")
        return with_retries(str(path), lambda: decode_planes(source, "native", correct))
    except RawError as error:
        # Not a RawError, which would only exchange the photograph: the plan cannot be continued without its noise.
        raise DatasetError(f"{error.path}: {error.reason}") from error


@functools.lru_cache(maxsize=1)
def _worker_state(path: str, digest: str, frame_store: str, producer: ProcessId) -> _WorkerState:
    """Return the state kept for one producer; workers of a cluster may serve several producers in turn."""
    keep_freed_memory()
    spool = Spool(path).open()
    if spool.digest != digest:
        raise PlanError(
            f"{path}: the plan was replaced while shards were being made; start the producer again"
        )
    return _WorkerState(spool, Plan.load(spool), FrameStore(Path(frame_store)))
