"""Start, watch and stop background producers.

The trade-off: a background producer is a process in a session of its own, which continues after the command
that started it has ended; only a producer that a training run started ends with the run. Its lock on the
spool (shards/locks.py) shows whether it is alive, so any later command can find it.
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
from collections.abc import Sequence
from pathlib import Path

from darkprep.pipeline.produce.executors.config import LOCAL, ExecutorConfig
from darkprep.pipeline.produce.producer import DEFAULT_EPOCHS_AHEAD
from darkprep.shards import OptionError, PlanError, Spool, SpoolError, StreamEnded
from darkprep.shards.files import disk_errors, open_for_writing, read_last_lines
from darkprep.shards.heartbeat import Heartbeat
from darkprep.shards.locks import holds_lock
from darkprep.shards.own_settings import check_own_settings
from darkprep.shards.process import ProcessId, signal_process

log = logging.getLogger(__name__)

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_IDENTIFY_TIMEOUT_S = 0.5
_MOST_LOG_BYTES = 512 << 10
_LOG_LINE_BYTES = 4096
"""Free space below which a line of the log may not fit."""
_POLL_S = 0.05
_PARENT_POLL_S = 0.5
_MOST_STARTS = 10
"""Number of producers started for the same missing shard before an error is raised."""
_OTHER_RANK_DELAY_S = 5.0
"""Seconds for which other ranks wait for the leader to start a producer for a missing shard."""


def log_path(spool: Spool) -> Path:
    """Return the log file of the spool's background producers."""
    return spool.producers / "log.txt"


def start_producer(
    spool: Spool,
    *,
    jobs: int,
    budget_bytes: int,
    until: int | None,
    executor: ExecutorConfig = LOCAL,
    location: Sequence[str] = (),
    ends_with_caller: bool = False,
    epochs_ahead: int | None = DEFAULT_EPOCHS_AHEAD,
    shrink: bool = True,
) -> subprocess.Popen[bytes]:
    """Start a producer in the background and wait until it is working.

    It continues after this process has ended; with `ends_with_caller` it ends together with this process,
    however this process ends. `location` are the options that name its spool, by default `--spool` and the
    spool's path; `epochs_ahead` and `shrink` are those of ProducerConfig. Raises SpoolError, with the last
    line of the log, when the producer ends at once.
    """
    arguments = ["produce", *(location or ("--spool", str(spool.path.absolute())))]
    arguments += ["--jobs", str(jobs), "--disk-budget", str(budget_bytes)]
    arguments += ["--until", "inf" if until is None else str(until)]
    arguments += ["--backend", executor.backend]
    arguments += ["--address", executor.address] if executor.address else []
    arguments += ["--parent", str(os.getpid())] if ends_with_caller else []
    arguments += ["--epochs-ahead", "inf" if epochs_ahead is None else str(epochs_ahead)]
    arguments += ["--shrink"] if shrink else []
    return start(spool, arguments)


def start(spool: Spool, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Run `darkprep ARGUMENTS` in the background, and wait until it holds the producer lock of `spool` and is working.

    Raises SpoolError, with the last line of the log, when it ends at once.
    """
    spool.restore_directories()
    path = log_path(spool)
    mode = "ab" if path.exists() and path.stat().st_size < _MOST_LOG_BYTES else "wb"
    with disk_errors(path), open(path, mode, opener=open_for_writing) as file:
        process = subprocess.Popen(  # noqa: S603 # our own command, no shell
            # -P and PYTHONSAFEPATH: no module is imported from the current directory, by this process and
            # by the worker processes that it starts.
            [sys.executable, "-P", "-m", "darkprep", *arguments],
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        heartbeats = (beat for beat in spool.heartbeats() if beat.process.pid == process.pid)
        if any(_is_at_work(beat) for beat in heartbeats):
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
        raise _ProducerKilled(
            f"the background producer was killed immediately after its start (signal {-process.returncode})"
        )
    raise SpoolError(f"the background producer ended immediately: {last_log_line(spool)}")


def last_log_line(spool: Spool) -> str:
    """Return the last line of the producers' log; if there is none, the path of the log."""
    with contextlib.suppress(OSError):
        lines = read_last_lines(log_path(spool), _MOST_LOG_BYTES)
        written = [line.decode(errors="replace").strip() for line in lines if line.strip()]
        if written:
            return written[-1].removeprefix("darkprep: ")
    with contextlib.suppress(OSError):
        disk = os.statvfs(spool.producers)
        if disk.f_bavail * disk.f_frsize < _LOG_LINE_BYTES:
            return f"{spool.producers}: the disk is full, so that not even the reason could be written; free some space and start again"
    return f"see {log_path(spool)}"


def stop_producers(spool: Spool) -> list[int]:
    """Stop the process that holds the spool's producer lock; return its pid, or an empty list if there is none.

    The process is signalled only if the kernel reports that it holds the lock. Raises SpoolError when it
    runs on another host or in another container, or does not stop.
    """
    holder = _identified_producer(spool)
    if holder is None:
        return []
    if holder == ProcessId.own():
        raise SpoolError(
            f"{spool.path}: the producer is this process, which cannot stop itself; end it with Ctrl-C"
        )
    if not holder.is_alive():
        raise SpoolError(
            f"{spool.path}: its producer ({holder}) runs on another host or in another container; run `darkprep stop` there"
        )
    lock = spool.producers / "lock"
    try:
        signalled = signal_process(
            holder.pid, signal.SIGTERM, is_meant=lambda: holds_lock(holder.pid, lock)
        )
    except PermissionError as error:
        raise SpoolError(
            f"{spool.path}: its producer ({holder}) belongs to another user; ask that user to stop it"
        ) from error
    if not signalled and spool.producer_process() == holder:
        raise SpoolError(
            f"{spool.path}: {lock} names {holder}, but according to the kernel that process does not hold the lock; find the process that holds it with `lslocks`, and stop it with `kill`"
        )
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while spool.producer_process() == holder:
        if time.monotonic() > deadline:
            raise SpoolError(
                f"{spool.path}: its producer ({holder}) does not stop; end it with `kill -9 {holder.pid}` (finished shards are not lost)"
            )
        time.sleep(_POLL_S)
    return [holder.pid]


def _identified_producer(spool: Spool) -> ProcessId | None:
    """Return the process that holds the producer lock; None if the lock is free.

    Waits a moment if a process has acquired the lock but not yet written its record.
    """
    deadline = time.monotonic() + _IDENTIFY_TIMEOUT_S
    while spool.has_producer():
        holder = spool.producer_process()
        if holder and (holder.is_alive() or time.monotonic() > deadline):
            return holder
        if time.monotonic() > deadline:
            raise SpoolError(
                f"{spool.path}: its producer cannot be identified, as {spool.producers / 'lock'} is damaged; find it with `lslocks` and stop it"
            )
        time.sleep(_POLL_S)
    return None


def _is_at_work(heartbeat: Heartbeat) -> bool:
    """Return whether a process is still producing; a living process may have finished and do other work."""
    return heartbeat.process.is_alive() and heartbeat.status.is_working


class _ProducerKilled(SpoolError):
    """A background producer was killed before it started to work."""


class Supervisor:
    """Keeps a producer running while a trainer needs shards.

    With `jobs` 0 it starts no producer, and only raises an error when a missing shard can never come. If
    several ranks use one spool, the leader starts the producer. Another rank starts one only if a shard is
    missing for a long time, because the leader, whose samples may be in other shards, may not notice this.
    """

    def __init__(
        self,
        spool: Spool,
        *,
        jobs: int,
        budget_bytes: int,
        until: int | None,
        is_leader: bool = True,
    ) -> None:
        if jobs < 0:
            raise OptionError(f"producers must be auto or at least 0, not {jobs}")
        self._spool = spool
        self._jobs, self._budget_bytes, self._until = jobs, budget_bytes, until
        self._is_leader = is_leader
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._starts: Counter[int] = Counter()
        """Number of producers started, by the shard that was missing."""

    def ensure_producer(self) -> bool:
        """Start a producer if shards are missing and no producer is running; return whether one was started."""
        with self._lock:
            if self._jobs == 0 or not self._misses_shards() or self._spool.has_producer():
                return False
            try:
                self._process = self._start_producer()
            except SpoolError:
                if self._spool.has_producer():  # another rank was faster
                    return False
                raise
            return True

    def on_missing_shard(self, shard: int, seconds: float) -> None:
        """React to a shard for which a reader has waited `seconds`. Raises StreamEnded when the shard will not come."""
        if self._spool.has_producer() or self._spool.shard_path(shard).exists():
            return
        if not self._is_leader and seconds < _OTHER_RANK_DELAY_S:
            return
        missing = f"{self._spool.path}: shard {shard} is missing"
        if self._jobs == 0:
            raise StreamEnded(
                f"{missing} and no producer is running; run `darkprep build` again, or leave out --producers 0"
            )
        status = self._exit_status()
        if status and status > 0:
            raise StreamEnded(f"{missing} and the producer failed: {last_log_line(self._spool)}")
        try:
            started = self.ensure_producer()
        except _ProducerKilled:
            started = True  # counts as a start; it may have been killed for lack of memory
        except (SpoolError, PlanError) as error:
            raise StreamEnded(f"{missing}: {error}") from error
        if started:
            log.warning(
                "shard %d is missing and no producer is running, so a producer was started", shard
            )
        self._starts[shard] += started
        if self._starts[shard] > _MOST_STARTS:
            raise StreamEnded(
                f"{missing}, although a producer was started {_MOST_STARTS} times; if memory is short, give --producers a smaller number of worker processes"
            )

    def close(self) -> None:
        """Stop the producer that this Supervisor started."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_TIMEOUT_S)

    def _exit_status(self) -> int | None:
        """Return the exit status of the started process, which may run for a moment after it released its lock."""
        if self._process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_TIMEOUT_S)
        return self._process.poll()

    def _start_producer(self) -> subprocess.Popen[bytes]:
        check_own_settings(self._spool.plan, str(self._spool.plan_file))
        return start_producer(
            self._spool,
            jobs=self._jobs,
            budget_bytes=self._budget_bytes,
            until=self._until,
            executor=ExecutorConfig.from_settings(self._spool.settings),
            ends_with_caller=True,
        )

    def _misses_shards(self) -> bool:
        first = self._spool.oldest_needed()
        if self._until is None:
            return True
        ready = sum(first <= shard < self._until for shard in self._spool.ready_shards())
        return ready < len(self._spool.shards_in_part(first, self._until))


def stop_on_signals(stop: threading.Event | None = None) -> threading.Event:
    """Return an event (`stop` if given) that Ctrl-C, SIGTERM and SIGHUP set; a second Ctrl-C interrupts at once.

    If SIGHUP is ignored, as under nohup, it stays ignored.
    """
    stop = stop or threading.Event()

    def handle(number: int, frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGHUP:
            _discard_output_of_closed_terminal()
        stop.set()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, handle)
    return stop


def stop_with_parent(parent: int, stop: threading.Event) -> None:
    """Set `stop` within a second after the process `parent`, which started this process, has ended."""

    def watch() -> None:
        while os.getppid() == parent:
            if stop.wait(_PARENT_POLL_S):
                return
        stop.set()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _discard_output_of_closed_terminal() -> None:
    """Redirect standard streams to /dev/null if their terminal is closed, so that writing raises no error."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            with contextlib.suppress(OSError), Path(os.devnull).open("wb") as null:
                os.dup2(null.fileno(), descriptor)
