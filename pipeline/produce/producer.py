"""The producer: keeps the next shards of the plan on disk, never more than the budget.

It is a reconciler. Wanted are the shards from the trainer's cursor on, there is what `ready/` lists, and
the difference goes to the workers, earliest first. Start, steady state, crash recovery, damage and a
trainer that went back to an older checkpoint all run this one loop. The trade-off: it looks at the
directory twenty times a second instead of being told.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from darkprep.pipeline.pairs.table import Skipped
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.budget import Allotment, allot, block_size, frames_of
from darkprep.pipeline.produce.destination import Destination, SpoolDestination
from darkprep.pipeline.produce.executors.loky import (
    DECODE_TIMEOUT_S,
    MOST_JOBS,
    Pool,
    WorkerDied,
    crashes_decoder,
)
from darkprep.pipeline.produce.frame_store import FrameStore
from darkprep.pipeline.produce.frames_directory import FramesDirectory
from darkprep.pipeline.produce.quarantine import Quarantine
from darkprep.pipeline.produce.worker import ShardMade, ShardTask, make_shard, store_frames
from darkprep.shards import DarkprepError, DiskFull, OptionError, Spool, SpoolError
from darkprep.shards.heartbeat import ProducerStatus
from darkprep.shards.process import ProcessId

log = logging.getLogger(__name__)

_POLL_S = 0.05
_REPORT_EVERY_S = 0.5
_DISK_RETRY_S = 1.0
_MOST_DEATHS = 20
"""Deaths in a row, with no shard made between them, before the producer gives up."""
_TELL_FULL_EVERY_S = 600.0
_TELL_ORPHANS_AFTER_S = 5.0

State = Literal[
    "making", "waiting for the trainer", "waiting for disk space", "done", "stopped", "failed"
]


@dataclass(frozen=True, kw_only=True)
class ProducerConfig:
    """How a producer works; nothing here changes a byte of any shard. Raises OptionError naming the field."""

    budget_bytes: int
    jobs: int
    until: int | None
    """Make shards 0 .. until - 1; None for no end."""
    disk_patience_s: float = 60.0
    """How long to wait for space on a disk that is full from outside before giving up."""
    decode_timeout_s: float = DECODE_TIMEOUT_S
    """After how long a decoder that does not end is killed."""

    def __post_init__(self) -> None:
        if not 1 <= self.jobs <= MOST_JOBS:
            raise OptionError(f"jobs must be 1 to {MOST_JOBS}, not {self.jobs}")
        if self.until is not None and self.until < 1:
            raise OptionError(f"until must be at least 1, not {self.until}")


@dataclass(frozen=True, kw_only=True)
class ProducerReport:
    """What a producer has done and does, for people and for `darkprep status`."""

    state: State
    shards_made: int
    shards_ready: int
    next_needed: int
    """The oldest shard that the trainer still needs."""
    until: int | None
    shard_bytes: int
    disk_bytes: int
    """What the whole spool occupies now."""
    budget_bytes: int
    frames_decoded: int
    frames_kept: int
    """Frames that may be stored under the budget."""
    frames_wanted: int
    running_s: float
    blocked_s: float
    """Worker time lost while the budget was full."""
    mb_per_s: float
    """Shard bytes per second since the start."""
    skipped: int
    deaths: int
    """How often workers died and were replaced."""


@dataclass
class _Counts:
    made: int = 0
    decoded: int = 0
    blocked_s: float = 0.0
    deaths: int = 0
    deaths_in_row: int = 0
    skipped: dict[Skipped, None] = field(default_factory=dict)

    def take(self, made: ShardMade) -> None:
        self.made += made.published
        self.decoded += made.decoded
        self.deaths_in_row = 0
        self.skipped |= dict.fromkeys(made.skipped)


class Producer:
    """One producer set on one spool. `run` takes the producer's role and returns when all is made.

    `shelf` is where finished shards wait, by default the spool itself.
    Raises SpoolBusy when another producer lives, BudgetTooSmall, DiskFull when no space came within the
    patience, DatasetError when no usable pair is left, SpoolError when workers keep dying.
    """

    def __init__(
        self,
        spool: Spool,
        config: ProducerConfig,
        pool: Pool,
        *,
        report: Callable[[ProducerReport], None] | None = None,
        stop: threading.Event | None = None,
        crashes: Callable[[Path], bool] | None = None,
        shelf: Destination | None = None,
    ) -> None:
        self._spool = spool
        self._shelf = shelf or SpoolDestination(spool)
        self._plan = Plan.load(spool)
        self._config = config
        self._pool = pool
        self._report = report
        self._stop = stop or threading.Event()
        self._place = FramesDirectory.of(spool)
        self._store = FrameStore(self._place.path)
        self._tally = _Counts()
        self._flying: dict[Future[ShardMade], int] = {}
        self._owner = ProcessId.own()
        self._began = time.monotonic()
        self._reported = 0.0
        self._full_since: float | None = None
        self._full_told = -_TELL_FULL_EVERY_S
        self._disk_full_until = 0.0
        crashes = crashes or functools.partial(
            crashes_decoder, stop=self._stop, timeout_s=config.decode_timeout_s
        )
        self._suspects = Quarantine(spool, crashes, config.decode_timeout_s)
        self.allotment = self._allot()
        options = self._plan.options
        self._helpers = options.samples_per_shard // options.crops_per_visit - 1
        """Workers that may still be had to decode for the first shard: one for each visit but the first."""

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Files that turned out to be unusable while shards were made."""
        return tuple(self._tally.skipped)

    def run(self) -> ProducerReport:
        """Make what is wanted until everything is there or `stop` is set; the final report."""
        with self._spool.producer_lock(), self._place.producing(), self._shelf.opened():
            ending: State = "failed"
            try:
                self._start()
                while not self._stop.is_set() and not self._is_done():
                    self._step()
                ending = "stopped" if self._stop.is_set() else "done"
            finally:
                self._pool.close()
                if not self._spool.has_writers():
                    self._spool.remove_stale_files()
                    self._store.sweep()
                    self._suspects.forget_crumbs()
                # What hinders telling of a failure is often its cause, and the cause is what to raise.
                hindered = (DarkprepError, OSError) if ending == "failed" else ()
                with contextlib.suppress(*hindered):
                    final = self._tell(ending)
            return final

    # -- one turn of the loop ---------------------------------------------------------------------

    def _step(self) -> None:
        began = time.monotonic()
        state = self._hand_out()
        self._collect()
        now = time.monotonic()
        if state != "making":
            idle = (self._config.jobs - len(self._flying)) / self._config.jobs
            self._tally.blocked_s += idle * (now - began)
        if now - self._reported >= _REPORT_EVERY_S:
            self._reported = now
            self._tell(state)
            self._suspects.end_stuck()

    def _hand_out(self) -> State:
        """Give tasks to idle workers, as far as the budget allows; what holds us up, if anything."""
        if self._disk_full_until > time.monotonic():
            return "waiting for disk space"
        while len(self._flying) < self._config.jobs:
            ready = self._shelf.ready_shards()
            if self._is_help_wanted(ready):
                self._helpers -= 1
                if not self._submit(store_frames, min(self._flying.values())):
                    return "making"
                continue
            shard = self._first_missing({*ready, *self._flying.values()})
            if shard is None:
                return "making"
            if not self._make_room(shard, ready):
                return "waiting for the trainer"
            if not self._submit(make_shard, shard):
                return "making"
        return "making"

    def _is_help_wanted(self, ready: list[int]) -> bool:
        """Whether idle workers should decode for the first shard, which a trainer waits for, not begin the next."""
        alone = len(set(self._flying.values())) == 1
        return alone and not ready and self._helpers > 0 and bool(self.allotment.frames)

    def _is_done(self) -> bool:
        if self._flying or not self._shelf.is_settled():
            return False
        return self._first_missing(set(self._shelf.ready_shards())) is None

    def _first_missing(self, there: set[int]) -> int | None:
        """The earliest shard that the trainer needs and nobody has made or is making."""
        part, parts = self._spool.part
        shard = self._shelf.oldest_needed()
        shard += (part - shard) % parts
        while shard in there:
            shard += parts
        return shard if self._config.until is None or shard < self._config.until else None

    def _make_room(self, shard: int, ready: list[int]) -> bool:
        """Whether one more shard fits, after dropping what is less needed than `shard`.

        Those are: shards that every rank has passed, refused ones kept for inspection, and, after the
        trainer went back to an older checkpoint, the shard that it will need last.
        """
        ready = self._without_passed(ready)
        occupied = len(ready) + len(self._flying)
        if occupied + self._spool.quarantine.count() < self.allotment.shards:
            return True
        self._spool.quarantine.trim(max(0, self.allotment.shards - occupied - 1))
        if occupied < self.allotment.shards:
            return True
        if ready and ready[-1] > shard:
            self._shelf.drop(ready[-1])
            return True
        return False

    def _without_passed(self, ready: list[int]) -> list[int]:
        """Drops what every rank has passed; the others."""
        needed = self._shelf.oldest_needed()
        for shard in ready:
            if shard < needed:
                self._shelf.drop(shard)
        return [shard for shard in ready if shard >= needed]

    def _submit(self, function: Callable[[ShardTask], ShardMade], shard: int) -> bool:
        """Order one shard, or frames of one; whether there was a worker to take the order."""
        task = ShardTask(
            spool=str(self._spool.path.absolute()),
            digest=self._spool.digest,
            store=str(self._store.path.absolute()),
            shard=shard,
            frames=self.allotment.frames,
            crashing=self._suspects.prints,
            owner=self._owner,
        )
        try:
            self._flying[self._pool.submit(function, task)] = shard
        except WorkerDied:
            self._replace_workers()
            return False
        return True

    def _collect(self) -> None:
        """Take in what the workers finished, waiting a moment for it."""
        if not self._flying:
            self._stop.wait(_POLL_S)
            return
        died = False
        for future in wait(self._flying, timeout=_POLL_S, return_when=FIRST_COMPLETED).done:
            self._flying.pop(future)
            try:
                made = future.result()
            except WorkerDied:
                died = True
            except DiskFull as error:
                self._wait_for_space(error)
            else:
                self._tally.take(made)
                self._full_since = None
        if died:
            self._replace_workers()

    # -- when something goes wrong ----------------------------------------------------------------

    def _replace_workers(self) -> None:
        """A worker died, and with it its set: sweep what they left and find out whether a file killed it."""
        self._pool.close()
        for future in [f for f in self._flying if not f.done() or f.cancelled() or f.exception()]:
            del self._flying[future]
        self._sweep_when_alone()
        self._tally.deaths += 1
        self._tally.deaths_in_row += 1
        culprit = self._suspects.after_death()
        if culprit:
            self._tally.skipped[culprit] = None
        if self._tally.deaths_in_row > _MOST_DEATHS:
            last = ", ".join(self._suspects.last) or "none"
            raise SpoolError(
                f"{self._spool.path}: workers died {_MOST_DEATHS} times without finishing a shard (files being decoded at the last: {last}); is memory short? try fewer --jobs"
            )

    def _sweep_when_alone(self) -> None:
        """Remove what dead workers left, once none of them can write any more.

        Until then nothing may be ordered: what the last ones still publish is counted by nobody.
        """
        began, told = time.monotonic(), False
        while self._spool.has_writers():
            if not told and time.monotonic() - began > _TELL_ORPHANS_AFTER_S:
                log.warning("%s: waiting for workers of a producer that died", self._spool.path)
                told = True
            if self._stop.wait(_POLL_S):
                return
        self._spool.remove_stale_files()
        self._store.sweep()

    def _wait_for_space(self, error: DiskFull) -> None:
        """Pause after the file system refused bytes; raise when it has for too long."""
        now = time.monotonic()
        if self._full_since is None:
            self._full_since = now
        if now - self._full_told >= _TELL_FULL_EVERY_S:
            self._full_told = now
            log.warning("%s (waiting up to %.0f s for space)", error, self._config.disk_patience_s)
        if now - self._full_since > self._config.disk_patience_s:
            raise error
        self._disk_full_until = now + _DISK_RETRY_S

    # -- start and reports ------------------------------------------------------------------------

    def _allot(self) -> Allotment:
        own = frames_of(self._plan)
        return allot(
            self._plan,
            self._config.budget_bytes,
            jobs=self._config.jobs,
            block=block_size(self._spool.path),
            frames_room=self._place.room(own),
            in_transit=self._shelf.in_transit,
        )

    def _start(self) -> None:
        """Clean up as soon as the disk lets us."""
        while not self._stop.is_set():
            try:
                return self._clean_up()
            except DiskFull as error:
                self._wait_for_space(error)
                self._stop.wait(_DISK_RETRY_S)

    def _clean_up(self) -> None:
        """Remove what dead producers left, and what of the plan this budget has no room for."""
        self._sweep_when_alone()
        self._shrink()
        self._suspects.load()
        self._spool.remove_dead_heartbeats()
        shared = self._place.budget_bytes is not None
        if shared:
            self.allotment = self._allot()  # now that nobody else stores anything there
            self._drop_frames_in_spool()
        own = frames_of(self._plan)
        for name in self._store.names():
            if name not in self.allotment.frames and (name in own or not shared):
                self._store.drop(name)
        self._store.create()

    def _shrink(self) -> None:
        """Where the producer before had a larger budget: drop what is needed last."""
        ready, room = self._shelf.ready_shards(), self.allotment.shards
        if len(ready) + self._spool.quarantine.count() <= room:
            return
        ready = self._without_passed(ready)
        for shard in ready[room:]:
            self._shelf.drop(shard)
        self._spool.quarantine.trim(max(0, room - len(ready)))

    def _drop_frames_in_spool(self) -> None:
        """Frames that were stored before they got a place of their own: the budget counts on their room."""
        store = FrameStore(self._spool.frames)
        for name in store.names():
            store.drop(name)

    def _tell(self, state: State) -> ProducerReport:
        ready = self._shelf.ready_shards()
        running = time.monotonic() - self._began
        tally, allotment = self._tally, self.allotment
        report = ProducerReport(
            state=state,
            shards_made=tally.made,
            shards_ready=len(ready),
            next_needed=self._shelf.oldest_needed(),
            until=self._config.until,
            shard_bytes=allotment.shard_bytes,
            disk_bytes=self._shelf.disk_bytes(),
            budget_bytes=allotment.budget_bytes,
            frames_decoded=tally.decoded,
            frames_kept=len(allotment.frames),
            frames_wanted=allotment.frames_wanted,
            running_s=running,
            blocked_s=tally.blocked_s,
            mb_per_s=tally.made * allotment.shard_bytes / 1e6 / running,
            skipped=len(tally.skipped),
            deaths=tally.deaths,
        )
        self._shelf.tell(asdict(report))
        try:
            self._spool.write_heartbeat(ProducerStatus(**asdict(report)))
        except DiskFull as error:
            log.debug("no heartbeat: %s", error)
        if self._report:
            self._report(report)
        return report
