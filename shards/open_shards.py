"""The shards that a reader has open: waits for missing ones, quarantines damaged ones, closes those no longer needed.

The trade-off: missing shards are polled 100 times a second because file system notification does not work
on every network file system.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections import Counter
from collections.abc import Callable

from darkprep.shards.batch import ReaderStats
from darkprep.shards.errors import ShardDamaged, SpoolError
from darkprep.shards.forks import close_in_forked_children, forget
from darkprep.shards.producer_watch import ProducerWatch
from darkprep.shards.shard_file import ShardFile
from darkprep.shards.spool import Spool

log = logging.getLogger(__name__)

_POLL_S = 0.01
_STARVING_EVERY_S = 0.5
_RETRY_AFTER_S = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds to wait before each new attempt of a failed read or move; after the last attempt an error is raised."""
_FORGOTTEN_AFTER_S = 60.0
"""Seconds after which a failed read no longer counts."""
_MAX_DAMAGED = 5
"""Number of times that one shard may be found damaged and be rebuilt before the reader raises an error."""
_PASSING = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.ENOMEM, errno.ENFILE, errno.EMFILE,
}  # fmt: skip
"""Errors that the machine, not a file, causes and that may not occur at the next attempt."""


class OpenShards:
    """The shards of `spool` that a reader has open, by their number in the stream.

    With `cycle`, the stream repeats the first `cycle` shards of the spool without end. If `should_stop`
    returns true, a wait ends. `on_starving(shard, seconds)` is called about twice a second while a shard is
    missing; its exceptions are passed on. The default `on_starving` (ProducerWatch) raises an exception when no
    producer makes the missing shard. Without `quarantines`, a damaged shard is an error.
    """

    def __init__(
        self,
        spool: Spool,
        stats: ReaderStats,
        *,
        verify: bool,
        cycle: int | None,
        should_stop: Callable[[], bool],
        on_starving: Callable[[int, float], None] | None,
        quarantines: bool = True,
    ) -> None:
        self._spool, self._stats = spool, stats
        self._quarantines = quarantines
        self._layout, self._digest = spool.stream.layout(), spool.digest
        self._verify, self._cycle = verify, cycle
        self._should_stop = should_stop
        self._on_starving = on_starving or ProducerWatch(spool).on_starving
        self._open: dict[int, ShardFile] = {}
        self._seen: os.stat_result | None = None
        """The status of the file that was opened last, before it was checked."""
        self._failures: dict[int, tuple[int, float]] = {}
        """Number and time of the recent failed reads of each shard, by its number in the spool."""
        self._damaged: Counter[int] = Counter()
        """How often each shard was quarantined, by its number in the spool."""
        close_in_forked_children(self)

    def __contains__(self, shard: int) -> bool:
        return shard in self._open

    def get(self, shard: int, while_waiting: Callable[[], None]) -> ShardFile | None:
        """Return an open shard; wait while it is missing or damaged. Returns None when asked to stop.

        `while_waiting` is called repeatedly during the wait. Raises SpoolError when the machine, not the
        file, is the reason that the shard cannot be opened, and the errors of `handle_damage`.
        """
        while not self._should_stop():
            try:
                if shard in self._open or self._wait_and_open(shard, while_waiting):
                    return self._open[shard]
            except ShardDamaged as error:
                self.handle_damage(shard, error)
        return None

    def handle_damage(self, shard: int, error: ShardDamaged) -> None:
        """Close a shard that cannot be read. Then wait, so that the caller can open it again, or quarantine it.

        This function waits if the operating system failed to read the shard and may succeed later. A
        quarantined shard is rebuilt by a producer. Raises SpoolError
        when the shard cannot be quarantined, or is damaged again after several rebuilds.
        """
        opened = self._open.pop(shard, None)
        seen = opened.seen if opened else self._seen
        if opened:
            opened.close()
        number = self._number(shard)
        if self._pause_after(number, error.__cause__):
            return
        if not self._quarantines:
            raise SpoolError(
                f"{error}; a read-only reader repairs nothing: run `darkprep stream-train --keep-shards` on this spool without --read-only, so that the shard is rebuilt"
            ) from error
        self._failures.pop(number, None)
        self._stats.damaged += 1
        self._damaged[number] += 1
        self._quarantine(number, str(error), seen)

    def repetitions(self, shard: int) -> int:
        """Return how many times the stream had repeated all kept shards before it came to this shard."""
        return shard // self._cycle if self._cycle else 0

    def close_before(self, oldest: int) -> None:
        """Close the shards whose number is below `oldest`."""
        for shard in [shard for shard in self._open if shard < oldest]:
            self._open.pop(shard).close()

    def close(self) -> None:
        """Close all shards."""
        forget(self)
        self.close_copies()

    def close_copies(self) -> None:
        """Close all shards in a forked child, because an open shard keeps its disk space after it is deleted."""
        for shard in self._open.values():
            shard.close()

    def _number(self, shard: int) -> int:
        """Return the spool's number of the shard with this number in the stream."""
        return shard % self._cycle if self._cycle else shard

    def _wait_and_open(self, shard: int, while_waiting: Callable[[], None]) -> bool:
        """Open a shard as soon as it exists; return False when asked to stop. Raises ShardDamaged and SpoolError."""
        number = self._number(shard)
        began, reported = time.monotonic(), 0.0
        while not self._should_stop():
            opened = self._try_to_open(number)
            if opened:
                self._open[shard] = opened
                return True
            waited = time.monotonic() - began
            if waited - reported >= _STARVING_EVERY_S:
                self._on_starving(number, waited)
                reported = waited
            while_waiting()
            time.sleep(_POLL_S)
        return False

    def _try_to_open(self, number: int) -> ShardFile | None:
        """Try to open a shard; return None if it does not exist, and after a pause if it could not be opened."""
        path = self._spool.shard_path(number)
        try:
            self._seen = path.lstat()
            return ShardFile(path, self._layout, number, self._digest, verify=self._verify)
        except FileNotFoundError:
            return None
        except OSError as error:
            if self._pause_after(number, error):
                return None
            raise SpoolError(
                f"{path}: cannot be opened ({error.strerror}); the shard itself is not damaged: correct this error of the machine, and start again"
            ) from error

    def _pause_after(self, number: int, error: BaseException | None) -> bool:
        """Pause and return True if another attempt to read may succeed; return False if the shard is damaged."""
        if not isinstance(error, OSError) or error.errno not in _PASSING:
            return False
        attempts, when = self._failures.get(number, (0, 0.0))
        if time.monotonic() - when > _FORGOTTEN_AFTER_S:
            attempts = 0
        if attempts >= len(_RETRY_AFTER_S):
            return False
        self._pause(_RETRY_AFTER_S[attempts])
        self._failures[number] = attempts + 1, time.monotonic()
        return True

    def _quarantine(self, number: int, reason: str, seen: os.stat_result | None) -> None:
        """Move a damaged shard to quarantine; try again for a few seconds if the move fails."""
        path = self._spool.shard_path(number)
        if self._damaged[number] > _MAX_DAMAGED:
            raise SpoolError(
                f"{reason}; it was rebuilt {_MAX_DAMAGED} times and damaged each time: check the disk and the memory of this machine"
            )
        for seconds in (*_RETRY_AFTER_S, None):
            try:
                self._spool.quarantine.add(path, number, reason, seen=seen)
            except SpoolError:
                if seconds is None:
                    raise
                self._pause(seconds)
                if self._should_stop():
                    return
            else:
                log.warning("%s; it is quarantined and will be rebuilt", reason)
                return

    def _pause(self, seconds: float) -> None:
        """Wait for some seconds, or until asked to stop."""
        deadline = time.monotonic() + seconds
        while not self._should_stop() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
