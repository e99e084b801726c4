"""Producers in the background: starting, watching and ending them.

The trade-off: a background producer is a process of its own session that outlives whoever started it;
only its role on the spool (shards/locks.py) says whether it lives, so any later command can find it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from darkprep.pipeline.produce.executors.backend import LOCAL, Backend
from darkprep.shards import OptionError, Spool, SpoolError, StreamEnded
from darkprep.shards.files import open_regular_file, read_regular_file
from darkprep.shards.heartbeat import Heartbeat

log = logging.getLogger(__name__)

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_LOG_BYTES = 512 << 10
_POLL_S = 0.05
_MOST_STARTS = 10
"""Producers started for one and the same missing shard before a trainer gives up."""
_SECOND_AFTER_S = 5.0
"""How long a rank that does not keep house leaves a missing shard to the one that does."""


def log_path(spool: Spool) -> Path:
    """What background producers say."""
    return spool.producers / "log.txt"


def start_producer(
    spool: Spool,
    *,
    jobs: int,
    budget_bytes: int,
    until: int | None,
    engine: Backend = LOCAL,
    place: Sequence[str] = (),
) -> subprocess.Popen[bytes]:
    """Start a producer in the background and wait until it works.

    `place` are the words that say where it produces, by default `--spool` and the spool's path. Raises
    SpoolError with its last words when it ends at once.
    """
    words = ["produce", *(place or ("--spool", str(spool.path.absolute())))]
    words += ["--jobs", str(jobs), "--disk-budget", str(budget_bytes)]
    words += ["--until", "inf" if until is None else str(until)]
    words += ["--backend", engine.backend]
    words += ["--address", engine.address] if engine.address else []
    return start(spool, words)


def start(spool: Spool, words: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start `darkprep WORDS`, which takes the producer's role on `spool`, and wait until it works.

    Raises SpoolError with its last words when it ends at once.
    """
    path = log_path(spool)
    mode = "ab" if path.exists() and path.stat().st_size < _LOG_BYTES else "wb"
    command = [sys.executable, "-m", "darkprep", *words]
    with open(path, mode, opener=open_regular_file) as file:
        process = subprocess.Popen(  # noqa: S603 # our own command, no shell
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    deadline = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        beats = (beat for beat in spool.heartbeats() if beat.process.pid == process.pid)
        if any(_is_at_work(beat) for beat in beats):
            return process
        time.sleep(_POLL_S)
    if process.poll() == 0:
        return process
    if process.poll() is None:
        holder = spool.producer_process()
        if holder and holder.pid == process.pid:
            return process  # at work, on a disk too full for a heartbeat
        process.kill()
    elif process.returncode < 0:
        raise _Killed(f"the background process was killed at once (signal {-process.returncode})")
    what = "the background producer" if words[0] == "produce" else "fetching shards"
    raise SpoolError(f"{what} ended at once: {last_words(spool)}")


def last_words(spool: Spool) -> str:
    """The last line of the producers' log."""
    with contextlib.suppress(OSError):
        lines = read_regular_file(log_path(spool)).decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        if said:
            return said[-1].removeprefix("darkprep: ")
    return f"see {log_path(spool)}"


def stop_producers(spool: Spool) -> list[int]:
    """End all producers at work on this spool and host; their pids. Raises SpoolError if one stays."""
    pids = [beat.process.pid for beat in spool.heartbeats() if _is_at_work(beat)]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while spool.has_producer():
        if time.monotonic() > deadline:
            raise SpoolError(
                f"{spool.path}: the producer ({', '.join(map(str, pids)) or 'of another host'}) does not end; stop it by hand"
            )
        time.sleep(_POLL_S)
    return pids


def _is_at_work(heartbeat: Heartbeat) -> bool:
    """Whether a producer works on; a process that has produced may live on and do other things."""
    return heartbeat.process.is_alive() and heartbeat.status.is_working


class _Killed(SpoolError):
    """A producer was killed before it worked."""


class Supervisor:
    """Sees to it that somebody makes the shards that a trainer needs.

    With `jobs` 0 it never starts a producer, it only says when nobody is left to wait for. With `fetch`
    the shards are made elsewhere, and it is whoever fetches them that is started. Of several ranks on one spool one keeps house; another steps in only for a shard that is missing for long,
    which the first need not notice, as its own samples may lie in other shards.
    """

    def __init__(
        self,
        spool: Spool,
        *,
        jobs: int,
        budget_bytes: int,
        until: int | None,
        keeps_house: bool = True,
        fetch: Callable[[], subprocess.Popen[bytes]] | None = None,
    ) -> None:
        if jobs < 0:
            raise OptionError(f"producers must be auto or at least 0, not {jobs}")
        self._spool = spool
        self._jobs, self._budget, self._until = jobs, budget_bytes, until
        self._keeps_house = keeps_house
        self._fetch = fetch
        self._started: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._starts: Counter[int] = Counter()
        """Per shard that was missing then, how many producers were started."""

    def ensure(self) -> bool:
        """Start a producer if shards are missing and nobody makes them; whether one was started."""
        with self._lock:
            if not self._is_one_wanted() or self._spool.has_producer():
                return False
            try:
                self._started = self._fetch() if self._fetch else self._start_producer()
            except SpoolError:
                if self._spool.has_producer():  # another rank was faster
                    return False
                raise
            return True

    def starving(self, shard: int, seconds: float) -> None:
        """What a reader calls while `shard` is missing; raises StreamEnded when it will not come."""
        if self._spool.has_producer() or self._spool.shard_path(shard).exists():
            return
        if not self._keeps_house and seconds < _SECOND_AFTER_S:
            return
        if self._jobs == 0 and not self._fetch:
            raise StreamEnded(
                f"{self._spool.path}: shard {shard} is missing and nobody makes it; run `darkprep build` again, or leave out --producers 0"
            )
        ended = self._end_of_started()
        if ended and ended > 0:
            what = "fetching it" if self._fetch else "the producer"
            raise StreamEnded(
                f"{self._spool.path}: shard {shard} is missing and {what} failed: {last_words(self._spool)}"
            )
        self._start_another(shard)

    def _end_of_started(self) -> int | None:
        """How the process that was started here ended; it lives for a moment after giving its role back."""
        if self._started is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._started.wait(_STOP_TIMEOUT_S)
        return self._started.poll()

    def _start_another(self, shard: int) -> None:
        """See to it that somebody makes `shard`; one that was killed is not the end of a training."""
        try:
            started = self.ensure()
        except _Killed:
            started = True
        except SpoolError as error:
            raise StreamEnded(f"{self._spool.path}: shard {shard} is missing: {error}") from error
        self._starts[shard] += started
        if started:
            verb = "fetched it: began again" if self._fetch else "made it: started a producer"
            log.warning("shard %d is missing and nobody %s", shard, verb)
        if self._starts[shard] > _MOST_STARTS:
            raise StreamEnded(
                f"{self._spool.path}: shard {shard} is missing though {_MOST_STARTS} producers were started for it; is memory short? try fewer --producers"
            )

    def close(self) -> None:
        """End the producer that was started here."""
        if self._started and self._started.poll() is None:
            self._started.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._started.wait(_STOP_TIMEOUT_S)

    def _is_one_wanted(self) -> bool:
        """Whether somebody must be at work; one who fetches also deletes what was used, so always."""
        return bool(self._fetch) or (self._jobs > 0 and self._misses_shards())

    def _start_producer(self) -> subprocess.Popen[bytes]:
        return start_producer(
            self._spool,
            jobs=self._jobs,
            budget_bytes=self._budget,
            until=self._until,
            engine=Backend.of_settings(self._spool.settings),
        )

    def _misses_shards(self) -> bool:
        needed = self._spool.oldest_needed()
        if self._until is None:
            return True
        there = sum(needed <= shard < self._until for shard in self._spool.ready_shards())
        return there < len(self._spool.shards_in_part(needed, self._until))


def stop_on_signals(stop: threading.Event | None = None) -> threading.Event:
    """An event that Ctrl-C and SIGTERM set, `stop` if given; a second Ctrl-C interrupts at once."""
    stop = stop or threading.Event()

    def handle(number: int, frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    return stop
