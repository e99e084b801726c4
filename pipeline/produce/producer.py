"""The producer: it keeps the next shards of the plan on disk, never more than the budget.

One loop compares the shards that the trainer needs next with those in `ready/`, and has workers make the
missing ones, earliest first. Start, normal operation, recovery after a crash, damaged shards and a trainer
that resumed from an older checkpoint are all handled by this loop. The trade-off: it lists the directory
twenty times a second instead of waiting for notifications.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from darkprep.pipeline.pairs.table import Skipped
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.budget import (
    SPARE_SHARDS,
    DiskBudget,
    block_size,
    divide_budget,
    frame_names_of,
    windows_are_cheap,
)
from darkprep.pipeline.produce.destination import Destination, SpoolDestination
from darkprep.pipeline.produce.executors.pool import MAX_JOBS, WorkerDied, WorkerPool
from darkprep.pipeline.produce.frame_store import FrameStore
from darkprep.pipeline.produce.frames_directory import FramesDirectory
from darkprep.pipeline.produce.quarantine import FileQuarantine, crashes_decoder
from darkprep.pipeline.produce.recovery import WorkerRecovery
from darkprep.pipeline.produce.shrinking import deleted_shards, refusal
from darkprep.pipeline.produce.worker import ShardTask, TaskResult, make_shard, store_frames
from darkprep.pipeline.raw.guard import DECODE_S
from darkprep.shards import DarkprepError, DiskFull, OptionError, Spool
from darkprep.shards.heartbeat import ProducerStatus
from darkprep.shards.machine import retries_end_with
from darkprep.shards.own_settings import check_own_settings
from darkprep.shards.process import ProcessId
from darkprep.shards.supply import DISK_RETRY_S, REPORT_EVERY_S, ShardSupply

log = logging.getLogger(__name__)

DEFAULT_EPOCHS_AHEAD = 8
"""Number of epochs that `build` makes while no trainer is running: new crops of the same photographs teach less
and less, while the disk fills."""

State = Literal[
    "making", "waiting for the trainer", "waiting for disk space", "done", "stopped", "failed"
]


@dataclass(frozen=True, kw_only=True)
class ProducerConfig:
    """How a producer works; no field changes the bytes of a shard. Raises OptionError, which names the invalid field."""

    budget_bytes: int
    jobs: int
    until: int | None
    """Number of the first shard that is not made; None for no end."""
    disk_full_timeout_s: float = 60.0
    """Seconds to wait for space on a disk that other programs have filled, before an error is raised."""
    decode_timeout_s: float = DECODE_S
    """Seconds after which a running decoder is killed."""
    epochs_ahead: int | None = None
    """Number of epochs to make while no trainer is running; None for as many as the budget holds."""
    shrink: bool = True
    """Whether to delete finished shards for which the budget has no room, instead of raising an error."""

    def __post_init__(self) -> None:
        if not 1 <= self.jobs <= MAX_JOBS:
            raise OptionError(f"jobs must be 1 to {MAX_JOBS}, not {self.jobs}")
        if self.until is not None and self.until < 1:
            raise OptionError(
                f"until, the number of shards to make, must be at least 1, not {self.until}"
            )


@dataclass
class _Counts:
    made: int = 0
    decoded: int = 0
    blocked_s: float = 0.0
    skipped: dict[Skipped, None] = field(default_factory=dict)

    def add(self, result: TaskResult) -> None:
        self.made += result.published
        self.decoded += result.decoded
        self.skipped |= dict.fromkeys(result.skipped)


class Producer(ShardSupply[TaskResult]):
    """The producer of one spool. `run` acquires the producer lock and returns when all shards are made.

    `report` is called with the status about twice a second. `destination` is where finished shards wait, by
    default the spool itself. `crash_test` returns whether decoding a file crashes. Raises PlanError when
    someone else chose the settings of the spool (shards/own_settings.py). `run` raises SpoolBusy
    when another producer is running, BudgetTooSmall, DiskFull when the disk stays full for too long,
    DatasetError when no usable pair is left, and SpoolError when workers die repeatedly.
    """

    def __init__(
        self,
        spool: Spool,
        config: ProducerConfig,
        pool: WorkerPool,
        *,
        report: Callable[[ProducerStatus], None] | None = None,
        stop: threading.Event | None = None,
        crash_test: Callable[[Path], bool] | None = None,
        destination: Destination | None = None,
    ) -> None:
        self._destination = destination or SpoolDestination(spool)
        super().__init__(
            spool,
            self._destination,
            until=config.until,
            stop=stop,
            disk_full_timeout_s=config.disk_full_timeout_s,
        )
        check_own_settings(spool.plan, str(spool.plan_file))
        self._plan = Plan.load(spool)
        self._config = config
        self._pool = pool
        self._report = report
        self._frames_directory = FramesDirectory.from_spool(spool)
        self._store = FrameStore(self._frames_directory.path)
        self._counts = _Counts()
        self._worker_died = False
        self._process = ProcessId.own()
        self._began = time.monotonic()
        self._reported = 0.0
        crash_test = crash_test or functools.partial(
            crashes_decoder, stop=self._stop, timeout_s=config.decode_timeout_s
        )
        self._file_quarantine = FileQuarantine(spool, crash_test, config.decode_timeout_s)
        self._recovery = WorkerRecovery(spool, self._store, self._file_quarantine, self._stop)
        self.budget = self._divide_budget()
        options = self._plan.options
        self._visits_per_shard = options.samples_per_shard // options.crops_per_visit
        self._windows_are_cheap = windows_are_cheap(self._plan)
        """Whether the first shard, for which a trainer waits, is made from crops of its long exposures."""
        self._threaded: tuple[Future[TaskResult] | None, int] = None, 0
        """The task that makes the first shard in threads, and their number."""
        self._decode_ahead_tasks = 0 if self._windows_are_cheap else self._visits_per_shard - 1
        """Number of further tasks that may decode frames for the first shard: one for each visit except the first."""
        self._max_ahead = self._shards_ahead()
        """Number of shards to make while no trainer is running."""
        self.is_ahead = False
        """Whether the producer waits because it is far enough ahead of the trainer, not because the budget is full."""

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Files that turned out to be unusable while shards were made."""
        return tuple(self._counts.skipped)

    def run(self) -> ProducerStatus:
        """Make the shards that are needed until all exist or `stop` is set; return the final status."""
        with (
            retries_end_with(self._stop),
            self._lock,
            self._frames_directory.producer_lock(),
            self._destination.session(),
        ):
            final_state: State = "failed"
            try:
                self._start()
                while not self._stop.is_set() and not self._is_done():
                    self._reconcile()
                final_state = "stopped" if self._stop.is_set() else "done"
            finally:
                self._pool.close()
                if not self._spool.has_writers():
                    self._spool.remove_stale_files()
                    self._store.remove_stale_files()
                    self._file_quarantine.delete_decoding_records()
                # What prevents publishing a failure is often its cause, and the cause must be raised.
                ignored = (DarkprepError, OSError) if final_state == "failed" else ()
                with contextlib.suppress(*ignored):
                    final = self._publish_status(final_state)
            return final

    # -- one turn of the loop ---------------------------------------------------------------------

    def _reconcile(self) -> None:
        began = time.monotonic()
        state = self._submit_tasks()
        self._collect_results()
        if self._worker_died:
            self._replace_workers()
        now = time.monotonic()
        if state != "making":
            idle = (self._config.jobs - len(self._in_flight)) / self._config.jobs
            self._counts.blocked_s += idle * (now - began)
        if now - self._reported >= REPORT_EVERY_S:
            self._reported = now
            self._publish_status(state)
            self._file_quarantine.kill_stuck_workers()

    def _submit_tasks(self) -> State:
        """Give tasks to idle workers as far as the budget allows; return the resulting state."""
        if self._disk_full.is_active:
            return "waiting for disk space"
        while (idle := self._config.jobs - self._occupied()) > 0:
            ready = self._destination.ready_shards()
            if self._should_decode_ahead(ready):
                self._decode_ahead_tasks -= 1
                if not self._submit(store_frames, min(self._in_flight.values())):
                    return "making"
                continue
            shard = next(self._missing(set(ready)), None)
            if shard is None:
                return "making"
            self.is_ahead = self._is_too_far_ahead(shard)
            if self.is_ahead:
                return "waiting for the trainer"
            if not self._make_room(shard, ready, self.budget.max_shards):
                return "waiting for the trainer"
            is_first = self._windows_are_cheap and not ready and not self._in_flight
            threads = min(idle, self._visits_per_shard) if is_first else 0
            if not self._submit(make_shard, shard, threads=threads):
                return "making"
        return "making"

    def _occupied(self) -> int:
        """Return how many workers have a task, or leave their CPU to the threads of the first shard's task."""
        future, threads = self._threaded
        return len(self._in_flight) + (threads - 1 if future in self._in_flight else 0)

    def _is_too_far_ahead(self, shard: int) -> bool:
        """Return whether a shard is so far ahead that it is made only while a trainer is running."""
        if self._max_ahead is None or shard < self._destination.oldest_needed() + self._max_ahead:
            return False
        return not self._destination.has_trainer()

    def _shards_ahead(self) -> int | None:
        """Return `epochs_ahead` as a number of shards, at least enough to keep trainer and workers busy."""
        if self._config.epochs_ahead is None:
            return None
        options, parts = self._plan.options, self._spool.part[1]
        samples = self._config.epochs_ahead * self._plan.visits_per_epoch * options.crops_per_visit
        fewest = options.window + self._config.jobs + SPARE_SHARDS
        return max(-(-samples // options.samples_per_shard), fewest * parts)

    def _should_decode_ahead(self, ready: list[int]) -> bool:
        """Return whether idle workers should first help decode frames for the first shard, which a trainer awaits."""
        only_one = len(set(self._in_flight.values())) == 1
        return only_one and not ready and self._decode_ahead_tasks > 0 and bool(self.budget.frames)

    def _is_done(self) -> bool:
        if self._in_flight or not self._destination.all_delivered():
            return False
        return next(self._missing(set(self._destination.ready_shards())), None) is None

    def _submit(
        self, function: Callable[[ShardTask], TaskResult], shard: int, *, threads: int = 0
    ) -> bool:
        """Submit a task for one shard; return whether a worker could take it.

        With `threads` the shard is made as fast as possible: by so many threads, from crops of its long exposures.
        """
        task = ShardTask(
            spool=str(self._spool.path.absolute()),
            digest=self._spool.digest,
            frame_store=str(self._store.path.absolute()),
            shard=shard,
            storable_frames=frozenset() if threads else self.budget.frames,
            quarantined=self._file_quarantine.fingerprints,
            producer=self._process,
            threads=max(1, threads),
        )
        self._lock.restore()  # a worker makes nothing without it
        try:
            future = self._pool.submit(function, task)
            self._in_flight[future] = shard
            if threads:
                self._threaded = future, threads
        except WorkerDied:
            self._replace_workers()
            return False
        return True

    def _take(self, future: Future[TaskResult], shard: int) -> None:
        try:
            self._counts.add(future.result())
        except WorkerDied:
            self._worker_died = True
        else:
            self._recovery.handle_success()
            self._disk_full.end()

    def _replace_workers(self) -> None:
        """Stop all workers after one of them died; the next task starts new ones."""
        self._worker_died = False
        self._pool.close()
        for future in [
            f for f in self._in_flight if not f.done() or f.cancelled() or f.exception()
        ]:
            del self._in_flight[future]
        skipped = self._recovery.handle_death()
        if skipped:
            self._counts.skipped[skipped] = None

    # -- start and status -------------------------------------------------------------------------

    def _divide_budget(self, *, kept_shards: int = 0) -> DiskBudget:
        return divide_budget(
            self._plan,
            self._config.budget_bytes,
            jobs=self._config.jobs,
            block=block_size(self._spool.path),
            frames_available_bytes=self._frames_directory.available_bytes(
                frame_names_of(self._plan)
            ),
            in_transit=self._destination.in_transit,
            kept_shards=kept_shards,
        )

    def _start(self) -> None:
        """Remove leftovers before the first task; if the disk is full, wait and try again."""
        while not self._stop.is_set():
            try:
                return self._clean_up()
            except DiskFull as error:
                self._disk_full.begin(error)
                self._stop.wait(DISK_RETRY_S)

    def _clean_up(self) -> None:
        """Delete what dead producers left, and shards and frames for which this budget has no room."""
        self._recovery.remove_stale_files()
        self._delete_excess_shards()
        self._file_quarantine.load()
        self._spool.remove_dead_heartbeats()
        if self._frames_directory.is_shared:
            # Again, now that no other producer stores frames there.
            self.budget = self._divide_budget()
            self._delete_frames_in_spool()
        self._delete_excess_frames()
        self._store.create()

    def _delete_excess_shards(self) -> None:
        """Delete the shards that are needed last, if an earlier producer had a larger budget.

        Raises BudgetTooSmall instead if these shards must be kept.
        """
        ready, limit = self._destination.ready_shards(), self.budget.max_shards
        if len(ready) + self._spool.quarantine.count() <= limit:
            return
        ready = self._delete_passed(ready)
        # An earlier producer with more workers reserved more room for shards: store fewer frames then.
        fewer_frames = self._divide_budget(kept_shards=len(ready))
        if limit < len(ready) <= fewer_frames.max_shards:
            self.budget, limit = fewer_frames, fewer_frames.max_shards
        if excess := ready[limit:]:
            deleted = deleted_shards(len(excess), len(ready), self.budget.shard_bytes)
            budget = f"disk-budget {self.budget.budget_bytes / 1e6:,.1f} MB"
            if not self._config.shrink:
                raise refusal(self._spool, [deleted], budget)
            log.warning(
                "%s: %s has no room for %s, which are therefore deleted",
                self._spool.path,
                budget,
                deleted,
            )
        for shard in excess:
            self._destination.delete(shard)
        self._spool.quarantine.trim(max(0, limit - len(ready)))

    def _delete_excess_frames(self) -> None:
        """Delete stored frames that the budget does not include, but not other plans' frames in a shared directory."""
        own = frame_names_of(self._plan)
        for name in self._store.names():
            if name not in self.budget.frames and (
                name in own or not self._frames_directory.is_shared
            ):
                self._store.delete(name)

    def _delete_frames_in_spool(self) -> None:
        """Delete frames stored in the spool before it was built with a frames directory."""
        store = FrameStore(self._spool.frames)
        for name in store.names():
            store.delete(name)

    def _publish_status(self, state: State) -> ProducerStatus:
        running = time.monotonic() - self._began
        counts, budget = self._counts, self.budget
        status = ProducerStatus(
            state=state,
            shards_made=counts.made,
            shards_ready=len(self._destination.ready_shards()),
            next_needed=self._destination.oldest_needed(),
            until=self._config.until,
            shard_bytes=budget.shard_bytes,
            disk_bytes=self._destination.disk_bytes(),
            budget_bytes=budget.budget_bytes,
            frames_decoded=counts.decoded,
            frames_kept=len(budget.frames),
            frames_wanted=budget.frames_in_plan,
            running_s=running,
            blocked_s=counts.blocked_s,
            mb_per_s=counts.made * budget.shard_bytes / 1e6 / running,
            skipped=len(counts.skipped),
            deaths=self._recovery.deaths,
        )
        self._destination.publish_status(status)
        self._write_heartbeat(status)
        if self._report:
            self._report(status)
        return status
